"""Update documents applied to one document, as MongoDB's update operators do."""

from collections.abc import Callable
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

from bson import Decimal128, Int64, ObjectId, Timestamp

from selector.localdb import arrays
from selector.localdb.failures import CommandError
from selector.localdb.keys import MISSING, encode, equal
from selector.localdb.matching import is_operators
from selector.localdb.positions import concrete_paths
from selector.localdb.slots import assign, lookup, remove

Operator = Callable[[Any, Any], Any]


def is_replacement(update: Any) -> bool:
    """Whether `update` is a whole new document rather than update operators."""
    return isinstance(update, dict) and not next(iter(update), "").startswith("$")


def check_update(update: Any) -> None:
    """Refuse unknown operators before any document is looked at."""
    if isinstance(update, list):
        from selector.localdb.aggregation import check_update_pipeline

        check_update_pipeline(update)
        return
    if not isinstance(update, dict):
        raise CommandError("the update must be a document or a pipeline", 9)
    if is_replacement(update):
        bad = next((name for name in update if name.startswith("$")), None)
        if bad:
            raise CommandError(f"The dollar ($) prefixed field '{bad}' is not allowed in a replacement.", 52)
        return
    for name, fields in update.items():
        if name not in OPERATORS and name not in ("$unset", "$rename", "$setOnInsert"):
            raise CommandError(
                f"Unknown modifier: {name}. Expected a valid update modifier or pipeline-style update", 9
            )
        if not isinstance(fields, dict):
            raise CommandError(f"Modifiers operate on fields but we found another type for {name}", 9)


def touched(update: Any) -> set[str] | None:
    """The first parts of the names of all fields that an update may change; None if it may change any."""
    if isinstance(update, list) or is_replacement(update):
        return None
    names = [name for fields in update.values() for name in fields]
    names += update.get("$rename", {}).values()
    return {name.partition(".")[0] for name in names}


def apply_update(
    document: dict, update: Any, query: dict, array_filters: list[dict] | None = None, inserting: bool = False
) -> dict:
    """The updated document. `document` is used up: it may be changed in place.

    Parameters
    ----------
    query
        The filter that found the document; the positional operator `$` needs it.
    inserting
        The document is new (an upsert): `$setOnInsert` acts.

    Raises
    ------
    CommandError
        The operators do not fit the document, two of them touch one path, or `_id` would change.
    """
    identity = document.get("_id", MISSING)
    if isinstance(update, list):
        from selector.localdb.aggregation import update_by_pipeline

        result = update_by_pipeline(document, update)
    elif is_replacement(update):
        result = dict(update)
    else:
        result = document
        _apply_operators(result, update, query, array_filters or [], inserting)
    if identity is not MISSING:
        if not equal(result.get("_id", identity), identity):
            raise CommandError("Performing an update on the path '_id' would modify the immutable field '_id'", 66)
        result = {"_id": identity, **result}
    return result


def _apply_operators(document: dict, update: dict, query: dict, array_filters: list[dict], inserting: bool) -> None:
    touched: list[tuple] = []
    for name, fields in update.items():
        if name == "$setOnInsert" and not inserting:
            continue
        for field, argument in fields.items():
            if name == "$rename":
                _rename(document, field, argument, touched)
                continue
            for path in concrete_paths(document, field, query, array_filters):
                _claim(path, touched)
                if name == "$unset":
                    remove(document, path)
                    continue
                old = lookup(document, path)
                new = OPERATORS[name](old, argument)
                if new is not MISSING:
                    assign(document, path, new)


def _claim(path: tuple, touched: list[tuple]) -> None:
    for other in touched:
        shorter = min(len(other), len(path))
        if other[:shorter] == path[:shorter]:
            dotted = ".".join(map(str, path))
            raise CommandError(f"Updating the path '{dotted}' would create a conflict at '{dotted}'", 40)
    touched.append(path)


def _rename(document: dict, source: str, target: Any, touched: list[tuple]) -> None:
    if not isinstance(target, str):
        raise CommandError("The 'to' field for $rename must be a string")
    old, new = tuple(source.split(".")), tuple(target.split("."))
    _claim(old, touched)
    _claim(new, touched)
    for path in (old, new):
        if any(isinstance(lookup(document, path[:depth]), list) for depth in range(1, len(path))):
            raise CommandError("$rename can't pass through an array")
    value = lookup(document, old)
    if value is not MISSING:
        remove(document, old)
        assign(document, new, value)


