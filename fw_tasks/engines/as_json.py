"""One calculation as a plain JSON document, as ``selector compute`` writes it."""

from __future__ import annotations

from typing import Any

import numpy as np

from fw_tasks.engines.base import Calculation
from selector.optics import optics
from selector.spectra import ENERGY_EV


def calculation_to_json(material_id: str, formula: str, calculation: Calculation) -> dict[str, Any]:
    """Keys and units of the document.

    ``sc`` (null without both levels), ``eps_static`` {level: Re eps at 0 eV}, ``gap_ev``, ``n_g``, ``cpu_s``,
    ``wall_s``, ``engine``, ``version``, ``settings``, ``settings_hash``. ``ladder`` has SC[RPA; IPA] at every cutoff of
    the coupling G-vectors that was looked at: ``cutoff_ev``, ``n_g``, ``sc``, and ``axes``, the field directions whose
    mean it is (empty for replayed labels). ``repairs`` says what was changed before the calculation came to its end.
    ``spectra`` holds ``energy_ev`` and ``<level>_im``, ``<level>_re``, 2001 numbers each, traces / 3 on 0-20 eV;
    ``directions`` the same with the field along x, y, z, 3 x 2001; ``optics`` what follows from the traces / 3
    (`selector.optics.Optics`), 2001 numbers each: ``<level>_n``, ``<level>_k``, ``<level>_absorption_per_cm``,
    ``<level>_reflectivity``, ``<level>_loss``.
    """
    found = {level: spectrum.on_grid(ENERGY_EV) for level, spectrum in calculation.spectra.items()}
    means = {level: spectrum.mean for level, spectrum in found.items()}
    spectra: dict[str, list[float]] = {"energy_ev": ENERGY_EV.tolist()}
    directions: dict[str, list[list[float]]] = {}
    properties: dict[str, list[float | None]] = {}
    for level, spectrum in found.items():
        spectra |= {f"{level}_im": means[level].imag.tolist(), f"{level}_re": means[level].real.tolist()}
        directions |= {f"{level}_im": spectrum.eps.imag.tolist(), f"{level}_re": spectrum.eps.real.tolist()}
        of_mean = optics(ENERGY_EV, means[level]).items()
        properties |= {f"{level}_{k}": [x if np.isfinite(x) else None for x in v.tolist()] for k, v in of_mean}
    return {
        "material_id": material_id,
        "formula": formula,
        "sc": calculation.sc if {"ipa", "rpa"} <= means.keys() else None,
        "eps_static": {level: float(eps[0].real) for level, eps in means.items()},
        "gap_ev": calculation.gap_ev,
        "n_g": calculation.details.get("n_g"),
        "cpu_s": calculation.cpu_s,
        "wall_s": calculation.wall_s,
        "engine": calculation.engine,
        "version": calculation.version,
        "settings": calculation.settings,
        "settings_hash": calculation.settings_hash,
        "ladder": calculation.details.get("ladder", []),
        "repairs": calculation.details.get("repairs", []),
        "spectra": spectra,
        "directions": directions,
        "optics": properties,
    }
