"""Before anything runs: what the budget's audit share pays for, and how large an audit a wanted bound needs."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from selector.amounts import MS_PER_CPU_H
from selector.audit import ALPHA, AuditOutcome, audit_bound
from selector.audit_pot import AuditSample, audit_sample, no_audit
from selector.choosing import Choice
from selector.errors import UsageError
from selector.ledger import Totals
from selector.pool import Array


@dataclass(frozen=True)
class AuditPlan:
    """An audit of what a plan leaves at IPA.

    Attributes
    ----------
    n_members : materials that the plan leaves at IPA, those vetoed by hand not counted
    pot_cpu_h : CPU-hours of the budget kept for the audit
    n_affordable : draws that they pay, as the closing audit would make them
    n_given_up : members too dear for it, each of which counts as below the threshold
    share : the bound, as a share, if none of those drawn has SC below the threshold; None where nothing is drawn
    no_audit : why nothing is drawn, in words; None where something is, or where nothing is left
    target_share : the bound that is wanted
    n_needed : draws that it needs if none of them has SC below the threshold
    needed_cpu_h : the smallest pot that pays for them
    """

    n_members: int
    pot_cpu_h: float
    n_affordable: int
    n_given_up: int
    share: float | None
    no_audit: str | None
    target_share: float
    n_needed: int
    needed_cpu_h: float

    def sentence(self, threshold: float, budget_cpu_h: float) -> str:
        """The plan in words."""
        if self.n_members == 0:
            return "The plan leaves nothing at IPA: there is nothing to audit."
        if self.share is None:
            return f"{self.no_audit} {self._needs(budget_cpu_h)}"
        dear = f" ({self.n_given_up} too dear for it count as below)" if self.n_given_up else ""
        return (
            f"The {self.pot_cpu_h:.4f} CPU-h kept for the audit pay for {self.n_affordable} of the {self.n_members} "
            f"materials left at IPA: with none of them below {threshold:g}, at most "
            f"{math.ceil(1000 * self.share) / 10:g} % ({100 * (1 - ALPHA):g} %) have SC below it{dear}. "
            f"{self._needs(budget_cpu_h)}"
        )

    def _needs(self, budget_cpu_h: float) -> str:
        target = f"A bound of {100 * self.target_share:g} %"
        fraction = self.needed_cpu_h / budget_cpu_h
        said = f"{target} needs {self.n_needed} without a hit, {self.needed_cpu_h:.4f} CPU-h kept for them"
        return (
            f"{said} (audit_fraction {math.ceil(1000 * fraction) / 1000:g})."
            if fraction < 1.0
            else f"{said}: more than the budget."
        )


def audit_plan(choices: Sequence[Choice], totals: Totals, target_share: float) -> AuditPlan:
    """The closing audit, if the campaign ended as planned.

    Raises
    ------
    UsageError
        The target is not between 0 and 1.
    """
    if not 0.0 <= target_share <= 1.0:
        raise UsageError(f"target share {target_share:g}: give a number between 0 and 1, such as 0.05 for 5 %")
    reserve = np.array([c.reserve_cpu_h for c in choices if not c.dispatch and not c.candidate.get("vetoed")])
    n, pot = len(reserve), totals.audit_available_cpu_h
    sample = audit_sample(reserve, pot)
    drawn, given_up = sample.n_drawn, sample.n_given_up
    needed, needed_cpu_h = _smallest(reserve, target_share)
    return AuditPlan(
        n_members=n,
        pot_cpu_h=pot,
        n_affordable=drawn,
        n_given_up=given_up,
        share=audit_bound(n, AuditOutcome(drawn, 0, 0, given_up)).share if drawn else None,
        no_audit=no_audit(reserve, pot) if n and not drawn else None,
        target_share=target_share,
        n_needed=needed.n_drawn,
        needed_cpu_h=needed_cpu_h,
    )


def _smallest(reserve_cpu_h: Array, target_share: float) -> tuple[AuditSample, float]:
    """The draw that shows the target if it has no hit, and the smallest pot (CPU-hours) that pays for it."""
    n = len(reserve_cpu_h)
    allowed = math.floor(target_share * n * (1 + 1e-12))

    def reached(pot_ms: int) -> bool:
        sample = audit_sample(reserve_cpu_h, pot_ms / MS_PER_CPU_H)
        return allowed >= n or audit_bound(n, AuditOutcome(sample.n_drawn, 0, 0, sample.n_given_up)).n_low <= allowed

    # Each reservation is rounded to a millisecond.
    pots_ms = range(math.ceil(reserve_cpu_h.sum() * MS_PER_CPU_H) + n + 1)
    pot_cpu_h = pots_ms[bisect_left(pots_ms, True, key=reached)] / MS_PER_CPU_H
    return audit_sample(reserve_cpu_h, pot_cpu_h), pot_cpu_h
