"""Reads what p2y and yambo left. Their exit status is 0 after most failures, so every file is held to the job."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fw_tasks.engines.base import BadOutput, Metallic
from fw_tasks.engines.qe_yambo.yambo_input import YamboJob
from selector.spectra import ENERGY_EV

DATABASE = "SAVE/ns.db1"
COLUMNS = 5
CUTOFF_SLACK_MRY = 1.0


@dataclass(frozen=True)
class Setup:
    """yambo's own view of the ground state: filled bands, gaps on the shifted mesh (eV), version."""

    filled_bands: int
    direct_gap_ev: float
    indirect_gap_ev: float
    version: str


@dataclass(frozen=True)
class Response:
    """One response function on the 0-20 eV grid.

    Attributes
    ----------
    rpa, ipa : (2001,) complex arrays, the dielectric function with and without coupling G-vectors
    n_g : G-vectors in the response
    cutoff_mry : mRy, yambo's own cutoff after rounding up to a closed shell; 0 where none couples
    version : yambo's version
    """

    rpa: NDArray[np.complex128]
    ipa: NDArray[np.complex128]
    n_g: int
    cutoff_mry: float
    version: str


def read_database(folder: Path) -> None:
    """Make sure that p2y has finished in ``folder``.

    Raises
    ------
    BadOutput
        An error in its log, no end in it, or no database.
    """
    if not (folder / DATABASE).is_file() or (folder / DATABASE).stat().st_size == 0:
        raise BadOutput(f"p2y left no {DATABASE} (wrong folder, or symmetries with fractional translations)")
    if "P2Y completed" not in _log(folder, "l_p2y"):
        raise BadOutput("p2y did not finish")


def read_setup(folder: Path) -> Setup:
    """Read yambo's setup report, ``r_setup``.

    Raises
    ------
    Metallic
        It names metallic bands.
    BadOutput
        An error in its log, no report, or no gap in it.
    """
    _log(folder, "l_setup")
    report = _text(folder / "r_setup")
    if "Metallic Bands" in report:
        bands = re.search(r"Metallic Bands\s*:\s*(.*)", report)
        raise Metallic(f"yambo finds metallic bands ({' to '.join(bands[1].split()) if bands else '?'})")
    found = {
        name: re.search(rf"\[X\] {name}\s*:\s*([-\d.]+)", report)
        for name in ("Filled Bands", "Direct Gap", "Indirect Gap")
    }
    missing = [name for name, match in found.items() if match is None]
    if missing:
        raise BadOutput(f"yambo's setup report lacks {missing[0]!r}")
    filled, direct, indirect = (float(match[1]) for match in found.values() if match is not None)
    return Setup(round(filled), direct, indirect, _version(report))


def read_response(folder: Path, job: YamboJob) -> Response:
    """Read the response function that ``job`` left in ``folder``.

    Columns 4 and 5 of its file are the dielectric function without coupling, whatever the cutoff.

    Raises
    ------
    BadOutput
        An error in the log; no file, an empty one or two; cut short; not what the job asked for; not finite.
    """
    _log(folder, f"l-{job.name}_optics_chi")
    files = sorted(folder.glob(f"o-{job.name}.eps_q1_inv_rpa_dyson*"))
    if len(files) != 1:
        names = ", ".join(path.name for path in files) or "none"
        raise BadOutput(f"yambo left {len(files)} response functions of {job.name} ({names}), not one")
    text = _text(files[0])
    header, footer = _comments(text)
    _hold_to(job, header, footer)
    energy, rpa, ipa = _rows(text)
    if len(energy) != len(ENERGY_EV) or not np.allclose(energy, ENERGY_EV, atol=1e-4):
        raise BadOutput(f"yambo's file has {len(energy)} energies, not {len(ENERGY_EV)} on 0-20 eV")
    n_g = re.search(r"Hartree size\s*:\s*(\d+)", header)
    if n_g is None:
        raise BadOutput("yambo's file does not say how many G-vectors couple")
    if (int(n_g[1]) == 1) != (job.cutoff_mry == 0):
        raise BadOutput(f"yambo coupled {n_g[1]} G-vectors at {job.cutoff_mry} mRy")
    return Response(rpa, ipa, int(n_g[1]), _cutoff(footer), _version(header))


