"""GPAW as an engine: refusals before any cost, the worker process, and what it leaves behind.

Nothing here imports GPAW; ``gpaw_worker.py`` does, in a process of its own.
"""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shlex
import shutil
import sys
import time
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from ase.units import Bohr
from numpy.typing import NDArray
from pymatgen.core import Structure
from scipy.interpolate import CubicSpline

from fw_tasks.engines import base, gpaw_cost
from fw_tasks.engines.base import BadOutput, Calculation, EngineError, MissingDataset, OutOfMemory, ProgramMissing
from fw_tasks.engines.checks import accept, check_closed_shell
from fw_tasks.engines.gpaw_datasets import VALENCE_ELECTRONS
from fw_tasks.engines.gpaw_settings import resolve_settings
from fw_tasks.engines.worker_process import refuse_full_disk, run_worker, sole_use
from selector.errors import SelectorError, UsageError
from selector.spectra import ENERGY_EV, Spectrum, settings_hash, similarity

LEVELS = ("ipa", "rpa")
WORKER = Path(__file__).with_name("gpaw_worker.py")
# Libraries below Python end the process when an allocation fails; the launcher tells of a killed process.
OUT_OF_MEMORY = re.compile(
    r"Memory allocation still failed|std::bad_alloc|Cannot allocate memory|MemoryError|signal 9 \(Killed\)", re.I
)
LOG, JOB, RESULT, ERROR = "worker.log", "job.json", "result.npz", "error.json"


