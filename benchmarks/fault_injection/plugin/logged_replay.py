"""The replay engine as a plug-in that keeps a log of its own, which no fault reaches: what was computed, and when.

The log tells of computations whatever the campaign's memory and files say of them. Each line is one write at the end
of the file, so that lines of many processes do not mix.
"""

from __future__ import annotations

import fcntl
import json
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pymatgen.core import Structure

from fw_tasks.engines.base import Calculation
from fw_tasks.engines.replay import ReplayEngine


class LoggedReplay(ReplayEngine):
    """`ReplayEngine` that writes a line when a computation starts, and one when it ends.

    Parameters
    ----------
    log : folder of the log, ``computations.jsonl``
    options : those of `ReplayEngine`
    """

    name = "logged_replay"

    def __init__(self, preset: str | None = None, *, log: str, **options: Any) -> None:
        super().__init__(preset, **options)
        self._log = Path(log)

    def compute(
        self, material_id: str, structure: Structure, levels: Sequence[str], workdir: Path, time_limit_s: float | None
    ) -> Calculation:
        """The recorded calculation; its line says what lay there before, and whether anybody else was at it."""
        lies = [str(file) for file in sorted(workdir.parent.glob("*/calculation.npz"))]
        with self._held(material_id) as alone:
            about = {"material_id": material_id, "attempt": workdir.name, "pid": os.getpid()}
            self._note({"event": "start", **about, "lies": lies, "alone": alone})
            calculation = super().compute(material_id, structure, levels, workdir, time_limit_s)
            self._note({"event": "end", **about})
        return calculation

    @contextmanager
    def _held(self, material_id: str) -> Iterator[bool]:
        """A lock that the system takes back when its holder dies; whether nobody else held it."""
        with (self._log / f"{material_id}.lock").open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                yield True
            except BlockingIOError:
                yield False

    def _note(self, line: dict[str, Any]) -> None:
        text = json.dumps({**line, "monotonic_s": time.monotonic()}) + "\n"
        file = os.open(self._log / "computations.jsonl", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        os.write(file, text.encode())
        os.close(file)
