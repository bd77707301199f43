"""Whether a new model may replace the standing one.

Both are judged on all labels so far by predictions that are honest: each label is predicted by a model that learned
from no label of its reduced formula. Labels that the policy chose are not a sample of the pool, so they count with
weights: the pool and the labels are sorted into strata by what was predicted of them before anything was computed, and
the labels of a stratum together weigh as much as its share of the pool (post-stratification; Holt and Smith,
J. R. Stat. Soc. A 142, 33 (1979)).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]
N_STRATA = 4


@dataclass(frozen=True)
class Verdict:
    """The comparison of two models.

    Attributes
    ----------
    old_error, new_error : mean |error| over the labels, weighted to the pool
    standard_error : of the difference, reduced formulas as units; infinite with one formula
    n_labels : labels it rests on
    """

    old_error: float
    new_error: float
    standard_error: float
    n_labels: int

    @property
    def accepted(self) -> bool:
        """Not worse by more than one standard error."""
        return self.new_error - self.old_error <= self.standard_error

    @property
    def message(self) -> str:
        """The verdict in words."""
        if not self.n_labels:
            return "no label that the standing model had not learned from to judge it by"
        by = "" if np.isinf(self.standard_error) else f" +- {self.standard_error:.4f}"
        return (
            f"held-out error over {self.n_labels} labels, weighted to the pool: {self.new_error:.4f}, "
            f"the standing model's {self.old_error:.4f}{by}"
        )

    def summary(self) -> dict[str, float | bool | int | None]:
        """For the database: JSON-able."""
        error = None if np.isinf(self.standard_error) else self.standard_error
        return {**vars(self), "standard_error": error, "accepted": self.accepted}


def judge(sc: ArrayLike, old: ArrayLike, new: ArrayLike, weights: ArrayLike, formulas: Sequence[str]) -> Verdict:
    """Compare two models on n labels; without any, the new one is taken.

    Parameters
    ----------
    sc : (n,) what was computed
    old, new : (n,) what either model says, held out
    weights : (n,) positive, from :func:`pool_weights`
    formulas : n reduced formulas
    """
    sc_, w = np.asarray(sc, dtype=float), np.asarray(weights, dtype=float)
    if not len(sc_):
        return Verdict(0.0, 0.0, np.inf, 0)
    old_error, new_error = (np.abs(np.asarray(x, dtype=float) - sc_) for x in (old, new))
    w = w / w.sum()
    difference = new_error - old_error
    mean = float(w @ difference)
    _, group = np.unique(np.asarray(formulas), return_inverse=True)
    n_groups = int(group.max()) + 1
    parts = np.bincount(group, weights=w * (difference - mean))
    variance = float(parts @ parts) * n_groups / (n_groups - 1) if n_groups > 1 else np.inf
    return Verdict(float(w @ old_error), float(w @ new_error), float(np.sqrt(variance)), len(sc_))


def pool_weights(pool: ArrayLike, labels: ArrayLike, n_strata: int = N_STRATA) -> Array:
    """Weights of labels that make them count like the pool they come from; their mean is 1.

    Parameters
    ----------
    pool : (N,) predicted SC of every candidate, labels included, as it stood before it was computed
    labels : (n,) the same of the labels
    n_strata : so many quantiles of the pool, if that many differ; a stratum without a label is left out
    """
    pool_, labels_ = np.asarray(pool, dtype=float), np.asarray(labels, dtype=float)
    cuts = np.unique(np.quantile(pool_, np.linspace(0, 1, n_strata + 1)[1:-1])) if len(pool_) else np.empty(0)
    share = np.bincount(np.searchsorted(cuts, pool_, side="right"), minlength=len(cuts) + 1)
    if not len(labels_):
        return labels_
    stratum = np.searchsorted(cuts, labels_, side="right")
    present = np.bincount(stratum, minlength=len(cuts) + 1)
    weights = np.maximum(share, 1)[stratum] / present[stratum]
    normal: Array = weights / weights.mean()
    return normal
