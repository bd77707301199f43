"""Query filters, compiled once into a test of a document. What is not known here is an error, never a match."""

import math
from collections.abc import Callable
from typing import Any

from bson import Decimal128, Regex

from selector.localdb.bson_types import type_test
from selector.localdb.failures import CommandError, unsupported
from selector.localdb.keys import MAX_TAG, MIN_TAG, MISSING, NAN_TAG, encode
from selector.localdb.paths import Path, elements, leaves
from selector.localdb.patterns import regex_test

Test = Callable[[Any], bool]
_SPECIAL = {"$where", "$text", "$jsonSchema", "$near", "$nearSphere", "$geoWithin", "$geoIntersects"}
_BITS = {"$bitsAllSet", "$bitsAllClear", "$bitsAnySet", "$bitsAnyClear"}


def compile_filter(query: Any) -> Test:
    """A function that tells whether a document matches `query`.

    Raises
    ------
    CommandError
        The filter is malformed, or uses an operator that the local database lacks.
    """
    if not isinstance(query, dict):
        raise CommandError("the filter must be an object", 14)
    tests = [_clause(key, condition) for key, condition in query.items() if key != "$comment"]
    return _all_of(tests)


def _all_of(tests: list[Test]) -> Test:
    if len(tests) == 1:
        return tests[0]
    return lambda document: all(test(document) for test in tests)


def _clause(key: str, condition: Any) -> Test:
    if key in ("$and", "$or", "$nor"):
        if not isinstance(condition, list) or not condition:
            raise CommandError(f"{key} must be a nonempty array")
        tests = [compile_filter(part) for part in condition]
        if key == "$and":
            return _all_of(tests)
        if key == "$or":
            return lambda document: any(test(document) for test in tests)
        return lambda document: not any(test(document) for test in tests)
    if key == "$expr":
        from selector.localdb.expressions import compile_condition

        return compile_condition(condition)
    if key in _SPECIAL:
        raise unsupported(f"the query operator {key}")
    if key.startswith("$"):
        raise CommandError(f"unknown top level operator: {key}")
    return _field(tuple(key.split(".")), condition)


def is_operators(condition: Any) -> bool:
    """Whether the condition on a field is a document of operators, not a value to be equal to."""
    if not isinstance(condition, dict) or not condition:
        return False
    dollars = [name.startswith("$") and name not in ("$ref", "$id", "$db") for name in condition]
    if dollars[0] and not all(dollars):
        raise CommandError(
            f"unknown operator: {next(name for name, d in zip(condition, dollars, strict=True) if not d)}"
        )
    return dollars[0]


def _field(path: Path, condition: Any) -> Test:
    if not is_operators(condition):
        value_test = _equals(condition) if not isinstance(condition, Regex) else regex_test(condition)
        return _some_element(path, value_test)
    tests = []
    for name, argument in condition.items():
        if name == "$regex":
            tests.append(_some_element(path, regex_test(argument, condition.get("$options"))))
        elif name == "$options":
            if "$regex" not in condition:
                raise CommandError("$options needs a $regex")
        else:
            tests.append(_operator(path, name, argument))
    return _all_of(tests)


def _operator(path: Path, name: str, argument: Any) -> Test:
    if name in ELEMENT_TESTS:
        return _some_element(path, ELEMENT_TESTS[name](argument))
    if name in ("$ne", "$nin"):
        if name == "$ne" and isinstance(argument, Regex):
            raise CommandError("Can't have regex as arg to $ne.")
        test = _some_element(path, _equals(argument) if name == "$ne" else _in(argument))
        return lambda document: not test(document)
    if name == "$not":
        if not isinstance(argument, Regex) and not is_operators(argument):
            raise CommandError("$not needs a regex or a document")
        test = _field(path, argument)
        return lambda document: not test(document)
    if name == "$exists":
        wanted = bool(argument)
        return lambda document: any(leaf is not MISSING for leaf in leaves(document, path)) == wanted
    if name in LEAF_TESTS:
        return _some_leaf(path, LEAF_TESTS[name](argument))
    if name == "$all":
        return _all(path, argument)
    if name in _BITS or name in _SPECIAL:
        raise unsupported(f"the query operator {name}")
    raise CommandError(f"unknown operator: {name}")


