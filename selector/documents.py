"""What a campaign's documents look like, and what is kept in them as it is."""

from __future__ import annotations

import io
import json
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from itertools import islice
from typing import Any, TypeVar

import numpy as np
from bson import Binary

STATUSES = ("pending", "reserved", "running", "done", "failed", "skipped", "rejected")
IN_FLIGHT = ("reserved", "running")
CHOOSING = (
    *("material_id", "formula", "status", "prediction", "estimate_cpu_h", "attempts", "failures"),
    *("timed_out_cpu_h", "pinned", "vetoed", "ipa", "estimate_ipa_cpu_h", "timed_out_ipa_cpu_h"),
)
"""What choosing needs of a candidate: all but its structure and its history."""
CHUNK = 1000
Document = dict[str, Any]
T = TypeVar("T")


def now() -> str:
    """UTC time as ISO text, the way FireWorks keeps its dates."""
    return datetime.now(UTC).isoformat()


def chunks(items: Iterable[T]) -> Iterator[list[T]]:
    """Some at a time."""
    rest = iter(items)
    while chunk := list(islice(rest, CHUNK)):
        yield chunk


def cost_fields(level: str) -> tuple[str, str, str]:
    """A candidate's fields for a level: what it is estimated to cost, what it used, what it had when time ran out."""
    suffix = "ipa_cpu_h" if level == "ipa" else "cpu_h"
    return f"estimate_{suffix}", f"used_{suffix}", f"timed_out_{suffix}"


def of_line(field: str, reads_ipa: bool) -> str:
    """The campaign's field for a line of models."""
    return f"{field}_ipa" if reads_ipa else field


def pack(array: np.ndarray[Any, Any]) -> Binary:
    """An array as the bytes of a NumPy file."""
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=False)
    return Binary(buffer.getvalue())


def unpack(data: bytes) -> np.ndarray[Any, Any]:
    """The inverse."""
    return np.asarray(np.load(io.BytesIO(data), allow_pickle=False))


def packed(candidate: Document) -> Document:
    """With its structure as JSON text, which is not taken apart when a pool is read."""
    return {**candidate, "structure": json.dumps(candidate["structure"])}


def unpacked(candidate: Document) -> Document:
    """The inverse; what the first release wrote is no text."""
    if isinstance(candidate.get("structure"), str):
        candidate["structure"] = json.loads(candidate["structure"])
    return candidate
