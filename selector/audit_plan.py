"""Before anything runs: what the budget's audit share pays for, and how large an audit a wanted bound needs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from selector.audit import ALPHA, affordable_draws, audit_size, upper_bound
from selector.choosing import Choice
from selector.ledger import Totals


@dataclass(frozen=True)
class AuditPlan:
    """An audit of what a plan leaves at IPA.

    Attributes
    ----------
    n_members : materials that the plan leaves at IPA, those vetoed by hand not counted
    pot_cpu_h : CPU-hours of the budget kept for the audit
    n_affordable : draws that they pay at the members' mean reservation
    share : the bound, as a share, if none of these has SC below the threshold; 1 where nothing is drawn
    target_share : the bound that is wanted
    n_needed : draws that it needs if none of them has SC below the threshold; None where no draw is enough
    needed_cpu_h : what they would reserve; None where none is enough
    """

    n_members: int
    pot_cpu_h: float
    n_affordable: int
    share: float
    target_share: float
    n_needed: int | None
    needed_cpu_h: float | None

    def sentence(self, threshold: float, budget_cpu_h: float) -> str:
        """The plan in words."""
        if self.n_members == 0:
            return "The plan leaves nothing at IPA: there is nothing to audit."
        confidence = f"{100 * (1 - ALPHA):g} %"
        pays = (
            f"The {self.pot_cpu_h:.4f} CPU-h kept for the audit pay for about {self.n_affordable} of the "
            f"{self.n_members} materials left at IPA"
        )
        if self.n_affordable:
            pays += (
                f": with none of them below {threshold:g}, at most {math.ceil(1000 * self.share) / 10:g} % "
                f"({confidence}) have SC below it"
            )
        return f"{pays}. {self._needs(budget_cpu_h)}"

    def _needs(self, budget_cpu_h: float) -> str:
        target = f"A bound of {100 * self.target_share:g} %"
        if self.n_needed is None or self.needed_cpu_h is None:
            return f"{target} is out of reach."
        fraction = self.needed_cpu_h / budget_cpu_h
        said = f"{target} needs {self.n_needed} without a hit, about {self.needed_cpu_h:.4f} CPU-h"
        return f"{said} (audit_fraction {fraction:.2g})." if fraction < 1.0 else f"{said}: more than the budget."


def audit_plan(choices: Sequence[Choice], totals: Totals, target_share: float) -> AuditPlan:
    """The closing audit, if the campaign ended as planned.

    Raises
    ------
    UsageError
        The target is not between 0 and 1.
    """
    reserve = np.array([c.reserve_cpu_h for c in choices if not c.dispatch and not c.candidate.get("vetoed")])
    n, pot = len(reserve), totals.audit_available_cpu_h
    drawn = affordable_draws(reserve, pot)
    needed = audit_size(n, target_share)
    return AuditPlan(
        n_members=n,
        pot_cpu_h=pot,
        n_affordable=drawn,
        share=upper_bound(n, drawn, 0) / n if n else 0.0,
        target_share=target_share,
        n_needed=needed,
        needed_cpu_h=None if needed is None else float(needed * reserve.mean()) if n else 0.0,
    )
