"""Commands about the server, its databases, collections and indexes."""

import platform
from datetime import UTC, datetime

from bson import Int64

from selector import __version__
from selector.localdb.collection import MAX_DOCUMENT_BYTES, Collection
from selector.localdb.context import Context, Handler, handler, namespace
from selector.localdb.cursors import encoded
from selector.localdb.failures import CommandError, unsupported
from selector.localdb.indexes import check_spec
from selector.localdb.matching import compile_filter
from selector.localdb.retries import SESSION_MINUTES, forget
from selector.localdb.wire import MAX_MESSAGE_BYTES

# The protocol of MongoDB 7.0, in the role of its router (mongos): one address, sessions, and retryable writes.
_WIRE_VERSION = 21
_SERVER_VERSION = [7, 0, 0, 0]


def hello(context: Context, command: dict) -> dict:
    """What drivers ask first."""
    return {
        "helloOk": True,
        "msg": "isdbgrid",
        "logicalSessionTimeoutMinutes": SESSION_MINUTES,
        "ismaster": True,
        "isWritablePrimary": True,
        "maxBsonObjectSize": MAX_DOCUMENT_BYTES,
        "maxMessageSizeBytes": MAX_MESSAGE_BYTES,
        "maxWriteBatchSize": 100_000,
        "localTime": datetime.now(UTC),
        "minWireVersion": 0,
        "maxWireVersion": _WIRE_VERSION,
        "readOnly": False,
        "ok": 1.0,
    }


def build_info(context: Context, command: dict) -> dict:
    """The version of MongoDB whose protocol this is, and what really answers."""
    version = ".".join(map(str, _SERVER_VERSION[:3]))
    return {
        "version": version,
        "versionArray": _SERVER_VERSION,
        "modules": [f"theory-level-selector local database {__version__}"],
        "bits": 64,
        "maxBsonObjectSize": MAX_DOCUMENT_BYTES,
        "ok": 1.0,
    }


def _ok(context: Context, command: dict) -> dict:
    return {"ok": 1.0}


def end_sessions(context: Context, command: dict) -> dict:
    """Forget what sessions wrote last."""
    forget(context.storage, [bytes(session["id"]) for session in command["endSessions"]])
    return {"ok": 1.0}


def _existing(context: Context, command: dict) -> Collection:
    collection = context.collection(command)
    if collection is None:
        raise CommandError(f"ns does not exist: {namespace(command)}", 26)
    return collection


def create(context: Context, command: dict) -> dict:
    """A new, empty collection."""
    if context.collection(command) is not None:
        raise CommandError(f"Collection {namespace(command)} already exists.", 48)
    context.storage.create(namespace(command))
    return {"ok": 1.0}


def drop(context: Context, command: dict) -> dict:
    """Remove a collection."""
    collection = context.collection(command)
    if collection is None:
        return {"ok": 1.0}
    reply = {"nIndexesWas": len(collection.indexes), "ns": collection.ns, "ok": 1.0}
    context.storage.drop(collection.ns)
    return reply


def drop_database(context: Context, command: dict) -> dict:
    """Remove all collections of a database."""
    for ns in [ns for ns in context.storage.collections if ns.split(".")[0] == command["$db"]]:
        context.storage.drop(ns)
    return {"dropped": command["$db"], "ok": 1.0}


def rename(context: Context, command: dict) -> dict:
    """Rename a collection."""
    source, target = command["renameCollection"], command["to"]
    collections = context.storage.collections
    if source not in collections:
        raise CommandError(f"Source collection {source} does not exist", 26)
    if source.split(".")[0] != target.split(".")[0]:
        raise unsupported("moving a collection to another database")
    if target in collections:
        if not command.get("dropTarget"):
            raise CommandError("target namespace exists", 48)
        if target != source:
            context.storage.drop(target)
    context.storage.rename(source, target)
    return {"ok": 1.0}


def create_indexes(context: Context, command: dict) -> dict:
    """Build indexes."""
    existed = context.collection(command) is not None
    specs = [check_spec(spec) for spec in command["indexes"]]
    collection = context.storage.create(namespace(command))
    before = len(collection.indexes)
    made: list[str] = []
    try:
        for spec in specs:
            if collection.create_index(spec):
                made.append(spec["name"])
    except CommandError:
        for name in made:
            collection.drop_index(name)
        raise
    reply = {"numIndexesBefore": before, "numIndexesAfter": len(collection.indexes), "ok": 1.0}
    if not existed:
        reply["createdCollectionAutomatically"] = True
    return reply


