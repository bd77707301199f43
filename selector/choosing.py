"""Which candidates get RPA next, in which order, at what cost, and why the others do not.

Documents of the store become the arrays of a `Pool`; a policy ranks those; what is chosen becomes a `Choice`. What a
person has pinned goes before the policy's order, and what a person has vetoed never goes.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from selector.config import CampaignConfig
from selector.costs import CostModel, Settled
from selector.policies import Policy, blamed, checked_rank
from selector.pool import Array, Indices, Pool
from selector.predictions import latent_vectors, prior
from selector.store import Document

MIN_WALL_S = 20.0
"""No calculation gets less time than this: starting its process alone takes seconds on a busy machine."""


@dataclass(frozen=True)
class Choice:
    """A pending candidate in the order of dispatch.

    Attributes
    ----------
    candidate : its document
    prediction : what is predicted of it, the latent vector left out
    cost_cpu_h, reserve_cpu_h : predicted cost, and what is to be reserved
    dispatch : whether it gets RPA
    reason : why, or why not
    random_draw : whether it was drawn by lot
    audit_probability : with which probability it was drawn, where it was
    """

    candidate: Document
    prediction: Document
    cost_cpu_h: float
    reserve_cpu_h: float
    dispatch: bool
    reason: str
    random_draw: bool = False
    audit_probability: float = 0.0

    def over_budget(self, left_cpu_h: float) -> Choice:
        """The same candidate, left at IPA for want of CPU-hours."""
        reason = f"{self.reason}, but it needs {self.reserve_cpu_h:.4f} CPU-h reserved and {left_cpu_h:.4f} are left"
        return replace(self, dispatch=False, reason=reason)


def learn_costs(candidates: Iterable[Document], engine_log_sd: float) -> CostModel:
    """The cost model of RPA after what was settled; one that ran out of time counts as stopped."""
    settled = [
        Settled(c["estimate_cpu_h"], c["used_cpu_h"], finished=c["status"] == "done")
        for c in candidates
        if c.get("used_cpu_h")
    ]
    return CostModel.learn(settled, engine_log_sd)


@dataclass(frozen=True)
class Pending:
    """The pending candidates, as documents and as arrays of n rows; those vetoed by hand stand aside.

    Attributes
    ----------
    documents, predictions : n of each
    pool : their numbers
    reserve_cpu_h : (n,) what is to be reserved for each
    pinned : (n,) bool, by hand
    vetoed : choices against RPA
    """

    documents: Sequence[Document]
    predictions: Sequence[Document]
    pool: Pool
    reserve_cpu_h: Array
    pinned: np.ndarray[Any, np.dtype[np.bool_]]
    vetoed: Sequence[Choice]

    @classmethod
    def of(
        cls, documents: Sequence[Document], in_flight: Sequence[Document], costs: CostModel, config: CampaignConfig
    ) -> Pending:
        """From the store's documents; of those in flight, the predictions are enough.

        Raises
        ------
        SelectorError
            A prediction or a cost is not finite, or a cost is not positive; the message names the material.
        """
        unknown = prior(config.policy.threshold)
        open_ = [c for c in documents if not c.get("vetoed")]
        said = [c.get("prediction") or unknown for c in open_]
        cost, reserve = _cpu_hours(open_, costs, config)
        latent = latent_vectors(said)
        # A vector means nothing to another model; without a model there is none.
        model_id = said[0]["model_id"] if said else None
        out = [p for c in in_flight if (p := c.get("prediction") or unknown)["model_id"] == model_id]
        pool = Pool(
            material_id=np.array([c["material_id"] for c in open_], dtype=str),
            mean=_column(said, "sc_mean"),
            spread=_column(said, "sc_std"),
            lo=_column(said, "sc_lo"),
            hi=_column(said, "sc_hi"),
            p_low=_column(said, "p_low"),
            value=_column(said, "value"),
            cost_cpu_h=cost,
            latent=latent,
            in_flight_latent=latent_vectors(out, latent.shape[1]),
        )
        pinned = np.array([bool(c.get("pinned")) for c in open_], dtype=bool)
        aside = [c for c in documents if c.get("vetoed")]
        cpu_h = np.column_stack(_cpu_hours(aside, costs, config)).tolist()
        vetoed = [
            Choice(c, _told(c.get("prediction") or unknown), expected, reserved, False, "vetoed by hand")
            for c, (expected, reserved) in zip(aside, cpu_h, strict=True)
        ]
        return cls(open_, said, pool, reserve, pinned, vetoed)

    def choice(self, i: int, dispatch: bool, policy: Policy, threshold: float) -> Choice:
        """Candidate ``i``, dispatched or not, and why."""
        if self.pinned[i]:
            reason = "pinned by hand"
        else:
            with blamed(policy):
                reason = str((policy.reason if dispatch else policy.skip_reason)(self.pool, i, threshold))
        if self.predictions[i]["out_of_domain"]:
            reason += " (unlike every crystal the model has learned from)"
        return Choice(
            candidate=self.documents[i],
            prediction=_told(self.predictions[i]),
            cost_cpu_h=float(self.pool.cost_cpu_h[i]),
            reserve_cpu_h=float(self.reserve_cpu_h[i]),
            dispatch=dispatch,
            reason=reason,
            random_draw=bool(dispatch and policy.draws_at_random and not self.pinned[i]),
        )


def choose(pending: Pending, policy: Policy, config: CampaignConfig, available_cpu_h: float, room: int) -> list[Choice]:
    """At most ``room`` candidates to dispatch now, first to go first, whose reservations together fit the budget.

    The policy ranks what fits; where its first do not all fit beside each other, it is asked again for the rest, while
    those chosen count as in flight.

    Raises
    ------
    SelectorError
        The policy fails or returns what can't be dispatched (:func:`selector.policies.checked_rank`).
    """
    threshold, rng = config.policy.threshold, np.random.default_rng(config.seed)
    waiting = ~pending.pinned
    chosen: list[int] = []

    def take(indices: Indices) -> None:
        nonlocal available_cpu_h
        for i in indices.tolist():
            if len(chosen) < room and pending.reserve_cpu_h[i] <= available_cpu_h:
                available_cpu_h -= pending.reserve_cpu_h[i]
                waiting[i] = False
                chosen.append(i)

    take(np.flatnonzero(pending.pinned))
    while len(chosen) < room:
        fitting = np.flatnonzero(waiting & (pending.reserve_cpu_h <= available_cpu_h))
        pool = pending.pool.take(fitting, np.array(chosen, dtype=np.intp))
        ranked = checked_rank(policy, pool, threshold, rng, room - len(chosen))
        if not len(ranked):
            break
        take(fitting[ranked])
    return [pending.choice(i, True, policy, threshold) for i in chosen]


def rank(pending: Pending, policy: Policy, config: CampaignConfig) -> list[Choice]:
    """All pending candidates: pinned, in the policy's order, those it leaves at IPA by rising SC, and vetoed.

    Raises
    ------
    SelectorError
        As :func:`choose`.
    """
    threshold, rng = config.policy.threshold, np.random.default_rng(config.seed)
    pinned, others = np.flatnonzero(pending.pinned), np.flatnonzero(~pending.pinned)
    ranked = others[checked_rank(policy, pending.pool.take(others, pinned), threshold, rng, len(others))]
    wanted = np.concatenate([pinned, ranked])
    by_sc = np.argsort(pending.pool.mean, kind="stable")
    left = by_sc[~np.isin(by_sc, wanted)]
    return [
        *(pending.choice(i, True, policy, threshold) for i in wanted.tolist()),
        *(pending.choice(i, False, policy, threshold) for i in left.tolist()),
        *pending.vetoed,
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


def _cpu_hours(documents: Sequence[Document], costs: CostModel, config: CampaignConfig) -> tuple[Array, Array]:
    """Predicted cost of each, and what is to be reserved for it."""
    estimates = _column(documents, "estimate_cpu_h")
    least = MIN_WALL_S * config.cores_per_job / 3600
    # A calculation that ran out of its time gets twice as much at its next attempt.
    again = 2 * np.array([c.get("timed_out_cpu_h") or 0.0 for c in documents], dtype=float)
    reserve = costs.reserve(estimates, config.reserve_quantile)
    return costs.predict(estimates), np.maximum(np.maximum(reserve, least), again)


def _column(documents: Sequence[Document], name: str) -> Array:
    return np.fromiter((d[name] for d in documents), dtype=float, count=len(documents))


def _told(prediction: Document) -> Document:
    return {k: v for k, v in prediction.items() if k != "latent"}