def _number(value: Any, what: str) -> Any:
    if isinstance(value, bool) or not isinstance(value, (int, float, Decimal128)):
        raise CommandError(f"Cannot apply {what} to a value of non-numeric type {type(value).__name__}", 14)
    return value.to_decimal() if isinstance(value, Decimal128) else value


def _arithmetic(name: str, combine: Callable[[Any, Any], Any], start: Any) -> Operator:
    def apply(old: Any, argument: Any) -> Any:
        a, b = _number(0 if old is MISSING else old, name), _number(argument, name)
        if old is MISSING:
            return (
                argument
                if start is MISSING
                else type(argument)(0)
                if not isinstance(argument, Decimal128)
                else Decimal128("0")
            )
        if isinstance(a, Decimal) or isinstance(b, Decimal):
            return Decimal128(str(combine(Decimal(a), Decimal(b))))
        result = combine(a, b)
        if isinstance(result, int):
            if not -(2**63) <= result < 2**63:
                raise CommandError(f"{name} would overflow a 64-bit integer")
            # A 64-bit integer stays one, however small its value.
            return Int64(result) if isinstance(a, Int64) or isinstance(b, Int64) else result
        return result

    return apply


def _bound(replaces: Callable[[bytes, bytes], bool]) -> Operator:
    return lambda old, argument: argument if old is MISSING or replaces(encode(argument), encode(old)) else old


def _current_date(_: Any, argument: Any) -> Any:
    now = datetime.now(UTC).replace(tzinfo=None)
    if argument is True or argument == {"$type": "date"}:
        return now
    if argument == {"$type": "timestamp"}:
        return Timestamp(int(now.replace(tzinfo=UTC).timestamp()), 1)
    raise CommandError("$currentDate needs true or {$type: 'date' | 'timestamp'}")


def _bit(old: Any, argument: Any) -> Any:
    if not isinstance(argument, dict) or not argument or not set(argument) <= {"and", "or", "xor"}:
        raise CommandError("The $bit modifier only supports 'and', 'or', and 'xor'")
    value = 0 if old is MISSING else old
    for name, operand in argument.items():
        if any(isinstance(x, bool) or not isinstance(x, int) for x in (value, operand)):
            raise CommandError("$bit needs whole numbers")
        wide = isinstance(value, Int64) or isinstance(operand, Int64)
        value = value & operand if name == "and" else value | operand if name == "or" else value ^ operand
        value = Int64(value) if wide else value
    return value


OPERATORS: dict[str, Operator] = {
    "$set": lambda _, argument: argument,
    "$setOnInsert": lambda _, argument: argument,
    "$inc": _arithmetic("$inc", lambda a, b: a + b, MISSING),
    "$mul": _arithmetic("$mul", lambda a, b: a * b, 0),
    "$min": _bound(lambda new, old: new < old),
    "$max": _bound(lambda new, old: new > old),
    "$currentDate": _current_date,
    "$bit": _bit,
    "$push": arrays.push,
    "$addToSet": arrays.add_to_set,
    "$pull": arrays.pull,
    "$pullAll": arrays.pull_all,
    "$pop": arrays.pop,
}


def upsert_base(query: dict) -> dict:
    """What an upsert starts from: the fields that the filter fixes to one value."""
    document: dict = {}
    for path, value in _fixed(query):
        if lookup(document, path) is not MISSING:
            raise CommandError(f"cannot infer query fields to set, path '{'.'.join(path)}' is matched twice", 54)
        assign(document, path, value)
    return document


def _fixed(query: dict) -> list[tuple[tuple, Any]]:
    found: list[tuple[tuple, Any]] = []
    for key, condition in query.items():
        if key == "$and" or (key == "$or" and len(condition) == 1):
            for part in condition:
                found += _fixed(part)
        elif not key.startswith("$"):
            path = tuple(key.split("."))
            if not is_operators(condition):
                found.append((path, condition))
            elif "$eq" in condition:
                found.append((path, condition["$eq"]))
    return found


def with_identity(document: dict) -> dict:
    """The document with `_id` first, made up if there is none."""
    identity = document["_id"] if "_id" in document else ObjectId()
    if isinstance(identity, list):
        raise CommandError("The '_id' value cannot be of type array", 2)
    return {"_id": identity, **{name: value for name, value in document.items() if name != "_id"}}
