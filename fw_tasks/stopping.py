"""A process that is told to stop: it goes on to the end of what it runs, or hands that back at once.

A task is interrupted only where it says that it may be, so that neither a result being written nor FireWorks' own
bookkeeping is cut short. Outside these places the wish is kept, and met at the next one.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

WALLTIME_MARGIN_S = 90.0
"""A signal so shortly before the queue job's end, or after it, is SLURM's own (it kills 30 s after it asked)."""


class Stopping:
    """What this process was asked: nothing, to leave after the running task, or to hand that back."""

    def __init__(self) -> None:
        self.asked = threading.Event()
        self.hands_back = False
        self._interruptible = False

    def listen(self, *, hand_back: bool = False, supervised: bool = False) -> None:
        """Leave on SIGTERM and SIGINT, after the running task or (``hand_back``) at once; on SIGUSR1 always at once.

        ``supervised``: the keys of a terminal are for the process that started this one, and that tells.
        """
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._hand_back if hand_back else self._leave)
        signal.signal(signal.SIGUSR1, self._hand_back)
        if supervised:
            signal.signal(signal.SIGINT, signal.SIG_IGN)

    @contextmanager
    def may_interrupt(self) -> Iterator[None]:
        """Where a task may be interrupted; `SystemExit` if it is to be handed back."""
        if self.hands_back:
            raise SystemExit(0)
        self._interruptible = True
        try:
            yield
        finally:
            self._interruptible = False

    def _leave(self, signum: int, frame: FrameType | None) -> None:
        self.asked.set()

    def _hand_back(self, signum: int, frame: FrameType | None) -> None:
        self.asked.set()
        self.hands_back = True
        if self._interruptible:
            self._interruptible = False
            raise SystemExit(0)


stopping = Stopping()
"""This process's own."""


def at_walltime() -> bool:
    """Whether the queue job in which this runs, if it does, has reached the end of its walltime."""
    end = os.environ.get("SLURM_JOB_END_TIME", "")
    return end.isdigit() and time.time() > int(end) - WALLTIME_MARGIN_S