class GPAWEngine:
    """IPA and RPA spectra by GPAW.

    Parameters
    ----------
    preset : "smoke", "standard" (the shipped labels' settings) or "tight"
    settings : settings to change in the preset; another hash, so another kind of label
    python : interpreter that has GPAW (not a wrapper script); this one if None
    command : how to start it on several cores, e.g. ``mpirun -np 4 {python}``; needs a GPAW built with MPI
    ladder_to_ev : eV, follow SC through the closed shells up to here; the spectra stay those of ``ecut_ev``
    memory_limit_gb : GB that a process may allocate; no limit if None
    worker : the worker script
    max_scf_iterations : the ground state is `NotConverged` after so many
    spin_check : refuse magnetic ground states of cells with open-shell elements (costs a second ground state there)
    """

    name = label_engine = "gpaw"
    cost_log_sd = gpaw_cost.COST_LOG_SD

    def __init__(
        self,
        preset: str | None = None,
        *,
        settings: Mapping[str, Any] | None = None,
        python: str | Path | None = None,
        command: str | None = None,
        ladder_to_ev: float | None = None,
        memory_limit_gb: float | None = None,
        worker: str | Path | None = None,
        max_scf_iterations: int = 150,
        spin_check: bool = True,
    ) -> None:
        self._settings = resolve_settings(preset or "standard", settings)
        self.python = None if python is None else str(python)
        self.command = None if command is None else command_words(command)
        self.ladder_to_ev = positive("ladder_to_ev", ladder_to_ev)
        self.memory_limit_gb = positive("memory_limit_gb", memory_limit_gb)
        self.worker = Path(worker or WORKER)
        self.max_scf_iterations = max_scf_iterations
        self.spin_check = spin_check

    @property
    def settings(self) -> dict[str, Any]:
        return self._settings.record()

    @property
    def settings_hash(self) -> str:
        return settings_hash(self.settings)

    def check(self, structure: Structure) -> None:
        """Refuse before any cost what cannot be computed; the structure's own faults come first.

        Raises
        ------
        UsageError
            Partly occupied sites.
        MissingDataset, OddElectrons, ProgramMissing
        """
        check_datasets(structure)
        check_closed_shell(structure)
        if self.command and not shutil.which(self.command[0]):
            raise ProgramMissing(f"{self.command[0]} is not on PATH: install it, or leave out the option command")
        if self.python is not None and not shutil.which(self.python):
            raise ProgramMissing(f"{self.python} is no program: set the engine's option python to an interpreter")
        if self.python is None and not (importlib.util.find_spec("gpaw") and importlib.util.find_spec("gpaw_data")):
            raise ProgramMissing("GPAW is not installed: pip install 'theory-level-selector[gpaw]'")

    def estimate_cpu_h(self, structure: Structure, level: str = "rpa") -> float:
        """Median CPU-hours of both levels, or of IPA alone (`gpaw_cost`); ``cost_log_sd``: its logarithmic scatter."""
        check_datasets(structure)
        return gpaw_cost.estimate_cpu_s(structure, self.settings, level) / 3600.0

    def compute(
        self, material_id: str, structure: Structure, levels: Sequence[str], workdir: Path, time_limit_s: float | None
    ) -> Calculation:
        """Compute the levels asked for, or raise the `EngineError` that says why not.

        Both levels come from one response function; IPA alone leaves out the coupling. ``workdir`` keeps ``job.json``,
        ``worker.log`` and GPAW's own text output; a result left there by an earlier run is removed and never read.
        """
        if not levels or set(levels) - set(LEVELS):
            raise UsageError(f"{material_id}: levels {list(levels)}: choose from {', '.join(LEVELS)}")
        self.check(structure)
        start = time.monotonic()
        workdir = Path(workdir).resolve()
        with sole_use(workdir):
            job_id = uuid.uuid4().hex
            try:
                for stale in (RESULT, ERROR, f"{RESULT}.part", f"{ERROR}.part"):
                    (workdir / stale).unlink(missing_ok=True)
                (workdir / JOB).write_text(json.dumps(self._job(job_id, material_id, structure, levels)))
                status = run_worker(self._command(), workdir, workdir / LOG, time_limit_s)
                wall_s = time.monotonic() - start
                if status != 0:
                    raise _failure(workdir, job_id, status, wall_s)
                return self._read(workdir, job_id, levels, wall_s)
            except OSError as error:
                raise SelectorError(f"{error.filename or workdir}: {error.strerror}; GPAW cannot run there") from error

    def collect(self, workdir: Path) -> Calculation | None:
        """What the worker finished with these settings, though whoever started it died before reading it; or None."""
        result, job = workdir / RESULT, workdir / JOB
        if not result.exists():
            return None
        asked = json.loads(job.read_text())
        if asked["settings"] != self.settings:
            return None
        wall_s = result.stat().st_mtime - job.stat().st_mtime
        return self._read(workdir, asked["id"], asked["levels"], wall_s)

    def _job(self, job_id: str, material_id: str, structure: Structure, levels: Sequence[str]) -> dict[str, Any]:
        return {
            "id": job_id,
            "parent": None if self.command else os.getpid(),
            "material_id": material_id,
            "cell": structure.lattice.matrix.tolist(),
            "frac": structure.frac_coords.tolist(),
            "numbers": list(structure.atomic_numbers),
            "levels": [level for level in LEVELS if level in levels],
            "settings": self.settings,
            "max_scf_iterations": self.max_scf_iterations,
            "ladder_to_ev": self.ladder_to_ev,
            "memory_limit_gb": self.memory_limit_gb,
            "spin_check": self.spin_check,
        }

    def _command(self) -> list[str]:
        """The worker's command line; a launcher in front ends with this process where the system has ``setpriv``."""
        python = self.python or sys.executable
        if self.command is None:
            return [python, str(self.worker), JOB, RESULT]
        guard = ["setpriv", "--pdeathsig", "TERM", "--"] if shutil.which("setpriv") else []
        words = [word.replace("{python}", python) for word in self.command]
        return [*guard, *words, str(self.worker), JOB, RESULT]

    def _read(self, workdir: Path, job_id: str, levels: Sequence[str], wall_s: float) -> Calculation:
        """The worker's file as a `Calculation`; anything unexpected in it is `BadOutput`."""
        try:
            with np.load(workdir / RESULT, allow_pickle=False) as z:
                meta = json.loads(str(z["meta"]))
                if meta.pop("id") != job_id:
                    raise ValueError("it belongs to another run")
                spectra = {level: Spectrum(z["energy_ev"], z[f"{level}_eps"]) for level in LEVELS if level in levels}
                rpa = "rpa" in levels
                meta["ladder"] = with_sc(meta["ladder"], z["energy_ev"], z["ladder_eps"]) if rpa else []
            done = self._settings.repaired(meta["changed_settings"])
            calculation = Calculation(
                spectra=spectra,
                gap_ev=float(meta.pop("gap_ev")),
                cpu_s=float(meta.pop("cpu_s")),
                wall_s=wall_s,
                engine=self.name,
                version=str(meta["versions"]["gpaw"]),
                settings=done.record(),
                settings_hash=settings_hash(done.record()),
                details=meta,
            )
            electrons, volume_bohr3 = float(meta["electrons"]), float(meta["volume_ang3"]) / Bohr**3
        # A file cut short or garbled can fail in numpy, zipfile, zlib or json, each with errors of its own.
        except Exception as error:
            raise BadOutput(f"{workdir / RESULT}: not a usable result ({error})", wall_s) from error
        return accept(calculation, electrons, volume_bohr3, workdir, whole_range=True)


