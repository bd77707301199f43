"""Dotted paths into documents, with MongoDB's implicit walk through arrays."""

from collections.abc import Iterator
from typing import Any

from selector.localdb.keys import EMPTY_ARRAY, MISSING, descending, encode

Path = tuple[str, ...]
SortFields = list[tuple[Path, int]]


def leaves(value: Any, path: Path) -> Iterator[Any]:
    """Every value a query on `path` looks at; MISSING where an object lacks the field.

    An array met on the way stands for each of its objects and, if the path says so, for the element of that number.
    """
    if not path:
        yield value
    elif isinstance(value, dict):
        if path[0] in value:
            yield from leaves(value[path[0]], path[1:])
        else:
            yield MISSING
    elif isinstance(value, list):
        if path[0].isdigit() and int(path[0]) < len(value):
            yield from leaves(value[int(path[0])], path[1:])
        for element in value:
            if isinstance(element, dict):
                yield from leaves(element, path)
    else:
        yield MISSING


def elements(document: dict, path: Path) -> Iterator[Any]:
    """The leaves, and after each array leaf its elements: what equality and ranges compare with."""
    for leaf in leaves(document, path):
        yield leaf
        if isinstance(leaf, list):
            yield from leaf


def sort_code(document: dict, fields: SortFields) -> bytes:
    """One byte string that sorts documents by several fields; of an array, its least or greatest element counts."""
    codes = []
    for path, direction in fields:
        found = list(leaves(document, path)) or [MISSING]
        values = [code for leaf in found for code in _sortable(leaf)]
        codes.append(min(values) if direction > 0 else descending(max(values)))
    return b"".join(codes)


def _sortable(leaf: Any) -> list[bytes]:
    if isinstance(leaf, list):
        return [encode(element) for element in leaf] or [EMPTY_ARRAY]
    return [encode(leaf)]
