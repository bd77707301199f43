"""What every engine checks: the structure before any cost, the spectra before they may become a label.

No check looks at SC: a label must not be accepted or refused for its value. What is refused is kept with its reason.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import spglib
from numpy.typing import NDArray
from pymatgen.core import Element, Structure

from fw_tasks.engines.base import BadOutput, Calculation, OddElectrons
from selector.errors import UsageError
from selector.spectra import ENERGY_EV, Spectrum

SYMPREC_ANG = 1e-3
HARTREE_EV = 27.211386
REJECTED = "rejected.npz"
NEGATIVE_SHARE = 0.01
STRENGTH_SLACK = 1.1
"""Nonlocal pseudopotentials and PAW break the f-sum rule of the valence electrons by some percent."""
STATIC_SLACK = 1e-3
KK_STEP_EV, KK_SPACING_EV = 0.05, 0.5
KRAMERS_KRONIG_TOLERANCE = 0.05


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


def check_response(spectra: Mapping[str, Spectrum], gap_ev: float, n_electrons: float, volume_bohr3: float) -> None:
    """Refuse spectra that no insulator with ``n_electrons`` valence electrons in ``volume_bohr3`` can have.

    The f-sum on 0-20 eV has an upper bound only: what lies above is missing, and the sums rightly differ between the
    levels (LiF: RPA over IPA 0.83).

    Parameters
    ----------
    spectra : level -> spectrum that covers 0-20 eV
    gap_ev : eV, on the ground-state mesh
    n_electrons, volume_bohr3 : valence electrons in the primitive cell, and its volume in bohr**3

    Raises
    ------
    BadOutput
        What `check_spectra` refuses; no gap; more strength than electrons; RPA above IPA in the static limit.
    """
    check_spectra(spectra)
    if not gap_ev > 0.0:
        raise BadOutput(f"the gap is {gap_ev:g} eV")
    plasma_ev2 = 4.0 * np.pi * n_electrons / volume_bohr3 * HARTREE_EV**2
    for level, spectrum in spectra.items():
        absorption = spectrum.on_grid(ENERGY_EV).mean.imag
        strength_ev2 = 2.0 / np.pi * np.trapezoid(ENERGY_EV * absorption, ENERGY_EV)
        if strength_ev2 > STRENGTH_SLACK * plasma_ev2:
            counted = strength_ev2 / plasma_ev2 * n_electrons
            raise BadOutput(f"{level}: absorbs like {counted:.1f} electrons on 0-20 eV; the cell has {n_electrons:g}")
    if {"ipa", "rpa"} <= spectra.keys():
        ipa, rpa = (spectra[level].eps[:, 0].real for level in ("ipa", "rpa"))
        if (rpa > ipa + STATIC_SLACK * np.abs(ipa)).any():
            raise BadOutput(f"the static limit at RPA ({rpa.max():.3f}) lies above that at IPA ({ipa.max():.3f})")


def check_kramers_kronig(spectra: Mapping[str, Spectrum]) -> None:
    """Refuse spectra whose real part does not belong to their imaginary part.

    For engines whose energies reach past the last transition; on 0-20 eV alone the relation cannot be asked for.

    Raises
    ------
    BadOutput
        The deviation (`kramers_kronig_deviation`) exceeds `KRAMERS_KRONIG_TOLERANCE` along some direction.
    """
    for level, spectrum in spectra.items():
        deviation = kramers_kronig_deviation(spectrum)
        if not deviation.max() <= KRAMERS_KRONIG_TOLERANCE:
            raise BadOutput(
                f"{level}: Re(eps) differs from what Kramers and Kronig make of Im(eps) by {deviation.max():.0%}"
            )


def kramers_kronig_deviation(spectrum: Spectrum) -> NDArray[np.float64]:
    """Root mean square of Re(eps) minus the transform of Im(eps), over that of eps - 1, on 0-20 eV; shape (3,).

    Re eps(w) = 1 + 2/pi P int_0^W x Im eps(x) / (x**2 - w**2) dx up to the last energy W. The singular part is taken
    out and integrated by hand: P int_0^W dx / (x**2 - w**2) = ln((W - w) / (W + w)) / 2w.
    """
    last_ev = spectrum.energy_ev[-1]
    x = np.linspace(0.0, last_ev, round(last_ev / KK_STEP_EV) + 1)
    # Halfway between the points of x, so that no denominator vanishes; never at W, where the logarithm diverges.
    w = 0.5 * (x[:-1] + x[1:])[:: round(KK_SPACING_EV / KK_STEP_EV)]
    w = w[w < min(ENERGY_EV[-1], 0.9 * last_ev)]
    on_x, on_w = spectrum.on_grid(x).eps, spectrum.on_grid(w).eps
    integrand = (x * on_x.imag)[:, None, :] - (w * on_w.imag)[:, :, None]
    integral = np.trapezoid(integrand / (x**2 - w[:, None] ** 2), x, axis=-1)
    integral += on_w.imag * np.log((last_ev - w) / (last_ev + w)) / 2.0
    difference = 1.0 + 2.0 / np.pi * integral - on_w.real
    rms: NDArray[np.float64] = np.sqrt((difference**2).mean(axis=-1) / (np.abs(on_w - 1.0) ** 2).mean(axis=-1))
    return rms


def accept(
    calculation: Calculation, n_electrons: float, volume_bohr3: float, workdir: Path, *, whole_range: bool = False
) -> Calculation:
    """The calculation, if its spectra may become a label.

    A rejected one is kept as ``rejected.npz`` in ``workdir``, the reason in ``details["rejected"]``.

    Parameters
    ----------
    n_electrons, volume_bohr3 : as in `check_response`
    whole_range : the energies reach past the last transition, so that Kramers and Kronig can be asked

    Raises
    ------
    BadOutput
        As `check_response` and `check_kramers_kronig`.
    """
    try:
        check_response(calculation.spectra, calculation.gap_ev, n_electrons, volume_bohr3)
        if whole_range:
            check_kramers_kronig(calculation.spectra)
    except BadOutput as error:
        error.wall_s = calculation.wall_s
        replace(calculation, details=calculation.details | {"rejected": str(error)}).save(workdir / REJECTED)
        raise
    return calculation
