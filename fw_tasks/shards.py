"""A run of shards as fireworks: one a shard, of category ``predict``, which any worker of the campaign may launch."""

from __future__ import annotations

import contextlib
import io
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from fireworks import FiretaskBase, Firework, FWAction, LaunchPad, Workflow

from fw_tasks.lost import heal
from fw_tasks.shard_work import open_output, predict_shard
from fw_tasks.stopping import stopping
from fw_tasks.tasks import once_more
from fw_tasks.workers import LocalWorkers
from selector.config import CampaignConfig
from selector.errors import SelectorError
from selector.shards.output import Output, Plan

CATEGORY = "predict"
OUT = ("WAITING", "READY", "RESERVED", "RUNNING", "PAUSED", "DEFUSED")
"""States in which a shard's firework is left alone."""
MAX_LAUNCHES = 3
LOOK_S, HEAL_S = 0.5, 10.0


class PredictShard(FiretaskBase):
    """Predict one shard of a run; nothing if it is there already."""

    _fw_name = "{{fw_tasks.shards.PredictShard}}"
    required_params = ["output", "shard", "device"]  # noqa: RUF012 - FireWorks' own way

    def run_task(self, fw_spec: dict[str, Any]) -> FWAction:
        def database() -> Any:
            return self.launchpad.db

        def predict() -> Any:
            return predict_shard(open_output(self["output"], database), self["shard"], self["device"], database)

        # A shard that is given up is not there; whoever takes it next begins it again.
        with stopping.may_interrupt():
            done = once_more(predict)
        return FWAction(stored_data=asdict(done) if done else {"shard": self["shard"], "already": True})


def run_key(output: Output, plan: Plan) -> str:
    """What all fireworks of a run carry as ``spec.selector_workflow``."""
    return f"shards {plan.run_id} {output}"


def shard_workflow(campaign: str, output: Output, plan: Plan, k: int, device: str) -> Workflow:
    """One firework: it waits for none, so that a run of thousands is no workflow of thousands."""
    about = {"campaign": campaign, "selector_workflow": run_key(output, plan), "selector_shard": k}
    spec = {**about, "_category": CATEGORY, "_add_launchpad_and_fw_id": True}
    name = f"predict shard {k} of {len(plan.shards)}"
    firework = Firework(PredictShard(output=output.describe(), shard=k, device=device), spec, name=name)
    return Workflow([firework], name=name, metadata=about)


def submit(launchpad: LaunchPad, campaign: str, output: Output, plan: Plan, device: str) -> int:
    """See that every shard that is not there has a firework that is out; how many were added or put back."""
    key, done = run_key(output, plan), output.done()
    _sweep(launchpad, key)
    fields = {"fw_id": 1, "state": 1, "spec.selector_shard": 1}
    known = {f["spec"]["selector_shard"]: f for f in launchpad.fireworks.find({"spec.selector_workflow": key}, fields)}
    missing = [k for k in range(len(plan.shards)) if k not in done]
    new = [k for k in missing if k not in known or known[k]["state"] == "ARCHIVED"]
    ended = [k for k in missing if k not in new and known[k]["state"] not in OUT]
    for k in ended:
        launchpad.rerun_fw(known[k]["fw_id"])
    if new:
        workflows = [shard_workflow(campaign, output, plan, k, device) for k in new]
        with contextlib.redirect_stderr(io.StringIO()):  # FireWorks draws a progress bar
            launchpad.bulk_add_wfs(workflows)
    return len(new) + len(ended)


def _sweep(launchpad: LaunchPad, key: str) -> None:
    """Remove workflows whose adding was cut short before their fireworks were written."""
    there = {f["fw_id"] for f in launchpad.fireworks.find({"spec.selector_workflow": key}, {"fw_id": 1})}
    torn = [
        w["_id"]
        for w in launchpad.workflows.find({"metadata.selector_workflow": key}, {"nodes": 1})
        if not there.issuperset(w["nodes"])
    ]
    for _id in torn:
        launchpad.workflows.delete_one({"_id": _id})


def launch_all(
    config_file: Path, config: CampaignConfig, launchpad: LaunchPad, output: Output, plan: Plan, jobs: int
) -> Iterator[set[int]]:
    """Launch the run's rockets with ``jobs`` local workers until every shard is there; the shards done, now and again.

    Raises
    ------
    SelectorError
        A shard failed `MAX_LAUNCHES` times, or every worker ended for good.
    """
    key, looked_s = run_key(output, plan), 0.0
    # Launches of earlier commands are not counted: whoever begins again has put right what was wrong.
    before = _launches(launchpad, key)
    with LocalWorkers(config_file, config, jobs, [CATEGORY]) as workers:
        while len(done := output.done()) < len(plan.shards):
            yield done
            workers.check()
            if time.monotonic() - looked_s > HEAL_S:
                heal(launchpad, config.campaign, config.folder, config.lost_after_h * 3600)
                _try_again(launchpad, key, before)
                looked_s = time.monotonic()
            time.sleep(LOOK_S)
        yield done


def _launches(launchpad: LaunchPad, key: str) -> Counter[int]:
    fireworks = launchpad.fireworks.find({"spec.selector_workflow": key}, {"fw_id": 1, "archived_launches": 1})
    return Counter({f["fw_id"]: len(f.get("archived_launches", [])) for f in fireworks})


def _try_again(launchpad: LaunchPad, key: str, before: Counter[int]) -> None:
    """Hand shards that failed, or whose worker died, out again."""
    fizzled = {"spec.selector_workflow": key, "state": "FIZZLED"}
    for f in launchpad.fireworks.find(fizzled, {"fw_id": 1, "archived_launches": 1, "launches": 1}):
        launches = [*f.get("archived_launches", []), *f.get("launches", [])]
        if len(launches) - before[f["fw_id"]] >= MAX_LAUNCHES:
            raise SelectorError(f"a shard failed {MAX_LAUNCHES} times: {_why(launchpad, launches[-1])}")
        launchpad.rerun_fw(f["fw_id"])


def _why(launchpad: LaunchPad, launch_id: int) -> str:
    launch = launchpad.launches.find_one({"launch_id": launch_id}, {"action": 1}) or {}
    stored = ((launch.get("action") or {}).get("stored_data") or {}).get("_exception") or {}
    lines = str(stored.get("_stacktrace", "its worker died")).strip().splitlines()
    return lines[-1].removeprefix("selector.errors.")
