"""Which rockets died: every local worker holds a lock on a file of its own for as long as it lives."""

from __future__ import annotations

import os
import socket
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from fireworks import LaunchPad


def worker_name() -> str:
    """The name under which a local worker's launches stand in the LaunchPad: host and process."""
    return f"{socket.gethostname()}:{os.getpid()}"


def hold_lock(folder: Path, name: str) -> FileLock:
    """Lock this worker's file in the campaign's folder; the system lets go of it when the process ends, however."""
    (folder / "workers").mkdir(parents=True, exist_ok=True)
    lock = FileLock(_lock_file(folder, name))
    lock.acquire(timeout=10)
    return lock


def lost_launches(launchpad: LaunchPad, campaign: str, folder: Path) -> list[dict[str, Any]]:
    """Launches of this campaign that still count as running though their worker, on this host, is gone."""
    running = launchpad.fireworks.find({"spec.campaign": campaign, "state": "RUNNING"}, {"fw_id": 1})
    fw_ids = [firework["fw_id"] for firework in running]
    launches = launchpad.launches.find({"fw_id": {"$in": fw_ids}, "state": "RUNNING"})
    return [launch for launch in launches if _is_dead(folder, launch.get("fworker", {}).get("name", ""))]


def _is_dead(folder: Path, name: str) -> bool:
    file = _lock_file(folder, name)
    if not name.startswith(f"{socket.gethostname()}:") or not file.exists():
        return False
    try:
        with FileLock(file).acquire(timeout=0):
            return True
    except Timeout:
        return False


def _lock_file(folder: Path, name: str) -> Path:
    return folder / "workers" / f"{name}.lock"
