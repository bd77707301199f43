"""How unevenly electrons fill a crystal: what drives local fields before any spectrum is known.

In a weakly modulated medium the fields that independent particles leave out are of second order in the modulation of
the polarisable density (Landau, Lifshitz and Pitaevskii, Electrodynamics of Continuous Media, eq. 9.4). The density is
modelled by a Gaussian on each atom that holds a number of its electrons; its relative variance then has a closed form.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from pymatgen.core import Structure

from models.elements import element_table
from models.neighbours import Neighbours, find_neighbours

Array = NDArray[np.float64]

WIDTHS_ANG = (0.6, 0.9, 1.2)
ELECTRONS = ("valence", "anion_valence", "bound_valence")
DENSITY = tuple(f"log_variance_{kind}_{width:g}" for kind in ELECTRONS for width in WIDTHS_ANG)
# The product of two of the widest Gaussians has fallen to 2e-4 here.
CUTOFF_ANG = 7.0
# Soft step between cations and anions, and what a cation keeps, so that a metal has a variance, too.
ANION_ELECTRONEGATIVITY, ANION_EDGE, KEPT = 2.2, 0.15, 1e-3
# Below it, the closed form's cutoff shows.
SMALL = 1e-4


def relative_variance(at: Neighbours, electrons: Array, width_ang: float) -> Array:
    """Relative variance <n^2> / <n>^2 - 1 of a model density of each crystal, shape (n,).

    Parameters
    ----------
    at : n crystals with a atoms, neighbours up to some five widths
    electrons : (a,) of each atom, positive
    width_ang : standard deviation of their Gaussians
    """
    overlap = electrons[at.centre] * electrons[at.neighbour] * np.exp(-((at.distance_ang / (2 * width_ang)) ** 2))
    n, volume = len(at), np.abs(np.linalg.det(at.cell_ang))
    pairs = np.bincount(at.crystal[at.centre], overlap, n) + np.bincount(at.crystal, electrons**2, n)
    total = np.bincount(at.crystal, electrons, n)
    square = pairs / (4 * np.pi * width_ang**2) ** 1.5 * volume / total**2
    return np.maximum(square - 1.0, 0.0)


def density_features(structures: Sequence[Structure]) -> Array:
    """Logarithms of the variances of n crystals, shape (n, len(DENSITY)), in the order of `DENSITY`.

    Three densities, each at three widths: of the valence electrons, of those that sit on anions, and of the valence
    electrons by how strongly they are bound (electronegativity squared).

    Parameters
    ----------
    structures : ordered crystals; lengths in angstrom

    Raises
    ------
    SelectorError
        As :func:`models.neighbours.find_neighbours`.
    """
    at, table = find_neighbours(structures, CUTOFF_ANG), element_table()
    chi, valence = table.electronegativity[at.numbers], table.valence[at.numbers]
    anion = 1.0 / (1.0 + np.exp((ANION_ELECTRONEGATIVITY - chi) / ANION_EDGE))
    kinds = (valence, valence * anion + KEPT, valence * chi**2)
    columns = [relative_variance(at, electrons, width) for electrons in kinds for width in WIDTHS_ANG]
    return np.log(np.maximum(np.array(columns).T, SMALL)).reshape(len(structures), len(DENSITY))
