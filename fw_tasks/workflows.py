"""A job as a FireWorks workflow: compute, then record whatever came of it, then advance the campaign."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from fireworks import Firework, LaunchPad, Workflow
from pymongo.errors import BulkWriteError, DuplicateKeyError

from fw_tasks.engines.base import Calculation, Engine, EngineError
from fw_tasks.lost import heal
from fw_tasks.tasks import AdvanceCampaign, ComputeSpectrum, FineTune, RecordResult
from selector.protocols import Failure, Job, Result

ENDED = ("FIZZLED", "DEFUSED", "ARCHIVED", "COMPLETED")
LIGHT = {"_category": "light", "_add_launchpad_and_fw_id": True, "_allow_fizzled_parents": True}


def spectrum_workflow(job: Job) -> Workflow:
    """Compute -> record -> advance. Recording runs even when the calculation failed, to book the failure."""
    material = {"material_id": job.material_id, "formula": job.formula, "level": job.level}
    about = {"campaign": job.campaign, "selector_workflow": job.key}
    name = f"{job.formula} {job.material_id} {job.level}"
    spec = {**about, **material, "selector_key": job.key, "_category": job.level}
    compute = Firework(ComputeSpectrum(job=asdict(job)), spec, name=f"compute {name}")
    record = Firework(
        RecordResult(campaign=job.campaign, material_id=job.material_id),
        {**about, **material, **LIGHT, "_priority": 20},
        name=f"record {name}",
        parents=[compute],
    )
    advance = Firework(
        AdvanceCampaign(campaign=job.campaign),
        {**about, **LIGHT, "_priority": 10},
        name=f"advance {job.campaign}",
        parents=[record],
    )
    return Workflow([compute, record, advance], name=name, metadata={**about, **material, "attempt": job.attempt})


def learning_workflow(campaign: str, key: str) -> Workflow:
    """Fine-tune -> advance."""
    about = {"campaign": campaign, "selector_workflow": key}
    spec = {**about, "selector_key": key, **LIGHT, "_category": "learn", "_priority": 15}
    tune = Firework(FineTune(campaign=campaign, key=key), spec, name=f"fine-tune {campaign}")
    advance = Firework(
        AdvanceCampaign(campaign=campaign),
        {**about, **LIGHT, "_priority": 10},
        name=f"advance {campaign}",
        parents=[tune],
    )
    return Workflow([tune, advance], name=f"fine-tune {campaign}", metadata=about)


class FireWorksDispatcher:
    """`selector.protocols.Dispatcher` on a LaunchPad."""

    def __init__(self, launchpad: LaunchPad, folder: Path, engine: Engine) -> None:
        self._launchpad = launchpad
        self._folder = folder
        self._engine = engine

    def submit(self, job: Job) -> int:
        """Add the job's workflow unless it is there; the fw_id of its calculation."""
        return self._submit(job.key, lambda: spectrum_workflow(job))

    def submit_learning(self, campaign: str, key: str) -> int:
        return self._submit(key, lambda: learning_workflow(campaign, key))

    def outcome(self, key: str, workdir: Path) -> Result | Failure | None:
        """What the calculation left behind: its result, its failure, or None while it waits or runs."""
        firework = self._find(key)
        state = firework["state"] if firework else "ARCHIVED"
        # The files are looked at after the state: a task writes its file first and ends afterwards.
        if (workdir / "calculation.npz").exists():
            return Result(Calculation.load(workdir / "calculation.npz"))
        if (workdir / "failure.json").exists():
            return Failure(**json.loads((workdir / "failure.json").read_text(encoding="utf-8")))
        if state in ENDED:
            unread = self._unread(workdir)
            if unread is not None:
                return Result(unread)
            message = f"its rocket ended ({state.lower()}) and left no result in {workdir}"
            return Failure("Vanished", message, wall_s=None, retry=state == "FIZZLED")
        return None

    def _unread(self, workdir: Path) -> Calculation | None:
        try:
            return self._engine.collect(workdir)
        except (EngineError, OSError, ValueError):
            return None

    def learning_is_out(self, key: str) -> bool:
        firework = self._find(key)
        return firework is not None and firework["state"] not in ENDED

    def reap(self, campaign: str) -> int:
        """Put right what dead workers of this host left half done."""
        return heal(self._launchpad, campaign, self._folder)

    def _find(self, key: str) -> dict[str, Any] | None:
        return self._launchpad.fireworks.find_one({"spec.selector_key": key}, {"fw_id": 1, "state": 1})

    def _submit(self, key: str, make: Callable[[], Workflow]) -> int:
        firework = self._find(key)
        if (
            firework is not None
            and self._launchpad.workflows.find_one({"nodes": firework["fw_id"]}, {"_id": 1}) is None
        ):
            # Adding a workflow was cut short after its fireworks were written.
            self._launchpad.fireworks.delete_many({"spec.selector_workflow": key})
            firework = None
        if firework is None:
            workflow = make()
            try:
                self._launchpad.add_wf(workflow)
            except (BulkWriteError, DuplicateKeyError) as e:
                if not _is_duplicate(e):
                    raise
                # Another process was faster; what this one had written of its own workflow goes.
                mine = [fw.fw_id for fw in workflow.fws]
                self._launchpad.fireworks.delete_many({"fw_id": {"$in": mine}, "spec.selector_workflow": key})
            firework = self._find(key)
            assert firework is not None
        return int(firework["fw_id"])


def _is_duplicate(e: BulkWriteError | DuplicateKeyError) -> bool:
    errors: list[dict[str, Any]] = (e.details or {}).get("writeErrors", []) if isinstance(e, BulkWriteError) else []
    return all(error["code"] == 11000 for error in errors)


def index_keys(launchpad: LaunchPad) -> None:
    """Indexes for the campaign's queries; the one on an attempt's key is unique, so that it is submitted once."""
    for key in ("spec.selector_workflow", "spec.campaign"):
        launchpad.fireworks.create_index(key)
    known = launchpad.fireworks.index_information()
    if not known.get("spec.selector_key_1", {"unique": True}).get("unique"):
        launchpad.fireworks.drop_index("spec.selector_key_1")  # the first release's
    launchpad.fireworks.create_index("spec.selector_key", unique=True, sparse=True)
