"""Jobs on nodes that cannot reach the database: what they leave in their launch folders, taken over from there.

FireWorks' offline mode: ``python -m fw_tasks.queue.offline`` runs the firework that lies in the present folder. Results
themselves are files in any case; `take_over` brings the LaunchPad up to date, on which the records that follow wait.
"""

from __future__ import annotations

import json
import warnings
from pathlib import Path

from fireworks import FWorker, LaunchPad
from fireworks.core.rocket_launcher import launch_rocket

from fw_tasks.stopping import stopping


def take_over(launchpad: LaunchPad, campaign: str) -> int:
    """Tell the LaunchPad which of the campaign's offline rockets took off, beat, or landed; how many have landed.

    A launch that the LaunchPad has given up meanwhile is not looked at again. A folder that cannot be read now, as on
    a file system that shows a new file late, is read the next time.
    """
    landed = 0
    for run in list(
        launchpad.offline_runs.find({"completed": False, "deprecated": False}, {"launch_id": 1, "fw_id": 1})
    ):
        if not launchpad.fireworks.count_documents({"fw_id": run["fw_id"], "spec.campaign": campaign}):
            continue
        launch = launchpad.launches.find_one({"launch_id": run["launch_id"]}, {"state": 1, "launch_dir": 1})
        if launch is None or launch["state"] not in ("RESERVED", "RUNNING"):
            launchpad.forget_offline(run["launch_id"])
            continue
        told = _read(Path(launch["launch_dir"]) / "FW_offline.json")
        if "started_on" not in told:
            continue
        with warnings.catch_warnings():
            # It warns of every rocket that has not beaten its heart yet.
            warnings.simplefilter("ignore")
            failed = launchpad.recover_offline(run["launch_id"], ignore_errors=True)
        landed += failed is None and "fwaction" in told
    return landed


def _read(file: Path) -> dict[str, object]:
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def launch_here() -> None:
    """Launch the rocket of this folder's FW.json; SIGTERM, from `scancel` or at the walltime, hands its task back."""
    stopping.listen(hand_back=True)
    launch_rocket(None, FWorker(), strm_lvl="ERROR")


if __name__ == "__main__":
    # What FireWorks' queue launcher adds to the command ("singleshot --offline --fw_id N") stands in FW.json, too.
    launch_here()