def with_sc(
    rungs: Sequence[Mapping[str, Any]], energy_ev: NDArray[np.float64], mean_eps: NDArray[np.complexfloating[Any, Any]]
) -> list[dict[str, Any]]:
    """The ladder's rungs with SC[RPA; IPA] at each; ``mean_eps`` (rungs, n), the first of them the IPA."""
    on_grid = CubicSpline(energy_ev, mean_eps.imag, axis=-1)(ENERGY_EV)
    if len(on_grid) != len(rungs):
        raise ValueError(f"{len(on_grid)} spectra for {len(rungs)} cutoffs")
    scs = [round(similarity(rpa, on_grid[0]), 6) for rpa in on_grid]
    return [{"axes": "xyz", **rung, "sc": sc} for rung, sc in zip(rungs, scs, strict=True)]


def command_words(command: str) -> list[str]:
    """The command line's words; `UsageError` where it is none, or says nowhere what to start."""
    try:
        words = shlex.split(command)
    except ValueError as error:
        raise UsageError(f"gpaw option command: {command!r} is no command line ({error})") from error
    if not any("{python}" in word for word in words):
        raise UsageError(f"gpaw option command: {command!r} lacks {{python}}; write e.g. 'mpirun -np 4 {{python}}'")
    return words


def positive(name: str, value: float | None) -> float | None:
    if value is not None and not value > 0.0:
        raise UsageError(f"gpaw option {name}: {value:g} is not above 0")
    return value


def check_datasets(structure: Structure) -> None:
    """Refuse elements without a PBE dataset in gpaw-data (`MissingDataset`)."""
    missing = sorted({e.symbol for e in structure.composition.element_composition} - VALENCE_ELECTRONS.keys())
    if missing:
        formula = structure.composition.reduced_formula
        raise MissingDataset(f"{formula}: GPAW has no PBE dataset for {', '.join(missing)}")


def _failure(workdir: Path, job_id: str, status: int, wall_s: float) -> EngineError:
    """The error the worker wrote down; without one of this run, its last words.

    Raises
    ------
    SelectorError
        The disk is full, which says nothing of the material.
    """
    said = (workdir / LOG).read_text(errors="replace")
    refuse_full_disk(workdir, said, status)
    try:
        record = json.loads((workdir / ERROR).read_text())
        if record["id"] == job_id:
            cls = getattr(base, record["error"])
            if issubclass(cls, EngineError):
                return cls(str(record["message"]), wall_s)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        # No record, or a garbled one: what the log says is all there is.
        pass
    lines = said.split("\n")
    last = next((line.strip() for line in reversed(lines) if line.strip()), "no output")
    if OUT_OF_MEMORY.search(said):
        return OutOfMemory(f"the worker ran out of memory: {last[:200]}; see {workdir / LOG}", wall_s)
    return BadOutput(f"the worker ended with status {status}: {last[:200]}; see {workdir / LOG}", wall_s)
