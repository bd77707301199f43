"""Intervals and probabilities for predicted SC, calibrated on held-out errors.

Split-conformal prediction with scaled errors (Lei et al., J. Am. Stat. Assoc. 113, 1094 (2018)). A *score* is a
held-out ``|error| / spread``, from folds that share no reduced formula with their training set. For a new material
drawn like the held-out ones the interval covers SC with at least the stated probability, however good or bad the
predictor (up to the difference between the final model and those of the folds). For materials that a policy chose,
nothing is promised.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray

from selector.errors import SelectorError

Array = NDArray[np.float64]


def interval(mean: ArrayLike, spread: ArrayLike, scores: ArrayLike, coverage: float = 0.9) -> tuple[Array, Array]:
    """The interval that holds SC with probability ``coverage``.

    ``mean -+ q spread``, where q is the k-th smallest of the m scores, k = ceil((m + 1) coverage). With k > m there are
    too few scores for that coverage: q is infinite, and the interval is all of [-1, 1].

    Parameters
    ----------
    mean : (n,) array, predicted SC
    spread : (n,) array, positive, the predictor's own measure of its uncertainty
    scores : (m,) array, held-out ``|error| / spread``
    coverage : between 0 and 1, both excluded

    Returns
    -------
    lo, hi : (n,) arrays, clipped to [-1, 1]
        SC <= 1 by definition, and it may be negative: two spectra of equal integral that do not overlap have -1.

    Raises
    ------
    SelectorError
        A number is not finite, or a spread is not positive.
    ValueError
        The coverage is not between 0 and 1.
    """
    if not 0.0 < coverage < 1.0:
        raise ValueError(f"coverage {coverage} is not between 0 and 1")
    mean_, spread_, scores_ = _checked(mean, spread, scores)
    m = len(scores_)
    k = math.ceil((m + 1) * coverage - 1e-9)  # 0.9 * 70 must not round up to 64
    q = np.sort(scores_)[k - 1] if k <= m else np.inf
    return np.clip(mean_ - q * spread_, -1.0, 1.0), np.clip(mean_ + q * spread_, -1.0, 1.0)


def p_low(mean: ArrayLike, spread: ArrayLike, scores: ArrayLike, threshold: ArrayLike) -> Array:
    """P(SC < threshold), from the same scores as :func:`interval`.

    An error of either sign is held equally likely. P(score <= s) is i / (m + 1) at the i-th smallest score and linear
    between; the last 1 / (m + 1) stays beyond the largest score, so that no probability is ever 0 or 1. It is 0.5 at
    ``threshold = mean`` (everywhere, if there are no scores), never falls as the threshold grows, and is at least
    (1 + coverage) / 2 at the upper end of an unclipped interval.

    Parameters
    ----------
    mean, spread, scores : as for :func:`interval`
    threshold : number or (n,) array, SC

    Returns
    -------
    (n,) array

    Raises
    ------
    SelectorError
        A number is not finite, or a spread is not positive.
    """
    mean_, spread_, scores_ = _checked(mean, spread, scores)
    steps, counts = np.unique(scores_, return_counts=True)
    reached = np.cumsum(counts) / (len(scores_) + 1)
    z = (np.asarray(threshold, dtype=float) - mean_) / spread_
    within: Array = np.interp(np.abs(z), np.append(0.0, steps), np.append(0.0, reached))
    return 0.5 + 0.5 * np.sign(z) * within


def _checked(mean: ArrayLike, spread: ArrayLike, scores: ArrayLike) -> tuple[Array, Array, Array]:
    mean_, spread_, scores_ = (np.asarray(x, dtype=float) for x in (mean, spread, scores))
    if not (np.isfinite(mean_).all() and np.isfinite(spread_).all()):
        raise SelectorError("the predictor returned an SC or a spread that is not finite; predict with another model")
    if (spread_ <= 0.0).any():
        raise SelectorError("the predictor returned a spread that is not positive; predict with another model")
    if scores_.ndim != 1 or not np.isfinite(scores_).all() or (scores_ < 0.0).any():
        raise SelectorError("the predictor's held-out scores are not finite numbers >= 0; use another checkpoint")
    return mean_, spread_, scores_


def expected_error(mean: ArrayLike, spread: ArrayLike, scores: ArrayLike, threshold: float) -> Array:
    """E[(1 - SC) 1(SC < threshold)]: the spectral error that computing RPA is expected to remove.

    SC is distributed as for :func:`p_low`, and is at least -1. What lies beyond the largest score counts at the largest
    SC below the threshold that it may have: one in m + 1 of unknown error shall not outweigh what is known.
    By parts, with P(u) = P(SC < u): ``(1 - threshold) P(threshold) + int P(u) du``, the integral from where the
    largest score ends, or -1, up to the threshold.

    Parameters
    ----------
    mean, spread, scores : as for :func:`interval`
    threshold : SC

    Returns
    -------
    (n,) array
        Between ``(1 - threshold) p_low`` and ``2 p_low``; falls as the mean rises.

    Raises
    ------
    SelectorError
        A number is not finite, or a spread is not positive.
    """
    mean_, spread_, scores_ = _checked(mean, spread, scores)
    start = np.clip(mean_ - scores_.max(initial=0.0) * spread_, -1.0, max(threshold, -1.0))
    below = p_low(mean_, spread_, scores_, threshold)
    end_z, start_z = (threshold - mean_) / spread_, (start - mean_) / spread_
    # P is 1/2 + sign(z) within(|z|) / 2, whose integral from 0 to z is z / 2 + (integral of within, to |z|) / 2.
    mass = end_z - start_z + _within_integral(np.abs(end_z), scores_) - _within_integral(np.abs(start_z), scores_)
    return (1.0 - threshold) * below + 0.5 * spread_ * np.maximum(mass, 0.0)


def _within_integral(z: Array, scores: Array) -> Array:
    """Integral of P(score <= x), as in :func:`p_low`, for x from 0 to each z >= 0."""
    steps, counts = np.unique(scores, return_counts=True)
    knots, reached = np.append(0.0, steps), np.append(0.0, np.cumsum(counts) / (len(scores) + 1))
    area = np.append(0.0, np.cumsum(np.diff(knots) * (reached[:-1] + reached[1:]) / 2))
    last = np.searchsorted(knots, z, side="right") - 1
    inside: Array = area[last] + (z - knots[last]) * (reached[last] + np.interp(z, knots, reached)) / 2
    return inside
