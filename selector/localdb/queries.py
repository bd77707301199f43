"""Find documents: plan, test, sort, one document at a time."""

from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any

import bson

from selector.localdb.collection import CODEC, Collection
from selector.localdb.failures import CommandError, unsupported
from selector.localdb.matching import Test, compile_filter
from selector.localdb.paths import SortFields, sort_code
from selector.localdb.planner import Plan, make_plan

Found = tuple[int, bytes]


def sort_fields(sort: Any) -> SortFields:
    """The sort document as paths and directions; `$natural` is the order of insertion."""
    fields: SortFields = []
    for name, direction in (sort or {}).items():
        if isinstance(direction, dict):
            raise unsupported(f"sorting by {direction}")
        if isinstance(direction, bool) or direction not in (1, -1):
            raise CommandError("$sort key ordering must be 1 (for ascending) or -1 (for descending)", 15975)
        if name == "$natural" and len(sort) > 1:
            raise CommandError("$natural sort cannot be set to a value other than -1 or 1 with other fields", 2)
        fields.append((tuple(name.split(".")), int(direction)))
    return fields


def find(collection: Collection | None, query: dict, sort: Any = None) -> Iterator[Found]:
    """(number, BSON) of every matching document, in order.

    Documents are read one by one as the caller asks, so a long cursor takes no memory; one that changed or went
    meanwhile is tested again.
    """
    test = compile_filter(query)
    fields = sort_fields(sort)
    if collection is None:
        return iter(())
    if fields and fields[0][0] == ("$natural",):
        matches = _matching(collection.scan(), test)
        return matches if fields[0][1] > 0 else iter(list(matches)[::-1])
    plan = make_plan(collection, query, fields)
    source = _by_number(collection, plan.numbers(collection)) if plan else collection.scan()
    matches = _matching(source, test, _still_true(collection, plan)) if query else source
    if not fields or (plan and plan.ordered):
        return matches
    return _sorted(collection, matches, fields, test)


def _by_number(collection: Collection, numbers: Iterator[int]) -> Iterator[Found]:
    for number in numbers:
        data = collection.get(number)
        if data is not None:
            yield number, data


def _still_true(collection: Collection, plan: Plan | None) -> Callable[[], bool]:
    """Whether what an index says needs no test: the filter holds for its entries alone, nothing was written since."""
    if plan is None or not plan.exact:
        return lambda: False
    written = collection.sql.total_changes
    return lambda: collection.sql.total_changes == written


def _matching(source: Iterator[Found], test: Test, certain: Callable[[], bool] = lambda: False) -> Iterator[Found]:
    for number, data in source:
        if certain() or test(bson.decode(data, CODEC)):
            yield number, data


def _sorted(collection: Collection, matches: Iterator[Found], fields: SortFields, test: Test) -> Iterator[Found]:
    order = sorted((sort_code(bson.decode(data, CODEC), fields), number) for number, data in matches)
    return _matching(_by_number(collection, (number for _, number in order)), test)


def count(collection: Collection | None, query: dict, skip: int = 0, limit: int = 0) -> int:
    """Number of matching documents; read from an index alone where the filter allows it."""
    test = compile_filter(query)
    if collection is None:
        return 0
    total = _exact_count(collection, query)
    if total is None:
        plan = make_plan(collection, query, [])
        source = _by_number(collection, plan.numbers(collection)) if plan else collection.scan()
        matches = _matching(source, test)
        total = sum(1 for _ in (islice(matches, skip + limit) if limit else matches))
    total = max(0, total - skip)
    return min(total, limit) if limit else total


def _exact_count(collection: Collection, query: dict) -> int | None:
    if not query:
        return collection.count()
    plan = make_plan(collection, query, [])
    return plan.count(collection) if plan and plan.exact else None


def explain(collection: Collection | None, query: dict, sort: Any) -> dict:
    """The plan in the words of MongoDB's `explain`."""
    compile_filter(query)
    plan: Plan | None = make_plan(collection, query, sort_fields(sort)) if collection is not None else None
    stage: dict = {"stage": "EOF" if collection is None else "COLLSCAN"}
    if plan:
        stage = {"stage": "FETCH", "inputStage": {"stage": "IXSCAN", "indexName": plan.index.spec["name"]}}
    if sort and not (plan and plan.ordered):
        stage = {"stage": "SORT", "inputStage": stage}
    return {
        "queryPlanner": {
            "namespace": "" if collection is None else collection.ns,
            "winningPlan": stage,
            "rejectedPlans": [],
        }
    }
