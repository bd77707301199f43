"""Physics a response on 0-20 eV must obey. None of it looks at SC, and none integrates what lies above 20 eV.

Kramers-Kronig and the full f-sum are not asked for: only 0-20 eV exists, and its sums rightly differ between levels
(LiF: RPA over IPA 0.83). What must hold is the bound: no more oscillator strength than there are electrons.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from fw_tasks.engines.base import BadOutput
from fw_tasks.engines.checks import check_spectra
from selector.spectra import Spectrum

HARTREE_EV = 27.211386
STRENGTH_SLACK = 1.1
"""Nonlocal pseudopotentials break the f-sum rule by some percent."""
STATIC_SLACK = 1e-3


def check_response(spectra: Mapping[str, Spectrum], gap_ev: float, n_electrons: int, volume_bohr3: float) -> None:
    """Refuse spectra that no insulator with ``n_electrons`` valence electrons in ``volume_bohr3`` can have.

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
        strength_ev2 = 2.0 / np.pi * np.trapezoid(spectrum.energy_ev * spectrum.mean.imag, spectrum.energy_ev)
        if strength_ev2 > STRENGTH_SLACK * plasma_ev2:
            counted = strength_ev2 / plasma_ev2 * n_electrons
            raise BadOutput(f"{level}: absorbs like {counted:.1f} electrons on 0-20 eV; the cell has {n_electrons}")
    if {"ipa", "rpa"} <= spectra.keys():
        ipa, rpa = (spectra[level].eps[:, 0].real for level in ("ipa", "rpa"))
        if (rpa > ipa + STATIC_SLACK * np.abs(ipa)).any():
            raise BadOutput(f"the static limit at RPA ({rpa.max():.3f}) lies above that at IPA ({ipa.max():.3f})")
