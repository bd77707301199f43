"""Documents and indexes in one SQLite file: the only copy of the data, so what is committed is what a restart finds.

Each collection is a table of BSON documents by number, in order of insertion; each index is a table of (key, document
number). Write-ahead logging with ``synchronous=NORMAL``: a commit is given to the operating system before the reply, so
it outlives ``kill -9`` of any process; a power cut can undo the last moments but not damage the file. Commands that ask
for ``writeConcern: {j: true}`` wait for the disk.
"""

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import bson

from selector.errors import SelectorError
from selector.localdb.collection import Collection
from selector.localdb.failures import CommandError, unsupported
from selector.localdb.indexes import Index

APPLICATION_ID = 0x53454C31
_SCHEMA_VERSION = 1
_CHECKED_BYTES = 512 * 1024 * 1024
_SCHEMA = f"""
CREATE TABLE collections (id INTEGER PRIMARY KEY, ns TEXT NOT NULL UNIQUE, options BLOB NOT NULL);
CREATE TABLE indexes
    (id INTEGER PRIMARY KEY, collection INTEGER NOT NULL, spec BLOB NOT NULL, multikey INTEGER NOT NULL);
PRAGMA application_id = {APPLICATION_ID};
PRAGMA user_version = {_SCHEMA_VERSION};
"""
_RETRIES = """
CREATE TABLE IF NOT EXISTS retries
    (session BLOB PRIMARY KEY, number INTEGER NOT NULL, reply BLOB NOT NULL, at_s REAL NOT NULL) WITHOUT ROWID
"""
ID_INDEX = {"v": 2, "key": {"_id": 1}, "name": "_id_"}


class Storage:
    """The open database file and its catalogue of collections.

    Raises
    ------
    SelectorError
        The file can't be opened, is damaged or is no database of this program.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.collections: dict[str, Collection] = {}
        try:
            self.sql = sqlite3.connect(path, timeout=1.0, isolation_level=None, cached_statements=512)
            self._open()
        except sqlite3.DatabaseError as error:
            raise SelectorError(f"{path}: {_reason(error)}") from error

    def _open(self) -> None:
        sql = self.sql
        # Exclusive locking also keeps other programs out, and needs no shared-memory file.
        sql.execute("PRAGMA locking_mode = EXCLUSIVE")
        tables = sql.execute("SELECT COUNT(*) FROM sqlite_master").fetchone()[0]
        if tables and sql.execute("PRAGMA application_id").fetchone()[0] != APPLICATION_ID:
            raise SelectorError(f"{self.path}: not a database of this program; name another file")
        version = sql.execute("PRAGMA user_version").fetchone()[0]
        if version > _SCHEMA_VERSION:
            raise SelectorError(f"{self.path}: written by a newer version of this program; upgrade to open it")
        sql.execute("PRAGMA journal_mode = WAL")
        sql.execute("PRAGMA synchronous = NORMAL")
        sql.execute("PRAGMA cache_size = -65536")
        sql.execute("PRAGMA journal_size_limit = 67108864")
        if not tables:
            sql.executescript(f"BEGIN IMMEDIATE; {_SCHEMA} COMMIT;")
        elif self.path.stat().st_size <= _CHECKED_BYTES:
            verdict = sql.execute("PRAGMA quick_check(1)").fetchone()[0]
            if verdict != "ok":
                raise SelectorError(f"{self.path}: {_reason(sqlite3.DatabaseError(verdict))}")
        sql.execute(_RETRIES)  # files of the first release have no such table
        self._load_catalogue()

    def _load_catalogue(self) -> None:
        by_number = {}
        for number, ns, options in self.sql.execute("SELECT id, ns, options FROM collections"):
            by_number[number] = Collection(self.sql, number, ns, bson.decode(options))
        for number, owner, spec, multikey in self.sql.execute(
            "SELECT id, collection, spec, multikey FROM indexes ORDER BY id"
        ):
            index = Index(number, bson.decode(spec), bool(multikey))
            by_number[owner].indexes[index.spec["name"]] = index
        self.collections = {collection.ns: collection for collection in by_number.values()}

    @contextmanager
    def transaction(self, to_disk: bool = False) -> Iterator[None]:
        """All changes inside happen together or, after an error other than CommandError, not at all.

        A CommandError leaves standing what its command did before: MongoDB's bulk writes aren't atomic either.
        """
        if to_disk:
            self.sql.execute("PRAGMA synchronous = FULL")
        self.sql.execute("BEGIN IMMEDIATE")
        try:
            yield
        except CommandError:
            self._commit()
            raise
        except BaseException:
            self.rollback()
            raise
        else:
            self._commit()
        finally:
            if to_disk:
                self.sql.execute("PRAGMA synchronous = NORMAL")

    def _commit(self) -> None:
        try:
            self.sql.execute("COMMIT")
        except BaseException:
            self.rollback()
            raise

    def rollback(self) -> None:
        """Undo the transaction, and what the catalogue in memory learned from it."""
        # SQLite has already rolled back by itself after some errors, a full disk among them.
        if self.sql.in_transaction:
            self.sql.execute("ROLLBACK")
        self._load_catalogue()

    def create(self, ns: str, options: dict | None = None) -> Collection:
        """The collection `ns`, made if it does not exist."""
        if ns in self.collections:
            return self.collections[ns]
        database, _, name = ns.partition(".")
        if not name or name.startswith("system.") or "$" in ns or "\0" in ns or len(ns.encode()) > 255:
            raise CommandError(f"Invalid namespace specified '{ns}'", 73)
        if database in ("admin", "config", "local"):
            raise unsupported(f"writing to the database '{database}'")
        row = self.sql.execute("INSERT INTO collections (ns, options) VALUES (?, ?)", (ns, bson.encode(options or {})))
        collection = Collection(self.sql, row.lastrowid or 0, ns, options or {})
        self.sql.execute(f"CREATE TABLE {collection.table} (number INTEGER PRIMARY KEY, bson BLOB NOT NULL)")
        collection.create_index(ID_INDEX)
        self.collections[ns] = collection
        return collection

    def drop(self, ns: str) -> None:
        """Remove a collection with its indexes."""
        collection = self.collections.pop(ns)
        for name in list(collection.indexes):
            collection.drop_index(name)
        self.sql.execute(f"DROP TABLE {collection.table}")
        self.sql.execute("DELETE FROM collections WHERE id = ?", (collection.number,))

    def rename(self, ns: str, new: str) -> None:
        """Give a collection another name."""
        collection = self.collections.pop(ns)
        self.sql.execute("UPDATE collections SET ns = ? WHERE id = ?", (new, collection.number))
        collection.ns = new
        self.collections[new] = collection

    def close(self) -> None:
        """Fold the log into the file and let go of it."""
        self.sql.close()


def _reason(error: sqlite3.DatabaseError) -> str:
    text = str(error)
    if "not a database" in text:
        return "not a database file; name another file, or restore it from an export"
    if "locked" in text:
        return "another program has the file open; close it"
    if "unable to open" in text or "readonly" in text:
        return f"{text}; check that the folder exists and is writable"
    return f"the file is damaged ({text}); restore it from an export, or move it away to start an empty database"
