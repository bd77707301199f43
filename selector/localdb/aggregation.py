"""Pipelines: compiled as a whole before the first document is read, then run as a chain of iterators."""

from collections.abc import Iterable, Iterator
from typing import Any

import bson
from bson import Regex

from selector.localdb import queries
from selector.localdb.collection import CODEC
from selector.localdb.context import Context
from selector.localdb.cursors import encoded
from selector.localdb.expressions import field_value
from selector.localdb.failures import CommandError, unsupported
from selector.localdb.keys import MISSING
from selector.localdb.stages import STAGES, Stage
from selector.localdb.updates import with_identity

_IN_UPDATES = {"$addFields", "$set", "$project", "$unset", "$replaceRoot", "$replaceWith"}


def run_pipeline(context: Context, ns: str, pipeline: Any) -> Iterator[bytes]:
    """The results as BSON; `$out` has done its work when this returns."""
    stages = _split(pipeline)
    target = None
    if stages and stages[-1][0] == "$out":
        target = _out_target(ns, stages.pop()[1])
    results = _run(context, ns, stages)
    if target is not None:
        _write(context, target, list(results))
        return iter(())
    return encoded(results)


def _split(pipeline: Any) -> list[tuple[str, Any]]:
    if not isinstance(pipeline, list) or not all(isinstance(stage, dict) for stage in pipeline):
        raise CommandError("A pipeline must be an array of objects", 14)
    stages = []
    for stage in pipeline:
        if len(stage) != 1:
            raise CommandError("A pipeline stage specification object must contain exactly one field.", 40323)
        stages += list(stage.items())
    return stages


def _run(context: Context, ns: str, stages: list[tuple[str, Any]]) -> Iterator[dict]:
    """Results of the stages over the collection `ns`; the first `$match` and `$sort` use its indexes."""
    compiled = [_compile(context, ns, name, spec) for name, spec in stages]
    names = [name for name, _ in stages]
    query = stages[0][1] if names[:1] == ["$match"] else {}
    done = 1 if query or names[:1] == ["$match"] else 0
    collection = context.storage.collections.get(ns)
    counted = _counts_everything(stages[done]) if len(stages) > done else None
    documents: Iterator[dict]
    if counted is not None:
        number = queries.count(collection, query)
        documents = iter([{**counted[1], counted[0]: number}] if number else [])
        done += 1
    else:
        order = stages[done][1] if names[done : done + 1] == ["$sort"] else None
        done += order is not None
        found = queries.find(collection, query, order)
        documents = (bson.decode(data, CODEC) for _, data in found)
    for stage in compiled[done:]:
        documents = stage(documents)
    return documents


def _counts_everything(stage: tuple[str, Any]) -> tuple[str, dict] | None:
    """For a stage that only counts: the field of the number and the rest of the result. pymongo counts like this."""
    name, spec = stage
    if name == "$count":
        return spec, {}
    if (
        name == "$group"
        and isinstance(spec, dict)
        and len(spec) == 2
        and not isinstance(spec.get("_id"), (str, dict, list))
    ):
        [field] = [field for field in spec if field != "_id"] or [None]
        if (
            field
            and spec[field] in ({"$sum": 1}, {"$count": {}})
            and not isinstance(next(iter(spec[field].values())), bool)
        ):
            return field, {"_id": spec["_id"]}
    return None


def _compile(context: Context, ns: str, name: str, spec: Any) -> Stage:
    if name == "$lookup":
        return _lookup(context, ns.split(".", 1)[0], spec)
    if name == "$facet":
        return _facet(context, ns, spec)
    if name == "$out":
        raise CommandError("$out can only be the final stage in the pipeline", 40601)
    if name in STAGES:
        return STAGES[name](spec)
    raise unsupported(f"the pipeline stage {name}")


def _facet(context: Context, ns: str, spec: Any) -> Stage:
    if not isinstance(spec, dict) or not spec:
        raise CommandError("the $facet specification must be a non-empty object", 40169)
    pipelines = {
        title: [_compile(context, ns, name, inner) for name, inner in _split(stages)] for title, stages in spec.items()
    }

    def run(documents: Iterable[dict]) -> Iterator[dict]:
        everything = list(documents)
        result = {}
        for title, stages in pipelines.items():
            part: Iterator[dict] = iter(everything)
            for stage in stages:
                part = stage(part)
            result[title] = list(part)
        yield result

    return run


def _lookup(context: Context, database: str, spec: Any) -> Stage:
    unknown = set(spec) - {"from", "localField", "foreignField", "as", "pipeline"}
    if unknown:
        raise unsupported(f"the option '{min(unknown)}' of $lookup")
    if not {"from", "as"} <= set(spec) or ("localField" in spec) != ("foreignField" in spec):
        raise CommandError("$lookup needs from, as, and localField with foreignField", 9)
    ns, target = f"{database}.{spec['from']}", spec["as"]
    inner = _split(spec.get("pipeline") or [])
    for name, stage in inner:
        _compile(context, ns, name, stage)
    attach = STAGES["$addFields"]

    def run(documents: Iterable[dict]) -> Iterator[dict]:
        for document in documents:
            joined = []
            if "localField" in spec:
                joined = [("$match", {spec["foreignField"]: {"$in": _local_values(document, spec["localField"])}})]
            found = list(_run(context, ns, joined + inner))
            yield from attach({target: {"$literal": found}})([document])

    return run


def _local_values(document: dict, field: str) -> list:
    value = field_value(document, tuple(field.split(".")))
    values = value if isinstance(value, list) else [None if value is MISSING else value]
    if any(isinstance(item, Regex) for item in values):
        raise unsupported("$lookup of a regular expression")
    return values


def _out_target(ns: str, spec: Any) -> str:
    if isinstance(spec, dict) and set(spec) == {"db", "coll"}:
        return f"{spec['db']}.{spec['coll']}"
    if not isinstance(spec, str):
        raise CommandError("$out only supports a string or object argument", 16990)
    return f"{ns.split('.', 1)[0]}.{spec}"


def _write(context: Context, ns: str, documents: list[dict]) -> None:
    """Replace the contents of a collection, keeping its indexes."""
    collection = context.storage.create(ns)
    old = list(collection.scan())
    for number, data in old:
        collection.delete(number, data)
    try:
        for document in documents:
            collection.insert(with_identity(document))
    except CommandError:
        # MongoDB leaves the target untouched when $out fails.
        for number, data in list(collection.scan()):
            collection.delete(number, data)
        for _, data in old:
            collection.insert(bson.decode(data, CODEC))
        raise


def check_update_pipeline(pipeline: list) -> None:
    """Refuse stages that an update may not have, and errors in the others."""
    for name, spec in _split(pipeline):
        if name not in _IN_UPDATES:
            raise CommandError(f"{name} is not allowed to be used within an update", 72)
        STAGES[name](spec)


def update_by_pipeline(document: dict, pipeline: list) -> dict:
    """One document sent through an update pipeline."""
    documents: Iterator[dict] = iter([document])
    for name, spec in _split(pipeline):
        documents = STAGES[name](spec)(documents)
    return next(documents)
