"""The database without its server answers as the one behind the wire."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import pytest
from pymongo import ReturnDocument, UpdateOne
from pymongo.errors import DuplicateKeyError, OperationFailure

from selector.localdb.direct import Database


@pytest.fixture(params=["direct", "served"])
def db(request: pytest.FixtureRequest) -> Any:
    return Database() if request.param == "direct" else request.getfixturevalue("database")


def test_writes_say_what_they_did(db: Any) -> None:
    c = db["c"]
    c.insert_one({"_id": 1, "n": 1, "data": b"\0\1", "at": datetime(1970, 1, 1)})
    with pytest.raises(DuplicateKeyError):
        c.insert_one({"_id": 1})
    same, new = c.update_one({"_id": 1}, {"$set": {"n": 1}}), c.update_one({"_id": 2}, {"$set": {"n": 5}}, upsert=True)
    assert [(r.matched_count, r.modified_count) for r in (same, new)] == [(1, 0), (0, 0)]
    many = c.update_many({}, {"$inc": {"n": 1}})
    assert (many.matched_count, many.modified_count) == (2, 2)
    c.bulk_write([UpdateOne({"_id": k}, {"$setOnInsert": {"n": 9}}, upsert=True) for k in (2, 3)], ordered=False)
    c.replace_one({"_id": 3}, {"_id": 3, "n": 10}, upsert=True)
    assert list(c.find({}, {"n": 1}).sort("_id", 1)) == [{"_id": 1, "n": 2}, {"_id": 2, "n": 6}, {"_id": 3, "n": 10}]
    assert c.find_one({"_id": 1})["at"] == datetime(1970, 1, 1)
    assert c.find_one({"_id": 1})["data"] == b"\0\1"


def test_reads_are_sorted_cut_and_counted(db: Any) -> None:
    c = db["c"]
    c.create_index([("a", 1), ("b", 1)])
    for k in range(300):
        c.insert_one({"_id": k, "a": k % 2, "b": -k})
    found = c.find({"a": 1}, {"_id": 1}).sort([("a", 1), ("b", 1)])
    assert [d["_id"] for d in found] == list(range(299, 0, -2))
    assert [d["_id"] for d in c.find({}).sort("_id", -1).limit(2)] == [299, 298]
    assert (c.count_documents({"a": 0}), c.find_one({"_id": -1})) == (150, None)


def test_one_is_found_and_changed(db: Any) -> None:
    c = db["c"]
    c.insert_one({"_id": 1, "n": 1, "x": 2})
    after = c.find_one_and_update(
        {"n": 1}, {"$inc": {"n": 1}}, projection={"n": 1}, return_document=ReturnDocument.AFTER
    )
    assert after == {"_id": 1, "n": 2}
    assert c.find_one_and_update({"n": 1}, {"$inc": {"n": 1}}) is None
    with pytest.raises(OperationFailure):
        c.update_one({"_id": 1}, {"$no_such_operator": {"n": 1}})


def test_the_database_tells_the_time(db: Any) -> None:
    clock = db.client.admin.command("hello")["localTime"]
    assert isinstance(clock, datetime)
    assert clock.tzinfo is None
