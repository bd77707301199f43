"""Which candidates get RPA next, in which order, at what cost, and why the others do not.

Documents of the store become the arrays of a `Pool`; a policy ranks those; what is chosen becomes a `Choice`. What a
person has pinned goes before the policy's order, and what a person has vetoed never goes.

Where the campaign computes IPA spectra first, a policy's choice without one gets its IPA calculation and is then chosen
anew. It is ranked by RPA's value and cost, as all are: the spectrum is worth looking at where RPA may be. Both
calculations have to fit the budget, for a spectrum that RPA can't follow decides nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from selector.budgeting import CpuHours, IpaFirst, column, cpu_hours, ipa_hours
from selector.config import CampaignConfig
from selector.costs import CostModel
from selector.documents import Document
from selector.policies import Policy, blamed, checked_rank
from selector.pool import Array, Indices, Pool
from selector.predictions import latent_vectors, prior


@dataclass(frozen=True)
class Choice:
    """A pending candidate in the order of dispatch.

    Attributes
    ----------
    candidate : its document
    prediction : what is predicted of it, the latent vector left out
    cost_cpu_h, reserve_cpu_h : predicted cost of RPA, and what is to be reserved for it
    dispatch : whether it gets RPA
    reason : why, or why not
    random_draw : whether it was drawn by lot
    audit_probability : with which probability it was drawn, where it was
    ipa : of the IPA calculation that goes first, after which the choice is made again; None where RPA goes at once
    """

    candidate: Document
    prediction: Document
    cost_cpu_h: float
    reserve_cpu_h: float
    dispatch: bool
    reason: str
    random_draw: bool = False
    audit_probability: float = 0.0
    ipa: CpuHours | None = None

    @property
    def level(self) -> str:
        """The level of the calculation that is dispatched now: "ipa" alone, or "rpa", which is both."""
        return "rpa" if self.ipa is None else "ipa"

    @property
    def now(self) -> CpuHours:
        """What that calculation costs."""
        return self.ipa or CpuHours(self.cost_cpu_h, self.reserve_cpu_h)

    @property
    def needed_cpu_h(self) -> float:
        """What has to be left for it: the reservations of all that it still wants."""
        return self.reserve_cpu_h + (self.ipa.reserve if self.ipa else 0.0)

    def over_budget(self, left_cpu_h: float) -> Choice:
        """The same candidate, left at IPA for want of CPU-hours."""
        reason = f"{self.reason}, but it needs {self.needed_cpu_h:.4f} CPU-h reserved and {left_cpu_h:.4f} are left"
        return replace(self, dispatch=False, reason=reason, ipa=None)


@dataclass(frozen=True)
class Pending:
    """The pending candidates, as documents and as arrays of n rows; those vetoed by hand stand aside.

    Attributes
    ----------
    documents, predictions : n of each
    pool : their numbers
    reserve_cpu_h : (n,) what is to be reserved for the RPA calculation of each
    ipa_cpu_h, ipa_reserve_cpu_h : (n,) the same two of the IPA calculation that the policy's choice gets first; NaN and
        0 where there is none
    pinned : (n,) bool, by hand
    vetoed : choices against RPA
    """

    documents: Sequence[Document]
    predictions: Sequence[Document]
    pool: Pool
    reserve_cpu_h: Array
    ipa_cpu_h: Array
    ipa_reserve_cpu_h: Array
    pinned: np.ndarray[Any, np.dtype[np.bool_]]
    vetoed: Sequence[Choice]

    @classmethod
    def of(
        cls,
        documents: Sequence[Document],
        in_flight: Sequence[Document],
        costs: CostModel,
        config: CampaignConfig,
        ipa_first: IpaFirst | None = None,
    ) -> Pending:
        """From the store's documents; of those in flight, the predictions are enough.

        What is pinned goes to RPA at once, and so does what the IPA calculations' share has no room for.

        Raises
        ------
        SelectorError
            A prediction or a cost is not finite, or a cost is not positive; the message names the material.
        """
        unknown = prior(config.policy.threshold)
        open_ = [c for c in documents if not c.get("vetoed")]
        said = [c.get("prediction") or unknown for c in open_]
        cost, reserve = cpu_hours(open_, costs, config)
        latent = latent_vectors(said)
        # A vector means nothing to another model; without a model there is none.
        space = _space(said[0]) if said else None
        out = [p for c in in_flight if _space(p := c.get("prediction") or unknown) == space]
        pool = Pool(
            material_id=np.array([c["material_id"] for c in open_], dtype=str),
            mean=column(said, "sc_mean"),
            spread=column(said, "sc_std"),
            lo=column(said, "sc_lo"),
            hi=column(said, "sc_hi"),
            p_low=column(said, "p_low"),
            value=column(said, "value"),
            cost_cpu_h=cost,
            latent=latent,
            in_flight_latent=latent_vectors(out, latent.shape[1]),
        )
        pinned = np.array([bool(c.get("pinned")) for c in open_], dtype=bool)
        ipa_cost, ipa_reserve = ipa_hours(open_, pinned, ipa_first, config)
        aside = [c for c in documents if c.get("vetoed")]
        cpu_h = np.column_stack(cpu_hours(aside, costs, config)).tolist()
        vetoed = [
            Choice(c, _told(c.get("prediction") or unknown), expected, reserved, False, "vetoed by hand")
            for c, (expected, reserved) in zip(aside, cpu_h, strict=True)
        ]
        return cls(open_, said, pool, reserve, ipa_cost, ipa_reserve, pinned, vetoed)

    @property
    def needed_cpu_h(self) -> Array:
        """(n,) what has to be left for each to be the policy's choice."""
        return self.reserve_cpu_h + self.ipa_reserve_cpu_h

    def take(self, rest: Indices, in_flight: Indices) -> Pending:
        """The candidates of ``rest`` alone, while those of ``in_flight`` are in flight too."""
        rows = ("reserve_cpu_h", "ipa_cpu_h", "ipa_reserve_cpu_h", "pinned")
        return replace(
            self,
            documents=[self.documents[i] for i in rest.tolist()],
            predictions=[self.predictions[i] for i in rest.tolist()],
            pool=self.pool.take(rest, in_flight),
            **{name: getattr(self, name)[rest] for name in rows},
        )

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
            ipa=CpuHours(float(self.ipa_cpu_h[i]), float(self.ipa_reserve_cpu_h[i]))
            if dispatch and self.ipa_reserve_cpu_h[i]
            else None,
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
    waiting, needed = ~pending.pinned, pending.needed_cpu_h
    now = np.where(pending.ipa_reserve_cpu_h > 0.0, pending.ipa_reserve_cpu_h, pending.reserve_cpu_h)
    chosen: list[int] = []

    def take(indices: Indices) -> None:
        nonlocal available_cpu_h
        for i in indices.tolist():
            if len(chosen) < room and needed[i] <= available_cpu_h:
                available_cpu_h -= now[i]
                waiting[i] = False
                chosen.append(i)

    take(np.flatnonzero(pending.pinned))
    while len(chosen) < room:
        fitting = np.flatnonzero(waiting & (needed <= available_cpu_h))
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
    """What would be dispatched until the budget is spent, if every cost came out as predicted.

    What gets IPA first counts with RPA too, as if no spectrum changed its choice.
    """
    planned = []
    for choice in choices:
        if choice.dispatch and choice.needed_cpu_h > available_cpu_h:
            planned.append(choice.over_budget(available_cpu_h))
            continue
        if choice.dispatch:
            available_cpu_h -= choice.cost_cpu_h + (choice.ipa.predicted if choice.ipa else 0.0)
        planned.append(choice)
    return planned


def _space(prediction: Document) -> str | None:
    """The model in whose space its latent vector lies."""
    space: str | None = prediction.get("latent_model_id", prediction["model_id"])
    return space


def _told(prediction: Document) -> Document:
    return {k: v for k, v in prediction.items() if k != "latent"}
