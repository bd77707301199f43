"""Expression operators on numbers. A missing value arrives as MISSING."""

import math
import operator
from collections.abc import Callable
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

from bson import Decimal128, Int64

from selector.localdb.failures import CommandError
from selector.localdb.keys import MISSING

MANY = 1_000_000
Function = tuple[Callable[..., Any], int, int]


def is_null(value: Any) -> bool:
    """Null or missing."""
    return value is None or value is MISSING


def number(value: Any, name: str) -> Any:
    """A BSON number for Python to calculate with."""
    if isinstance(value, bool) or not isinstance(value, (int, float, Decimal128)):
        raise CommandError(f"{name} only supports numeric types, not {type(value).__name__}", 14)
    return value.to_decimal() if isinstance(value, Decimal128) else value


def to_bson(result: Any, *inputs: Any) -> Any:
    """A calculated number as BSON: 64-bit if an input was, decimal if Python used one."""
    if isinstance(result, Decimal):
        return Decimal128(str(result))
    if isinstance(result, int) and not isinstance(result, bool):
        if not -(2**63) <= result < 2**63:
            return float(result)
        return Int64(result) if any(isinstance(value, Int64) for value in inputs) else result
    return result


def _arithmetic(name: str, combine: Callable[..., Any]) -> Callable[..., Any]:
    def run(*values: Any) -> Any:
        if any(map(is_null, values)):
            return None
        numbers = [number(value, name) for value in values]
        if any(isinstance(x, Decimal) for x in numbers):
            numbers = [
                x if isinstance(x, Decimal) else Decimal(repr(x) if isinstance(x, float) else x) for x in numbers
            ]
        try:
            return to_bson(combine(*numbers), *values)
        except (ArithmeticError, ValueError) as error:
            raise CommandError(f"{name} of {list(values)}: {error}", 2) from error

    return run


def _add(*values: Any) -> Any:
    dates = [value for value in values if isinstance(value, datetime)]
    if not dates:
        return _arithmetic("$add", lambda *x: sum(x[1:], start=x[0]) if x else 0)(*values)
    if len(dates) > 1:
        raise CommandError("only one date allowed in an $add expression", 16612)
    if any(map(is_null, values)):
        return None
    shift = sum(number(value, "$add") for value in values if not isinstance(value, datetime))
    return dates[0] + timedelta(milliseconds=float(shift))


def _subtract(a: Any, b: Any) -> Any:
    if isinstance(a, datetime) and isinstance(b, datetime):
        return Int64((a - b) // timedelta(milliseconds=1))
    if isinstance(a, datetime) and not is_null(b):
        return a - timedelta(milliseconds=float(number(b, "$subtract")))
    return _arithmetic("$subtract", operator.sub)(a, b)


def _divide(a: Any, b: Any) -> Any:
    if b == 0:
        raise ZeroDivisionError("can't divide by zero")
    return a / b


def _mod(a: Any, b: Any) -> Any:
    if b == 0:
        raise ZeroDivisionError("can't divide by zero")
    if isinstance(a, int) and isinstance(b, int):
        return int(math.copysign(abs(a) % abs(b), a))
    return a % b if isinstance(a, Decimal) else math.fmod(a, b)


def _round(value: Any, places: Any = 0) -> Any:
    return value if isinstance(value, int) and places >= 0 else round(value, int(places))


def _whole(function: Callable[[Any], int]) -> Callable[[Any], Any]:
    """Rounding keeps the type: a double stays one."""
    return lambda x: (
        x if isinstance(x, int) or (isinstance(x, float) and not math.isfinite(x)) else type(x)(function(x))
    )


def over(reduce: Callable[[list], Any]) -> Callable[..., Any]:
    """$sum, $avg, $min and $max as expressions: over the arguments, or over one array."""
    return lambda *values: reduce(values[0] if len(values) == 1 and isinstance(values[0], list) else list(values))


def _numbers(values: list) -> list:
    return [number(v, "") for v in values if isinstance(v, (int, float, Decimal128)) and not isinstance(v, bool)]


def _mean(values: list) -> Any:
    numbers = _numbers(values)
    return to_bson(sum(numbers) / len(numbers)) if numbers else None


def _to_whole(name: str, bits: int) -> Callable[[Any], Any]:
    def run(value: Any) -> Any:
        if is_null(value):
            return None
        try:
            result = int(value) if isinstance(value, (str, bool)) else int(number(value, name))
        except (ValueError, OverflowError) as error:
            raise CommandError(f"Failed to parse number '{value}' in $convert", 241) from error
        if not -(1 << bits - 1) <= result < 1 << bits - 1:
            raise CommandError(f"Conversion would overflow target type in {name}", 241)
        return Int64(result) if bits == 64 else result

    return run


def _to_double(value: Any) -> Any:
    if is_null(value):
        return None
    return float(value) if isinstance(value, (str, bool)) else float(number(value, "$toDouble"))


# name: (function, least and most arguments)
NUMBERS: dict[str, Function] = {
    "$abs": (_arithmetic("$abs", abs), 1, 1),
    "$add": (_add, 1, MANY),
    "$ceil": (_arithmetic("$ceil", _whole(math.ceil)), 1, 1),
    "$divide": (_arithmetic("$divide", _divide), 2, 2),
    "$exp": (_arithmetic("$exp", lambda x: x.exp() if isinstance(x, Decimal) else math.exp(x)), 1, 1),
    "$floor": (_arithmetic("$floor", _whole(math.floor)), 1, 1),
    "$ln": (_arithmetic("$ln", lambda x: x.ln() if isinstance(x, Decimal) else math.log(x)), 1, 1),
    "$log": (_arithmetic("$log", math.log), 2, 2),
    "$log10": (_arithmetic("$log10", lambda x: x.log10() if isinstance(x, Decimal) else math.log10(x)), 1, 1),
    "$mod": (_arithmetic("$mod", _mod), 2, 2),
    "$multiply": (_arithmetic("$multiply", lambda *x: math.prod(x)), 1, MANY),
    "$pow": (_arithmetic("$pow", operator.pow), 2, 2),
    "$round": (_arithmetic("$round", _round), 1, 2),
    "$sqrt": (_arithmetic("$sqrt", lambda x: x.sqrt() if isinstance(x, Decimal) else math.sqrt(x)), 1, 1),
    "$subtract": (_subtract, 2, 2),
    "$trunc": (_arithmetic("$trunc", _whole(math.trunc)), 1, 1),
    "$sum": (over(lambda values: to_bson(sum(_numbers(values)), *values)), 1, MANY),
    "$avg": (over(_mean), 1, MANY),
    "$toInt": (_to_whole("$toInt", 32), 1, 1),
    "$toLong": (_to_whole("$toLong", 64), 1, 1),
    "$toDouble": (_to_double, 1, 1),
    "$isNumber": (lambda v: isinstance(v, (int, float, Decimal128)) and not isinstance(v, bool), 1, 1),
}
