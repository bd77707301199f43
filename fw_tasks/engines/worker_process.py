"""A worker script in a process group of its own, under a time limit, in a folder nobody else computes in.

Whatever ends the wait (the limit, Ctrl-C, an error here) ends the whole group; a caller killed outright takes its
worker along because the worker asks for that itself (``die_with`` in ``gpaw_worker.py``).
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from filelock import FileLock, Timeout

from fw_tasks.engines.base import BadOutput, OutOfMemory, TimedOut
from selector.errors import SelectorError

GRACE_S = 5.0
GRACE_SHARE = 0.1
NO_SPACE = re.compile(r"No space left on device|Disk quota exceeded")
ONE_THREAD = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}


@contextlib.contextmanager
def sole_use(workdir: Path) -> Iterator[None]:
    """Make the folder, and hold it against other calculations; the lock falls with the process that holds it.

    Raises
    ------
    SelectorError
        Another calculation runs there, or it cannot be written.
    """
    lock = FileLock(workdir / "calculation.lock")
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        lock.acquire(timeout=0)
    except Timeout as error:
        raise SelectorError(f"{workdir}: another calculation runs in this folder; give each its own") from error
    except OSError as error:
        raise SelectorError(f"{workdir}: cannot be written ({error.strerror}); choose another work folder") from error
    try:
        yield
    finally:
        lock.release()


def run_worker(command: Sequence[str], workdir: Path, log: Path, time_limit_s: float | None) -> int:
    """Run to the end and return the exit status (0 or positive); standard output and error go to ``log``.

    Parameters
    ----------
    time_limit_s : float or None
        Wall seconds, a short grace between SIGTERM and SIGKILL included.

    Raises
    ------
    TimedOut
        At the limit, or when somebody else sent SIGTERM (as batch systems do at theirs).
    OutOfMemory
        The worker was killed by SIGKILL from outside: what Linux does when memory runs out.
    BadOutput
        It crashed with another signal.
    """
    start = time.monotonic()
    with log.open("wb") as output:
        process = subprocess.Popen(
            command,
            cwd=workdir,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=os.environ | ONE_THREAD,
            start_new_session=True,
        )
    grace_s = 0.0 if time_limit_s is None else min(GRACE_S, GRACE_SHARE * time_limit_s)
    try:
        status = process.wait(None if time_limit_s is None else time_limit_s - grace_s)
    except subprocess.TimeoutExpired as error:
        _stop(process, grace_s)
        raise TimedOut(
            f"stopped at the time limit of {time_limit_s:g} s; see {log}", time.monotonic() - start
        ) from error
    except BaseException:
        _stop(process, 0.0)
        raise
    wall_s = time.monotonic() - start
    if status == -signal.SIGKILL:
        raise OutOfMemory(f"the worker was killed from outside, most likely for its memory; see {log}", wall_s)
    if status == -signal.SIGTERM:
        raise TimedOut(f"the worker was stopped from outside (SIGTERM); see {log}", wall_s)
    if status < 0:
        raise BadOutput(f"the worker crashed ({signal.Signals(-status).name}); see {log}", wall_s)
    return status


def refuse_full_disk(folder: Path, said: str, status: int, otherwise: str = "choose another folder") -> None:
    """Tell a full disk from a bad result; what could not be written cannot always say so.

    Raises
    ------
    SelectorError
        The program's output says that it could not write, or it failed and ``folder`` has no space left.
    """
    if NO_SPACE.search(said) or (status != 0 and shutil.disk_usage(folder).free == 0):
        raise SelectorError(f"{folder}: no space left; free some, or {otherwise}")


def _stop(process: subprocess.Popen[bytes], grace_s: float) -> None:
    """End every process of the group: asked first, then killed. The group outlives its leader while a member lives."""
    with contextlib.suppress(ProcessLookupError):
        if grace_s > 0:
            os.killpg(process.pid, signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(grace_s)
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
