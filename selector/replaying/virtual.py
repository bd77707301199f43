"""A campaign's calculations in virtual time: nothing is computed and nobody waits.

`VirtualWorkers` stands where FireWorks stands in a real campaign. A calculation takes its recorded CPU time on one of W
workers; its result is not looked up before that time has passed, so that no label leaves early. Learning takes a fixed
time beside the workers, as on a machine of its own.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from selector.campaign import Campaign
from selector.errors import SelectorError
from selector.ledger import Ledger
from selector.protocols import Failure, Job, Result

LEARNING_S, LEARNING_CPU_S = 10.0, 1.0
"""What a fine-tuning takes: until its firework has begun and ended, and what it is charged.

A fit of the default predictor took 0.6 CPU-s for 100 labels and 2.2 for 231 (2026-11-21, a busy machine).
"""


class Recorded(Protocol):
    """A known calculation, with all that `selector.settling` books of one; one core, so that it took ``wall_s``."""

    @property
    def wall_s(self) -> float: ...


@dataclass(frozen=True)
class Return:
    """A calculation that came back: when, what it was charged, and whether with a result."""

    time_h: float
    material_id: str
    cpu_h: float
    has_result: bool


@dataclass
class VirtualWorkers:
    """`selector.protocols.Dispatcher` over recorded calculations; time passes only in :meth:`advance`.

    Attributes
    ----------
    recorded : material_id -> its calculation
    n_workers : calculations at a time; what is submitted beyond waits for the first free worker
    learn : what a fine-tuning job calls with its key
    now_s : virtual time
    returns : what came back so far, in order
    """

    recorded: Mapping[str, Recorded]
    n_workers: int
    learn: Callable[[str], Any] = lambda key: None
    now_s: float = 0.0
    returns: list[Return] = field(default_factory=list)
    _free_s: list[float] = field(default_factory=list)
    _ends: list[tuple[float, int, str]] = field(default_factory=list)
    _jobs: dict[str, tuple[int, Job]] = field(default_factory=dict)
    _outcomes: dict[str, Result | Failure] = field(default_factory=dict)
    _n_events: int = 0

    def __post_init__(self) -> None:
        self._free_s = [0.0] * self.n_workers

    def submit(self, job: Job) -> int:
        if job.key not in self._jobs:
            took_s = min(self.recorded[job.material_id].wall_s, job.time_limit_s)
            end_s = max(self.now_s, heapq.heappop(self._free_s)) + took_s
            heapq.heappush(self._free_s, end_s)
            self._jobs[job.key] = (self._schedule(end_s, job.key), job)
        return self._jobs[job.key][0]

    def submit_learning(self, campaign: str, key: str) -> int:
        return self._schedule(self.now_s + LEARNING_S, key)

    def outcome(self, key: str, workdir: Path) -> Result | Failure | None:
        return self._outcomes.get(key)

    def learning_is_out(self, key: str) -> bool:
        return any(key == waiting for _, _, waiting in self._ends)

    def reap(self, campaign: str) -> tuple[()]:
        return ()

    def returned(self, campaign: str, epoch: int) -> list[Any]:
        return []

    def acknowledge(self, key: str) -> None:
        return None

    def advance(self) -> bool:
        """Let time pass until the next calculation or fine-tuning ends; False if nothing is under way."""
        if not self._ends:
            return False
        self.now_s, _, key = heapq.heappop(self._ends)
        if key in self._jobs:
            self._return(self._jobs[key][1])
        else:
            self.learn(key)
        return True

    def _return(self, job: Job) -> None:
        calculation = self.recorded[job.material_id]
        in_time = calculation.wall_s <= job.time_limit_s
        took_s = min(calculation.wall_s, job.time_limit_s)
        self._outcomes[job.key] = (
            Result(calculation)
            if in_time
            else Failure("TimedOut", f"took {calculation.wall_s:.0f} s when it was recorded", took_s, retry=True)
        )
        self.returns.append(Return(self.now_s / 3600, job.material_id, took_s / 3600, in_time))

    def _schedule(self, end_s: float, key: str) -> int:
        self._n_events += 1
        heapq.heappush(self._ends, (end_s, self._n_events, key))
        return self._n_events


class VirtualLedger(Ledger):
    """A ledger in which a fine-tuning costs `LEARNING_CPU_S`, whatever this machine needs: a replay can be repeated.

    Parameters
    ----------
    n_lines : lines of models that learn at a time
    """

    def __init__(self, db: Any, campaign: str, n_lines: int = 1) -> None:
        super().__init__(db, campaign)
        self._learning_cpu_h = n_lines * LEARNING_CPU_S / 3600

    def book(self, key: str, cpu_h: float, purpose: str = "learn", **about: Any) -> float:
        return super().book(key, self._learning_cpu_h if purpose == "learn" else cpu_h, purpose, **about)


def run(campaign: Campaign, workers: VirtualWorkers, *, in_rounds: bool = False) -> list[Return]:
    """Run a campaign whose dispatcher is ``workers`` to its end; what came back, in order.

    Parameters
    ----------
    in_rounds : the campaign looks only when everything that was out is back (synchronous rounds, for comparison)

    Raises
    ------
    SelectorError
        The campaign did not finish though nothing is under way.
    """
    workers.learn = campaign.learn
    state = campaign.step().state
    while workers.advance():
        while in_rounds and workers.advance():
            pass
        state = campaign.step().state
    if state != "finished":
        name = campaign.config.campaign
        raise SelectorError(f"campaign '{name}' is {state} with nothing under way: a defect, please report it")
    return workers.returns
