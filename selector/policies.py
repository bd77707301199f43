"""What to dispatch next: small classes over the arrays of the pending pool, no database.

A policy ranks; how many of the first are dispatched is for the budget to say. A material left at IPA is told why.
A policy of one's own is an entry point of the group ``theory_level_selector.policies``: something to call with the
campaign's `PolicyConfig` that returns a `Policy`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import entry_points
from typing import ClassVar, Protocol

import numpy as np
from scipy.spatial.distance import cdist

from selector.config import PolicyConfig
from selector.errors import SelectorError, UsageError
from selector.pool import Array, Indices, Pool

ENTRY_POINTS = "theory_level_selector.policies"
BATCH = 200
"""Diversity counts among so many of the first; before the next are due, results are back and all is ranked anew."""


class Policy(Protocol):
    """An order of dispatch. Pure: the same pool and the same state of ``rng`` give the same answer."""

    @property
    def name(self) -> str: ...

    @property
    def draws_at_random(self) -> bool:
        """Whether it dispatches by lot, whatever is predicted: coverage is measured on such labels alone."""

    def rank(self, pool: Pool, threshold: float, rng: np.random.Generator, n: int) -> Indices:
        """Indices of at most ``n`` materials, first to dispatch first; those not worth RPA never appear."""

    def reason(self, pool: Pool, index: int, threshold: float) -> str:
        """Why material ``index`` is worth RPA, in words; ValueError if :meth:`rank` never returns it."""

    def skip_reason(self, pool: Pool, index: int, threshold: float) -> str:
        """Why material ``index`` stays at IPA, in words; ValueError if :meth:`rank` may return it."""


@dataclass(frozen=True)
class ValuePerCost:
    """The highest expected spectral error removed per predicted CPU-hour first: a greedy knapsack.

    The value of a material is lessened while one like it is in flight or goes out before it: their errors are alike,
    so that the other's result, once learned, tells whether this one is wanted. It counts
    ``1 - diversity * exp(-d^2 / (2 l^2))`` times, d the distance to the nearest of those in latent space and l
    `Pool.alike_distance`. Where every material is predicted the same, the cheapest goes first.

    Attributes
    ----------
    diversity : 0 (likeness does not matter) to 1 (a twin of what is in flight counts for nothing)
    value_floor : a material of lesser value is not worth RPA
    """

    diversity: float
    value_floor: float
    name: ClassVar[str] = "value_per_cost"
    draws_at_random: ClassVar[bool] = False

    def rank(self, pool: Pool, threshold: float, rng: np.random.Generator, n: int) -> Indices:
        order = pool.order(-pool.value / pool.cost_cpu_h)
        order = order[pool.value[order] >= self.value_floor]
        if n < 1 or not len(order):
            return order[:0]
        first = self._spread_out(pool, order, min(n, BATCH, len(order)))
        behind = np.ones(len(pool), dtype=bool)
        behind[first] = False
        return np.concatenate([first, order[behind[order]]])[:n]

    def _spread_out(self, pool: Pool, order: Indices, n: int) -> Indices:
        """The first ``n`` of ``order``, a material lessened by its likeness to what goes before it."""
        ratio = (pool.value / pool.cost_cpu_h)[order]
        # Likeness takes no more than `diversity` off: what is below that share of the n-th can't come in before it.
        ratio = ratio[ratio >= (1.0 - self.diversity) * ratio[n - 1]]
        latent, length = pool.latent[order[: len(ratio)]], pool.alike_distance
        nearest_sq = np.full(len(ratio), np.inf)

        def out(vector: Array) -> None:
            np.minimum(nearest_sq, cdist(latent, vector[None], "sqeuclidean")[:, 0], out=nearest_sq)

        for vector in pool.in_flight_latent:
            out(vector)
        chosen: list[int] = []
        for _ in range(n):
            score = ratio * (1.0 - self.diversity * np.exp(-0.5 * nearest_sq / length**2))
            score[chosen] = -np.inf
            chosen.append(int(np.argmax(score)))
            out(latent[chosen[-1]])
        return order[chosen]

    def reason(self, pool: Pool, index: int, threshold: float) -> str:
        if pool.value[index] < self.value_floor:
            raise ValueError(f"{pool.material_id[index]} is below the value floor")
        return f"{self._value(pool, index, threshold)} for {pool.cost_cpu_h[index]:.4f} CPU-h"

    def skip_reason(self, pool: Pool, index: int, threshold: float) -> str:
        if pool.value[index] >= self.value_floor:
            raise ValueError(f"{pool.material_id[index]} is not below the value floor")
        return f"{self._value(pool, index, threshold)}, below the floor {self.value_floor:g}"

    @staticmethod
    def _value(pool: Pool, index: int, threshold: float) -> str:
        return f"expected error {pool.value[index]:.3f} (SC < {threshold:g} with probability {pool.p_low[index]:.2f})"


class ThresholdPolicy:
    """Lowest predicted SC first, and only where it is below the threshold (the paper's reading of a prediction)."""

    name = "threshold"
    draws_at_random = False

    def rank(self, pool: Pool, threshold: float, rng: np.random.Generator, n: int) -> Indices:
        order = pool.order(pool.mean)
        return order[pool.mean[order] < threshold][:n]

    def reason(self, pool: Pool, index: int, threshold: float) -> str:
        if not pool.mean[index] < threshold:
            raise ValueError(f"{pool.material_id[index]} is not below the threshold")
        return f"predicted SC {pool.mean[index]:.3f} is below the threshold {threshold:g}"

    def skip_reason(self, pool: Pool, index: int, threshold: float) -> str:
        if pool.mean[index] < threshold:
            raise ValueError(f"{pool.material_id[index]} is below the threshold")
        return f"predicted SC {pool.mean[index]:.3f} is not below the threshold {threshold:g}"


class _WantsAll:
    """Every material is worth RPA."""

    name = ""

    def skip_reason(self, pool: Pool, index: int, threshold: float) -> str:
        raise ValueError(f"the policy '{self.name}' leaves no material at IPA")


class UncertaintyPolicy(_WantsAll):
    """The largest spread first: what the model knows least of, for the sake of learning."""

    name = "uncertainty"
    draws_at_random = False

    def rank(self, pool: Pool, threshold: float, rng: np.random.Generator, n: int) -> Indices:
        return pool.order(-pool.spread)[:n]

    def reason(self, pool: Pool, index: int, threshold: float) -> str:
        return f"predicted SC {pool.mean[index]:.3f} is uncertain by {pool.spread[index]:.3f}"


class CheapestPolicy(_WantsAll):
    """The lowest predicted cost first, whatever is predicted of SC: as many calculations as the budget holds."""

    name = "cheapest"
    draws_at_random = False

    def rank(self, pool: Pool, threshold: float, rng: np.random.Generator, n: int) -> Indices:
        return pool.order(pool.cost_cpu_h)[:n]

    def reason(self, pool: Pool, index: int, threshold: float) -> str:
        return f"predicted to cost {pool.cost_cpu_h[index]:.4f} CPU-h; the cheapest go first"


class RandomPolicy(_WantsAll):
    """Every pending material in random order, whatever is predicted: the baseline a policy has to beat."""

    name = "random"
    draws_at_random = True

    def rank(self, pool: Pool, threshold: float, rng: np.random.Generator, n: int) -> Indices:
        # Drawn over the sorted ids, so that the order in which the pool was read does not matter.
        return pool.by_id[rng.permutation(len(pool))][:n]

    def reason(self, pool: Pool, index: int, threshold: float) -> str:
        return "every material may be drawn at random"


POLICIES: dict[str, Callable[[PolicyConfig], Policy]] = {
    "value_per_cost": lambda settings: ValuePerCost(settings.diversity, settings.value_floor),
    "threshold": lambda _: ThresholdPolicy(),
    "uncertainty": lambda _: UncertaintyPolicy(),
    "cheapest": lambda _: CheapestPolicy(),
    "random": lambda _: RandomPolicy(),
}


def get_policy(settings: PolicyConfig) -> Policy:
    """The policy that ``settings`` name: one of `POLICIES`, else a user's own.

    Raises
    ------
    UsageError
        There is none of that name, or it can't be loaded or is no policy.
    """
    name = settings.name
    if name in POLICIES:
        return POLICIES[name](settings)
    own = entry_points(group=ENTRY_POINTS)
    if name not in own.names:
        known = ", ".join([*POLICIES, *sorted(own.names - POLICIES.keys())])
        raise UsageError(f"policy: there is no policy '{name}'; choose one of {known}")
    try:
        policy: Policy = own[name].load()(settings)
    except Exception as e:
        raise UsageError(f"policy '{name}': {own[name].value} can't be loaded ({_one_line(e)}); correct it") from e
    missing = [a for a in ("name", "draws_at_random", "rank", "reason", "skip_reason") if not hasattr(policy, a)]
    if missing:
        raise UsageError(f"policy '{name}': {own[name].value} is no policy: it has no '{missing[0]}'")
    return policy


def checked_rank(policy: Policy, pool: Pool, threshold: float, rng: np.random.Generator, n: int) -> Indices:
    """What ``policy`` ranks first, after a look at whether it can be dispatched.

    Raises
    ------
    SelectorError
        The policy fails, or returns anything but at most ``n`` different indices of the pool.
    """
    with blamed(policy):
        ranked = np.asarray(policy.rank(pool, threshold, rng, n))

    def refuse(what: str) -> None:
        raise SelectorError(f"policy '{policy.name}' returned {what}; correct it, or choose another policy")

    if ranked.ndim != 1 or not (np.issubdtype(ranked.dtype, np.integer) or not ranked.size):
        refuse(f"{ranked.dtype} of shape {ranked.shape}, not a list of indices of pending materials")
    ranked = ranked.astype(np.intp)
    if len(ranked) > n:
        refuse(f"{len(ranked)} materials where {n} were asked for")
    foreign = ranked[(ranked < 0) | (ranked >= len(pool))]
    if len(foreign):
        refuse(f"index {foreign[0]} where {len(pool)} materials are pending: that one is unknown, or decided already")
    found, times = np.unique(ranked, return_counts=True)
    if (times > 1).any():
        refuse(f"{pool.material_id[found[times > 1][0]]} twice")
    return ranked


@contextmanager
def blamed(policy: Policy) -> Iterator[None]:
    """Whatever goes wrong within is told as that policy's failure."""
    try:
        yield
    except SelectorError:
        raise
    except Exception as e:
        raise SelectorError(
            f"policy '{policy.name}' failed ({_one_line(e)}); correct it, or choose another policy"
        ) from e


def _one_line(e: Exception) -> str:
    return " ".join(f"{e.__class__.__name__}: {e}".split())
