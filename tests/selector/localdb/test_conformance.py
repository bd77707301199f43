"""What MongoDB documents, row by row: each row works on the local database as on a real server.

Rows that the local database does not support are in `test_unsupported.py`: they must fail, loudly.
"""

import datetime as dt
import re
from typing import Any

import bson
import pytest
from bson import Binary, Decimal128, Int64, MaxKey, MinKey, ObjectId, Regex, Timestamp
from pymongo.database import Database

from selector.localdb.forms import FORMS
from selector.localdb.groups import ACCUMULATORS
from selector.localdb.matching import ELEMENT_TESTS, LEAF_TESTS
from selector.localdb.operators import FUNCTIONS
from selector.localdb.stages import STAGES
from selector.localdb.updates import OPERATORS

NaN = float("nan")
DAY = dt.datetime(2026, 1, 2, 3, 4, 5, 678000)

# The documents every query row looks at; the rows name the _id of what they expect.
DOCUMENTS: list[dict] = [
    {"_id": 0, "n": 1, "s": "row00", "t": ["a", "all"], "o": {"a": {"b": 1}}, "d": DAY},
    {
        "_id": 1,
        "n": 2.5,
        "s": "Row01",
        "t": ["b", "all"],
        "o": {"a": None},
        "sub": [{"k": 1, "v": 2}, {"k": 2, "v": 9}],
    },
    {"_id": 2, "n": Int64(3), "s": "row02", "t": [], "o": {}, "sub": [{"k": 1, "v": 9}]},
    {"_id": 3, "n": None, "s": "other", "flag": True, "m": [[1, 2], [3]]},
    {"_id": 4, "s": "", "flag": False, "n": Decimal128("4.5"), "d": DAY + dt.timedelta(days=1)},
    {"_id": 5, "n": "1", "t": "all", "x": Binary(b"ab"), "o": [{"a": 1}, {"a": 2}, {"b": 3}]},
    {"_id": 6, "n": [1, 10], "flag": 1, "x": Regex("^r"), "q": NaN},
]

