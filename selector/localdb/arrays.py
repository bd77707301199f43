"""Update operators on arrays: `$push`, `$addToSet`, `$pull`, `$pullAll`, `$pop`. Each maps an old value to a new."""

from typing import Any

from bson import Regex

from selector.localdb.failures import CommandError
from selector.localdb.keys import MISSING, encode
from selector.localdb.matching import compile_filter, is_operators
from selector.localdb.paths import sort_code

_PUSH_MODIFIERS = {"$each", "$slice", "$sort", "$position"}


def _array(old: Any, what: str) -> list:
    if old is MISSING:
        return []
    if not isinstance(old, list):
        raise CommandError(f"The field must be an array for {what} but is of type {type(old).__name__}", 2)
    return list(old)


def _items(argument: Any, allowed: set[str], what: str) -> list:
    if isinstance(argument, dict) and "$each" in argument:
        unknown = set(argument) - allowed
        if unknown:
            raise CommandError(f"Unrecognized clause in {what}: {min(unknown)}", 2)
        if not isinstance(argument["$each"], list):
            raise CommandError(f"The argument to $each in {what} must be an array", 14)
        return argument["$each"]
    return [argument]


def push(old: Any, argument: Any) -> list:
    """`$push` with `$each`, `$position`, `$sort` and `$slice`."""
    array = _array(old, "$push")
    items = _items(argument, _PUSH_MODIFIERS, "$push")
    modifiers = argument if isinstance(argument, dict) and "$each" in argument else {}
    position = modifiers.get("$position", len(array))
    if not isinstance(position, int):
        raise CommandError("The value for $position must be a whole number", 2)
    array[position:position] = items
    if "$sort" in modifiers:
        array = _sorted(array, modifiers["$sort"])
    if "$slice" in modifiers:
        size = modifiers["$slice"]
        if not isinstance(size, int):
            raise CommandError("The value for $slice must be a whole number", 2)
        array = array[:size] if size >= 0 else array[size:]
    return array


def _sorted(array: list, order: Any) -> list:
    if order in (1, -1):
        return sorted(array, key=encode, reverse=order < 0)
    if not isinstance(order, dict) or not order or not set(order.values()) <= {1, -1}:
        raise CommandError("The $sort is invalid: use 1/-1 to sort the whole element, or {field:1/-1}", 2)
    fields = [(tuple(name.split(".")), int(direction)) for name, direction in order.items()]
    return sorted(array, key=lambda element: sort_code(element, fields))


def add_to_set(old: Any, argument: Any) -> list:
    """`$addToSet`: append what is not in the array yet."""
    array = _array(old, "$addToSet")
    present = {encode(element) for element in array}
    for item in _items(argument, {"$each"}, "$addToSet"):
        code = encode(item)
        if code not in present:
            present.add(code)
            array.append(item)
    return array


def pull(old: Any, condition: Any) -> Any:
    """`$pull`: remove the elements equal to a value or matching a condition."""
    if old is MISSING:
        return MISSING
    array = _array(old, "$pull")
    if isinstance(condition, Regex) or is_operators(condition):
        test = compile_filter({"e": condition})
        # An element that is itself an array is compared as a whole.
        return [e for e in array if not (test({"e": e}) if not isinstance(e, list) else test({"e": [e]}))]
    if isinstance(condition, dict):
        test = compile_filter(condition)
        return [e for e in array if not (isinstance(e, dict) and test(e))]
    code = encode(condition)
    return [e for e in array if encode(e) != code]


def pull_all(old: Any, values: Any) -> Any:
    """`$pullAll`: remove every element equal to one of the values."""
    if not isinstance(values, list):
        raise CommandError("$pullAll requires an array argument", 2)
    if old is MISSING:
        return MISSING
    codes = {encode(value) for value in values}
    return [e for e in _array(old, "$pullAll") if encode(e) not in codes]


def pop(old: Any, end: Any) -> Any:
    """`$pop`: remove the last (1) or first (-1) element."""
    if end not in (1, -1):
        raise CommandError(f"$pop expects 1 or -1, found: {end}", 9)
    if old is MISSING:
        return MISSING
    array = _array(old, "$pop")
    return array[:-1] if end == 1 else array[1:]
