"""The engine: Quantum ESPRESSO + Yambo behind the protocol of `fw_tasks.engines.base`."""

from __future__ import annotations

import hashlib
import json
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from pymatgen.core import Structure

from fw_tasks.engines.base import BadOutput, Calculation, EngineError
from fw_tasks.engines.checks import accept, check_closed_shell, primitive_cell
from fw_tasks.engines.qe_yambo.commands import Programs
from fw_tasks.engines.qe_yambo.cost import COST_LOG_SD, estimate_cpu_s
from fw_tasks.engines.qe_yambo.geometry import BOHR_ANG, field_directions
from fw_tasks.engines.qe_yambo.ground_state import GroundStates
from fw_tasks.engines.qe_yambo.ladder import Rung
from fw_tasks.engines.qe_yambo.pseudopotentials import Pseudopotential, find_pseudopotentials
from fw_tasks.engines.qe_yambo.pw_run import PwRuns
from fw_tasks.engines.qe_yambo.qe_input import OUT
from fw_tasks.engines.qe_yambo.response import Responses
from fw_tasks.engines.qe_yambo.settings import resolve_settings
from fw_tasks.engines.qe_yambo.steps import RECORD, Steps
from fw_tasks.engines.qe_yambo.yambo_output import Response
from fw_tasks.engines.worker_process import sole_use
from selector.errors import SelectorError, UsageError
from selector.spectra import ENERGY_EV, Spectrum, settings_hash

LEVELS = ("ipa", "rpa")
RESULT = "result.npz"
AXIS_NAMES = "xyz"
MRY_EV = 0.013605693


