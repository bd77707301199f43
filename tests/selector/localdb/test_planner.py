"""With or without indexes, a query has the same answer; and indexes are used where they should be."""

from pathlib import Path

import bson
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from selector.localdb.commands import execute
from selector.localdb.context import Context
from selector.localdb.storage import Storage

scalars = st.one_of(st.none(), st.booleans(), st.integers(-2, 3), st.sampled_from([0.5, 2.0, "a", "b"]))
values = st.one_of(scalars, st.lists(scalars, max_size=3), st.fixed_dictionaries({"x": scalars}))
documents = st.lists(
    st.fixed_dictionaries(
        {}, optional={"a": values, "b": scalars, "c": st.lists(st.fixed_dictionaries({"x": scalars}))}
    ),
    max_size=12,
)
conditions = st.one_of(
    scalars,
    st.builds(lambda op, v: {op: v}, st.sampled_from(["$gt", "$gte", "$lt", "$lte", "$eq", "$ne"]), scalars),
    st.builds(lambda v, w: {"$gt": v, "$lte": w}, st.integers(-2, 3), st.integers(-2, 3)),
    st.builds(lambda vs: {"$in": vs}, st.lists(scalars, max_size=3)),
    st.just({"$exists": True}),
)
filters = st.dictionaries(st.sampled_from(["a", "b", "a.x", "c.x"]), conditions, max_size=3)
queries = st.one_of(filters, st.builds(lambda f, g: {"$and": [f, g]}, filters, filters))
sorts = st.one_of(
    st.none(), st.dictionaries(st.sampled_from(["a", "b", "c.x"]), st.sampled_from([1, -1]), min_size=1, max_size=2)
)
INDEXES = [{"a": 1}, {"b": -1}, {"a": -1, "b": 1}, {"b": 1, "a": -1}, {"c.x": 1}, {"a.x": 1, "b": 1}]


def answer(context: Context, query: dict, sort: dict | None) -> tuple[list, int]:
    found = execute(context, {"find": "c", "$db": "t", "filter": query, "sort": {**(sort or {}), "_id": 1}})
    number = execute(context, {"count": "c", "$db": "t", "query": query})
    assert found["ok"] and number["ok"], (found, number)
    return [row["_id"] for row in found["cursor"]["firstBatch"]], number["n"]


@settings(max_examples=60, deadline=None)
@given(documents, st.lists(st.tuples(queries, sorts), min_size=1, max_size=6), st.data())
def test_indexes_never_change_an_answer(tmp_path_factory, rows, searches, data) -> None:  # type: ignore[no-untyped-def]
    storage = Storage(tmp_path_factory.mktemp("planner") / "p.db")
    context = Context(storage)
    numbered = [{"_id": i, **row} for i, row in enumerate(rows)]
    execute(context, {"insert": "c", "$db": "t", "documents": numbered or [{"_id": 0}]})
    plain = [answer(context, query, sort) for query, sort in searches]
    for keys in data.draw(st.lists(st.sampled_from(INDEXES), min_size=1, unique_by=str)):
        made = execute(context, {"createIndexes": "c", "$db": "t", "indexes": [{"key": keys, "name": str(keys)}]})
        # A compound index over two arrays is refused, as by MongoDB; then there is nothing to compare.
        assert made["ok"] or made["code"] == 171
    assert [answer(context, query, sort) for query, sort in searches] == plain
    # An update through the index keeps it in step.
    execute(context, {"update": "c", "$db": "t", "updates": [{"q": {}, "u": {"$set": {"b": 3}}, "multi": True}]})
    assert answer(context, {"b": 3}, None)[1] == max(1, len(rows))
    execute(context, {"delete": "c", "$db": "t", "deletes": [{"q": {"b": 3}, "limit": 0}]})
    assert answer(context, {"b": 3}, None) == ([], 0)
    storage.close()


fields = st.sampled_from(["a", "b", "a.x", "c", "c.0.x", "d"])
changes = st.one_of(
    st.builds(lambda name, value: {"$set": {name: value}}, fields, values),
    st.builds(lambda name, value: {"$push": {name: value}}, fields, scalars),
    st.builds(lambda one, other: {"$unset": {one: ""}, "$inc": {other: 1}}, fields, fields),
    st.builds(lambda one, other: {"$rename": {one: other}}, fields, fields),
    st.builds(lambda name, value: {"$setOnInsert": {name: value}, "$min": {"b": value}}, fields, scalars),
    st.builds(lambda value: {"a": value}, values),
    st.builds(lambda name: [{"$set": {name: "$b"}}], st.sampled_from(["a", "b", "d"])),
)


