"""Jobs as workflows on a real LaunchPad: what each ending of a rocket means to the campaign."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
from fireworks import FWorker, LaunchPad
from fireworks.core.rocket_launcher import launch_rocket
from pymatgen.core import Structure
from pymongo.database import Database

from fw_tasks.engines import get_engine
from fw_tasks.engines.base import Calculation, Metallic
from fw_tasks.tasks import AttemptFailed, ComputeSpectrum
from fw_tasks.workflows import FireWorksDispatcher, index_keys, spectrum_workflow
from models.labels import Label, load_labels
from selector.candidates import Candidate
from selector.protocols import Failure, Job, Result


@pytest.fixture(scope="module")
def label() -> Label:
    return min(load_labels(), key=lambda label: label.cpu_s)


@pytest.fixture
def launchpad(database: Database[Any], mongo_uri: str) -> LaunchPad:
    launchpad = LaunchPad(host=mongo_uri, uri_mode=True, name=database.name, logdir=None, strm_lvl="ERROR")
    launchpad.reset("", require_password=False)
    index_keys(launchpad)
    return launchpad


@pytest.fixture
def dispatcher(launchpad: LaunchPad, tmp_path: Path) -> FireWorksDispatcher:
    return FireWorksDispatcher(launchpad, tmp_path, get_engine("replay"))


@pytest.fixture
def job(label: Label, tmp_path: Path) -> Job:
    structure = Candidate(label.material_id, label.structure, "").to_dict()["structure"]
    return Job(
        campaign="c", key="k1", material_id=label.material_id, formula=label.formula, structure=structure, level="rpa",
        attempt=1, engine={"name": "replay", "preset": None, "options": {}}, cores=1, time_limit_s=1e4,
        workdir=str(tmp_path / "calculation"),
    )  # fmt: skip


def fire(launchpad: LaunchPad, monkeypatch: pytest.MonkeyPatch, folder: Path, name: str = "w") -> None:
    """Launch the campaign's next rocket."""
    monkeypatch.chdir(folder)
    launch_rocket(launchpad, FWorker(name=name, query={"spec.campaign": "c"}), strm_lvl="ERROR")


def test_submitting_twice_makes_one_workflow(dispatcher: FireWorksDispatcher, launchpad: LaunchPad, job: Job) -> None:
    assert dispatcher.submit(job) == dispatcher.submit(job)
    assert launchpad.workflows.count_documents({}) == 1
    assert launchpad.fireworks.count_documents({}) == 3
    document = launchpad.workflows.find_one()
    assert document["metadata"]["material_id"] == job.material_id
    assert dispatcher.outcome("k1", Path(job.workdir)) is None


def test_a_submission_cut_short_is_made_whole(dispatcher: FireWorksDispatcher, launchpad: LaunchPad, job: Job) -> None:
    dispatcher.submit(job)
    launchpad.workflows.delete_many({})
    dispatcher.submit(job)
    assert launchpad.fireworks.count_documents({}) == 3
    assert launchpad.workflows.count_documents({}) == 1


