"""Gaussian process regression with a Matern-3/2 kernel, tuned by its leave-one-group-out error, all in closed form.

Rasmussen and Williams, Gaussian Processes for Machine Learning (2006), chapters 2 and 5.4.2.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cho_factor, cho_solve, solve_triangular
from scipy.spatial.distance import cdist

Array = NDArray[np.float64]

LENGTHS = (0.5, 0.7, 1.0, 1.5, 2.0, 3.0, 5.0)
# Variance of the noise, in units of the variance of the process.
NOISES = (0.03, 0.1, 0.2, 0.3, 0.5, 0.7, 1.0)


def matern32(a: Array, b: Array, length: float) -> Array:
    """Matern kernel of order 3/2 between rows of a (n, d) and b (m, d), shape (n, m); 1 where they coincide."""
    return _matern32_at(cdist(a, b), length)


def _matern32_at(distance: Array, length: float) -> Array:
    x = np.sqrt(3.0) / length * distance
    return (1.0 + x) * np.exp(-x)


def members(groups: Sequence[str]) -> list[NDArray[np.int64]]:
    """Which rows are left out together: of the groups of each size s the row indices, shape (groups, s)."""
    _, member, size = np.unique(groups, return_inverse=True, return_counts=True)
    rows, end = np.argsort(member, kind="stable"), np.cumsum(size)
    return [rows[end[size == s, None] - s + np.arange(s)] for s in np.unique(size)]


def leave_group_out(
    kernel: Array, noises: Sequence[float], targets: Array, groups: Sequence[NDArray[np.int64]]
) -> tuple[Array, Array]:
    """Residuals and variances of each row when its whole group is left out, each (k, n), without a refit.

    Rasmussen and Williams, equations 5.10 to 5.12, for groups of any size. One decomposition serves every noise.

    Parameters
    ----------
    kernel : (n, n)
    noises : k variances, added to the kernel's diagonal in turn
    targets : (n,)
    groups : as from :func:`members`
    """
    values, vectors = np.linalg.eigh(kernel)
    # Of the inverse of kernel plus noise: its eigenvalues, its product with the targets, its diagonal.
    weights = 1.0 / (np.maximum(values, 0.0) + np.asarray(noises)[:, None])
    alpha = (weights * (vectors.T @ targets)) @ vectors.T
    variance = 1.0 / (weights @ (vectors**2).T)
    residual = alpha * variance
    for rows in groups:
        n_groups, size = rows.shape
        if size > 1:
            of_group = vectors[rows]
            products = (of_group[:, :, None] * of_group[:, None]).reshape(-1, len(kernel))
            block = np.linalg.inv((weights @ products.T).reshape(-1, n_groups, size, size))
            residual[:, rows] = (block @ alpha[:, rows, None])[..., 0]
            variance[:, rows] = np.diagonal(block, axis1=2, axis2=3)
    return residual, variance


@dataclass(frozen=True)
class GaussianProcess:
    """A fitted process; prediction needs only its rows and four numbers.

    Attributes
    ----------
    rows : (n, d) inputs
    targets : (n,)
    length, noise : kernel length, noise variance relative to `scale` squared
    mean, scale : constant mean; standard deviation of the process, in units of the targets
    residuals : (n,) target minus prediction of each row when its whole group is left out; None unless it was fitted
    """

    rows: Array
    targets: Array
    length: float
    noise: float
    mean: float
    scale: float
    residuals: Array | None = None

    @classmethod
    def fit(cls, rows: Array, targets: Array, groups: Sequence[NDArray[np.int64]]) -> GaussianProcess:
        """Choose length and noise by the mean absolute leave-one-group-out error.

        Parameters
        ----------
        rows : (n, d)
        targets : (n,)
        groups : rows that are left out together, as from :func:`members`
        """
        distance, mean = cdist(rows, rows), float(targets.mean())
        least, best = np.inf, cls(rows, targets, LENGTHS[0], NOISES[0], mean, 1.0)
        for length in LENGTHS:
            residual, variance = leave_group_out(_matern32_at(distance, length), NOISES, targets - mean, groups)
            errors = np.abs(residual).mean(axis=1)
            k = int(np.argmin(errors))
            if errors[k] < least:
                scale = max(float(np.sqrt(np.mean(residual[k] ** 2 / variance[k]))), 1e-6)
                least, best = errors[k], cls(rows, targets, length, NOISES[k], mean, scale, residual[k])
        return best

    @cached_property
    def _factor(self) -> tuple[Array, Array]:
        kernel = matern32(self.rows, self.rows, self.length)
        factor = cho_factor(kernel + self.noise * np.eye(len(kernel)), lower=True)
        return np.tril(factor[0]), cho_solve(factor, self.targets - self.mean)

    @property
    def prior_sd(self) -> float:
        """Standard deviation of an observation far from every row."""
        return self.scale * float(np.sqrt(1.0 + self.noise))

    def predict(self, rows: Array) -> tuple[Array, Array]:
        """Mean and standard deviation of observations (noise included), each (m,), at rows (m, d)."""
        lower, alpha = self._factor
        cross = matern32(rows, self.rows, self.length)
        explained = (solve_triangular(lower, cross.T, lower=True) ** 2).sum(axis=0)
        return self.mean + cross @ alpha, self.scale * np.sqrt(np.maximum(1.0 - explained, 0.0) + self.noise)
