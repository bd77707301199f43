"""What a calculation will cost, from the cell alone.

Calibrated on two recorded runs (Si and LiF, 216 k-points, one core): 52 and 8.3 CPU-s for the shifted bands, 33 and 87
(Si, 27 and 51 G-vectors) and 35 and 79 (LiF, 51 and 59) for the response. A campaign corrects the common factor.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
from pymatgen.core import Structure

from fw_tasks.engines.qe_yambo.geometry import BOHR_ANG, even_mesh, field_directions
from fw_tasks.engines.qe_yambo.settings import QEYamboSettings

COST_LOG_SD = 0.7
"""A guess from the scatter of the two runs: nobody has measured it."""
BANDS_S = 5e-6
RESPONSE_S = 2.7e-6
START_S = 5.0
RUNGS_TO_CONVERGE = 4
GROUND_STATE_SHARE = 1.5
"""The convergence of cutoff and mesh and the bands, over the shifted bands: on the symmetry-reduced mesh."""


def estimate_cpu_s(cell: Structure, z_valence: Mapping[str, float], settings: QEYamboSettings, level: str) -> float:
    """CPU seconds of IPA alone (``level`` "ipa") or of both levels ("rpa"), for the primitive cell.

    Parameters
    ----------
    z_valence : element -> valence electrons
    """
    volume = cell.volume / BOHR_ANG**3
    filled = sum(z_valence[site.specie.symbol] for site in cell) / 2.0

    def states(energy_ry: float) -> float:
        return volume * energy_ry**1.5 / (6.0 * math.pi**2)

    n_k = float(np.prod(even_mesh(cell, settings.kppa_response)))
    n_pw = states(settings.ecutwfc_ry)
    empty = states(settings.emax_c_ev / 13.6057) + 2.0
    n_bands = filled + empty
    bands_s = BANDS_S * n_k * n_bands * n_pw * (1.0 + n_bands / 50.0)
    rungs = settings.g_cutoffs_mry
    if settings.converge == "all":
        rungs = rungs[:RUNGS_TO_CONVERGE]
    couplings = [1.0] if level == "ipa" else [max(1.0, states(mry / 1000.0)) for mry in rungs]
    response_s = sum(START_S + RESPONSE_S * n_k * filled * empty * n_g**2 for n_g in couplings)
    return START_S + (1.0 + GROUND_STATE_SHARE) * bands_s + len(field_directions(cell)) * response_s
