"""A collection of the database as source of structures, and one as output of predictions.

These two know MongoDB, as `selector.store` does for a campaign: a run of shards has no campaign.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from bson import encode, json_util
from pymongo import ReplaceOne
from pymongo.database import Database
from pymongo.errors import DuplicateKeyError

from selector.errors import UsageError
from selector.shards.output import Plan, Put, Summary, Totals
from selector.shards.source import Document, Row, Shard, check_count, read_row
from selector.shards.structures import form_of, id_key, structure_of

RUNS = "prediction_runs"
"""A document a run, named as the collection of its predictions: the plan, and under ``done`` what is whole."""


class CollectionSource:
    """Documents in the order of their ``_id``; new ones that come later make it another source."""

    def __init__(self, database: Database[Any], described: Document) -> None:
        self._documents, self._described = database[described["name"]], described

    @classmethod
    def find(cls, database: Database[Any], name: str, wanted_id: str | None) -> CollectionSource:
        """The collection of that name.

        Raises
        ------
        UsageError
            It is empty, or its first document holds no structure.
        """
        first = database[name].find_one(sort=[("_id", 1)])
        if first is None:
            raise UsageError(f"collection '{name}' is empty or not there; database '{database.name}' has others")
        try:
            form_of(first)
            id_key(first, wanted_id)
        except UsageError as e:
            raise UsageError(f"collection '{name}': {e}") from None
        digest = hashlib.sha256()
        for document in _ids(database[name]):
            digest.update(encode(document))
        identity = {"kind": "collection", "ids": digest.hexdigest(), "id_key": wanted_id}
        return cls(database, {"kind": "collection", "name": name, "id_key": wanted_id, "identity": identity})

    def describe(self) -> Document:
        return self._described

    def shards(self, size: int) -> list[Shard]:
        cut: list[Shard] = []
        kind: type | None = None
        for n, document in enumerate(_ids(self._documents)):
            before, kind = kind, _kind(document["_id"])
            # MongoDB's comparisons never reach from one type to another: a shard holds one.
            if not cut or cut[-1]["n"] == size or kind is not before:
                cut.append({"first": n, "n": 0, "from": document["_id"]})
            cut[-1] |= {"n": cut[-1]["n"] + 1, "to": document["_id"]}
        return cut

    def rows(self, shard: Shard) -> Iterator[Row]:
        name, wanted = self._described["name"], self._described["id_key"]
        query, n = {"_id": {"$gte": shard["from"], "$lte": shard["to"]}}, 0
        for n, document in enumerate(self._documents.find(query).sort("_id", 1), 1):
            key = str(document["_id"])
            yield read_row(
                shard["first"] + n - 1,
                key,
                f"{name}: {key}",
                document,
                lambda d: d.get(id_key(d, wanted) or "_id"),
                structure_of,
            )
        check_count(n, shard, f"collection '{name}'")


def _ids(documents: Any) -> Any:
    return documents.find({}, {"_id": 1}).sort("_id", 1)


def _kind(_id: Any) -> type:
    return float if isinstance(_id, int | float) else type(_id)


class CollectionOutput:
    """Predictions as documents, ``_id`` the index of the structure: written again, they are what they were."""

    def __init__(self, database: Database[Any], name: str) -> None:
        self.name, self._runs, self._documents = name, database[RUNS], database[name]

    def __str__(self) -> str:
        return f"collection '{self.name}'"

    def describe(self) -> Document:
        return {"collection": self.name}

    def plan(self) -> Plan | None:
        run = self._runs.find_one({"_id": self.name}, {"_id": 0, "done": 0})
        return None if run is None else Plan(**json_util.loads(run["plan"]))

    def begin(self, plan: Plan) -> None:
        if self._documents.find_one({}, {"_id": 1}) is not None and self.plan() is None:
            raise UsageError(f"{self} holds other documents; name another with --into")
        for key in ("value", "material_id"):
            self._documents.create_index(key)
        self._documents.create_index("reason", sparse=True)
        # One text: extended JSON tells every kind of _id apart, and the shards of 100 million rows take a few MB.
        run = {"model_id": plan.model_id, "threshold": plan.threshold, "plan": json_util.dumps(plan.to_dict())}
        try:
            self._runs.insert_one({"_id": self.name, **run, "done": {}})
        except DuplicateKeyError:
            self._runs.update_one({"_id": self.name}, {"$set": run})

    def done(self) -> set[int]:
        return {int(k) for k in self._done()}

    def _done(self) -> Document:
        run = self._runs.find_one({"_id": self.name}, {"done": 1})
        return dict(run["done"]) if run else {}

    @contextmanager
    def shard(self, k: int) -> Iterator[Put]:
        """Bulk writes of what is put; the shard counts as done when all are acknowledged."""
        n = n_broken = 0

        def put(rows: Sequence[Document]) -> None:
            nonlocal n, n_broken
            documents = [{"_id": row["index"], **{k: v for k, v in row.items() if v is not None}} for row in rows]
            self._documents.bulk_write(
                [ReplaceOne({"_id": d["_id"]}, d, upsert=True) for d in documents], ordered=False
            )
            n, n_broken = n + len(rows), n_broken + sum("reason" in d for d in documents)

        yield put
        self._runs.update_one({"_id": self.name}, {"$set": {f"done.{k}": {"n": n, "broken": n_broken}}})

    def totals(self) -> Totals:
        done = self._done().values()
        return Totals(len(done), sum(x["n"] for x in done), sum(x["broken"] for x in done))

    def summary(self, n_named: int) -> Summary:
        reasons: Counter[str] = Counter()
        named: list[str] = []
        for document in self._documents.find({"reason": {"$exists": True}}, {"reason": 1, "message": 1}):
            reasons[document["reason"]] += 1
            if len(named) < n_named:
                named.append(document["message"])
        return Summary(reasons, named)

    def top(self, k: int) -> list[Document]:
        found = self._documents.find({"value": {"$exists": True}}, {"_id": 0}).sort([("value", -1), ("_id", 1)])
        return list(found.limit(k))