def _text(path: Path) -> str:
    """A file that has something in it; a killed run leaves an empty one."""
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        raise BadOutput(f"yambo left no {path.name}") from error
    if not text.strip():
        raise BadOutput(f"{path.name} is empty: the run was killed, or could not write")
    return text


def _log(folder: Path, name: str) -> str:
    """The log, or those of all processes; its errors are raised. Good reports have ``*ERR*`` in them, good logs not."""
    paths = {*folder.glob(name), *folder.glob(f"{name}_CPU_*"), *folder.glob(f"LOG/{name}*")}
    text = "\n".join(path.read_text(encoding="utf-8", errors="replace") for path in sorted(paths))
    error = re.search(r"\[ERROR\]\s*(.*)", text)
    if error is not None:
        raise BadOutput(f"{name}: {error[1][:160] or 'an error without a message'}")
    if not paths:
        raise BadOutput(f"yambo left no log {name}: it did not run what was asked")
    return text


def _version(text: str) -> str:
    found = re.search(r"Version (\d+\.\d+\.\d+)", text)
    if found is None:
        raise BadOutput("the file names no version of yambo")
    return found[1]


def _comments(text: str) -> tuple[str, str]:
    """Comment lines above and below the rows, without the ``#``."""
    lines = text.splitlines()
    rows = [i for i, line in enumerate(lines) if line.strip() and not line.lstrip().startswith("#")]
    if not rows:
        raise BadOutput("yambo's file has no rows")
    header = [line.lstrip("# ") for line in lines[: rows[0]]]
    footer = [line.lstrip("# ") for line in lines[rows[-1] + 1 :]]
    return "\n".join(header), "\n".join(footer)


def _rows(text: str) -> tuple[NDArray[np.float64], NDArray[np.complex128], NDArray[np.complex128]]:
    rows = [line.split() for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    try:
        table = np.array(rows, dtype=np.float64)
    except ValueError as error:
        raise BadOutput(f"yambo's file has rows that cannot be read ({error})") from error
    if table.ndim != 2 or table.shape[1] != COLUMNS or not np.isfinite(table).all():
        raise BadOutput(f"yambo's file is not {COLUMNS} columns of finite numbers")
    energy, im, re_, im_o, re_o = table.T
    return energy, re_ + 1j * im, re_o + 1j * im_o


def _hold_to(job: YamboJob, header: str, footer: str) -> None:
    """The file must say that it is whole, and that it is what was asked for."""
    if "[end]" not in footer:
        raise BadOutput("yambo's file has no footer: the run was cut short")
    said = re.search(r"Absorption @ Q\(1\):\s*(\S+)\s+(\S+)\s+(\S+)", header)
    if said is None or not np.allclose([float(x) for x in said.groups()], job.direction, atol=1e-6):
        raise BadOutput(f"yambo's field direction is {said.groups() if said else 'missing'}, not {job.direction}")
    asked = {
        "BndsRnXd": (1, job.n_bands),
        "EnRngeXd": (ENERGY_EV[0], ENERGY_EV[-1]),
        "DmRngeXd": (job.eta_ev, job.eta_ev),
    }
    for name, values in asked.items():
        found = re.search(rf"% {name}\s*\n\|\s*(\S+)\s*\|\s*(\S+)\s*\|", footer)
        if found is None or not np.allclose([float(x) for x in found.groups()], values, rtol=1e-5):
            got = " to ".join(found.groups()) if found else "missing"
            raise BadOutput(f"yambo ran with {name} {got}, not {values[0]:g} to {values[1]:g}")
    if not re.search(r'Chimod= "HARTREE"', footer):
        raise BadOutput("yambo did not compute the Hartree response")
    if job.cutoff_mry and _cutoff(footer) < job.cutoff_mry - CUTOFF_SLACK_MRY:
        raise BadOutput(f"yambo's cutoff is {_cutoff(footer):g} mRy, below {job.cutoff_mry}")


def _cutoff(footer: str) -> float:
    found = re.search(r"NGsBlkXd=\s*([\d.]+)\s*(\S+)", footer)
    if found is None:
        raise BadOutput("yambo's footer lacks NGsBlkXd")
    scale = {"mRy": 1.0, "Ry": 1000.0, "mHa": 2.0, "Ha": 2000.0, "RL": 0.0}.get(found[2])
    if scale is None:
        raise BadOutput(f"yambo's cutoff has the unknown unit {found[2]!r}")
    return float(found[1]) * scale