QUERIES: list[tuple[str, dict, list[int]]] = [
    ("equality across number types", {"n": 1.0}, [0, 6]),
    ("equality is not true for a boolean", {"flag": 1}, [6]),
    ("boolean", {"flag": True}, [3]),
    ("null matches missing", {"flag": None}, [0, 1, 2, 5]),
    ("null value or missing n", {"n": None}, [3]),
    ("array element", {"t": "all"}, [0, 1, 5]),
    ("whole array", {"t": ["a", "all"]}, [0]),
    ("empty array", {"t": []}, [2]),
    ("nested array", {"m": [1, 2]}, [3]),
    ("nested array is not opened twice", {"m": 1}, []),
    ("dotted path", {"o.a.b": 1}, [0]),
    ("dotted path through array", {"sub.k": 1}, [1, 2]),
    ("dotted path, any element for each condition", {"sub.k": 1, "sub.v": 9}, [1, 2]),
    ("array index in path", {"sub.1.v": 9}, [1]),
    ("dotted null", {"o.a": None}, [1, 2, 3, 4, 5, 6]),
    ("whole document", {"o": {"a": None}}, [1]),
    ("empty document", {"o": {}}, [2]),
    ("binary", {"x": Binary(b"ab")}, [5]),
    ("NaN equals NaN", {"q": NaN}, [6]),
    ("$eq", {"n": {"$eq": 3}}, [2]),
    ("$ne with missing", {"n": {"$ne": 1}}, [1, 2, 3, 4, 5]),
    ("$gt stays in type", {"n": {"$gt": 2}}, [1, 2, 4, 6]),
    ("$lt", {"n": {"$lt": 2.5}}, [0, 6]),
    ("$gte $lte", {"n": {"$gte": 2.5, "$lte": 3}}, [1, 2, 6]),
    ("range met by different array elements", {"n": {"$gt": 5, "$lt": 2}}, [6]),
    ("$lt text", {"n": {"$lt": "5"}}, [5]),
    ("$gte null matches null and missing", {"n": {"$gte": None}}, [3]),
    ("NaN is below no number", {"q": {"$lt": 5}}, []),
    ("$gte NaN", {"q": {"$gte": NaN}}, [6]),
    ("decimal compares with double", {"n": {"$gt": 4.4, "$lt": 4.6}}, [4, 6]),
    ("date range", {"d": {"$gte": DAY, "$lt": DAY + dt.timedelta(hours=1)}}, [0]),
    ("MinKey is below all", {"flag": {"$gt": MinKey()}}, [3, 4, 6]),
    ("MaxKey is above all", {"flag": {"$lt": MaxKey()}}, [3, 4, 6]),
    ("$in", {"n": {"$in": [3, "1"]}}, [2, 5]),
    ("$in with null", {"n": {"$in": [None]}}, [3]),
    ("$in with regex", {"s": {"$in": [re.compile("^row"), "other"]}}, [0, 2, 3]),
    ("$in empty", {"n": {"$in": []}}, []),
    ("$nin", {"n": {"$nin": [1, 2.5]}}, [2, 3, 4, 5]),
    ("$exists true", {"d": {"$exists": True}}, [0, 4]),
    ("$exists counts null", {"n": {"$exists": False}}, []),
    ("$exists dotted", {"o.a.b": {"$exists": True}}, [0]),
    ("$type name", {"s": {"$type": "string"}}, [0, 1, 2, 3, 4]),
    ("$type number", {"n": {"$type": "number"}}, [0, 1, 2, 4, 6]),
    ("$type long is not int", {"n": {"$type": "long"}}, [2]),
    ("$type by number", {"n": {"$type": 16}}, [0, 6]),
    ("$type null", {"n": {"$type": "null"}}, [3]),
    ("$type array", {"t": {"$type": "array"}}, [0, 1, 2]),
    ("$type list", {"n": {"$type": ["double", "decimal"]}}, [1, 4]),
    ("$mod", {"n": {"$mod": [3, 1]}}, [0, 4, 6]),
    ("$regex", {"s": {"$regex": "^row"}}, [0, 2]),
    ("$regex $options", {"s": {"$regex": "^ROW", "$options": "i"}}, [0, 1, 2]),
    ("compiled regex", {"s": re.compile("row0[12]", re.IGNORECASE)}, [1, 2]),
    ("regex on array elements", {"t": re.compile("^a$")}, [0]),
    ("regex equals a stored regex", {"x": Regex("^r")}, [6]),
    ("$not", {"n": {"$not": {"$gt": 2}}}, [0, 3, 5]),
    ("$not regex", {"s": {"$not": re.compile("row")}}, [1, 3, 4, 5, 6]),
    ("$and $or $nor", {"$and": [{"$or": [{"n": 1}, {"n": 3}]}, {"$nor": [{"t": "a"}]}]}, [2, 6]),
    ("$or beside a field", {"$or": [{"zz": {"$exists": False}}, {"zz": "w"}], "n": 3}, [2]),
    ("$elemMatch objects", {"sub": {"$elemMatch": {"k": 1, "v": 9}}}, [2]),
    ("$elemMatch values", {"n": {"$elemMatch": {"$gt": 5, "$lt": 20}}}, [6]),
    ("$elemMatch of arrays", {"m": {"$elemMatch": {"$eq": [3]}}}, [3]),
    ("$all", {"t": {"$all": ["a", "all"]}}, [0]),
    ("$all on a scalar", {"t": {"$all": ["all"]}}, [0, 1, 5]),
    ("$all $elemMatch", {"sub": {"$all": [{"$elemMatch": {"k": 1}}, {"$elemMatch": {"k": 2}}]}}, [1]),
    ("$size", {"t": {"$size": 2}}, [0, 1]),
    ("$size is for arrays alone", {"o": {"$size": 1}}, []),
    ("$expr", {"$expr": {"$eq": ["$n", "$o.a.b"]}, "o.a.b": 1}, [0]),
    ("$comment", {"n": 3, "$comment": "why"}, [2]),
]


@pytest.fixture
def documents(database: Database) -> Any:
    database.c.insert_many(DOCUMENTS)
    return database.c


@pytest.mark.parametrize(("query", "expected"), [pytest.param(q, e, id=name) for name, q, e in QUERIES])
@pytest.mark.parametrize("indexed", [False, True], ids=["scan", "index"])
def test_query(documents: Any, query: dict, expected: list[int], indexed: bool) -> None:
    if indexed:
        for field in ("n", "s", "t", "flag", "o.a.b", "sub.k"):
            documents.create_index(field)
        documents.create_index([("n", -1), ("s", 1)])
    assert [row["_id"] for row in documents.find(query).sort("_id")] == expected
    assert documents.count_documents(query) == len(expected)


