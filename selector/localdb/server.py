"""The server process: one thread, one event loop, one command at a time.

``python -m selector.localdb.server DATABASE_FILE SOCKET`` is started by `selector.localdb.ensure_running`. It prints
one line, ``ready`` or the reason why it can't start, and logs to standard error.
"""

import asyncio
import contextlib
import logging
import os
import signal
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from selector.errors import SelectorError, UsageError
from selector.localdb.commands import execute
from selector.localdb.context import Context
from selector.localdb.failures import CommandError
from selector.localdb.lock import FileLock
from selector.localdb.storage import Storage
from selector.localdb.wire import (
    HEADER_BYTES,
    MAX_MESSAGE_BYTES,
    OP_MSG,
    FrameError,
    Request,
    read_header,
    read_request,
)

_LOG = logging.getLogger("selector.localdb")
DEFAULT_IDLE_S = 600.0
_GRACE_S = 5.0


class Server:
    """Serves one open database on one socket until told to stop or idle for `idle_s` seconds without a connection."""

    def __init__(self, context: Context, socket: Path, idle_s: float) -> None:
        self.context, self.socket, self.idle_s = context, socket, idle_s
        self._connections: dict[asyncio.StreamWriter, asyncio.Task | None] = {}
        self._idle_since = time.monotonic()
        self._stop = asyncio.Event()

    async def serve(self, ready: "Announcement") -> None:
        """Run until the end; the caller closes the storage."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self.leave)
        self.socket.unlink(missing_ok=True)
        listener = await asyncio.start_unix_server(self._connection, self.socket, backlog=512)
        inode = self.socket.stat().st_ino
        ready.say("ready")
        _LOG.info("serving %s on %s, process %d", self.context.storage.path, self.socket, os.getpid())
        while not self._stop.is_set():
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stop.wait(), min(1.0, max(0.05, self.idle_s / 4)))
            if not self._connections and time.monotonic() - self._idle_since > self.idle_s:
                _LOG.info("idle for %g s", self.idle_s)
                break
            if not self._owns_socket(inode):
                _LOG.warning("the socket %s was removed", self.socket)
                break
        listener.close()
        open_connections = dict(self._connections)
        for writer in open_connections:
            writer.close()
        tasks = [task for task in open_connections.values() if task is not None]
        if tasks:
            await asyncio.wait(tasks, timeout=_GRACE_S)
        if self._owns_socket(inode):
            self.socket.unlink()
        _LOG.info("stopped")

    def leave(self) -> None:
        """End after the command in hand: whoever asks now finds the server gone, and starts another."""
        self._stop.set()

    def _owns_socket(self, inode: int) -> bool:
        try:
            return self.socket.stat().st_ino == inode
        except FileNotFoundError:
            return False

    async def _connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._connections[writer] = asyncio.current_task()
        try:
            while await self._one_request(reader, writer):
                pass
        except FrameError as error:
            _LOG.warning("closed a connection: it sent %s", error)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            self._connections.pop(writer, None)
            self._idle_since = time.monotonic()
            writer.close()

    async def _one_request(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        length, number, opcode = read_header(await reader.readexactly(HEADER_BYTES))
        body = await reader.readexactly(length)
        if self._stop.is_set():
            return False
        try:
            request = read_request(number, opcode, body)
            reply = execute(self.context, request.command)
        except CommandError as error:
            request, reply = Request(number, OP_MSG, {}), error.reply()
        if request.wants_reply:
            writer.write(_framed(request, reply))
            await writer.drain()
        return not self._stop.is_set()


def _framed(request: Request, reply: Mapping[str, Any]) -> bytes:
    frame = request.reply(reply)
    if len(frame) <= MAX_MESSAGE_BYTES:
        return frame
    return request.reply(
        CommandError(f"the reply has {len(frame)} bytes; allowed are {MAX_MESSAGE_BYTES}", 10334).reply()
    )


class Announcement:
    """Standard output, for the one line that the starting process waits for."""

    def say(self, line: str) -> None:
        """Print the line and let go of standard output: the starting process may end."""
        with contextlib.suppress(BrokenPipeError):
            sys.stdout.write(" ".join(line.split()) + "\n")
            sys.stdout.flush()
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, 1)
        os.close(null)


def _idle_s() -> float:
    text = os.environ.get("SELECTOR_DB_IDLE_S", str(DEFAULT_IDLE_S))
    try:
        idle_s = float(text)
    except ValueError:
        idle_s = -1.0
    if not idle_s > 0:
        raise UsageError(f"SELECTOR_DB_IDLE_S={text}: not a positive number of seconds")
    return idle_s


def main(arguments: list[str]) -> int:
    """Entry of the server process."""
    database_file, socket = Path(arguments[0]), Path(arguments[1])
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s", stream=sys.stderr)
    announcement = Announcement()
    try:
        idle_s = _idle_s()
        with FileLock(database_file, socket):
            storage = Storage(database_file)
            try:
                asyncio.run(Server(Context(storage), socket, idle_s).serve(announcement))
            finally:
                storage.close()
    except (SelectorError, OSError) as error:
        _LOG.error("%s", error)
        announcement.say(f"failed {error}")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
