"""A TCP port in front of the local database's socket, whose connections can be cut, and which can refuse new ones."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
import threading
from pathlib import Path
from types import TracebackType

PIECE_BYTES = 65536


class Proxy:
    """Hands bytes on, in a thread of its own; a context manager.

    Attributes
    ----------
    port : where it listens on 127.0.0.1
    """

    def __init__(self, behind: Path) -> None:
        self._behind = behind
        self._refuses = False
        self._clients: set[asyncio.StreamWriter] = set()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self.port = 0

    def __enter__(self) -> Proxy:
        self._thread.start()
        start = asyncio.start_server(self._serve, "127.0.0.1", 0)
        server = asyncio.run_coroutine_threadsafe(start, self._loop).result(10.0)
        self.port = server.sockets[0].getsockname()[1]
        return self

    def __exit__(self, kind: type[BaseException] | None, e: BaseException | None, trace: TracebackType | None) -> None:
        self.cut()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10.0)

    def cut(self, *, refuse: bool = False) -> int:
        """Reset every connection, whatever is under way on it, and refuse new ones if there were any; how many were."""
        done = asyncio.run_coroutine_threadsafe(self._cut(refuse), self._loop)
        return done.result(10.0)

    async def _cut(self, refuse: bool) -> int:
        clients = list(self._clients)
        # A fault that found nothing to strike at is not mended, either.
        self._refuses = refuse and bool(clients)
        for client in clients:
            # Linger 0: a reset, and what was not sent yet is thrown away.
            client.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            client.transport.abort()
        return len(clients)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._refuses:
            writer.transport.abort()
            return
        self._clients.add(writer)
        try:
            inner_reader, inner_writer = await asyncio.open_unix_connection(self._behind)
            ways = [_pump(reader, inner_writer), _pump(inner_reader, writer)]
            tasks = [asyncio.ensure_future(way) for way in ways]
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in tasks:
                task.cancel()
            inner_writer.transport.abort()
        except OSError:
            pass  # the database is away: so it is for the client
        finally:
            self._clients.discard(writer)
            writer.transport.abort()


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while piece := await reader.read(PIECE_BYTES):
            writer.write(piece)
            await writer.drain()
