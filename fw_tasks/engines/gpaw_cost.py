"""What a GPAW calculation will cost, from the structure and the settings alone.

    CPU seconds = START_CPU_S + exp(c) * (n_pw * n_bands**2)**a * n_k**b

n_pw plane waves, n_bands bands and n_k k-points after symmetry follow from the primitive cell as in the worker;
n_pw * n_bands**2 is what diagonalisation and the response sum both grow with. c, a and b are a log-linear least-squares
fit to the CPU seconds of the shipped labels: ``benchmarks/engine_cost.py`` repeats it and prints these constants.

IPA alone needs the same ground state and bands, and a response without the coupling of G-vectors. The share of the
former in the CPU seconds of both levels is the median over the shipped labels, which tell the time of each stage (0.74
to 0.85 in four of five; it doesn't change with size). The response at G = 0 alone was timed against the full one for
three of their crystals, 30 to 56 bands (0.71, 0.73, 0.81): HEAD_SHARE is the median. So IPA alone saves a twentieth.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import spglib
from ase import Atoms
from pymatgen.core import Structure

from fw_tasks.engines.checks import SYMPREC_ANG, primitive_cell
from fw_tasks.engines.gpaw_datasets import VALENCE_ELECTRONS
from fw_tasks.engines.gpaw_worker import basis_size, k_mesh

CONSTANT, BASIS_EXPONENT, K_EXPONENT = -11.214, 0.826, 0.837
# Starting Python and importing GPAW; the labels' CPU seconds begin after that.
START_CPU_S = 1.0
# Standard deviation of log(measured / estimated) over the shipped labels, many of a busy machine; 0.21 on a quiet one.
COST_LOG_SD = 0.37
# Shares of CPU seconds: ground state and bands in both levels together, and the uncoupled response in the coupled one.
GROUND_STATE_SHARE, HEAD_SHARE = 0.80, 0.73
IPA_SHARE = GROUND_STATE_SHARE + (1.0 - GROUND_STATE_SHARE) * HEAD_SHARE


def log_features(structure: Structure, settings: Mapping[str, Any]) -> tuple[float, float]:
    """(log(n_pw * n_bands**2), log(n_k)) of the calculation with these settings."""
    cell = primitive_cell(structure)
    atoms = Atoms(cell.atomic_numbers, cell=cell.lattice.matrix, scaled_positions=cell.frac_coords, pbc=True)
    n_occupied = sum(VALENCE_ELECTRONS[site.specie.symbol] for site in cell) // 2
    n_pw, n_bands = basis_size(cell.volume, n_occupied, dict(settings))
    mesh = k_mesh(atoms, settings["kppa_response"])
    spglib_cell: Any = (cell.lattice.matrix, cell.frac_coords, cell.atomic_numbers)
    mapping, _ = spglib.get_ir_reciprocal_mesh(mesh, spglib_cell, is_shift=[1, 1, 1], symprec=SYMPREC_ANG)
    return math.log(n_pw * n_bands**2), math.log(len(set(mapping.tolist())))


def estimate_cpu_s(structure: Structure, settings: Mapping[str, Any], level: str = "rpa") -> float:
    """Median CPU seconds of IPA and RPA together, or of "ipa" alone; scatter ``COST_LOG_SD`` in the logarithm."""
    basis, k_points = log_features(structure, settings)
    share = IPA_SHARE if level == "ipa" else 1.0
    return START_CPU_S + share * math.exp(CONSTANT + BASIS_EXPONENT * basis + K_EXPONENT * k_points)
