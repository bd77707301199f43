"""Which candidates get RPA next, in which order, at what cost, and why the others do not."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from selector.config import CampaignConfig
from selector.costs import CostModel
from selector.policies import Policy, Pool
from selector.store import Document

MIN_WALL_S = 20.0
"""No calculation gets less time than this: starting its process alone takes seconds on a busy machine."""


@dataclass(frozen=True)
class Choice:
    """A pending candidate in the policy's order: its cost (CPU-hours), and whether and why it gets RPA."""

    candidate: Document
    cost_cpu_h: float
    reserve_cpu_h: float
    dispatch: bool
    reason: str

    def over_budget(self, left_cpu_h: float) -> Choice:
        """The same candidate, left at IPA for want of CPU-hours."""
        reason = f"{self.reason}, but it needs {self.reserve_cpu_h:.4f} CPU-h reserved and {left_cpu_h:.4f} are left"
        return replace(self, dispatch=False, reason=reason)


def learn_costs(candidates: Sequence[Document], engine_log_sd: float) -> CostModel:
    """The cost model after what was settled; one that ran out of time counts with what it had used by then."""
    seen = [c for c in candidates if c.get("used_cpu_h")]
    return CostModel.learn([c["used_cpu_h"] for c in seen], [c["estimate_cpu_h"] for c in seen], engine_log_sd)


def rank(pending: Sequence[Document], policy: Policy, costs: CostModel, config: CampaignConfig) -> list[Choice]:
    """Pending candidates in the policy's order, then those it leaves at IPA by rising predicted SC."""
    if not pending:
        return []
    estimates = np.array([c["estimate_cpu_h"] for c in pending])
    expected = costs.predict(estimates)
    reserve = np.maximum(costs.reserve(estimates, config.reserve_quantile), MIN_WALL_S * config.cores_per_job / 3600)
    for i, c in enumerate(pending):
        # A calculation that ran out of its time gets twice as much at its next attempt.
        reserve[i] = max(reserve[i], 2 * c.get("timed_out_cpu_h", 0.0))

    def column(name: str) -> np.ndarray:
        return np.array([c["prediction"][name] for c in pending])

    pool = Pool(
        material_id=np.array([c["material_id"] for c in pending]),
        mean=column("sc_mean"),
        lo=column("sc_lo"),
        hi=column("sc_hi"),
        p_low=column("p_low"),
        cost_cpu_h=expected,
    )
    threshold = config.policy.threshold
    wanted = [int(i) for i in policy.rank(pool, threshold, np.random.default_rng(config.seed))]
    left = [int(i) for i in np.argsort(pool.mean, kind="stable") if int(i) not in set(wanted)]
    return [
        Choice(pending[i], float(expected[i]), float(reserve[i]), True, policy.reason(pool, i, threshold))
        for i in wanted
    ] + [
        Choice(pending[i], float(expected[i]), float(reserve[i]), False, policy.skip_reason(pool, i, threshold))
        for i in left
    ]


def plan(choices: Sequence[Choice], available_cpu_h: float) -> list[Choice]:
    """What would be dispatched until the budget is spent, if every cost came out as predicted."""
    planned = []
    for choice in choices:
        if choice.dispatch and choice.reserve_cpu_h > available_cpu_h:
            planned.append(choice.over_budget(available_cpu_h))
            continue
        available_cpu_h -= choice.cost_cpu_h if choice.dispatch else 0.0
        planned.append(choice)
    return planned
