"""Fixtures shared by the packages' tests: a database, real labels, and settings that keep runs repeatable."""

from __future__ import annotations

import os
import sys
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from pymongo import MongoClient
from pymongo.database import Database

from models.labels import Label, load_labels, read_manifest
from selector import localdb
from selector.cli import main

Run = Callable[..., tuple[int, str, str]]
MANIFEST = Path(__file__).parents[1] / "benchmarks" / "manifests" / "2026-11-21.json"

settings.register_profile(
    "repeatable",
    max_examples=30,
    derandomize=True,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
settings.register_profile("thorough", settings.get_profile("repeatable"), max_examples=200)  # make test-slow
settings.load_profile("repeatable")


@pytest.fixture(scope="session")
def mongo_uri(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A running database: the local one, or the MongoDB named by SELECTOR_TEST_MONGO_URI."""
    uri = os.environ.get("SELECTOR_TEST_MONGO_URI")
    if uri:
        yield uri
        return
    file = tmp_path_factory.mktemp("database") / "test.sqlite"
    yield localdb.ensure_running(file)
    localdb.stop(file)


@pytest.fixture
def database(mongo_uri: str) -> Iterator[Database[Any]]:
    """An empty database of its own for each test."""
    client: MongoClient[Any] = MongoClient(mongo_uri, serverSelectionTimeoutMS=5000)
    name = f"test_{uuid.uuid4().hex[:12]}"
    yield client[name]
    client.drop_database(name)
    client.close()


@pytest.fixture
def selector(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Run the command in this process: its exit code, standard output and standard error."""

    def run(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["selector", *map(str, arguments)])
        with pytest.raises(SystemExit) as end:
            main()
        out, err = capsys.readouterr()
        assert "Traceback" not in out + err
        return int(end.value.code or 0), out, err

    return run


@pytest.fixture(scope="session")
def demo_crystals() -> Path:
    """The folder of the demo's 40 crystals."""
    return Path(__file__).parents[1] / "configs" / "demo"


@pytest.fixture(scope="session")
def cheap_labels() -> list[Label]:
    """Frozen labels of less than a CPU-minute, by SC."""
    known = load_labels(ids=read_manifest(MANIFEST))
    return sorted((label for label in known if label.cpu_s < 60.0), key=lambda label: label.sc)


class AtOnce:
    """A dispatcher whose calculations are replayed as soon as they are asked for; what fails, fails for good."""

    def __init__(self, engine: Any, failing: frozenset[str] = frozenset()) -> None:
        self.engine, self.failing = engine, failing
        self.jobs: dict[str, Any] = {}
        self.held: set[str] = set()
        self.learning: list[str] = []

    def submit(self, job: Any) -> int:
        self.jobs[job.key] = job
        return len(self.jobs)

    def submit_learning(self, campaign: str, key: str) -> int:
        self.learning.append(key)
        return len(self.jobs)

    def outcome(self, key: str, workdir: Path) -> Any:
        from pymatgen.core import Structure

        from selector.protocols import Failure, Result

        job = self.jobs.get(key)
        if job is None or job.material_id in self.held:
            return None
        if job.material_id in self.failing:
            return Failure("NotConverged", "the density does not converge", 1.0, retry=False)
        structure = Structure(*(job.structure[part] for part in ("lattice", "species", "frac")))
        levels = ["ipa"] if job.level == "ipa" else ["ipa", "rpa"]
        return Result(self.engine.compute(job.material_id, structure, levels, workdir, None))

    def learning_is_out(self, key: str) -> bool:
        return key in self.learning

    def reap(self, campaign: str) -> tuple[()]:
        return ()

    def returned(self, campaign: str, epoch: int) -> list[Any]:
        return []

    def acknowledge(self, key: str) -> None:
        return None


@pytest.fixture(scope="session")
def replayed(tmp_path_factory: pytest.TempPathFactory, cheap_labels: list[Label]) -> Iterator[Path]:
    """The file of a finished campaign on 16 known labels, lots, a failure, learning and a closing audit in it.

    To be looked at, not to be changed.
    """
    from fw_tasks.database import launchpad_for
    from fw_tasks.launch import create_campaign
    from selector.candidates import read_candidates
    from selector.config import load_config

    folder = tmp_path_factory.mktemp("replayed")
    labels = [*cheap_labels[:8], *cheap_labels[-8:]]
    (folder / "cifs").mkdir()
    for label in labels:
        label.structure.to(str(folder / "cifs" / f"{label.material_id}.cif"))
    (folder / "cifs" / "broken.cif").write_text("", encoding="utf-8")
    file = folder / "campaign.yaml"
    file.write_text(
        "campaign: small\nfolder: run\nbudget_cpu_h: 0.4\naudit_fraction: 0.1\nengine: {name: replay}\n"
        "predictor: {retrain_every: 5}\npolicy: {threshold: 0.8, random_share: 0.3}\nmax_in_flight: 3\n",
        encoding="utf-8",
    )
    config = load_config(file)
    campaign = create_campaign(config, launchpad_for(config))
    campaign.add(*read_candidates([folder / "cifs"]))
    dispatcher = AtOnce(campaign.engine, frozenset({labels[1].material_id}))
    campaign.dispatcher = dispatcher

    learned = 0
    while campaign.step().state != "finished":
        # One learning, which takes the most time here; those after it count as failed.
        for key in dispatcher.learning[:1] if learned == 0 else ():
            campaign.learn(key)
            learned += 1
        dispatcher.learning.clear()
    yield file
    localdb.stop(config.folder / "database" / "selector.sqlite")
