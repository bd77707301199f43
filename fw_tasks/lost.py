"""Rockets that died, and what they left half done in the LaunchPad.

Every local worker holds a lock on a file of its own for as long as it lives; the system lets go of it when the process
ends, however it ends. A firework that counts as running under the name of a worker without a lock is lost.
"""

from __future__ import annotations

import os
import socket
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from fireworks import LaunchPad

CHECKOUT_S = 60.0
"""A checkout takes milliseconds; one without a launch for this long was cut short."""
FOREVER_S = 10.0**9


def worker_name(connection: int = 0) -> str:
    """The name under which a local worker's launches stand in the LaunchPad: host, process, connection.

    A worker that lost the database comes back under another name: what it held before is lost.
    """
    return f"{socket.gethostname()}:{os.getpid()}.{connection}"


def hold_lock(folder: Path, name: str) -> FileLock:
    """Lock this worker's file in the campaign's folder."""
    (folder / "workers").mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / "workers" / f"{name}.lock")
    lock.acquire(timeout=10)
    return lock


def heal(launchpad: LaunchPad, campaign: str, folder: Path) -> int:
    """Put right what dead workers of this host left; how many fireworks that were.

    A calculation or a fine-tuning that ran is fizzled, so that its failure is booked; a light task, or one that had not
    begun, is handed out again. Workers of other hosts are left alone.
    """
    alone = not any(_lives(file) for file in (folder / "workers").glob("*.lock"))
    if alone:
        # Nobody who could hold a workflow's lock is left on this host.
        launchpad.workflows.update_many({"metadata.campaign": campaign, "locked": True}, {"$unset": {"locked": ""}})
    lost = 0
    for firework in launchpad.fireworks.find(
        {"spec.campaign": campaign, "state": {"$in": ["RESERVED", "RUNNING"]}},
        {"fw_id": 1, "state": 1, "updated_on": 1, "spec._category": 1},
    ):
        launches = list(
            launchpad.launches.find({"fw_id": firework["fw_id"], "state": {"$in": ["RESERVED", "RUNNING"]}})
        )
        if launches and not all(_is_dead(launch, folder) for launch in launches):
            continue
        if not launches and not alone and not _is_old(firework):
            continue
        lost += 1
        for launch in launches:
            launchpad.mark_fizzled(launch["launch_id"])
        if firework["state"] == "RESERVED" or firework["spec"].get("_category") == "light":
            launchpad.rerun_fw(firework["fw_id"])
        elif not launches:
            # Its launch was written back, but the firework had not heard of it yet.
            launchpad.detect_lostruns(expiration_secs=FOREVER_S, refresh=True, query={"fw_id": firework["fw_id"]})
    return lost


def _is_dead(launch: dict[str, Any], folder: Path) -> bool:
    name = (launch.get("fworker") or {}).get("name", "")
    file = folder / "workers" / f"{name}.lock"
    return name.startswith(f"{socket.gethostname()}:") and file.exists() and not _lives(file)


def _lives(file: Path) -> bool:
    try:
        with FileLock(file).acquire(timeout=0):
            return False
    except Timeout:
        return True


def _is_old(firework: dict[str, Any]) -> bool:
    updated = firework["updated_on"]
    if isinstance(updated, str):
        updated = datetime.fromisoformat(updated)
    if updated.tzinfo is None:
        updated = updated.replace(tzinfo=UTC)
    return bool(datetime.now(UTC) - updated > timedelta(seconds=CHECKOUT_S))