def drop_indexes(context: Context, command: dict) -> dict:
    """Remove one index by name or key, or all but that on `_id`."""
    collection = _existing(context, command)
    before, wanted = len(collection.indexes), command["index"]
    names = [name for name in collection.indexes if name != "_id_"]
    if wanted in ("_id_", {"_id": 1}):
        raise CommandError("cannot drop _id index", 72)
    if wanted != "*":
        names = [
            name
            for name in names
            if name == wanted or (isinstance(wanted, dict) and collection.indexes[name].spec["key"] == wanted)
        ]
        if not names:
            raise CommandError(f"index not found with name [{wanted}]", 27)
    for name in names:
        collection.drop_index(name)
    return {"nIndexesWas": before, "ok": 1.0}


def list_indexes(context: Context, command: dict) -> dict:
    """The indexes of a collection."""
    specs = [index.spec for index in _existing(context, command).indexes.values()]
    return context.cursors.first(namespace(command), encoded(iter(specs)), None)


def list_collections(context: Context, command: dict) -> dict:
    """The collections of a database."""
    test = compile_filter(command.get("filter") or {})
    database = command["$db"]
    rows = [
        {
            "name": ns.split(".", 1)[1],
            "type": "collection",
            "options": collection.options,
            "info": {"readOnly": False},
            "idIndex": collection.indexes["_id_"].spec,
        }
        for ns, collection in sorted(context.storage.collections.items())
        if ns.split(".", 1)[0] == database
    ]
    return context.cursors.first(f"{database}.$cmd.listCollections", encoded(row for row in rows if test(row)), None)


def list_databases(context: Context, command: dict) -> dict:
    """The databases in the file."""
    test = compile_filter(command.get("filter") or {})
    sizes: dict[str, int] = {}
    for ns, collection in context.storage.collections.items():
        name = ns.split(".", 1)[0]
        sizes[name] = sizes.get(name, 0) + (0 if command.get("nameOnly") else collection.size_bytes())
    rows = [{"name": name, "sizeOnDisk": Int64(size), "empty": False} for name, size in sorted(sizes.items())]
    rows = [{"name": row["name"]} if command.get("nameOnly") else row for row in rows if test(row)]
    return {"databases": rows, "totalSize": Int64(sum(sizes.values())), "ok": 1.0}


def database_stats(context: Context, command: dict) -> dict:
    """Counts and sizes of a database."""
    members = [c for ns, c in context.storage.collections.items() if ns.split(".", 1)[0] == command["$db"]]
    return {
        "db": command["$db"],
        "collections": len(members),
        "objects": sum(collection.count() for collection in members),
        "dataSize": sum(collection.size_bytes() for collection in members),
        "indexes": sum(len(collection.indexes) for collection in members),
        "ok": 1.0,
    }


def collection_stats(context: Context, command: dict) -> dict:
    """Counts and sizes of a collection."""
    collection = context.collection(command)
    count = collection.count() if collection else 0
    size = collection.size_bytes() if collection else 0
    indexes = len(collection.indexes) if collection else 0
    average = {"avgObjSize": size / count} if count else {}
    return {"ns": namespace(command), "count": count, "size": size, **average, "nindexes": indexes, "ok": 1.0}


def host_info(context: Context, command: dict) -> dict:
    """The machine."""
    return {"system": {"currentTime": datetime.now(UTC), "hostname": platform.node()}, "ok": 1.0}


_HELLO_FIELDS = (
    "client compression helloOk hostInfo topologyVersion maxAwaitTimeMS saslSupportedMechs loadBalanced backpressure"
)
HANDLERS: dict[str, Handler] = {
    "hello": handler(hello, _HELLO_FIELDS),
    "ismaster": handler(hello, _HELLO_FIELDS),
    "isMaster": handler(hello, _HELLO_FIELDS),
    "buildInfo": handler(build_info),
    "buildinfo": handler(build_info),
    "hostInfo": handler(host_info),
    "ping": handler(_ok),
    "endSessions": handler(end_sessions, writes=True),
    "create": handler(create, "autoIndexId", writes=True),
    "drop": handler(drop, writes=True),
    "dropDatabase": handler(drop_database, writes=True),
    "renameCollection": handler(rename, "to dropTarget", writes=True),
    "createIndexes": handler(create_indexes, "indexes commitQuorum", writes=True),
    "dropIndexes": handler(drop_indexes, "index", writes=True),
    "listIndexes": handler(list_indexes, "cursor"),
    "listCollections": handler(list_collections, "filter nameOnly authorizedCollections cursor"),
    "listDatabases": handler(list_databases, "filter nameOnly authorizedDatabases"),
    "dbStats": handler(database_stats, "scale"),
    "dbstats": handler(database_stats, "scale"),
    "collStats": handler(collection_stats),
    "collstats": handler(collection_stats),
}
