"""Writes, indexes, cursors and GridFS through pymongo."""

import os

import gridfs
import pymongo
import pytest
from pymongo import DeleteOne, InsertOne, ReplaceOne, UpdateMany, UpdateOne
from pymongo.database import Database
from pymongo.errors import BulkWriteError, CollectionInvalid, DocumentTooLarge, DuplicateKeyError, OperationFailure


def test_bulk_upserts(database: Database) -> None:
    first = database.c.bulk_write([UpdateOne({"k": i}, {"$inc": {"c": 1}}, upsert=True) for i in range(50)])
    more = [UpdateOne({"k": i}, {"$inc": {"c": 1}}, upsert=True) for i in range(25, 75)]
    second = database.c.bulk_write(more, ordered=False)
    assert (first.upserted_count, second.upserted_count, second.matched_count) == (50, 25, 25)
    assert database.c.count_documents({"c": 2}) == 25


def test_mixed_bulk(database: Database) -> None:
    database.c.insert_many([{"_id": i, "v": i} for i in range(4)])
    result = database.c.bulk_write(
        [
            InsertOne({"_id": 9}),
            DeleteOne({"_id": 0}),
            UpdateMany({"v": {"$gt": 0}}, {"$inc": {"v": 10}}),
            ReplaceOne({"_id": 1}, {"x": 1}),
        ]
    )
    assert (result.inserted_count, result.deleted_count, result.modified_count) == (1, 1, 4)
    assert list(database.c.find().sort("_id", 1)) == [
        {"_id": 1, "x": 1},
        {"_id": 2, "v": 12},
        {"_id": 3, "v": 13},
        {"_id": 9},
    ]


@pytest.mark.parametrize(("ordered", "inserted"), [(True, 1), (False, 2)])
def test_duplicates_in_a_bulk(database: Database, ordered: bool, inserted: int) -> None:
    database.c.create_index("k", unique=True)
    with pytest.raises(BulkWriteError) as failure:
        database.c.insert_many([{"k": 1}, {"k": 1}, {"k": 2}], ordered=ordered)
    [error] = failure.value.details["writeErrors"]
    assert (error["code"], error["index"], error["keyValue"]) == (11000, 1, {"k": 1})
    assert failure.value.details["nInserted"] == inserted == database.c.count_documents({})


def test_unique_indexes_hold_in_every_kind_of_write(database: Database) -> None:
    database.c.create_index([("a", 1), ("b", -1)], unique=True)
    database.c.insert_many([{"_id": 1, "a": 1, "b": 1}, {"_id": 2, "a": 1, "b": 2}, {"_id": 3, "a": 1}])
    with pytest.raises(DuplicateKeyError):
        database.c.insert_one({"a": 1.0, "b": 1})
    with pytest.raises(DuplicateKeyError):
        database.c.insert_one({"a": 1, "b": None})
    with pytest.raises(DuplicateKeyError):
        database.c.update_one({"_id": 2}, {"$set": {"b": 1}})
    with pytest.raises(DuplicateKeyError):
        database.c.replace_one({"_id": 2}, {"a": 1, "b": 1})
    with pytest.raises(DuplicateKeyError):
        database.c.find_one_and_update({"_id": 2}, {"$set": {"b": 1}})
    with pytest.raises(DuplicateKeyError):
        database.c.update_one({"a": 1, "b": 1, "x": 1}, {"$set": {"y": 1}}, upsert=True)
    with pytest.raises(DuplicateKeyError):
        database.c.insert_one({"_id": 1, "a": 5})
    assert sorted((d["_id"], d.get("b")) for d in database.c.find()) == [(1, 1), (2, 2), (3, None)]
    database.c.update_one({"_id": 2}, {"$set": {"b": 3}})
    database.c.insert_one({"a": 1, "b": 2})


