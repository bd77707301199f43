"""One campaign under the faults of one seed, from its beginning to its verdict."""

from __future__ import annotations

import math
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from fault_injection.campaign import Campaign, Plan, computations
from fault_injection.faults import Fault, schedule
from fault_injection.verdict import Watch, verdict
from models.labels import Label

BLOW_S, LOOK_S = 0.1, 0.5
PATIENCE_S = 60.0
BUDGETS = (0.7, 2.5)
"""Some campaigns end for want of CPU-hours, others for want of materials."""


def plan_of(seed: int, labels: list[Label], n_labels: int | None, mean_s: float) -> Plan:
    """Every other campaign has its database behind a proxy; labels and budget are drawn."""
    rng = np.random.default_rng([seed, 1])
    picked = rng.permutation(len(labels))[:n_labels]
    chosen = [labels[i] for i in sorted(picked)]
    return Plan(chosen, float(rng.uniform(*BUDGETS)), mean_s, behind_proxy=seed % 2 == 1)


class Storm:
    """Faults one after the other, whatever was mended of the last; those with nothing to strike at wait for it.

    A campaign is struck while it works: each fault but the first waits for a computation that began since the last one
    struck, but for no longer than `PATIENCE_S`.
    """

    def __init__(self, campaign: Campaign, coming: list[tuple[float, Fault]]) -> None:
        self.struck: list[Fault] = []
        self._campaign, self._coming = campaign, coming[::-1]
        self._waiting: list[Fault] = []
        self._ongoing: list[tuple[float, Fault]] = []
        self._last_s, self._begun = math.inf, 0

    def blow(self) -> None:
        """Mend what is due, and strike if the time has come."""
        now_s, begun = time.monotonic(), len(computations(self._campaign.log))
        if begun and math.isinf(self._last_s):
            self._last_s = now_s
        for due in [(end_s, fault) for end_s, fault in self._ongoing if end_s <= now_s]:
            self._ongoing.remove(due)
            due[1].mend(self._campaign)
        silence_s = now_s - self._last_s
        if self._coming and silence_s > self._coming[-1][0] and (begun > self._begun or silence_s > PATIENCE_S):
            self._waiting.append(self._coming.pop()[1])
            self._last_s, self._begun = now_s, begun
        for fault in list(self._waiting):
            if fault.strike(self._campaign):
                self._waiting.remove(fault)
                self.struck.append(fault)
                self._ongoing.append((now_s + fault.mended_after_s, fault))

    def calm_down(self) -> None:
        """Mend what is left."""
        for _, fault in self._ongoing:
            fault.mend(self._campaign)


def suffer(folder: Path, plan: Plan, seed: int, rounds: int, limit_s: float) -> dict[str, Any]:
    """Run the campaign until it ends by itself, while faults strike; its figures.

    Parameters
    ----------
    rounds : how often each fault comes
    limit_s : seconds after which a campaign that has not ended counts as one that does not
    """
    watch = Watch()
    with Campaign(folder, plan) as campaign:
        storm = Storm(campaign, schedule(seed, rounds, plan.behind_proxy))
        started = looked = time.monotonic()
        while not (ended := campaign.look_after()) and time.monotonic() - started < limit_s:
            if time.monotonic() - looked > LOOK_S:
                watch.look(campaign)
                looked = time.monotonic()
            storm.blow()
            time.sleep(BLOW_S)
        wall_s = time.monotonic() - started
        storm.calm_down()
        campaign.start_database()
        watch.look(campaign)
        found = verdict(campaign, watch)
    struck = dict(Counter(fault.name for fault in storm.struck))
    about = {"seed": seed, "behind_proxy": plan.behind_proxy, "wall_s": round(wall_s), "struck": struck}
    late = [] if ended else [f"it did not end within {limit_s:g} s"]
    return about | found | {"wrong": found["wrong"] + late}
