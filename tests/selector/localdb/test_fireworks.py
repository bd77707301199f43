"""FireWorks 2.1.4, unmodified, in `uri_mode`."""

import collections
import importlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from fireworks import Firework, FWorker, LaunchPad, PyTask, ScriptTask, Workflow
from fireworks.core.rocket_launcher import launch_rocket, rapidfire

from selector.localdb import ensure_running, status, stop

_TASK = """
import os, time
from fireworks import FiretaskBase, FWAction, explicit_serialize

@explicit_serialize
class Note(FiretaskBase):
    def run_task(self, fw_spec):
        stalled = os.environ["RAN_LOG"] + ".stalled"
        if fw_spec["i"] == STALLING and not os.path.exists(stalled):
            with open(stalled, "w") as file:
                file.write(str(os.getpid()))
            time.sleep(600)
        with open(os.environ["RAN_LOG"], "a") as log:
            log.write(f"{fw_spec['i']}\\n")
        return FWAction(stored_data={"i": fw_spec["i"]})
"""


# The first launcher that gets this firework is killed at it.
STALLING = 60


@pytest.fixture
def launchpad(local_uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[LaunchPad]:
    monkeypatch.chdir(tmp_path)
    pad = LaunchPad(host=local_uri, name="fw_test", uri_mode=True, strm_lvl="ERROR")
    pad.reset("", require_password=False, max_reset_wo_password=10**6)
    yield pad
    pad.connection.drop_database("fw_test")
    pad.connection.close()


def states(pad: LaunchPad) -> dict[str, int]:
    return dict(collections.Counter(row["state"] for row in pad.fireworks.find({}, {"state": 1})))


def test_a_workflow_from_start_to_end(launchpad: LaunchPad) -> None:
    first = Firework(PyTask(func="math.sqrt", args=[16], stored_data_varname="root"), name="first")
    second = Firework(ScriptTask.from_str("true"), name="second")
    launchpad.add_wf(Workflow([first, second], {first: [second]}))
    assert states(launchpad) == {"READY": 1, "WAITING": 1}
    assert launch_rocket(launchpad, FWorker(), strm_lvl="ERROR")
    assert states(launchpad) == {"COMPLETED": 1, "READY": 1}
    rapidfire(launchpad, FWorker(), strm_lvl="ERROR", sleep_time=1)
    assert states(launchpad) == {"COMPLETED": 2}
    [first_id], [second_id] = (launchpad.get_fw_ids({"name": name}) for name in ("first", "second"))
    assert launchpad.get_fw_by_id(first_id).launches[0].action.stored_data["root"] == 4.0
    assert launchpad.get_wf_summary_dict(first_id)["state"] == "COMPLETED"
    # `lpad get_fws --sort created_on` turns ISO text into dates on the server.
    launchpad.fireworks.update_one({"fw_id": first_id}, {"$set": {"created_on": "2020-01-01T00:00:00.5+00:00"}})
    assert launchpad.get_fw_ids(sort=[("created_on", 1)]) == [first_id, second_id]
    assert launchpad.get_fw_ids(sort=[("created_on", -1)]) == [second_id, first_id]
    assert launchpad.get_fw_ids_in_wfs({"state": "COMPLETED"}, {"name": "second"}, count_only=True) == 1


def test_failure_rerun_defuse_and_priorities(launchpad: LaunchPad) -> None:
    launchpad.add_wf(Firework(ScriptTask.from_str("false"), name="bad"))
    launchpad.add_wf(Firework(ScriptTask.from_str("true"), name="low", spec={"_priority": 1}))
    launchpad.add_wf(Firework(ScriptTask.from_str("true"), name="high", spec={"_priority": 9}))
    launch_rocket(launchpad, FWorker(), strm_lvl="CRITICAL")
    assert launchpad.fireworks.find_one({"state": "COMPLETED"})["name"] == "high"
    rapidfire(launchpad, FWorker(), strm_lvl="CRITICAL", sleep_time=1)
    [bad] = launchpad.get_fw_ids({"state": "FIZZLED"})
    launchpad.rerun_fw(bad)
    assert launchpad.get_fw_dict_by_id(bad)["state"] == "READY"
    launchpad.defuse_fw(bad)
    assert launchpad.get_fw_dict_by_id(bad)["state"] == "DEFUSED"
    launchpad.reignite_fw(bad)
    launchpad.delete_wf(bad)
    assert states(launchpad) == {"COMPLETED": 2}


def test_a_lost_run_is_found(launchpad: LaunchPad) -> None:
    launchpad.add_wf(Firework(ScriptTask.from_str("true")))
    launchpad.checkout_fw(FWorker(), str(Path.cwd()))
    time.sleep(1.1)
    _, lost, _ = launchpad.detect_lostruns(expiration_secs=1, rerun=True)
    assert lost == [1]
    assert states(launchpad) == {"READY": 1}


class Race:
    """Several launcher processes on one database file."""

    def __init__(self, folder: Path, number: int, stalling: int | None) -> None:
        self.folder, self.database_file = folder, folder / "race.db"
        (folder / "note_task.py").write_text(_TASK.replace("STALLING", str(stalling)))
        # A launcher that dies inside FireWorks' workflow lock leaves it locked: take it over soon.
        (folder / "FW_config.yaml").write_text(
            yaml.safe_dump({"WFLOCK_EXPIRATION_SECS": 2, "WFLOCK_EXPIRATION_KILL": True})
        )
        home = Path(__file__).resolve().parents[3]
        self.environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join([str(folder), str(home)]),
            "RAN_LOG": str(folder / "ran.log"),
            "FW_CONFIG_FILE": str(folder / "FW_config.yaml"),
        }
        uri = ensure_running(self.database_file)
        self.pad = LaunchPad(host=uri, name="race", uri_mode=True, strm_lvl="CRITICAL")
        self.pad.reset("", require_password=False, max_reset_wo_password=10**6)
        task = importlib.import_module("note_task").Note
        self.pad.bulk_add_wfs([Firework([task()], spec={"i": i}) for i in range(number)])
        self.pad.to_file(str(folder / "pad.yaml"))

    def launcher(self, name: str) -> subprocess.Popen:
        (self.folder / name).mkdir()
        command = [Path(sys.executable).with_name("rlaunch"), "-l", self.folder / "pad.yaml", "-s", "rapidfire"]
        with (self.folder / name / "log").open("w") as log:
            return subprocess.Popen(command, cwd=self.folder / name, env=self.environment, stdout=log, stderr=log)

    def ran(self) -> list[int]:
        return [int(line) for line in (self.folder / "ran.log").read_text().split()]

    def kill_stalled_launcher(self) -> None:
        file = self.folder / "ran.log.stalled"
        deadline = time.monotonic() + 120
        while not (file.exists() and file.read_text()):
            assert time.monotonic() < deadline, states(self.pad)
            time.sleep(0.05)
        os.kill(int(file.read_text()), signal.SIGKILL)

    def fireworks(self) -> dict[int, str]:
        return {row["fw_id"]: row["state"] for row in self.pad.fireworks.find({}, {"fw_id": 1, "state": 1})}

    def spec_of(self, fw_id: int) -> int:
        return self.pad.fireworks.find_one({"fw_id": fw_id})["spec"]["i"]

    def wait_until_completed(self, number: int) -> None:
        deadline = time.monotonic() + 120
        while self.pad.fireworks.count_documents({"state": "COMPLETED"}) < number:
            assert time.monotonic() < deadline, states(self.pad)
            time.sleep(0.1)