def test_a_unique_index_over_arrays_and_duplicates_already_there(database: Database) -> None:
    database.c.insert_many([{"t": [1, 2]}, {"t": [3]}])
    database.c.create_index("t", unique=True)
    with pytest.raises(DuplicateKeyError):
        database.c.insert_one({"t": [2, 9]})
    database.d.insert_many([{"k": 1}, {"k": 1}])
    with pytest.raises(DuplicateKeyError):
        database.d.create_index("k", unique=True)
    assert list(database.d.index_information()) == ["_id_"]


def test_sparse_and_partial_unique_indexes(database: Database) -> None:
    database.s.create_index("k", unique=True, sparse=True)
    database.s.insert_many([{"a": 1}, {"a": 2}, {"k": 1}])
    assert database.s.count_documents({"k": None}) == 2
    assert [d.get("k") for d in database.s.find().sort("k", 1)] == [None, None, 1]
    database.p.create_index("k", unique=True, partialFilterExpression={"live": True})
    database.p.insert_many([{"k": 1, "live": True}, {"k": 1, "live": False}, {"k": 1}])
    with pytest.raises(DuplicateKeyError):
        database.p.insert_one({"k": 1, "live": True})
    with pytest.raises(DuplicateKeyError):
        database.p.update_one({"live": False}, {"$set": {"live": True}})
    assert database.p.count_documents({"k": 1}) == 3


def test_index_catalogue(database: Database) -> None:
    assert database.c.create_index([("a", 1), ("b", -1)], name="mine") == "mine"
    assert database.c.create_index([("a", 1), ("b", -1)], name="mine") == "mine"
    assert database.c.index_information()["mine"]["key"] == [("a", 1), ("b", -1)]
    with pytest.raises(OperationFailure, match="different name"):
        database.c.create_index([("a", 1), ("b", -1)], name="other")
    with pytest.raises(OperationFailure, match="same name"):
        database.c.create_index([("z", 1)], name="mine")
    database.c.insert_many([{"a": i % 3, "b": i} for i in range(9)])
    assert [d["b"] for d in database.c.find({"a": 1}).sort("b", -1).hint("mine")] == [7, 4, 1]
    with pytest.raises(OperationFailure, match="hint"):
        list(database.c.find({"a": 1}).hint("none"))
    database.c.drop_index("mine")
    with pytest.raises(OperationFailure, match="not found"):
        database.c.drop_index("mine")
    assert list(database.c.index_information()) == ["_id_"]


def test_cursors_give_everything_once_even_when_documents_change_meanwhile(database: Database) -> None:
    database.c.insert_many([{"_id": i, "v": i} for i in range(1000)])
    database.c.create_index("v")
    seen = []
    for document in database.c.find({"v": {"$gte": 0}}).batch_size(50):
        seen.append(document["_id"])
        if len(seen) == 100:
            database.c.delete_many({"_id": {"$gte": 900}})
            database.c.update_many({"_id": {"$lt": 50}}, {"$inc": {"v": 1}})
    assert len(seen) == len(set(seen))
    assert set(range(900)) <= set(seen) | set(range(900, 1000))
    assert sorted(set(seen) & set(range(800))) == list(range(800))
    first_only = database.c.find().limit(3)
    assert len(list(first_only)) == 3
    assert database.c.find({}, {"v": 1}, skip=898).to_list() == [{"_id": 898, "v": 898}, {"_id": 899, "v": 899}]


def test_an_update_of_the_indexed_field_visits_each_document_once(database: Database) -> None:
    database.c.create_index("v")
    database.c.insert_many([{"v": i} for i in range(500)])
    assert database.c.update_many({"v": {"$gte": 0}}, {"$inc": {"v": 1000}}).modified_count == 500
    assert database.c.count_documents({"v": {"$gte": 1000, "$lt": 1500}}) == 500


