"""Expression operators that decide which of their arguments are evaluated, how often, or with which variables."""

from collections.abc import Callable
from typing import Any

from selector.localdb.failures import CommandError, unsupported
from selector.localdb.keys import MISSING, encode
from selector.localdb.text_operators import date_from_string, date_to_string, regex_match, trim

Scope = dict[str, Any]
Code = Callable[[Scope], Any]
Names = frozenset[str]
Compiler = Callable[[Any, Names], Code]
Form = Callable[[Any, Names, Compiler], Code]
_FALSE = {encode(None), encode(False), encode(0)}


def truth(value: Any) -> bool:
    """False, null, zero and a missing value are false, everything else is true."""
    return encode(value) not in _FALSE


def or_null(value: Any) -> Any:
    """Null for a missing value: arrays have no gaps."""
    return None if value is MISSING else value


def _fields(
    name: str, argument: Any, required: str, optional: str, names: Names, compile_code: Compiler
) -> dict[str, Code]:
    """The named arguments of an operator, compiled."""
    if not isinstance(argument, dict):
        raise CommandError(f"{name} only supports an object as its argument", 28646)
    missing = set(required.split()) - set(argument)
    if missing:
        raise CommandError(f"Missing '{min(missing)}' parameter to {name}", 28648)
    unknown = set(argument) - set(required.split()) - set(optional.split())
    if unknown:
        raise unsupported(f"the argument '{min(unknown)}' of {name}")
    return {key: compile_code(value, names) for key, value in argument.items()}


def _cond(argument: Any, names: Names, compile_code: Compiler) -> Code:
    if isinstance(argument, list):
        if len(argument) != 3:
            raise CommandError("Expression $cond takes exactly 3 arguments", 16020)
        argument = dict(zip(("if", "then", "else"), argument, strict=True))
    part = _fields("$cond", argument, "if then else", "", names, compile_code)
    return lambda scope: part["then"](scope) if truth(part["if"](scope)) else part["else"](scope)


def _switch(argument: Any, names: Names, compile_code: Compiler) -> Code:
    branches = argument.get("branches") if isinstance(argument, dict) else None
    if not branches or set(argument) - {"branches", "default"}:
        raise CommandError("$switch requires at least one branch", 40068)
    parts = [_fields("$switch", branch, "case then", "", names, compile_code) for branch in branches]
    default = compile_code(argument["default"], names) if "default" in argument else None

    def run(scope: Scope) -> Any:
        for part in parts:
            if truth(part["case"](scope)):
                return part["then"](scope)
        if default is None:
            raise CommandError(
                "$switch could not find a matching branch for an input, and no default was specified", 40066
            )
        return default(scope)

    return run


def _if_null(argument: Any, names: Names, compile_code: Compiler) -> Code:
    if not isinstance(argument, list) or len(argument) < 2:
        raise CommandError("$ifNull needs at least two arguments", 1257300)
    *first, last = [compile_code(part, names) for part in argument]

    def run(scope: Scope) -> Any:
        for part in first:
            value = part(scope)
            if value is not MISSING and value is not None:
                return value
        return last(scope)

    return run


def _logical(argument: Any, names: Names, compile_code: Compiler, every: bool) -> Code:
    parts = [compile_code(part, names) for part in (argument if isinstance(argument, list) else [argument])]
    if every:
        return lambda scope: all(truth(part(scope)) for part in parts)
    return lambda scope: any(truth(part(scope)) for part in parts)


def _not(argument: Any, names: Names, compile_code: Compiler) -> Code:
    if isinstance(argument, list) and len(argument) != 1:
        raise CommandError("Expression $not takes exactly 1 arguments", 16020)
    part = compile_code(argument[0] if isinstance(argument, list) else argument, names)
    return lambda scope: not truth(part(scope))


def _let(argument: Any, names: Names, compile_code: Compiler) -> Code:
    if not isinstance(argument, dict) or set(argument) != {"vars", "in"}:
        raise CommandError("$let needs vars and in", 16874)
    variables = {name: compile_code(value, names) for name, value in argument["vars"].items()}
    body = compile_code(argument["in"], names | set(variables))
    return lambda scope: body({**scope, **{name: part(scope) for name, part in variables.items()}})


def _array_input(value: Any, name: str) -> list | None:
    if value is None or value is MISSING:
        return None
    if not isinstance(value, list):
        raise CommandError(f"input to {name} must be an array", 28651)
    return value


def _each(name: str, body: str) -> Form:
    """$map and $filter: the body is evaluated with each element in a variable."""

    def form(argument: Any, names: Names, compile_code: Compiler) -> Code:
        variable = argument.get("as", "this") if isinstance(argument, dict) else "this"
        fields = {key: value for key, value in argument.items() if key not in ("as", body)} if variable else {}
        source = _fields(name, fields, "input", "", names, compile_code)["input"]
        if body not in argument:
            raise CommandError(f"Missing '{body}' parameter to {name}", 28648)
        act = compile_code(argument[body], names | {variable})

        def run(scope: Scope) -> Any:
            array = _array_input(source(scope), name)
            if array is None:
                return None
            results = [(element, act({**scope, variable: element})) for element in array]
            if name == "$map":
                return [or_null(result) for _, result in results]
            return [element for element, result in results if truth(result)]

        return run

    return form


def _reduce(argument: Any, names: Names, compile_code: Compiler) -> Code:
    fields = {key: value for key, value in argument.items() if key != "in"} if isinstance(argument, dict) else argument
    part = _fields("$reduce", fields, "input initialValue", "", names, compile_code)
    if "in" not in argument:
        raise CommandError("Missing 'in' parameter to $reduce", 28648)
    body = compile_code(argument["in"], names | {"value", "this"})

    def run(scope: Scope) -> Any:
        array = _array_input(part["input"](scope), "$reduce")
        if array is None:
            return None
        value = part["initialValue"](scope)
        for element in array:
            value = body({**scope, "value": value, "this": element})
        return value

    return run


def _named(name: str, function: Callable[..., Any], required: str, optional: str = "") -> Form:
    """An operator that is a plain function of named arguments."""

    def form(argument: Any, names: Names, compile_code: Compiler) -> Code:
        parts = _fields(name, argument, required, optional, names, compile_code)
        return lambda scope: function(**{key: part(scope) for key, part in parts.items()})

    return form


FORMS: dict[str, Form] = {
    "$literal": lambda argument, names, compile_code: lambda scope: argument,
    "$and": lambda argument, names, compile_code: _logical(argument, names, compile_code, True),
    "$or": lambda argument, names, compile_code: _logical(argument, names, compile_code, False),
    "$not": _not,
    "$cond": _cond,
    "$ifNull": _if_null,
    "$switch": _switch,
    "$let": _let,
    "$map": _each("$map", "in"),
    "$filter": _each("$filter", "cond"),
    "$reduce": _reduce,
    "$trim": _named("$trim", trim, "input", "chars"),
    "$regexMatch": _named("$regexMatch", regex_match, "input regex", "options"),
    "$dateToString": _named("$dateToString", date_to_string, "date", "format onNull"),
    "$dateFromString": _named("$dateFromString", date_from_string, "dateString", "onError onNull"),
}
