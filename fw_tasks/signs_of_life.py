"""Whether a launch is still at it: by its worker's lock, its queue job, its heartbeat.

Every worker holds a lock on a file of its own for as long as it lives; the system lets go of it when the process ends,
however it ends. That tells of workers of this host. A launch that was submitted to a queue lives as long as its job
does. What neither tells is judged by the heartbeat: it is lost once it has stayed the same for long, by the database's
clock, since a step first saw it so; the clock of the rocket's own host is not trusted.
"""

from __future__ import annotations

import os
import secrets
import socket
import time
from collections.abc import Callable, Collection, Iterable, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from fireworks import LaunchPad

from fw_tasks.queue.slurm import QueueUnreachable, lives

LOST_AFTER_S = 4 * 3600.0
"""Four heartbeats of FireWorks' own, for rockets that were launched by `rlaunch`; its own limit, too."""
SUBMISSION_S = 900.0
"""A launcher's reservation has its queue job's number within seconds, with FireWorks' repeated attempts in minutes."""
ASK_QUEUE_S = 60.0
"""The queue is asked so often at most, however many steps there are: a controller serves thousands of users."""

JobStates = Callable[[Collection[str]], Mapping[str, str]]
"""Job ids -> their states, what is gone left out; `QueueUnreachable` if the queue does not answer."""
_TOKEN = secrets.token_hex(2)


def worker_name(connection: int = 0) -> str:
    """The name under which a worker's launches stand in the LaunchPad: host, process, connection.

    A worker that lost the database comes back under another name: what it held before is lost. The token tells
    processes apart that come to the same number one after the other, as in containers.
    """
    return f"{socket.gethostname()}:{os.getpid()}.{_TOKEN}.{connection}"


def hold_lock(folder: Path, name: str) -> FileLock:
    """Lock this worker's file in the campaign's folder."""
    (folder / "workers").mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / "workers" / f"{name}.lock")
    lock.acquire(timeout=10)
    return lock


def is_alone(folder: Path) -> bool:
    """Whether no worker lives on this host, and none of another host has ever shared the campaign's folder."""
    return not any(not _is_here(file.name) or is_held(file) for file in (folder / "workers").glob("*.lock"))


def is_held(file: Path) -> bool:
    try:
        with FileLock(file).acquire(timeout=0):
            return False
    except Timeout:
        return True


def job_of(launch: Mapping[str, Any]) -> str | None:
    """The number of the queue job that a launch was submitted as."""
    return next((str(s["reservation_id"]) for s in launch["state_history"] if "reservation_id" in s), None)


class SignsOfLife:
    """What can be said of launches now."""

    def __init__(self, launchpad: LaunchPad, folder: Path, lost_after_s: float = LOST_AFTER_S) -> None:
        self._launches, self._workflows = launchpad.launches, launchpad.workflows
        self._folder = folder
        self._lost_after_s = lost_after_s
        self._clock: datetime = launchpad.db.client.admin.command("hello")["localTime"]
        self._states: dict[str, str | None] = {}
        self._unreachable: set[str] = set()

    def ask_queue(self, jobs: Iterable[str], job_states: JobStates, every_s: float = ASK_QUEUE_S) -> None:
        """Ask after these jobs, unless the queue was asked less than ``every_s`` ago by whomever."""
        jobs, asked = set(jobs), self._folder / "workers" / "queue-asked"
        if not jobs or (asked.exists() and abs(time.time() - asked.stat().st_mtime) < every_s):
            return
        asked.parent.mkdir(parents=True, exist_ok=True)
        asked.touch()
        try:
            states = job_states(jobs)
        except QueueUnreachable:
            self._unreachable = jobs
        else:
            self._states = {job: states.get(job) for job in jobs}

    def why_lost(self, launch: Mapping[str, Any]) -> str | None:
        """In words why this launch is lost; None while it may be alive.

        ``launch`` was read after the queue was asked: a job that has ended has written its last by then.
        """
        job, running = job_of(launch), launch["state"] == "RUNNING"
        if job in self._states:
            state = self._states[job]
            return None if lives(state) else f"its queue job {job} {f'ended ({state})' if state else 'is gone'}"
        name = (launch.get("fworker") or {}).get("name", "")
        lock = self._folder / "workers" / f"{name}.lock"
        if _is_here(name) and lock.exists() and (running or job is None):
            return None if is_held(lock) else f"its worker {name} died"
        if job is not None and (job not in self._unreachable or not running):
            return None
        limit_s, silent_s = self._lost_after_s if running else SUBMISSION_S, self._silent_s(launch)
        if silent_s < limit_s:
            return None
        if running:
            return f"no heartbeat of {name or 'its worker'} for {silent_s / 3600:.2g} h"
        return f"reserved by {name or 'a launcher'} {silent_s / 60:.0f} min ago and never submitted"

    def locked_s(self, workflow: Mapping[str, Any]) -> float:
        """Seconds for which steps have seen this workflow locked; FireWorks keeps no time of it."""
        seen = workflow.get("selector_locked")
        if seen is None:
            # FireWorks drops the note as it writes the workflow back.
            query = {"_id": workflow["_id"], "locked": True}
            self._workflows.update_one(query, {"$set": {"selector_locked": self._clock}})
            return 0.0
        return float((self._clock - seen).total_seconds())

    def _silent_s(self, launch: Mapping[str, Any]) -> float:
        """Seconds for which steps have seen the same heartbeat."""
        beat, seen = str(launch["state_history"][-1].get("updated_on")), launch.get("selector_seen")
        if seen is None or seen["beat"] != beat:
            note = {"selector_seen": {"beat": beat, "at": self._clock}}
            self._launches.update_one({"launch_id": launch["launch_id"], "state": launch["state"]}, {"$set": note})
            return 0.0
        return float((self._clock - seen["at"]).total_seconds())


def _is_here(name: str) -> bool:
    return name.startswith(f"{socket.gethostname()}:")
