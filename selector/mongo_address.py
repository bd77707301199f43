"""A MongoDB's address: where its secrets come from, what may be shown of it, and what is asked of the driver.

User, password and whatever else is secret stand in the URI, which comes from the environment or from a file. It goes to
the driver and nowhere else: messages, records and files have :func:`public_address` at most.
"""

from __future__ import annotations

import os
import re
import stat
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, quote

from selector.errors import UsageError

FIXED = {"w": "majority", "readConcernLevel": "majority", "readPreference": "primary"}
"""What the campaign's promises rest on: a write that was acknowledged outlives its server, and is read thereafter."""
STATED: dict[str, Any] = {
    "socketTimeoutMS": 120_000,
    "retryWrites": True,
    "retryReads": True,
    "appname": "theory-level-selector",
}
"""What the URI may say otherwise."""
PARTS = re.compile(r"^(mongodb(?:\+srv)?://)(?:([^/?]*)@)?([^/?]*)(.*)$", re.DOTALL)
"""Scheme, user and password, hosts, and the rest of a URI."""
_VARIABLE = re.compile(r"\$\{(\w+)\}")
_URI = re.compile(r"mongodb(?:\+srv)?://[^\s'\"]+")


def read_uri_file(file: Path) -> str:
    """The URI in the first line of a file that only its owner may read.

    Raises
    ------
    UsageError
        There is no such file, it is empty, or others may read it.
    """
    try:
        about = file.stat()
        lines = file.read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as e:
        why = e.strerror if isinstance(e, OSError) else "not text"
        raise UsageError(f"database.uri_file: {file} cannot be read ({why}); its first line is the URI") from None
    if about.st_uid == os.getuid() and about.st_mode & (stat.S_IRGRP | stat.S_IROTH):
        raise UsageError(f"database.uri_file: others may read {file}; close it to them: chmod 600 {file}")
    if not lines[0].strip():
        raise UsageError(f"database.uri_file: {file} is empty; its first line is the URI")
    return lines[0].strip()


def filled(template: str) -> str:
    """The URI with ``${NAME}`` taken from the environment; user and password as they are, not percent-encoded.

    Raises
    ------
    UsageError
        A variable is not set, or is empty.
    """
    for name in _VARIABLE.findall(template):
        if not os.environ.get(name):
            raise UsageError(f"database.uri: the environment variable {name} is not set; export it first")
    parts = PARTS.match(template)
    if parts is None or parts[2] is None:
        return _VARIABLE.sub(lambda m: os.environ[m[1]], template)
    user = _VARIABLE.sub(lambda m: quote(os.environ[m[1]], safe=""), parts[2])
    rest = _VARIABLE.sub(lambda m: os.environ[m[1]], parts[3] + parts[4])
    return f"{parts[1]}{user}@{rest}"


def public_address(uri: str) -> str:
    """The URI's scheme and hosts; never user, password or options, and no host where it is unclear which is which."""
    parts = PARTS.match(uri)
    unclear = parts is None or "@" in parts[4]
    return "mongodb://?/" if unclear or parts is None else f"{parts[1]}{parts[3]}/"


def without_credentials(text: str) -> str:
    """A text in which every MongoDB URI with a user is cut down to its hosts."""
    return _URI.sub(lambda m: public_address(m[0]) if "@" in m[0] else m[0], text)


def options(uri: str, timeout_ms: int) -> dict[str, Any]:
    """The driver's options that are stated, but for those that the URI gives itself.

    After ``timeout_ms`` a database that does not answer is given up; one host after half of it, so that it is named.

    Raises
    ------
    UsageError
        The URI asks for less than the campaign's promises need (``w=1``, reads from a secondary).
    """
    given = {name.lower(): value for name, value in parse_qsl(uri.partition("?")[2])}
    for name, needed in FIXED.items():
        if given.get(name.lower(), needed) != needed:
            raise UsageError(
                f"database.uri: {name}={given[name.lower()]} is less than a campaign needs; leave it at {needed}"
            )
    stated = STATED | {"serverSelectionTimeoutMS": timeout_ms, "connectTimeoutMS": timeout_ms // 2}
    return FIXED | {name: value for name, value in stated.items() if name.lower() not in given}
