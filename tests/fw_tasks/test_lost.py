"""Work that was lost: what counts as lost, by which sign, and what is done about it."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import asdict
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from fireworks import FWAction, FWorker, LaunchPad
from pymongo.database import Database

from fw_tasks import signs_of_life
from fw_tasks.engines import get_engine
from fw_tasks.lost import LOCK_S, RELAUNCHES, find_lost, heal
from fw_tasks.queue.slurm import QueueUnreachable
from fw_tasks.signs_of_life import LOST_AFTER_S, SUBMISSION_S, hold_lock, worker_name
from fw_tasks.tasks import ComputeSpectrum, RecordResult
from fw_tasks.workers import _hand_learning_out_again
from fw_tasks.workflows import FireWorksDispatcher
from models.labels import Label, load_labels
from selector.candidates import Candidate
from selector.protocols import Failure, Job, Loss

ELSEWHERE = FWorker(name="node17:99.ab.0", query={"spec.campaign": "c"})
Clock = Callable[[float], None]


@pytest.fixture
def launchpad(database: Database[Any], mongo_uri: str) -> LaunchPad:
    launchpad = LaunchPad(host=mongo_uri, uri_mode=True, name=database.name, logdir=None, strm_lvl="ERROR")
    launchpad.fw_id_assigner.insert_one({"_id": -1, "next_fw_id": 1, "next_launch_id": 1})
    return launchpad


@pytest.fixture
def dispatcher(launchpad: LaunchPad, tmp_path: Path) -> FireWorksDispatcher:
    return FireWorksDispatcher(launchpad, tmp_path, get_engine("replay"))


@pytest.fixture(scope="module")
def label() -> Label:
    return min(load_labels(), key=lambda label: label.cpu_s)


@pytest.fixture
def job(label: Label, tmp_path: Path) -> Job:
    structure = Candidate(label.material_id, label.structure, "").to_dict()["structure"]
    return Job(
        campaign="c", key="k1", material_id=label.material_id, formula=label.formula, structure=structure, level="rpa",
        attempt=1, engine={"name": "replay", "preset": None, "options": {}}, cores=1, time_limit_s=1e4,
        workdir=str(tmp_path / "calculation"),
    )  # fmt: skip


@pytest.fixture
def later(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """Move the database's clock, as steps see it, forward by so many seconds."""
    real, passed = signs_of_life.SignsOfLife.__init__, [0.0]

    def init(self: signs_of_life.SignsOfLife, *arguments: Any, **more: Any) -> None:
        real(self, *arguments, **more)
        self._clock += timedelta(seconds=passed[0])

    def pass_time(seconds: float) -> None:
        passed[0] += seconds

    monkeypatch.setattr(signs_of_life.SignsOfLife, "__init__", init)
    return pass_time


class Queue:
    """A queue in which jobs are in the states they are put in; what is not in it is gone."""

    def __init__(self, **states: str) -> None:
        self.states, self.answers, self.asked = states, True, 0

    def __call__(self, jobs: Collection[str]) -> Mapping[str, str]:
        self.asked += 1
        if not self.answers:
            raise QueueUnreachable("squeue: unable to contact the controller")
        return {job: self.states[f"job{job}"] for job in jobs if f"job{job}" in self.states}


def reserve(launchpad: LaunchPad, folder: Path, job_id: str | None, fworker: FWorker = ELSEWHERE) -> int:
    """A launcher's reservation, submitted as a queue job; its launch."""
    _, launch_id = launchpad.reserve_fw(fworker, str(folder))
    if job_id is not None:
        launchpad.set_reservation_id(launch_id, job_id)
    return int(launch_id)


def begin(launchpad: LaunchPad, folder: Path, fworker: FWorker = ELSEWHERE, fw_id: int | None = None) -> int:
    _, launch_id = launchpad.checkout_fw(fworker, str(folder), fw_id=fw_id)
    return int(launch_id)


def state(launchpad: LaunchPad, fw_id: int) -> str:
    return str(launchpad.fireworks.find_one({"fw_id": fw_id})["state"])


def healed(launchpad: LaunchPad, folder: Path, queue: Queue | None = None, ask_queue_s: float = 0.0) -> list[Loss]:
    return heal(launchpad, "c", folder, LOST_AFTER_S, queue or Queue(), ask_queue_s)