def test_gridfs(database: Database) -> None:
    data = os.urandom(700_000)
    files = gridfs.GridFS(database, "big")
    number = files.put(data, filename="a.bin", metadata={"k": 1})
    assert files.get(number).read() == data
    found = files.find_one({"metadata.k": 1})
    assert found is not None and found._id == number
    files.delete(number)
    assert database["big.chunks"].count_documents({}) == 0


def test_the_16_mb_limit(database: Database) -> None:
    fits = b"y" * (15 * 1024 * 1024)
    database.c.insert_one({"_id": 1, "b": fits})
    assert (database.c.find_one({"_id": 1}) or {})["b"] == fits
    with pytest.raises(DocumentTooLarge):
        database.c.insert_one({"b": b"x" * (17 * 1024 * 1024)})
    with pytest.raises(OperationFailure, match=r"(?i)large"):
        database.c.update_one({"_id": 1}, [{"$set": {"c": "$b"}}])
    assert "c" not in (database.c.find_one({"_id": 1}) or {})


def test_collections_and_databases(database: Database) -> None:
    database.create_collection("empty")
    with pytest.raises(CollectionInvalid):
        database.create_collection("empty")
    database["order"].insert_one({"a": 1})
    database["my.dotted"].insert_one({"a": 1})
    assert sorted(database.list_collection_names()) == ["empty", "my.dotted", "order"]
    assert database.list_collection_names(filter={"name": "order"}) == ["order"]
    database["order"].rename("orders")
    with pytest.raises(OperationFailure, match="exists"):
        database["orders"].rename("empty")
    database["orders"].rename("empty", dropTarget=True)
    assert database["empty"].count_documents({}) == 1
    assert database.name in database.client.list_database_names()
    database.drop_collection("empty")
    assert database["empty"].estimated_document_count() == 0
    database.client.drop_database(database.name)
    assert database.list_collection_names() == []


def test_statistics(database: Database) -> None:
    database.c.insert_many([{"v": "x" * 100} for _ in range(10)])
    database.create_collection("empty")
    stats = database.command("dbStats")
    assert (stats["collections"], stats["objects"]) == (2, 10) and stats["dataSize"] > 1000
    assert database.command("collStats", "c")["count"] == 10
    assert database.command("collStats", "empty")["count"] == 0
    assert database.client.server_info()["versionArray"][0] >= 4
    assert "winningPlan" in database.empty.find({"v": 1}).explain()["queryPlanner"]


def test_out_replaces_a_collection(database: Database) -> None:
    database.c.insert_many([{"_id": i, "g": i % 2} for i in range(6)])
    database.target.insert_one({"old": 1})
    database.c.aggregate([{"$match": {"g": 1}}, {"$out": "target"}])
    assert [d["_id"] for d in database.target.find().sort("_id", 1)] == [1, 3, 5]


def test_an_unacknowledged_write_arrives(database: Database) -> None:
    collection = database.get_collection("c", write_concern=pymongo.WriteConcern(w=0))
    collection.insert_one({"_id": 1})
    database.c.insert_one({"_id": 2})
    assert database.get_collection("c", write_concern=pymongo.WriteConcern(j=True)).insert_one({"_id": 3}).acknowledged
    assert sorted(d["_id"] for d in database.c.find()) in ([1, 2, 3], [2, 3])


def test_a_reply_over_the_message_limit_is_an_error_not_a_broken_connection(database: Database) -> None:
    database.c.insert_many([{"v": bytes([i]) * 12_000_000} for i in range(4)])
    with pytest.raises(OperationFailure, match=r"(?i)bytes|too big|larger"):
        database.c.distinct("v")
    assert sum(1 for _ in database.c.find()) == 4


def test_null_is_indexed_like_a_missing_field(database: Database) -> None:
    database.c.create_index("v")
    database.c.insert_many([{"_id": 1}, {"_id": 2, "v": None}, {"_id": 3, "v": [None, 1]}, {"_id": 4, "v": 0}])
    assert [d["_id"] for d in database.c.find({"v": None}).sort("_id", 1)] == [1, 2, 3]