@settings(max_examples=60, deadline=None)
@example([{"e": 1}], [{"$rename": {"e": "b"}}])
@example([{"a": {"x": 1}}], [{"$rename": {"a.x": "c"}}])
@given(documents, st.lists(changes, max_size=6))
def test_whatever_an_update_changes_indexes_hold_just_the_keys_of_the_documents(
    tmp_path_factory, rows, updates
) -> None:  # type: ignore[no-untyped-def]
    """An update looks only at the indexes that its fields concern."""
    storage = Storage(tmp_path_factory.mktemp("updates") / "p.db")
    context = Context(storage)
    only_b = {"key": {"d": 1}, "name": "partial", "partialFilterExpression": {"b": {"$gt": 0}}}
    indexes = [*({"key": key, "name": str(key)} for key in INDEXES), only_b]
    execute(context, {"createIndexes": "c", "$db": "t", "indexes": indexes})
    execute(
        context, {"insert": "c", "$db": "t", "documents": [{"_id": i, **row} for i, row in enumerate(rows)] or [{}]}
    )
    for k, change in enumerate(updates):
        # One that does not fit the document is refused.
        execute(context, {"update": "c", "$db": "t", "updates": [{"q": {"_id": k % 3}, "u": change, "upsert": True}]})
    collection = storage.collections["t.c"]
    documents = [(number, bson.decode(data)) for number, data in collection.scan()]
    for index in collection.indexes.values():
        held = set(storage.sql.execute(f"SELECT key, number FROM {index.table}"))
        assert held == {(key, number) for number, document in documents for key in index.keys(document)}
    storage.close()


@pytest.fixture
def context(tmp_path: Path):  # type: ignore[no-untyped-def]
    storage = Storage(tmp_path / "p.db")
    made = Context(storage)
    rows = [
        {"_id": i, "fw_id": i, "state": "READY" if i % 50 else "DONE", "spec": {"p": i % 7}, "nodes": [i, -i]}
        for i in range(500)
    ]
    execute(made, {"insert": "c", "$db": "t", "documents": rows})
    keys = [{"fw_id": 1}, {"state": 1}, {"state": -1, "spec.p": -1, "created": -1}, {"nodes": 1}]
    execute(made, {"createIndexes": "c", "$db": "t", "indexes": [{"key": k, "name": "_".join(k)} for k in keys]})
    yield made
    storage.close()


@pytest.mark.parametrize(
    ("query", "sort", "index", "sorted_by_index"),
    [
        ({"fw_id": 7, "state": {"$in": ["READY", "DONE"]}}, {}, "fw_id", True),
        ({"state": "READY"}, {"spec.p": -1}, "state_spec.p_created", True),
        ({"state": "READY"}, {"spec.p": 1}, "state_spec.p_created", True),
        ({"state": {"$in": ["READY", "WAITING"]}}, {"spec.p": -1}, "state_spec.p_created", True),
        ({"nodes": 7, "locked": {"$exists": False}}, {}, "nodes", True),
        ({"fw_id": {"$gte": 490}}, {"fw_id": -1}, "fw_id", True),
        ({}, {"fw_id": 1}, "fw_id", True),
        ({"state": "DONE"}, {"nodes": 1}, "state_spec.p_created", False),
        ({"_id": 7, "state": "READY"}, {"fw_id": 1}, "_id_", False),
        ({"_id": {"$gt": 7}, "fw_id": 9}, {}, "fw_id", True),
        ({"zz": 1}, {}, None, True),
    ],
)
def test_plans(context: Context, query: dict, sort: dict, index: str | None, sorted_by_index: bool) -> None:
    plan = execute(context, {"explain": {"find": "c", "filter": query, "sort": sort}, "$db": "t"})["queryPlanner"][
        "winningPlan"
    ]
    assert (plan["stage"] != "SORT") == sorted_by_index
    inner = plan if plan["stage"] != "SORT" else plan["inputStage"]
    assert inner.get("inputStage", {}).get("indexName") == index