PUSH = {"$push": {"a": {"$each": [5, 1], "$sort": 1, "$slice": -3}}}
UPDATES: list[tuple[str, dict, Any, dict]] = [
    ("$set nested", {"a": 1}, {"$set": {"b.c": 2}}, {"a": 1, "b": {"c": 2}}),
    ("$set array index", {"a": [1, 2]}, {"$set": {"a.1": 9, "a.3": 4}}, {"a": [1, 9, None, 4]}),
    ("$unset", {"a": 1, "b": {"c": 1, "d": 2}}, {"$unset": {"a": "", "b.c": "", "zz": ""}}, {"b": {"d": 2}}),
    ("$unset array element", {"a": [1, 2]}, {"$unset": {"a.0": ""}}, {"a": [None, 2]}),
    ("$inc", {"a": 1}, {"$inc": {"a": 2, "b": -1.5}}, {"a": 3, "b": -1.5}),
    ("$inc decimal", {"a": Decimal128("1.5")}, {"$inc": {"a": 1}}, {"a": Decimal128("2.5")}),
    ("$mul", {"a": 3}, {"$mul": {"a": 2.5, "b": 4}}, {"a": 7.5, "b": 0}),
    ("$min $max", {"a": 3, "b": 3}, {"$min": {"a": 2, "c": 1}, "$max": {"b": 2}}, {"a": 2, "b": 3, "c": 1}),
    ("$rename", {"a": 1, "o": {"x": 1}}, {"$rename": {"a": "b", "o.x": "o.y", "zz": "q"}}, {"b": 1, "o": {"y": 1}}),
    ("$bit", {"a": 13}, {"$bit": {"a": {"and": 10}}}, {"a": 8}),
    ("$push", {"a": [1]}, {"$push": {"a": [2, 3], "b": 1}}, {"a": [1, [2, 3]], "b": [1]}),
    ("$push with modifiers", {"a": [4, 3]}, PUSH, {"a": [3, 4, 5]}),
    ("$push $position", {"a": [1, 2]}, {"$push": {"a": {"$each": [9], "$position": 1}}}, {"a": [1, 9, 2]}),
    (
        "$push $sort by field",
        {"a": [{"k": 2}, {"k": 1}]},
        {"$push": {"a": {"$each": [{"k": 3}], "$sort": {"k": -1}}}},
        {"a": [{"k": 3}, {"k": 2}, {"k": 1}]},
    ),
    ("$addToSet", {"a": [1, {"x": 1}]}, {"$addToSet": {"a": {"$each": [1.0, {"x": 1}, 2]}}}, {"a": [1, {"x": 1}, 2]}),
    ("$pull value", {"a": [1, 2, 1.0]}, {"$pull": {"a": 1}}, {"a": [2]}),
    ("$pull condition", {"a": [1, 5, 9]}, {"$pull": {"a": {"$gte": 5}}}, {"a": [1]}),
    ("$pull by field", {"a": [{"k": 1, "v": 1}, {"k": 2}]}, {"$pull": {"a": {"k": 1}}}, {"a": [{"k": 2}]}),
    ("$pullAll", {"a": [1, 2, 3, 2]}, {"$pullAll": {"a": [2, 3]}}, {"a": [1]}),
    ("$pop", {"a": [1, 2], "b": [1, 2]}, {"$pop": {"a": 1, "b": -1}}, {"a": [1], "b": [2]}),
    ("$[]", {"a": [1, 2]}, {"$inc": {"a.$[]": 10}}, {"a": [11, 12]}),
    ("$setOnInsert is for inserts", {"a": 1}, {"$setOnInsert": {"b": 1}, "$set": {"c": 1}}, {"a": 1, "c": 1}),
    (
        "pipeline",
        {"a": 1, "z": 0},
        [{"$set": {"q": {"$add": ["$a", 1]}}}, {"$unset": "z"}],
        {"a": 1, "q": 2},
    ),
]


@pytest.mark.parametrize(("before", "update", "after"), [pytest.param(b, u, a, id=name) for name, b, u, a in UPDATES])
def test_update(database: Database, before: dict, update: Any, after: dict) -> None:
    database.c.insert_one({"_id": 1, **before})
    result = database.c.update_one({"_id": 1}, update)
    assert result.matched_count == 1
    assert database.c.find_one() == {"_id": 1, **after}
    assert result.modified_count == 1


