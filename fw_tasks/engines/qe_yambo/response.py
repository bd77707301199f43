"""The response by the paper's steps: database, setup, and the ladder of cutoffs along one axis."""

from __future__ import annotations

import os
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path

from pymatgen.core import Structure

from fw_tasks.engines.base import BadOutput
from fw_tasks.engines.qe_yambo.commands import Programs, Usage
from fw_tasks.engines.qe_yambo.geometry import coupling_vectors
from fw_tasks.engines.qe_yambo.ladder import Rung, climb
from fw_tasks.engines.qe_yambo.qe_input import SAVE
from fw_tasks.engines.qe_yambo.settings import QEYamboSettings
from fw_tasks.engines.qe_yambo.steps import Step, Steps
from fw_tasks.engines.qe_yambo.yambo_input import YamboJob, yambo_input
from fw_tasks.engines.qe_yambo.yambo_output import Response, Setup, read_database, read_response, read_setup
from selector.spectra import similarity


@dataclass
class Responses:
    """Response functions of one crystal.

    Attributes
    ----------
    cell : the standardised primitive cell
    n_filled : filled bands
    settings : what decides the spectra
    programs : how to run p2y and yambo
    steps : the steps on disk
    """

    cell: Structure
    n_filled: int
    settings: QEYamboSettings
    programs: Programs
    steps: Steps

    def database(self, shifted: Step) -> tuple[Step, Setup]:
        """p2y, and yambo's setup; the setup must see the same closed shell."""

        def action(folder: Path, _restart: bool) -> tuple[Usage, list[str]]:
            source = shifted.folder / SAVE
            if not source.is_dir():
                raise BadOutput(f"{source} is gone; remove {shifted.folder} to compute it again")
            for stale in (*source.glob("l_p2y*"), *source.glob("LOG/l_p2y*")):
                stale.unlink()
            _, first = self.programs.run(
                "p2y", ["-O", os.path.relpath(folder, source)], source, "p2y.out", self.steps.seconds_left()
            )
            # Its log lies where it ran or where its database is, in LOG if it ran in parallel.
            for log in (*source.glob("l_p2y*"), *source.glob("LOG/l_p2y*")):
                shutil.copy(log, folder / log.name)
            read_database(folder)
            _, second = self.programs.run("yambo", [], folder, "setup.out", self.steps.seconds_left())
            read(folder)
            return first + second, []

        def read(folder: Path) -> Setup:
            read_database(folder)
            return read_setup(folder)

        step, setup = self.steps.run("database", {"after": shifted.fingerprint}, action, read)
        if setup.filled_bands != self.n_filled:
            raise BadOutput(f"yambo fills {setup.filled_bands} bands, pw.x {self.n_filled}")
        return step, setup

    def response(self, database: Step, axis: int, cutoff_mry: int, n_bands: int) -> Response:
        """yambo's response function at one cutoff, along one axis, in a folder of its own beside the database."""
        job = YamboJob(axis, cutoff_mry, n_bands, self.settings.eta_ev)

        def action(folder: Path, _restart: bool) -> tuple[Usage, list[str]]:
            if not (database.folder / "SAVE").is_dir():
                raise BadOutput(f"{database.folder}/SAVE is gone; remove {database.folder} to compute it again")
            (folder / "SAVE").symlink_to(Path("..") / database.name / "SAVE")
            (folder / f"{job.name}.in").write_text(yambo_input(job), encoding="utf-8")
            arguments = ["-F", f"{job.name}.in", "-J", job.name]
            _, usage = self.programs.run("yambo", arguments, folder, "yambo.out", self.steps.seconds_left())
            read(folder)
            # The dipoles: large, and of no further use.
            shutil.rmtree(folder / job.name, ignore_errors=True)
            return usage, []

        def read(folder: Path) -> Response:
            return read_response(folder, job)

        inputs = {"after": database.fingerprint, "job": asdict(job)}
        return self.steps.run(job.name.removeprefix("RPA_"), inputs, action, read)[1]

    def ladder(self, database: Step, axis: int, n_bands: int) -> tuple[Response, list[Rung]]:
        """Climb the response cutoffs along one axis; the last response, and every rung.

        Raises
        ------
        NotConverged
        """
        last: list[Response] = []

        def run(cutoff_mry: int) -> Rung:
            response = self.response(database, axis, cutoff_mry, n_bands)
            last[:] = [response]
            if not response.ipa.imag.max() > 0.0:
                raise BadOutput("no absorption at IPA on 0-20 eV, so there is no SC")
            coupling = coupling_vectors(self.cell, axis, response.n_g)
            return Rung(cutoff_mry, response.n_g, coupling, similarity(response.rpa.imag, response.ipa.imag))

        s = self.settings
        rungs = climb(s.g_cutoffs_mry, run, s.sc_tolerance, to_the_end=s.converge == "none")
        return last[0], rungs
