"""Descriptions -> SC by Gaussian process regression on log(1 - SC), and its error on formulas it has not seen.

How much each block of the description weighs is a recipe. Which recipe serves best changes as labels grow, so it is
chosen at every training, by the error on formulas left out, and within each fold of a cross-validation anew.

Where the IPA spectrum is known, the process learns how far log(1 - SC) departs from a multiple of what a physical
estimate says (`models.spectrum_features`): far from every known crystal the estimate then still speaks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.description import NAMES, owners
from models.gaussian_process import GaussianProcess, members
from models.labels import grouped_folds

Array = NDArray[np.float64]

# 1 - SC below this is noise of the calculation; the floor keeps its logarithm from ruling the fit.
FLOOR = 0.01
# Standardised features are clipped here: one odd crystal shall not stretch a feature for all others.
CLIP = 5.0
# Weights of blocks, the simplest recipe first; a block that is not named weighs nothing.
RECIPES: tuple[dict[str, float], ...] = (
    {"geometry": 0.7, "density": 0.7, "pairs": 1.0},
    {"geometry": 0.7, "density": 0.7, "pairs": 1.0, "composition": 0.3},
    {"geometry": 0.7, "density": 0.7, "pairs": 1.0, "composition": 1.0},
)
# What a checkpoint was made with that knows of no density, and what one was clipped at that does not say.
FIRST_RECIPE, FIRST_CLIP = {"geometry": 1.0, "pairs": 1.0}, 3.0
SPECTRUM_WEIGHT = 0.4
ESTIMATE, ESTIMATE_SLOPE = "log_moved_1", 0.4


@dataclass(frozen=True)
class Scaler:
    """Descriptions -> latent space: standardised, clipped, every block of the weight that a recipe gives it."""

    centre: Array
    inverse_sd: Array
    weight: Array
    clip: float

    @classmethod
    def fit(cls, x: Array, blocks: Sequence[str], recipe: dict[str, float], clip: float = CLIP) -> Scaler:
        """Centre and weight of each column over rows x (n, d); a column that never varies weighs nothing."""
        owner, sd = owners(blocks), x.std(axis=0)
        varies = sd > 1e-6
        size = np.maximum(np.bincount(owner[varies], minlength=len(blocks)), 1)
        weights = np.array([recipe.get(block, 0.0) for block in blocks])
        inverse_sd = np.where(varies, 1.0 / np.where(varies, sd, 1.0), 0.0)
        return cls(x.mean(axis=0), inverse_sd, (weights / np.sqrt(size * (weights**2).sum()))[owner], clip)

    def __call__(self, x: Array) -> Array:
        return np.clip((x - self.centre) * self.inverse_sd, -self.clip, self.clip) * self.weight


@dataclass(frozen=True)
class Regression:
    """What a training chose and learned."""

    blocks: tuple[str, ...]
    recipe: dict[str, float]
    scaler: Scaler
    process: GaussianProcess

    @classmethod
    def fit(cls, x: Array, blocks: tuple[str, ...], sc: Array, groups: Sequence[str]) -> Regression:
        """The best recipe, learned.

        Each recipe's process is tuned by its mean absolute leave-one-group-out error. A recipe takes the place of a
        simpler one if its error is smaller by more than one standard error of their difference over groups.

        Parameters
        ----------
        x : (n, d) descriptions
        blocks : to which the columns belong
        sc : (n,)
        groups : (n,) names; rows of one group are left out together
        """
        together = members(groups)
        first, *others = [r for r in RECIPES if r.keys() <= set(blocks)] or [FIRST_RECIPE]
        chosen = cls._learned(x, blocks, sc, together, first)
        for recipe in others:
            other = cls._learned(x, blocks, sc, together, recipe)
            if _surely_less(other.errors, chosen.errors, together):
                chosen = other
        return chosen

    @property
    def errors(self) -> Array:
        """(n,) how far off it is, in log(1 - SC), at each label that it was not shown; for one that was fitted."""
        assert self.process.residuals is not None
        return np.abs(self.process.residuals)

    @classmethod
    def _learned(
        cls,
        x: Array,
        blocks: tuple[str, ...],
        sc: Array,
        together: Sequence[NDArray[np.int64]],
        recipe: dict[str, float],
    ) -> Regression:
        if "spectrum" in blocks:
            recipe = recipe | {"spectrum": SPECTRUM_WEIGHT}
        scaler = Scaler.fit(x, blocks, recipe)
        return cls(blocks, recipe, scaler, GaussianProcess.fit(scaler(x), log_gap(sc) - estimate(x, blocks), together))

    def predict(self, x: Array, at_least: Array | float = 0.0) -> tuple[Array, Array]:
        """Median and spread of SC, each (m,), of descriptions x (m, d); `at_least`: of the spread, in log(1 - SC)."""
        log_mean, log_sd = self.process.predict(self.scaler(x))
        return in_sc(log_mean + estimate(x, self.blocks), np.maximum(log_sd, at_least))


def _surely_less(a: Array, b: Array, groups: Sequence[NDArray[np.int64]]) -> bool:
    """Whether the mean of a is below that of b by more than a standard error of the difference; each (n,)."""
    gain = np.concatenate([(b - a)[rows].sum(axis=1) for rows in groups])
    return bool(gain.sum() > np.sqrt((gain**2).sum()))


def estimate(x: Array, blocks: Sequence[str]) -> Array:
    """What is taken from the physical estimate, (n,) in log(1 - SC); nothing where no spectrum is known."""
    if "spectrum" not in blocks:
        return np.zeros(len(x))
    column = np.flatnonzero(owners(blocks) == blocks.index("spectrum"))[NAMES["spectrum"].index(ESTIMATE)]
    return ESTIMATE_SLOPE * x[:, column]


def in_sc(log_mean: Array, log_sd: Array) -> tuple[Array, Array]:
    """Median and spread of SC where log(1 - SC) is normal; the spread is half the width from its 16 to 84 % points."""
    gap = np.exp(log_mean)
    return 1.0 - gap, gap * np.sinh(log_sd)


def log_gap(sc: Array) -> Array:
    """What is learned: log(1 - SC), floored."""
    return np.log(np.maximum(1.0 - sc, FLOOR))


def cross_validate(
    x: Array, blocks: tuple[str, ...], sc: Array, groups: Sequence[str], n_folds: int, seed: int
) -> tuple[Array, Array]:
    """Held-out mean and spread of every row, each (n,); folds of whole groups, everything chosen anew in each.

    Parameters
    ----------
    x : (n, d) descriptions
    blocks : to which the columns belong
    sc : (n,)
    groups : (n,) names, formulas as a rule
    n_folds, seed : as in :func:`models.labels.grouped_folds`
    """
    fold, names = grouped_folds(groups, n_folds, seed), np.asarray(groups)
    mean, spread = np.empty(len(sc)), np.empty(len(sc))
    for k in range(int(fold.max()) + 1):
        test, train = fold == k, fold != k
        learned = Regression.fit(x[train], blocks, sc[train], names[train].tolist())
        mean[test], spread[test] = learned.predict(x[test])
    return mean, spread


def metrics(sc: Array, held_out: Array, formulas: Sequence[str]) -> dict[str, Any]:
    """How far held-out predictions (n,) are from sc (n,); `mae_guess` is that of the median of all labels."""
    from scipy.stats import rankdata  # takes a second to load, and who predicts needs no metrics

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
