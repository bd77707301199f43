"""What a campaign's own random draws say of its intervals, and which scores the intervals are made from.

A *random draw* is a material that was dispatched by lot, whatever was predicted of it. Its label, compared with the
prediction that stood at its dispatch, is a held-out error like those that the weights came with, but from the
campaign's own population and kind of label. Only random draws count: labels that a policy chose by their predicted SC
say nothing of the coverage of the others.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import betaincinv

from selector.documents import Document
from selector.store import Store

Array = NDArray[np.float64]
State = Literal["held_out", "uncalibrated", "random_draws"]

MIN_RANDOM_LABELS = 30
WIDENING = 2.0
"""Held-out scores count this many times where the campaign computes another kind of label than its weights know.

Should all that the weights have learned be wrong for the other kind, their errors grow to those of guessing the median,
about 1.7 times (README); the rest allows for a shift of SC from one kind to the other. That is a reasoned allowance and
no guarantee, which is why it ends with the first 30 random draws.
"""


@dataclass(frozen=True)
class Draws:
    """Random draws that came back; all arrays have shape (n,).

    Attributes
    ----------
    mean, spread : predicted SC[RPA; IPA] and its spread, as they stood at the dispatch
    lo, hi : the interval that was stated then
    sc : what was computed
    """

    mean: Array
    spread: Array
    lo: Array
    hi: Array
    sc: Array

    def __len__(self) -> int:
        return len(self.sc)

    @classmethod
    def of(cls, labels: Sequence[Mapping[str, Any]]) -> Draws:
        """Those of a campaign's labels that were drawn at random."""
        drawn = [label for label in labels if label.get("random_draw")]
        said = [[label["prediction"][k] for label in drawn] for k in ("sc_mean", "sc_std", "sc_lo", "sc_hi")]
        return cls(*(np.array(x, dtype=float) for x in (*said, [label["sc"] for label in drawn])))

    @property
    def scores(self) -> Array:
        """|error| / spread, as in :mod:`selector.calibration`, (n,)."""
        return np.abs(self.sc - self.mean) / self.spread


@dataclass(frozen=True)
class Coverage:
    """How many of n random draws lay in their intervals; ``lo``, ``hi``: exact 95 % interval of the true share."""

    inside: int
    n: int
    lo: float
    hi: float


def coverage(lo: ArrayLike, hi: ArrayLike, sc: ArrayLike) -> Coverage:
    """Share of random draws in their intervals, with its exact binomial interval (Clopper and Pearson, 1934).

    Parameters
    ----------
    lo, hi : (n,) arrays, intervals as they were stated before anything was computed
    sc : (n,) array, what was computed
    """
    inside = (np.asarray(lo) <= np.asarray(sc)) & (np.asarray(sc) <= np.asarray(hi))
    k, n = int(inside.sum()), len(inside)
    low = float(betaincinv(k, n - k + 1, 0.025)) if k else 0.0
    high = float(betaincinv(k + 1, n - k, 0.975)) if k < n else 1.0
    return Coverage(k, n, low, high)


@dataclass(frozen=True)
class Calibration:
    """What a campaign's intervals rest on.

    Attributes
    ----------
    draws : its random draws so far
    weights, own : engine and settings hash of the labels that its first weights learned from, and of its own
    """

    draws: Draws
    weights: str
    own: str

    @property
    def state(self) -> State:
        """``random_draws`` once there are 30; until then ``held_out``, or ``uncalibrated`` with foreign weights."""
        if len(self.draws) >= MIN_RANDOM_LABELS:
            return "random_draws"
        return "held_out" if self.weights == self.own else "uncalibrated"

    def scores(self, held_out: Array) -> Array:
        """The scores for :func:`selector.calibration.interval` and :func:`selector.calibration.p_low`.

        Parameters
        ----------
        held_out : (m,) scores that the standing model comes with

        Returns
        -------
        (m,) or (len(draws),) array
        """
        if self.state == "random_draws":
            return self.draws.scores
        return held_out if self.state == "held_out" else WIDENING * held_out

    @property
    def message(self) -> str:
        """The state and the measured coverage, in one line."""
        n = len(self.draws)
        rest = {
            "held_out": "90 % intervals rest on the model's errors for formulas it had not seen",
            "random_draws": f"90 % intervals rest on this campaign's {n} random draws",
            "uncalibrated": f"uncalibrated: the weights learned from labels of {self.weights}, this campaign computes "
            f"{self.own}; intervals are {WIDENING:g} times as wide until {MIN_RANDOM_LABELS} random draws are back",
        }[self.state]
        if not n:
            return f"{rest}; no random draw is back yet, so their coverage is not measured"
        c = coverage(self.draws.lo, self.draws.hi, self.draws.sc)
        share = f"{100 * c.inside / n:.0f} % (95 % confidence {100 * c.lo:.0f} to {100 * c.hi:.0f} %)"
        return f"{rest}; {c.inside} of {n} random draws lay within theirs, {share}"

    def summary(self) -> Document:
        """For ``status``, the report and ``--json``."""
        found = coverage(self.draws.lo, self.draws.hi, self.draws.sc)
        return {
            "state": self.state,
            "message": self.message,
            "weights": self.weights,
            "own": self.own,
            "n_random": len(self.draws),
            "n_random_needed": MIN_RANDOM_LABELS,
            "coverage": vars(found) if len(self.draws) else None,
        }


def standing(store: Store, reads_ipa: bool = False) -> Calibration:
    """The calibration of a line of models as the campaign's labels stand now."""
    outcomes = store.outcomes(store.campaign()["settings_hash"], drawn_by_lot=True)
    return Calibration(Draws.of(of_line(outcomes, reads_ipa)), *store.label_kinds(reads_ipa))


def of_line(labels: Sequence[Document], reads_ipa: bool) -> list[Document]:
    """The labels whose prediction, as it stood at the dispatch, was made by a model of this line."""
    return [label for label in labels if bool((label.get("prediction") or {}).get("reads_ipa")) == reads_ipa]