@pytest.fixture
def race(tmp_path: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Race]:
    monkeypatch.syspath_prepend(tmp_path)
    made = Race(tmp_path, *request.param)
    yield made
    made.pad.connection.close()
    stop(made.database_file)


@pytest.mark.slow
@pytest.mark.parametrize("race", [(500, None)], indirect=True)
def test_four_launchers_run_each_of_500_fireworks_once(race: Race) -> None:
    begun = time.monotonic()
    launchers = [race.launcher(f"w{i}") for i in range(4)]
    race.wait_until_completed(1)
    first = time.monotonic()
    assert [launcher.wait(timeout=300) for launcher in launchers] == [0, 0, 0, 0]
    ended = time.monotonic()
    print(f"{500 / (ended - begun):.1f} rockets/s, {500 / (ended - first):.1f} after the first")
    assert sorted(race.ran()) == list(range(500))
    assert states(race.pad) == {"COMPLETED": 500}
    assert race.pad.launches.count_documents({}) == 500
    assert sorted(race.pad.launches.distinct("fw_id")) == list(range(1, 501))
    # The rate itself depends on what else the machine does; the database's share of the time does not.
    with Path(f"/proc/{status(race.database_file)['pid']}/stat").open() as stat:
        user, system = map(int, stat.read().rsplit(")", 1)[1].split()[11:13])
    assert (user + system) / os.sysconf("SC_CLK_TCK") / 500 < 1 / 30


@pytest.mark.slow
@pytest.mark.parametrize("race", [(200, STALLING)], indirect=True)
def test_a_killed_launcher_and_a_killed_server_lose_nothing_and_run_nothing_twice(race: Race) -> None:
    launchers = [race.launcher(f"w{i}") for i in range(4)]
    race.kill_stalled_launcher()
    race.wait_until_completed(100)
    os.kill(status(race.database_file)["pid"], signal.SIGKILL)
    ran = race.ran()
    ensure_running(race.database_file)
    # What was acknowledged is there: every firework whose task ran has its launch.
    assert {race.spec_of(fw) for fw in race.pad.launches.distinct("fw_id")} >= set(ran)
    # The other launchers waited for the server and went on: their drivers sent again what had had no reply.
    assert sorted(launcher.wait(timeout=120) for launcher in launchers) == [-signal.SIGKILL, 0, 0, 0]
    [(stalled, state)] = [(fw, state) for fw, state in race.fireworks().items() if state != "COMPLETED"]
    assert state == "RUNNING" and race.spec_of(stalled) == STALLING
    assert sorted(race.ran()) == [i for i in range(200) if i != STALLING]
    time.sleep(1.1)
    _, lost, _ = race.pad.detect_lostruns(expiration_secs=1, rerun=True)
    assert lost == [stalled]
    assert race.launcher("again").wait(timeout=120) == 0
    assert states(race.pad) == {"COMPLETED": 200}
    assert sorted(race.ran()) == list(range(200))
    assert race.pad.workflows.count_documents({"locked": {"$exists": True}}) == 0
