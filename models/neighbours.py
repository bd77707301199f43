"""Who stands within reach of whom: every pair of atoms up to a cutoff, periodic images included, for many crystals.

One call of a compiled routine a crystal, no Python loop over sites or neighbours; everything after that works on the
flat arrays of the whole batch. `benchmarks/throughput.py` compares the routine with those of other libraries.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from pymatgen.core import Structure
from pymatgen.optimization.neighbors import find_points_in_spheres

from models.elements import N_ELEMENTS
from selector.errors import SelectorError

Array = NDArray[np.float64]
Integers = NDArray[np.int64]

# Of distances: a pair this much beyond the cutoff still counts, an atom this near to itself is itself.
TOLERANCE_ANG = 1e-8
MIN_VOLUME_ANG3 = 0.1


@dataclass(frozen=True)
class Neighbours:
    """Pairs of n crystals, one crystal after another; a atoms and p pairs in all.

    Attributes
    ----------
    numbers : (a,) atomic numbers
    cell_ang : (n, 3, 3), a lattice vector a row
    position_ang : (a, 3), Cartesian
    centre, neighbour : (p,) atoms, counted over the whole batch; every pair stands in both directions
    image : (p, 3) in which cell the neighbour stands, in lattice vectors
    distance_ang : (p,)
    atom_start, pair_start : (n + 1,) where each crystal's atoms and pairs begin
    """

    numbers: Integers
    cell_ang: Array
    position_ang: Array
    centre: Integers
    neighbour: Integers
    image: Array
    distance_ang: Array
    atom_start: Integers
    pair_start: Integers

    def __len__(self) -> int:
        return len(self.cell_ang)

    @property
    def crystal(self) -> Integers:
        """(a,) to which crystal each atom belongs."""
        return _owners(self.atom_start)

    @property
    def vector_ang(self) -> Array:
        """(p, 3) from each centre to its neighbour."""
        cell = np.repeat(self.cell_ang, np.diff(self.pair_start), axis=0)
        offset = np.einsum("pk,pkx->px", self.image, cell)
        return self.position_ang[self.neighbour] - self.position_ang[self.centre] + offset


def atomic_numbers(structure: Structure) -> Integers:
    """Atomic numbers, shape (n_atoms,).

    Raises
    ------
    SelectorError
        A site is disordered or holds no element, or there is no site.
    """
    try:
        numbers = np.array([site.specie.Z for site in structure], dtype=np.int64)
    except AttributeError:
        raise SelectorError(f"{structure.formula}: disordered sites: order the structure first") from None
    if not len(numbers):
        raise SelectorError("a structure has no atoms")
    if not ((numbers > 0) & (numbers <= N_ELEMENTS)).all():
        raise SelectorError(f"{structure.formula}: a site holds no element: replace it")
    return numbers


def find_neighbours(structures: Sequence[Structure], cutoff_ang: float) -> Neighbours:
    """All pairs of atoms of n crystals up to `cutoff_ang`; an atom is a neighbour of its own images, not of itself.

    Raises
    ------
    SelectorError
        A structure is disordered or empty, its cell has no volume, a coordinate is not finite, or two atoms stand in
        one place.
    """
    numbers = [atomic_numbers(s) for s in structures]
    lattices = [s.lattice for s in structures]
    cells = np.array([k.matrix for k in lattices], dtype=float).reshape(-1, 3, 3)
    flat = np.flatnonzero(~(np.abs(np.linalg.det(cells)) > MIN_VOLUME_ANG3))
    _refuse(structures, flat, "its cell has next to no volume: correct it")
    positions = [np.ascontiguousarray(s.frac_coords @ cell) for s, cell in zip(structures, cells, strict=True)]
    found = [
        find_points_in_spheres(x, x, cutoff_ang, np.array(k.pbc, dtype=np.int64), cell, TOLERANCE_ANG)
        for x, cell, k in zip(positions, cells, lattices, strict=True)
    ]
    position = _joined(positions, float, 3)
    atom_start, start = _starts([len(z) for z in numbers]), _starts([len(f[3]) for f in found])
    crystal, shift = _owners(atom_start), np.repeat(atom_start[:-1], np.diff(start))
    centre, neighbour = (_joined([f[k] for f in found], np.int64) + shift for k in (0, 1))
    image, distance = _joined([f[2] for f in found], float, 3), _joined([f[3] for f in found], float)
    own, touching = centre == neighbour, distance <= TOLERANCE_ANG
    _refuse(structures, crystal[~np.isfinite(position).all(axis=1)], "a coordinate is not finite: correct it")
    _refuse(structures, crystal[centre[touching & ~own]], "two atoms stand in one place: remove one")
    other = ~touching
    return Neighbours(
        _joined(numbers, np.int64), cells, position,
        centre[other], neighbour[other], image[other], distance[other], atom_start, _starts(other)[start],
    )  # fmt: skip


def _refuse(structures: Sequence[Structure], places: Integers, why: str) -> None:
    if len(places):
        raise SelectorError(f"{structures[int(places[0])].formula}: {why}")


def _owners(start: Integers) -> Integers:
    """To which part each member belongs."""
    return np.repeat(np.arange(len(start) - 1), np.diff(start))


def _starts(lengths: Sequence[int] | NDArray) -> Integers:
    """Where each of several parts begins, and where the last one ends."""
    return np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths, dtype=np.int64)])


def _joined(arrays: list[NDArray], dtype: type, *width: int) -> NDArray:
    return np.concatenate([np.zeros((0, *width), dtype), *arrays]).astype(dtype, copy=False)