# -- workers of this host ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("when", ["before the launch was written", "while it ran", "while it was written back"])
def test_what_a_dead_worker_held_is_taken_from_it(
    dispatcher: FireWorksDispatcher, launchpad: LaunchPad, job: Job, tmp_path: Path, when: str
) -> None:
    fw_id = dispatcher.submit(job)
    name = worker_name()
    lock = hold_lock(tmp_path, name)
    fworker = FWorker(name=name, query={"spec.campaign": "c"})
    if when == "before the launch was written":
        launchpad._get_a_fw_to_run(fworker.query)
    else:
        begin(launchpad, tmp_path, fworker)
    if when == "while it was written back":
        launchpad.launches.update_one({"fw_id": fw_id}, {"$set": {"state": "FIZZLED"}})
        # A firework that nobody is at counts as such after a minute, or if nobody is there.
        assert healed(launchpad, tmp_path) == []
    assert healed(launchpad, tmp_path) == []
    lock.release()
    (loss,) = healed(launchpad, tmp_path)
    assert loss.material_id == job.material_id
    outcome = dispatcher.outcome("k1", Path(job.workdir))
    if when != "before the launch was written":
        assert state(launchpad, fw_id) == "FIZZLED"
        assert isinstance(outcome, Failure)
        assert (outcome.reason, outcome.wall_s, outcome.retry) == ("Vanished", None, True)
    else:
        assert state(launchpad, fw_id) == "READY"
        assert outcome is None
    assert healed(launchpad, tmp_path) == []


def test_processes_of_one_number_are_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    """In a container every worker may be process 7."""
    before = worker_name()
    monkeypatch.setattr(signs_of_life, "_TOKEN", "ffff0")
    assert worker_name() != before
    assert before.startswith(f"{socket.gethostname()}:")


@pytest.mark.parametrize("submit", ["learning", "record"])
def test_fine_tunings_and_light_tasks_are_launched_again_a_few_times(
    dispatcher: FireWorksDispatcher, launchpad: LaunchPad, job: Job, tmp_path: Path, submit: str
) -> None:
    if submit == "learning":
        fw_id = dispatcher.submit_learning("c", "learn-1")
    else:
        compute = dispatcher.submit(job)
        launchpad.mark_fizzled(begin(launchpad, tmp_path))
        fw_id = launchpad.fireworks.find_one({"name": {"$regex": "^record"}})["fw_id"]
        assert isinstance(launchpad.get_fw_by_id(fw_id).tasks[0], RecordResult)
        assert fw_id != compute
    for launch in range(1, RELAUNCHES + 1):
        name = f"{socket.gethostname()}:{launch}.0.0"
        lock = hold_lock(tmp_path, name)
        begin(launchpad, tmp_path, FWorker(name=name, query={"spec.campaign": "c"}), fw_id)
        lock.release()
        (loss,) = healed(launchpad, tmp_path)
        again = launch < RELAUNCHES
        assert state(launchpad, fw_id) == ("READY" if again else "FIZZLED")
        assert ("launched again" if again else "counts as failed") in loss.message
    assert healed(launchpad, tmp_path) == []
    if submit == "learning":
        assert not dispatcher.learning_is_out("learn-1")


def test_a_fine_tuning_that_was_handed_back_has_not_failed(
    dispatcher: FireWorksDispatcher, launchpad: LaunchPad, tmp_path: Path
) -> None:
    fw_id = dispatcher.submit_learning("c", "learn-1")
    launchpad.mark_fizzled(begin(launchpad, tmp_path))
    _hand_learning_out_again(launchpad, "somebody else")
    assert state(launchpad, fw_id) == "FIZZLED"
    _hand_learning_out_again(launchpad, ELSEWHERE.name)
    assert state(launchpad, fw_id) == "READY"
    assert dispatcher.learning_is_out("learn-1")


