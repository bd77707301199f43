"""Pipeline stages that look at one document, or a list of them, without the rest of the database."""

import random
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import Any

from selector.localdb.expressions import compile_expression, field_value
from selector.localdb.failures import CommandError, unsupported
from selector.localdb.groups import compile_bucket, compile_group, compile_sort_by_count
from selector.localdb.keys import MISSING
from selector.localdb.matching import compile_filter
from selector.localdb.paths import sort_code
from selector.localdb.projection import drop, field_tree, keep
from selector.localdb.queries import sort_fields

Stage = Callable[[Iterable[dict]], Iterator[dict]]


def match(spec: Any) -> Stage:
    """`$match`."""
    test = compile_filter(spec)
    return lambda documents: filter(test, documents)


def sort(spec: Any) -> Stage:
    """`$sort`."""
    fields = sort_fields(spec)
    return lambda documents: iter(sorted(documents, key=lambda document: sort_code(document, fields)))


def _whole(value: Any, name: str, least: int) -> int:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or value != int(value) or value < least:
        raise CommandError(f"the {name} must be a whole number of at least {least}", 15958)
    return int(value)


def limit(spec: Any) -> Stage:
    """`$limit`."""
    number = _whole(spec, "$limit", 1)
    return lambda documents: islice(documents, number)


def skip(spec: Any) -> Stage:
    """`$skip`."""
    number = _whole(spec, "$skip", 0)
    return lambda documents: islice(documents, number, None)


def count(spec: Any) -> Stage:
    """`$count`: one document, or none if nothing comes in."""
    if not isinstance(spec, str) or not spec or spec.startswith("$") or "." in spec:
        raise CommandError("the count field must be a nonempty string without $ and dots", 40156)

    def run(documents: Iterable[dict]) -> Iterator[dict]:
        number = sum(1 for _ in documents)
        if number:
            yield {spec: number}

    return run


def project(spec: Any) -> Stage:
    """`$project`: keep or drop fields, and compute new ones."""
    if not isinstance(spec, dict) or not spec:
        raise CommandError("$project specification must have at least one field", 51272)
    flags: dict[str, bool] = {}
    computed: list[tuple[tuple[str, ...], Any]] = []
    for name, value in _flattened(spec):
        if isinstance(value, (bool, int, float)):
            flags[name] = bool(value)
        else:
            computed.append((tuple(name.split(".")), compile_expression(value)))
    modes = {flag for name, flag in flags.items() if name != "_id"}
    if len(modes) > 1 or (computed and modes == {False}):
        raise CommandError("Invalid $project: cannot mix inclusion and exclusion", 31254)
    include = bool(computed) or modes == {True} or (not modes and flags.get("_id", False))
    names = [name for name in flags if name != "_id"]
    tree = field_tree(names + [".".join(path) for path, _ in computed])
    # The computed paths took part in the check for collisions only.
    tree = field_tree(names)
    keep_id = flags.get("_id", True)

    def one(document: dict) -> dict:
        result = keep(document, tree) if include else drop(document, tree)
        if not keep_id:
            result.pop("_id", None)
        elif include and "_id" in document:
            result = {"_id": document["_id"], **result}
        return _with_values(result, [(path, evaluate(document)) for path, evaluate in computed])

    return lambda documents: map(one, documents)


