"""The pending candidates as arrays: what a policy sees."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.distance import pdist

from selector.errors import SelectorError

Array = NDArray[np.float64]
Indices = NDArray[np.intp]

ALIKE_SHARE = 0.1
"""Two materials are about alike if their distance is among this share of the pool's smallest distances."""
DISTANCE_SAMPLE = 500
"""So many of the pool's materials say which distances are small."""


@dataclass(frozen=True, eq=False)
class Pool:
    """The pending candidates and what is predicted of them; read-only arrays of n rows.

    Attributes
    ----------
    material_id : (n,) strings, unique
    mean, spread : (n,) predicted SC[RPA; IPA] and its standard deviation as the model sees it
    lo, hi : (n,) its 90 % interval
    p_low : (n,) P(SC < threshold)
    value : (n,) E[(1 - SC) 1(SC < threshold)], see :func:`selector.calibration.expected_error`
    cost_cpu_h : (n,) predicted cost of what would be dispatched, CPU-hours, positive
    latent : (n, d) position in the space in which the model measures likeness
    in_flight_latent : (m, d) the same of what is in flight

    Raises
    ------
    SelectorError
        A number is not finite, a cost is not positive or a value is negative: such a material would be ranked
        silently, so none is.
    ValueError
        Arrays do not fit each other, or a material stands in the pool twice.
    """

    material_id: NDArray[np.str_]
    mean: Array
    spread: Array
    lo: Array
    hi: Array
    p_low: Array
    value: Array
    cost_cpu_h: Array
    latent: Array
    in_flight_latent: Array

    _NUMBERS: ClassVar = ("mean", "spread", "lo", "hi", "p_low", "value", "cost_cpu_h")

    def __post_init__(self) -> None:
        for name in ("material_id", *self._NUMBERS, "latent", "in_flight_latent"):
            array = np.asarray(getattr(self, name), dtype=np.str_ if name == "material_id" else np.float64).view()
            array.flags.writeable = False
            object.__setattr__(self, name, array)
        if {getattr(self, name).shape for name in self._NUMBERS} != {(len(self),)} or not (
            self.latent.ndim == self.in_flight_latent.ndim == 2
            and len(self.latent) == len(self)
            and self.latent.shape[1] == self.in_flight_latent.shape[1]
        ):
            raise ValueError("the pool's arrays differ in shape")
        names = self.material_id[self.by_id]
        if (names[1:] == names[:-1]).any():
            raise ValueError("a material stands in the pool twice")
        for name in self._NUMBERS:
            self._refuse(~np.isfinite(getattr(self, name)), f"its predicted {name} is not finite")
        self._refuse(np.asarray(~np.isfinite(self.latent).all(axis=1)), "its latent vector is not finite")
        self._refuse(self.cost_cpu_h <= 0.0, "its predicted cost is not positive")
        self._refuse(self.value < 0.0, "its predicted value is negative")

    def _refuse(self, bad: NDArray[np.bool_], what: str) -> None:
        if bad.any():
            remedy = "veto the material, or choose another model or engine"
            raise SelectorError(f"{self.material_id[bad][0]}: {what}; {remedy}")

    def __len__(self) -> int:
        return len(self.material_id)

    @cached_property
    def by_id(self) -> Indices:
        """Indices in the order of the ids."""
        return np.argsort(self.material_id, kind="stable")

    @cached_property
    def alike_distance(self) -> float:
        """The distance in latent space at which two of the pool's materials are about alike; positive."""
        sample = self.by_id[np.linspace(0, len(self) - 1, min(len(self), DISTANCE_SAMPLE)).astype(np.intp)]
        distances = pdist(self.latent[sample])
        return max(float(np.quantile(distances, ALIKE_SHARE)), 1e-9) if len(distances) else 1.0

    def order(self, key: Array) -> Indices:
        """Indices by rising key; materials of equal key in the order of their ids."""
        return self.by_id[np.argsort(key[self.by_id], kind="stable")]

    def take(self, indices: Indices, in_flight: Indices) -> Pool:
        """The pool of ``indices`` alone, while those of ``in_flight`` are in flight too."""
        rows = {name: getattr(self, name)[indices] for name in ("material_id", *self._NUMBERS, "latent")}
        return replace(self, **rows, in_flight_latent=np.vstack([self.in_flight_latent, self.latent[in_flight]]))
