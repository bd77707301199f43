"""A job as a FireWorks workflow: compute, then record whatever came of it, then advance the campaign."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from fireworks import Firework, LaunchPad, Workflow
from pymongo.errors import BulkWriteError, DuplicateKeyError

from fw_tasks import recovery
from fw_tasks.engines.base import Calculation, Engine, EngineError
from fw_tasks.lost import heal
from fw_tasks.queue.sizing import queue_size
from fw_tasks.signs_of_life import ASK_QUEUE_S, LOST_AFTER_S
from fw_tasks.tasks import AdvanceCampaign, ComputeSpectrum, FineTune, RecordResult
from selector.indexes import ensure_indexes
from selector.protocols import Failure, Job, Loss, Result, Returned

ENDED = ("FIZZLED", "DEFUSED", "ARCHIVED", "COMPLETED")
LIGHT = {"_category": "light", "_add_launchpad_and_fw_id": True, "_allow_fizzled_parents": True}


def spectrum_workflow(job: Job) -> Workflow:
    """Compute -> record -> advance. Recording runs even when the calculation failed, to book the failure.

    ``_category`` (ipa, rpa, learn, light) is what workers choose by, ``_queueadapter`` the size of its queue job; a
    workflow's metadata is what `lpad get_wflows -q` and FireWorks' web GUI find it by.
    """
    material = {"material_id": job.material_id, "formula": job.formula, "level": job.level}
    about = {"campaign": job.campaign, "selector_workflow": job.key}
    name = f"{job.formula} {job.material_id} {job.level}"
    size = queue_size(job.formula, job.material_id, job.level, job.cores, job.time_limit_s)
    spec = {**about, **material, "selector_key": job.key, "_category": job.level, "_queueadapter": size}
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
    metadata = {
        **about,
        **material,
        "attempt": job.attempt,
        "engine": job.engine["name"],
        "purpose": job.decision.get("purpose", job.level),
        "elements": sorted(set(job.structure["species"])),
        "tags": [job.campaign, job.level, job.formula],
    }
    return Workflow([compute, record, advance], name=name, metadata=metadata)


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
    metadata = {**about, "level": "learn", "tags": [campaign, "learn"]}
    return Workflow([tune, advance], name=f"fine-tune {campaign}", metadata=metadata)


class FireWorksDispatcher:
    """`selector.protocols.Dispatcher` on a LaunchPad."""

    def __init__(
        self,
        launchpad: LaunchPad,
        folder: Path,
        engine: Engine,
        lost_after_s: float = LOST_AFTER_S,
        ask_queue_s: float = ASK_QUEUE_S,
    ) -> None:
        self._launchpad = launchpad
        self._folder = folder
        self._engine = engine
        self._lost_after_s, self._ask_queue_s = lost_after_s, ask_queue_s

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
        if (left := recovery.read(workdir, key)) is not None:
            return left
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

    def reap(self, campaign: str) -> list[Loss]:
        """Put right what dead workers and vanished queue jobs left half done."""
        return heal(self._launchpad, campaign, self._folder, self._lost_after_s, ask_queue_s=self._ask_queue_s)

    def returned(self, campaign: str, epoch: int) -> Iterator[Returned]:
        """What ended in the campaign's folder and was not acknowledged."""
        return recovery.returned(self._folder, campaign, epoch)

    def acknowledge(self, key: str) -> None:
        recovery.acknowledge(self._folder, key)

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
    ensure_indexes(launchpad.fireworks, [["spec.selector_workflow"], ["spec.campaign"]])
    known = launchpad.fireworks.index_information()
    if not known.get("spec.selector_key_1", {"unique": True}).get("unique"):
        launchpad.fireworks.drop_index("spec.selector_key_1")  # the first release's
    ensure_indexes(launchpad.fireworks, [["spec.selector_key"]], unique=True, sparse=True)
    ensure_indexes(launchpad.workflows, [["locked"]], sparse=True)
