"""What the local database lacks fails by name: never a silent success, even on an empty collection."""

from typing import Any

import pymongo
import pytest
from pymongo.errors import OperationFailure


@pytest.fixture(scope="module")
def collection(local_uri: str) -> Any:
    with pymongo.MongoClient(local_uri) as client:
        client.unsupported.c.insert_one({"_id": 1, "a": 1})
        yield client.unsupported.c


FILTERS = [
    {"a": {"$noSuch": 1}},
    {"zz": 1, "a": {"$noSuch": 1}},
    {"$noSuch": 1},
    {"$where": "true"},
    {"$text": {"$search": "x"}},
    {"$jsonSchema": {}},
    {"a": {"$near": [0, 0]}},
    {"a": {"$bitsAllSet": 1}},
    {"a": {"$in": 5}},
    {"a": {"$elemMatch": 5}},
    {"a": {"$not": 5}},
    {"a": {"$regex": "("}},
    {"a": {"$options": "i"}},
    {"a": {"$type": "noSuch"}},
    {"a": {"$size": "x"}},
    {"$or": []},
    {"$or": [{"zz": {"$noSuch": 1}}]},
    {"a": {"$gt": 1, "b": 2}},
    {"$expr": {"$noSuch": 1}},
    {"$expr": {"$eq": ["$$undefined", 1]}},
]


@pytest.mark.parametrize("query", FILTERS, ids=str)
def test_filters(collection: Any, query: dict) -> None:
    for target in (collection, collection.database.does_not_exist):
        for run in (
            target.find_one,
            target.count_documents,
            target.delete_many,
            lambda q, t=target: t.update_one(q, {"$set": {"x": 1}}),
        ):
            with pytest.raises(OperationFailure):
                run(query)
    assert collection.find_one() == {"_id": 1, "a": 1}


@pytest.mark.parametrize(
    "update",
    [
        {"$noSuch": {"a": 1}},
        {"$set": 5},
        {"$set": {"a.b": 1}},
        {"$set": {"_id": 2}},
        {"$set": {"x": 1}, "$unset": {"x": 1}},
        {"$set": {"x": 1, "x.y": 1}},
        {"$inc": {"a": "text"}},
        {"$push": {"a": 1}},
        {"$push": {"l": {"$each": [1], "$noSuch": 1}}},
        {"$set": {"l.$": 1}},
        {"$set": {"a.$[]": 1}},
        {"$rename": {"a": "a"}},
        {"$pop": {"l": 2}},
        {"$set": {"": 1}},
        [{"$group": {"_id": 1}}],
        [{"$set": {"x": {"$noSuch": 1}}}],
    ],
    ids=str,
)
def test_updates(collection: Any, update: Any) -> None:
    with pytest.raises(OperationFailure):
        collection.update_one({"_id": 1}, update)
    with pytest.raises(OperationFailure):
        collection.find_one_and_update({"_id": 1}, update)
    assert collection.find_one() == {"_id": 1, "a": 1}


def test_array_filters_that_do_not_fit(collection: Any) -> None:
    with pytest.raises(OperationFailure, match="not used"):
        collection.update_one({}, {"$set": {"a": 2}}, array_filters=[{"e": 1}])
    with pytest.raises(OperationFailure):
        collection.update_one({}, {"$set": {"l.$[e]": 2}})


@pytest.mark.parametrize(
    "stage",
    [
        {"$noSuch": {}},
        {"$setWindowFields": {}},
        {"$bucketAuto": {"groupBy": "$a", "buckets": 2}},
        {"$merge": "x"},
        {"$changeStream": {}},
        {"$group": {"_id": "$a", "n": {"$noSuch": 1}}},
        {"$group": {"n": {"$sum": 1}}},
        {"$project": {"a": 1, "b": 0}},
        {"$project": {"x": {"$noSuch": 1}}},
        {"$lookup": {"from": "x", "let": {"y": 1}, "pipeline": [], "as": "j"}},
        {"$lookup": {"from": "x", "pipeline": [{"$noSuch": 1}], "as": "j"}},
        {"$limit": 0},
        {"$sort": {"a": 2}},
        {"$match": {"a": {"$noSuch": 1}}},
        {"$unwind": "tags"},
        {"$addFields": {"x": {"$dateToString": {"date": "$d", "timezone": "Europe/Berlin"}}}},
        {"$match": {}, "$limit": 1},
    ],
    ids=str,
)
def test_stages(collection: Any, stage: dict) -> None:
    for target in (collection, collection.database.does_not_exist):
        with pytest.raises(OperationFailure):
            list(target.aggregate([stage]))


@pytest.mark.parametrize(
    "command",
    [
        {"noSuchCommand": 1},
        {"create": "x", "capped": True, "size": 4096},
        {"create": "x", "validator": {"a": 1}},
        {"createIndexes": "c", "indexes": [{"key": {"a": "text"}, "name": "t"}]},
        {"createIndexes": "c", "indexes": [{"key": {"a": "2dsphere"}, "name": "t"}]},
        {"createIndexes": "c", "indexes": [{"key": {"a": 1}, "name": "t", "expireAfterSeconds": 5}]},
        {"createIndexes": "c", "indexes": [{"key": {"a": 1}, "name": "t", "collation": {"locale": "en"}}]},
        {"find": "c", "filter": {}, "collation": {"locale": "en", "strength": 2}},
        {"find": "c", "tailable": True},
        {"find": "c", "noSuchOption": 1},
        {"find": "c", "projection": {"a": {"$meta": "x"}}},
        {"find": "c", "readConcern": {"level": "snapshot"}},
        {"insert": "c", "documents": [{"_id": 9}], "writeConcern": {"w": 3}},
        {"insert": "c", "documents": [{"_id": 9}], "txnNumber": 1, "lsid": {}},
        {"insert": "admin.x", "documents": [{"_id": [1]}]},
        {"createUser": "me", "pwd": "x", "roles": []},
        {"find": 5},
        {"insert": "c"},
        {"insert": "", "documents": [{}]},
    ],
    ids=str,
)
def test_commands(collection: Any, command: dict) -> None:
    before = collection.database.list_collection_names()
    with pytest.raises(OperationFailure):
        reply = collection.database.command(command)
        # Errors of single statements come inside a reply.
        raise OperationFailure(str(reply["writeErrors"]))
    assert collection.find_one({}) == {"_id": 1, "a": 1} and collection.count_documents({}) == 1
    assert set(before) <= set(collection.database.list_collection_names())


def test_transactions_and_change_streams(collection: Any) -> None:
    with collection.database.client.start_session() as session, session.start_transaction():
        with pytest.raises(OperationFailure, match="transactions"):
            collection.insert_one({"_id": 5}, session=session)
        session.abort_transaction()
    assert collection.find_one({"_id": 5}) is None
    with pytest.raises(OperationFailure):
        collection.watch()
