"""The launcher's rounds on a real LaunchPad, with stand-ins for SLURM's programs."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import ase.io
import pytest
from fireworks import LaunchPad
from programs import Programs
from pymongo.database import Database

from fw_tasks.database import launchpad_for
from fw_tasks.launch import create_campaign
from fw_tasks.queue import offline, slurm
from fw_tasks.queue.cluster import Cluster, load_cluster
from fw_tasks.queue.launcher import QueueLauncher
from fw_tasks.queue.sizing import CLAIM_GRACE_S
from fw_tasks.shard_work import begin
from fw_tasks.shards import submit
from models.labels import load_labels
from selector.campaign import Campaign
from selector.candidates import read_candidates
from selector.config import load_config
from selector.errors import UsageError
from selector.shards.output import FolderOutput
from selector.shards.source import FileSource
from tests.conftest import Run

HERE = socket.gethostname()
REFUSED = "sbatch: error: Batch job submission failed: Invalid account or account/partition combination specified\n"


class Setting:
    """A campaign with four jobs ready, a cluster file, and SLURM's stand-ins."""

    def __init__(self, folder: Path, uri: str, database: str, programs: Programs) -> None:
        self.folder, self.programs = folder, programs
        self.file, self.cluster_file = folder / "campaign.yaml", folder / "cluster.yaml"
        self.file.write_text(
            f"campaign: queued\nfolder: run\nbudget_cpu_h: 10\ndatabase: {{uri: '{uri}', name: {database}}}\n"
            "engine: {name: replay}\npolicy: {threshold: 1.0, random_share: 0}\nmax_in_flight: 4\ncores_per_job: 2\n",
            encoding="utf-8",
        )
        self.cluster_file.write_text(
            "startup_s: 300\nevery: {partition: main, gpu-bind: closest}\ncategories: {rpa: {mem: 2G}}\n",
            encoding="utf-8",
        )
        self.config = load_config(self.file)
        self.launchpad: LaunchPad = launchpad_for(self.config)
        self.campaign: Campaign = create_campaign(self.config, self.launchpad)
        (folder / "cifs").mkdir()
        for label in sorted(load_labels(), key=lambda label: label.cpu_s)[:6]:
            label.structure.to(str(folder / "cifs" / f"{label.material_id}.cif"))
        self.campaign.add(*read_candidates([folder / "cifs"]))
        programs.say("sinfo", f"main*|{HERE}|infinite\nfar|n1|infinite\nshort|{HERE}|2:00\n")
        programs.say("squeue")
        programs.say("sbatch", "101\n")

    def launcher(self, max_jobs: int = 3, **options: Any) -> QueueLauncher:
        return QueueLauncher(self.file, self.config, self.cluster, max_jobs, **options)

    @property
    def cluster(self) -> Cluster:
        return load_cluster(self.cluster_file)

    def states(self) -> list[str]:
        query = {"spec._category": "rpa"}
        return sorted(firework["state"] for firework in self.launchpad.fireworks.find(query, {"state": 1}))

    def tree(self) -> set[str]:
        """Every file under the test's folder, but for the stand-ins' notes."""
        return {str(p) for p in self.folder.rglob("*") if self.programs.folder not in p.parents}


@pytest.fixture
def setting(
    tmp_path: Path, mongo_uri: str, database: Database[Any], programs: Programs, monkeypatch: pytest.MonkeyPatch
) -> Setting:
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")
    return Setting(tmp_path, mongo_uri, database.name, programs)


def test_the_queue_is_kept_full(setting: Setting) -> None:
    setting.campaign.step()
    launcher = setting.launcher(max_jobs=3)
    done = launcher.round(setting.launchpad, "me")
    assert (done.submitted, done.trouble) == (["101"] * 3, None)
    assert setting.states() == ["READY", "RESERVED", "RESERVED", "RESERVED"]
    launch = setting.launchpad.launches.find_one({"state": "RESERVED"})
    assert launch["state_history"][-1]["reservation_id"] == "101"
    # Three wait or run: no room. Then one has ended.
    row = "101|RUNNING|None|selector queued\n"
    setting.programs.say("squeue", row * 3)
    assert launcher.round(setting.launchpad, "me").submitted == []
    setting.programs.say("squeue", row * 2 + "9|RUNNING|None|selector other\n")
    assert launcher.round(setting.launchpad, "me").submitted == ["101"]
    # Launch folders lie under the campaign's, and FireWorks left nothing where it was called.
    assert list((setting.folder / "empty").iterdir()) == []
    assert Path(launch["launch_dir"]).is_relative_to(setting.folder / "run" / "launches")


