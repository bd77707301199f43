"""Features -> SC by Gaussian process regression on log(1 - SC), and its error on formulas it has not seen."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata

from models.features import BLOCKS
from models.gaussian_process import GaussianProcess
from models.labels import grouped_folds

Array = NDArray[np.float64]

# 1 - SC below this is noise of the calculation; the floor keeps its logarithm from ruling the fit.
FLOOR = 0.01
# Standardised features are clipped here: one odd crystal shall not stretch a feature for all others.
CLIP = 3.0


@dataclass(frozen=True)
class Scaler:
    """Features -> latent space: standardised, clipped, every block of equal weight."""

    centre: Array
    weight: Array

    @classmethod
    def fit(cls, x: Array) -> Scaler:
        """Centre and weight of each feature over rows x (n, d); a feature that never varies weighs nothing."""
        sd = x.std(axis=0)
        varies = sd > 1e-6
        size = np.bincount(BLOCKS[varies], minlength=BLOCKS[-1] + 1)[BLOCKS]
        inverse_sd = np.where(varies, 1.0 / np.where(varies, sd, 1.0), 0.0)
        return cls(x.mean(axis=0), np.stack([inverse_sd, 1.0 / np.sqrt(np.maximum(size, 1) * len(np.unique(BLOCKS)))]))

    def __call__(self, x: Array) -> Array:
        inverse_sd, block = self.weight
        return np.clip((x - self.centre) * inverse_sd, -CLIP, CLIP) * block


def in_sc(log_mean: Array, log_sd: Array) -> tuple[Array, Array]:
    """Median and spread of SC where log(1 - SC) is normal; the spread is half the width from its 16 to 84 % points."""
    gap = np.exp(log_mean)
    return 1.0 - gap, gap * np.sinh(log_sd)


def log_gap(sc: Array) -> Array:
    """What is learned: log(1 - SC), floored."""
    return np.log(np.maximum(1.0 - sc, FLOOR))


def cross_validate(x: Array, sc: Array, formulas: Sequence[str], n_folds: int, seed: int) -> tuple[Array, Array]:
    """Held-out mean and spread of every row, each (n,); folds grouped by formula, everything refitted in each.

    Parameters
    ----------
    x : (n, len(NAMES)) features
    sc : (n,)
    formulas : (n,) names of the groups
    """
    fold = grouped_folds(formulas, n_folds, seed)
    names, target = np.asarray(formulas), log_gap(sc)
    mean, spread = np.empty(len(sc)), np.empty(len(sc))
    for k in range(int(fold.max()) + 1):
        test, train = fold == k, fold != k
        scaler = Scaler.fit(x[train])
        process = GaussianProcess.fit(scaler(x[train]), target[train], names[train].tolist())
        mean[test], spread[test] = in_sc(*process.predict(scaler(x[test])))
    return mean, spread


def metrics(sc: Array, held_out: Array, formulas: Sequence[str]) -> dict[str, Any]:
    """How far held-out predictions (n,) are from sc (n,); `mae_guess` is that of the median of all labels."""
    error = np.abs(held_out - sc)
    return {
        "n_labels": len(sc),
        "n_formulas": len(set(formulas)),
        "oof_mae": float(error.mean()),
        "oof_median": float(np.median(error)),
        "oof_rmse": float(np.sqrt(np.mean(error**2))),
        "oof_spearman": float(np.corrcoef(rankdata(held_out), rankdata(sc))[0, 1]),
        "mae_guess": float(np.abs(sc - np.median(sc)).mean()),
    }
