"""What the next calculation of each pending candidate is predicted to cost, and what is to be reserved for it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from operator import itemgetter
from typing import Any, NamedTuple

import numpy as np

from selector.config import CampaignConfig
from selector.costs import CostModel, Settled
from selector.documents import Document, cost_fields
from selector.pool import Array

MIN_WALL_S = 20.0
"""No calculation gets less time than this: starting its process alone takes seconds on a busy machine."""


class CpuHours(NamedTuple):
    """What a calculation is predicted to cost, and what is to be reserved for it, CPU-hours."""

    predicted: float
    reserve: float


def learn_costs(candidates: Iterable[Document], engine_log_sd: float, level: str = "rpa") -> CostModel:
    """The cost model of a level after what was settled of it; one that ran out of time counts as stopped."""
    estimated, used, _ = cost_fields(level)
    settled = [
        Settled(c[estimated], c[used], finished=c["status"] == "done" if level == "rpa" else c.get("ipa") == "computed")
        for c in candidates
        if c.get(used)
    ]
    return CostModel.learn(settled, engine_log_sd)


@dataclass(frozen=True)
class IpaFirst:
    """How IPA calculations go before RPA: their cost model, and the CPU-hours that they may still take."""

    costs: CostModel
    left_cpu_h: float = np.inf


def ipa_hours(
    documents: Sequence[Document], pinned: np.ndarray[Any, Any], ipa_first: IpaFirst | None, config: CampaignConfig
) -> tuple[Array, Array]:
    """Predicted cost of the IPA calculation that goes first, and what is to be reserved for it; else NaN and 0."""
    cost, reserve = np.full(len(documents), np.nan), np.zeros(len(documents))
    if ipa_first is None:
        return cost, reserve
    wanted = np.array([not c.get("ipa") and "estimate_ipa_cpu_h" in c for c in documents], dtype=bool) & ~pinned
    if wanted.any():
        which = np.flatnonzero(wanted)
        found, reserved = cpu_hours([documents[i] for i in which.tolist()], ipa_first.costs, config, "ipa")
        payable = reserved <= ipa_first.left_cpu_h
        cost[which[payable]], reserve[which[payable]] = found[payable], reserved[payable]
    return cost, reserve


def cpu_hours(
    documents: Sequence[Document], costs: CostModel, config: CampaignConfig, level: str = "rpa"
) -> tuple[Array, Array]:
    """Predicted cost of each at a level, and what is to be reserved for it."""
    estimated, _, timed_out = cost_fields(level)
    estimates = column(documents, estimated)
    least = MIN_WALL_S * config.cores_per_job / 3600
    # A calculation that ran out of its time gets twice as much at its next attempt.
    again = 2 * np.array([c.get(timed_out) or 0.0 for c in documents], dtype=float)
    reserve = costs.reserve(estimates, config.reserve_quantile)
    return costs.predict(estimates), np.maximum(np.maximum(reserve, least), again)


def column(documents: Sequence[Document], name: str) -> Array:
    return np.fromiter(map(itemgetter(name), documents), dtype=float, count=len(documents))
