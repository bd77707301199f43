"""One index: which keys a document has in it, and the SQLite table of (key, document number)."""

import itertools
import sqlite3
from collections.abc import Iterator
from typing import Any

from selector.localdb.failures import CommandError, unsupported
from selector.localdb.keys import EMPTY_ARRAY, MISSING, NULL, descending, encode
from selector.localdb.matching import compile_filter
from selector.localdb.paths import Path, leaves

_KNOWN = {"v", "key", "name", "unique", "sparse", "partialFilterExpression", "background", "ns", "hidden"}


class Index:
    """An ordered index over one or several fields.

    An array has one key for itself and one for each element, so that every equality or range a filter can hold on the
    field finds the document; `multikey` remembers that this happened.
    """

    def __init__(self, number: int, spec: dict, multikey: bool = False) -> None:
        self.number, self.spec, self.multikey = number, spec, multikey
        self.table = f"index_{number}"
        self.fields: list[tuple[Path, int]] = [(tuple(n.split(".")), int(d)) for n, d in spec["key"].items()]
        self.unique = bool(spec.get("unique")) or spec["name"] == "_id_"
        self.sparse = bool(spec.get("sparse"))
        self.partial = compile_filter(spec["partialFilterExpression"]) if "partialFilterExpression" in spec else None

    def options(self) -> tuple:
        """What makes two indexes on the same key different."""
        return self.unique, self.sparse, encode(self.spec.get("partialFilterExpression"))

    def concerns(self, touched: set[str] | None) -> bool:
        """Whether a document's keys may change where only these fields do (see `updates.touched`)."""
        return touched is None or self.partial is not None or any(path[0] in touched for path, _ in self.fields)

    def keys(self, document: dict) -> set[bytes]:
        """The document's keys in this index."""
        if self.partial is not None and not self.partial(document):
            return set()
        if len(self.fields) == 1 and len(self.fields[0][0]) == 1:
            (path, direction) = self.fields[0]
            value = document.get(path[0], MISSING)
            if not isinstance(value, list):
                if value is MISSING and self.sparse:
                    return set()
                code = encode(value)
                return {code if direction > 0 else descending(code)}
        return self._general_keys(document)

    def _general_keys(self, document: dict) -> set[bytes]:
        found = [list(leaves(document, path)) for path, _ in self.fields]
        if self.sparse and all(leaf is MISSING for values in found for leaf in values):
            return set()
        per_field = []
        arrays = 0
        for (_, direction), values in zip(self.fields, found, strict=True):
            codes = _codes(values)
            arrays += len(codes) > 1
            per_field.append(codes if direction > 0 else {descending(code) for code in codes})
        if arrays > 1:
            raise CommandError("cannot index parallel arrays", 171)
        return {b"".join(parts) for parts in itertools.product(*per_field)}

    def check_unique(
        self, sql: sqlite3.Connection, keys: set[bytes], ns: str, document: dict, number: int = -1
    ) -> None:
        """Refuse keys of a unique index that another document than `number` has."""
        if not self.unique:
            return
        for key in keys:
            query = f"SELECT 1 FROM {self.table} WHERE key = ? AND number != ? LIMIT 1"
            if sql.execute(query, (key, number)).fetchone():
                value = {name: next(leaves(document, tuple(name.split("."))), None) for name in self.spec["key"]}
                value = {name: None if v is MISSING else v for name, v in value.items()}
                raise CommandError(
                    f"E11000 duplicate key error collection: {ns} index: {self.spec['name']} dup key: {value}",
                    11000, keyPattern=self.spec["key"], keyValue=value,
                )  # fmt: skip

    def add(self, sql: sqlite3.Connection, keys: set[bytes], number: int) -> None:
        """Enter a document under `keys`."""
        for key in keys:
            sql.execute(f"INSERT OR IGNORE INTO {self.table} VALUES (?, ?)", (key, number))
        if len(keys) > 1 and not self.multikey:
            self.multikey = True
            sql.execute("UPDATE indexes SET multikey = 1 WHERE id = ?", (self.number,))

    def discard(self, sql: sqlite3.Connection, keys: set[bytes], number: int) -> None:
        """Take a document out from under `keys`."""
        for key in keys:
            sql.execute(f"DELETE FROM {self.table} WHERE key = ? AND number = ?", (key, number))

    def scan(
        self, sql: sqlite3.Connection, low: bytes, high: bytes, reverse: bool = False
    ) -> Iterator[tuple[bytes, int]]:
        """(key, number) with low <= key < high, in order; read in pieces, so writes in between are safe."""
        step, order, size = (("<", "DESC") if reverse else (">", "ASC")) + (16,)
        where, bounds = "key >= ? AND key < ?", (low, high)
        while True:
            query = (
                f"SELECT key, number FROM {self.table} WHERE {where} ORDER BY key {order}, number {order} LIMIT {size}"
            )
            rows = sql.execute(query, bounds).fetchall()
            yield from rows
            if len(rows) < size:
                return
            size = min(4 * size, 1024)
            side = "key >= ?" if reverse else "key < ?"
            where, bounds = f"(key, number) {step} (?, ?) AND {side}", (*rows[-1], low if reverse else high)

    def count(self, sql: sqlite3.Connection, low: bytes, high: bytes, limit: int = -1) -> int:
        """Number of entries with low <= key < high, counted up to `limit`."""
        query = f"SELECT COUNT(*) FROM (SELECT 1 FROM {self.table} WHERE key >= ? AND key < ? LIMIT ?)"
        return sql.execute(query, (low, high, limit)).fetchone()[0]


def _codes(values: list[Any]) -> set[bytes]:
    codes = set()
    for value in values:
        codes.add(encode(value))
        if isinstance(value, list):
            # An empty array has a place of its own in a sort, so it counts as several values too.
            codes.update(map(encode, value) if value else [EMPTY_ARRAY])
    return codes or {NULL}


def check_spec(spec: dict) -> dict:
    """A createIndexes entry without what only tunes a real server; CommandError for what would change its meaning."""
    key = spec.get("key")
    if not isinstance(key, dict) or not key or not isinstance(spec.get("name"), str):
        raise CommandError("an index needs a key and a name", 67)
    for name, direction in key.items():
        if isinstance(direction, str) or "$**" in name:
            raise unsupported(f"an index of kind {direction!r} on '{name}'")
        if isinstance(direction, bool) or not isinstance(direction, (int, float)) or direction == 0:
            raise CommandError("Values in the index key pattern must be non-zero numbers", 67)
        if not all(name.split(".")):
            raise CommandError("Index keys cannot contain an empty field", 67)
    unknown = sorted(set(spec) - _KNOWN)
    if unknown:
        raise unsupported(f"the index option {unknown[0]}")
    if spec.get("sparse") and "partialFilterExpression" in spec:
        raise CommandError("cannot mix partialFilterExpression and sparse options", 67)
    kept = {name: spec[name] for name in ("unique", "sparse", "partialFilterExpression") if spec.get(name)}
    directions = {name: 1 if direction > 0 else -1 for name, direction in key.items()}
    return {"v": 2, "key": directions, "name": spec["name"], **kept}
