"""What an IPA spectrum says about the local fields that it leaves out.

Two kinds of numbers, none of which depends on how the crystal lies in its axes:

* shape: static susceptibility, mean energy and width of the absorption, how much the three directions differ;
* estimates: the share of absorption that moves if each direction's susceptibility X is screened by a field of its own,
  X / (1 + L X). In a weakly polarisable, weakly modulated cubic medium L is the relative variance of the polarisable
  density over 3 (from Landau, Lifshitz and Pitaevskii, Electrodynamics of Continuous Media, eq. 9.4). That density is
  taken as a Gaussian of the valence electrons on each atom; how strong the fields really are is left to the learner,
  who is given the estimate for several multiples of L.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from pymatgen.core import Structure

from models.densities import relative_variance
from models.elements import element_table
from models.neighbours import find_neighbours
from selector.errors import SelectorError
from selector.spectra import ENERGY_EV, Spectrum

Array = NDArray[np.float64]

GAUSSIAN_ANG = 0.8
# The product of two such Gaussians has fallen to 1e-6 here.
CUTOFF_ANG = 6.0
MULTIPLES = (0.3, 1.0, 3.0, 10.0)
SPECTRUM = ("log_static", "log_mean_energy", "log_width", "anisotropy", *(f"log_moved_{c:g}" for c in MULTIPLES))
# Static susceptibilities below this are noise of something that does not polarise.
SMALL = 1e-3


def density_variance(structures: Sequence[Structure]) -> Array:
    """Relative variance <n^2> / <n>^2 - 1 of the model density n(r) of each crystal, shape (n,).

    Parameters
    ----------
    structures : ordered crystals; lengths in angstrom

    Raises
    ------
    SelectorError
        As :func:`models.neighbours.find_neighbours`.
    """
    at = find_neighbours(structures, CUTOFF_ANG)
    return relative_variance(at, element_table().valence[at.numbers], GAUSSIAN_ANG)


def spectrum_features(structures: Sequence[Structure], spectra: Sequence[Spectrum]) -> Array:
    """Vectors of n crystals with their IPA spectra, shape (n, len(SPECTRUM)), in the order of `SPECTRUM`.

    Parameters
    ----------
    structures : ordered crystals
    spectra : complex eps from 0 to 20 eV or beyond, on any grid; where only a trace / 3 is known, three times the same

    Raises
    ------
    SelectorError
        Not one spectrum for each structure, one that is not finite, does not reach 20 eV, or does not absorb.
    """
    if len(structures) != len(spectra):
        raise SelectorError(f"{len(structures)} structures, {len(spectra)} IPA spectra: give one of each")
    strength = density_variance(structures) / 3.0
    rows = [_described(*row) for row in zip(structures, spectra, strength, strict=True)]
    return np.array(rows).reshape(len(structures), len(SPECTRUM))


def _described(structure: Structure, spectrum: Spectrum, strength: float) -> list[float]:
    try:
        chi = spectrum.on_grid(ENERGY_EV).eps - 1.0
    except ValueError as e:
        raise SelectorError(f"{structure.formula}: {e}: 0-20 eV are needed") from e
    direction = np.maximum(chi.imag, 0.0).astype(float)
    absorption = direction.mean(axis=0)
    total = _integral(absorption)
    if not np.isfinite(chi).all() or total <= 0.0:
        raise SelectorError(
            f"{structure.formula}: its IPA spectrum is not finite, or absorbs nothing: compute it again"
        )
    mean_ev = _integral(ENERGY_EV * absorption) / total
    width_ev = np.sqrt(_integral((ENERGY_EV - mean_ev) ** 2 * absorption) / total)
    anisotropy = np.mean([_integral(np.abs(d - absorption)) for d in direction]) / total
    static = max(float(chi.real[:, 0].mean()), SMALL)
    shape = [np.log(static), np.log(mean_ev), np.log(width_ev), anisotropy]
    return [*shape, *(np.log(_moved(chi, c * strength) + SMALL) for c in MULTIPLES)]


def _moved(chi: NDArray[np.complexfloating], depolarisation: float) -> float:
    """The share of absorption that moves when a field of its own screens each direction."""
    bare, screened = chi.imag.mean(axis=0), (chi / (1.0 + depolarisation * chi)).imag.mean(axis=0)
    return _integral(np.abs(screened - bare)) / _integral(np.abs(bare))


def _integral(y: Array) -> float:
    return float(np.trapezoid(y, ENERGY_EV))
