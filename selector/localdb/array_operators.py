"""Expression operators that compare values, and those on arrays and objects. A missing value arrives as MISSING."""

import operator
from collections.abc import Callable
from typing import Any

from selector.localdb.arithmetic import MANY, Function, is_null, number, over
from selector.localdb.failures import CommandError
from selector.localdb.keys import MISSING, encode


def _code(value: Any) -> bytes:
    # In an expression, unlike in a filter, a missing value is not equal to null but below it.
    return b"\x09" if value is MISSING else encode(value)


def _comparison(holds: Callable[[bytes, bytes], bool]) -> Callable[[Any, Any], bool]:
    return lambda a, b: holds(_code(a), _code(b))


def _listed(value: Any, name: str) -> list:
    if not isinstance(value, list):
        raise CommandError(f"{name} requires an array, not {type(value).__name__}", 17124)
    return value


def _element(array: Any, index: Any) -> Any:
    if is_null(array) or is_null(index):
        return None
    elements, place = _listed(array, "$arrayElemAt"), int(number(index, "$arrayElemAt"))
    return elements[place] if -len(elements) <= place < len(elements) else MISSING


def _concat_arrays(*arrays: Any) -> Any:
    if any(map(is_null, arrays)):
        return None
    return [element for array in arrays for element in _listed(array, "$concatArrays")]


def _slice(array: Any, *bounds: Any) -> Any:
    if is_null(array) or any(map(is_null, bounds)):
        return None
    elements = _listed(array, "$slice")
    if len(bounds) == 1:
        return elements[: bounds[0]] if bounds[0] >= 0 else elements[bounds[0] :]
    start = bounds[0] if bounds[0] >= 0 else max(0, len(elements) + bounds[0])
    if bounds[1] <= 0:
        raise CommandError("the third argument of $slice must be positive", 28729)
    return elements[start : start + bounds[1]]


def _range(start: Any, stop: Any, step: Any = 1) -> list:
    if step == 0:
        raise CommandError("$range requires a non-zero step value", 34449)
    return list(range(int(start), int(stop), int(step)))


def _set_union(*arrays: Any) -> Any:
    joined = _concat_arrays(*arrays)
    return None if joined is None else list({encode(element): element for element in reversed(joined)}.values())[::-1]


def _extreme(choose: Callable[..., Any]) -> Callable[[list], Any]:
    return lambda values: choose((v for v in values if not is_null(v)), key=encode, default=None)


def _to_object(pairs: Any) -> Any:
    if is_null(pairs):
        return None
    items = [(p["k"], p["v"]) if isinstance(p, dict) else tuple(p) for p in _listed(pairs, "$arrayToObject")]
    return {_field_name(name): value for name, value in items}


def _merge(*documents: Any) -> dict:
    if any(not is_null(d) and not isinstance(d, dict) for d in documents):
        raise CommandError("$mergeObjects requires object inputs", 40400)
    return {name: value for document in documents if document for name, value in document.items()}


def _field_name(name: Any) -> str:
    if not isinstance(name, str):
        raise CommandError("$arrayToObject requires keys of type string", 40395)
    return name


def _on_array(name: str, function: Callable[[list], Any]) -> Callable[[Any], Any]:
    return lambda array: None if is_null(array) else function(_listed(array, name))


# name: (function, least and most arguments)


# name: (function, least and most arguments)
COLLECTIONS: dict[str, Function] = {
    "$cmp": (lambda a, b: (_code(a) > _code(b)) - (_code(a) < _code(b)), 2, 2),
    "$eq": (_comparison(operator.eq), 2, 2),
    "$ne": (_comparison(operator.ne), 2, 2),
    "$gt": (_comparison(operator.gt), 2, 2),
    "$gte": (_comparison(operator.ge), 2, 2),
    "$lt": (_comparison(operator.lt), 2, 2),
    "$lte": (_comparison(operator.le), 2, 2),
    "$arrayElemAt": (_element, 2, 2),
    "$concatArrays": (_concat_arrays, 1, MANY),
    "$first": (lambda array: _element(array, 0), 1, 1),
    "$last": (lambda array: _element(array, -1), 1, 1),
    "$in": (lambda value, array: encode(value) in {encode(e) for e in _listed(array, "$in")}, 2, 2),
    "$isArray": (lambda value: isinstance(value, list), 1, 1),
    "$range": (_range, 2, 3),
    "$reverseArray": (_on_array("$reverseArray", lambda array: array[::-1]), 1, 1),
    "$setUnion": (_set_union, 1, MANY),
    "$size": (lambda array: len(_listed(array, "$size")), 1, 1),
    "$slice": (_slice, 2, 3),
    "$min": (over(_extreme(min)), 1, MANY),
    "$max": (over(_extreme(max)), 1, MANY),
    "$arrayToObject": (_to_object, 1, 1),
    "$objectToArray": (lambda d: None if is_null(d) else [{"k": k, "v": v} for k, v in d.items()], 1, 1),
    "$mergeObjects": (_merge, 1, MANY),
}
