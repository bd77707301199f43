"""Update paths with `$`, `$[]` and `$[name]` resolved to the array elements they mean."""

from typing import Any

from selector.localdb.failures import CommandError
from selector.localdb.matching import compile_filter
from selector.localdb.slots import assign, lookup


def concrete_paths(document: dict, field: str, query: dict, array_filters: list[dict]) -> list[tuple]:
    """Every concrete path that `field` stands for in `document`."""
    parts = field.split(".")
    if not all(parts):
        raise CommandError(f"The update path '{field}' contains an empty field name, which is not allowed.", 56)
    if parts[0].startswith("$"):
        raise CommandError(f"The dollar ($) prefixed field '{parts[0]}' is not valid for storage.", 52)
    paths: list[tuple] = [()]
    for part in parts:
        if part == "$":
            paths = [(*path, _matched_element(document, path, query)) for path in paths]
        elif part.startswith("$[") and part.endswith("]"):
            paths = [(*path, i) for path in paths for i in _selected(document, path, part[2:-1], array_filters)]
        else:
            paths = [(*path, part) for path in paths]
    return paths


def _array_at(document: dict, path: tuple) -> list:
    array = lookup(document, path)
    if not isinstance(array, list):
        raise CommandError(
            f"The path '{'.'.join(map(str, path))}' must exist as an array to apply array updates to it.", 2
        )
    return array


def _selected(document: dict, path: tuple, name: str, array_filters: list[dict]) -> list[int]:
    array = _array_at(document, path)
    if not name:
        return list(range(len(array)))
    chosen = [f for f in array_filters if any(_belongs(key, name) for key in _keys(f))]
    if len(chosen) != 1:
        raise CommandError(f"No array filter found for identifier '{name}'" if not chosen else f"Two for '{name}'", 2)
    test = compile_filter(chosen[0])
    return [i for i, element in enumerate(array) if test({name: element})]


def _keys(query: dict) -> list[str]:
    parts = [part for key, listed in query.items() if key in ("$and", "$or", "$nor") for part in listed]
    return [key for key in query if not key.startswith("$")] + [key for part in parts for key in _keys(part)]


def _belongs(key: str, name: str) -> bool:
    return key == name or key.startswith(f"{name}.")


def check_array_filters(update: Any, array_filters: list[dict]) -> None:
    """Refuse array filters that the update does not use: a misspelt name would else change nothing, silently."""
    if not array_filters:
        return
    operators = [fields for fields in update.values() if isinstance(fields, dict)] if isinstance(update, dict) else []
    fields = [field for fields in operators for field in fields]
    for array_filter in array_filters:
        compile_filter(array_filter)
        names = {key.split(".")[0] for key in _keys(array_filter)}
        if len(names) != 1:
            raise CommandError("Each array filter must use exactly one identifier", 9)
        if not any(f"$[{next(iter(names))}]" in field.split(".") for field in fields):
            raise CommandError(f"The array filter for identifier '{names.pop()}' was not used in the update", 9)


def _matched_element(document: dict, path: tuple, query: dict) -> int:
    """The first element of the array at `path` that the query's conditions on that array accept."""
    array = _array_at(document, path)
    prefix = ".".join(map(str, path))
    tests = [compile_filter(condition) for condition in _conditions(query, prefix)]
    for test in tests:
        for index, element in enumerate(array):
            alone: dict = {}
            assign(alone, path, [element])
            if test(alone):
                return index
    raise CommandError("The positional operator did not find the match needed from the query.", 2)


def _conditions(query: dict, prefix: str) -> list[dict]:
    found = []
    for key, condition in query.items():
        if key in ("$and", "$or"):
            found += [c for part in condition for c in _conditions(part, prefix)]
        elif _belongs(key, prefix):
            found.append({key: condition})
    return found
