"""The local database without its server, for a program that needs a campaign's memory only while it runs.

Commands go straight to `selector.localdb.commands`, encoded and decoded as on the wire, so that what is stored and what
comes back is the same; the data are in memory. `Database` and `Collection` are pymongo's as far as `selector.store` and
its kin use them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import bson
from pymongo.errors import DuplicateKeyError, OperationFailure, WriteError
from pymongo.operations import UpdateOne

from selector.localdb.collection import CODEC
from selector.localdb.commands import execute
from selector.localdb.context import Context
from selector.localdb.storage import Storage

Document = dict[str, Any]
_ALL = 1_000_000
_DUPLICATE = 11000
_NO_SUCH_COLLECTION = 26


class Database:
    """An empty database in memory."""

    def __init__(self, name: str = "selector") -> None:
        self.name = name
        self._context = Context(Storage(Path(":memory:")))
        self.client = SimpleNamespace(admin=self)

    def __getitem__(self, collection: str) -> Collection:
        return Collection(self, collection)

    def command(self, command: str | Document) -> Document:
        """The reply.

        Raises
        ------
        OperationFailure
            The command failed; DuplicateKeyError or WriteError if that is the first of its statements that failed.
        """
        said = {command: 1} if isinstance(command, str) else command
        request = bson.decode(bson.encode({**said, "$db": self.name}), CODEC)
        reply: Document = bson.decode(bson.encode(execute(self._context, request)))
        if not reply["ok"]:
            raise OperationFailure(reply["errmsg"], reply.get("code"), reply)
        for error in reply.get("writeErrors", [])[:1]:
            kind = DuplicateKeyError if error["code"] == _DUPLICATE else WriteError
            raise kind(error["errmsg"], error["code"], error)
        return reply

    def close(self) -> None:
        """Forget everything."""
        self._context.storage.close()


class Cursor:
    """What `Collection.find` found; the query runs when it is read."""

    def __init__(self, database: Database, command: Document) -> None:
        self._database, self._command = database, command
        self._found: Iterator[Document] | None = None

    def sort(self, key: str | Sequence[tuple[str, int]], direction: int = 1) -> Cursor:
        self._command["sort"] = {key: direction} if isinstance(key, str) else dict(key)
        return self

    def limit(self, n: int) -> Cursor:
        self._command["limit"] = n
        return self

    def __iter__(self) -> Cursor:
        return self

    def __next__(self) -> Document:
        if self._found is None:
            self._found = self._read()
        return next(self._found)

    def _read(self) -> Iterator[Document]:
        cursor = self._database.command({**self._command, "batchSize": _ALL})["cursor"]
        yield from cursor["firstBatch"]
        while cursor["id"]:
            more = {"getMore": cursor["id"], "collection": self._command["find"]}
            cursor = self._database.command(more)["cursor"]
            yield from cursor["nextBatch"]


class Collection:
    """A collection of a `Database`."""

    def __init__(self, database: Database, name: str) -> None:
        self._database, self.name = database, name

    def create_index(self, keys: str | Sequence[tuple[str, int]], **options: Any) -> str:
        key = {keys: 1} if isinstance(keys, str) else dict(keys)
        name = "_".join(f"{field}_{direction}" for field, direction in key.items())
        index = {"key": key, "name": name, **options}
        self._database.command({"createIndexes": self.name, "indexes": [index]})
        return name

    def index_information(self) -> dict[str, Any]:
        try:
            found = self._database.command({"listIndexes": self.name})["cursor"]["firstBatch"]
        except OperationFailure as e:
            if e.code != _NO_SUCH_COLLECTION:
                raise
            return {}
        return {index["name"]: {**index, "key": list(index["key"].items())} for index in found}

    def find(self, query: Mapping[str, Any] | None = None, projection: Mapping[str, Any] | None = None) -> Cursor:
        fields = {"projection": dict(projection)} if projection else {}
        return Cursor(self._database, {"find": self.name, "filter": dict(query or {}), **fields})

    def find_one(
        self, query: Mapping[str, Any] | None = None, projection: Mapping[str, Any] | None = None
    ) -> Document | None:
        return next(self.find(query, projection).limit(1), None)

    def count_documents(self, query: Mapping[str, Any]) -> int:
        return int(self._database.command({"count": self.name, "query": dict(query)})["n"])

    def insert_one(self, document: Mapping[str, Any]) -> None:
        self._database.command({"insert": self.name, "documents": [dict(document)]})

    def update_one(self, query: Mapping[str, Any], update: Mapping[str, Any], upsert: bool = False) -> SimpleNamespace:
        return self._update([{"q": dict(query), "u": dict(update), "upsert": upsert}])

    def update_many(self, query: Mapping[str, Any], update: Mapping[str, Any]) -> SimpleNamespace:
        return self._update([{"q": dict(query), "u": dict(update), "multi": True}])

    replace_one = update_one

    def bulk_write(self, updates: Sequence[UpdateOne], ordered: bool = True) -> SimpleNamespace:
        """Several `UpdateOne`."""
        said = [{"q": u._filter, "u": u._doc, "upsert": bool(u._upsert)} for u in updates]
        return self._update(said, ordered)

    def find_one_and_update(
        self,
        query: Mapping[str, Any],
        update: Mapping[str, Any],
        projection: Mapping[str, Any] | None = None,
        return_document: bool = False,
    ) -> Document | None:
        fields = {"fields": dict(projection)} if projection else {}
        said = {"findAndModify": self.name, "query": dict(query), "update": dict(update), "new": return_document}
        found: Document | None = self._database.command({**said, **fields})["value"]
        return found

    def _update(self, statements: Sequence[Document], ordered: bool = True) -> SimpleNamespace:
        reply = self._database.command({"update": self.name, "updates": list(statements), "ordered": ordered})
        upserted = reply.get("upserted", [])
        matched = reply["n"] - len(upserted)
        return SimpleNamespace(matched_count=matched, modified_count=reply["nModified"], upserted=upserted)