def _flattened(spec: dict, prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in spec.items():
        if not name or name.startswith("$"):
            raise CommandError(
                f"Invalid $project: FieldPath field names may not start with '$' ({prefix}{name})", 16410
            )
        if isinstance(value, dict) and value and not next(iter(value)).startswith("$"):
            yield from _flattened(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value


def add_fields(spec: Any) -> Stage:
    """`$addFields` and `$set`."""
    if not isinstance(spec, dict) or not spec:
        raise CommandError("$addFields specification must have at least one field", 40177)
    computed = [(tuple(name.split(".")), compile_expression(value)) for name, value in spec.items()]
    field_tree(list(spec))

    def one(document: dict) -> dict:
        return _with_values(document, [(path, evaluate(document)) for path, evaluate in computed])

    return lambda documents: map(one, documents)


def _with_values(document: dict, values: list[tuple[tuple[str, ...], Any]]) -> dict:
    for path, value in values:
        if value is not MISSING:
            document = _with(document, path, value)
    return document


def _with(target: Any, path: tuple[str, ...], value: Any) -> Any:
    """A copy of `target` with `value` at `path`: in every element of an array, replacing what is no object."""
    if not path:
        return value
    if isinstance(target, list):
        return [_with(element, path, value) for element in target]
    fields = target if isinstance(target, dict) else {}
    return {**fields, path[0]: _with(fields.get(path[0]), path[1:], value)}


def unset(spec: Any) -> Stage:
    """`$unset`."""
    names = spec if isinstance(spec, list) else [spec]
    if not names or not all(isinstance(name, str) and name for name in names):
        raise CommandError("$unset specification must be a string or an array of strings", 31002)
    tree = field_tree(names)
    return lambda documents: (drop(document, tree) for document in documents)


def replace_root(spec: Any) -> Stage:
    """`$replaceRoot`."""
    if not isinstance(spec, dict) or set(spec) != {"newRoot"}:
        raise CommandError("$replaceRoot needs the field newRoot alone", 40231)
    return replace_with(spec["newRoot"])


def replace_with(expression: Any) -> Stage:
    """`$replaceWith`."""
    evaluate = compile_expression(expression)

    def one(document: dict) -> dict:
        new = evaluate(document)
        if not isinstance(new, dict):
            raise CommandError("'newRoot' expression must evaluate to an object", 40228)
        return new

    return lambda documents: map(one, documents)


def unwind(spec: Any) -> Stage:
    """`$unwind`: one document for each element of an array."""
    options = spec if isinstance(spec, dict) else {"path": spec}
    unknown = set(options) - {"path", "preserveNullAndEmptyArrays", "includeArrayIndex"}
    field = options.get("path")
    if unknown or not isinstance(field, str) or not field.startswith("$"):
        raise CommandError("$unwind needs a path that starts with '$'", 28818)
    path = tuple(field[1:].split("."))
    keep_empty, index_name = bool(options.get("preserveNullAndEmptyArrays")), options.get("includeArrayIndex")

    def run(documents: Iterable[dict]) -> Iterator[dict]:
        for document in documents:
            value = _plain_value(document, path)
            elements = list(enumerate(value)) if isinstance(value, list) else [(None, value)]
            if value in (MISSING, None) or not elements:
                if not keep_empty:
                    continue
                if not elements:
                    bare = drop(document, field_tree([".".join(path)]))
                    yield _with(bare, tuple(index_name.split(".")), None) if index_name else bare
                    continue
                elements = [(None, value)]
            for index, element in elements:
                new = document if element is MISSING else _with(document, path, element)
                yield _with(new, tuple(index_name.split(".")), index) if index_name else new

    return run


def _plain_value(document: dict, path: tuple[str, ...]) -> Any:
    if len(path) > 1 and isinstance(field_value(document, path[:-1]), list):
        raise unsupported("$unwind of a path through an array")
    return field_value(document, path)


def sample(spec: Any) -> Stage:
    """`$sample`."""
    if not isinstance(spec, dict) or set(spec) != {"size"}:
        raise CommandError("the $sample stage needs the field size alone", 28745)
    size = _whole(spec["size"], "size of $sample", 1)

    def run(documents: Iterable[dict]) -> Iterator[dict]:
        everything = list(documents)
        return iter(random.sample(everything, min(size, len(everything))))

    return run


STAGES: dict[str, Callable[[Any], Stage]] = {
    "$addFields": add_fields,
    "$bucket": compile_bucket,
    "$count": count,
    "$group": compile_group,
    "$limit": limit,
    "$match": match,
    "$project": project,
    "$replaceRoot": replace_root,
    "$replaceWith": replace_with,
    "$sample": sample,
    "$set": add_fields,
    "$skip": skip,
    "$sort": sort,
    "$sortByCount": compile_sort_by_count,
    "$unset": unset,
    "$unwind": unwind,
}
