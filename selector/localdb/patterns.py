"""Regular expressions of queries. MongoDB uses PCRE; Python's dialect agrees with it in all that is common."""

import re
from collections.abc import Callable
from typing import Any

from bson import Regex

from selector.localdb.failures import CommandError
from selector.localdb.keys import encode

_FLAGS: dict[str, int] = {"i": re.IGNORECASE, "m": re.MULTILINE, "s": re.DOTALL, "x": re.VERBOSE}


def regex_test(pattern: Any, options: str | None = None) -> Callable[[Any], bool]:
    """A test for text that matches a pattern, and for a stored regular expression equal to it."""
    if isinstance(pattern, Regex):
        source, flags = pattern.pattern, int(pattern.flags) & int(re.I | re.M | re.S | re.X)
        if options:
            flags = 0
    elif isinstance(pattern, str):
        source, flags = pattern, 0
    else:
        raise CommandError("$regex has to be a string")
    if options is not None and not isinstance(options, str):
        raise CommandError("$options has to be a string")
    for letter in options or "":
        if letter not in _FLAGS:
            raise CommandError(f"invalid flag in regex options: {letter}", 51108)
        flags |= _FLAGS[letter]
    try:
        search = re.compile(source, flags).search
    except re.error as error:
        raise CommandError(f"Regular expression is invalid: {error}", 51091) from error
    code = encode(pattern) if isinstance(pattern, Regex) else None
    return lambda value: (
        search(value) is not None if isinstance(value, str) else isinstance(value, Regex) and encode(value) == code
    )
