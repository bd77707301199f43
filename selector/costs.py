"""What a calculation will cost: the engine's formula, corrected by what the ledger has seen.

With ratios r = log(measured / estimated), the campaign's machine shifts every estimate by a common factor; materials
scatter about it. Both are normal in the logarithm: the shift has a prior around one, the scatter a prior from the
engine's own fit, and every settled calculation updates them (conjugate normal mean, scatter by pooled variance).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import norm

SHIFT_PRIOR_SD = 1.0
"""Machines differ, and a busy one is slower still: a factor of e either way is one standard deviation."""
SCATTER_PRIOR_WEIGHT = 10
"""The engine's own scatter counts as much as this many settled calculations."""


@dataclass(frozen=True)
class CostModel:
    """Log-normal costs: median factor ``exp(shift)`` on the engine's estimate.

    Attributes
    ----------
    shift, shift_sd : mean and standard deviation of the common log factor
    scatter : standard deviation of log cost from material to material
    """

    shift: float
    shift_sd: float
    scatter: float

    @classmethod
    def learn(cls, measured_cpu_h: list[float], estimated_cpu_h: list[float], engine_log_sd: float) -> CostModel:
        """From the settled calculations of a campaign (both lists in CPU-hours, possibly empty)."""
        pairs = [(m, e) for m, e in zip(measured_cpu_h, estimated_cpu_h, strict=True) if m > 0.0 and e > 0.0]
        ratios = np.log([m / e for m, e in pairs]) if pairs else np.empty(0)
        n = len(ratios)
        residual = float(((ratios - ratios.mean()) ** 2).sum()) if n > 1 else 0.0
        freedom = SCATTER_PRIOR_WEIGHT + max(n - 1, 0)
        scatter = math.sqrt((SCATTER_PRIOR_WEIGHT * engine_log_sd**2 + residual) / freedom)
        precision = 1 / SHIFT_PRIOR_SD**2 + n / scatter**2
        return cls(float(ratios.sum()) / scatter**2 / precision, precision**-0.5, scatter)

    def predict(self, estimate_cpu_h: NDArray[np.float64]) -> NDArray[np.float64]:
        """Median cost, CPU-hours, of materials with these estimates (n,)."""
        return np.asarray(estimate_cpu_h * math.exp(self.shift))

    def reserve(self, estimate_cpu_h: NDArray[np.float64], quantile: float) -> NDArray[np.float64]:
        """The cost, CPU-hours, that is not exceeded with this probability."""
        spread = math.hypot(self.shift_sd, self.scatter)
        return self.predict(estimate_cpu_h) * math.exp(norm.ppf(quantile) * spread)
