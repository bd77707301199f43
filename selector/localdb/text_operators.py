"""Expression operators on text and dates. A missing value arrives as MISSING."""

import re
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from bson import Decimal128, ObjectId, Regex

from selector.localdb.arithmetic import MANY, Function, is_null
from selector.localdb.failures import CommandError, unsupported
from selector.localdb.keys import MISSING
from selector.localdb.patterns import regex_test

_ISO = "%Y-%m-%dT%H:%M:%S.%LZ"


def _concat(*texts: Any) -> Any:
    if any(map(is_null, texts)):
        return None
    return "".join(_text(text, "$concat") for text in texts)


def _text(value: Any, name: str) -> str:
    if not isinstance(value, str):
        raise CommandError(f"{name} requires a string argument, not {type(value).__name__}", 16702)
    return value


def _to_string(value: Any) -> Any:
    if is_null(value):
        return None
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        return str(int(value)) if value.is_integer() and abs(value) < 1e15 else repr(value)
    if isinstance(value, datetime):
        return date_to_string(value)
    if isinstance(value, (str, int, ObjectId, Decimal128)):
        return str(value)
    raise unsupported(f"$toString of a {type(value).__name__}")


def _substr_bytes(text: Any, start: int, size: int) -> str:
    """`$substrBytes`, or `$substr`, by which FireWorks' reports cut dates; of a negative size: the rest."""
    whole = b"" if is_null(text) else _to_string(text).encode()
    if start < 0:
        return ""
    try:
        return whole[start : None if size < 0 else start + size].decode()
    except UnicodeDecodeError:
        raise CommandError("$substrBytes: the range begins or ends in the middle of a character", 28656) from None


def _date_part(part: Callable[[datetime], int]) -> Callable[[Any], Any]:
    def run(date: Any) -> Any:
        if is_null(date):
            return None
        if not isinstance(date, datetime):
            raise CommandError(f"can't convert from {type(date).__name__} to Date", 16006)
        return part(date)

    return run


def trim(input: Any, chars: Any = None) -> Any:
    """`$trim`."""
    return None if is_null(input) else _text(input, "$trim").strip(None if chars is None else _text(chars, "$trim"))


def regex_match(input: Any, regex: Any, options: Any = "") -> Any:
    """`$regexMatch`."""
    if is_null(input) or is_null(regex):
        return False
    return regex_test(regex if isinstance(regex, Regex) else _text(regex, "$regexMatch"), options or None)(input)


def date_to_string(date: Any, format: Any = _ISO, onNull: Any = None) -> Any:
    """`$dateToString`, in UTC."""
    if is_null(date):
        return onNull
    if not isinstance(date, datetime):
        raise CommandError(f"can't convert from {type(date).__name__} to Date", 16006)
    if set(re.findall("%(.)", format)) - set("YmdHMSLj%"):
        raise unsupported(f"the date format '{format}'")
    parts = {"Y": f"{date.year:04}", "L": f"{date.microsecond // 1000:03}"}
    return re.sub("%(.)", lambda found: parts.get(found[1]) or date.strftime(found[0]), format)


def date_from_string(dateString: Any, onError: Any = MISSING, onNull: Any = None) -> Any:
    """`$dateFromString` of ISO 8601 text. FireWorks sorts by dates that it keeps as text."""
    if is_null(dateString):
        return onNull
    try:
        moment = datetime.fromisoformat(dateString)
    except (ValueError, TypeError):
        if onError is MISSING:
            raise CommandError(f"Error parsing date string '{dateString}'", 241) from None
        return onError
    return moment.astimezone(UTC).replace(tzinfo=None) if moment.tzinfo else moment


# name: (function, least and most arguments)
TEXTS: dict[str, Function] = {
    "$concat": (_concat, 1, MANY),
    "$split": (lambda t, by: None if is_null(t) else _text(t, "$split").split(_text(by, "$split")), 2, 2),
    "$strLenCP": (lambda text: len(_text(text, "$strLenCP")), 1, 1),
    "$substr": (_substr_bytes, 3, 3),
    "$substrBytes": (_substr_bytes, 3, 3),
    "$substrCP": (lambda t, start, size: "" if is_null(t) else _to_string(t)[start : start + size], 3, 3),
    "$toLower": (lambda text: "" if is_null(text) else _to_string(text).lower(), 1, 1),
    "$toUpper": (lambda text: "" if is_null(text) else _to_string(text).upper(), 1, 1),
    "$toString": (_to_string, 1, 1),
    "$year": (_date_part(lambda d: d.year), 1, 1),
    "$month": (_date_part(lambda d: d.month), 1, 1),
    "$dayOfMonth": (_date_part(lambda d: d.day), 1, 1),
    "$dayOfYear": (_date_part(lambda d: d.timetuple().tm_yday), 1, 1),
    "$hour": (_date_part(lambda d: d.hour), 1, 1),
    "$minute": (_date_part(lambda d: d.minute), 1, 1),
    "$second": (_date_part(lambda d: d.second), 1, 1),
    "$millisecond": (_date_part(lambda d: d.microsecond // 1000), 1, 1),
}
