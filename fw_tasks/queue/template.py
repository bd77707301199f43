"""The script of a queue job: every option of SLURM's `sbatch` by its own name, each key checked before it is sent.

FireWorks' template knows 29 options and loses some of those silently (``gpu-bind``: its placeholder is no identifier).
Here a key of a cluster file is an option of `sbatch` without its dashes in front, written with ``-`` or ``_``.
"""

from __future__ import annotations

import difflib
import re
import shlex
from collections.abc import Mapping
from typing import Any

from selector.errors import UsageError

_NAMES = """
    account acctg-freq batch bb bbf begin cluster-constraint comment constraint consolidate-segments container
    container-id contiguous core-spec cores-per-socket cpu-freq cpus-per-gpu cpus-per-task deadline delay-boot
    dependency distribution error exclude exclusive export extra extra-node-info get-user-env gpu-bind gpu-freq
    gpus gpus-per-node gpus-per-socket gpus-per-task gres gres-flags hint hold ignore-pbs image job-name
    kill-on-invalid-dep licenses mail-type mail-user mcs-label mem mem-bind mem-per-cpu mem-per-gpu mincpus
    network nice no-kill no-requeue nodefile nodelist nodes ntasks ntasks-per-core ntasks-per-gpu
    ntasks-per-node ntasks-per-socket oom-kill-step open-mode output overcommit oversubscribe partition power
    prefer priority profile propagate qos reboot requeue reservation resv-ports segment signal sockets-per-node
    spread-job stepmgr switches thread-spec threads-per-core time time-min tmp tres-bind tres-per-task
    use-min-nodes volume wait-all-nodes wckey
"""
OPTIONS = frozenset(_NAMES.split())
"""Long options of `sbatch` 22.05 to 25.05 and NERSC's Shifter, without those that submit anything else than a job."""
LINES = ("pre_rocket", "post_rocket")
"""Shell lines before and after the rocket."""
ALIASES = {"queue": "partition", "walltime": "time", "exclude-nodes": "exclude", "license": "licenses"}
"""What FireWorks' own template calls them."""
ONE_JOB = "a job is one calculation, submitted and followed by its id"
REFUSED = {
    "array": ONE_JOB,
    "clusters": ONE_JOB,
    "wait": ONE_JOB,
    "wrap": ONE_JOB,
    "test-only": ONE_JOB,
    "parsable": ONE_JOB,
    "chdir": "a job starts in its launch folder",
    "comment": "it tells the campaign's jobs from others",
    "job-name": "it names the material",
    "requeue": "what failed is tried again by the campaign itself",
}
"""Keys that a cluster file may not set, and why."""
PLAIN = re.compile(r"[\w@%+=:,./&|*\[\]-]+")
HEAD = """\
#!/bin/bash -l
{options}

# SLURM says it itself from 23.02 on: a rocket that is stopped at the end ran out of time, any other was cancelled.
export SLURM_JOB_END_TIME=${{SLURM_JOB_END_TIME:-$(($(date +%s) + {walltime_s}))}}
export OMP_NUM_THREADS=${{SLURM_CPUS_PER_TASK:-1}}
cd {launch_dir} || exit 1
"""
BODY = """\
# Unless it catches SIGTERM (scancel, or the walltime), the shell ends at once and SLURM kills the rocket with it.
trap 'kill -TERM "$rocket" 2>/dev/null' TERM
{rocket_launch} &
rocket=$!
wait "$rocket"; status=$?
while kill -0 "$rocket" 2>/dev/null; do wait "$rocket"; status=$?; done
"""


def checked(keys: Mapping[str, Any], where: str) -> dict[str, Any]:
    """The keys of a cluster file under SLURM's own names (with underscores, as FireWorks' adapters take them).

    Raises
    ------
    UsageError
        A key is no option of `sbatch`, or is not the user's to set; the message names it and the nearest known one.
    """
    return {_known(str(key), value, where): value for key, value in keys.items()}


def _known(key: str, value: Any, where: str) -> str:
    if key in LINES:
        return key
    option = key.replace("_", "-")
    option = ALIASES.get(option, option)
    if option in REFUSED:
        raise UsageError(f"{where}: key '{key}' is not yours to set: {REFUSED[option]}; remove it")
    if option not in OPTIONS:
        names = [*OPTIONS, *LINES, *ALIASES]
        near = difflib.get_close_matches(option, names, n=1, cutoff=0.5) or difflib.get_close_matches(key, names, n=1)
        hint = f"did you mean '{near[0]}'?" if near else "see `sbatch --help`"
        raise UsageError(
            f"{where}: unknown key '{key}'; {hint} Keys are the long options of sbatch, pre_rocket, post_rocket"
        )
    if not isinstance(value, (str, int, float, bool)) or "\n" in str(value):
        raise UsageError(f"{where}: key '{key}' takes one word, number or true, not {value!r}; correct it")
    return option.replace("-", "_")


def script(values: Mapping[str, Any], launch_dir: str, walltime_s: float) -> str:
    """The whole script of a job: its options, then the rocket in its launch folder.

    Parameters
    ----------
    values : option (with underscores) -> value, true for an option without one; ``rocket_launch`` and `LINES`
    walltime_s : s, what ``time`` says; the rocket is told when that is over
    """
    options = {key.replace("_", "-"): value for key, value in values.items()}
    lines = [_option(name, options[name]) for name in sorted(OPTIONS & options.keys())]
    head = HEAD.format(
        options="\n".join(line for line in lines if line),
        walltime_s=round(walltime_s),
        launch_dir=shlex.quote(launch_dir),
    )
    parts = [
        head,
        values.get("pre_rocket"),
        BODY.format(rocket_launch=values["rocket_launch"]),
        values.get("post_rocket"),
    ]
    return "\n".join(str(part).rstrip("\n") + "\n" for part in parts if part) + 'exit "$status"\n'


def _option(name: str, value: Any) -> str | None:
    if value is None or value is False:
        return None
    if value is True:
        return f"#SBATCH --{name}"
    text = str(value)
    # `sbatch` reads quotes, and takes an unquoted # for a comment.
    return f"#SBATCH --{name}={text if PLAIN.fullmatch(text) else shlex.quote(text)}"
