"""Results on disk: whose they are, and how they come into a database that was away, restored, or lost."""

from __future__ import annotations

import functools
import json
import shutil
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from fireworks import FWorker, LaunchPad
from fireworks.core.rocket_launcher import launch_rocket
from pymongo.errors import PyMongoError
from rehearsal import Drawer, first_models

from fw_tasks import recovery
from fw_tasks.database import connect, database_file, launchpad_for
from fw_tasks.engines import get_engine
from fw_tasks.engines.base import Calculation
from fw_tasks.engines.replay import ReplayEngine
from fw_tasks.launch import open_campaign
from fw_tasks.lost import heal
from fw_tasks.signs_of_life import hold_lock, worker_name
from fw_tasks.tasks import ComputeSpectrum
from fw_tasks.workflows import FireWorksDispatcher
from models.labels import Label, load_labels
from selector import localdb
from selector.campaign import Campaign
from selector.candidates import Candidate, read_candidates
from selector.config import CampaignConfig, load_config
from selector.dispatching import job_key
from selector.ledger import check
from selector.protocols import Failure, Job, Result
from selector.store import Store

read_once = functools.cache(load_labels)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """The engine reads the labels that ship once, not for every rocket."""
    monkeypatch.setattr("fw_tasks.engines.replay.load_labels", read_once)


@pytest.fixture(scope="module")
def labels() -> list[Label]:
    return sorted(read_once(), key=lambda label: label.cpu_s)[:3]


