"""`$group` and the stages made of it: one pass, one accumulator object a group and field."""

import bisect
import math
from collections.abc import Callable, Iterable, Iterator
from decimal import Decimal
from typing import Any

from bson import Decimal128, Int64

from selector.localdb.expressions import Expression, compile_expression
from selector.localdb.failures import CommandError, unsupported
from selector.localdb.keys import MISSING, encode

# An accumulator is a list of values seen so far, reduced at the end; sums and counts fold at once to stay small.
Fold = Callable[[Any, Any], Any]
Finish = Callable[[Any], Any]


def _number(value: Any) -> Any:
    """The value if it is a number that counts, else None: sums and averages skip everything else."""
    if isinstance(value, bool) or not isinstance(value, (int, float, Decimal128)):
        return None
    return value.to_decimal() if isinstance(value, Decimal128) else value


def _add(total: Any, value: Any) -> Any:
    number = _number(value)
    if number is None:
        return total
    if isinstance(number, Decimal) or isinstance(total, Decimal):
        return Decimal(total) + Decimal(number)
    result = total + number
    return (
        Int64(result) if isinstance(result, int) and (isinstance(total, Int64) or isinstance(number, Int64)) else result
    )


def _to_bson(value: Any) -> Any:
    return Decimal128(str(value)) if isinstance(value, Decimal) else value


def _mean(state: tuple[Any, int]) -> Any:
    total, count = state
    if not count:
        return None
    return _to_bson(total / count)


def _deviation(values: list, sample: bool) -> float | None:
    numbers = [float(number) for number in map(_number, values) if number is not None]
    if len(numbers) < 1 + sample:
        return None
    mean = math.fsum(numbers) / len(numbers)
    return math.sqrt(math.fsum((x - mean) ** 2 for x in numbers) / (len(numbers) - sample))


def _extreme(better: Callable[[bytes, bytes], bool]) -> Fold:
    def fold(best: Any, value: Any) -> Any:
        if value is MISSING or value is None:
            return best
        return value if best is None or better(encode(value), encode(best)) else best

    return fold


def _collect(values: list, value: Any) -> list:
    if value is not MISSING:
        values.append(value)
    return values


def _collect_once(seen: dict[bytes, Any], value: Any) -> dict[bytes, Any]:
    if value is not MISSING:
        seen.setdefault(encode(value), value)
    return seen


def _merge(document: dict, value: Any) -> dict:
    if isinstance(value, dict):
        document.update(value)
    elif value is not MISSING and value is not None:
        raise CommandError("$mergeObjects requires object inputs", 40400)
    return document


def _same(value: Any) -> Any:
    return value


# name: (start, fold, finish)
ACCUMULATORS: dict[str, tuple[Callable[[], Any], Fold, Finish]] = {
    "$sum": (lambda: 0, _add, _to_bson),
    "$count": (lambda: 0, lambda total, _: total + 1, _same),
    "$avg": (lambda: (0, 0), lambda s, v: s if _number(v) is None else (_add(s[0], v), s[1] + 1), _mean),
    "$min": (lambda: None, _extreme(lambda new, old: new < old), _same),
    "$max": (lambda: None, _extreme(lambda new, old: new > old), _same),
    "$first": (lambda: MISSING, lambda s, v: (None if v is MISSING else v) if s is MISSING else s, _same),
    "$last": (lambda: None, lambda _, v: None if v is MISSING else v, _same),
    "$push": (list, _collect, _same),
    "$addToSet": (dict, _collect_once, lambda seen: list(seen.values())),
    "$mergeObjects": (dict, _merge, _same),
    "$stdDevPop": (list, _collect, lambda values: _deviation(values, False)),
    "$stdDevSamp": (list, _collect, lambda values: _deviation(values, True)),
}


def compile_group(spec: Any) -> Callable[[Iterable[dict]], Iterator[dict]]:
    """The `$group` stage."""
    if not isinstance(spec, dict) or "_id" not in spec:
        raise CommandError("a group specification must include an _id", 15955)
    identity = compile_expression(spec["_id"])
    return _grouping(identity, {name: value for name, value in spec.items() if name != "_id"})


def _grouping(identity: Expression, outputs: dict) -> Callable[[Iterable[dict]], Iterator[dict]]:
    fields = []
    for name, accumulator in outputs.items():
        if not isinstance(accumulator, dict) or len(accumulator) != 1:
            raise CommandError(f"The field '{name}' must be an accumulator object", 40234)
        [(operator, argument)] = accumulator.items()
        if operator not in ACCUMULATORS:
            raise unsupported(f"the accumulator {operator}")
        fields.append((name, compile_expression(argument), *ACCUMULATORS[operator]))

    def run(documents: Iterable[dict]) -> Iterator[dict]:
        groups: dict[bytes, tuple[Any, list]] = {}
        for document in documents:
            value = identity(document)
            code = encode(value)
            group = groups.get(code)
            if group is None:
                group = groups[code] = (None if value is MISSING else value, [start() for _, _, start, _, _ in fields])
            states = group[1]
            for i, (_, evaluate, _, fold, _) in enumerate(fields):
                states[i] = fold(states[i], evaluate(document))
        for value, states in groups.values():
            results = {name: finish(s) for (name, _, _, _, finish), s in zip(fields, states, strict=True)}
            yield {"_id": value, **results}

    return run


def compile_sort_by_count(expression: Any) -> Callable[[Iterable[dict]], Iterator[dict]]:
    """The `$sortByCount` stage: groups, largest first."""
    group = compile_group({"_id": expression, "count": {"$sum": 1}})
    return lambda documents: iter(sorted(group(documents), key=lambda row: -row["count"]))


def compile_bucket(spec: Any) -> Callable[[Iterable[dict]], Iterator[dict]]:
    """The `$bucket` stage: groups between given boundaries."""
    unknown = set(spec) - {"groupBy", "boundaries", "default", "output"}
    if unknown or "groupBy" not in spec or not isinstance(spec.get("boundaries"), list) or len(spec["boundaries"]) < 2:
        raise CommandError("$bucket requires 'groupBy' and 'boundaries' with at least 2 values", 40198)
    boundaries = spec["boundaries"]
    codes = [encode(value) for value in boundaries]
    if codes != sorted(set(codes)):
        raise CommandError("The 'boundaries' option to $bucket must be sorted in ascending order", 40194)
    evaluate = compile_expression(spec["groupBy"])

    def identity(document: dict) -> Any:
        place = bisect.bisect_right(codes, encode(evaluate(document)))
        if 0 < place < len(codes):
            return boundaries[place - 1]
        if "default" not in spec:
            raise CommandError(
                "$bucket could not find a matching branch for an input, and no default was specified.", 40066
            )
        return spec["default"]

    group = _grouping(identity, spec.get("output") or {"count": {"$sum": 1}})
    return lambda documents: iter(sorted(group(documents), key=lambda row: encode(row["_id"])))
