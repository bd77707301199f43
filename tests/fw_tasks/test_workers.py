"""Workers: what they launch, how they leave, where they refuse to work; and the heartbeat of their rockets."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from fireworks import FWorker, LaunchPad
from fireworks.core import rocket
from pymongo.errors import AutoReconnect

from fw_tasks import workers
from fw_tasks.database import database_file, launchpad_for
from fw_tasks.heartbeat import HEARTBEAT_S, beat
from fw_tasks.launch import create_campaign
from fw_tasks.stopping import Stopping, at_walltime
from fw_tasks.workers import LocalWorkers
from models.labels import Label, load_labels
from selector import localdb
from selector.campaign import Campaign
from selector.candidates import Candidate
from selector.config import CampaignConfig, load_config
from selector.errors import SelectorError
from tests.conftest import Run

PATIENCE_S = 120.0
SLOW = 40.0
"""Wall seconds of the calculation that a worker is told to leave from."""


@pytest.fixture(scope="module")
def labels() -> list[Label]:
    return sorted(load_labels(), key=lambda label: label.cpu_s)[:3]


Begin = Callable[..., tuple[Path, Campaign]]


@pytest.fixture
def begin(tmp_path: Path, labels: list[Label]) -> Iterator[Begin]:
    """Begin a campaign whose calculations are replayed, each in so many seconds."""
    config: list[CampaignConfig] = []

    def begin(seconds: float = 0.0, n: int = 1) -> tuple[Path, Campaign]:
        scale = seconds / labels[0].cpu_s
        file = tmp_path / "campaign.yaml"
        file.write_text(
            "campaign: c\nfolder: run\nbudget_cpu_h: 3.0\naudit_fraction: 0\nmax_in_flight: 3\npredictor: "
            "{retrain_every: 100}\npolicy: {name: cheapest, value_floor: 0, random_share: 0}\n"
            f"engine: {{name: replay, options: {{time_scale: {scale}}}}}\n",
            encoding="utf-8",
        )
        config.append(load_config(file))
        campaign = create_campaign(config[0], launchpad_for(config[0]))
        campaign.add([Candidate(k.material_id, k.structure, "") for k in labels[:n]], [])
        return file, campaign

    yield begin
    localdb.stop(database_file(config[0]))


@pytest.fixture(autouse=True)
def folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A rocket launched by itself leaves FireWorks' files where it is started, as in a queue job's folder."""
    monkeypatch.chdir(tmp_path)


