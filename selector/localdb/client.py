"""Start, find and stop a database's server from any process."""

import fcntl
import os
import select
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import IO
from urllib.parse import quote

import bson

import selector
from selector.errors import SelectorError
from selector.localdb.lock import is_locked, read_lock
from selector.localdb.runtime import check_location, is_private, socket_path
from selector.localdb.wire import HEADER_BYTES, OP_MSG, Request, read_header

_START_S = 60.0
_TRIES = 3
_ANSWER_S = 30.0
_STOP_S = 30.0


def ensure_running(database_file: Path) -> str:
    """The pymongo URI of the database's server, started if it does not run.

    Any number of processes may call this at once. The server is a process of its own session: neither Ctrl-C in this
    terminal nor the end of this process stops it. It stops by itself after `SELECTOR_DB_IDLE_S` seconds (default 600)
    without a connection.

    Parameters
    ----------
    database_file
        The file that holds the data; created if it does not exist. Beside it: `.log` and `.lock`.

    Raises
    ------
    UsageError
        The file can't be there: no such folder, not writable, a network file system.
    SelectorError
        The server can't start: damaged file, another program's file, socket path too long.
    """
    path = _resolved(database_file)
    running = _answering(path)
    if running is None:
        check_location(path)
        # One starter at a time; the log is a file that all of them have in common.
        with _log_path(path).open("ab") as gate:
            fcntl.flock(gate, fcntl.LOCK_EX)
            running = _answering(path) or _start(path, _last_socket(path) or socket_path(path))
    return f"mongodb://{quote(str(running), safe='')}/"


def stop(database_file: Path) -> bool:
    """Stop the server after its current command; False if none runs.

    Raises
    ------
    SelectorError
        It does not end within 30 s.
    """
    path = _resolved(database_file)
    pid = read_lock(path).get("pid")
    if not is_locked(path) or pid is None:
        return False
    try:
        os.kill(pid, signal.SIGTERM)
    except ProcessLookupError:
        return False
    deadline = time.monotonic() + _STOP_S
    while is_locked(path):
        if time.monotonic() > deadline:
            raise SelectorError(f"{path}: its server (process {pid}) does not stop; end it with kill -9 {pid}")
        time.sleep(0.02)
    return True


def status(database_file: Path) -> dict:
    """What is known about a database.

    Returns
    -------
    dict
        file, exists, running, pid and socket (None if not running), uri (None if not running), size_bytes, log.
    """
    path = _resolved(database_file)
    running = is_locked(path)
    owner = read_lock(path) if running else {}
    files = [path, path.with_name(path.name + "-wal")]
    return {
        "file": str(path),
        "exists": path.exists(),
        "running": running,
        "pid": owner.get("pid"),
        "socket": owner.get("socket"),
        "uri": f"mongodb://{quote(owner['socket'], safe='')}/" if owner else None,
        "size_bytes": sum(f.stat().st_size for f in files if f.exists()),
        "log": str(_log_path(path)),
    }


def socket_of(database_file: Path) -> Path | None:
    """The socket of the database's server, or of its last one; None if it never had one."""
    found = read_lock(_resolved(database_file)).get("socket")
    return Path(found) if found else None


def _resolved(database_file: Path) -> Path:
    return Path(database_file).expanduser().resolve()


def _log_path(path: Path) -> Path:
    return path.with_name(path.name + ".log")


def _answering(path: Path) -> Path | None:
    """The socket of the database's server if it answers a ping."""
    found = socket_of(path)
    if found is None:
        return None
    try:
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(_ANSWER_S)
            connection.connect(str(found))
            # A ping, framed as a reply would be: the format is the same both ways.
            connection.sendall(Request(1, OP_MSG, {}).reply({"ping": 1, "$db": "admin"}))
            length, _, _ = read_header(_read(connection, HEADER_BYTES))
            return found if bson.decode(_read(connection, length)[5:])["ok"] else None
    except (OSError, EOFError):
        return None


def _last_socket(path: Path) -> Path | None:
    """The socket of the last server, which clients of it still know, if its folder is still there for us alone."""
    found = socket_of(path)
    return found if found and is_private(found.parent) else None


def _read(connection: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        piece = connection.recv(size - len(data))
        if not piece:
            raise EOFError
        data += piece
    return data


def _start(path: Path, own: Path) -> Path:
    """Start the server, and again if a signal ends it while it starts."""
    for _ in range(_TRIES):
        line, was_killed = _try_to_start(path, own)
        if line == "ready":
            return own
        if line.startswith("failed "):
            raise SelectorError(line.removeprefix("failed "))
        if not was_killed:
            break
    raise SelectorError(f"{path}: its server did not start; the reason is at the end of {_log_path(path)}")


def _try_to_start(path: Path, own: Path) -> tuple[str, bool]:
    """What a new server says, and whether it was killed before it said anything."""
    package_home = str(Path(selector.__file__).resolve().parents[1])
    python_path = os.pathsep.join(filter(None, [package_home, os.environ.get("PYTHONPATH")]))
    command = [sys.executable, "-m", "selector.localdb.server", str(path), str(own)]
    try:
        with _log_path(path).open("ab") as log:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=log,
                start_new_session=True,
                cwd=path.parent,
                env={**os.environ, "PYTHONPATH": python_path},
            )
    except OSError as error:
        raise SelectorError(f"{path}: cannot start its server ({error.strerror})") from error
    assert process.stdout is not None
    with process.stdout as announcements:
        line = _first_line(announcements)
    if line == "ready":
        # The server outlives us; without this, Python would warn about a child nobody waited for.
        process.returncode = 0
        return line, False
    try:
        return line, process.wait(1.0) < 0
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
        return line, False


def _first_line(stream: IO[bytes]) -> str:
    deadline = time.monotonic() + _START_S
    data = b""
    while b"\n" not in data:
        if not select.select([stream], [], [], max(0.0, deadline - time.monotonic()))[0]:
            return ""
        piece = os.read(stream.fileno(), 4096)
        if not piece:
            break
        data += piece
    return data.decode(errors="replace").strip()
