"""Dielectric functions, and how well two of them agree.

The similarity coefficient, the mean squared error and the mean absolute error are Eqs. 6-8 of Grunert, Großmann and
Runge, Nat. Commun. 16, 8142 (2025), taken over Im(eps) on 0-20 eV in 2001 points.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
ENERGY_EV: Array = np.linspace(0.0, 20.0, 2001)


@dataclass(frozen=True)
class Spectrum:
    """A macroscopic dielectric function.

    Attributes
    ----------
    energy_ev : (n,) array, eV, increasing
    eps : (3, n) complex array, field along x, y, z
    """

    energy_ev: Array
    eps: NDArray[np.complexfloating[Any, Any]]

    def __post_init__(self) -> None:
        if self.eps.shape != (3, len(self.energy_ev)):
            raise ValueError(f"eps has shape {self.eps.shape}, not (3, {len(self.energy_ev)})")

    def on_grid(self, energy_ev: Array = ENERGY_EV) -> Spectrum:
        """The same function on another energy grid (eV), by cubic spline."""
        if np.array_equal(self.energy_ev, energy_ev):
            return self
        if energy_ev[0] < self.energy_ev[0] - 1e-9 or energy_ev[-1] > self.energy_ev[-1] + 1e-9:
            raise ValueError(f"the spectrum covers {self.energy_ev[0]:g}-{self.energy_ev[-1]:g} eV only")
        from scipy.interpolate import CubicSpline  # takes most of a second to load, and most commands need no grid

        return Spectrum(energy_ev, CubicSpline(self.energy_ev, self.eps, axis=-1)(energy_ev))

    @property
    def mean(self) -> NDArray[np.complexfloating[Any, Any]]:
        """Trace / 3, shape (n,)."""
        return self.eps.mean(axis=0)


@dataclass(frozen=True)
class KnownSpectrum:
    """A spectrum, the file it stands in, and the settings hash that it was computed under (None: not said)."""

    spectrum: Spectrum
    file: Path
    settings_hash: str | None


def similarity(spectrum: Array, reference: Array, energy_ev: Array = ENERGY_EV) -> float:
    """SC[spectrum; reference] = 1 - int |spectrum - reference| dw / int |reference| dw (Eq. 6).

    Asymmetric: the second argument divides. The predictor's target is SC[RPA; IPA], ``similarity(rpa, ipa)``.

    Parameters
    ----------
    spectrum, reference : (n,) arrays, Im(eps)
    energy_ev : (n,) array, eV

    Raises
    ------
    ValueError
        A value is not finite, or the reference does not absorb at all.
    """
    if not (np.isfinite(spectrum).all() and np.isfinite(reference).all()):
        raise ValueError("a spectrum is not finite")
    weight = np.trapezoid(np.abs(reference), energy_ev)
    if weight <= 0.0:
        raise ValueError("the reference spectrum is zero everywhere")
    return float(1.0 - np.trapezoid(np.abs(spectrum - reference), energy_ev) / weight)


def mse(spectrum: Array, reference: Array) -> float:
    """Mean squared error over the grid points (Eq. 7); both (n,) arrays."""
    return float(np.mean((spectrum - reference) ** 2))


def mae(spectrum: Array, reference: Array) -> float:
    """Mean absolute error over the grid points (Eq. 8); both (n,) arrays."""
    return float(np.mean(np.abs(spectrum - reference)))


def settings_hash(settings: Mapping[str, Any]) -> str:
    """Twelve hex digits that name a set of engine settings; its ``name`` is a label, not a setting.

    Labels computed under different hashes are different quantities and are never mixed.
    """
    physics = {k: v for k, v in settings.items() if k != "name"}
    return hashlib.sha256(json.dumps(physics, sort_keys=True).encode()).hexdigest()[:12]
