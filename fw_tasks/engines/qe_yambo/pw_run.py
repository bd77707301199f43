"""Runs of pw.x as steps: what they need, the repairs, the restart, and the strict reading of what they printed."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from pymatgen.core import Structure

from fw_tasks.engines.base import BadOutput, NotConverged, OddElectrons, TimedOut
from fw_tasks.engines.qe_yambo.commands import Programs, Usage
from fw_tasks.engines.qe_yambo.pseudopotentials import Pseudopotential
from fw_tasks.engines.qe_yambo.qe_input import OUT, PSEUDO, SAVE, PwJob, pw_input
from fw_tasks.engines.qe_yambo.qe_output import PwResult, read_pw
from fw_tasks.engines.qe_yambo.repairs import attempts
from fw_tasks.engines.qe_yambo.steps import STOPPED, Step, Steps

PW_OUT = "pw.out"
LAST_MINUTES_S = 300.0
LAST_SHARE = 0.25
"""pw.x stops itself this long before the time limit, to leave what a restart needs: the shorter of the two."""
CHARGE = ("data-file-schema.xml", "charge-density.dat", "charge-density.hdf5")


@dataclass
class PwRuns:
    """pw.x on one crystal.

    Attributes
    ----------
    cell : the standardised primitive cell
    pseudopotentials : one an element
    programs : how to run pw.x
    steps : the steps on disk
    """

    cell: Structure
    pseudopotentials: Mapping[str, Pseudopotential]
    programs: Programs
    steps: Steps

    @cached_property
    def n_electrons(self) -> int:
        """Valence electrons in the cell.

        Raises
        ------
        OddElectrons
        """
        total = sum(self.pseudopotentials[site.specie.symbol].z_valence for site in self.cell)
        if round(total) % 2 or abs(total - round(total)) > 1e-6:
            raise OddElectrons(f"{total:g} valence electrons in the primitive cell, not an even number")
        return round(total)

    @property
    def n_filled(self) -> int:
        return self.n_electrons // 2

    def run(self, name: str, job: PwJob, after: Step | None) -> tuple[Step, PwResult]:
        """Run pw.x, repaired where it does not converge; its output is read again even where the step was there."""

        def action(folder: Path, restart: bool) -> tuple[Usage, list[str]]:
            self.provide(folder, after)
            usage, repairs = Usage(), []
            for repair, attempt in attempts(job):
                if repair is not None:
                    repairs.append(repair)
                    if after is None:
                        shutil.rmtree(folder / OUT, ignore_errors=True)
                left = self.steps.seconds_left()
                limit = None if left is None else left - min(LAST_MINUTES_S, LAST_SHARE * left)
                text = pw_input(self.cell, self.pseudopotentials, attempt, max_seconds=limit, restart=restart)
                (folder / "pw.in").write_text(text, encoding="utf-8")
                said, used = self.programs.run("pw", ["-in", "pw.in"], folder, PW_OUT, left)
                usage += used
                restart = False
                try:
                    read_pw(said, job)
                except NotConverged as error:
                    failed = error
                except TimedOut:
                    (folder / STOPPED).touch()
                    raise
                else:
                    if not job.symmorphic:
                        _drop_wave_functions(folder)
                    return usage, repairs
            raise NotConverged(f"{name}: {failed}, also with {'; '.join(repairs)}", usage.wall_s)

        def read(folder: Path) -> PwResult:
            try:
                return read_pw((folder / PW_OUT).read_text(encoding="utf-8", errors="replace"), job)
            except FileNotFoundError as error:
                raise BadOutput(f"{folder / PW_OUT} is gone") from error

        physics = {k: v for k, v in asdict(job).items() if k not in ("mixing_beta", "solver", "k")}
        inputs = {
            "cell": [np.round(self.cell.lattice.matrix, 8).tolist(), np.round(self.cell.frac_coords, 8).tolist()],
            "species": [site.specie.symbol for site in self.cell],
            "pseudopotentials": {e: p.md5 for e, p in self.pseudopotentials.items()},
            "job": physics | {"k": np.asarray(job.k).tolist()},
            "after": after.fingerprint if after else None,
        }
        step, result = self.steps.run(name, inputs, action, read)
        if abs(result.n_electrons - self.n_electrons) > 1e-6:
            raise BadOutput(f"pw.x counts {result.n_electrons:g} electrons, the pseudopotentials {self.n_electrons}")
        return step, result

    def provide(self, folder: Path, after: Step | None) -> None:
        """Pseudopotentials, and the charge density of the step before, so that no step writes into another's files."""
        (folder / PSEUDO).mkdir(exist_ok=True)
        for p in self.pseudopotentials.values():
            link = folder / PSEUDO / p.path.name
            link.unlink(missing_ok=True)
            link.symlink_to(p.path.resolve())
        if after is not None:
            (folder / SAVE).mkdir(parents=True, exist_ok=True)
            for name in CHARGE:
                source = after.folder / SAVE / name
                if source.exists() and not (folder / SAVE / name).exists():
                    shutil.copy(source, folder / SAVE / name)


def _drop_wave_functions(folder: Path) -> None:
    """Large, and needed by nobody: the steps that follow start from the charge density."""
    for path in (*(folder / OUT).glob("*.wfc*"), *(folder / SAVE).glob("wfc*")):
        path.unlink()