def test_current_date(database: Database) -> None:
    database.c.insert_one({"_id": 1})
    before = dt.datetime.now(dt.UTC).replace(tzinfo=None) - dt.timedelta(seconds=5)
    database.c.update_one({"_id": 1}, {"$currentDate": {"a": True, "b": {"$type": "timestamp"}}})
    found = database.c.find_one() or {}
    assert before < found["a"] < before + dt.timedelta(minutes=5)
    assert isinstance(found["b"], Timestamp)


def test_positional_updates(database: Database) -> None:
    database.c.insert_one({"_id": 1, "s": [{"k": 1, "v": 0}, {"k": 2, "v": 0}], "n": [1, 5, 9]})
    database.c.update_one({"s.k": 2}, {"$set": {"s.$.v": 7}})
    database.c.update_one({"n": {"$gt": 3}}, {"$set": {"n.$": 0}})
    database.c.update_one({}, {"$inc": {"s.$[e].v": 1}}, array_filters=[{"e.k": {"$gte": 1}}])
    database.c.update_one({"s": {"$elemMatch": {"k": 1}}}, {"$set": {"s.$.w": True}})
    assert database.c.find_one() == {"_id": 1, "s": [{"k": 1, "v": 1, "w": True}, {"k": 2, "v": 8}], "n": [1, 0, 9]}


def test_64_bit_integers_stay_64_bit_and_overflow_is_an_error(database: Database) -> None:
    database.c.insert_one({"_id": 1, "a": Int64(1), "b": 2**31 - 1})
    database.c.update_one({"_id": 1}, {"$inc": {"a": 1, "b": 1}})
    found = database.c.find_one()
    assert found is not None and isinstance(found["a"], Int64) and found["b"] == 2**31
    database.c.update_one({"_id": 1}, {"$set": {"a": Int64(2**63 - 1)}})
    with pytest.raises(Exception, match="overflow"):
        database.c.update_one({"_id": 1}, {"$inc": {"a": 1}})


def test_upserts(database: Database) -> None:
    result = database.c.update_one({"k": 1, "o.x": 2, "n": {"$gt": 5}}, {"$setOnInsert": {"c": 1}}, upsert=True)
    assert database.c.find_one() == {"_id": result.upserted_id, "k": 1, "o": {"x": 2}, "c": 1}
    replaced = database.c.replace_one({"_id": "new", "zz": 1}, {"a": 1}, upsert=True)
    assert replaced.upserted_id == "new"
    assert database.c.find_one("new") == {"_id": "new", "a": 1}
    assert list(database.c.find_one("new") or {}) == ["_id", "a"]


def test_find_and_modify(database: Database) -> None:
    database.c.insert_many([{"_id": i, "s": "READY", "p": i % 3} for i in range(6)])
    query = {"$or": [{"lock": {"$exists": False}}, {"lock": None}], "s": "READY"}
    claim = {"$set": {"s": "RUN"}}
    before = database.c.find_one_and_update(query, claim, sort=[("p", -1), ("_id", 1)])
    assert before == {"_id": 2, "s": "READY", "p": 2}
    after = database.c.find_one_and_update(query, claim, sort=[("p", -1)], return_document=True, projection={"p": 0})
    assert after == {"_id": 5, "s": "RUN"}
    assert database.c.find_one_and_delete({"s": "RUN"}, sort=[("_id", -1)]) == {"_id": 5, "s": "RUN", "p": 2}
    assert database.c.find_one_and_replace({"_id": 0}, {"x": 1}, return_document=True) == {"_id": 0, "x": 1}
    assert database.c.find_one_and_update({"_id": 99}, claim) is None
    counter = database.c.find_one_and_update({"_id": "n"}, {"$inc": {"v": 5}}, upsert=True, return_document=True)
    assert counter == {"_id": "n", "v": 5}


