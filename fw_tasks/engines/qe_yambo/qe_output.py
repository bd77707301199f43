"""Reads what pw.x printed, and believes nothing else: its exit status says 0 or 2 where it should not."""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fw_tasks.engines.base import (
    BadOutput,
    EngineError,
    MissingDataset,
    NotConverged,
    OddElectrons,
    TimedOut,
)
from fw_tasks.engines.qe_yambo.qe_input import PwJob

NUMBER = r"([-+]?\d+(?:\.\d*)?(?:[EeDd][-+]?\d+)?)"
EIGENVALUE_WIDTH = 9


class TooFewBands(BadOutput):
    """Fewer bands than there are electrons for, or than the response needs."""


@dataclass(frozen=True)
class PwResult:
    """What one run of pw.x found.

    Attributes
    ----------
    version : pw.x's version
    n_electrons : valence electrons in the cell
    n_k : k-points
    total_energy_ry : Ry, of a self-consistent run, else None
    eigenvalues_ev : (n_k, n_bands) array, eV, or None where pw.x did not print them; of one spin
    edges_ev : eV, highest occupied and lowest unoccupied level with fixed occupations, else None
    moment_mub : Bohr magnetons, absolute moments in the cell of a spin-polarised run, else None
    """

    version: str
    n_electrons: float
    n_k: int
    total_energy_ry: float | None
    eigenvalues_ev: NDArray[np.float64] | None
    edges_ev: tuple[float, float] | None
    moment_mub: float | None = None


def read_pw(text: str, job: PwJob) -> PwResult:
    """Read the standard output of pw.x.

    Raises
    ------
    NotConverged, TimedOut, TooFewBands, OddElectrons, MissingDataset, BadOutput
        What pw.x said, or output that is cut short or is not what ``job`` asked for.
    """
    _refuse_failures(text)
    n_electrons = _number(text, "number of electrons")
    if round(n_electrons) % 2:
        raise OddElectrons(f"{n_electrons:g} valence electrons in the cell, an odd number")
    asked = {"number of Kohn-Sham states": job.n_bands, "kinetic-energy cutoff": job.ecutwfc_ry}
    for name, value in asked.items():
        found = _number(text, name)
        if abs(found - value) > 1e-6:
            raise BadOutput(f"pw.x ran with {name} = {found:g}, not {value:g}: the output belongs to another run")
    version = re.search(r"Program PWSCF v\.?(\S+)", text)
    if version is None:
        raise BadOutput("the output names no version of pw.x")
    n_k = round(_number(text, "number of k points"))
    # To a list of points pw.x adds what the lattice's symmetry stands for where the crystal's own is lower.
    if n_k == 0 or (job.n_k is not None and n_k % job.n_k):
        raise BadOutput(f"pw.x ran with {n_k} k-points, not a multiple of {job.n_k}: the output belongs to another run")
    return PwResult(
        version=version[1],
        n_electrons=n_electrons,
        n_k=n_k,
        total_energy_ry=_total_energy(text) if job.calculation == "scf" else None,
        eigenvalues_ev=_eigenvalues(text, n_k, job),
        edges_ev=_edges(text) if job.calculation == "nscf" else None,
        moment_mub=_last_number(text, "absolute magnetization") if job.moments_on else None,
    )


def _refuse_failures(text: str) -> None:
    """Raise what pw.x itself reports; JOB DONE also ends runs that did not converge or were stopped."""
    error = re.search(r"Error in routine\s+(\S+) \(.*?\):\s*\n\s*(.*?)\s*\n", text)
    if error is not None:
        raise _named(error[1], error[2])
    if "Maximum CPU time exceeded" in text:
        raise TimedOut("pw.x stopped itself at its time limit")
    if "convergence NOT achieved" in text:
        after = re.search(r"convergence NOT achieved after\s+(\d+)", text)
        raise NotConverged(f"the self-consistent field did not converge in {after[1] if after else '?'} iterations")
    if "JOB DONE" not in text:
        last = next((line.strip() for line in reversed(text.splitlines()) if line.strip()), "no output")
        raise BadOutput(f"pw.x did not finish: {last[:160]}")


def _named(routine: str, message: str) -> EngineError:
    said = f"pw.x: {routine}: {message}"
    if routine == "readpp":
        return MissingDataset(said)
    if "too few bands" in message:
        return TooFewBands(said)
    if "charge is wrong" in message:
        return OddElectrons(f"{said}: no closed shell")
    if "not converged" in message or "failed to converge" in message or "not positive definite" in message:
        return NotConverged(said)
    return BadOutput(said)


def _number(text: str, name: str) -> float:
    """The number behind ``name =``; its name stands in every run's header."""
    found = re.search(rf"{re.escape(name)}\s*=\s*{NUMBER}", text)
    if found is None:
        raise BadOutput(f"the output of pw.x lacks {name!r}")
    return float(found[1])


def _last_number(text: str, name: str) -> float:
    found = re.findall(rf"{re.escape(name)}\s*=\s*{NUMBER}", text)
    if not found:
        raise BadOutput(f"the output of pw.x lacks {name!r}")
    return float(found[-1])


def _total_energy(text: str) -> float:
    energies = re.findall(rf"^!\s+total energy\s*=\s*{NUMBER} Ry", text, re.MULTILINE)
    if len(energies) != 1 or "convergence has been achieved" not in text:
        raise BadOutput(f"pw.x printed {len(energies)} final total energies, not one")
    return float(energies[0])


def _edges(text: str) -> tuple[float, float]:
    if "End of band structure calculation" not in text:
        raise BadOutput("pw.x did not end its band structure")
    found = re.search(rf"highest occupied, lowest unoccupied level \(ev\):\s*{NUMBER}\s*{NUMBER}", text)
    if found is None:
        raise BadOutput("pw.x printed no highest occupied and lowest unoccupied level")
    return float(found[1]), float(found[2])


def _eigenvalues(text: str, n_k: int, job: PwJob) -> NDArray[np.float64] | None:
    """Levels in columns nine characters wide, which may touch; None where pw.x prints none."""
    if job.moments_on or "set verbosity='high' to print the bands" in text:
        return None
    start = text.rfind("End of ")
    blocks = re.findall(r"bands \(ev\):\n\n(.*?)\n\n", text[start:], re.DOTALL)
    try:
        levels = np.array([_columns(block) for block in blocks])
    except ValueError as error:
        raise BadOutput(f"the bands pw.x printed cannot be read ({error})") from error
    if levels.shape != (n_k, job.n_bands) or not np.isfinite(levels).all():
        raise BadOutput(f"pw.x printed bands of shape {levels.shape}, not {(n_k, job.n_bands)}")
    return levels


def _columns(block: str) -> list[float]:
    lines = [line[2:].rstrip() for line in block.splitlines()]
    return [float(line[i : i + EIGENVALUE_WIDTH]) for line in lines for i in range(0, len(line), EIGENVALUE_WIDTH)]
