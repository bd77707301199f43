"""SLURM's commands and what they answer: states of jobs, partitions, hosts, one line for each refusal."""

from __future__ import annotations

import getpass
import math
import re
import shutil
import subprocess
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

from selector.errors import SelectorError, UsageError

COMMAND_TIMEOUT_S = 60.0
"""A busy controller may take half a minute; SLURM's own commands give up after its MessageTimeout."""
IDS_PER_CALL = 500
ENDED = frozenset(
    {
        "BOOT_FAIL", "CANCELLED", "COMPLETED", "DEADLINE", "FAILED", "NODE_FAIL", "OUT_OF_MEMORY", "PREEMPTED",
        "REVOKED", "TIMEOUT",
    }
)  # fmt: skip
"""States of a job that will not run any more; `squeue` shows it for a while (MinJobAge, 300 s), then it is gone."""
UNANSWERED = re.compile(
    r"unable to contact|socket timed out|temporarily unable|connection (refused|timed out)|zero bytes|"
    r"establish a configuration source|unable to process configuration file|communication (connection )?failure|"
    r"unable to connect|try again later",
    re.IGNORECASE,
)
TIME = re.compile(r"(?:(?P<d>\d+)-)?(?P<rest>\d+(?::\d+){0,2})")


class QueueRefused(SelectorError):
    """SLURM answered, and said no."""


class QueueUnreachable(SelectorError):
    """SLURM's controller did not answer: nothing is known of any job."""


@dataclass(frozen=True)
class Partition:
    """A partition: the longest walltime in seconds (None: no limit) and the hosts of its nodes."""

    name: str
    max_s: float | None
    hosts: frozenset[str]
    is_default: bool = False


@dataclass(frozen=True)
class QueueJob:
    """A job that waits or runs: its id, its state, and why it waits."""

    job_id: str
    state: str
    reason: str


def job_states(job_ids: Iterable[str]) -> dict[str, str]:
    """What SLURM knows of these jobs: job id -> state, as "PENDING", "RUNNING" or one of `ENDED`.

    A job that is not in the answer is gone: it ended some minutes ago, whether it ran or not. The id of a launch's job
    stands in its ``state_history`` as ``reservation_id`` from the moment it is queued, and stays there while it runs.

    Raises
    ------
    QueueUnreachable
        The controller does not answer, or there is no SLURM here: nothing may be concluded.
    """
    states: dict[str, str] = {}
    for ids in _batches(sorted({str(job_id) for job_id in job_ids})):
        try:
            told = ask("squeue", "-h", "-t", "all", "-j", ",".join(ids), "-o", "%i %T")
        except QueueRefused as e:
            # So it says where it was asked of a single job, and that one is gone.
            if "invalid job id" not in str(e).lower():
                raise QueueUnreachable(str(e)) from None
            continue
        except UsageError as e:
            raise QueueUnreachable(str(e)) from None
        for line in told.splitlines():
            job_id, _, state = line.strip().partition(" ")
            states[job_id] = state
    return states


def lives(state: str | None) -> bool:
    """Whether a job in this state (None: gone) waits, runs, or may yet run."""
    return state is not None and state not in ENDED


def jobs_of(comment: str) -> list[QueueJob]:
    """This user's jobs with such a comment that wait or run.

    Raises
    ------
    QueueUnreachable
        The controller does not answer.
    """
    told = ask("squeue", "-h", "-u", getpass.getuser(), "-o", "%i|%T|%r|%k")
    rows = [line.split("|", 3) for line in told.splitlines() if line.count("|") >= 3]
    return [QueueJob(*row[:3]) for row in rows if row[3].strip() == comment and lives(row[1])]


def partitions() -> dict[str, Partition]:
    """The partitions that SLURM has here, by name."""
    rows = [line.split("|") for line in ask("sinfo", "-a", "-h", "-N", "-o", "%P|%n|%l").splitlines() if line]
    found: dict[str, Partition] = {}
    for name, host, limit in rows:
        plain = name.removesuffix("*")
        before = found[plain].hosts if plain in found else frozenset()
        max_s = None if limit in ("infinite", "n/a") else seconds(limit)
        found[plain] = Partition(plain, max_s, before | {host}, name.endswith("*"))
    return found


def together(choice: Sequence[Partition]) -> Partition:
    """Partitions of which SLURM takes whichever is free first: the shortest limit, all hosts."""
    limits = [p.max_s for p in choice if p.max_s is not None]
    hosts = frozenset[str]().union(*(p.hosts for p in choice))
    return Partition(",".join(p.name for p in choice), min(limits, default=None), hosts)


def ask(program: str, *arguments: str) -> str:
    """The standard output of one of SLURM's programs.

    Raises
    ------
    UsageError
        The program is not on PATH.
    QueueUnreachable
        The controller does not answer.
    QueueRefused
        Anything else that the program complains of, in its own words.
    """
    place = shutil.which(program)
    if place is None:
        raise UsageError(f"{program} is not on PATH; run this where SLURM's commands are, as on a login node")
    try:
        done = subprocess.run(
            [place, *arguments], capture_output=True, text=True, timeout=COMMAND_TIMEOUT_S, check=False
        )
    except subprocess.TimeoutExpired:
        raise QueueUnreachable(f"{program} did not answer within {COMMAND_TIMEOUT_S:.0f} s") from None
    if done.returncode != 0:
        raise complaint(program, done.stderr)
    return done.stdout


def complaint(program: str, stderr: str) -> QueueRefused | QueueUnreachable:
    """What a program wrote on standard error, as one line."""
    lines = [re.sub(rf"^{program}: (error: |fatal: )*", "", line.strip()) for line in stderr.splitlines()]
    said = "; ".join(dict.fromkeys(line for line in lines if line)) or "it gave no reason"
    kind = QueueUnreachable if UNANSWERED.search(said) else QueueRefused
    return kind(f"{program}: {said}")


def slurm_time(seconds: float) -> str:
    """Seconds as SLURM writes them, days-hours:minutes:seconds, rounded up to its resolution of a minute."""
    minutes = max(1, math.ceil(seconds / 60 - 1e-9))
    return f"{minutes // 1440}-{minutes // 60 % 24:02d}:{minutes % 60:02d}:00"


def seconds(time: str | int) -> float:
    """What SLURM understands by minutes, minutes:seconds, hours:minutes:seconds, or days-hours[:minutes[:seconds]].

    Raises
    ------
    UsageError
        It understands nothing.
    """
    found = TIME.fullmatch(str(time))
    if not found:
        raise UsageError(f"time {time!r}: not a SLURM time; write days-hours:minutes:seconds, as 1-12:00:00")
    parts = [int(part) for part in found["rest"].split(":")]
    if found["d"] is not None:
        hours, minutes, secs = (*parts, 0, 0)[:3]
        return 86400.0 * int(found["d"]) + 3600 * hours + 60 * minutes + secs
    hours, minutes, secs = ((0, *parts), (0, *parts, 0))[len(parts) == 1] if len(parts) < 3 else parts
    return 3600.0 * hours + 60 * minutes + secs


def _batches(ids: Sequence[str]) -> Iterator[list[str]]:
    rest = iter(ids)
    while batch := list(islice(rest, IDS_PER_CALL)):
        yield batch
