"""GPAW as an engine: settings and presets, refusals before any cost, and the worker process.

Nothing here imports GPAW; ``gpaw_worker.py`` does, in a process of its own.
"""

from __future__ import annotations

import importlib.util
import json
import os
import sys
import time
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pymatgen.core import Structure

from fw_tasks.engines import base, gpaw_cost
from fw_tasks.engines.base import BadOutput, Calculation, EngineError, MissingDataset, ProgramMissing
from fw_tasks.engines.checks import check_closed_shell, check_spectra
from fw_tasks.engines.gpaw_datasets import VALENCE_ELECTRONS
from fw_tasks.engines.worker_process import run_worker, sole_use
from selector.errors import SelectorError, UsageError
from selector.spectra import Spectrum, settings_hash

LEVELS = ("ipa", "rpa")
WORKER = Path(__file__).with_name("gpaw_worker.py")
LOG, JOB, RESULT, ERROR = "worker.log", "job.json", "result.npz", "error.json"


class GPAWSettings(BaseModel):
    """What decides the spectra. Energies in eV; the hash of these fields without ``name`` tells labels apart.

    Attributes
    ----------
    name : the preset's name and version
    xc : exchange-correlation functional
    pw_ev : plane-wave cutoff of the wave functions
    kppa_scf, kppa_response : k-points times atoms, Gamma-centred ground state and off-Gamma response
    emax_c_ev : bands up to about this energy above the valence top
    ecut_ev : cutoff of the G-vectors that couple in RPA
    closed_shell : round ``ecut_ev`` up to a closed shell of G-vectors
    eta_ev : broadening
    domega0_ev : spacing of the frequency grid at 0
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    name: str
    xc: Literal["PBE"] = "PBE"
    pw_ev: float = Field(ge=100.0, le=2000.0)
    kppa_scf: int = Field(ge=1)
    kppa_response: int = Field(ge=1)
    emax_c_ev: float = Field(gt=0.0)
    ecut_ev: float = Field(default=54.4, gt=0.0)
    closed_shell: bool = True
    eta_ev: float = Field(default=0.3, gt=0.0)
    domega0_ev: float = Field(default=0.1, gt=0.0)


PRESETS: dict[str, GPAWSettings] = {
    "smoke": GPAWSettings(name="smoke-1", pw_ev=300.0, kppa_scf=60, kppa_response=100, emax_c_ev=25.0),
    "standard": GPAWSettings(name="standard-1", pw_ev=350.0, kppa_scf=100, kppa_response=300, emax_c_ev=35.0),
    "tight": GPAWSettings(name="tight-1", pw_ev=450.0, kppa_scf=200, kppa_response=1500, emax_c_ev=60.0),
}


def resolve_settings(preset: str, changes: Mapping[str, Any] | None = None) -> GPAWSettings:
    """A preset's settings, some of them changed.

    Raises
    ------
    UsageError
        Unknown preset, unknown key, or a value out of range.
    """
    if preset not in PRESETS:
        raise UsageError(f"gpaw has no preset {preset!r}: choose one of {', '.join(PRESETS)}")
    if not changes:
        return PRESETS[preset]
    try:
        return GPAWSettings(**PRESETS[preset].model_dump() | {"name": f"{preset}-changed"} | dict(changes))
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        known = ", ".join(GPAWSettings.model_fields)
        raise UsageError(f"gpaw settings: {key}: {first['msg']} (settings are {known})") from error


class GPAWEngine:
    """IPA and RPA spectra by GPAW.

    Parameters
    ----------
    preset : "smoke", "standard" (the shipped labels' settings) or "tight"
    settings : settings to change in the preset; another hash, so another kind of label
    python : interpreter that has GPAW (not a wrapper script); this one if None
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
        worker: str | Path | None = None,
        max_scf_iterations: int = 150,
        spin_check: bool = True,
    ) -> None:
        self._settings = resolve_settings(preset or "standard", settings)
        self.python = None if python is None else str(python)
        self.worker = Path(worker or WORKER)
        self.max_scf_iterations = max_scf_iterations
        self.spin_check = spin_check

    @property
    def settings(self) -> dict[str, Any]:
        return self._settings.model_dump()

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
                command = [self.python or sys.executable, str(self.worker), JOB, RESULT]
                status = run_worker(command, workdir, workdir / LOG, time_limit_s)
            except OSError as error:
                raise SelectorError(f"{error.filename or workdir}: {error.strerror}; GPAW cannot run there") from error
            wall_s = time.monotonic() - start
            if status != 0:
                raise _failure(workdir, job_id, status, wall_s)
            return self._read(workdir, job_id, levels, wall_s)

    def collect(self, workdir: Path) -> Calculation | None:
        """What the worker finished in ``workdir`` though the process that had started it died before reading it."""
        result, job = workdir / RESULT, workdir / JOB
        if not result.exists():
            return None
        asked = json.loads(job.read_text())
        wall_s = result.stat().st_mtime - job.stat().st_mtime
        return self._read(workdir, asked["id"], asked["levels"], wall_s)

    def _job(self, job_id: str, material_id: str, structure: Structure, levels: Sequence[str]) -> dict[str, Any]:
        return {
            "id": job_id,
            "parent": os.getpid(),
            "material_id": material_id,
            "cell": structure.lattice.matrix.tolist(),
            "frac": structure.frac_coords.tolist(),
            "numbers": list(structure.atomic_numbers),
            "levels": [level for level in LEVELS if level in levels],
            "settings": self.settings,
            "max_scf_iterations": self.max_scf_iterations,
            "spin_check": self.spin_check,
        }

    def _read(self, workdir: Path, job_id: str, levels: Sequence[str], wall_s: float) -> Calculation:
        """The worker's file as a `Calculation`; anything unexpected in it is `BadOutput`."""
        try:
            with np.load(workdir / RESULT, allow_pickle=False) as z:
                meta = json.loads(str(z["meta"]))
                if meta.pop("id") != job_id:
                    raise ValueError("it belongs to another run")
                spectra = {level: Spectrum(z["energy_ev"], z[f"{level}_eps"]) for level in LEVELS if level in levels}
            calculation = Calculation(
                spectra=spectra,
                gap_ev=float(meta.pop("gap_ev")),
                cpu_s=float(meta.pop("cpu_s")),
                wall_s=wall_s,
                engine=self.name,
                version=str(meta["versions"]["gpaw"]),
                settings=self.settings,
                settings_hash=self.settings_hash,
                details=meta,
            )
        # A file cut short or garbled can fail in numpy, zipfile, zlib or json, each with errors of its own.
        except Exception as error:
            raise BadOutput(f"{workdir / RESULT}: not a usable result ({error})", wall_s) from error
        try:
            check_spectra(spectra)
        except BadOutput as error:
            error.wall_s = wall_s
            raise
        return calculation


def check_datasets(structure: Structure) -> None:
    """Refuse elements without a PBE dataset in gpaw-data (`MissingDataset`)."""
    missing = sorted({e.symbol for e in structure.composition.element_composition} - VALENCE_ELECTRONS.keys())
    if missing:
        formula = structure.composition.reduced_formula
        raise MissingDataset(f"{formula}: GPAW has no PBE dataset for {', '.join(missing)}")


def _failure(workdir: Path, job_id: str, status: int, wall_s: float) -> EngineError:
    """The error the worker wrote down; without one of this run, its last words."""
    try:
        record = json.loads((workdir / ERROR).read_text())
        if record["id"] == job_id:
            cls = getattr(base, record["error"])
            if issubclass(cls, EngineError):
                return cls(str(record["message"]), wall_s)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        # No record, or a garbled one: what the log says is all there is.
        pass
    lines = (workdir / LOG).read_text(errors="replace").split("\n")
    last = next((line.strip() for line in reversed(lines) if line.strip()), "no output")
    return BadOutput(f"the worker ended with status {status}: {last[:200]}; see {workdir / LOG}", wall_s)
