"""What an audit can pay for: how many members of S are drawn, and from whom.

A draw costs at most the sum of its members' reservations, the hard caps that dispatch sets aside; runs give back what
they leave, and nobody has to wait for another, so a draw whose reservations fit the pot is paid whole, in whatever
order. The size of the draw has to be fixed before it (`selector.audit`), so it may rest on the reservations of all of
S, not on those of who is drawn: to go on drawing until the pot is empty would favour the cheap. Of n random members it
is known that their reservations

- never exceed the n largest of S;
- exceed ``n m + b L / 3 + sqrt((b L / 3)^2 + 2 n v L)`` with probability exp(-L) at most, for reservations of mean m,
  variance v and largest m + b: Bernstein's inequality, which holds for draws without replacement, too (Hoeffding,
  J. Am. Stat. Assoc. 58, 13 (1963), theorem 4).

The larger n of the two is taken. In a long tail of costs a few dear members would leave nothing for the rest. So the
dearest may be *given up*: nobody draws them, and each counts as below the threshold, which is a statement about them
that can't be wrong. Who is given up is fixed before the draw as well: those above the limit that makes the bound
narrowest if no hit is drawn.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from selector.amounts import MS_PER_CPU_H
from selector.audit import ALPHA, upper_bound
from selector.errors import SelectorError

Array = NDArray[np.float64]

PAID = 0.95
"""A draw is paid whole with this probability at least, even if every run used up its reservation."""
WORTH_SAYING = 0.9
"""An audit whose bound would be above this share even without a hit says nothing: the pot is kept."""


@dataclass(frozen=True)
class AuditSample:
    """The size of a draw, and from whom.

    Attributes
    ----------
    n_drawn : members to draw; 0: the pot pays for no audit
    n_given_up : members that are too dear to be drawn
    limit_ms : the largest reservation that may be drawn, CPU-milliseconds
    """

    n_drawn: int
    n_given_up: int = 0
    limit_ms: float = math.inf

    def may_draw(self, reserve_cpu_h: ArrayLike) -> NDArray[np.bool_]:
        """Who may be drawn, of members with these reservations (n,), CPU-hours."""
        return _whole_ms(reserve_cpu_h) <= self.limit_ms


def affordable_draws(reserve_cpu_h: ArrayLike, pot_cpu_h: float) -> int:
    """How many members may be drawn from all of S.

    Parameters
    ----------
    reserve_cpu_h : (N,) CPU-hours each member would be reserved, known before the draw
    pot_cpu_h : CPU-hours there are

    Returns
    -------
    n, from 0 to N

    Raises
    ------
    SelectorError
        A reservation is negative or not finite.
    ValueError
        The CPU-hours there are are not a number.
    """
    reserve_ms = _whole_ms(reserve_cpu_h)
    return int(_payable(np.sort(reserve_ms), _pot_ms(pot_cpu_h))[-1]) if len(reserve_ms) else 0


def audit_sample(reserve_cpu_h: ArrayLike, pot_cpu_h: float, alpha: float = ALPHA) -> AuditSample:
    """The draw that makes the closing bound narrowest if nobody drawn is below the threshold.

    Parameters, errors: as :func:`affordable_draws`; ``alpha`` as for :func:`selector.audit.audit_bound`.
    """
    reserve_ms = np.sort(_whole_ms(reserve_cpu_h))
    n_members = len(reserve_ms)
    if not n_members:
        return AuditSample(0)
    drawn = _payable(reserve_ms, _pot_ms(pot_cpu_h))
    # Equals are given up together, so that no order among them matters.
    last = np.flatnonzero(np.diff(reserve_ms, append=np.inf))[::-1]
    n, left = drawn[last], last + 1
    # The bound without a hit, to a fraction of a member (Wise, Biometrika 41, 317 (1954)): exact ones take too long.
    low = np.where(n > 0, (left - (n - 1) / 2) * -np.expm1(math.log(alpha) / np.maximum(n, 1)), left)
    low = np.where(n == left, 0.0, low)
    best = int(np.argmin(n_members - left + low))
    n_drawn, n_given_up = int(n[best]), n_members - int(left[best])
    if n_given_up + upper_bound(int(left[best]), n_drawn, 0, alpha) > WORTH_SAYING * n_members:
        return AuditSample(0)
    return AuditSample(n_drawn, n_given_up, float(reserve_ms[last[best]]))


def no_audit(reserve_cpu_h: ArrayLike, pot_cpu_h: float) -> str:
    """Why nothing is drawn from a set that is not empty, in words."""
    reserve = np.asarray(reserve_cpu_h, dtype=float)
    left = f"{len(reserve)} materials left at IPA"
    if pot_cpu_h <= 0.0:
        return (
            f"No audit: none of the budget is there for one, and nothing is known of the {left}; raise audit_fraction."
        )
    return (
        f"No audit: the pot of {pot_cpu_h:.4f} CPU-h is too small to draw from the {left} (the cheapest needs "
        f"{reserve.min():.4f} reserved), and nothing is known of them; raise audit_fraction."
    )


def _payable(reserve_ms: Array, pot_ms: float) -> NDArray[np.intp]:
    """How many of the k cheapest may be drawn from these, for k = 1 ... N; ``reserve_ms`` rises."""
    k, total = np.arange(1, len(reserve_ms) + 1), np.cumsum(reserve_ms)
    dearest = k - np.searchsorted(np.append(0.0, total), total - pot_ms)
    mean = total / k
    variance = np.maximum(np.cumsum(reserve_ms**2) / k - mean**2, 0.0)
    spread, tail = -variance * math.log(1 - PAID), -(reserve_ms - mean) * math.log(1 - PAID) / 3
    rest = pot_ms - tail
    # The smaller root of (rest - n mean)^2 = tail^2 + 2 n spread.
    half = rest * mean + spread
    root = np.sqrt(np.maximum(half**2 - mean**2 * (rest**2 - tail**2), 0.0))
    random = np.where(rest >= tail, (half - root) / mean**2 * (1 - 1e-9), 0.0)
    return np.clip(np.maximum(dearest, np.floor(random).astype(np.intp)), 0, k)


def _whole_ms(reserve_cpu_h: ArrayLike) -> Array:
    """Reservations as the ledger books them."""
    reserve = np.asarray(reserve_cpu_h, dtype=float)
    if not np.isfinite(reserve).all() or (reserve < 0.0).any():
        raise SelectorError("a predicted cost is negative or not finite: no audit can be planned; check the cost model")
    whole: Array = np.maximum(np.rint(reserve * MS_PER_CPU_H), 1.0)
    return whole


def _pot_ms(pot_cpu_h: float) -> float:
    if math.isnan(pot_cpu_h):
        raise ValueError("the CPU-hours kept for the audit are not a number")
    return max(0.0, round(pot_cpu_h * MS_PER_CPU_H))