def test_a_job_is_as_large_as_its_reservation(setting: Setting) -> None:
    setting.campaign.step()
    setting.launcher(max_jobs=1).round(setting.launchpad, "me")
    launch = setting.launchpad.launches.find_one({"state": "RESERVED"})
    script = (Path(launch["launch_dir"]) / "FW_submit.script").read_text(encoding="utf-8")
    found = dict(re.findall(r"^#SBATCH --([\w-]+)=(.*)$", script, re.M))
    spec = setting.launchpad.get_fw_by_id(launch["fw_id"]).spec
    reserved_cpu_h = setting.campaign.store.candidate(spec["material_id"])["decision"]["reserved_cpu_h"]
    wanted_s = reserved_cpu_h / setting.config.cores_per_job * 3600 + CLAIM_GRACE_S + 300.0
    assert wanted_s <= slurm.seconds(found["time"]) < wanted_s + 120.0
    assert (found["partition"], found["mem"], found["gpu-bind"]) == ("main", "2G", "closest")
    assert (found["nodes"], found["ntasks"], found["cpus-per-task"]) == ("1", "2", "1")
    assert found["job-name"] == f"{spec['formula']}-rpa-{spec['material_id']}"
    assert f"-m fw_tasks.workers {setting.file} singleshot --fw_id {launch['fw_id']} &" in script


def test_a_partition_with_a_shorter_limit_cuts_the_walltime(setting: Setting) -> None:
    setting.cluster_file.write_text("categories: {rpa: {partition: short}}\n", encoding="utf-8")
    setting.campaign.step()
    (script,) = setting.launcher().scripts(setting.launchpad).values()
    assert "#SBATCH --time=0-00:02:00\n" in script


def test_what_sbatch_refuses_is_handed_back(setting: Setting) -> None:
    setting.campaign.step()
    setting.programs.say("sbatch", err=REFUSED, rc=1)
    with pytest.raises(slurm.QueueRefused, match=r"sbatch: .*Invalid account.*the script: .*FW_submit") as e:
        setting.launcher().round(setting.launchpad, "me")
    assert "\n" not in str(e.value)
    assert setting.states() == ["READY"] * 4
    # With jobs in the queue it may be a limit that passes.
    setting.programs.say("squeue", "7|RUNNING|None|selector queued\n")
    done = setting.launcher().round(setting.launchpad, "me")
    assert isinstance(done.trouble, slurm.QueueRefused)
    assert setting.states() == ["READY"] * 4
    setting.programs.say("sbatch", "102\n")
    assert len(setting.launcher().round(setting.launchpad, "me").submitted) == 2


def test_a_controller_that_does_not_answer_is_waited_for(setting: Setting) -> None:
    setting.campaign.step()
    launcher = setting.launcher()
    setting.programs.say("squeue", err="squeue: error: Unable to contact slurm controller (connect failure)\n", rc=1)
    done = launcher.round(setting.launchpad, "me")
    assert isinstance(done.trouble, slurm.QueueUnreachable)
    assert (done.submitted, setting.programs.calls("sbatch")) == ([], [])


@pytest.mark.slow
def test_light_tasks_need_no_queue(setting: Setting) -> None:
    setting.campaign.step()
    firework = setting.launchpad.fireworks.find_one({"spec._category": "rpa", "state": "READY"}, {"fw_id": 1})
    fake = [
        sys.executable,
        "-m",
        "fw_tasks.workers",
        str(setting.file),
        "singleshot",
        "--fw_id",
        str(firework["fw_id"]),
    ]
    subprocess.run(fake, check=True, cwd=setting.folder / "empty", timeout=120)
    setting.programs.say("squeue", "7|RUNNING|None|selector queued\n" * 3)
    done = setting.launcher(max_jobs=3).round(setting.launchpad, "me")
    assert done.n_light == 2
    assert setting.campaign.store.count("done") == 1
    assert setting.programs.calls("sbatch") == []


def test_categories(setting: Setting) -> None:
    with pytest.raises(UsageError, match="no category 'ipa'"):
        setting.launcher(categories=["ipa"])
    setting.cluster_file.write_text("categories: {learn: {}}\n", encoding="utf-8")
    with pytest.raises(UsageError, match="no category 'rpa', which this campaign's jobs are of; add it"):
        setting.launcher()
    setting.launcher(categories=["learn"])


def test_shards_to_predict_are_queue_jobs_where_the_cluster_has_a_category_for_them(setting: Setting) -> None:
    output, source = FolderOutput(setting.folder / "predictions"), setting.folder / "six.extxyz"
    for label in load_labels()[:6]:
        ase.io.write(source, label.structure.to_ase_atoms(), append=True)
    plan = begin(output, FileSource.find([source], None), None, 0.75, 3)
    assert submit(setting.launchpad, "queued", output, plan, "auto") == 2
    setting.cluster_file.write_text(
        "categories: {rpa: {}, predict: {gpus-per-task: 1, time: '0:20:00'}}\n", encoding="utf-8"
    )
    done = setting.launcher(categories=["rpa"]).round(setting.launchpad, "me")
    assert (done.submitted, done.n_shards) == ([], 0)
    launcher = setting.launcher(max_jobs=5, categories=["predict"])
    done = launcher.round(setting.launchpad, "me")
    assert (done.submitted, done.n_shards) == (["101"] * 2, 2)
    launch = setting.launchpad.launches.find_one({"state": "RESERVED"})
    script = (Path(launch["launch_dir"]) / "FW_submit.script").read_text(encoding="utf-8")
    assert "#SBATCH --gpus-per-task=1\n" in script
    # With the cluster's start-up.
    assert "#SBATCH --time=0-00:25:00\n" in script
    assert f"--fw_id {launch['fw_id']} &" in script
    # Nodes without the database can't write predictions down.
    done = setting.launcher(offline=True).round(setting.launchpad, "me")
    assert (done.submitted, done.n_shards) == ([], 0)


