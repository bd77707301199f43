"""Work that was lost, and what is done about it, by every step or by hand (docs/operations.md).

A calculation that ran and is lost is fizzled: the step books it as vanished, charges it in full, and tries it again
under ``max_attempts``. What never began, and fine-tunings and light tasks, are launched again, a few times; then they
count as failed. Where a rocket left its result, that is taken, whatever became of the rocket.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Literal

from fireworks import LaunchPad

from fw_tasks.queue.slurm import job_states as slurm_job_states
from fw_tasks.signs_of_life import (
    ASK_QUEUE_S,
    LOST_AFTER_S,
    JobStates,
    SignsOfLife,
    hold_lock,
    is_alone,
    job_of,
    worker_name,
)
from fw_tasks.tasks import write_failure
from selector.protocols import Loss

__all__ = ["Lost", "find_lost", "heal", "hold_lock", "worker_name"]

CHECKOUT_S = 60.0
"""A checkout takes milliseconds; one without a launch for this long was cut short."""
LOCK_S = 120.0
"""FireWorks locks a workflow for milliseconds; who meets a lock waits for up to five minutes."""
RELAUNCHES = 5
"""What was launched so many times, and always lost, counts as failed."""
FOREVER_S = 10.0**9
ACTIVE = {"$in": ["RESERVED", "RUNNING"]}
CALCULATIONS = ("ipa", "rpa")
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Lost:
    """A firework whose launches are lost, or a locked workflow.

    Without launches: its checkout, or its writing back, was cut short. ``launched``: how often, this time included.
    """

    kind: Literal["run", "reservation", "locked workflow"]
    fw_id: int
    name: str
    why: str
    launch_ids: tuple[int, ...] = ()
    category: str | None = None
    launched: int = 0
    material_id: str | None = None
    workdir: Path | None = None


def heal(
    launchpad: LaunchPad,
    campaign: str,
    folder: Path,
    lost_after_s: float = LOST_AFTER_S,
    job_states: JobStates = slurm_job_states,
    ask_queue_s: float = ASK_QUEUE_S,
) -> list[Loss]:
    """Put right what is lost; what that was, and what was done about it, in words."""
    done = []
    for lost in find_lost(launchpad, campaign, folder, lost_after_s, job_states, ask_queue_s):
        if lost.kind != "locked workflow" and launchpad.workflows.find_one({"nodes": lost.fw_id, "locked": True}):
            # FireWorks would wait for its lock; a later step finds it free.
            continue
        log.warning("%s: %s", lost.name, lost.why)
        done.append(Loss(f"{lost.name}: {lost.why}; {_put_right(launchpad, lost)}", lost.material_id))
    return done


def find_lost(
    launchpad: LaunchPad,
    campaign: str,
    folder: Path,
    lost_after_s: float = LOST_AFTER_S,
    job_states: JobStates = slurm_job_states,
    ask_queue_s: float = ASK_QUEUE_S,
) -> Iterator[Lost]:
    """Locked workflows first, then fireworks that nobody is at any more.

    Parameters
    ----------
    folder : the campaign's, in which workers hold their locks
    lost_after_s : seconds without a heartbeat
    job_states : asks the queue; where it does not answer, no reservation is lost
    ask_queue_s : the queue is not asked if it was less than so many seconds ago
    """
    signs = SignsOfLife(launchpad, folder, lost_after_s)
    alone = is_alone(folder)
    yield from _locked(launchpad, campaign, signs, alone)
    active = _active_launches(launchpad, campaign)
    jobs = {job for launches in active.values() for launch in launches if (job := job_of(launch)) is not None}
    if jobs:
        signs.ask_queue(jobs, job_states, ask_queue_s)
        _hear_from_offline(launchpad, [launch for launches in active.values() for launch in launches], signs)
        active = _active_launches(launchpad, campaign)
    for firework in launchpad.fireworks.find(
        {"spec.campaign": campaign, "state": ACTIVE},
        {"fw_id": 1, "name": 1, "state": 1, "updated_on": 1, "spec": 1, "archived_launches": 1},
    ):
        launches = active.get(firework["fw_id"], [])
        why = [signs.why_lost(launch) for launch in launches]
        if not launches and (alone or _is_old(firework)):
            # Its launch was never written, or was written back and the firework has not heard of it.
            why = ["its worker died between two writes"]
        if why and None not in why:
            yield _lost(firework, launches, "; ".join(dict.fromkeys(str(w) for w in why)))


def _locked(launchpad: LaunchPad, campaign: str, signs: SignsOfLife, alone: bool) -> Iterator[Lost]:
    """Workflows whose lock nobody can hold, or nobody holds for so long."""
    for workflow in launchpad.workflows.find({"metadata.campaign": campaign, "locked": True}):
        locked_s = signs.locked_s(workflow)
        if alone or locked_s > LOCK_S:
            since = f"for {locked_s:.0f} s" if locked_s else "by a worker that died"
            material_id = workflow["metadata"].get("material_id")
            yield Lost(
                "locked workflow", min(workflow["nodes"]), workflow["name"], f"locked {since}", material_id=material_id
            )


def _active_launches(launchpad: LaunchPad, campaign: str) -> dict[int, list[dict[str, Any]]]:
    """fw_id -> launches that count as reserved or running, of fireworks that do."""
    fireworks = launchpad.fireworks.find({"spec.campaign": campaign, "state": ACTIVE}, {"fw_id": 1})
    ids = [firework["fw_id"] for firework in fireworks]
    found: dict[int, list[dict[str, Any]]] = {}
    for launch in launchpad.launches.find({"fw_id": {"$in": ids}, "state": ACTIVE}):
        found.setdefault(launch["fw_id"], []).append(launch)
    return found


def _hear_from_offline(launchpad: LaunchPad, launches: list[dict[str, Any]], signs: SignsOfLife) -> None:
    """Read what rockets without a database left in files, before they are taken for lost."""
    ended = [launch["launch_id"] for launch in launches if signs.why_lost(launch)]
    for run in launchpad.offline_runs.find({"launch_id": {"$in": ended}, "completed": False, "deprecated": False}):
        launchpad.recover_offline(run["launch_id"], ignore_errors=True)


def _lost(firework: dict[str, Any], launches: list[dict[str, Any]], why: str) -> Lost:
    spec = firework["spec"]
    job = spec["_tasks"][0].get("job", {})
    return Lost(
        "run" if firework["state"] == "RUNNING" else "reservation",
        firework["fw_id"],
        firework["name"],
        why,
        tuple(launch["launch_id"] for launch in launches),
        spec.get("_category"),
        len(firework.get("archived_launches", [])) + 1,
        spec.get("material_id"),
        Path(job["workdir"]) if "workdir" in job else None,
    )


def _put_right(launchpad: LaunchPad, lost: Lost) -> str:
    if lost.kind == "locked workflow":
        unlock = {"$unset": {"locked": "", "selector_locked": ""}}
        launchpad.workflows.update_one({"nodes": lost.fw_id, "locked": True}, unlock)
        return "its lock was lifted"
    if lost.kind == "run" and not lost.launch_ids:
        return _bring_up_to_date(launchpad, lost.fw_id)
    begun = lost.kind == "run" and lost.category in CALCULATIONS
    again = not begun and lost.launched < RELAUNCHES
    if lost.kind == "reservation" and not again and lost.workdir is not None:
        message = f"{lost.why}; it was launched {lost.launched} times and never began, see the launches' folders"
        lost.workdir.mkdir(parents=True, exist_ok=True)
        write_failure(lost.workdir, "NeverStarted", message, wall_s=0.0, retry=True)
    for launch_id in lost.launch_ids:
        launchpad.forget_offline(launch_id)
        launchpad.mark_fizzled(launch_id)
    if again:
        launchpad.rerun_fw(lost.fw_id)
        return "it is launched again"
    return "what it left is booked" if begun else "it counts as failed"


def _bring_up_to_date(launchpad: LaunchPad, fw_id: int) -> str:
    """Tell a firework what became of its launch, which was written back; if there is none, launch it again."""
    launchpad.detect_lostruns(expiration_secs=FOREVER_S, refresh=True, query={"fw_id": fw_id})
    if launchpad.fireworks.find_one({"fw_id": fw_id, "state": "RUNNING"}, {"_id": 1}) is None:
        return "what it left is booked"
    launchpad.rerun_fw(fw_id)
    return "it is launched again"


def _is_old(firework: dict[str, Any]) -> bool:
    updated = firework["updated_on"]
    if isinstance(updated, str):
        updated = datetime.fromisoformat(updated)
    if updated.tzinfo is None:
        updated = updated.replace(tzinfo=UTC)
    return bool(datetime.now(UTC) - updated > timedelta(seconds=CHECKOUT_S))
