"""Input files of pw.x: the self-consistent field, the bands on its mesh, the bands on the shifted mesh."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pymatgen.core import Element, Structure

from fw_tasks.engines.qe_yambo.pseudopotentials import Pseudopotential

PREFIX = "crystal"
OUT = "out"
SAVE = f"{OUT}/{PREFIX}.save"
PSEUDO = "pseudo"
FIRST_THRESHOLD_RY = 5e-6
HIGH_SPIN_MUB = 5.0


@dataclass(frozen=True)
class PwJob:
    """One run of pw.x.

    Attributes
    ----------
    calculation : "scf", or "nscf" from the charge density of one
    ecutwfc_ry : Ry, plane-wave cutoff
    n_bands : bands
    k : Gamma-centred subdivisions, or (n, 3) points in crystal coordinates
    conv_thr_ry, smearing_ry : Ry; smearing for "scf" only, occupations are fixed elsewhere
    symmorphic : leave out operations with fractional translations, which p2y cannot read
    mixing_beta, solver : numerics, for repairs; converged results do not depend on them
    moments_on : elements that start with parallel moments in a spin-polarised run; none for a closed shell
    """

    calculation: Literal["scf", "nscf"]
    ecutwfc_ry: int
    n_bands: int
    k: tuple[int, int, int] | NDArray[np.float64]
    conv_thr_ry: float
    smearing_ry: float
    symmorphic: bool = False
    mixing_beta: float = 0.7
    solver: Literal["david", "cg"] = "david"
    moments_on: tuple[str, ...] = ()

    @property
    def n_k(self) -> int | None:
        """How many k-points pw.x is given; None where it reduces the mesh itself."""
        return None if isinstance(self.k, tuple) else len(self.k)


def pw_input(
    cell: Structure,
    pseudopotentials: Mapping[str, Pseudopotential],
    job: PwJob,
    *,
    max_seconds: float | None = None,
    restart: bool = False,
) -> str:
    """The input file; files are named relative to the folder of the run.

    Parameters
    ----------
    max_seconds : wall seconds after which pw.x stops itself and leaves what a restart needs
    restart : go on from the files of a run that stopped itself
    """
    scf = job.calculation == "scf"
    control: dict[str, object] = {
        "calculation": job.calculation,
        "restart_mode": "restart" if restart else "from_scratch",
        "prefix": PREFIX,
        "outdir": f"{OUT}/",
        "pseudo_dir": f"{PSEUDO}/",
        "disk_io": "medium",
        "verbosity": "high",
    }
    if max_seconds is not None:
        control["max_seconds"] = round(max_seconds, 1)
    system: dict[str, object] = {
        "ibrav": 0,
        "nat": len(cell),
        "ntyp": len(pseudopotentials),
        "ecutwfc": float(job.ecutwfc_ry),
        "nbnd": job.n_bands,
        "force_symmorphic": job.symmorphic,
    }
    if scf:
        system |= {"occupations": "smearing", "smearing": "gaussian", "degauss": job.smearing_ry}
    else:
        system |= {"occupations": "fixed"}
    if job.moments_on:
        system |= {"nspin": 2}
        for i, (element, p) in enumerate(sorted(pseudopotentials.items()), start=1):
            if element in job.moments_on:
                # As a share of the valence electrons, semicore included.
                system[f"starting_magnetization({i})"] = round(min(1.0, HIGH_SPIN_MUB / p.z_valence), 4)
    electrons: dict[str, object] = {
        "conv_thr": job.conv_thr_ry,
        "mixing_beta": job.mixing_beta,
        "diagonalization": job.solver,
        "diago_full_acc": True,
        "diago_thr_init": FIRST_THRESHOLD_RY,
    }
    if job.solver == "cg":
        electrons |= {"diago_cg_maxiter": 100}
    lines = [*_namelist("CONTROL", control), *_namelist("SYSTEM", system), *_namelist("ELECTRONS", electrons)]
    lines += ["ATOMIC_SPECIES"]
    lines += [f"  {e} {Element(e).atomic_mass:.5f} {p.path.name}" for e, p in sorted(pseudopotentials.items())]
    lines += ["CELL_PARAMETERS angstrom"]
    lines += ["  " + " ".join(f"{x:.14f}" for x in vector) for vector in cell.lattice.matrix]
    lines += ["ATOMIC_POSITIONS crystal"]
    lines += [f"  {site.specie.symbol} " + " ".join(f"{x:.14f}" for x in site.frac_coords) for site in cell]
    if isinstance(job.k, tuple):
        lines += ["K_POINTS automatic", "  " + " ".join(map(str, job.k)) + " 0 0 0"]
    else:
        lines += ["K_POINTS crystal", str(len(job.k)), *("{:.10f} {:.10f} {:.10f} 1.0".format(*k) for k in job.k)]
    return "\n".join(lines) + "\n"


def _namelist(name: str, values: Mapping[str, object]) -> list[str]:
    return [f"&{name}", *(f"  {key} = {_fortran(value)}," for key, value in values.items()), "/"]


def _fortran(value: object) -> str:
    if isinstance(value, bool):
        return ".true." if value else ".false."
    return f"'{value}'" if isinstance(value, str) else repr(value)
