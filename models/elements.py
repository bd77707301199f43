"""Properties of the elements, one row for each of the 118, with no gap.

Pauling electronegativity, first ionisation energy, electron affinity, row and group are pymatgen's; covalent radii are
those of Cordero et al., Dalton Trans. 2832 (2008), as ASE holds them. Helium, neon and argon have no Pauling
electronegativity and take Allen's (J. Am. Chem. Soc. 111, 9003 (1989)). Where a value is unknown (superheavy elements)
the element takes that of its lighter homologue, the nearest element above it in the same group.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from ase.data import covalent_radii, missing
from numpy.typing import NDArray
from pymatgen.core import Element

N_ELEMENTS = 118
ALLEN_ELECTRONEGATIVITY = {2: 4.160, 10: 4.787, 18: 3.242}
# ASE fills in 0.2 angstrom where Cordero's table ends (after curium).
LAST_COVALENT_RADIUS = 96


@dataclass(frozen=True)
class ElementTable:
    """Arrays of length 119, indexed by atomic number; index 0 is unused.

    Attributes
    ----------
    electronegativity : Pauling units
    radius_ang : covalent radius
    ionisation_ev, affinity_ev : first ionisation energy, electron affinity
    row, group : int, 1-7 and 1-18 (the f block belongs to group 3)
    valence : valence electrons of the neutral atom (group, or group - 10 in the p block)
    """

    electronegativity: NDArray[np.float64]
    radius_ang: NDArray[np.float64]
    ionisation_ev: NDArray[np.float64]
    affinity_ev: NDArray[np.float64]
    row: NDArray[np.int64]
    group: NDArray[np.int64]
    valence: NDArray[np.float64]


@lru_cache(maxsize=1)
def element_table() -> ElementTable:
    """The table, built once per process."""
    elements = [Element.from_Z(z) for z in range(1, N_ELEMENTS + 1)]
    row = np.array([0] + [e.row for e in elements])
    group = np.array([0] + [e.group for e in elements])
    # pymatgen counts the lanthanides and actinides as rows 8 and 9.
    row[57:72], row[89:104] = 6, 7
    group[57:71], group[89:103] = 3, 3
    valence = np.where(group >= 13, group - 10, group).astype(float)
    valence[2] = 2.0

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pymatgen warns of each value it lacks; those are filled in below
        chi = [ALLEN_ELECTRONEGATIVITY.get(e.Z, e.X) for e in elements]
        ionisation = [e.ionization_energy for e in elements]
        affinity = [e.data.get("Electron affinity") for e in elements]
    radius = [r if z <= LAST_COVALENT_RADIUS and r != missing else None for z, r in enumerate(covalent_radii)][1:119]

    def filled(values: Sequence[float | None]) -> NDArray[np.float64]:
        out = np.array([math.nan] + [math.nan if v is None else float(v) for v in values])
        for z in np.flatnonzero(np.isnan(out[1:])) + 1:
            # In the f block the homologue is the lanthanide 32 places before, as it is for every element of row 7.
            out[z] = out[z - 32]
        return out

    return ElementTable(filled(chi), filled(radius), filled(ionisation), filled(affinity), row, group, valence)
