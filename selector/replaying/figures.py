"""What a replay was worth: spectral error removed, recall and cost, beside what an oracle would have done.

A material whose SC lies below the threshold has the spectral error 1 - SC at IPA; computing its RPA removes that.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from selector.errors import SelectorError
from selector.replaying.virtual import Return

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Outcome:
    """What came of one replay, or of the oracle.

    Attributes
    ----------
    error_removed : share of the pool's sum of 1 - SC below the threshold whose materials came back with RPA
    recall : share of the materials below the threshold that came back with RPA
    cost_cpu_h : CPU-hours of all calculations, those that ran out of time too
    wall_h : virtual time until the last came back; NaN for the oracle
    """

    error_removed: float
    recall: float
    cost_cpu_h: float
    wall_h: float


@dataclass(frozen=True)
class Pool:
    """What is known of the materials of a replay; arrays of n rows.

    Attributes
    ----------
    material_id : n names
    sc : (n,) SC[RPA; IPA]
    cpu_h : (n,) recorded costs
    threshold : SC below which RPA is wanted

    Raises
    ------
    SelectorError
        No material lies below the threshold: nothing could be removed.
    """

    material_id: Sequence[str]
    sc: Array
    cpu_h: Array
    threshold: float

    def __post_init__(self) -> None:
        if not (self.sc < self.threshold).any():
            raise SelectorError(
                f"no SC of {len(self.sc)} materials is below {self.threshold:g}: nothing to remove; raise the threshold"
            )

    @property
    def error(self) -> Array:
        """(n,) what RPA of each removes."""
        return np.where(self.sc < self.threshold, 1.0 - self.sc, 0.0)

    def outcome(self, returns: Sequence[Return]) -> Outcome:
        """Of a campaign's returns."""
        known = {r.material_id for r in returns if r.has_result}
        taken = np.array([m in known for m in self.material_id])
        return self._outcome(taken, sum(r.cpu_h for r in returns), returns[-1].time_h if returns else 0.0)

    def oracle(self, budget_cpu_h: float) -> Outcome:
        """Of one who knows every SC and cost: the most error removed per CPU-hour first, as long as it fits."""
        taken, left = np.zeros(len(self.sc), dtype=bool), budget_cpu_h
        for i in np.argsort(-self.error / self.cpu_h, kind="stable"):
            if self.error[i] > 0.0 and self.cpu_h[i] <= left:
                taken[i], left = True, left - self.cpu_h[i]
        return self._outcome(taken, budget_cpu_h - left, float("nan"))

    def curve(self, returns: Sequence[Return], spent_cpu_h: ArrayLike) -> Array:
        """Share of the error removed by the time that so much was spent, of the same shape as ``spent_cpu_h``."""
        worth: Mapping[str, float] = dict(zip(self.material_id, (self.error / self.error.sum()).tolist(), strict=True))
        spent = np.cumsum([0.0, *(r.cpu_h for r in returns)])
        removed = np.cumsum([0.0, *(worth[r.material_id] if r.has_result else 0.0 for r in returns)])
        at: Array = removed[np.searchsorted(spent, np.asarray(spent_cpu_h) * (1 + 1e-12), side="right") - 1]
        return at

    def oracle_returns(self) -> list[Return]:
        """The oracle's order, as returns; times are those of one worker."""
        order = [i for i in np.argsort(-self.error / self.cpu_h, kind="stable") if self.error[i] > 0.0]
        ends = np.cumsum(self.cpu_h[order])
        return [
            Return(float(t), self.material_id[i], float(self.cpu_h[i]), True) for i, t in zip(order, ends, strict=True)
        ]

    def _outcome(self, taken: NDArray[np.bool_], cost_cpu_h: float, wall_h: float) -> Outcome:
        low = self.sc < self.threshold
        removed = float(self.error[taken].sum() / self.error.sum())
        return Outcome(removed, float((taken & low).sum() / low.sum()), float(cost_cpu_h), wall_h)


@dataclass(frozen=True)
class Figure:
    """A mean over replays, and between which values 95 % of the replays lie."""

    mean: float
    lo: float
    hi: float

    @classmethod
    def of(cls, values: ArrayLike) -> Figure:
        """Of n replays; the limits are the 2.5 and 97.5 % quantiles."""
        x = np.asarray(values, dtype=float)
        lo, hi = np.quantile(x, [0.025, 0.975])
        return cls(float(x.mean()), float(lo), float(hi))


def figures(outcomes: Sequence[Outcome]) -> dict[str, Figure]:
    """Error removed, recall and cost over replays, by name."""
    return {name: Figure.of([getattr(o, name) for o in outcomes]) for name in ("error_removed", "recall", "cost_cpu_h")}
