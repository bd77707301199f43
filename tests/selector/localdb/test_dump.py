"""Export and import: mongodump's layout, byte for byte there and back."""

from datetime import datetime
from pathlib import Path

import bson
import pytest
from bson import Binary, Decimal128, Int64, json_util
from pymongo.database import Database

from selector.errors import SelectorError, UsageError
from selector.localdb.dump import export_database, import_database

ROWS = [
    {
        "_id": i,
        "long": Int64(i),
        "d": Decimal128("1.50"),
        "b": Binary(b"x" * i, 128),
        "when": datetime(2026, 1, 2),
        "z": 1.0,
        "a": [{}],
    }
    for i in range(1500)
]


def fill(database: Database) -> None:
    database["plain"].insert_many(ROWS)
    database["plain"].create_index([("long", 1), ("z", -1)], unique=True)
    database["plain"].create_index("a.k", name="mine", sparse=True)
    database["with.dots/and slash%"].insert_one({"_id": "x"})
    database.create_collection("empty")


def test_there_and_back(database: Database, tmp_path: Path) -> None:
    fill(database)
    numbers = {"plain": 1500, "with.dots/and slash%": 1, "empty": 0}
    assert export_database(database, tmp_path) == numbers
    folder = tmp_path / database.name
    with (folder / "plain.bson").open("rb") as file:
        assert list(bson.decode_file_iter(file)) == ROWS
    metadata = json_util.loads((folder / "plain.metadata.json").read_text())
    assert metadata["collectionName"] == "plain" and metadata["type"] == "collection"
    assert [(index["name"], index.get("unique"), index.get("sparse")) for index in metadata["indexes"]] == [
        ("_id_", None, None),
        ("long_1_z_-1", True, None),
        ("mine", None, True),
    ]
    assert (folder / "with.dots%2Fand%20slash%25.bson").exists()

    other = database.client[database.name + "_2"]
    try:
        assert import_database(other, folder) == numbers
        assert other["plain"].index_information() == database["plain"].index_information()
        assert export_database(other, tmp_path) == numbers
        for file in folder.iterdir():
            assert (tmp_path / other.name / file.name).read_bytes() == file.read_bytes()
        with pytest.raises(UsageError, match="exists already"):
            import_database(other, folder)
    finally:
        database.client.drop_database(other.name)


def test_mistakes_are_named(database: Database, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"no \.bson files"):
        import_database(database, tmp_path / "none")
    database.c.insert_one({"_id": 1, "text": "value"})
    export_database(database, tmp_path)
    with pytest.raises(UsageError, match="not empty"):
        export_database(database, tmp_path)
    database.c.drop()
    file = tmp_path / database.name / "c.bson"
    file.write_bytes(file.read_bytes()[:-3])
    with pytest.raises(SelectorError, match=r"c\.bson: damaged"):
        import_database(database, file.parent)
