"""Campaigns through real `sbatch` jobs on two slots."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from on_cluster import OnCluster, until
from pymatgen.core import Lattice, Structure

from fw_tasks.database import launchpad_for
from fw_tasks.engines.base import Calculation
from models.labels import Label, load_labels
from selector.config import load_config

pytestmark = pytest.mark.slurm

LONG_S = 200.0
CLUSTER = "startup_s: 60\nevery: {partition: main, mem: 200}\ncategories: {rpa: {partition: short}}\n"
"""Partition short ends jobs after two minutes."""


@pytest.fixture(scope="module")
def labels() -> list[Label]:
    """Nine that take a second or two, and one whose replay outlasts its walltime."""
    by_cost = sorted(load_labels(), key=lambda label: label.cpu_s)
    return [*by_cost[:9], by_cost[-1]]


def wall_s(label: Label) -> float:
    return float(label.details.get("wall_s", label.cpu_s))


def attempts(folder: Path) -> tuple[list[Calculation], list[dict[str, Any]]]:
    """What every attempt left: its result, or its failure."""
    results = [Calculation.load(file) for file in sorted(folder.glob("calculations/*/*/calculation.npz"))]
    failures = [json.loads(file.read_text()) for file in sorted(folder.glob("calculations/*/*/failure.json"))]
    return results, failures


def test_a_campaign_with_cancelled_jobs_and_one_at_its_walltime(on_cluster: OnCluster, labels: list[Label]) -> None:
    (on_cluster.folder / "cifs").mkdir()
    for label in labels:
        label.structure.to(str(on_cluster.folder / "cifs" / f"{label.material_id}.cif"))
    on_cluster.write(
        "campaign: slurm\nbudget_cpu_h: 20\nmax_in_flight: 6\nmax_attempts: 1\naudit_fraction: 0.1\n"
        f"engine: {{name: replay, options: {{time_scale: {LONG_S / wall_s(labels[-1])}}}}}\n"
        "policy: {threshold: 1.0, random_share: 0, value_floor: 0}\npredictor: {retrain_every: 6}\n",
        CLUSTER,
    )
    long = labels[-1].material_id
    on_cluster.selector("init", "campaign.yaml")
    on_cluster.selector("add", "cifs")
    on_cluster.selector("pin", long)
    launcher = on_cluster.launch("--max-jobs", "5")
    try:
        # A running job, while it computes; and one that waits for a slot.
        calculation = on_cluster.folder / "run" / "calculations" / long / "rpa-1"
        until((calculation / "claim.lock").exists, 120.0, launcher)
        running = next(job for job, name in on_cluster.jobs("RUNNING").items() if long in name)
        waiting = until(lambda: on_cluster.jobs("PENDING"), 60.0, launcher)
        cancelled = max(waiting)
        on_cluster.slurm.run("scancel", running, cancelled)
        until((calculation / "failure.json").exists, 30.0, launcher)
        assert json.loads((calculation / "failure.json").read_text())["reason"] == "Interrupted"
        assert launcher.wait(480) == 0, on_cluster.said()
    finally:
        launcher.terminate()
        launcher.wait(30)

    store = on_cluster.campaign().store
    assert store.campaign()["state"] == "finished"
    candidates = {c["material_id"]: c for c in store.candidates()}
    # Every material decided. The long one was interrupted, which is no failure, then stopped at its walltime, which is.
    assert {c["status"] for c in candidates.values()} == {"done", "failed"}
    assert [c["material_id"] for c in candidates.values() if c["status"] == "failed"] == [long]
    assert (candidates[long]["reason_code"], candidates[long]["attempts"]) == ("TimedOut", 2)
    # Nothing twice: a result and a label for each of the others, at its first attempt.
    results, failures = attempts(on_cluster.folder / "run")
    assert len(results) == len(labels) - 1 == store.db.labels.count_documents({"campaign": "slurm"})
    assert {c["attempts"] for c in candidates.values() if c["status"] == "done"} == {1}
    assert Counter(f["reason"] for f in failures) == {"Interrupted": 1, "TimedOut": 1}
    # The ledger is exact: each attempt's own wall time on its core, and fine-tuning; nothing stays reserved.
    totals = store.ledger.totals()
    used_s = sum(r.wall_s for r in results) + sum(f["wall_s"] for f in failures)
    learning_cpu_h = totals.by_purpose.get("learn", 0.0)
    assert totals.reserved_cpu_h == 0.0
    assert totals.spent_cpu_h - learning_cpu_h == pytest.approx(used_s / 3600, abs=1e-5)
    # SLURM saw both cancelled, the walltime, and nothing of the campaign is left there.
    states = Counter(on_cluster.slurm.run("squeue", "-h", "-t", "all", "-o", "%T").splitlines())
    assert (states["CANCELLED"], states["TIMEOUT"]) == (2, 1)
    assert on_cluster.slurm.run("squeue", "-h") == ""


def test_one_real_calculation(on_cluster: OnCluster) -> None:
    (on_cluster.folder / "cifs").mkdir()
    silicon = Structure(Lattice.from_parameters(3.867, 3.867, 3.867, 60, 60, 60), ["Si", "Si"], [[0.0] * 3, [0.25] * 3])
    silicon.to(str(on_cluster.folder / "cifs" / "Si.cif"))
    on_cluster.write(
        "campaign: real\nbudget_cpu_h: 2\nmax_attempts: 4\naudit_fraction: 0\nengine: {name: gpaw, preset: smoke}\n"
        "policy: {threshold: 1.0, random_share: 0, value_floor: 0}\n",
        "startup_s: 300\ncategories: {rpa: {mem: 900}}\n",
    )
    on_cluster.selector("init", "campaign.yaml")
    on_cluster.selector("add", "cifs")
    launcher = on_cluster.launch("--max-jobs", "2")
    try:
        assert launcher.wait(400) == 0, on_cluster.said()
    finally:
        launcher.terminate()
        launcher.wait(30)
    store = on_cluster.campaign().store
    (candidate,) = store.candidates()
    # 0.883: GPAW's SC[RPA; IPA] of silicon at these settings (tests/fw_tasks/engines/test_gpaw_real.py). On a busy
    # machine an attempt may run out of what was reserved for it.
    assert candidate["status"] == "done"
    results, failures = attempts(on_cluster.folder / "run")
    assert len(results) == 1
    assert {f["reason"] for f in failures} <= {"TimedOut"}
    assert candidate["sc_computed"] == pytest.approx(0.883, abs=0.003)
    assert store.ledger.totals().reserved_cpu_h == 0.0
    assert "#SBATCH --mem=900" in next((on_cluster.folder / "run" / "launches").rglob("FW_submit.script")).read_text()


def test_what_slurm_refuses_is_one_line(on_cluster: OnCluster) -> None:
    (on_cluster.folder / "cifs").mkdir()
    label = min(load_labels(), key=lambda label: label.cpu_s)
    label.structure.to(str(on_cluster.folder / "cifs" / f"{label.material_id}.cif"))
    campaign = "campaign: bad\nbudget_cpu_h: 2\nengine: {name: replay}\npolicy: {threshold: 1.0}\n"
    on_cluster.write(campaign, "")
    on_cluster.selector("init", "campaign.yaml")
    on_cluster.selector("add", "cifs")
    for keys, code, message in (
        ("partition: nope", 2, "category 'rpa': SLURM has no partition 'nope' here; it has far, main, short"),
        ("constraint: gpu", 1, "Batch job submission failed: Invalid feature specification"),
        ("mem: 900G", 1, "sbatch: Memory specification can not be satisfied"),
        ("partion: main", 2, "unknown key 'partion'; did you mean 'partition'?"),
    ):
        on_cluster.write(campaign, f"categories: {{rpa: {{{keys}}}}}")
        done = on_cluster.selector("launch", "campaign.yaml", "--cluster", "cluster.yaml", check=False)
        (error,) = [line for line in done.stderr.splitlines() if "error" in line.split("  ")[0]]
        assert (done.returncode, done.stdout) == (code, "")
        assert error.startswith("selector: error: ")
        assert message in error
    # What could not be queued is there for the next launcher.
    launchpad = launchpad_for(load_config(on_cluster.folder / "campaign.yaml"))
    states = {f["state"] for f in launchpad.fireworks.find({"spec._category": "rpa"}, {"state": 1})}
    assert states == {"READY"}
    assert on_cluster.slurm.run("squeue", "-h") == ""


def test_a_local_database_is_refused_where_nodes_could_not_reach_it(on_cluster: OnCluster) -> None:
    on_cluster.write(
        "campaign: local\nbudget_cpu_h: 2\nengine: {name: replay}\n", "categories: {rpa: {partition: far}}"
    )
    file = on_cluster.folder / "campaign.yaml"
    file.write_text("".join(line for line in file.read_text().splitlines(True) if not line.startswith("database")))
    done = on_cluster.selector("launch", "campaign.yaml", "--cluster", "cluster.yaml", check=False)
    assert done.returncode == 2
    assert "jobs may run on elsewhere, which cannot reach this machine's local database" in done.stderr