@pytest.fixture(scope="module")
def calculation(labels: list[Label], tmp_path_factory: pytest.TempPathFactory) -> Calculation:
    folder = tmp_path_factory.mktemp("calculation")
    return get_engine("replay").compute(labels[0].material_id, labels[0].structure, ["ipa", "rpa"], folder, None)


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The material_id of everything that an engine computes."""
    runs: list[str] = []
    compute = ReplayEngine.compute

    def counting(self: ReplayEngine, material_id: str, *arguments: Any) -> Calculation:
        runs.append(material_id)
        return compute(self, material_id, *arguments)

    monkeypatch.setattr(ReplayEngine, "compute", counting)
    return runs


def job_of(label: Label, folder: Path, attempt: int = 1, campaign: str = "c", level: str = "rpa") -> Job:
    structure = Candidate(label.material_id, label.structure, "").to_dict()["structure"]
    key = job_key(campaign, label.material_id, level, attempt)
    workdir = folder / "calculations" / label.material_id / f"{level}-{attempt}"
    return Job(
        campaign, key, label.material_id, label.formula, structure, level, attempt,
        {"name": "replay", "preset": None, "options": {}}, 1, 1e4, str(workdir), {"key": key}, str(folder / "returned"),
    )  # fmt: skip


def compute(job: Job) -> Any:
    return ComputeSpectrum(job=asdict(job)).run_task({})


def notices(folder: Path) -> set[str]:
    return {file.stem for file in (folder / "returned").glob("*.json")}


# -- files -------------------------------------------------------------------------------------------------------------


def test_a_result_lies_beside_what_says_whose_it_is(labels: list[Label], tmp_path: Path) -> None:
    job = job_of(labels[0], tmp_path)
    compute(job)
    owner = recovery.owner_of(Path(job.workdir))
    assert owner is not None
    assert {k: owner[k] for k in ("campaign", "material_id", "level", "key", "attempt")} == {
        "campaign": "c", "material_id": job.material_id, "level": "rpa", "key": job.key, "attempt": 1,
    }  # fmt: skip
    left = recovery.read(Path(job.workdir), job.key)
    assert isinstance(left, Result)
    assert left.calculation.settings_hash == get_engine("replay").settings_hash
    assert notices(tmp_path) == {job.key}
    recovery.acknowledge(tmp_path, job.key)
    recovery.acknowledge(tmp_path, job.key)
    assert not notices(tmp_path)


def test_what_lies_there_is_never_computed_again(labels: list[Label], tmp_path: Path, counted: list[str]) -> None:
    first, second = (job_of(labels[0], tmp_path, attempt) for attempt in (1, 2))
    compute(first)
    compute(first)
    recovery.acknowledge(tmp_path, first.key)
    with pytest.raises(Exception, match="is not computed again"):
        compute(second)
    assert counted == [labels[0].material_id]
    left = recovery.read(Path(second.workdir), second.key)
    assert isinstance(left, Failure)
    assert (left.reason, left.wall_s, left.interrupted) == ("AlreadyComputed", 0.0, True)
    assert notices(tmp_path) == {first.key, second.key}


@pytest.mark.parametrize("other", ["campaign", "engine"])
def test_anothers_result_does_not_stand_in_for_ones_own(
    labels: list[Label], tmp_path: Path, counted: list[str], other: str
) -> None:
    first, second = (job_of(labels[0], tmp_path, attempt) for attempt in (1, 2))
    slower = first.engine | {"options": {"time_scale": 1e-9}}
    changes = {"campaign": "d"} if other == "campaign" else {"engine": slower}
    compute(replace(first, **changes))  # type: ignore[arg-type]
    compute(second)
    assert len(counted) == 2


@pytest.mark.parametrize("size", [0, 100, -1])
def test_a_result_that_is_cut_off_is_a_failure_by_name_and_computed_again(
    labels: list[Label], tmp_path: Path, counted: list[str], size: int
) -> None:
    job = job_of(labels[0], tmp_path)
    compute(job)
    file = Path(job.workdir) / "calculation.npz"
    whole = file.read_bytes()
    file.write_bytes(whole[:size])
    left = recovery.read(Path(job.workdir), job.key)
    assert isinstance(left, Failure)
    assert (left.reason, left.wall_s, left.retry) == ("BrokenResult", None, True)
    assert str(file) in left.message
    compute(job)
    assert len(counted) == 2
    assert isinstance(recovery.read(Path(job.workdir), job.key), Result)


@pytest.mark.parametrize("where", [0.2, 0.5, 0.8])
def test_a_damaged_result_is_not_taken_for_one(labels: list[Label], tmp_path: Path, where: float) -> None:
    job = job_of(labels[0], tmp_path)
    compute(job)
    file = Path(job.workdir) / "calculation.npz"
    data = bytearray(file.read_bytes())
    data[int(where * len(data))] ^= 0xFF
    file.write_bytes(data)
    assert isinstance(recovery.read(Path(job.workdir)), Failure)


def test_two_campaigns_in_one_folder_do_not_take_each_others_results(labels: list[Label], tmp_path: Path) -> None:
    first, second = job_of(labels[0], tmp_path), job_of(labels[0], tmp_path, campaign="d")
    compute(first)
    with pytest.raises(recovery.FolderTaken, match="of campaign 'c'; give each campaign a folder of its own"):
        compute(second)
    left = recovery.read(Path(second.workdir), second.key)
    assert isinstance(left, Failure)
    assert (left.reason, left.retry) == ("FolderTaken", False)
    assert isinstance(recovery.read(Path(first.workdir), first.key), Result)


def test_folders_are_looked_through_where_the_database_is_the_older(labels: list[Label], tmp_path: Path) -> None:
    job = job_of(labels[0], tmp_path)
    compute(job)
    found = {epoch: [r.job["key"] for r in recovery.returned(tmp_path, "c", epoch)] for epoch in (5, 6)}
    assert found == {5: [job.key], 6: [job.key]}
    recovery.acknowledge(tmp_path, job.key)
    assert not list(recovery.returned(tmp_path, "c", 7))
    assert [r.job["key"] for r in recovery.returned(tmp_path, "c", 3)] == [job.key]
    recovery.acknowledge(tmp_path, job.key)
    assert not list(recovery.returned(tmp_path, "c", 4))
    assert not list(recovery.returned(tmp_path, "d", 1))


def test_a_campaigns_folder_may_be_moved(labels: list[Label], tmp_path: Path) -> None:
    job = job_of(labels[0], tmp_path / "here")
    compute(job)
    shutil.move(tmp_path / "here", tmp_path / "there")
    (found,) = recovery.returned(tmp_path / "there", "c", 1)
    assert isinstance(found.read(), Result)
    assert found.place.startswith(str(tmp_path / "there"))


def test_what_the_first_release_left_is_known_by_its_place(labels: list[Label], tmp_path: Path) -> None:
    job = job_of(labels[0], tmp_path)
    compute(job)
    (Path(job.workdir) / "job.json").unlink()
    recovery.search(tmp_path, "c")
    (found,) = recovery.returned(tmp_path, "c", 1)
    assert (found.job["key"], found.job["attempt"]) == (job.key, 1)


def test_a_full_disk_at_the_notice_is_no_failure(
    labels: list[Label], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*arguments: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(recovery, "_notify", full)
    job = job_of(labels[0], tmp_path)
    assert compute(job).stored_data["sc"] == pytest.approx(labels[0].sc, abs=2e-3)


# -- a campaign --------------------------------------------------------------------------------------------------------


@dataclass
class World:
    """A campaign on a local database of its own, whose server a test may stop; its models are made up, and quick."""

    file: Path
    config: CampaignConfig
    materials: list[str]

    @property
    def campaign(self) -> Campaign:
        launchpad, engine = launchpad_for(self.config), get_engine("replay")
        dispatcher = FireWorksDispatcher(launchpad, self.config.folder, engine)
        return Campaign(Store(launchpad.db, "c"), self.config, engine, dispatcher, Drawer())

    def launch(self) -> None:
        """Launch the calculations that are ready; what would record them is left to the step."""
        fworker = FWorker(query={"spec.campaign": "c", "spec._category": "rpa"})
        while launch_rocket(connect(self.config), fworker, strm_lvl="ERROR"):
            pass

    def finish(self) -> Campaign:
        for _ in range(20):
            campaign = self.campaign
            if campaign.step().state == "finished":
                check(campaign.store.campaign())
                return campaign
            self.launch()
        pytest.fail("the campaign does not end")


@pytest.fixture
def world(labels: list[Label], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    (tmp_path / "cifs").mkdir()
    for label in labels:
        label.structure.to(str(tmp_path / "cifs" / f"{label.material_id}.cif"))
    file = tmp_path / "campaign.yaml"
    file.write_text(
        "campaign: c\nfolder: run\nbudget_cpu_h: 1\nengine: {name: replay}\naudit_fraction: 0\nmax_in_flight: 1\n"
        "policy: {name: cheapest, random_share: 0}\npredictor: {retrain_every: 99}\n",
        encoding="utf-8",
    )
    config = load_config(file)
    begun = World(file, config, [label.material_id for label in labels])
    campaign = begun.campaign
    kind = campaign.engine.label_engine, campaign.engine.settings_hash
    campaign.store.create(config.public(), config.budget_cpu_h, *kind, **config.account())
    first_models(campaign.store, config)
    campaign.add(*read_candidates([tmp_path / "cifs"]))
    (tmp_path / "launch").mkdir()
    monkeypatch.chdir(tmp_path / "launch")
    yield begun
    localdb.stop(database_file(config))


def dump(world: World) -> dict[str, list[Any]]:
    db = connect(world.config).db
    return {name: list(db[name].find({})) for name in db.list_collection_names()}


def put_back(world: World, saved: dict[str, list[Any]]) -> None:
    db = connect(world.config).db
    for name in db.list_collection_names():
        db[name].delete_many({})
        if saved.get(name):
            db[name].insert_many(saved[name])


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")  # FireWorks' own heartbeat
def test_a_calculation_that_ends_while_the_database_is_away_is_taken_by_the_step(
    world: World, counted: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    world.campaign.step()
    file = database_file(world.config)
    name = worker_name()
    lock = hold_lock(world.config.folder, name)
    uri = localdb.ensure_running(file)
    # A rocket on another machine: nobody there starts the server again.
    away = LaunchPad(
        host=uri, uri_mode=True, name="selector", logdir=None, strm_lvl="ERROR",
        mongoclient_kwargs={"serverSelectionTimeoutMS": 300},
    )  # fmt: skip
    compute_it = ReplayEngine.compute

    def and_the_database_goes(self: ReplayEngine, *arguments: Any) -> Calculation:
        done = compute_it(self, *arguments)
        localdb.stop(file)
        return done

    monkeypatch.setattr("selector.localdb.revival.ensure_running", lambda path: None)
    with monkeypatch.context() as patch:
        patch.setattr(ReplayEngine, "compute", and_the_database_goes)
        with pytest.raises(PyMongoError):
            launch_rocket(away, FWorker(name=name, query={"spec.campaign": "c"}), strm_lvl="ERROR")
    away.connection.close()
    (result,) = world.config.folder.glob("calculations/*/rpa-1/calculation.npz")
    assert result.with_name("job.json").exists()
    lock.release()
    monkeypatch.undo()

    campaign = world.campaign
    (running,) = campaign.store.candidates("running")
    assert heal(connect(world.config), "c", world.config.folder)
    campaign.step()
    c = campaign.store.candidate(running["material_id"])
    assert (c["status"], c["attempts"]) == ("done", 1)
    assert counted == [c["material_id"]]
    check(campaign.store.campaign())
    assert campaign.store.ledger.totals().spent_cpu_h == pytest.approx(c["used_cpu_h"], abs=1e-6)


@pytest.mark.parametrize("backup", ["begun", "dispatched", "one done"])
def test_a_database_restored_from_a_backup_has_every_result_again_and_nothing_is_computed_twice(
    world: World, counted: list[str], backup: str
) -> None:
    if backup != "begun":
        world.campaign.step()
    if backup == "one done":
        world.launch()
        world.campaign.step()
    saved = dump(world)
    campaign = world.finish()
    cost = campaign.store.ledger.totals().spent_cpu_h
    assert campaign.store.counts() == {"done": 3}
    put_back(world, saved)
    campaign = world.finish()
    assert campaign.store.counts() == {"done": 3}
    assert sorted(counted) == sorted(world.materials)
    assert campaign.store.ledger.totals().spent_cpu_h == pytest.approx(cost, abs=1e-6)
    assert not notices(world.config.folder)


def test_recover_takes_results_from_a_copied_folder_into_a_campaign_begun_anew(
    world: World, counted: list[str], tmp_path: Path, selector: Any
) -> None:
    campaign = world.finish()
    cost = campaign.store.ledger.totals().spent_cpu_h
    shutil.copytree(world.config.folder / "calculations", tmp_path / "copy" / "deep" / "calculations")
    broken = tmp_path / "copy" / "broken"
    shutil.copytree(next(world.config.folder.glob("calculations/*/rpa-1")), broken)
    (broken / "calculation.npz").write_bytes((broken / "calculation.npz").read_bytes()[:500])
    alien = tmp_path / "copy" / "alien"
    shutil.copytree(next(world.config.folder.glob("calculations/*/rpa-1")), alien)
    (alien / "job.json").write_text(json.dumps(json.loads((alien / "job.json").read_text()) | {"campaign": "other"}))
    nobody = tmp_path / "copy" / "nobodys"
    nobody.mkdir()
    shutil.copy(alien / "calculation.npz", nobody)

    localdb.stop(database_file(world.config))
    shutil.rmtree(world.config.folder)
    assert selector("init", world.file)[0] == 0
    code, out, _ = selector("recover", tmp_path / "copy", "--config", world.file, "--json")
    said = json.loads(out)
    assert (code, said["taken"], said["busy"]) == (1, 3, False)
    assert len(said["not_taken"]) == 3
    for word in (f"{broken}/calculation.npz cannot be read", "of campaign 'other'", f"{nobody} does not say whose"):
        assert any(word in why for why in said["not_taken"]), word
    campaign = open_campaign(world.config)
    assert campaign.store.counts() == {"done": 3}
    assert campaign.store.ledger.totals().spent_cpu_h == pytest.approx(cost, abs=1e-6)
    assert {e["kind"] for e in campaign.store.events()} >= {"restored", "recorded"}
    code, out, _ = selector("recover", "--config", world.file)
    assert code == 0
    assert "3 were known" in out
    assert len(counted) == 3
    check(campaign.store.campaign())


def test_recover_names_a_folder_that_is_not_there(world: World, selector: Any, tmp_path: Path) -> None:
    code, _, err = selector("recover", tmp_path / "absent", "--config", world.file)
    assert (code, err.count("\n")) == (2, 1)
    assert "no such folder" in err


@pytest.mark.parametrize("name", ["../../evil", "..", "a/b", ""])
def test_a_material_that_is_a_path_leads_nowhere(
    world: World, calculation: Calculation, tmp_path: Path, name: str
) -> None:
    place = tmp_path / "copy" / "x"
    place.mkdir(parents=True)
    calculation.save(place / "calculation.npz")
    about = {"campaign": "c", "material_id": name, "level": "rpa", "attempt": 1}
    (place / "job.json").write_text(json.dumps(about | {"key": job_key("c", name, "rpa", 1)}), encoding="utf-8")
    before = set(tmp_path.rglob("*"))
    (why,) = recovery.bring_home(place.parent, world.campaign.store, world.config)
    assert "no name of a folder" in why
    assert set(tmp_path.rglob("*")) == before