def test_a_result_is_a_file_before_anything_else(
    dispatcher: FireWorksDispatcher, launchpad: LaunchPad, job: Job, label: Label,
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    dispatcher.submit(job)
    fire(launchpad, monkeypatch, tmp_path)
    outcome = dispatcher.outcome("k1", Path(job.workdir))
    assert isinstance(outcome, Result)
    assert outcome.calculation.sc == pytest.approx(label.sc, abs=2e-3)
    # Large arrays stay out of FireWorks' documents.
    assert len(json.dumps(launchpad.fireworks.find_one({"spec.selector_key": "k1"}), default=str)) < 20_000
    assert len(json.dumps(launchpad.launches.find_one(), default=str)) < 20_000


def test_a_job_of_level_ipa_brings_ipa_alone(
    dispatcher: FireWorksDispatcher, launchpad: LaunchPad, job: Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dispatcher.submit(replace(job, level="ipa"))
    assert launchpad.fireworks.find_one({"spec.selector_key": "k1"})["spec"]["_category"] == "ipa"
    fire(launchpad, monkeypatch, tmp_path)
    outcome = dispatcher.outcome("k1", Path(job.workdir))
    assert isinstance(outcome, Result)
    assert set(outcome.calculation.spectra) == {"ipa"}
    assert launchpad.launches.find_one()["action"]["stored_data"]["sc"] is None


@pytest.mark.parametrize(("error", "retry"), [("Metallic", False), ("NotConverged", True)])
def test_a_failure_is_written_down_by_name_and_recording_still_runs(
    dispatcher: FireWorksDispatcher, launchpad: LaunchPad, job: Job,
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: str, retry: bool,
) -> None:  # fmt: skip
    engine = {"name": "replay", "preset": None, "options": {"failures": {job.material_id: error}}}
    dispatcher.submit(replace(job, engine=engine))
    fire(launchpad, monkeypatch, tmp_path)
    outcome = dispatcher.outcome("k1", Path(job.workdir))
    assert isinstance(outcome, Failure)
    assert (outcome.reason, outcome.retry, outcome.interrupted) == (error, retry, False)
    states = {f["name"].split()[0]: f["state"] for f in launchpad.fireworks.find()}
    assert states == {"compute": "FIZZLED", "record": "READY", "advance": "WAITING"}


def test_a_calculation_done_before_is_not_done_again(
    dispatcher: FireWorksDispatcher, launchpad: LaunchPad, job: Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dispatcher.submit(job)
    fire(launchpad, monkeypatch, tmp_path)
    file = Path(job.workdir) / "calculation.npz"
    before = file.stat().st_mtime_ns
    launchpad.rerun_fw(dispatcher.submit(job))
    fire(launchpad, monkeypatch, tmp_path)
    assert file.stat().st_mtime_ns == before


def test_two_submitters_at_once_make_one_workflow(
    dispatcher: FireWorksDispatcher, launchpad: LaunchPad, job: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second has looked before the first had written: the unique index tells it."""
    launchpad.add_wf(spectrum_workflow(job))
    first, find = launchpad.fireworks.find_one({"spec.selector_key": "k1"})["fw_id"], dispatcher._find
    answers = [None]
    monkeypatch.setattr(dispatcher, "_find", lambda key: answers.pop() if answers else find(key))
    assert dispatcher.submit(job) == first
    assert launchpad.fireworks.count_documents({"spec.selector_workflow": "k1"}) == 3
    assert launchpad.workflows.count_documents({}) == 1


def test_the_first_releases_index_becomes_unique(launchpad: LaunchPad) -> None:
    launchpad.fireworks.drop_index("spec.selector_key_1")
    launchpad.fireworks.create_index("spec.selector_key")
    index_keys(launchpad)
    index_keys(launchpad)
    assert launchpad.fireworks.index_information()["spec.selector_key_1"]["unique"]


@pytest.mark.parametrize("fails", [False, True])
def test_a_firework_launched_twice_computes_once(
    job: Job, label: Label, monkeypatch: pytest.MonkeyPatch, fails: bool
) -> None:
    runs, at_once, lock = [], [], threading.Lock()

    class Slow:
        def compute(
            self, material_id: str, structure: Structure, levels: Sequence[str], workdir: Path, limit: float | None
        ) -> Calculation:
            at_once.append(lock.acquire(blocking=False))
            runs.append(material_id)
            time.sleep(0.3)
            lock.release()
            if fails:
                raise Metallic("no gap", 0.3)
            return get_engine("replay").compute(material_id, label.structure, levels, workdir, limit)

    monkeypatch.setattr("fw_tasks.tasks.get_engine", lambda *_, **__: Slow())
    with ThreadPoolExecutor(2) as pool:
        launches = [pool.submit(ComputeSpectrum(job=asdict(job)).run_task, {}) for _ in range(2)]
    assert (runs, at_once) == ([job.material_id], [True])
    if fails:
        assert {type(launch.exception()) for launch in launches} == {Metallic, AttemptFailed}
    else:
        assert launches[0].result().stored_data["result"] == launches[1].result().stored_data["result"]


def test_a_deleted_or_defused_workflow_is_a_failure_without_retry(
    dispatcher: FireWorksDispatcher, launchpad: LaunchPad, job: Job
) -> None:
    fw_id = dispatcher.submit(job)
    launchpad.defuse_wf(fw_id)
    outcome = dispatcher.outcome("k1", Path(job.workdir))
    assert isinstance(outcome, Failure)
    assert not outcome.retry


def test_a_learning_job_is_out_until_it_ends(dispatcher: FireWorksDispatcher, launchpad: LaunchPad) -> None:
    dispatcher.submit_learning("c", "learn-1")
    assert dispatcher.learning_is_out("learn-1")
    assert not dispatcher.learning_is_out("learn-2")
    launchpad.defuse_wf(launchpad.fireworks.find_one({"spec.selector_key": "learn-1"})["fw_id"])
    assert not dispatcher.learning_is_out("learn-1")


def test_a_finished_calculation_nobody_read_is_read(
    launchpad: LaunchPad, job: Job, label: Label, tmp_path: Path
) -> None:
    class Finished:
        """An engine whose worker had finished when its launcher died."""

        def collect(self, workdir: Path) -> Calculation:
            return get_engine("replay").compute(job.material_id, label.structure, ["ipa", "rpa"], workdir, None)

    dispatcher = FireWorksDispatcher(launchpad, tmp_path, Finished())  # type: ignore[arg-type]
    fw_id = dispatcher.submit(job)
    _, launch_id = launchpad.checkout_fw(FWorker(name="w"), str(tmp_path))
    launchpad.mark_fizzled(launch_id)
    assert launchpad.fireworks.find_one({"fw_id": fw_id})["state"] == "FIZZLED"
    assert isinstance(dispatcher.outcome("k1", Path(job.workdir)), Result)
