"""Cursors: results that a client fetches in batches."""

import itertools
from collections.abc import Iterator
from typing import Any

import bson
from bson import Int64
from bson.raw_bson import RawBSONDocument

from selector.localdb.failures import CommandError

_BATCH_BYTES = 16 * 1024 * 1024
_FIRST_BATCH = 101
_MAX_OPEN = 10_000


class Cursors:
    """The open cursors of all clients, each with the results it still has to give."""

    def __init__(self) -> None:
        self._open: dict[int, tuple[str, Iterator[bytes]]] = {}
        self._numbers = itertools.count(1)

    def first(self, ns: str, results: Iterator[bytes], size: int | None, single: bool = False) -> dict:
        """The reply with the first batch; `single` closes the cursor after it."""
        reply = self._batch(next(self._numbers), ns, results, _FIRST_BATCH if size is None else size, "firstBatch")
        if single:
            self.close([reply["cursor"]["id"]])
            reply["cursor"]["id"] = Int64(0)
        return reply

    def more(self, number: int, ns: str, size: int | None) -> dict:
        """The reply with the next batch."""
        if number not in self._open:
            raise CommandError(f"cursor id {number} not found", 43)
        owner, results = self._open.pop(number)
        if owner != ns:
            self._open[number] = owner, results
            raise CommandError(f"Requested getMore on namespace '{ns}', but cursor belongs to '{owner}'", 13)
        return self._batch(number, ns, results, size or 1_000_000_000, "nextBatch")

    def close(self, numbers: list[int]) -> list[int]:
        """Close cursors; returns those that were open."""
        return [number for number in numbers if self._open.pop(number, None) is not None]

    def _batch(self, number: int, ns: str, results: Iterator[bytes], size: int, name: str) -> dict:
        batch: list[Any] = []
        used, finished = 0, False
        while len(batch) < size:
            data = next(results, None)
            if data is None:
                finished = True
                break
            if batch and used + len(data) > _BATCH_BYTES:
                results = itertools.chain([data], results)
                break
            batch.append(RawBSONDocument(data))
            used += len(data)
        if not finished:
            # Clients that died never close their cursors: the oldest go when there are too many.
            if len(self._open) >= _MAX_OPEN:
                del self._open[next(iter(self._open))]
            self._open[number] = ns, results
        return {"cursor": {name: batch, "id": Int64(0 if finished else number), "ns": ns}, "ok": 1.0}


def encoded(documents: Iterator[dict]) -> Iterator[bytes]:
    """Documents as BSON, for a cursor."""
    return map(bson.encode, documents)
