"""A pool of 50,000: how long `status` and the choice of a step take, and how much memory; the same at 100,000."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import time
import uuid
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pymongo import MongoClient
from pymongo.database import Database
from rehearsal import HASH, Meter

from selector import dispatching, localdb, lots
from selector.budgeting import learn_costs
from selector.candidates import Candidate
from selector.cli.views import status_json
from selector.config import CampaignConfig
from selector.documents import packed
from selector.policies import get_policy
from selector.predictions import to_documents
from selector.store import Store

N_LATENT, N_DONE = 55, 500
BATCH = 5000


def fill(database: Database[Any], folder: Path, n: int) -> None:
    """A campaign in mid-course: ``n`` pending candidates with predictions, some hundred labels and events."""
    config = CampaignConfig.model_validate(
        {"campaign": "c", "folder": folder, "budget_cpu_h": 1000, "max_in_flight": 20}
    )
    store, rng = Store(database, "c"), np.random.default_rng(0)
    store.create(config.public(), config.budget_cpu_h, "gpaw", HASH, **config.account())
    kind = {"engine": "gpaw", "settings_hash": HASH}
    store.add_model("m0", round=0, parent=None, file="m0", n_new_labels=0, metrics={}, **kind)
    about = {"model_id": "m0", "model_round": 0, "calibration": "held_out", "stamp": "m0 held_out"}
    frac = rng.random((8, 3)).round(6).tolist()
    structure = {"lattice": (np.eye(3) * 5.431).tolist(), "species": ["Mg", "O"] * 4, "frac": frac}
    for first in range(0, n + N_DONE, BATCH):
        numbers = range(first, min(first + BATCH, n + N_DONE))
        mean, spread = rng.beta(8, 2, len(numbers)), rng.uniform(0.02, 0.2, len(numbers))
        latent = rng.normal(size=(len(numbers), N_LATENT))
        said = to_documents(mean, spread, latent, np.linspace(0.05, 2, 200), 0.75)
        documents = [
            {
                **{"_id": f"c:m{i:06d}", "campaign": "c", "material_id": f"m{i:06d}", "formula": "MgO", "attempts": 0},
                **{"status": "pending", "estimate_cpu_h": float(rng.lognormal(-2, 1)), "source": "x.cif"},
                **packed({"structure": structure}),
                "prediction": {**p, "out_of_domain": False, **about},
            }
            for i, p in zip(numbers, said, strict=True)
        ]
        for d in documents[: max(0, N_DONE - first)]:
            told = {k: v for k, v in d["prediction"].items() if k != "latent"}
            key = f"key-{d['material_id']}"
            store.ledger.reserve(key, 0.1, material_id=d["material_id"])
            store.ledger.settle(key, 0.05)
            decision = {
                **told,
                "level": "rpa",
                "key": key,
                "reason": "x",
                "policy": "p",
                "random_draw": True,
                "attempt": 1,
            }
            d |= {"status": "done", "sc_computed": 0.8, "used_cpu_h": 0.05, "attempts": 1, "decision": decision}
            label = {"sc": 0.8, "prediction": told, "random_draw": True}
            database["labels"].insert_one({"campaign": "c", "material_id": d["material_id"], **kind, **label})
            store.event("recorded", d["material_id"], material_id=d["material_id"])
        database["candidates"].insert_many(documents)


def measure(uri: str, name: str) -> dict[str, float]:
    """Seconds of the fastest of three calls each, which others on this machine disturbed least; and memory."""
    database = MongoClient(uri)[name]
    store = Store(database, "c")
    config = CampaignConfig.model_validate(store.campaign()["config"])
    took: dict[str, float] = {}

    def status() -> None:
        status_json(store)

    def choice() -> None:
        costs = learn_costs(store.settled(), Meter().cost_log_sd)
        pending = dispatching.pool(store, costs, config)
        chosen = lots.choose(pending, get_policy(config.policy), config, 1000.0, config.max_in_flight, 0)
        assert len(chosen) == config.max_in_flight

    for what in (status, choice):
        for _ in range(3):
            start = time.perf_counter()
            what()
            took[what.__name__] = min(took.get(what.__name__, math.inf), time.perf_counter() - start)
    return {**took, "memory_gb": peak_memory_gb("self")}


def peak_memory_gb(process: int | str) -> float:
    """Not `getrusage`, whose figure counts the process that started this one."""
    status = Path(f"/proc/{process}/status").read_text(encoding="utf-8")
    return float(status.split("VmHWM:")[1].split()[0]) / 1e6


def run(uri: str, folder: Path, n: int) -> dict[str, float]:
    client: MongoClient[Any] = MongoClient(uri)
    name = f"scale_{uuid.uuid4().hex[:8]}"
    try:
        fill(client[name], folder, n)
        # In a process of its own, whose memory is that of a step alone.
        said = subprocess.run(
            [sys.executable, __file__, uri, name],
            capture_output=True,
            text=True,
            check=True,
            env={**os.environ, "PYTHONPATH": str(Path(__file__).parent)},
        )
        return dict(json.loads(said.stdout))
    finally:
        client.drop_database(name)


@pytest.mark.slow
@pytest.mark.timed
@pytest.mark.parametrize("n", [50_000, 100_000])
def test_a_large_pool_in_the_local_database(tmp_path: Path, capsys: pytest.CaptureFixture[str], n: int) -> None:
    file = tmp_path / "scale.sqlite"
    uri = localdb.ensure_running(file)
    try:
        found = {**run(uri, tmp_path, n), "server_gb": peak_memory_gb(localdb.status(file)["pid"])}
    finally:
        localdb.stop(file)
    show(capsys, n, found)
    if n == 50_000:
        assert found["status"] < 0.2
        assert found["choice"] < 3.0
        assert found["memory_gb"] < 1.0 and found["server_gb"] < 1.0


@pytest.mark.slow
@pytest.mark.timed
@pytest.mark.mongo
def test_a_large_pool_in_a_mongodb(mongo_uri: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    if "SELECTOR_TEST_MONGO_URI" not in os.environ:
        pytest.skip("SELECTOR_TEST_MONGO_URI names no MongoDB")
    found = run(mongo_uri, tmp_path, 50_000)
    show(capsys, 50_000, found)
    assert found["status"] < 0.2
    assert found["choice"] < 3.0
    assert found["memory_gb"] < 1.0


def show(capsys: pytest.CaptureFixture[str], n: int, found: dict[str, float]) -> None:
    with capsys.disabled():
        print(f"\n{n} candidates: " + ", ".join(f"{k} {v:.3f}" for k, v in found.items()))


@pytest.mark.slow
def test_a_campaign_of_the_scale_test_is_a_campaign(database: Database[Any], tmp_path: Path) -> None:
    """The pool of the large tests, small: what it is filled with is what a campaign writes."""
    fill(database, tmp_path, 50)
    assert Candidate.from_dict(Store(database, "c").candidate("m000510")).formula
    assert status_json(Store(database, "c"))["counts"] == {"pending": 50, "done": N_DONE}


if __name__ == "__main__":
    print(json.dumps(measure(*sys.argv[1:])))
