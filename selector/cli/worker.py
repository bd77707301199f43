"""selector worker: rockets on this machine, for as long as they are wanted."""

from __future__ import annotations

import signal
import socket
import time
from enum import StrEnum
from pathlib import Path
from types import FrameType, TracebackType
from typing import TYPE_CHECKING, Annotated

import typer

from selector.cli.common import DEFAULT_CONFIG, console, errors
from selector.cli.reaching import Reached, at_rest
from selector.config import CampaignConfig, load_config

if TYPE_CHECKING:
    from fw_tasks.workers import LocalWorkers
    from selector.campaign import Campaign

LOOK_S = 1.0
STEP_S = 30.0
"""Rockets advance the campaign themselves; a step so often puts right what a dead one left."""


class Category(StrEnum):
    """What a worker launches."""

    ipa = "ipa"
    rpa = "rpa"
    learn = "learn"
    light = "light"
    predict = "predict"


def worker(
    config_file: Annotated[
        Path, typer.Argument(metavar="CAMPAIGN", help="The campaign's YAML file.", envvar="SELECTOR_CONFIG")
    ] = DEFAULT_CONFIG,
    n: Annotated[int, typer.Option("--workers", "-n", min=1, help="Rockets at a time.")] = 1,
    category: Annotated[
        list[Category] | None,
        typer.Option(help="Launch these alone (may be repeated): light records results and advances the campaign."),
    ] = None,
    until_done: Annotated[
        bool, typer.Option("--until-done", help="Leave when the campaign is finished or stopped.")
    ] = False,
    hand_back: Annotated[
        bool, typer.Option("--hand-back", help="When told to leave, hand the running tasks back at once.")
    ] = False,
) -> None:
    """Launch the campaign's rockets on this machine. On Ctrl-C or SIGTERM running tasks end first; twice: at once."""
    from fw_tasks.workers import LocalWorkers, refuse_elsewhere

    config = load_config(config_file)
    refuse_elsewhere(config)
    categories = [str(c) for c in category or ()]
    watch = _Watch(config, steps=not categories or Category.light in categories)
    watch.look()
    with LocalWorkers(config_file, config, n, categories, hand_back) as local, _Leaving(local, hand_back) as leaving:
        console.print(
            f"{n} workers ({', '.join(categories) or 'everything'}) for campaign '{config.campaign}' on "
            f"{socket.gethostname()}; they write into {config.folder}/launches",
            soft_wrap=True,
        )
        while local.alive or not leaving.asked:
            local.check()
            if not leaving.asked and watch.look() and until_done:
                leaving.leave()
            time.sleep(LOOK_S)
    console.print(f"campaign '{config.campaign}' is {watch.state}; the workers have left")


class _Watch:
    """Looks at the campaign now and then, and steps where this machine is to record and advance."""

    def __init__(self, config: CampaignConfig, steps: bool) -> None:
        self._reached = Reached(config)
        self._steps = steps
        self._stepped = -STEP_S
        self.state = "running"

    def look(self) -> bool:
        """Whether the campaign is at rest, with nothing in flight; not while the database is away."""
        return bool(self._reached.ask(self._look_at))

    def _look_at(self, campaign: Campaign) -> bool:
        if self._steps and time.monotonic() - self._stepped > STEP_S:
            self._stepped = time.monotonic()
            campaign.step()
        self.state = campaign.store.campaign()["state"]
        return at_rest(campaign, self.state)


class _Leaving:
    """The first signal asks the workers to leave after their running tasks, the second to hand these back."""

    def __init__(self, local: LocalWorkers, hand_back: bool) -> None:
        self._local = local
        self._hand_back = hand_back
        self.asked = False

    def __enter__(self) -> _Leaving:
        self._before = {number: signal.signal(number, self._on_signal) for number in (signal.SIGTERM, signal.SIGINT)}
        return self

    def __exit__(self, kind: type[BaseException] | None, e: BaseException | None, trace: TracebackType | None) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def leave(self) -> None:
        self._local.leave(hand_back=self._hand_back or self.asked)
        self.asked = True

    def _on_signal(self, signum: int, frame: FrameType | None) -> None:
        again = "" if self._hand_back or self.asked else " after their running tasks (again: at once)"
        errors.print(f"selector: the workers leave{again}")
        self.leave()


COMMANDS = (worker,)
