"""Projections of `find` and of `$project`: keep or drop fields, `$slice`, `$elemMatch`."""

from collections.abc import Callable
from typing import Any

from selector.localdb.failures import CommandError, unsupported
from selector.localdb.keys import MISSING
from selector.localdb.matching import compile_filter

Projection = Callable[[dict], dict]
_PATH_COLLISION = 31250


def compile_projection(spec: dict | None) -> Projection | None:
    """A function from a document to its projection; None to leave documents whole."""
    if not spec:
        return None
    plain: dict[str, bool] = {}
    special: dict[str, dict] = {}
    for name, value in spec.items():
        if isinstance(value, dict) and len(value) == 1 and next(iter(value)) in ("$slice", "$elemMatch"):
            special[name] = value
        elif isinstance(value, (bool, int, float)):
            plain[name] = bool(value)
        else:
            raise unsupported(f"the projection {{{name}: {value}}}")
        if name.endswith(".$") or name.startswith("$"):
            raise unsupported(f"the projection of '{name}'")
    modes = {keep for name, keep in plain.items() if name != "_id"}
    if len(modes) > 1:
        raise CommandError("Cannot do exclusion and inclusion in one projection", 31254)
    if any("$elemMatch" in value for value in special.values()):
        modes = modes or {True}
    include = modes.pop() if modes else (plain.get("_id", False) and not special)
    return _build(plain, special, include)


def _build(plain: dict[str, bool], special: dict[str, dict], include: bool) -> Projection:
    tree = field_tree([name for name in plain if name != "_id"] + (list(special) if include else []))
    keep_id = plain.get("_id", True)
    edits = [(name, _edit(value)) for name, value in special.items()]

    def project(document: dict) -> dict:
        result = keep(document, tree) if include else drop(document, tree)
        for name, edit in edits:
            _replace(result, name.split("."), edit)
        if not keep_id:
            result.pop("_id", None)
        elif include and "_id" in document:
            result = {"_id": document["_id"], **result}
        return result

    return project


def field_tree(names: list[str]) -> dict:
    """Dotted names as nested dicts with None at the ends.

    Raises
    ------
    CommandError
        One name lies inside another.
    """
    tree: dict = {}
    for name in names:
        node = tree
        *parents, last = name.split(".")
        for part in parents:
            node = node.setdefault(part, {})
            if node is None:
                raise CommandError(f"Path collision at {name}", _PATH_COLLISION)
        if last in node:
            raise CommandError(f"Path collision at {name}", _PATH_COLLISION)
        node[last] = None
    return tree


def keep(document: dict, tree: dict) -> dict:
    """The fields in `tree` only."""
    result = {}
    for name, value in document.items():
        if name in tree:
            node = tree[name]
            kept = value if node is None else _inside(value, node, keep)
            if kept is not MISSING:
                result[name] = kept
    return result


def drop(document: dict, tree: dict) -> dict:
    """All fields but those in `tree`."""
    result = {}
    for name, value in document.items():
        if name not in tree:
            result[name] = value
        elif tree[name] is not None:
            inner = _inside(value, tree[name], drop)
            result[name] = value if inner is MISSING else inner
    return result


def _inside(value: Any, tree: dict, act: Callable[[dict, dict], dict]) -> Any:
    if isinstance(value, dict):
        return act(value, tree)
    if isinstance(value, list):
        inner = [(_inside(element, tree, act), element) for element in value]
        if act is keep:
            return [new for new, _ in inner if new is not MISSING]
        return [old if new is MISSING else new for new, old in inner]
    return MISSING


def _edit(operator: dict) -> Callable[[Any], Any]:
    if "$slice" in operator:
        return _slice(operator["$slice"])
    test = compile_filter({"e": {"$elemMatch": operator["$elemMatch"]}})

    def first(value: Any) -> Any:
        found = [e for e in value if test({"e": [e]})] if isinstance(value, list) else []
        return found[:1] or MISSING

    return first


def _slice(argument: Any) -> Callable[[Any], Any]:
    numbers = argument if isinstance(argument, list) else [argument]
    if (
        not all(isinstance(n, int) for n in numbers)
        or len(numbers) not in (1, 2)
        or (len(numbers) == 2 and numbers[1] <= 0)
    ):
        raise CommandError("$slice needs a number, or [skip, limit] with a positive limit", 28667)

    def cut(value: Any) -> Any:
        if not isinstance(value, list):
            return value
        if len(numbers) == 1:
            return value[: numbers[0]] if numbers[0] >= 0 else value[numbers[0] :]
        start = numbers[0] if numbers[0] >= 0 else max(0, len(value) + numbers[0])
        return value[start : start + numbers[1]]

    return cut


def _replace(document: Any, path: list[str], edit: Callable[[Any], Any]) -> None:
    if isinstance(document, list):
        for element in document:
            _replace(element, path, edit)
    elif isinstance(document, dict) and path[0] in document:
        if len(path) > 1:
            _replace(document[path[0]], path[1:], edit)
            return
        new = edit(document[path[0]])
        if new is MISSING:
            del document[path[0]]
        else:
            document[path[0]] = new
