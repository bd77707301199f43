"""FireTasks: compute a spectrum, record what came of it, fine-tune, advance the campaign.

Thin adapters: what to do is decided in `selector`. Task names stand in databases and never change once released.
"""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from filelock import FileLock, Timeout
from fireworks import FiretaskBase, FWAction
from pymatgen.core import Structure
from pymongo.errors import AutoReconnect

from fw_tasks.engines import get_engine
from fw_tasks.engines.base import EngineError
from fw_tasks.recovery import earlier_result, written_down
from fw_tasks.stopping import at_walltime, stopping
from selector.errors import SelectorError

T = TypeVar("T")
LEVELS = {"ipa": ["ipa"], "rpa": ["ipa", "rpa"]}
"""What a job of a level computes: RPA comes with the IPA spectrum that its SC is measured against."""
CLAIM_GRACE_S = 60.0
"""A launch ends so many seconds after its time limit at the latest."""
log = logging.getLogger(__name__)


class ComputeSpectrum(FiretaskBase):
    """Run the engine on one material; its result or failure is a file in the job's folder before anything else."""

    _fw_name = "{{fw_tasks.tasks.ComputeSpectrum}}"
    required_params = ["job"]  # noqa: RUF012 - FireWorks' own way

    def run_task(self, fw_spec: dict[str, Any]) -> FWAction:
        job = self["job"]
        workdir = Path(job["workdir"])
        workdir.mkdir(parents=True, exist_ok=True)
        result = workdir / "calculation.npz"
        with claimed(workdir, job["time_limit_s"]) as waited, written_down(job, workdir):
            if result.exists():
                return FWAction(stored_data={"result": str(result)})
            if waited and (workdir / "failure.json").exists():
                raise AttemptFailed(f"another launch of this attempt failed; see {workdir}/failure.json")
            if (lies := earlier_result(job, workdir)) is not None:
                write_failure(workdir, "AlreadyComputed", f"its result lies in {lies}", 0.0, interrupted=True)
                raise AttemptFailed(f"another attempt's result lies in {lies}; it is not computed again")
            return self._compute(job, workdir, result)

    def _compute(self, job: dict[str, Any], workdir: Path, result: Path) -> FWAction:
        (workdir / "failure.json").unlink(missing_ok=True)
        structure = Structure(job["structure"]["lattice"], job["structure"]["species"], job["structure"]["frac"])
        started = time.monotonic()
        try:
            engine = get_engine(job["engine"]["name"], job["engine"]["preset"], **job["engine"]["options"])
            with stopping.may_interrupt():
                calculation = engine.compute(
                    job["material_id"], structure, LEVELS[job["level"]], workdir, job["time_limit_s"]
                )
            calculation.save(result)
        except EngineError as e:
            write_failure(workdir, e.reason, f"{e}; {e.remedy}", time.monotonic() - started, retry=e.retry)
            raise
        except (KeyboardInterrupt, SystemExit):
            if at_walltime():
                message = (
                    f"its queue job's walltime ended before its limit of {job['time_limit_s']:.0f} s: raise startup_s "
                    "in the cluster file, or choose a partition that allows more"
                )
                write_failure(workdir, "TimedOut", message, time.monotonic() - started, retry=True)
            else:
                write_failure(
                    workdir, "Interrupted", "the run was stopped", time.monotonic() - started, interrupted=True
                )
            raise
        except Exception as e:
            # A full disk or a folder that is gone is no fault of the material.
            machine = isinstance(e, SelectorError | OSError)
            write_failure(workdir, type(e).__name__, str(e).split("\n")[0], time.monotonic() - started, retry=machine)
            raise
        sc = calculation.sc if job["level"] == "rpa" else None
        return FWAction(stored_data={"result": str(result), "wall_s": calculation.wall_s, "sc": sc})


class AttemptFailed(SelectorError):
    """Another launch of the same attempt has written down its failure."""


@contextmanager
def claimed(workdir: Path, time_limit_s: float) -> Iterator[bool]:
    """Hold an attempt's folder while computing in it; whether another launch had to be waited for.

    FireWorks may launch a firework twice, when it takes a slow launch for a lost one. The second waits for the first
    and finds what it left. The system lets go of the lock when its holder ends, however it ends.

    Raises
    ------
    AttemptFailed
        The other is still at it long after its time limit.
    """
    lock = FileLock(workdir / "claim.lock")
    try:
        lock.acquire(timeout=0)
        waited = False
    except Timeout:
        log.warning("another launch computes in %s; waiting for it", workdir)
        try:
            with stopping.may_interrupt():
                lock.acquire(timeout=time_limit_s + CLAIM_GRACE_S)
        except Timeout:
            raise AttemptFailed(f"another launch still computes in {workdir}, long after its time limit") from None
        waited = True
    try:
        yield waited
    finally:
        lock.release()


class RecordResult(FiretaskBase):
    """Book what came of a calculation: spectra, label, ledger, status."""

    _fw_name = "{{fw_tasks.tasks.RecordResult}}"
    required_params = ["campaign", "material_id"]  # noqa: RUF012

    def run_task(self, fw_spec: dict[str, Any]) -> FWAction:
        from fw_tasks.launch import campaign_on

        def record() -> bool:
            campaign = campaign_on(self.launchpad, self["campaign"])
            return campaign.settle(campaign.store.candidate(self["material_id"]))

        return FWAction(stored_data={"booked": once_more(record)})


class FineTune(FiretaskBase):
    """Fine-tune the campaign's predictor on its labels."""

    _fw_name = "{{fw_tasks.tasks.FineTune}}"
    required_params = ["campaign", "key"]  # noqa: RUF012

    def run_task(self, fw_spec: dict[str, Any]) -> FWAction:
        from fw_tasks.launch import campaign_on

        with stopping.may_interrupt():
            model_id = once_more(lambda: campaign_on(self.launchpad, self["campaign"]).learn(self["key"]))
        return FWAction(stored_data={"model_id": model_id})


class AdvanceCampaign(FiretaskBase):
    """One step of the campaign."""

    _fw_name = "{{fw_tasks.tasks.AdvanceCampaign}}"
    required_params = ["campaign"]  # noqa: RUF012

    def run_task(self, fw_spec: dict[str, Any]) -> FWAction:
        from fw_tasks.launch import campaign_on

        report = once_more(lambda: campaign_on(self.launchpad, self["campaign"]).step())
        return FWAction(stored_data={"dispatched": report.dispatched, "state": report.state})


def once_more(action: Callable[[], T]) -> T:
    """Repeat an idempotent action once if the connection to the database drops; FireWorks itself does not."""
    try:
        return action()
    except AutoReconnect as e:
        log.warning("the database's connection dropped (%s); trying once more", e)
        time.sleep(1.0)
        return action()


def write_failure(
    workdir: Path, reason: str, message: str, wall_s: float, retry: bool = False, interrupted: bool = False
) -> None:
    """Write down in a job's folder why it came to nothing, before its rocket ends."""
    failure = {
        "reason": reason,
        "message": message,
        "wall_s": wall_s,
        "retry": retry,
        "interrupted": interrupted,
    }
    part = workdir / "failure.json.part"
    part.write_text(json.dumps(failure), encoding="utf-8")
    os.replace(part, workdir / "failure.json")  # noqa: PTH105 - atomic on POSIX, said in as many words