AGGREGATIONS: list[tuple[str, list[dict], list[dict]]] = [
    (
        "$match $sort $limit",
        [{"$match": {"i": {"$gt": 1}}}, {"$sort": {"i": -1}}, {"$limit": 1}, {"$project": {"i": 1}}],
        [{"_id": 5, "i": 5}],
    ),
    ("$skip $count", [{"$skip": 2}, {"$count": "n"}], [{"n": 4}]),
    ("$count of nothing", [{"$match": {"i": 99}}, {"$count": "n"}], []),
    (
        "$group",
        [
            {
                "$group": {
                    "_id": "$g",
                    "n": {"$sum": 1},
                    "m": {"$avg": "$i"},
                    "x": {"$max": "$i"},
                    "f": {"$first": "$i"},
                }
            },
            {"$sort": {"_id": 1}},
        ],
        [{"_id": 0, "n": 3, "m": 2.0, "x": 4, "f": 0}, {"_id": 1, "n": 3, "m": 3.0, "x": 5, "f": 1}],
    ),
    (
        "$group by nothing",
        [{"$group": {"_id": None, "s": {"$sum": "$i"}, "p": {"$push": "$g"}}}],
        [{"_id": None, "s": 15, "p": [0, 1, 0, 1, 0, 1]}],
    ),
    (
        "$group falsy values",
        [{"$group": {"_id": 0, "a": {"$addToSet": "$g"}}}, {"$project": {"a": {"$size": "$a"}}}],
        [{"_id": 0, "a": 2}],
    ),
    ("$group deviation", [{"$group": {"_id": None, "d": {"$stdDevPop": "$g"}}}], [{"_id": None, "d": 0.5}]),
    (
        "$project",
        [{"$match": {"i": 2}}, {"$project": {"_id": 0, "y": {"$multiply": ["$i", 2]}, "o.b": 1}}],
        [{"o": {"b": 2}, "y": 4}],
    ),
    (
        "$project exclusion",
        [{"$match": {"i": 2}}, {"$project": {"o": 0, "tags": 0, "when": 0}}],
        [{"_id": 2, "i": 2, "g": 0}],
    ),
    (
        "$addFields",
        [{"$match": {"i": 1}}, {"$addFields": {"o.c": "$g", "zz": "$none"}}, {"$project": {"o": 1, "zz": 1}}],
        [{"_id": 1, "o": {"b": 1, "c": 1}}],
    ),
    (
        "$set $unset",
        [{"$match": {"i": 0}}, {"$set": {"i": 7}}, {"$unset": ["o", "tags", "when"]}],
        [{"_id": 0, "i": 7, "g": 0}],
    ),
    (
        "$unwind",
        [{"$unwind": "$tags"}, {"$group": {"_id": "$tags", "n": {"$sum": 1}}}, {"$sort": {"_id": 1}}],
        [{"_id": "all", "n": 6}, {"_id": "t0", "n": 3}, {"_id": "t1", "n": 3}],
    ),
    (
        "$unwind with index",
        [
            {"$match": {"i": 0}},
            {"$unwind": {"path": "$tags", "includeArrayIndex": "at"}},
            {"$project": {"at": 1, "_id": 0}},
        ],
        [{"at": 0}, {"at": 1}],
    ),
    (
        "$unwind keeping missing",
        [
            {"$match": {"i": 0}},
            {"$unwind": {"path": "$no", "preserveNullAndEmptyArrays": True}},
            {"$project": {"i": 1}},
        ],
        [{"_id": 0, "i": 0}],
    ),
    (
        "$lookup",
        [
            {"$match": {"i": 1}},
            {"$lookup": {"from": "g", "localField": "g", "foreignField": "g", "as": "j"}},
            {"$project": {"j.name": 1, "_id": 0}},
        ],
        [{"j": [{"name": "G1"}]}],
    ),
    (
        "$lookup of an array",
        [
            {"$match": {"i": 0}},
            {"$lookup": {"from": "g", "localField": "tags", "foreignField": "tag", "as": "j"}},
            {"$project": {"j.name": 1, "_id": 0}},
        ],
        [{"j": [{"name": "G0"}]}],
    ),
    ("$replaceRoot", [{"$match": {"i": 3}}, {"$replaceRoot": {"newRoot": "$o"}}], [{"b": 3}]),
    (
        "$facet",
        [
            {
                "$facet": {
                    "a": [{"$count": "n"}],
                    "b": [{"$sort": {"i": -1}}, {"$limit": 1}, {"$project": {"i": 1, "_id": 0}}],
                }
            }
        ],
        [{"a": [{"n": 6}], "b": [{"i": 5}]}],
    ),
    (
        "$bucket",
        [{"$bucket": {"groupBy": "$i", "boundaries": [0, 2, 4], "default": "rest"}}],
        [{"_id": 0, "count": 2}, {"_id": 2, "count": 2}, {"_id": "rest", "count": 2}],
    ),
    (
        "$sortByCount",
        [{"$match": {"i": {"$lt": 3}}}, {"$sortByCount": "$g"}],
        [{"_id": 0, "count": 2}, {"_id": 1, "count": 1}],
    ),
    ("$sample", [{"$sample": {"size": 3}}, {"$count": "n"}], [{"n": 3}]),
    (
        "$dateFromString with onError",
        [
            {"$limit": 1},
            {
                "$project": {
                    "_id": 0,
                    "d": {"$dateFromString": {"dateString": "2026-01-02T03:04:05.678", "onError": None}},
                    "e": {"$dateFromString": {"dateString": "none", "onError": "bad"}},
                }
            },
        ],
        [{"d": DAY, "e": "bad"}],
    ),
    (
        "$group, the other accumulators",
        [
            {"$match": {"g": 1}},
            {"$sort": {"i": 1}},
            {
                "$group": {
                    "_id": {"g": "$g"},
                    "n": {"$count": {}},
                    "least": {"$min": "$i"},
                    "last": {"$last": "$i"},
                    "d": {"$stdDevSamp": "$i"},
                    "o": {"$mergeObjects": "$o"},
                }
            },
        ],
        [{"_id": {"g": 1}, "n": 3, "least": 1, "last": 5, "d": 2.0, "o": {"b": 5}}],
    ),
    ("$replaceWith", [{"$match": {"i": 3}}, {"$replaceWith": {"x": "$o.b", "y": "$none"}}], [{"x": 3}]),
]


