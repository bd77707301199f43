"""One collection: a SQLite table of BSON documents, and its indexes."""

import sqlite3
from collections.abc import Iterator

import bson
from bson.codec_options import CodecOptions, DatetimeConversion

from selector.localdb.failures import CommandError
from selector.localdb.indexes import Index

MAX_DOCUMENT_BYTES = 16 * 1024 * 1024
CODEC: CodecOptions = CodecOptions(datetime_conversion=DatetimeConversion.DATETIME_AUTO)


class Collection:
    """One collection: its documents and its indexes. Every change belongs inside `Storage.transaction`."""

    def __init__(self, sql: sqlite3.Connection, number: int, ns: str, options: dict) -> None:
        self.sql, self.number, self.ns, self.options = sql, number, ns, options
        self.table = f"documents_{number}"
        self.indexes: dict[str, Index] = {}

    def count(self) -> int:
        """Number of documents."""
        return self.sql.execute(f"SELECT COUNT(*) FROM {self.indexes['_id_'].table}").fetchone()[0]

    def size_bytes(self) -> int:
        """Sum of the documents' BSON sizes."""
        return self.sql.execute(f"SELECT COALESCE(SUM(LENGTH(bson)), 0) FROM {self.table}").fetchone()[0]

    def get(self, number: int) -> bytes | None:
        """The BSON of one document, None if it is gone."""
        row = self.sql.execute(f"SELECT bson FROM {self.table} WHERE number = ?", (number,)).fetchone()
        return row[0] if row else None

    def scan(self) -> Iterator[tuple[int, bytes]]:
        """All documents by number. Reads in pieces and keeps no statement open, so writes in between are safe."""
        last, size = -1, 32
        while True:
            query = f"SELECT number, bson FROM {self.table} WHERE number > ? ORDER BY number LIMIT {size}"
            rows = self.sql.execute(query, (last,)).fetchall()
            yield from rows
            if len(rows) < size:
                return
            last, size = rows[-1][0], min(2 * size, 512)

    def insert(self, document: dict) -> None:
        """Add a document that has its `_id`."""
        data = encode_document(document)
        keys = {index: index.keys(document) for index in self.indexes.values()}
        for index, new in keys.items():
            index.check_unique(self.sql, new, self.ns, document)
        number = self.sql.execute(f"INSERT INTO {self.table} (bson) VALUES (?)", (data,)).lastrowid
        assert number is not None
        for index, new in keys.items():
            index.add(self.sql, new, number)

    def replace(self, number: int, old: bytes, document: dict, touched: set[str] | None = None) -> bool:
        """Put `document` in the place of the one with BSON `old`; False if nothing changed.

        `touched`: the only fields, by the first part of their names, that may differ; None if any may.
        """
        data = encode_document(document)
        if data == old:
            return False
        concerned = [index for index in self.indexes.values() if index.concerns(touched)]
        before = bson.decode(old, CODEC) if concerned else {}
        changes = []
        for index in concerned:
            old_keys, new_keys = index.keys(before), index.keys(document)
            added, gone = new_keys - old_keys, old_keys - new_keys
            index.check_unique(self.sql, added, self.ns, document, number)
            changes.append((index, added, gone))
        self.sql.execute(f"UPDATE {self.table} SET bson = ? WHERE number = ?", (data, number))
        for index, added, gone in changes:
            index.discard(self.sql, gone, number)
            index.add(self.sql, added, number)
        return True

    def delete(self, number: int, data: bytes) -> None:
        """Remove one document, whose BSON is `data`."""
        document = bson.decode(data, CODEC)
        for index in self.indexes.values():
            index.discard(self.sql, index.keys(document), number)
        self.sql.execute(f"DELETE FROM {self.table} WHERE number = ?", (number,))

    def create_index(self, spec: dict) -> bool:
        """Build an index; False if the same one exists."""
        for name, index in self.indexes.items():
            same_key = list(index.spec["key"].items()) == list(spec["key"].items())
            if same_key and index.options() == Index(0, spec).options() and name in (spec["name"], "_id_"):
                return False
            if name == spec["name"]:
                raise CommandError(f"An existing index has the same name as the requested index: {name}", 86)
            if same_key:
                raise CommandError(f"Index already exists with a different name or options: {name}", 85)
        statement = "INSERT INTO indexes (collection, spec, multikey) VALUES (?, ?, 0)"
        row = self.sql.execute(statement, (self.number, bson.encode(spec)))
        index = Index(row.lastrowid or 0, spec)
        self.sql.execute(
            f"CREATE TABLE {index.table} (key BLOB, number INTEGER, PRIMARY KEY (key, number)) WITHOUT ROWID"
        )
        self.indexes[spec["name"]] = index
        try:
            for number, data in self.scan():
                document = bson.decode(data, CODEC)
                keys = index.keys(document)
                index.check_unique(self.sql, keys, self.ns, document, number)
                index.add(self.sql, keys, number)
        except CommandError:
            self.drop_index(spec["name"])
            raise
        return True

    def drop_index(self, name: str) -> None:
        """Remove one index."""
        index = self.indexes.pop(name)
        self.sql.execute(f"DROP TABLE {index.table}")
        self.sql.execute("DELETE FROM indexes WHERE id = ?", (index.number,))


def encode_document(document: dict) -> bytes:
    """The document as BSON, refused above MongoDB's limit of 16 MB."""
    data = bson.encode(document)
    if len(data) > MAX_DOCUMENT_BYTES:
        raise CommandError(
            f"object to insert too large. size in bytes: {len(data)}, max size: {MAX_DOCUMENT_BYTES}", 10334
        )
    return data
