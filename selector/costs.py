"""What a calculation will cost: the engine's formula, corrected by what the ledger has seen.

With ratios r = log(used / estimated), the campaign's machine shifts every estimate by a common factor; materials
scatter about it. The shift is normal with a prior around one, the scatter has a prior from the engine's own fit, and
every settled calculation updates their moments (conjugate normal mean, pooled variance). The scatter is skewed, as much
delays a calculation and little speeds it up: r follows a Gumbel distribution. Of the first 138 recorded costs 5.1 % lie
beyond the 99 % point of a normal distribution of their mean and variance, 0.7 % beyond that of a Gumbel one.

A calculation that was stopped at its time limit is known to cost more than it used: it counts with what it would have
used, given that (expectation maximisation; Dempster, Laird and Rubin, J. R. Stat. Soc. B 39, 1 (1977)).

There is a model for each purpose, IPA alone and RPA: a machine may be slower at one than at the other.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import ndtri

Array = NDArray[np.float64]

SHIFT_PRIOR_SD = 0.7
"""Machines differ, and a busy one is slower still: a factor of two either way is one standard deviation."""
SCATTER_PRIOR_WEIGHT = 10
"""The engine's own scatter counts as much as this many settled calculations."""
MIN_SCATTER = 0.01
MAX_ROUNDS, TOLERANCE = 200, 1e-6
_SCALE = math.sqrt(6.0) / math.pi
_MODE = -np.euler_gamma * _SCALE
"""Of the Gumbel distribution of mean 0 and variance 1. Its skewness is 1.14; that of 138 recorded costs was 1.23."""
_N_BEYOND = 200


@dataclass(frozen=True)
class Settled:
    """A settled calculation, CPU-hours; one that is not ``finished`` was stopped at its time limit."""

    estimate_cpu_h: float
    used_cpu_h: float
    finished: bool = True


@dataclass(frozen=True)
class CostError:
    """How far n finished calculations were from predictions, each made by a model of the others.

    Attributes
    ----------
    n : finished calculations
    median_abs_log : median of |log(used / predicted)|; 0.1 is about 10 %
    inside : how many lay in their 90 % interval
    """

    n: int
    median_abs_log: float
    inside: int


@dataclass(frozen=True)
class CostModel:
    """Costs of one purpose, as factors on the engine's estimate.

    Attributes
    ----------
    shift, shift_sd : mean and standard deviation of what the mean log factor is taken to be
    scatter : standard deviation of log cost from material to material
    finished, stopped : log(used / estimated) of the calculations learned from; the stopped ones completed
    engine_log_sd : scatter of the engine's own fit
    """

    shift: float
    shift_sd: float
    scatter: float
    finished: tuple[float, ...]
    stopped: _Moments
    engine_log_sd: float

    @classmethod
    def learn(cls, settled: Iterable[Settled], engine_log_sd: float) -> CostModel:
        """From the settled calculations of one purpose, possibly none; what has no cost or estimate is left out."""
        usable = [s for s in settled if s.estimate_cpu_h > 0.0 and 0.0 < s.used_cpu_h < math.inf]
        finished, limits = (
            np.log([s.used_cpu_h / s.estimate_cpu_h for s in usable if s.finished == f]) for f in (True, False)
        )
        known, stopped = _Moments.of(finished), _Moments.of(limits)
        shift, shift_sd, scatter = _posterior(known + stopped, engine_log_sd)
        for _ in range(MAX_ROUNDS if len(limits) else 0):
            before, stopped = shift, _beyond(limits, shift, scatter)
            shift, shift_sd, scatter = _posterior(known + stopped, engine_log_sd)
            if abs(shift - before) < TOLERANCE:
                break
        return cls(float(shift), float(shift_sd), float(scatter), tuple(finished.tolist()), stopped, engine_log_sd)

    def predict(self, estimate_cpu_h: ArrayLike) -> Array:
        """Geometric mean of the cost, CPU-hours, of materials with these estimates (n,)."""
        return np.asarray(estimate_cpu_h, dtype=float) * math.exp(self.shift)

    def reserve(self, estimate_cpu_h: ArrayLike, quantile: float) -> Array:
        """The cost, CPU-hours, (n,), that is not exceeded with this probability."""
        return self.predict(estimate_cpu_h) * np.exp(_beyond_mean(quantile, self.shift_sd, self.scatter))

    def interval(self, estimate_cpu_h: ArrayLike, coverage: float = 0.9) -> tuple[Array, Array]:
        """The costs, CPU-hours, each (n,), between which a calculation ends with this probability."""
        lo, hi = ((1 - coverage) / 2, (1 + coverage) / 2)
        return self.reserve(estimate_cpu_h, lo), self.reserve(estimate_cpu_h, hi)

    def error(self) -> CostError | None:
        """How well finished calculations are predicted, each by a model of the others; None if none has finished."""
        if not self.finished:
            return None
        ratios = np.array(self.finished)
        others = _Moments.of(ratios) + self.stopped + _Moments(-1, -ratios, -(ratios**2))
        shift, shift_sd, scatter = _posterior(others, self.engine_log_sd)
        off = ratios - shift
        lo, hi = (_beyond_mean(quantile, shift_sd, scatter) for quantile in (0.05, 0.95))
        return CostError(len(ratios), float(np.median(np.abs(off))), int(((lo <= off) & (off <= hi)).sum()))