def start(*arguments: object, **environment: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", *map(str, arguments)], env=os.environ | environment, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip


def until(true: Callable[[], Any], process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not true():
        assert time.monotonic() < deadline
        assert process.poll() is None, process.communicate()
        time.sleep(0.1)


def computing(campaign: Campaign) -> Callable[[], bool]:
    """Whether a calculation has begun."""
    folder = campaign.config.folder / "calculations"
    return lambda: bool(list(folder.glob("*/*/claim.lock")))


# -- other hosts -------------------------------------------------------------------------------------------------------


@pytest.fixture
def elsewhere(tmp_path: Path) -> dict[str, str]:
    """The environment of a process on another host, as far as it can tell."""
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "sitecustomize.py").write_text(
        "import socket\nsocket.gethostname = lambda: 'node17'\n", encoding="utf-8"
    )
    return {"PYTHONPATH": str(tmp_path / "elsewhere")}


@pytest.mark.slow
def test_a_local_database_is_refused_on_another_host(begin: Begin, elsewhere: dict[str, str]) -> None:
    """By a worker, by a job of the queue, and by the command."""
    file, _ = begin()
    workers = ["fw_tasks.workers", file], ["fw_tasks.workers", file, "singleshot", "--fw_id", 1]
    for process in [start(*words, **elsewhere) for words in (*workers, ["selector.cli", "worker", file])]:
        _, err = process.communicate(timeout=PATIENCE_S)
        assert process.returncode == 2
        assert "Traceback" not in err
        (line,) = err.strip().splitlines()
        assert f"in a local database on {socket.gethostname()}, which node17 can't reach" in line
        assert "database.uri" in line
        assert "--offline" in line


def test_after_the_database_was_stopped_any_host_may_serve_it(begin: Begin, monkeypatch: pytest.MonkeyPatch) -> None:
    _, campaign = begin()
    workers.refuse_elsewhere(campaign.config)
    monkeypatch.setattr(socket, "gethostname", lambda: "node17")
    with pytest.raises(SelectorError, match="node17"):
        workers.refuse_elsewhere(campaign.config)
    localdb.stop(database_file(campaign.config))
    workers.refuse_elsewhere(campaign.config)


# -- leaving -----------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_worker_launches_its_categories_alone_until_the_campaign_is_done(begin: Begin, selector: Run) -> None:
    file, campaign = begin(n=2)
    campaign.step()
    with LocalWorkers(file, campaign.config, 1, ["rpa"]) as local:
        deadline = time.monotonic() + PATIENCE_S
        while len(list(campaign.config.folder.glob("calculations/*/*/calculation.npz"))) < 2:
            local.check()
            assert time.monotonic() < deadline
            time.sleep(0.1)
    # Nothing was recorded by it.
    assert campaign.store.count("done") == 0
    code, out, err = selector("worker", file, "--until-done", "-n", 2)
    assert code == 0, err
    assert "2 workers (everything)" in out
    assert "finished" in out
    assert campaign.store.count("done") == 2
    assert campaign.store.ledger.totals().reserved_cpu_h == 0.0
    # Nobody holds a lock who left in good order.
    assert not list((campaign.config.folder / "workers").glob("*.lock"))


@pytest.mark.parametrize("command", ["worker alone", pytest.param("selector worker", marks=pytest.mark.slow)])
def test_told_to_leave_a_worker_ends_its_task_first(begin: Begin, command: str) -> None:
    file, campaign = begin(seconds=6.0)
    campaign.step()
    process = start("fw_tasks.workers", file) if command == "worker alone" else start("selector.cli", "worker", file)
    until(computing(campaign), process)
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 0, err
    assert command == "worker alone" or "leave after their running tasks" in err
    (material,) = campaign.store.candidates()
    assert len(list(campaign.config.folder.glob("calculations/*/*/calculation.npz"))) == 1
    assert not list(campaign.config.folder.glob("calculations/*/*/failure.json"))
    campaign.step()
    assert campaign.store.candidate(material["material_id"])["status"] == "done"


@pytest.mark.parametrize(
    "how",
    ["scancel", pytest.param("--hand-back", marks=pytest.mark.slow), pytest.param("twice", marks=pytest.mark.slow)],
)
def test_what_is_handed_back_is_charged_what_it_ran_and_not_counted(begin: Begin, how: str) -> None:
    file, campaign = begin(seconds=SLOW)
    campaign.step()
    (before,) = campaign.store.candidates()
    match how:
        case "scancel":
            command = ["fw_tasks.workers", file, "singleshot", "--fw_id", before["fw_id"]]
        case "twice":
            command = ["selector.cli", "worker", file]
        case _:
            command = ["selector.cli", "worker", file, "--hand-back"]
    process = start(*command)
    until(computing(campaign), process)
    time.sleep(1.0)
    told = time.monotonic()
    process.send_signal(signal.SIGTERM)
    if how == "twice":
        time.sleep(1.0)
        assert process.poll() is None
        process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 0, err
    assert time.monotonic() - told < SLOW / 2
    (file,) = campaign.config.folder.glob("calculations/*/*/failure.json")
    failure = json.loads(file.read_text(encoding="utf-8"))
    assert (failure["reason"], failure["interrupted"]) == ("Interrupted", True)
    campaign.stop("to look at it")
    campaign.step()
    after = campaign.store.candidate(before["material_id"])
    assert (after["status"], after["failures"]) == ("pending", 0)
    assert campaign.store.ledger.totals().spent_cpu_h == pytest.approx(failure["wall_s"] / 3600, abs=1e-6)
    assert failure["wall_s"] < SLOW / 2


def test_a_signal_meets_a_task_only_where_it_may_be_interrupted() -> None:
    stopping = Stopping()
    with pytest.raises(SystemExit), stopping.may_interrupt():
        stopping._hand_back(signal.SIGTERM, None)
    assert stopping.asked.is_set()

    later = Stopping()
    later._hand_back(signal.SIGTERM, None)
    entered = False
    with pytest.raises(SystemExit), later.may_interrupt():
        entered = True
    assert not entered

    patient = Stopping()
    with patient.may_interrupt():
        patient._leave(signal.SIGTERM, None)
    assert patient.asked.is_set()
    with patient.may_interrupt():
        pass


def test_the_walltime_is_known_from_the_queue_job(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SLURM_JOB_END_TIME", raising=False)
    assert not at_walltime()
    monkeypatch.setenv("SLURM_JOB_END_TIME", str(int(time.time()) + 600))
    assert not at_walltime()
    monkeypatch.setenv("SLURM_JOB_END_TIME", str(int(time.time()) - 5))
    assert at_walltime()


# -- workers that die --------------------------------------------------------------------------------------------------


def test_a_worker_that_is_killed_is_started_again(begin: Begin) -> None:
    file, campaign = begin()
    locks = campaign.config.folder / "workers"
    with LocalWorkers(file, campaign.config, 1) as local:
        process = local._workers[0].process
        assert process is not None
        deadline = time.monotonic() + PATIENCE_S
        while not list(locks.glob("*.lock")):
            assert time.monotonic() < deadline
            time.sleep(0.1)
        process.kill()
        process.wait()
        local.check()
        assert local.alive == 1
        assert local._workers[0].process is not process


def test_workers_that_cannot_work_are_not_started_over_and_over(
    begin: Begin, elsewhere: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    file, campaign = begin()
    monkeypatch.setenv("PYTHONPATH", elsewhere["PYTHONPATH"])
    with LocalWorkers(file, campaign.config, 1) as local:
        local._workers[0].end(PATIENCE_S)
        with pytest.raises(SelectorError, match=r"all local workers ended \(selector: error: .*node17"):
            local.check()


@pytest.mark.slow
def test_one_that_dies_over_and_over_is_given_up(begin: Begin) -> None:
    _, campaign = begin()
    with LocalWorkers(Path("no-such-file"), campaign.config, 1) as local:
        local._command = [sys.executable, "-c", "raise SystemExit(7)"]
        for _ in range(workers.STRIKES):
            local._workers[0].end(PATIENCE_S)
            local._workers[0].process = subprocess.Popen(local._command)
            local._workers[0].end(PATIENCE_S)
            local._workers[0].look_after(local._command)
        local._workers[0].end(PATIENCE_S)
        with pytest.raises(SelectorError, match="all local workers ended"):
            local.check()


def test_one_whose_parent_has_ended_does_not_wait_for_the_database(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "campaign.yaml").write_text(
        "campaign: c\nfolder: run\nbudget_cpu_h: 1\ndatabase: {uri: 'mongodb://127.0.0.1:9/'}\n", encoding="utf-8"
    )
    tries: list[CampaignConfig] = []

    def away(config: CampaignConfig) -> LaunchPad:
        tries.append(config)
        assert len(tries) < 4
        raise AutoReconnect("nobody listens there")

    monkeypatch.setattr(workers, "launchpad_for", away)
    monkeypatch.setattr(workers, "beat", lambda _: None)
    monkeypatch.setattr(workers, "RECONNECT_S", 0.01)
    monkeypatch.setattr(Stopping, "listen", lambda *_, **__: None)
    # Nobody is its own parent.
    monkeypatch.setenv(workers.PARENT, str(os.getpid()))
    workers.work(load_config(tmp_path / "campaign.yaml"))
    assert len(tries) == 1
    monkeypatch.setenv(workers.PARENT, str(os.getppid()))
    with pytest.raises(AssertionError):
        workers.work(load_config(tmp_path / "campaign.yaml"))


# -- the heartbeat -----------------------------------------------------------------------------------------------------


class Pad:
    """A LaunchPad that counts heartbeats and is away for the first of them."""

    def __init__(self) -> None:
        self.pings, self.thrice = 0, threading.Event()

    def ping_launch(self, launch_id: int) -> None:
        self.pings += 1
        if self.pings == 1:
            raise AutoReconnect("the database is away")
        if self.pings == 3:
            self.thrice.set()


def test_the_heartbeat_goes_on_after_the_database_was_away(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rocket, "start_ping_launch", rocket.start_ping_launch)
    assert beat(4 * 3600.0) == HEARTBEAT_S
    assert beat(0.04) == pytest.approx(0.01)
    pad = Pad()
    landed = rocket.start_ping_launch(pad, 1)
    assert pad.thrice.wait(10.0)
    landed.set()
    time.sleep(0.1)
    n = pad.pings
    time.sleep(0.1)
    assert pad.pings == n


def test_the_heartbeat_of_a_rocket_stands_in_the_launchpad(begin: Begin, monkeypatch: pytest.MonkeyPatch) -> None:
    _, campaign = begin(seconds=1.5)
    monkeypatch.setattr(rocket, "start_ping_launch", rocket.start_ping_launch)
    beat(0.4)
    campaign.step()
    launchpad: LaunchPad = launchpad_for(campaign.config)
    pings = []
    real = launchpad.ping_launch
    monkeypatch.setattr(launchpad, "ping_launch", lambda *a, **k: (pings.append(a[0]), real(*a, **k)))
    monkeypatch.chdir(campaign.config.folder)
    (c,) = campaign.store.candidates()
    assert rocket.Rocket(launchpad, FWorker("w", query={"spec.campaign": "c"}), c["fw_id"]).run()
    launch = launchpad.launches.find_one({"fw_id": c["fw_id"]})
    assert len(pings) >= 5
    assert launch["state"] == "COMPLETED"


# -- the doctor --------------------------------------------------------------------------------------------------------


def test_the_doctor_shows_what_is_lost_and_puts_it_right(begin: Begin, selector: Run) -> None:
    file, campaign = begin()
    campaign.step()
    launchpad = launchpad_for(campaign.config)
    _, launch_id = launchpad.checkout_fw(FWorker("node17:99.ab.0", query={"spec.campaign": "c"}), str(file.parent))
    launchpad.workflows.update_many({}, {"$set": {"locked": True}})
    campaign.store.ledger.reserve("orphan", 0.1, material_id="nobody")

    def lost(*more: object) -> dict[str, dict[str, Any]]:
        code, out, _ = selector("doctor", "--campaign", file, *more, "--json")
        said = json.loads(out)
        found = {f["what"]: f for f in said["findings"] if f["what"].startswith("lost")}
        assert code == (0 if all(f["ok"] or f["optional"] for f in said["findings"]) else 1)
        return found

    # The run's heartbeat is seen for the first time.
    assert set(lost()) == {"lost: locked workflow", "lost: ledger"}
    time.sleep(0.4)  # longer than 0.0001 h
    found = lost("--lost-after-h", 0.0001)
    assert not found["lost: run"]["ok"]
    assert "no heartbeat of node17:99.ab.0" in found["lost: run"]["found"]
    assert campaign.store.ledger.reserved("orphan")

    repaired = lost("--lost-after-h", 0.0001, "--repair")
    assert set(repaired) == {"lost: run", "lost: locked workflow", "lost: ledger"}
    assert all(f["ok"] and "put right" in f["found"] for f in repaired.values())
    assert lost()["lost work"]["found"] == "none"
    assert not campaign.store.ledger.reserved("orphan")
    (c,) = campaign.store.candidates()
    assert (c["status"], c["failures"]) == ("pending", 1)
    assert c["decision"]["outcome"]["status"] == "Vanished"
    assert launchpad.launches.find_one({"launch_id": launch_id})["state"] == "FIZZLED"
    told = [e["message"] for e in campaign.store.events() if e["kind"] == "lost"]
    assert len(told) == 2
    assert any("no heartbeat" in message for message in told)
    code, _, err = selector("doctor", "--repair")
    assert code == 2
    assert "--campaign" in err
