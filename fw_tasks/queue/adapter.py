"""FireWorks' queue adapter with this package's script, and the reason where a job could not be queued."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from fireworks.user_objects.queue_adapters.common_adapter import CommonAdapter

from fw_tasks.queue import slurm, template
from selector.errors import SelectorError

REFUSAL = "sbatch_refused.json"
"""FireWorks keeps to itself why a submission failed; it is written down in the launch folder, beside the script."""
KINDS: dict[str, type[SelectorError]] = {
    kind.__name__: kind for kind in (slurm.QueueRefused, slurm.QueueUnreachable, SelectorError)
}


class SlurmAdapter(CommonAdapter):
    """Keys: those of `fw_tasks.queue.template`, and two of its own.

    ``_startup_s`` is added to the walltime that a firework asks for; ``_max_s`` (or None) cuts it to what the partition
    allows: a calculation stopped there counts as timed out.
    """

    _fw_name = "{{fw_tasks.queue.adapter.SlurmAdapter}}"

    def __init__(self, q_type: str = "SLURM", **keys: Any) -> None:
        super().__init__(q_type, **keys)

    def walltime_s(self) -> float:
        """Seconds that the job asks for, start-up and the partition's limit considered."""
        wanted = slurm.seconds(self["walltime"]) + self.get("_startup_s", 0.0)
        return float(min(wanted, self.get("_max_s") or wanted))

    def get_script_str(self, launch_dir: str) -> str:
        """The job's script."""
        own = {key: value for key, value in self.items() if not key.startswith("_") and key != "walltime"}
        walltime_s = slurm.seconds(slurm.slurm_time(self.walltime_s()))
        return template.script({**own, "time": slurm.slurm_time(walltime_s)}, str(launch_dir), walltime_s)

    def submit_to_queue(self, script_file: str) -> str | None:
        """The job's id, or None where `sbatch` refuses; then the reason lies beside the script."""
        try:
            return slurm.ask("sbatch", "--parsable", script_file).strip().split(";")[0]
        except SelectorError as e:
            said = {"kind": type(e).__name__ if type(e).__name__ in KINDS else "SelectorError", "message": str(e)}
            Path(REFUSAL).write_text(json.dumps(said), encoding="utf-8")
            return None


def refusal(launch_dir: Path) -> SelectorError | None:
    """Why the job of this folder was not queued, if that is so."""
    try:
        said = json.loads((launch_dir / REFUSAL).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    return KINDS[said["kind"]](f"{said['message']} (the script: {launch_dir}/FW_submit.script)")
