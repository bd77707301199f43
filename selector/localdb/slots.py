"""Read, write and remove the value at one concrete path of a document (no wildcards)."""

from typing import Any

from selector.localdb.failures import CommandError
from selector.localdb.keys import MISSING

_MAX_PADDING = 1_500_000


def lookup(document: Any, path: tuple) -> Any:
    """The value at `path`, or MISSING; a number in the path selects an array element."""
    value = document
    for part in path:
        if isinstance(value, dict):
            value = value.get(str(part), MISSING)
        elif isinstance(value, list) and str(part).isdigit() and int(part) < len(value):
            value = value[int(part)]
        else:
            return MISSING
    return value


def assign(document: dict, path: tuple, value: Any) -> None:
    """Set the value at `path`; makes missing objects, pads arrays with nulls."""
    target: Any = document
    for depth, part in enumerate(path):
        last = depth == len(path) - 1
        if isinstance(target, list):
            target = _array_slot(target, part, path, value if last else MISSING)
        elif isinstance(target, dict):
            if last:
                target[str(part)] = value
            else:
                target = target.setdefault(str(part), {})
        else:
            raise CommandError(f"Cannot create field '{part}' in element of type {type(target).__name__}", 28)


def _array_slot(array: list, part: Any, path: tuple, value: Any) -> Any:
    if not str(part).isdigit():
        raise CommandError(f"Cannot create field '{part}' in an array (path '{'.'.join(map(str, path))}')", 28)
    index = int(part)
    if index > len(array) + _MAX_PADDING:
        raise CommandError(f"can't backfill more than {_MAX_PADDING} elements", 2)
    array.extend([None] * (index + 1 - len(array)) if value is not MISSING else [])
    if value is not MISSING:
        array[index] = value
        return value
    if index >= len(array):
        array.extend([None] * (index - len(array)) + [{}])
    return array[index]


def remove(document: dict, path: tuple) -> None:
    """Remove the field at `path`; an array element becomes null, as in MongoDB."""
    parent = lookup(document, path[:-1])
    if isinstance(parent, dict):
        parent.pop(str(path[-1]), None)
    elif isinstance(parent, list) and str(path[-1]).isdigit() and int(path[-1]) < len(parent):
        parent[int(path[-1])] = None
