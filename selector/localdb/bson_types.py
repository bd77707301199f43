"""BSON type names and numbers, for the query operator `$type`."""

from collections.abc import Callable
from typing import Any

from selector.localdb.failures import CommandError

_TYPES = {
    "double": 1, "string": 2, "object": 3, "array": 4, "binData": 5, "objectId": 7, "bool": 8, "date": 9, "null": 10,
    "regex": 11, "javascript": 13, "int": 16, "timestamp": 17, "long": 18, "decimal": 19, "minKey": -1, "maxKey": 127,
}  # fmt: skip
_TYPE_OF_CLASS = {
    "float": 1, "str": 2, "dict": 3, "DBRef": 3, "list": 4, "bytes": 5, "Binary": 5, "ObjectId": 7, "bool": 8,
    "datetime": 9, "DatetimeMS": 9, "NoneType": 10, "Regex": 11, "Code": 13, "Timestamp": 17, "Int64": 18,
    "Decimal128": 19, "MinKey": -1, "MaxKey": 127,
}  # fmt: skip


def bson_type(value: Any) -> int | None:
    """The BSON type number of a decoded value; None for a missing one."""
    if type(value) is int:
        return 16 if -(2**31) <= value < 2**31 else 18
    return _TYPE_OF_CLASS.get(type(value).__name__)


def type_test(argument: Any) -> Callable[[Any], bool]:
    """The test of the query operator `$type`."""
    wanted = set()
    for name in argument if isinstance(argument, list) else [argument]:
        if name == "number":
            wanted |= {1, 16, 18, 19}
        elif name in _TYPES.values() and not isinstance(name, (bool, str)):
            wanted.add(int(name))
        elif isinstance(name, str) and name in _TYPES:
            wanted.add(_TYPES[name])
        else:
            raise CommandError(f"Unknown type name alias: {name}")
    return lambda value: bson_type(value) in wanted
