"""find, getMore, killCursors, count, distinct, aggregate, explain."""

from collections.abc import Iterator
from itertools import islice
from typing import Any

import bson

from selector.localdb.collection import CODEC
from selector.localdb.context import Context, Handler, check_hint, handler, namespace
from selector.localdb.cursors import encoded
from selector.localdb.failures import CommandError, unsupported
from selector.localdb.keys import MISSING, encode
from selector.localdb.paths import leaves
from selector.localdb.projection import compile_projection
from selector.localdb.queries import count, explain, find

_FIND_FIELDS = (
    "filter projection sort skip limit batchSize singleBatch hint"
    " noCursorTimeout allowDiskUse allowPartialResults oplogReplay"
)


def _whole(command: dict, name: str) -> int:
    value = command.get(name) or 0
    if isinstance(value, bool) or not isinstance(value, (int, float)) or value != int(value):
        raise CommandError(f"{name} must be a whole number", 14)
    return int(value)


def run_find(context: Context, command: dict) -> dict:
    """Documents that match a filter."""
    collection = context.collection(command)
    check_hint(collection, command.get("hint"))
    skip, limit = _whole(command, "skip"), _whole(command, "limit")
    if skip < 0:
        raise CommandError("Skip value must be non-negative")
    single = bool(command.get("singleBatch")) or limit < 0
    project = compile_projection(command.get("projection"))
    found = find(collection, command.get("filter") or {}, command.get("sort"))
    results: Iterator[bytes] = (data for _, data in islice(found, skip, skip + abs(limit) if limit else None))
    if project:
        results = encoded(project(bson.decode(data, CODEC)) for data in results)
    size = command.get("batchSize")
    if single and limit and size is None:
        size = abs(limit)
    return context.cursors.first(namespace(command), results, size, single)


def get_more(context: Context, command: dict) -> dict:
    """The next batch of a cursor."""
    ns = f"{command['$db']}.{command['collection']}"
    return context.cursors.more(int(command["getMore"]), ns, command.get("batchSize"))


def kill_cursors(context: Context, command: dict) -> dict:
    """Close cursors."""
    wanted = [int(number) for number in command["cursors"]]
    closed = context.cursors.close(wanted)
    missing = [bson.Int64(number) for number in wanted if number not in closed]
    killed = [bson.Int64(number) for number in closed]
    return {"cursorsKilled": killed, "cursorsNotFound": missing, "cursorsAlive": [], "cursorsUnknown": [], "ok": 1.0}


def run_count(context: Context, command: dict) -> dict:
    """Number of matching documents."""
    collection = context.collection(command)
    check_hint(collection, command.get("hint"))
    skip, limit = _whole(command, "skip"), abs(_whole(command, "limit"))
    return {"n": count(collection, command.get("query") or {}, skip, limit), "ok": 1.0}


def distinct(context: Context, command: dict) -> dict:
    """The different values of a field; those of an array count one by one."""
    path = tuple(str(command["key"]).split("."))
    seen: dict[bytes, Any] = {}
    for _, data in find(context.collection(command), command.get("query") or {}):
        for leaf in leaves(bson.decode(data, CODEC), path):
            for value in leaf if isinstance(leaf, list) else [leaf]:
                if value is not MISSING:
                    seen.setdefault(encode(value), value)
    return {"values": list(seen.values()), "ok": 1.0}


def aggregate(context: Context, command: dict) -> dict:
    """A pipeline over a collection."""
    from selector.localdb.aggregation import run_pipeline

    if "cursor" not in command:
        raise CommandError("The 'cursor' option is required", 9)
    if not isinstance(command["aggregate"], str):
        raise unsupported("an aggregation over a whole database")
    check_hint(context.collection(command), command.get("hint"))
    results = run_pipeline(context, namespace(command), command["pipeline"])
    return context.cursors.first(namespace(command), results, (command["cursor"] or {}).get("batchSize"))


def run_explain(context: Context, command: dict) -> dict:
    """How a find or count would be answered."""
    inner = {**command["explain"], "$db": command["$db"]}
    name = next(iter(inner))
    if name not in ("find", "count"):
        raise unsupported(f"explain of {name}")
    query = inner.get("filter" if name == "find" else "query") or {}
    return {**explain(context.collection(inner), query, inner.get("sort")), "ok": 1.0}


HANDLERS: dict[str, Handler] = {
    "find": handler(run_find, _FIND_FIELDS),
    "getMore": handler(get_more, "collection batchSize"),
    "killCursors": handler(kill_cursors, "cursors"),
    "count": handler(run_count, "query skip limit hint"),
    "distinct": handler(distinct, "key query hint"),
    "aggregate": handler(aggregate, "pipeline cursor allowDiskUse hint bypassDocumentValidation", writes=True),
    "explain": handler(run_explain, "verbosity"),
}
