"""Run one command: find its handler, refuse what nobody looks at, wrap writes in a transaction, word the errors."""

import logging
import sqlite3
from collections.abc import Mapping
from typing import Any

from bson.errors import InvalidDocument

from selector.localdb import admin, reads, writes
from selector.localdb.context import COMMON, Context, Handler, check_options
from selector.localdb.failures import CommandError, unsupported
from selector.localdb.retries import once

_LOG = logging.getLogger(__name__)
HANDLERS: dict[str, Handler] = {**admin.HANDLERS, **reads.HANDLERS, **writes.HANDLERS}


def execute(context: Context, command: dict) -> Mapping[str, Any]:
    """The reply to a command; failures are replies too."""
    try:
        return _run(context, command)
    except CommandError as error:
        return error.reply()
    except sqlite3.OperationalError as error:
        _LOG.error("%s: %s", next(iter(command)), error)
        full = "full" in str(error) or "disk I/O" in str(error)
        message = f"the write was not stored: {error}; free some space on the disk that holds {context.storage.path}"
        return CommandError(message if full else str(error), 14031 if full else 1).reply()
    except sqlite3.DatabaseError as error:
        _LOG.error("%s: %s", next(iter(command)), error)
        return CommandError(f"{context.storage.path} is damaged: {error}; restore it from an export", 1).reply()
    except (InvalidDocument, OverflowError) as error:
        return CommandError(f"cannot encode as BSON: {error}", 22).reply()
    except Exception as error:
        # A field missing or of the wrong type, most likely; the log has the place in case it is a mistake of ours.
        _LOG.exception("failed command %s", next(iter(command)))
        return CommandError(f"malformed command: {type(error).__name__}: {error}", 9).reply()


def _run(context: Context, command: dict) -> Mapping[str, Any]:
    name = next(iter(command))
    handler = HANDLERS.get(name)
    if handler is None:
        raise CommandError(f"no such command: '{name}'", 59)
    _check_common(command)
    check_options(command, handler.fields | COMMON | {name}, name)
    if not handler.writes:
        return handler.run(context, command)
    with context.storage.transaction(to_disk=bool((command.get("writeConcern") or {}).get("j"))):
        return once(context.storage, command, lambda: handler.run(context, command))


def _check_common(command: dict) -> None:
    if "autocommit" in command or "startTransaction" in command:
        raise unsupported("transactions")
    level = (command.get("readConcern") or {}).get("level", "local")
    if level not in ("local", "available", "majority", "linearizable"):
        raise unsupported(f"the read concern '{level}'")
    concern = (command.get("writeConcern") or {}).get("w", 1)
    if concern not in (0, 1, "majority"):
        raise CommandError("cannot use 'w' > 1 when a host is not replicated", 2)
