"""Neighbour lists of several libraries, called alike.

NVIDIA's nvalchemi-toolkit-ops, which works on a GPU, is not among them: it was not run.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pymatgen.core import Structure
from pymatgen.optimization.neighbors import find_points_in_spheres

from models.graphs import CUTOFF_ANG

Array = NDArray[Any]
Pairs = tuple[Array, Array, Array]
"""Atom, neighbour and distance of all pairs."""
Library = Callable[[Structure, Array, Array], Pairs]
"""From a structure, its positions (a, 3) and its cell (3, 3), both in angstrom."""

PERIODIC = np.ones(3, dtype=np.int64)


def spheres(structure: Structure, x: Array, cell: Array) -> Pairs:
    i, j, _, d = find_points_in_spheres(x, x, CUTOFF_ANG, PERIODIC, cell, 1e-8)
    other = d > 1e-8
    return i[other], j[other], d[other]


def listed(structure: Structure, x: Array, cell: Array) -> Pairs:
    i, j, _, d = structure.get_neighbor_list(CUTOFF_ANG)
    return i, j, d


def loop(structure: Structure, x: Array, cell: Array) -> Pairs:
    around = structure.get_all_neighbors(CUTOFF_ANG)
    found = [(k, n.index, n.nn_distance) for k, sites in enumerate(around) for n in sites]
    i, j, d = zip(*found, strict=True) if found else ((), (), ())
    return np.array(i, dtype=np.int64), np.array(j, dtype=np.int64), np.array(d, dtype=float)


def neighbour_lists() -> dict[str, Library | None]:
    """By name, the one in use first; None where a package is not installed."""
    found: dict[str, Library | None] = {
        "pymatgen find_points_in_spheres (used here)": spheres,
        "pymatgen get_neighbor_list": listed,
        "pymatgen get_all_neighbors (the paper)": loop,
        "matscipy neighbour_list": None,
        "vesin NeighborList": None,
    }
    if importlib.util.find_spec("matscipy"):
        from matscipy.neighbours import neighbour_list

        found["matscipy neighbour_list"] = lambda structure, x, cell: neighbour_list(
            "ijd", positions=x, cell=cell, pbc=[True, True, True], cutoff=CUTOFF_ANG
        )
    if importlib.util.find_spec("vesin"):
        from vesin import NeighborList

        vesin = NeighborList(cutoff=CUTOFF_ANG, full_list=True, n_threads=1)
        found["vesin NeighborList"] = lambda structure, x, cell: vesin.compute(x, cell, True, "ijd")
    return found


def canonical(pairs: Pairs) -> NDArray[np.float64]:
    """(p, 3) rows in one order; pairs at the cutoff itself, where rounding decides, are left out."""
    rows = np.stack([np.asarray(column, dtype=float) for column in pairs], axis=1)
    rows = rows[rows[:, 2] < CUTOFF_ANG - 1e-6]
    return rows[np.lexsort([rows[:, 2].round(5), rows[:, 1], rows[:, 0]])]
