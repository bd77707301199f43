"""The lock beside a database file: one server at a time, and where to find it."""

import fcntl
import json
import os
import socket as sockets
import time
from pathlib import Path
from types import TracebackType

from selector.errors import SelectorError

_PATIENCE_S = 2.0


def lock_path(database_file: Path) -> Path:
    """The lock file of a database. SQLite's own locks must not be disturbed, so it is a file of its own."""
    return database_file.with_name(database_file.name + ".lock")


class FileLock:
    """Held by the running server; names its process and socket.

    The kernel lets go of it when the process ends, however it ends, so a stale file never blocks a start.
    """

    def __init__(self, database_file: Path, socket: Path) -> None:
        self.database_file, self.socket = database_file, socket
        self._descriptor = -1

    def __enter__(self) -> "FileLock":
        self._descriptor = os.open(lock_path(self.database_file), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        # A server that is just ending, or somebody asking `is_locked`, gets a moment to let go.
        deadline = time.monotonic() + _PATIENCE_S
        while not _try_lock(self._descriptor):
            if time.monotonic() > deadline:
                os.close(self._descriptor)
                owner = read_lock(self.database_file).get("pid", "unknown")
                raise SelectorError(f"{self.database_file}: locked by another server (process {owner}); stop it first")
            time.sleep(0.02)
        self._write({"pid": os.getpid(), "host": sockets.gethostname(), "socket": str(self.socket)})
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        # Not removed: that would let two servers lock two files of this name. The next one takes the same socket.
        self._write({"socket": str(self.socket)})
        os.close(self._descriptor)

    def _write(self, content: dict) -> None:
        os.ftruncate(self._descriptor, 0)
        os.pwrite(self._descriptor, json.dumps(content).encode(), 0)


def read_lock(database_file: Path) -> dict:
    """What the lock file says: pid, host and socket of the server, or the last one's socket; empty if none ever was."""
    try:
        return json.loads(lock_path(database_file).read_text())
    except (FileNotFoundError, json.JSONDecodeError):
        return {}


def is_locked(database_file: Path) -> bool:
    """Whether a living server holds the file."""
    try:
        descriptor = os.open(lock_path(database_file), os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        return not _try_lock(descriptor)
    finally:
        os.close(descriptor)


def _try_lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
