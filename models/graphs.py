"""Crystals as graphs: atoms are nodes, every pair within 5 angstrom an edge, periodic images included.

A batch is a handful of flat tensors, whatever its number of crystals. Edges carry their length alone; a network
expands it as it likes, so a graph costs 20 bytes an edge instead of 200.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from pymatgen.core import Structure
from torch import Tensor

from models.features import atomic_numbers

CUTOFF_ANG = 5.0


@dataclass(frozen=True)
class Graphs:
    """A batch of n crystals with a atoms and e edges in all.

    Attributes
    ----------
    numbers : (a,) int64, atomic numbers
    edge_index : (2, e) int64; row 0 the neighbour a message comes from, row 1 the atom it goes to
    distance_ang : (e,) float32
    crystal : (a,) int64, to which crystal each atom belongs
    atom_start, edge_start : (n + 1,) int64, where each crystal's atoms and edges begin
    """

    numbers: Tensor
    edge_index: Tensor
    distance_ang: Tensor
    crystal: Tensor
    atom_start: Tensor
    edge_start: Tensor

    def __len__(self) -> int:
        return len(self.atom_start) - 1

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
        A structure is disordered or empty.
    """
    numbers = [atomic_numbers(s) for s in structures]
    found = [s.get_neighbor_list(cutoff_ang) for s in structures]
    atom_start = np.concatenate([[0], np.cumsum([len(z) for z in numbers], dtype=np.int64)]).astype(np.int64)
    edge_start = np.concatenate([[0], np.cumsum([len(f[3]) for f in found], dtype=np.int64)]).astype(np.int64)
    crystal = np.repeat(np.arange(len(structures)), np.diff(atom_start))
    shift = np.repeat(atom_start[:-1], np.diff(edge_start))
    centre, neighbour, distance = (_joined([f[k] for f in found]) for k in (0, 1, 3))
    return Graphs(
        torch.from_numpy(_joined(numbers).astype(np.int64)),
        torch.from_numpy(np.stack([neighbour + shift, centre + shift]).astype(np.int64)),
        torch.from_numpy(distance.astype(np.float32)),
        torch.from_numpy(crystal),
        torch.from_numpy(atom_start),
        torch.from_numpy(edge_start),
    )


def _joined(arrays: list[np.ndarray]) -> np.ndarray:
    return np.concatenate(arrays) if arrays else np.zeros(0)
