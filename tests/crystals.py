"""Crystals with a face-centred cubic cell. pymatgen's `from_spacegroup` gives the same, and takes a second for each."""

from __future__ import annotations

import numpy as np
from pymatgen.core import Lattice, Structure

CENTRES = np.array([[0, 0, 0], [0, 0.5, 0.5], [0.5, 0, 0.5], [0.5, 0.5, 0]])
SITES = {
    "rocksalt": [[0, 0, 0], [0.5, 0.5, 0.5]],
    "zincblende": [[0, 0, 0], [0.25, 0.25, 0.25]],
    "fluorite": [[0, 0, 0], [0.25, 0.25, 0.25], [0.75, 0.75, 0.75]],
}


def face_centred(kind: str, a_ang: float, *species: str) -> Structure:
    """The cubic cell of a structure type of `SITES`; diamond is zincblende with one species twice."""
    sites = np.array(SITES[kind])
    names = [*species, *[species[-1]] * (len(sites) - len(species))]
    frac = (sites[:, None] + CENTRES) % 1.0
    return Structure(Lattice.cubic(a_ang), np.repeat(names, len(CENTRES)).tolist(), frac.reshape(-1, 3))
