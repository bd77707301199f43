"""A world for a campaign under test: processes die or sleep at a write, and FireWorks refuses double work."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from pymatgen.core import Structure
from rehearsal import Meter, Rehearsal, Table

from selector.protocols import Failure, Job, Result

FAILURES: dict[str, Callable[[], Failure]] = {
    "metal": lambda: Failure("Metallic", "no gap", 9.0, retry=False),
    "timeout": lambda: Failure("TimedOut", "slow", 1e6, retry=True),
    "vanished": lambda: Failure("Vanished", "gone", None, retry=True),
    "stopped": lambda: Failure("Interrupted", "stopped", 2.0, retry=False, interrupted=True),
}


class Killed(BaseException):
    """A process ends where it stands."""


@dataclass
class Fate:
    """What happens at the n-th write of a process: it dies, or sleeps while ``meanwhile`` goes on."""

    n: int = 0
    when: str = ""
    meanwhile: Callable[[], None] = lambda: None
    dead: bool = False

    def __call__(self, write: Callable[[], Any]) -> Any:
        if self.dead:
            raise Killed
        self.n -= 1
        if self.n != 0:
            return write()
        if self.when.endswith("after"):
            done = write()
        if self.when.startswith("dies"):
            self.dead = True
            raise Killed
        self.meanwhile()
        return done if self.when.endswith("after") else write()


@dataclass
class Fragile:
    """A database, or a collection of it, whose writes are in the hands of fate."""

    what: Any
    fate: Fate
    WRITES = ("insert_one", "update_one", "update_many", "bulk_write", "find_one_and_update", "replace_one")

    def __getitem__(self, name: str) -> Fragile:
        return Fragile(self.what[name], self.fate)

    def __getattr__(self, name: str) -> Any:
        found = getattr(self.what, name)
        if name not in self.WRITES:
            return found
        return lambda *args, **kwargs: self.fate(lambda: found(*args, **kwargs))


@dataclass
class FireWorks(Rehearsal):
    """A rehearsed FireWorks that refuses double work: invariant 2 at the moment at which it would break."""

    failed: set[str] = field(default_factory=set)

    def submit(self, job: Job) -> int:
        if job.key not in self.jobs:
            before = [j for j in self.jobs.values() if j.material_id == job.material_id]
            open_ = [j for j in before if j.key not in self.failed]
            # IPA alone comes before RPA, and once.
            first = [j for j in open_ if j.level == "ipa" and isinstance(self.outcomes.get(j.key), Result)]
            assert open_ == first, f"{job.material_id}: dispatched while it is under way"
            assert job.level == "rpa" or not first, f"{job.material_id}: IPA computed twice"
            assert job.attempt > max((j.attempt for j in before), default=0)
        return super().submit(job)


@dataclass
class Hands:
    """FireWorks in the hands of one process."""

    fireworks: FireWorks
    fate: Fate

    def submit(self, job: Job) -> int:
        return int(self.fate(lambda: self.fireworks.submit(job)))

    def submit_learning(self, campaign: str, key: str) -> int:
        return int(self.fate(lambda: self.fireworks.submit_learning(campaign, key)))

    def __getattr__(self, name: str) -> Any:
        return getattr(self.fireworks, name)


@dataclass
class Pupil(Table):
    """What learns from it knows held-out labels, or it guesses them all at zero."""

    good: bool = True

    def fine_tune(self, structures: Any, sc: Any, *, spectra: Any = None) -> Table:
        said = np.array(sc) if self.good else np.zeros(len(sc))
        name = f"{self.model_id[0]}{len(sc)}{'' if self.good else '-bad'}"
        return Pupil(name, self.reads_ipa, seen=len(sc), held_out=said)


class Meters(Meter):
    """The larger the cell, the dearer."""

    def estimate_cpu_h(self, structure: Structure, level: str = "rpa") -> float:
        return (0.002 if level == "rpa" else 0.0005) * structure.lattice.a
