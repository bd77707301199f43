"""Aggregation expressions, compiled once: field paths, variables, constants, objects, arrays and calls of operators.

The operators are in `operators` (plain functions of their arguments) and `forms`.
"""

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from selector.localdb.failures import CommandError, unsupported
from selector.localdb.forms import FORMS, Code, Names, Scope, or_null, truth
from selector.localdb.keys import MISSING
from selector.localdb.operators import FUNCTIONS

Expression = Callable[[dict], Any]
_VARIABLES: Names = frozenset({"ROOT", "CURRENT", "NOW", "REMOVE"})


def compile_expression(expression: Any) -> Expression:
    """A function from a document to the expression's value; MISSING where a field path leads nowhere.

    Raises
    ------
    CommandError
        An operator is unknown or not supported, has wrong arguments, or a variable is not defined.
    """
    code = _compile(expression, _VARIABLES)
    return lambda document: code({"ROOT": document})


def compile_condition(expression: Any) -> Callable[[Any], bool]:
    """The expression as a truth value."""
    evaluate = compile_expression(expression)
    return lambda document: truth(evaluate(document))


def field_value(value: Any, path: tuple[str, ...]) -> Any:
    """What a field path means in an expression: of an array, the list of its objects' values."""
    for depth, part in enumerate(path):
        if isinstance(value, list):
            inner = [field_value(element, path[depth:]) for element in value]
            return [element for element in inner if element is not MISSING]
        if not isinstance(value, dict) or part not in value:
            return MISSING
        value = value[part]
    return value


def _compile(expression: Any, names: Names) -> Code:
    if isinstance(expression, dict):
        operator = next(iter(expression), "").startswith("$")
        return _operator(expression, names) if operator else _object(expression, names)
    if isinstance(expression, list):
        parts = [_compile(part, names) for part in expression]
        return lambda scope: [or_null(part(scope)) for part in parts]
    if isinstance(expression, str) and expression.startswith("$$"):
        return _variable(expression[2:], names)
    if isinstance(expression, str) and expression.startswith("$"):
        path = _path(expression[1:])
        return lambda scope: field_value(scope["ROOT"], path)
    return lambda scope: expression


def _operator(expression: dict, names: Names) -> Code:
    first = next(iter(expression))
    if len(expression) > 1:
        raise CommandError(
            "an expression specification must contain exactly one field, the name of the expression", 15983
        )
    if first in FORMS:
        return FORMS[first](expression[first], names, _compile)
    if first in FUNCTIONS:
        return _call(first, expression[first], names)
    raise unsupported(f"the expression operator {first}")


def _path(dotted: str) -> tuple[str, ...]:
    path = tuple(dotted.split("."))
    if not all(path):
        raise CommandError("FieldPath must not end with a '.', nor have empty parts", 40353)
    return path


def _variable(dotted: str, names: Names) -> Code:
    name, *rest = _path(dotted)
    if name not in names:
        raise CommandError(f"Use of undefined variable: {name}", 17276)
    path = tuple(rest)
    if name == "NOW":
        return lambda scope: datetime.now(UTC).replace(tzinfo=None)
    if name == "REMOVE":
        return lambda scope: MISSING
    name = "ROOT" if name == "CURRENT" else name
    return lambda scope: field_value(scope[name], path)


def _object(fields: dict, names: Names) -> Code:
    for name in fields:
        if name.startswith("$") or not name:
            raise CommandError(f"FieldPath field names may not start with '$' ({name})", 16410)
    parts = {name: _compile(value, names) for name, value in fields.items()}

    def run(scope: Scope) -> dict:
        values = {name: part(scope) for name, part in parts.items()}
        return {name: value for name, value in values.items() if value is not MISSING}

    return run


def _call(name: str, argument: Any, names: Names) -> Code:
    function, least, most = FUNCTIONS[name]
    arguments = argument if isinstance(argument, list) else [argument]
    if not least <= len(arguments) <= most:
        raise CommandError(
            f"Expression {name} takes {least} to {most} arguments. {len(arguments)} were passed in.", 16020
        )
    parts = [_compile(part, names) for part in arguments]
    return lambda scope: function(*(part(scope) for part in parts))