def _some_element(path: Path, test: Test) -> Test:
    if len(path) > 1:
        return lambda document: any(map(test, elements(document, path)))
    name = path[0]

    def matches(document: Any) -> bool:
        value = document.get(name, MISSING) if isinstance(document, dict) else MISSING
        return test(value) or (isinstance(value, list) and any(map(test, value)))

    return matches


def _some_leaf(path: Path, test: Test) -> Test:
    return lambda document: any(map(test, leaves(document, path)))


def _equals(wanted: Any) -> Test:
    code = encode(wanted)
    if type(wanted) is str:
        return lambda value: value == wanted if type(value) is str else False
    return lambda value: encode(value) == code


def _in(wanted: Any) -> Test:
    if not isinstance(wanted, list):
        raise CommandError("$in needs an array")
    patterns = [regex_test(item) for item in wanted if isinstance(item, Regex)]
    codes = {encode(item) for item in wanted if not isinstance(item, Regex)}
    return lambda value: encode(value) in codes or any(pattern(value) for pattern in patterns)


def _range(name: str) -> Callable[[Any], Test]:
    def build(bound: Any) -> Test:
        if isinstance(bound, Regex):
            raise CommandError(f"Can't have RegEx as arg to predicate over field with {name}.")
        limit = encode(bound)
        # A comparison stays within the bound's type, except with MinKey and MaxKey; NaN equals only itself.
        any_type = limit[0] in (MIN_TAG, MAX_TAG)
        allows_equal = name in ("$gte", "$lte")
        above = name in ("$gt", "$gte")

        def matches(value: Any) -> bool:
            if value is MISSING and limit[0] in (MIN_TAG, MAX_TAG):
                return False
            code = encode(value)
            if code == limit:
                return allows_equal
            if limit[0] == NAN_TAG or (code[0] != limit[0] and not any_type):
                return False
            return code > limit if above else code < limit

        return matches

    return build


def _size(length: Any) -> Test:
    if isinstance(length, bool) or not isinstance(length, (int, float)) or length != int(length) or length < 0:
        raise CommandError("$size needs a non-negative whole number")
    return lambda value: isinstance(value, list) and len(value) == length


def _elem_match(query: Any) -> Test:
    if not isinstance(query, dict):
        raise CommandError("$elemMatch needs an Object")
    logical = bool(query) and next(iter(query)) in ("$and", "$or", "$nor", "$expr")
    if is_operators(query) and not logical:
        # Operators compare the element itself, which is not opened further even when it is an array.
        test = _field(("e",), query)
        return lambda value: isinstance(value, list) and any(test({"e": element}) for element in value)
    test = compile_filter(query)
    return lambda value: isinstance(value, list) and any(test(e) for e in value if isinstance(e, dict))


def _all(path: Path, wanted: Any) -> Test:
    if not isinstance(wanted, list):
        raise CommandError("$all needs an array")
    if not wanted:
        return lambda document: False
    tests = []
    for item in wanted:
        if isinstance(item, dict) and next(iter(item), "") == "$elemMatch":
            tests.append(_some_leaf(path, _elem_match(item["$elemMatch"])))
        else:
            tests.append(_some_element(path, regex_test(item) if isinstance(item, Regex) else _equals(item)))
    return _all_of(tests)


def _mod(argument: Any) -> Test:
    if not isinstance(argument, list) or len(argument) != 2:
        raise CommandError("malformed mod, needs to be an array of two numbers")
    divisor, remainder = int(argument[0]), int(argument[1])
    if divisor == 0:
        raise CommandError("divisor cannot be 0")

    def matches(value: Any) -> bool:
        if isinstance(value, bool) or not isinstance(value, (int, float, Decimal128)):
            return False
        number = value.to_decimal() if isinstance(value, Decimal128) else value
        if not math.isfinite(number):
            return False
        # As in C, the remainder has the sign of the dividend.
        whole = int(number)
        rest = abs(whole) % abs(divisor)
        return (rest if whole >= 0 else -rest) == remainder

    return matches


ELEMENT_TESTS: dict[str, Callable[[Any], Test]] = {
    "$eq": _equals,
    "$in": _in,
    "$gt": _range("$gt"),
    "$gte": _range("$gte"),
    "$lt": _range("$lt"),
    "$lte": _range("$lte"),
    "$mod": _mod,
    "$type": type_test,
}
LEAF_TESTS: dict[str, Callable[[Any], Test]] = {"$size": _size, "$elemMatch": _elem_match}
