"""From held-out predictions to the figures of `benchmarks/accuracy.py`."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binom, rankdata

Array = NDArray[np.float64]

THRESHOLD = 0.75
COVERAGE = 0.9


def figures(said: Array, sc: Array) -> dict[str, float]:
    """Means over seeds of every column, and the spread of the MAE over them.

    Parameters
    ----------
    said : (n_seeds, 3, n) predictions and the ends of their intervals, NaN where there are none
    sc : (n,)
    """
    each = [_one_seed(*seed, sc) for seed in said]
    out = {key: float(np.mean([e[key] for e in each])) for key in each[0]}
    return out | {"mae_sd": float(np.std([e["mae"] for e in each]))}


def _one_seed(mean: Array, low: Array, high: Array, sc: Array) -> dict[str, float]:
    error, called, is_low = np.abs(mean - sc), mean < THRESHOLD, sc < THRESHOLD
    ranks = rankdata(mean) if np.ptp(mean) > 0 else None
    return {
        "mae": float(error.mean()),
        "median": float(np.median(error)),
        "rmse": float(np.sqrt((error**2).mean())),
        "r2": float(1.0 - (error**2).sum() / ((sc - sc.mean()) ** 2).sum()),
        "spearman": float(np.corrcoef(ranks, rankdata(sc))[0, 1]) if ranks is not None else np.nan,
        "recall": float((called & is_low).sum() / max(is_low.sum(), 1)),
        "precision": float((called & is_low).sum() / called.sum()) if called.any() else np.nan,
        "coverage": float(((low <= sc) & (sc <= high)).mean()) if np.isfinite(low).all() else np.nan,
        "width": float((high - low).mean()),
    }


def expected_coverage(n: int, coverage: float = COVERAGE) -> tuple[float, float]:
    """Where the share of n labels that 90 % intervals cover lies in 95 of 100 cases, if they are honest.

    Several seeds judge the same labels again and are no further evidence: n counts labels.
    """
    low, high = binom.interval(0.95, n, coverage)
    return float(low / n), float(high / n)


def bootstrap_ratio(a: Array, b: Array, groups: Sequence[str], draws: int = 4000) -> tuple[float, float, float]:
    """MAE of a over MAE of b, (n,) errors on the same labels, with its 95 % interval from resampled groups."""
    _, member = np.unique(groups, return_inverse=True)
    sums = np.stack([np.bincount(member, e) for e in (a, b)])
    drawn = np.random.default_rng(0).integers(0, sums.shape[1], (draws, sums.shape[1]))
    top, bottom = sums[:, drawn].sum(axis=-1)
    low, high = np.quantile(top / bottom, [0.025, 0.975])
    return float(a.sum() / b.sum()), float(low), float(high)