def test_nodes_that_cannot_reach_the_database_are_refused(setting: Setting, monkeypatch: pytest.MonkeyPatch) -> None:
    setting.cluster_file.write_text("categories: {rpa: {partition: far}}\n", encoding="utf-8")
    with pytest.raises(UsageError, match=r"jobs may run on n1, and .* names this machine by a"):
        setting.launcher()
    local = setting.config.model_copy(update={"database": type(setting.config.database)()})
    setting.config = local
    with pytest.raises(
        UsageError, match="jobs may run on n1, which cannot reach this machine's local database: name a"
    ):
        setting.launcher()
    setting.launcher(offline=True)
    # On this very machine they can.
    monkeypatch.setattr(socket, "gethostname", lambda: "n1")
    setting.launcher()


def test_offline_jobs_come_back_by_files(setting: Setting) -> None:
    setting.campaign.step()
    launcher = setting.launcher(max_jobs=1, offline=True)
    launcher.round(setting.launchpad, "me")
    launch = setting.launchpad.launches.find_one({"state": "RESERVED"})
    # Under the launcher's own name it would be lost with the launcher.
    assert launch["fworker"]["name"] == "offline me"
    folder = Path(launch["launch_dir"])
    script = (folder / "FW_submit.script").read_text(encoding="utf-8")
    assert f"-m fw_tasks.queue.offline {setting.file} singleshot --offline --fw_id {launch['fw_id']} &" in script
    assert offline.take_over(setting.launchpad, "queued") == 0
    assert setting.states().count("RESERVED") == 1
    # On the node: no database, not even its address.
    setting.file.rename(setting.folder / "elsewhere.yaml")
    bare = {key: value for key, value in os.environ.items() if "MONGO" not in key}
    subprocess.run([sys.executable, "-m", "fw_tasks.queue.offline"], cwd=folder, env=bare, check=True, timeout=120)
    assert json.loads((folder / "FW_offline.json").read_text(encoding="utf-8"))["state"] == "COMPLETED"
    setting.programs.say("squeue", "101|RUNNING|None|selector queued\n")
    done = launcher.round(setting.launchpad, "me")
    assert done.n_light == 2
    assert (setting.states().count("COMPLETED"), setting.campaign.store.count("done")) == (1, 1)
    assert offline.take_over(setting.launchpad, "queued") == 0


def test_a_dry_run_prints_the_script_and_leaves_nothing(setting: Setting, selector: Run) -> None:
    before, sent = setting.tree(), setting.launchpad.fireworks.count_documents({})
    command = ["launch", setting.file, "--cluster", setting.cluster_file, "--dry-run"]
    code, out, err = selector(*command)
    assert (code, sent) == (0, 0), err
    assert out.startswith("#!/bin/bash")
    assert "#SBATCH --gpu-bind=closest\n" in out
    assert (setting.tree(), setting.launchpad.fireworks.count_documents({})) == (before, 0)
    # Of what is ready, where something is.
    setting.campaign.step()
    before = setting.tree()
    ready = setting.launchpad.fireworks.find_one({"spec._category": "rpa"}, sort=[("fw_id", 1)])
    code, out, _ = selector(*command)
    assert f"--fw_id {ready['fw_id']} &" in out
    assert (setting.tree(), setting.states()) == (before, ["READY"] * 4)
    assert setting.programs.calls("sbatch") == []


@pytest.mark.parametrize(
    ("cluster", "message"),
    [
        ("categories: {rpa: {partition: nope}}", "SLURM has no partition 'nope' here; it has far, main, short"),
        ("categories: {rpa: {partion: main}}", "unknown key 'partion'; did you mean 'partition'?"),
    ],
)
def test_mistakes_of_a_cluster_file_are_one_line(setting: Setting, selector: Run, cluster: str, message: str) -> None:
    setting.cluster_file.write_text(cluster, encoding="utf-8")
    code, out, err = selector("launch", setting.file, "--cluster", setting.cluster_file)
    assert (code, out) == (2, "")
    assert err.startswith("selector: error: ")
    assert message in err
    assert err.count("\n") == 1


def test_a_refusal_at_the_command_line(setting: Setting, selector: Run) -> None:
    setting.programs.say("sbatch", err=REFUSED, rc=1)
    code, _, err = selector("launch", setting.file, "--cluster", setting.cluster_file, "--max-jobs", 2)
    assert code == 1
    assert "selector: error: sbatch: Batch job submission failed: Invalid account" in err.splitlines()[-1]
    assert setting.states() == ["READY"] * 4
