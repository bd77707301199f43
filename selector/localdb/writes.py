"""insert, update, delete, findAndModify."""

from collections.abc import Callable
from typing import Any

import bson

from selector.localdb.collection import CODEC, Collection
from selector.localdb.context import Context, Handler, check_hint, check_options, handler, namespace
from selector.localdb.failures import CommandError
from selector.localdb.keys import MISSING
from selector.localdb.matching import compile_filter
from selector.localdb.positions import check_array_filters
from selector.localdb.projection import compile_projection
from selector.localdb.queries import find
from selector.localdb.updates import apply_update, check_update, is_replacement, touched, upsert_base, with_identity

_UPDATE_FIELDS = {"q", "u", "multi", "upsert", "arrayFilters", "hint"}
_DELETE_FIELDS = {"q", "limit", "hint"}
_MODIFY_FIELDS = "query sort remove update new fields upsert arrayFilters hint bypassDocumentValidation"


def _bulk(command: dict, statements: list, run: Callable[[int, Any], None]) -> dict:
    """Run the statements in order; collect the failed ones, stopping at the first if the command says `ordered`."""
    errors = []
    for index, statement in enumerate(statements):
        try:
            run(index, statement)
        except CommandError as error:
            errors.append(error.write_error(index))
            if command.get("ordered", True):
                break
    return {"writeErrors": errors} if errors else {}


def insert(context: Context, command: dict) -> dict:
    """Add documents."""
    collection = context.storage.create(namespace(command))
    inserted = 0

    def one(_: int, document: dict) -> None:
        nonlocal inserted
        collection.insert(with_identity(document))
        inserted += 1

    failed = _bulk(command, command["documents"], one)
    return {"n": inserted, **failed, "ok": 1.0}


def update(context: Context, command: dict) -> dict:
    """Change documents, or insert what is not there (upsert)."""
    matched = modified = 0
    upserted = []

    def one(index: int, statement: dict) -> None:
        nonlocal matched, modified
        check_options(statement, _UPDATE_FIELDS, "update")
        query, change, multi = statement["q"], statement["u"], bool(statement.get("multi"))
        filters = statement.get("arrayFilters") or []
        check_update(change)
        check_array_filters(change, filters)
        if multi and is_replacement(change):
            raise CommandError("multi update is not supported for replacement-style update", 9)
        collection = context.collection(command)
        check_hint(collection, statement.get("hint"))
        found = find(collection, query)
        # All matches first: an update may move a document within the index that is being read.
        targets = list(found) if multi else [match for match in [next(found, None)] if match]
        for number, data in targets:
            matched += 1
            assert collection is not None
            document = apply_update(bson.decode(data, CODEC), change, query, filters)
            modified += collection.replace(number, data, document, touched(change))
        if not targets and statement.get("upsert"):
            document = _upsert(context, command, query, change, filters)
            upserted.append({"index": index, "_id": document["_id"]})
            matched += 1

    failed = _bulk(command, command["updates"], one)
    reply = {"n": matched, "nModified": modified, **failed, "ok": 1.0}
    return {**reply, "upserted": upserted} if upserted else reply


def _upsert(context: Context, command: dict, query: dict, change: Any, filters: list[dict]) -> dict:
    base = upsert_base(query)
    if is_replacement(change):
        base = {"_id": base["_id"]} if "_id" in base else {}
    document = with_identity(apply_update(base, change, query, filters, inserting=True))
    context.storage.create(namespace(command)).insert(document)
    return document


def delete(context: Context, command: dict) -> dict:
    """Remove documents."""
    removed = 0

    def one(_: int, statement: dict) -> None:
        nonlocal removed
        check_options(statement, _DELETE_FIELDS, "delete")
        collection = context.collection(command)
        check_hint(collection, statement.get("hint"))
        found = find(collection, statement["q"])
        targets = list(found) if not statement.get("limit") else [match for match in [next(found, None)] if match]
        for number, data in targets:
            assert collection is not None
            collection.delete(number, data)
            removed += 1

    failed = _bulk(command, command["deletes"], one)
    return {"n": removed, **failed, "ok": 1.0}


def find_and_modify(context: Context, command: dict) -> dict:
    """Change, replace or remove one document and return it as it was or, for `new`, as it became."""
    query, change, filters = command.get("query") or {}, command.get("update"), command.get("arrayFilters") or []
    removing = bool(command.get("remove"))
    if removing == (change is not None):
        raise CommandError("Either an update or remove=true must be specified, not both", 9)
    if removing and (command.get("upsert") or command.get("new")):
        raise CommandError("Cannot specify both remove=true and upsert=true or new=true", 9)
    if not removing:
        check_update(change)
        check_array_filters(change, filters)
    compile_filter(query)
    project = compile_projection(command.get("fields")) or (lambda document: document)
    collection = context.collection(command)
    check_hint(collection, command.get("hint"))
    match = next(find(collection, query, command.get("sort")), None)
    if match is None:
        if not command.get("upsert"):
            return {
                "lastErrorObject": {"n": 0, **({} if removing else {"updatedExisting": False})},
                "value": None,
                "ok": 1.0,
            }
        document = _upsert(context, command, query, change, filters)
        status = {"n": 1, "updatedExisting": False, "upserted": document["_id"]}
        return {"lastErrorObject": status, "value": project(document) if command.get("new") else None, "ok": 1.0}
    assert collection is not None
    before = bson.decode(match[1], CODEC)
    if removing:
        collection.delete(*match)
        return {"lastErrorObject": {"n": 1}, "value": project(before), "ok": 1.0}
    after = _modify(collection, match, change, query, filters)
    value = project(after if command.get("new") else before)
    return {"lastErrorObject": {"n": 1, "updatedExisting": True}, "value": value, "ok": 1.0}


def _modify(collection: Collection, match: tuple[int, bytes], change: Any, query: dict, filters: list[dict]) -> dict:
    number, data = match
    after = apply_update(bson.decode(data, CODEC), change, query, filters)
    collection.replace(number, data, after, touched(change))
    assert after.get("_id", MISSING) is not MISSING
    return after


HANDLERS: dict[str, Handler] = {
    "insert": handler(insert, "documents ordered bypassDocumentValidation", writes=True),
    "update": handler(update, "updates ordered bypassDocumentValidation", writes=True),
    "delete": handler(delete, "deletes ordered", writes=True),
    "findAndModify": handler(find_and_modify, _MODIFY_FIELDS, writes=True),
    "findandmodify": handler(find_and_modify, _MODIFY_FIELDS, writes=True),
}
