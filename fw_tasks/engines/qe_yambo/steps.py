"""Steps of a calculation, each in a folder that is either whole or absent.

A step runs in a folder of its own, which gets its final name when its output has been read and found good. So nothing
stale is ever read: a killed run leaves a folder under another name, and a finished step is taken again only if what
went into it, and into the steps before it, is the same.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import time
import uuid
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from fw_tasks.engines.base import BadOutput, EngineError, NotConverged, TimedOut
from fw_tasks.engines.qe_yambo.commands import Usage

T = TypeVar("T")
RECORD = "step.json"
STOPPED = "stopped"
"""A file by which a run says that it ended itself and left what a restart needs."""


@dataclass(frozen=True)
class Step:
    """A finished step.

    Attributes
    ----------
    name, folder : where its files are
    fingerprint : of all that went into it
    usage : wall and CPU seconds it took when it ran
    repairs : what had to be changed before it came to its end
    reused : whether an earlier run had finished it
    """

    name: str
    folder: Path
    fingerprint: str
    usage: Usage
    repairs: tuple[str, ...] = ()
    reused: bool = False


@dataclass
class Steps:
    """The steps in the folder ``root``, and how long they may take.

    Attributes
    ----------
    root : Path
    deadline : seconds on the monotonic clock, or None
    finished : steps so far, in order
    """

    root: Path
    deadline: float | None = None
    finished: list[Step] = field(default_factory=list)

    def seconds_left(self) -> float | None:
        """Wall seconds until the deadline.

        Raises
        ------
        TimedOut
            It has passed.
        """
        if self.deadline is None:
            return None
        left = self.deadline - time.monotonic()
        if left <= 0.0:
            raise TimedOut("the time limit was reached between two steps")
        return left

    def run(
        self,
        name: str,
        inputs: Mapping[str, Any],
        action: Callable[[Path, bool], tuple[Usage, list[str]]],
        read: Callable[[Path], T],
    ) -> tuple[Step, T]:
        """A finished step of this name and these inputs, and its outcome: the one on disk, or ``action``'s.

        Parameters
        ----------
        name : the folder's name
        inputs : all that decides the outcome, JSON-able
        action : does the work in the folder it is given and reads the outcome; whether to restart is its second
            argument; its usage and the repairs it made are returned
        read : reads the outcome, strictly; a step on disk that it refuses is computed again
        """
        fingerprint = hashlib.sha256(json.dumps(inputs, sort_keys=True).encode()).hexdigest()[:16]
        folder = self.root / name
        record = _record(folder)
        if record is not None and record["fingerprint"] == fingerprint:
            usage = Usage(record["wall_s"], record["cpu_s"])
            step = Step(name, folder, fingerprint, usage, tuple(record["repairs"]), reused=True)
            with suppress(BadOutput):
                found = read(folder)
                self.finished.append(step)
                return step, found
        _remove(folder, *self.root.glob(f"{name}.part-*"))
        usage, repairs = self._act(name, fingerprint, action)
        step = Step(name, folder, fingerprint, usage, tuple(repairs))
        self.finished.append(step)
        return step, read(folder)

    def _act(
        self, name: str, fingerprint: str, action: Callable[[Path, bool], tuple[Usage, list[str]]]
    ) -> tuple[Usage, list[str]]:
        part = self.root / f"{name}.part-{uuid.uuid4().hex[:8]}"
        stopped = self.root / f"{name}.{STOPPED}"
        record = _record(stopped)
        restart = record is not None and record["fingerprint"] == fingerprint
        if restart:
            stopped.rename(part)
            (part / STOPPED).unlink(missing_ok=True)
        else:
            _remove(stopped)
            part.mkdir(parents=True)
        start = time.monotonic()
        try:
            usage, repairs = action(part, restart)
        except EngineError as error:
            error.wall_s = error.wall_s or time.monotonic() - start
            if (part / STOPPED).exists():
                _write(part, fingerprint, Usage(), [])
                part.rename(stopped)
                raise
            if restart and isinstance(error, BadOutput | NotConverged):
                # What was left of the earlier run cannot be gone on from.
                _remove(part)
                return self._act(name, fingerprint, action)
            _remove(self.root / f"{name}.failed")
            part.rename(self.root / f"{name}.failed")
            raise
        _write(part, fingerprint, usage, repairs)
        part.rename(self.root / name)
        _remove(self.root / f"{name}.failed")
        return usage, repairs


def _write(folder: Path, fingerprint: str, usage: Usage, repairs: list[str]) -> None:
    record = {"fingerprint": fingerprint, "wall_s": usage.wall_s, "cpu_s": usage.cpu_s, "repairs": repairs}
    with (folder / RECORD).open("w", encoding="utf-8") as file:
        json.dump(record, file)
        file.flush()
        os.fsync(file.fileno())


def _record(folder: Path) -> dict[str, Any] | None:
    """The record of a finished or stopped step; None where there is none that can be read."""
    with suppress(OSError, ValueError):
        record = json.loads((folder / RECORD).read_text(encoding="utf-8"))
        if isinstance(record, dict) and record.keys() >= {"fingerprint", "wall_s", "cpu_s", "repairs"}:
            return record
    return None


def _remove(*folders: Path) -> None:
    for folder in folders:
        shutil.rmtree(folder, ignore_errors=True)
        if folder.exists():
            raise BadOutput(f"{folder} cannot be removed; remove it by hand")
