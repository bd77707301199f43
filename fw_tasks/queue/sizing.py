"""How large a queue job is: what its reservation pays for, and what it takes to start and to stop."""

from __future__ import annotations

import re
from typing import Any

from fw_tasks.queue.slurm import slurm_time
from fw_tasks.tasks import CLAIM_GRACE_S

JOB_NAME_LENGTH = 60


def queue_size(formula: str, material_id: str, level: str, cores: int, time_limit_s: float) -> dict[str, Any]:
    """What stands in a firework's spec as ``_queueadapter``: cores, and a walltime in which its reservation is spent.

    The walltime is the job's time limit (reservation / cores) and the grace within which a calculation at its limit is
    stopped; a cluster's start-up comes on top when the job is submitted. One task a core, so that both `mpirun` and
    threads find the cores they were promised.
    """
    name = re.sub(r"[^\w.+-]+", "_", f"{formula}-{level}-{material_id}")
    return {
        "nodes": 1,
        "ntasks": cores,
        "cpus_per_task": 1,
        "walltime": slurm_time(time_limit_s + CLAIM_GRACE_S),
        "job_name": name[:JOB_NAME_LENGTH],
    }
