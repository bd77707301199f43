"""Export and import in the layout of mongodump, with any MongoDB server: how a trial campaign moves to a real one.

``FOLDER/DATABASE/COLLECTION.bson`` holds the documents one after the other, ``COLLECTION.metadata.json`` the options
and indexes as extended JSON. `mongorestore` reads the export, the import what `mongodump` writes (without ``--gzip``).
"""

from collections.abc import Mapping
from pathlib import Path
from urllib.parse import quote, unquote

import bson
from bson import json_util
from bson.codec_options import CodecOptions
from bson.errors import BSONError
from bson.raw_bson import RawBSONDocument
from pymongo.database import Database
from pymongo.errors import PyMongoError

from selector.errors import SelectorError, UsageError

_RAW: CodecOptions = CodecOptions(document_class=RawBSONDocument)
_BATCH_BYTES = 8 * 1024 * 1024
_BATCH_DOCUMENTS = 1000
_METADATA = ".metadata.json"


def export_database(database: Database, folder: Path) -> dict[str, int]:
    """Write every collection of `database` to ``folder/NAME_OF_DATABASE``.

    As with mongodump on one server, collections are read one after the other: stop the campaign first for a consistent
    picture.

    Returns
    -------
    dict
        Collection name to number of documents.

    Raises
    ------
    UsageError
        The target folder has files already, or can't be written.
    """
    target = folder / database.name
    try:
        target.mkdir(parents=True, exist_ok=True)
        if any(target.iterdir()):
            raise UsageError(f"{target}: not empty; name another folder or remove it")
        infos = [info for info in database.list_collections() if info.get("type", "collection") == "collection"]
        return {
            info["name"]: _export(database, info, target) for info in infos if not info["name"].startswith("system.")
        }
    except OSError as error:
        raise UsageError(f"{target}: cannot write the export ({error.strerror})") from error


def _export(database: Database, info: Mapping, target: Path) -> int:
    name = info["name"]
    base = target / quote(name, safe="$&+:=@")
    number = 0
    with base.with_name(base.name + ".bson").open("wb") as file:
        for document in database.get_collection(name, codec_options=_RAW).find():
            file.write(document.raw)
            number += 1
    indexes = [{k: v for k, v in index.items() if k != "ns"} for index in database[name].list_indexes()]
    metadata = {
        "options": info.get("options", {}),
        "indexes": indexes,
        "collectionName": name,
        "type": "collection",
    }
    text = json_util.dumps(metadata, json_options=json_util.CANONICAL_JSON_OPTIONS)
    base.with_name(base.name + _METADATA).write_text(text)
    return number


def import_database(database: Database, folder: Path) -> dict[str, int]:
    """Read an export into `database`; `folder` is the one that holds the ``.bson`` files.

    Returns
    -------
    dict
        Collection name to number of documents.

    Raises
    ------
    UsageError
        No export there, or the database has one of its collections already.
    SelectorError
        A file is damaged, or the server refuses a document; the message names the file.
    """
    files = sorted(folder.glob("*.bson")) if folder.is_dir() else []
    if not files:
        raise UsageError(f"{folder}: no .bson files; name the folder of one database in the export")
    names = {file: unquote(file.name.removesuffix(".bson")) for file in files}
    taken = sorted(set(names.values()) & set(database.list_collection_names()))
    if taken:
        raise UsageError(f"{database.name}.{taken[0]}: exists already; import into another database or drop it first")
    return {name: _import(database, name, file) for file, name in names.items()}


def _import(database: Database, name: str, file: Path) -> int:
    try:
        metadata = _metadata(file)
        database.create_collection(name, **metadata.get("options", {}))
        collection = database.get_collection(name, codec_options=_RAW)
        number, batch, size = 0, [], 0
        with file.open("rb") as stream:
            for document in bson.decode_file_iter(stream, _RAW):
                batch.append(document)
                size += len(document.raw)
                number += 1
                if size >= _BATCH_BYTES or len(batch) >= _BATCH_DOCUMENTS:
                    collection.insert_many(batch)
                    batch, size = [], 0
        if batch:
            collection.insert_many(batch)
        indexes = [index for index in metadata.get("indexes", []) if index["name"] != "_id_"]
        if indexes:
            database.command("createIndexes", name, indexes=indexes)
    except (BSONError, ValueError) as error:
        raise SelectorError(f"{file}: damaged ({error}); export again") from error
    except PyMongoError as error:
        raise SelectorError(f"{file}: the database refused it ({error})") from error
    except OSError as error:
        raise UsageError(f"{file}: cannot read it ({error.strerror})") from error
    return number


def _metadata(file: Path) -> dict:
    path = file.with_name(file.name.removesuffix(".bson") + _METADATA)
    return json_util.loads(path.read_text()) if path.exists() else {}