@dataclass(frozen=True)
class _Moments:
    """Number, sum and sum of squares of log ratios: all that a posterior asks of them."""

    n: int
    total: ArrayLike
    squares: ArrayLike

    @classmethod
    def of(cls, ratios: Array) -> _Moments:
        return cls(len(ratios), float(ratios.sum()), float((ratios**2).sum()))

    def __add__(self, other: _Moments) -> _Moments:
        return _Moments(self.n + other.n, np.add(self.total, other.total), np.add(self.squares, other.squares))


def _posterior(seen: _Moments, engine_log_sd: float) -> tuple[Array, Array, Array]:
    """Mean and standard deviation of the shift, and the scatter, of whatever shape the moments are."""
    total, squares = np.asarray(seen.total, dtype=float), np.asarray(seen.squares, dtype=float)
    residual = np.maximum(squares - total**2 / max(seen.n, 1), 0.0)
    freedom = SCATTER_PRIOR_WEIGHT + max(seen.n - 1, 0)
    variance = np.maximum((SCATTER_PRIOR_WEIGHT * engine_log_sd**2 + residual) / freedom, MIN_SCATTER**2)
    precision = 1 / SHIFT_PRIOR_SD**2 + seen.n / variance
    return total / variance / precision, precision**-0.5, np.sqrt(variance)


def _beyond_mean(quantile: float, shift_sd: ArrayLike, scatter: ArrayLike) -> Array:
    """How far a quantile of the log cost lies from its mean; from its median, shift and scatter add like errors."""
    middle = _gumbel(0.5)
    of_scatter = np.multiply(scatter, _gumbel(quantile) - middle)
    of_both = np.hypot(np.multiply(shift_sd, ndtri(quantile)), of_scatter)
    return np.multiply(scatter, middle) + np.sign(quantile - 0.5) * of_both


def _gumbel(quantile: float) -> float:
    """What the Gumbel distribution of mean 0 and variance 1 does not exceed with this probability."""
    return _MODE - _SCALE * math.log(-math.log(quantile))


def _gumbel_above(probability: Array) -> Array:
    """What it exceeds with these probabilities, however small."""
    return _MODE - _SCALE * np.log(-np.log1p(-probability))


def _beyond(limits: Array, shift: Array, scatter: Array) -> _Moments:
    """Expected moments of log ratios that are known to exceed ``limits``."""
    middles = (np.arange(_N_BEYOND) + 0.5) / _N_BEYOND
    survival = -np.expm1(-np.exp((_MODE - (limits - shift) / scatter) / _SCALE))
    beyond = shift + scatter * _gumbel_above(survival[:, None] * middles)
    return _Moments(len(limits), float(beyond.mean(axis=1).sum()), float((beyond**2).mean(axis=1).sum()))