@pytest.mark.parametrize(("pipeline", "expected"), [pytest.param(p, e, id=name) for name, p, e in AGGREGATIONS])
def test_aggregation(database: Database, pipeline: list[dict], expected: list[dict]) -> None:
    database.c.insert_many(
        [{"_id": i, "i": i, "g": i % 2, "tags": [f"t{i % 2}", "all"], "o": {"b": i}, "when": DAY} for i in range(6)]
    )
    database.g.insert_many([{"g": i, "name": f"G{i}", "tag": f"t{i}"} for i in range(2)])
    assert list(database.c.aggregate(pipeline)) == expected


E = {"i": 7, "f": -2.5, "s": "aBc", "l": [3, 1, 2], "d": DAY, "z": None, "o": {"k": 1}}
EXPRESSIONS: list[tuple[Any, Any]] = [
    ({"$abs": "$f"}, 2.5),
    ({"$add": ["$i", 1, 2]}, 10),
    ({"$ceil": "$f"}, -2),
    ({"$floor": "$f"}, -3),
    ({"$divide": ["$i", 2]}, 3.5),
    ({"$mod": ["$i", 4]}, 3),
    ({"$multiply": ["$i", 2]}, 14),
    ({"$subtract": ["$i", 2]}, 5),
    ({"$pow": [2, 3]}, 8),
    ({"$sqrt": 16}, 4.0),
    ({"$exp": 0}, 1.0),
    ({"$ln": 1}, 0.0),
    ({"$log10": 100}, 2.0),
    ({"$log": [8, 2]}, 3.0),
    ({"$add": ["$i", "$z"]}, None),
    ({"$cmp": ["$i", 9]}, -1),
    ({"$eq": ["$i", 7.0]}, True),
    ({"$ne": ["$i", 7]}, False),
    ({"$gt": ["$s", 5]}, True),
    ({"$gte": ["$i", 7]}, True),
    ({"$lt": ["$i", 7]}, False),
    ({"$lte": ["$i", 7]}, True),
    ({"$and": [True, "$i"]}, True),
    ({"$or": [False, "$z"]}, False),
    ({"$not": ["$z"]}, True),
    ({"$or": [Decimal128("0.0"), 0, 0.0, None, "$none"]}, False),
    ({"$and": ["", [], {}]}, True),
    ({"$cond": [{"$gt": ["$i", 5]}, "hi", "lo"]}, "hi"),
    ({"$cond": {"if": "$z", "then": 1, "else": 2}}, 2),
    ({"$ifNull": ["$z", "x"]}, "x"),
    ({"$switch": {"branches": [{"case": {"$eq": ["$i", 7]}, "then": "seven"}], "default": "no"}}, "seven"),
    ({"$literal": "$i"}, "$i"),
    ({"$arrayElemAt": ["$l", -1]}, 2),
    ({"$concatArrays": ["$l", [9]]}, [3, 1, 2, 9]),
    ({"$filter": {"input": "$l", "as": "x", "cond": {"$gte": ["$$x", 2]}}}, [3, 2]),
    ({"$map": {"input": "$l", "as": "x", "in": {"$add": ["$$x", 1]}}}, [4, 2, 3]),
    ({"$reduce": {"input": "$l", "initialValue": 0, "in": {"$add": ["$$value", "$$this"]}}}, 6),
    ({"$range": [0, 6, 2]}, [0, 2, 4]),
    ({"$size": "$l"}, 3),
    ({"$slice": ["$l", 2]}, [3, 1]),
    ({"$in": [1, "$l"]}, True),
    ({"$isArray": "$l"}, True),
    ({"$setUnion": [[1], [1, 2]]}, [1, 2]),
    ({"$reverseArray": "$l"}, [2, 1, 3]),
    ({"$concat": ["$s", "-x"]}, "aBc-x"),
    ({"$split": ["a,b", ","]}, ["a", "b"]),
    ({"$strLenCP": "$s"}, 3),
    ({"$toLower": "$s"}, "abc"),
    ({"$toUpper": "$s"}, "ABC"),
    ({"$substrCP": ["$s", 1, 2]}, "Bc"),
    ({"$substr": ["$s", 1, -1]}, "Bc"),
    ({"$substrBytes": ["$s", -1, 2]}, ""),
    ({"$substr": ["$none", 0, 4]}, ""),
    ({"$trim": {"input": " a "}}, "a"),
    ({"$regexMatch": {"input": "$s", "regex": "^a"}}, True),
    ({"$toString": "$i"}, "7"),
    ({"$toInt": "5"}, 5),
    ({"$toLong": "5"}, 5),
    ({"$dateToString": {"format": "%Y-%m-%d", "date": "$d"}}, "2026-01-02"),
    ({"$year": "$d"}, 2026),
    ({"$month": "$d"}, 1),
    ({"$dayOfMonth": "$d"}, 2),
    ({"$dayOfYear": "$d"}, 2),
    ({"$hour": "$d"}, 3),
    ({"$minute": "$d"}, 4),
    ({"$second": "$d"}, 5),
    ({"$millisecond": "$d"}, 678),
    ({"$sum": "$l"}, 6),
    ({"$avg": "$l"}, 2.0),
    ({"$min": "$l"}, 1),
    ({"$max": "$l"}, 3),
    ({"$isNumber": "$i"}, True),
    ({"$objectToArray": "$o"}, [{"k": "k", "v": 1}]),
    ({"$arrayToObject": [[["a", 1]]]}, {"a": 1}),
    ({"$round": [2.567, 1]}, 2.6),
    ({"$round": ["$f"]}, -2.0),
    ({"$trunc": "$f"}, -2.0),
    ({"$first": "$l"}, 3),
    ({"$last": "$l"}, 2),
    ({"$toDouble": "2.5"}, 2.5),
    ({"$mergeObjects": ["$o", {"k": 2, "j": "$i"}]}, {"k": 2, "j": 7}),
    ({"$let": {"vars": {"x": {"$add": ["$i", 1]}}, "in": {"$multiply": ["$$x", 2]}}}, 16),
    ({"$dateFromString": {"dateString": "2026-01-02T03:04:05.678Z"}}, DAY),
    ({"$subtract": ["$d", {"$subtract": ["$d", 1000]}]}, 1000),
    ({"$add": ["$d", 1000]}, DAY + dt.timedelta(seconds=1)),
    ({"$eq": [1, True]}, False),
    ({"$eq": ["$none", None]}, False),
    ({"$add": [Decimal128("0.1"), Decimal128("0.2")]}, Decimal128("0.3")),
    ({"$mod": [-7, 4]}, -3),
    ({"$max": ["$i", "$f", "$none"]}, 7),
    ("$$ROOT.i", 7),
    ("$o.k", 1),
    ({"a": "$i", "b": {"$add": [1, 1]}}, {"a": 7, "b": 2}),
    (["$i", "$s"], [7, "aBc"]),
]


