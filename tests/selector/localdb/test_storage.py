"""The database file: rollback on a full disk, restart, foreign files."""

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from selector.errors import SelectorError
from selector.localdb.commands import execute
from selector.localdb.context import Context
from selector.localdb.storage import Storage


def insert(context: Context, *documents: dict) -> dict:
    return execute(context, {"insert": "c", "$db": "t", "documents": list(documents)})


def numbers(context: Context) -> list[int]:
    found = execute(context, {"find": "c", "$db": "t", "sort": {"_id": 1}, "batchSize": 10_000})
    return [row["_id"] for row in found["cursor"]["firstBatch"]]


def test_a_full_disk_fails_the_write_loudly_and_whole_and_the_server_goes_on(tmp_path: Path) -> None:
    storage = Storage(tmp_path / "s.db")
    context = Context(storage)
    assert execute(
        context, {"createIndexes": "c", "$db": "t", "indexes": [{"key": {"k": 1}, "name": "k_1", "unique": True}]}
    )["ok"]
    assert insert(context, {"_id": 0, "k": 0})["ok"]
    pages = storage.sql.execute("PRAGMA page_count").fetchone()[0]
    # SQLite reports its page limit by the same error as a full disk.
    storage.sql.execute(f"PRAGMA max_page_count = {pages + 20}")
    reply = insert(context, *({"_id": i, "k": i, "pad": "x" * 1000} for i in range(1, 500)))
    assert reply["code"] == 14031 and "not stored" in reply["errmsg"] and "s.db" in reply["errmsg"]
    assert numbers(context) == [0]
    storage.sql.execute("PRAGMA max_page_count = 1000000")
    assert insert(context, *({"_id": i, "k": i} for i in range(1, 500)))["n"] == 499
    assert numbers(context) == list(range(500))
    storage.close()
    again = Storage(tmp_path / "s.db")
    assert numbers(Context(again)) == list(range(500))
    assert again.sql.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    again.close()


def test_a_command_that_fails_in_the_middle_leaves_the_catalogue_right(tmp_path: Path) -> None:
    storage = Storage(tmp_path / "s.db")
    context = Context(storage)
    pages = storage.sql.execute("PRAGMA page_count").fetchone()[0]
    storage.sql.execute(f"PRAGMA max_page_count = {pages + 1}")
    assert execute(context, {"create": "c", "$db": "t"})["ok"] == 0
    assert storage.collections == {}
    storage.sql.execute("PRAGMA max_page_count = 1000000")
    assert execute(context, {"create": "c", "$db": "t"})["ok"]
    storage.close()


def test_everything_is_there_after_a_restart(tmp_path: Path) -> None:
    storage = Storage(tmp_path / "s.db")
    context = Context(storage)
    insert(context, *({"_id": i, "k": [i, -i]} for i in range(50)))
    execute(context, {"createIndexes": "c", "$db": "t", "indexes": [{"key": {"k": 1}, "name": "k_1", "unique": True}]})
    execute(context, {"create": "empty", "$db": "t"})
    storage.close()
    again = Context(Storage(tmp_path / "s.db"))
    assert sorted(again.storage.collections) == ["t.c", "t.empty"]
    assert again.storage.collections["t.c"].indexes["k_1"].multikey
    assert insert(again, {"_id": 99, "k": -7})["writeErrors"][0]["code"] == 11000
    assert execute(again, {"count": "c", "$db": "t", "query": {"k": -7}})["n"] == 1
    again.storage.close()


def test_other_sqlite_files_are_left_alone(tmp_path: Path) -> None:
    with closing(sqlite3.connect(tmp_path / "other.db")) as other:
        other.execute("CREATE TABLE t (x)")
    before = (tmp_path / "other.db").read_bytes()
    with pytest.raises(SelectorError, match="not a database of this program"):
        Storage(tmp_path / "other.db")
    assert (tmp_path / "other.db").read_bytes() == before
    Storage(tmp_path / "newer.db").close()
    with closing(sqlite3.connect(tmp_path / "newer.db")) as newer:
        newer.execute("PRAGMA user_version = 99")
    with pytest.raises(SelectorError, match="newer version"):
        Storage(tmp_path / "newer.db")
