"""Crystals as graphs: atoms are nodes, neighbours within 5 angstrom are edges, periodic images included.

A batch is a handful of flat tensors, whatever its number of crystals. An edge carries its length alone, which a network
expands as it likes. For a network that sees lengths only, two images of an atom at the same distance say the same: they
are one edge that counts twice. Two thirds of all edges go that way.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from pymatgen.core import Structure
from torch import Tensor

from models.neighbours import find_neighbours

CUTOFF_ANG = 5.0
# Lengths this near are taken for equal, and their mean stands for them. What a smooth function of the length loses by
# that is of second order, 1e-7 for the sharpest Gaussian of the paper's network: the rounding of single precision.
SAME_LENGTH_ANG = 1e-4


@dataclass(frozen=True)
class Graphs:
    """A batch of n crystals with a atoms and e edges in all.

    Attributes
    ----------
    numbers : (a,) int64, atomic numbers
    edge_index : (2, e) int64; row 0 the neighbour a message comes from, row 1 the atom it goes to
    distance_ang : (e,) float32
    multiplicity : (e,) float32, how many images of the neighbour stand at that distance
    crystal : (a,) int64, to which crystal each atom belongs
    atom_start, edge_start : (n + 1,) int64, where each crystal's atoms and edges begin
    """

    numbers: Tensor
    edge_index: Tensor
    distance_ang: Tensor
    multiplicity: Tensor
    crystal: Tensor
    atom_start: Tensor
    edge_start: Tensor

    def __len__(self) -> int:
        return len(self.atom_start) - 1

    @property
    def isolated(self) -> Tensor:
        """(n,) bool: an atom of the crystal has no neighbour within the cutoff: a network sees only its element."""
        alone = torch.bincount(self.edge_index[1], minlength=len(self.numbers)) == 0
        return torch.bincount(self.crystal[alone], minlength=len(self)) > 0

    def to(self, device: torch.device | str) -> Graphs:
        """The same batch on another device."""
        return Graphs(*(getattr(self, name).to(device) for name in self.__dataclass_fields__))

    def select(self, rows: Tensor) -> Graphs:
        """The crystals `rows` (k,) int64, in that order, as a batch of their own."""
        atoms, atom_start = _ranges(self.atom_start, rows)
        edges, edge_start = _ranges(self.edge_start, rows)
        crystal = torch.repeat_interleave(torch.arange(len(rows), device=rows.device), atom_start.diff())
        shift = torch.repeat_interleave(atom_start[:-1] - self.atom_start[rows], edge_start.diff())
        return Graphs(
            self.numbers[atoms],
            self.edge_index[:, edges] + shift,
            self.distance_ang[edges],
            self.multiplicity[edges],
            crystal,
            atom_start,
            edge_start,
        )


def _ranges(start: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
    """Indices of the members of `rows`, one after another, and where each row's begin."""
    length = start[rows + 1] - start[rows]
    begin = torch.cat([length.new_zeros(1), length.cumsum(0)])
    index = torch.arange(int(begin[-1]), device=rows.device)
    return index + torch.repeat_interleave(start[rows] - begin[:-1], length), begin


def build_graphs(structures: Sequence[Structure], cutoff_ang: float = CUTOFF_ANG) -> Graphs:
    """Graphs of n crystals in one batch.

    Parameters
    ----------
    structures : ordered crystals; lengths in angstrom
    cutoff_ang : neighbours up to this distance, all of them, periodic images included; an atom is a neighbour of
        its own images, not of itself

    Raises
    ------
    SelectorError
        As :func:`models.neighbours.find_neighbours`.
    """
    pairs = find_neighbours(structures, cutoff_ang)
    longest = round(cutoff_ang / SAME_LENGTH_ANG) + 2
    local = pairs.neighbour - np.repeat(pairs.atom_start[:-1], np.diff(pairs.pair_start))
    length = np.rint(pairs.distance_ang / SAME_LENGTH_ANG).astype(np.int64)
    key = (pairs.centre * np.diff(pairs.atom_start).max(initial=1) + local) * longest + length
    order = np.argsort(key, kind="stable")
    first = np.flatnonzero(np.diff(key[order], prepend=-1))
    count = np.diff(first, append=len(key))
    # reduceat knows no empty list of segments
    distance = (np.add.reduceat(pairs.distance_ang[order], first) if len(first) else np.zeros(0)) / count
    edge = order[first]
    return Graphs(
        torch.from_numpy(pairs.numbers),
        torch.from_numpy(np.stack([pairs.neighbour[edge], pairs.centre[edge]])),
        torch.from_numpy(distance.astype(np.float32)),
        torch.from_numpy(count.astype(np.float32)),
        torch.from_numpy(pairs.crystal),
        torch.from_numpy(pairs.atom_start),
        torch.from_numpy(np.searchsorted(first, pairs.pair_start)),
    )