@pytest.mark.parametrize(("expression", "expected"), EXPRESSIONS, ids=[str(e)[:40] for e, _ in EXPRESSIONS])
def test_expression(database: Database, expression: Any, expected: Any) -> None:
    database.c.insert_one({"_id": 1, **E})
    [row] = database.c.aggregate([{"$project": {"_id": 0, "v": expression}}])
    assert row["v"] == expected
    assert isinstance(row["v"], bool) == isinstance(expected, bool)


def used(value: Any) -> set[str]:
    """Every name with a dollar in front that occurs in a row."""
    if isinstance(value, dict):
        return {name for name in value if name.startswith("$")}.union(*map(used, value.values()))
    return set().union(*map(used, value)) if isinstance(value, (list, tuple)) else set()


def test_the_tables_have_a_row_for_everything_supported() -> None:
    assert set(FUNCTIONS) | set(FORMS) <= used(EXPRESSIONS)
    assert set(STAGES) | set(ACCUMULATORS) <= used(AGGREGATIONS)
    # A clock is in no table: test_current_date.
    assert set(OPERATORS) <= used(UPDATES) | {"$currentDate"}
    assert set(ELEMENT_TESTS) | set(LEAF_TESTS) <= used(QUERIES)


def test_every_type_comes_back_as_it_was(database: Database) -> None:
    document = {
        "_id": ObjectId(),
        "int": 5,
        "long": Int64(7),
        "double": 1.0,
        "inf": float("inf"),
        "bytes": b"\x00\x01\xff",
        "subtype": Binary(b"abc", 128),
        "uuid": Binary(b"0123456789abcdef", 4),
        "date": DAY,
        "null": None,
        "bool": True,
        "decimal": Decimal128("1.50"),
        "regex": Regex("^a", "i"),
        "timestamp": Timestamp(5, 6),
        "text": "é\u0000z",
        "nested": {"z": 1, "a": [[1, [2]], {"x": []}, {}]},
        "dotted.$key": 1,
    }
    database.c.insert_one(document)
    data = database.c.with_options(
        codec_options=bson.CodecOptions(document_class=bson.raw_bson.RawBSONDocument)
    ).find_one()
    assert data is not None and data.raw == bson.encode(document)
    assert database.c.find_one({"long": 7, "date": DAY, "subtype": Binary(b"abc", 128)}) is not None


