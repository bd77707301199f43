"""What every engine checks: the structure before any cost, the spectra before they may become a label.

No check looks at SC: a label must not be accepted or refused for its value.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import spglib
from pymatgen.core import Element, Structure

from fw_tasks.engines.base import BadOutput, OddElectrons
from selector.errors import UsageError
from selector.spectra import ENERGY_EV, Spectrum

SYMPREC_ANG = 1e-3
NEGATIVE_SHARE = 0.01


def primitive_cell(structure: Structure) -> Structure:
    """The standardised primitive cell that engines compute.

    Raises
    ------
    UsageError
        Disordered sites: no single crystal to compute.
    """
    if not structure.is_ordered:
        raise UsageError(
            f"{structure.composition.reduced_formula}: sites are partly occupied; give an ordered structure"
        )
    cell: Any = (structure.lattice.matrix, structure.frac_coords, structure.atomic_numbers)
    lattice, frac, numbers = (
        spglib.standardize_cell(cell, to_primitive=True, no_idealize=False, symprec=SYMPREC_ANG) or cell
    )
    return Structure(lattice, [Element.from_Z(int(z)) for z in numbers], frac)


def check_closed_shell(structure: Structure) -> None:
    """Refuse an odd number of electrons in the primitive cell (cores are even, so the sum of Z decides).

    Raises
    ------
    OddElectrons
    """
    cell = primitive_cell(structure)
    electrons = sum(cell.atomic_numbers)
    if electrons % 2:
        raise OddElectrons(
            f"{structure.composition.reduced_formula}: {electrons} electrons in the primitive cell, an odd number: "
            "no closed-shell insulator"
        )


def check_spectra(spectra: Mapping[str, Spectrum]) -> None:
    """Refuse spectra that cannot be an absorption on 0-20 eV.

    Raises
    ------
    BadOutput
        Not finite, energies that do not rise from 0 past 20 eV, Im(eps) below -1 % of its maximum, or no absorption.
    """
    for level, spectrum in spectra.items():
        energy = spectrum.energy_ev
        if not (np.isfinite(energy).all() and np.isfinite(spectrum.eps).all()):
            raise BadOutput(f"{level}: the spectrum is not finite")
        if len(energy) < 2 or (np.diff(energy) <= 0).any() or energy[0] > 0.0 or energy[-1] < ENERGY_EV[-1]:
            raise BadOutput(f"{level}: the energies do not rise from 0 to {ENERGY_EV[-1]:g} eV")
        absorption = spectrum.on_grid(ENERGY_EV).eps.imag
        if absorption.max() <= 0.0:
            raise BadOutput(f"{level}: no absorption on 0-20 eV")
        if absorption.min() < -NEGATIVE_SHARE * absorption.max():
            raise BadOutput(f"{level}: negative absorption, {absorption.min():.3g} of {absorption.max():.3g} at most")
