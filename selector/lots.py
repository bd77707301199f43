"""What is dispatched now: the policy's choices, and among them some drawn at random, whatever is predicted.

On random draws intervals are measured and recalibrated (`selector.recalibration`). Lots fall on dear materials as often
as on cheap ones, a policy looks for the cheap: so lots are drawn as seldom as it takes for them to cost, in the
expectation, their share of the CPU-hours.
"""

from __future__ import annotations

import numpy as np

from selector import choosing
from selector.choosing import Choice, Pending
from selector.config import CampaignConfig
from selector.looks import Look
from selector.policies import Policy

_STREAM = 0x10_75
"""The stream of random numbers that says which dispatches are drawn by lot, and from what."""


def choose(
    pending: Pending,
    policy: Policy,
    config: CampaignConfig,
    available_cpu_h: float,
    room: int,
    n_before: int,
    look: Look | None = None,
) -> list[Choice]:
    """What to dispatch now, at most ``room``: what a look has drawn, then by lot, then pinned, then by the policy.

    Which of the policy's choices give way to a lot, and what that draws, follows from the campaign's seed and the
    number of dispatches before. Lots fall on what the budget can pay. What is drawn gets RPA at once: draws are there
    for labels.
    """
    drawn: dict[int, Choice] = {}
    names, left = pending.pool.material_id, available_cpu_h
    if look is not None:
        for i in np.flatnonzero(np.isin(names, look.drawn)).tolist():
            if len(drawn) < room and pending.reserve_cpu_h[i] <= left:
                drawn[i] = _drawn(pending, i, look.probability, look.reason)
                left -= float(pending.reserve_cpu_h[i])
    wanted = choosing.choose(_without(pending, list(drawn)), policy, config, left, room - len(drawn))
    n_looked = len(drawn)
    for number, choice in enumerate(wanted, start=n_before):
        rng = np.random.default_rng([_STREAM, config.seed, number])
        fitting = pending.reserve_cpu_h <= left
        fitting[list(drawn)] = False
        n = int(fitting.sum())
        if n and rng.random() < _probability(
            config.policy.random_share, float(pending.pool.cost_cpu_h[fitting].mean()), choice.cost_cpu_h
        ):
            i = int(pending.pool.by_id[fitting[pending.pool.by_id]][rng.integers(n)])
            reason = f"drawn by lot among {n} pending candidates, whatever is predicted"
            drawn[i] = _drawn(pending, i, 1 / n, reason)
            left -= float(pending.reserve_cpu_h[i])
    if len(drawn) > n_looked:
        wanted = choosing.choose(_without(pending, list(drawn)), policy, config, left, room - len(drawn))
    return [*drawn.values(), *wanted]


def _probability(share: float, lot_cpu_h: float, choice_cpu_h: float) -> float:
    """Of a lot instead of the policy's choice, so that lots take ``share`` of what both cost in the expectation."""
    return share * choice_cpu_h / (share * choice_cpu_h + (1.0 - share) * lot_cpu_h)


def _drawn(pending: Pending, i: int, probability: float, reason: str) -> Choice:
    return Choice(
        candidate=pending.documents[i],
        prediction={k: v for k, v in pending.predictions[i].items() if k != "latent"},
        cost_cpu_h=float(pending.pool.cost_cpu_h[i]),
        reserve_cpu_h=float(pending.reserve_cpu_h[i]),
        dispatch=True,
        reason=reason,
        random_draw=True,
        audit_probability=probability,
    )


def _without(pending: Pending, taken: list[int]) -> Pending:
    """The other candidates, while those are in flight."""
    if not taken:
        return pending
    return pending.take(np.setdiff1d(np.arange(len(pending.documents)), taken), np.array(taken, dtype=np.intp))