def test_sort_follows_types_and_arrays(database: Database) -> None:
    rows: list[Any] = [5, "a", None, [0, 9], DAY, True, {"a": 1}, [], 4.5]
    database.c.insert_many([{"_id": i, "v": v} for i, v in enumerate(rows)])
    database.c.insert_one({"_id": 99})
    # Ascending: empty arrays, then null and missing, numbers by their least element, text, objects, bool, dates.
    assert [r["_id"] for r in database.c.find().sort([("v", 1), ("_id", 1)])] == [7, 2, 99, 3, 8, 0, 1, 6, 5, 4]
    assert [r["_id"] for r in database.c.find().sort([("v", -1), ("_id", 1)])] == [4, 5, 6, 1, 3, 0, 8, 2, 99, 7]
    assert [r["_id"] for r in database.c.find({"_id": {"$lt": 5}}).sort("_id", -1).skip(1).limit(2)] == [3, 2]


def test_projections(database: Database) -> None:
    database.c.insert_one({"_id": 1, "a": {"b": 1, "c": 2}, "l": [{"k": 1, "v": 1}, {"k": 2, "v": 2}, 5], "s": "x"})

    def project(projection: Any) -> Any:
        return database.c.find_one({}, projection)

    assert project({"a.b": 1}) == {"_id": 1, "a": {"b": 1}}
    assert project({"_id": 0, "l.k": 1}) == {"l": [{"k": 1}, {"k": 2}]}
    assert project({"l": 0, "a.c": 0}) == {"_id": 1, "a": {"b": 1}, "s": "x"}
    assert project({"l": {"$slice": 1}, "a": 0}) == {"_id": 1, "l": [{"k": 1, "v": 1}], "s": "x"}
    assert project({"l": {"$slice": [-2, 1]}, "s": 1}) == {"_id": 1, "l": [{"k": 2, "v": 2}], "s": "x"}
    assert project({"l": {"$elemMatch": {"k": 2}}}) == {"_id": 1, "l": [{"k": 2, "v": 2}]}
    assert project({"_id": 1}) == {"_id": 1}
    assert list(project({"s": 1, "a": 1})) == ["_id", "a", "s"]


def test_distinct(database: Database) -> None:
    database.c.insert_many([{"v": 1}, {"v": [1.0, 2]}, {"v": "x"}, {}])
    assert database.c.distinct("v") == [1, 2, "x"]
    assert database.c.distinct("v", {"v": "x"}) == ["x"]