class QEYamboEngine:
    """IPA and RPA spectra by Quantum ESPRESSO and Yambo.

    Parameters
    ----------
    preset : "standard" (the paper's settings) or "smoke"
    settings : settings to change in the preset; another hash, so another kind of label
    pseudo_dir : folder of the pseudopotentials
    pw, p2y, yambo : commands, e.g. ``mpirun -np 8 pw.x -nk 4``
    prefix : shell commands before each, e.g. ``module load qe/7.2 yambo/5.2``
    processes : cores the commands use on other machines: CPU seconds are then wall seconds times this
    scratch : folder for the large files; calculations that were cut short go on from there in the next attempt
    keep_files : keep wave functions and databases of finished calculations
    """

    name = label_engine = "qe_yambo"
    cost_log_sd = COST_LOG_SD

    def __init__(
        self,
        preset: str | None = None,
        *,
        settings: Mapping[str, Any] | None = None,
        pseudo_dir: str | Path | None = None,
        pw: str = "pw.x",
        p2y: str = "p2y",
        yambo: str = "yambo",
        prefix: str = "",
        processes: int | None = None,
        scratch: str | Path | None = None,
        keep_files: bool = False,
    ) -> None:
        self._settings = resolve_settings(preset or "standard", settings)
        self.pseudo_dir = None if pseudo_dir is None else Path(pseudo_dir)
        self.programs = Programs(pw, p2y, yambo, prefix, processes)
        self.scratch = None if scratch is None else Path(scratch)
        self.keep_files = keep_files

    @property
    def settings(self) -> dict[str, Any]:
        return self._settings.model_dump(mode="json")

    @property
    def settings_hash(self) -> str:
        return settings_hash(self.settings)

    def check(self, structure: Structure) -> None:
        """Refuse before any cost what cannot be computed; the structure's own faults come first.

        Raises
        ------
        UsageError
            Partly occupied sites, or a command that is none.
        MissingDataset, OddElectrons, ProgramMissing
        """
        self._pseudopotentials(primitive_cell(structure))
        check_closed_shell(structure)
        self.programs.check()

    def estimate_cpu_h(self, structure: Structure, level: str = "rpa") -> float:
        """Median CPU-hours of IPA alone (``level`` "ipa") or of both levels ("rpa")."""
        cell = primitive_cell(structure)
        z_valence = {e: p.z_valence for e, p in self._pseudopotentials(cell).items()}
        return estimate_cpu_s(cell, z_valence, self._settings, level) / 3600.0

    def compute(
        self, material_id: str, structure: Structure, levels: Sequence[str], workdir: Path, time_limit_s: float | None
    ) -> Calculation:
        """Compute the levels asked for, or raise the `EngineError` that says why not.

        Steps finished by an earlier run on the same crystal with the same settings are taken over, from ``scratch``
        or else from ``workdir``; only their own strictly read output is believed.
        """
        if not levels or set(levels) - set(LEVELS):
            raise UsageError(f"{material_id}: levels {list(levels)}: choose from {', '.join(LEVELS)}")
        self.check(structure)
        start = time.monotonic()
        cell = primitive_cell(structure)
        pseudopotentials = self._pseudopotentials(cell)
        workdir = Path(workdir).resolve()
        with sole_use(workdir), self._root(workdir, cell, pseudopotentials) as root:
            try:
                (workdir / RESULT).unlink(missing_ok=True)
                steps = Steps(root, None if time_limit_s is None else start + time_limit_s)
                pw = PwRuns(cell, pseudopotentials, self.programs, steps)
                calculation = self._compute(pw, levels, start)
                # Only 0-20 eV exists, so Kramers and Kronig are not asked.
                accept(calculation, pw.n_electrons, cell.volume / BOHR_ANG**3, workdir)
                calculation.save(workdir / RESULT)
                if set(levels) == set(LEVELS) and not self.keep_files:
                    _clear(root)
            except EngineError as error:
                error.wall_s = time.monotonic() - start
                raise
            except OSError as error:
                where = error.filename or root
                raise SelectorError(f"{where}: {error.strerror}; free some space or choose another folder") from error
            return calculation

    def collect(self, workdir: Path) -> Calculation | None:
        """A result of these settings finished in ``workdir`` though whoever waited for it died, or None."""
        path = Path(workdir) / RESULT
        if not path.exists():
            return None
        try:
            calculation = Calculation.load(path)
        # A garbled file can fail in numpy, zipfile, zlib or json, each with errors of its own.
        except Exception as error:
            raise BadOutput(f"{path}: not a usable result ({error})") from error
        return calculation if calculation.settings_hash == self.settings_hash else None

    def _compute(self, pw: PwRuns, levels: Sequence[str], start: float) -> Calculation:
        states = GroundStates(pw, self._settings)
        ground, path = states.converge()
        spin_check = states.refuse_magnetic(ground)
        n_bands, gap_ev = states.bands(ground)
        shifted, n_k = states.shifted(ground, n_bands)
        yambo = Responses(pw.cell, pw.n_filled, self._settings, self.programs, pw.steps)
        database, setup = yambo.database(shifted)
        responses: dict[int, Response] = {}
        ladders: dict[str, list[Rung]] = {}
        for axes in field_directions(pw.cell):
            if "rpa" in levels:
                response, rungs = yambo.ladder(database, axes[0], n_bands)
                ladders["".join(AXIS_NAMES[a] for a in axes)] = rungs
            else:
                response = yambo.response(database, axes[0], 0, n_bands)
            responses |= dict.fromkeys(axes, response)
        spectra = {
            level: Spectrum(ENERGY_EV, np.array([getattr(responses[axis], level) for axis in range(3)]))
            for level in LEVELS
            if level in levels
        }
        finished = pw.steps.finished
        return Calculation(
            spectra=spectra,
            gap_ev=gap_ev,
            cpu_s=sum(step.usage.cpu_s for step in finished if not step.reused),
            wall_s=time.monotonic() - start,
            engine=self.name,
            version=f"QE {ground.result.version}, Yambo {setup.version}",
            settings=self.settings,
            settings_hash=self.settings_hash,
            details={
                "versions": {"pw.x": ground.result.version, "yambo": setup.version},
                "ground_state": path,
                "spin_check": spin_check,
                "ladder": [
                    {"axes": axes, "cutoff_ev": rung.cutoff_mry * MRY_EV, **asdict(rung)}
                    for axes, rungs in ladders.items()
                    for rung in rungs
                ],
                "repairs": [f"{step.name}: {repair}" for step in finished for repair in step.repairs],
                "n_g": max(response.n_g for response in responses.values()),
                "n_k": n_k,
                "n_bands": n_bands,
                "n_electrons": pw.n_electrons,
                "gap_on_shifted_mesh_ev": setup.indirect_gap_ev,
                "direct_gap_on_shifted_mesh_ev": setup.direct_gap_ev,
                "pseudopotentials": {e: {"file": p.path.name, "md5": p.md5} for e, p in pw.pseudopotentials.items()},
                "stages": [
                    {"name": s.name, **asdict(s.usage), "repairs": list(s.repairs), "reused": s.reused}
                    for s in finished
                ],
            },
        )

    def _pseudopotentials(self, cell: Structure) -> dict[str, Pseudopotential]:
        elements = [element.symbol for element in cell.composition.element_composition]
        return find_pseudopotentials(self.pseudo_dir, elements, self._settings.pseudopotentials)

    @contextmanager
    def _root(self, workdir: Path, cell: Structure, pseudopotentials: Mapping[str, Pseudopotential]) -> Iterator[Path]:
        """The folder of the steps, held against other calculations: one per crystal and settings in ``scratch``."""
        if self.scratch is None:
            yield workdir
            return
        key = {
            "settings": self.settings_hash,
            "pseudopotentials": {e: p.md5 for e, p in pseudopotentials.items()},
            "cell": [np.round(cell.lattice.matrix, 8).tolist(), np.round(cell.frac_coords, 8).tolist()],
            "species": [site.specie.symbol for site in cell],
        }
        digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:16]
        root = self.scratch.resolve() / f"{cell.composition.reduced_formula}-{digest}"
        with sole_use(root):
            yield root


def _clear(root: Path) -> None:
    """Remove wave functions and databases, and with them the steps' records: they cannot be gone on from."""
    for record in root.glob(f"*/{RECORD}"):
        folder = record.parent
        if (folder / "SAVE").is_symlink():
            (folder / "SAVE").unlink()
        elif (folder / OUT).is_dir() or (folder / "SAVE").is_dir():
            record.unlink()
            shutil.rmtree(folder / OUT, ignore_errors=True)
            shutil.rmtree(folder / "SAVE", ignore_errors=True)
