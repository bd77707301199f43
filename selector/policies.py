"""What to dispatch next: pure functions over the arrays of the pending pool.

A policy ranks; how many of the first are dispatched is for the budget to say. A material left at IPA is told why.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from selector.errors import SelectorError, UsageError

Array = NDArray[np.float64]
Indices = NDArray[np.intp]


@dataclass(frozen=True)
class Pool:
    """The pending candidates and what is predicted of them; all arrays have shape (n,).

    Attributes
    ----------
    material_id : strings, unique
    mean, lo, hi : predicted SC[RPA; IPA] and its 90 % interval
    p_low : P(SC < threshold)
    cost_cpu_h : predicted cost of both levels, CPU-hours

    Raises
    ------
    SelectorError
        A number is not finite: such a material would be ranked silently, so none is.
    """

    material_id: NDArray[np.str_]
    mean: Array
    lo: Array
    hi: Array
    p_low: Array
    cost_cpu_h: Array

    def __post_init__(self) -> None:
        for name, dtype in [("material_id", np.str_), *((name, np.float64) for name in self._numbers())]:
            object.__setattr__(self, name, np.asarray(getattr(self, name), dtype=dtype))
        if any(getattr(self, name).shape != (len(self),) for name in self._numbers()):
            raise ValueError("the pool's arrays differ in shape")
        if len(np.unique(self.material_id)) != len(self):
            raise ValueError("a material stands in the pool twice")
        for name in self._numbers():
            bad = ~np.isfinite(getattr(self, name))
            if bad.any():
                raise SelectorError(
                    f"{self.material_id[bad][0]}: its predicted {name} is not finite; "
                    "remove the material, or predict with another model"
                )

    def __len__(self) -> int:
        return len(self.material_id)

    @staticmethod
    def _numbers() -> tuple[str, ...]:
        return ("mean", "lo", "hi", "p_low", "cost_cpu_h")


class Policy(Protocol):
    """An order of dispatch. Pure: the same pool and the same state of ``rng`` give the same answer."""

    @property
    def name(self) -> str: ...

    def rank(self, pool: Pool, threshold: float, rng: np.random.Generator) -> Indices:
        """Indices of the materials worth RPA, first to dispatch first; the others do not appear."""

    def reason(self, pool: Pool, index: int, threshold: float) -> str:
        """Why material ``index`` is worth RPA, in words; ValueError if :meth:`rank` leaves it out."""

    def skip_reason(self, pool: Pool, index: int, threshold: float) -> str:
        """Why material ``index`` stays at IPA, in words; ValueError if :meth:`rank` holds it."""


class ThresholdPolicy:
    """Lowest predicted SC first, and only where it is below the threshold (the paper's reading of a prediction).

    Materials of equal prediction go in the order of their ids.
    """

    name = "threshold"

    def rank(self, pool: Pool, threshold: float, rng: np.random.Generator) -> Indices:
        order = np.lexsort((pool.material_id, pool.mean))
        return order[pool.mean[order] < threshold]

    def reason(self, pool: Pool, index: int, threshold: float) -> str:
        if not pool.mean[index] < threshold:
            raise ValueError(f"{pool.material_id[index]} is not below the threshold")
        return f"predicted SC {pool.mean[index]:.3f} is below the threshold {threshold:g}"

    def skip_reason(self, pool: Pool, index: int, threshold: float) -> str:
        if pool.mean[index] < threshold:
            raise ValueError(f"{pool.material_id[index]} is below the threshold")
        return f"predicted SC {pool.mean[index]:.3f} is not below the threshold {threshold:g}"


class RandomPolicy:
    """Every pending material in random order, whatever is predicted: the baseline a policy has to beat."""

    name = "random"

    def rank(self, pool: Pool, threshold: float, rng: np.random.Generator) -> Indices:
        # Drawn over the sorted ids, so that the order in which the pool was read does not matter.
        return np.argsort(pool.material_id)[rng.permutation(len(pool))]

    def reason(self, pool: Pool, index: int, threshold: float) -> str:
        return "every material may be drawn at random"

    def skip_reason(self, pool: Pool, index: int, threshold: float) -> str:
        raise ValueError("the random policy leaves no material at IPA")


POLICIES: dict[str, Callable[[], Policy]] = {"random": RandomPolicy, "threshold": ThresholdPolicy}


def get_policy(name: str) -> Policy:
    """The policy of that name.

    Raises
    ------
    UsageError
        There is none; the message names those there are.
    """
    if name not in POLICIES:
        raise UsageError(f"policy: there is no policy '{name}'; choose one of {', '.join(POLICIES)}")
    return POLICIES[name]()