@pytest.mark.parametrize("at_walltime", [False, True])
def test_a_job_killed_at_its_walltime_has_failed_and_a_cancelled_one_has_not(
    job: Job, monkeypatch: pytest.MonkeyPatch, at_walltime: bool
) -> None:
    """Else a walltime that is too short would be met over and over."""

    class Killed:
        def compute(self, *_: Any) -> None:
            raise SystemExit(0)

    monkeypatch.setattr("fw_tasks.tasks.get_engine", lambda *_, **__: Killed())
    monkeypatch.setenv("SLURM_JOB_END_TIME", str(int(time.time()) + (20 if at_walltime else 3000)))
    with pytest.raises(SystemExit):
        ComputeSpectrum(job=asdict(job)).run_task({})
    failure = json.loads((Path(job.workdir) / "failure.json").read_text(encoding="utf-8"))
    said = failure["reason"], failure["retry"], failure["interrupted"]
    assert said == (("TimedOut", True, False) if at_walltime else ("Interrupted", False, True))


# -- heartbeats --------------------------------------------------------------------------------------------------------


def test_a_run_elsewhere_is_lost_when_its_heartbeat_stays_the_same(
    dispatcher: FireWorksDispatcher, launchpad: LaunchPad, job: Job, tmp_path: Path, later: Clock
) -> None:
    fw_id = dispatcher.submit(job)
    launch_id = begin(launchpad, tmp_path)
    assert healed(launchpad, tmp_path) == []
    later(LOST_AFTER_S - 60)
    assert healed(launchpad, tmp_path) == []
    launchpad.ping_launch(launch_id)
    later(120)
    assert healed(launchpad, tmp_path) == []
    later(LOST_AFTER_S - 60)
    assert healed(launchpad, tmp_path) == []
    later(120)
    (loss,) = healed(launchpad, tmp_path)
    assert "no heartbeat of node17:99.ab.0 for 4 h" in loss.message
    assert state(launchpad, fw_id) == "FIZZLED"
    outcome = dispatcher.outcome("k1", Path(job.workdir))
    assert isinstance(outcome, Failure)
    assert outcome.reason == "Vanished"


def test_the_clock_of_a_run_s_host_may_be_wrong(
    dispatcher: FireWorksDispatcher, launchpad: LaunchPad, job: Job, tmp_path: Path, later: Clock
) -> None:
    """A heartbeat that looks a day old, or one from tomorrow, is a heartbeat if it is a new one."""
    dispatcher.submit(job)
    launch_id = begin(launchpad, tmp_path)
    for hours in (-24, 24, -23, 23, -22):
        launch = launchpad.get_launch_by_id(launch_id)
        launchpad.ping_launch(launch_id, ptime=launch.time_start + timedelta(hours=hours))
        assert healed(launchpad, tmp_path) == []
        later(LOST_AFTER_S / 2)
    assert healed(launchpad, tmp_path) == []
    later(LOST_AFTER_S)
    assert len(healed(launchpad, tmp_path)) == 1


def test_the_limit_is_the_campaign_s(
    dispatcher: FireWorksDispatcher, launchpad: LaunchPad, job: Job, tmp_path: Path, later: Clock
) -> None:
    dispatcher.submit(job)
    begin(launchpad, tmp_path)
    short = FireWorksDispatcher(launchpad, tmp_path, get_engine("replay"), lost_after_s=600.0)
    assert short.reap("c") == []
    later(601)
    assert dispatcher.reap("c") == []
    assert len(short.reap("c")) == 1


# -- reservations and queue jobs ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("gone", ["gone", "CANCELLED", "TIMEOUT", "NODE_FAIL"])
def test_a_reservation_whose_job_is_gone_is_handed_back_at_no_cost(
    dispatcher: FireWorksDispatcher, launchpad: LaunchPad, job: Job, tmp_path: Path, gone: str
) -> None:
    fw_id = dispatcher.submit(job)
    reserve(launchpad, tmp_path, "7")
    queue = Queue(job7="PENDING")
    assert healed(launchpad, tmp_path, queue) == []
    queue.states = {} if gone == "gone" else {"job7": gone}
    (loss,) = healed(launchpad, tmp_path, queue)
    assert "queue job 7" in loss.message
    assert "launched again" in loss.message
    assert state(launchpad, fw_id) == "READY"
    assert dispatcher.outcome("k1", Path(job.workdir)) is None


