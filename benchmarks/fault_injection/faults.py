"""What goes wrong, one idea each, and the order of it by seed.

A fault strikes, and is mended after a while; one that finds nothing to strike at (no fine-tuning runs) waits for it.
"""

from __future__ import annotations

import contextlib
import os
import signal
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.random import Generator
from pymongo.errors import PyMongoError

from fault_injection.campaign import Campaign, Command


@dataclass
class Fault(ABC):
    """Something goes wrong.

    Attributes
    ----------
    rng : what is left to chance in it
    mended_after_s : seconds from the strike
    """

    rng: Generator
    mended_after_s: float = 0.0
    longest_s: ClassVar[float] = 0.0

    @property
    def name(self) -> str:
        return type(self).__name__

    @abstractmethod
    def strike(self, campaign: Campaign) -> bool:
        """Whether there was something to strike at."""

    def mend(self, campaign: Campaign) -> None:  # noqa: B027 - most need nobody
        """Put right what nobody but an administrator can."""


class KillWorker(Fault):
    """One worker, at whatever it is."""

    def strike(self, campaign: Campaign) -> bool:
        workers = sorted(campaign.workers())
        return bool(workers) and _kill(workers[self.rng.integers(len(workers))])


class KillWorkers(Fault):
    """All workers at once."""

    def strike(self, campaign: Campaign) -> bool:
        return sum(_kill(pid) for pid in campaign.workers()) > 0


class KillLauncher(Fault):
    """`selector run` or `selector worker`; a user starts it again."""

    longest_s = 4.0

    def strike(self, campaign: Campaign) -> bool:
        lives = [c for c in campaign.commands.values() if c.process is not None and c.process.poll() is None]
        if not lives:
            return False
        self._killed = [lives[self.rng.integers(len(lives))]]
        return _kill_commands(self._killed)

    def mend(self, campaign: Campaign) -> None:
        _start_again(campaign, self._killed)


class PowerFailure(Fault):
    """Everything at once: commands, workers, database."""

    longest_s = 4.0

    def strike(self, campaign: Campaign) -> bool:
        self._killed = list(campaign.commands.values())
        _kill_commands(self._killed)
        for pid in campaign.everything():
            _kill(pid)
        return True

    def mend(self, campaign: Campaign) -> None:
        if campaign.plan.behind_proxy:
            campaign.start_database()
        _start_again(campaign, self._killed)


class KillLearning(Fault):
    """The worker that fine-tunes."""

    def strike(self, campaign: Campaign) -> bool:
        with contextlib.suppress(PyMongoError), campaign.memory() as db:
            tunes = db.fireworks.find({"spec._category": "learn", "state": "RUNNING"}, {"launches": 1})
            ids = [launch for firework in tunes for launch in firework["launches"]]
            launch = db.launches.find_one({"launch_id": {"$in": ids}, "state": "RUNNING"}, {"fworker.name": 1})
            if launch is not None:
                # host:pid.token.connection (fw_tasks.signs_of_life)
                pid = int(launch["fworker"]["name"].rpartition(":")[2].split(".")[0])
                return pid in campaign.workers() and _kill(pid)
        return False


class KillDatabase(Fault):
    """The database's server; where clients do not start it again, its administrator does."""

    longest_s = 8.0

    def strike(self, campaign: Campaign) -> bool:
        pid = campaign.database()
        return pid is not None and _kill(pid)

    def mend(self, campaign: Campaign) -> None:
        if campaign.plan.behind_proxy:
            campaign.start_database()


class FreezeDatabase(Fault):
    """The database's server answers nothing for a while, and then everything."""

    longest_s = 15.0

    def strike(self, campaign: Campaign) -> bool:
        self._pid = campaign.database()
        return self._pid is not None and _send(self._pid, signal.SIGSTOP)

    def mend(self, campaign: Campaign) -> None:
        if self._pid is not None:
            _send(self._pid, signal.SIGCONT)


class DropSockets(Fault):
    """All connections to the database are reset in the middle of what they carry; new ones are refused for a while."""

    longest_s = 3.0

    def strike(self, campaign: Campaign) -> bool:
        return campaign.proxy is not None and campaign.proxy.cut(refuse=True) > 0

    def mend(self, campaign: Campaign) -> None:
        if campaign.proxy is not None:
            campaign.proxy.cut(refuse=False)


class FillDisk(Fault):
    """Nothing can be written to the campaign's disk, where its database may lie too, until somebody makes room."""

    longest_s = 8.0

    def strike(self, campaign: Campaign) -> bool:
        campaign.disk.fill()
        return True

    def mend(self, campaign: Campaign) -> None:
        campaign.disk.free()


class ShiftClock(Fault):
    """The clock of half of the processes jumps, while they run, by up to two days either way; and back."""

    longest_s = 20.0

    def strike(self, campaign: Campaign) -> bool:
        shift_s = int(np.exp(self.rng.uniform(np.log(10.0), np.log(2 * 86400.0))))
        campaign.shift_clock(f"{self.rng.choice(['+', '-'])}{shift_s}")
        return True

    def mend(self, campaign: Campaign) -> None:
        campaign.shift_clock("+0")


EVERYWHERE = (
    *(KillWorker, KillWorker, KillWorkers, KillLauncher, KillLauncher, PowerFailure, KillLearning),
    *(KillDatabase, FreezeDatabase, FillDisk, ShiftClock, ShiftClock),
)
"""A round."""
BEHIND_PROXY = (*EVERYWHERE, DropSockets, DropSockets, DropSockets)
GAP_S = (0.5, 8.0)


def schedule(seed: int, rounds: int, behind_proxy: bool) -> list[tuple[float, Fault]]:
    """So many rounds of all faults, each in an order of its own, each after so many seconds from the one before."""
    rng = np.random.default_rng(seed)
    kinds = BEHIND_PROXY if behind_proxy else EVERYWHERE
    coming: list[tuple[float, Fault]] = []
    for i in (i for _ in range(rounds) for i in rng.permutation(len(kinds))):
        mended_after_s = rng.uniform(0.2, 1.0) * kinds[i].longest_s
        coming.append((rng.uniform(*GAP_S), kinds[i](np.random.default_rng(rng.integers(2**32)), mended_after_s)))
    return coming


def _kill(pid: int) -> bool:
    return _send(pid, signal.SIGKILL)


def _send(pid: int, number: signal.Signals) -> bool:
    """Whether the process was there still."""
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return False
    return True


def _kill_commands(commands: list[Command]) -> bool:
    struck = False
    for command in commands:
        if command.process is not None and command.process.poll() is None:
            command.awaits_restart = struck = True
            command.process.kill()
            command.process.wait()
    return struck


def _start_again(campaign: Campaign, commands: list[Command]) -> None:
    for command in commands:
        if command.awaits_restart:
            campaign.start(command)
