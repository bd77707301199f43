"""Retryable writes: a write that is sent again because its reply was lost takes effect once.

Drivers number such writes within their session (MongoDB's "Retryable Writes" specification). The reply is stored in the
same SQLite transaction as the write, so whoever knows the one knows the other, also after `kill -9`.
"""

import time
from collections.abc import Callable, Mapping
from typing import Any

import bson
from bson.raw_bson import RawBSONDocument

from selector.localdb.failures import CommandError
from selector.localdb.storage import Storage

SESSION_MINUTES = 30
"""How long a session that sends nothing is remembered; drivers drop theirs a minute earlier."""


def once(storage: Storage, command: dict, write: Callable[[], dict]) -> Mapping[str, Any]:
    """The reply to a write: that of the first time if the same session sent the same number before.

    Raises
    ------
    CommandError
        The session has sent a later write since (code 225).
    """
    number = command.get("txnNumber")
    if number is None:
        return write()
    session = bytes(command["lsid"]["id"])
    known = storage.sql.execute("SELECT number, reply FROM retries WHERE session = ?", (session,)).fetchone()
    if known and known[0] == number:
        return RawBSONDocument(known[1])
    if known and known[0] > number:
        raise CommandError(f"txnNumber {number} is too old: the session has sent {known[0]} since", 225)
    reply = write()
    storage.sql.execute(
        "INSERT OR REPLACE INTO retries (session, number, reply, at_s) VALUES (?, ?, ?, ?)",
        (session, number, bson.encode(reply), time.time()),
    )
    return reply


def forget(storage: Storage, sessions: list[bytes]) -> None:
    """Drop sessions that ended, and those that have been silent for too long."""
    storage.sql.executemany("DELETE FROM retries WHERE session = ?", [(session,) for session in sessions])
    storage.sql.execute("DELETE FROM retries WHERE at_s < ?", (time.time() - 60 * SESSION_MINUTES,))