def test_a_job_that_always_ends_before_it_began_is_a_failure_that_cost_nothing(
    dispatcher: FireWorksDispatcher, launchpad: LaunchPad, job: Job, tmp_path: Path
) -> None:
    fw_id = dispatcher.submit(job)
    for launch in range(1, RELAUNCHES + 1):
        reserve(launchpad, tmp_path, str(launch))
        (loss,) = healed(launchpad, tmp_path)
    assert state(launchpad, fw_id) == "FIZZLED"
    assert "counts as failed" in loss.message
    outcome = dispatcher.outcome("k1", Path(job.workdir))
    assert isinstance(outcome, Failure)
    assert (outcome.reason, outcome.wall_s, outcome.retry) == ("NeverStarted", 0.0, True)
    assert f"launched {RELAUNCHES} times" in outcome.message


def test_a_run_is_lost_as_soon_as_its_queue_job_has_ended(
    dispatcher: FireWorksDispatcher, launchpad: LaunchPad, job: Job, tmp_path: Path, later: Clock
) -> None:
    fw_id = dispatcher.submit(job)
    reserve(launchpad, tmp_path, "7")
    begin(launchpad, tmp_path, fw_id=fw_id)
    queue = Queue(job7="RUNNING")
    assert healed(launchpad, tmp_path, queue) == []
    # However silent it is: the job's walltime ends it.
    later(10 * LOST_AFTER_S)
    assert healed(launchpad, tmp_path, queue) == []
    queue.states = {"job7": "TIMEOUT"}
    (loss,) = healed(launchpad, tmp_path, queue)
    assert "queue job 7 ended (TIMEOUT)" in loss.message
    assert state(launchpad, fw_id) == "FIZZLED"


def test_nothing_is_lost_while_the_queue_does_not_answer(
    dispatcher: FireWorksDispatcher, launchpad: LaunchPad, job: Job, tmp_path: Path, later: Clock
) -> None:
    fw_id = dispatcher.submit(job)
    reserve(launchpad, tmp_path, "7")
    queue = Queue()
    queue.answers = False
    later(100 * LOST_AFTER_S)
    assert healed(launchpad, tmp_path, queue) == []
    # A run goes by its heartbeat then.
    begin(launchpad, tmp_path, fw_id=fw_id)
    assert healed(launchpad, tmp_path, queue) == []
    later(LOST_AFTER_S + 1)
    assert len(healed(launchpad, tmp_path, queue)) == 1
    assert queue.asked == 3


def test_the_queue_is_asked_once_a_minute_whoever_steps(
    dispatcher: FireWorksDispatcher, launchpad: LaunchPad, job: Job, tmp_path: Path
) -> None:
    queue = Queue(job7="PENDING")
    dispatcher.submit(job)
    assert healed(launchpad, tmp_path, queue) == []
    assert queue.asked == 0
    reserve(launchpad, tmp_path, "7")
    for _ in range(3):
        assert healed(launchpad, tmp_path, queue, ask_queue_s=60.0) == []
    assert queue.asked == 1
    # Not asked is not gone.
    queue.states = {}
    assert healed(launchpad, tmp_path, queue, ask_queue_s=60.0) == []
    assert len(healed(launchpad, tmp_path, queue)) == 1


def test_a_launcher_s_death_does_not_take_its_jobs_along(
    dispatcher: FireWorksDispatcher, launchpad: LaunchPad, job: Job, tmp_path: Path
) -> None:
    fw_id = dispatcher.submit(job)
    name = worker_name()
    lock = hold_lock(tmp_path, name)
    launch_id = reserve(launchpad, tmp_path, None, FWorker(name=name, query={"spec.campaign": "c"}))
    assert healed(launchpad, tmp_path) == []
    launchpad.set_reservation_id(launch_id, "7")
    lock.release()
    assert healed(launchpad, tmp_path, Queue(job7="PENDING")) == []
    # One that it had not submitted yet is handed back.
    launchpad.launches.update_one({"launch_id": launch_id}, {"$unset": {"state_history.0.reservation_id": ""}})
    (loss,) = healed(launchpad, tmp_path)
    assert "died" in loss.message
    assert state(launchpad, fw_id) == "READY"


def test_a_reservation_of_a_launcher_elsewhere_that_never_submitted_it(
    dispatcher: FireWorksDispatcher, launchpad: LaunchPad, job: Job, tmp_path: Path, later: Clock
) -> None:
    fw_id = dispatcher.submit(job)
    reserve(launchpad, tmp_path, None)
    assert healed(launchpad, tmp_path) == []
    later(SUBMISSION_S + 1)
    (loss,) = healed(launchpad, tmp_path)
    assert "never submitted" in loss.message
    assert state(launchpad, fw_id) == "READY"


def test_what_an_offline_rocket_wrote_is_read_before_it_counts_as_lost(
    dispatcher: FireWorksDispatcher, launchpad: LaunchPad, job: Job, tmp_path: Path
) -> None:
    fw_id = dispatcher.submit(job)
    launch_id = reserve(launchpad, tmp_path, "7")
    launchpad.add_offline_run(launch_id, fw_id, "compute")
    at = launchpad.get_launch_by_id(launch_id).time_reserved.isoformat()
    (tmp_path / "FW_ping.json").write_text(json.dumps({"ping_time": at}), encoding="utf-8")
    said = {"launch_id": launch_id, "started_on": at, "completed_on": at, "state": "COMPLETED"}
    written = {**said, "fwaction": FWAction(stored_data={"sc": 0.5}).to_dict()}
    (tmp_path / "FW_offline.json").write_text(json.dumps(written), encoding="utf-8")
    assert healed(launchpad, tmp_path) == []
    assert state(launchpad, fw_id) == "COMPLETED"


# -- locked workflows --------------------------------------------------------------------------------------------------


def test_a_lock_that_nobody_here_can_hold_is_lifted_at_once(
    dispatcher: FireWorksDispatcher, launchpad: LaunchPad, job: Job, tmp_path: Path
) -> None:
    dispatcher.submit(job)
    launchpad.workflows.update_many({}, {"$set": {"locked": True}})
    (loss,) = healed(launchpad, tmp_path)
    assert "lock was lifted" in loss.message
    assert launchpad.workflows.count_documents({"locked": True}) == 0


@pytest.mark.parametrize("who", ["a worker here", "a worker elsewhere"])
def test_a_lock_that_somebody_may_hold_is_lifted_in_time(
    dispatcher: FireWorksDispatcher, launchpad: LaunchPad, job: Job, tmp_path: Path, later: Clock, who: str
) -> None:
    if who == "a worker here":
        lock = hold_lock(tmp_path, worker_name())
        assert lock.is_locked
    else:
        (tmp_path / "workers").mkdir()
        (tmp_path / "workers" / "node17:99.ab.0.lock").touch()
    fw_id = dispatcher.submit(job)
    reserve(launchpad, tmp_path, "7")
    launchpad.workflows.update_many({}, {"$set": {"locked": True}})
    # Its lost reservation has to wait, too: FireWorks would wait for the lock.
    assert healed(launchpad, tmp_path) == []
    later(LOCK_S + 1)
    losses = healed(launchpad, tmp_path)
    assert ["lock was lifted" in loss.message for loss in losses] == [True, False]
    assert state(launchpad, fw_id) == "READY"
    assert launchpad.workflows.find_one()["nodes"]
    assert launchpad.workflows.count_documents({"locked": True}) == 0


def test_a_workflow_locked_now_and_again_is_not_locked_for_long(
    dispatcher: FireWorksDispatcher, launchpad: LaunchPad, job: Job, tmp_path: Path, later: Clock
) -> None:
    lock = hold_lock(tmp_path, worker_name())
    fw_id = dispatcher.submit(job)
    launchpad.workflows.update_many({}, {"$set": {"locked": True}})
    assert healed(launchpad, tmp_path) == []
    launchpad.workflows.update_many({}, {"$unset": {"locked": ""}})
    launchpad._refresh_wf(fw_id)
    later(LOCK_S + 1)
    launchpad.workflows.update_many({}, {"$set": {"locked": True}})
    assert healed(launchpad, tmp_path) == []
    lock.release()
    assert len(healed(launchpad, tmp_path)) == 1


def test_looking_changes_nothing(
    dispatcher: FireWorksDispatcher, launchpad: LaunchPad, job: Job, tmp_path: Path
) -> None:
    fw_id = dispatcher.submit(job)
    reserve(launchpad, tmp_path, "7")
    (lost,) = find_lost(launchpad, "c", tmp_path, LOST_AFTER_S, Queue(), 0.0)
    assert (lost.kind, lost.fw_id, lost.launched, lost.workdir) == ("reservation", fw_id, 1, Path(job.workdir))
    assert state(launchpad, fw_id) == "RESERVED"
