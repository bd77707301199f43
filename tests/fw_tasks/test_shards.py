"""Shards as fireworks: each out once, nothing twice, lost ones handed out again, failing ones said."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from fireworks import FWorker, LaunchPad
from fireworks.core.rocket_launcher import rapidfire
from pymongo.database import Database

from fw_tasks import shard_work, shards
from fw_tasks.database import launchpad_for
from models import checkpoints
from selector import localdb
from selector.config import load_config
from selector.errors import SelectorError, UsageError
from selector.shards.output import FolderOutput, Plan

N, SIZE = 11, 3


def crystals(path: Path, n: int = N) -> Path:
    """Rock salt of various sizes; the fourth has two atoms in one place."""
    rows = [
        {
            "material_id": f"m{k}",
            "lattice": [[4.0 + 0.1 * k, 0.0, 0.0], [0.0, 4.0, 0.0], [0.0, 0.0, 4.0]],
            "species": ["Mg", "O"],
            "frac": [[0.0, 0.0, 0.0], [0.5, 0.5, 0.5] if k != 3 else [0.0, 0.0, 0.0]],
        }
        for k in range(n)
    ]
    pq.write_table(pa.Table.from_pylist(rows), path)
    return path


@pytest.fixture
def config_file(tmp_path: Path) -> Any:
    file = tmp_path / "campaign.yaml"
    file.write_text("campaign: c\nfolder: run\nbudget_cpu_h: 1\n")
    yield file
    localdb.stop(tmp_path / "run" / "database" / "selector.sqlite")


@pytest.fixture
def launchpad(config_file: Path) -> LaunchPad:
    return launchpad_for(load_config(config_file))


@pytest.fixture
def run(tmp_path: Path) -> tuple[FolderOutput, Plan]:
    output = FolderOutput(tmp_path / "out")
    source = shard_work.find_source([crystals(tmp_path / "a.parquet")], None)
    return output, shard_work.begin(output, source, None, 0.75, SIZE)


def launch(launchpad: LaunchPad, folder: Path, n: int = 0) -> None:
    rapidfire(launchpad, FWorker(category=shards.CATEGORY), m_dir=str(folder), nlaunches=n, strm_lvl="CRITICAL")


def states(launchpad: LaunchPad) -> list[str]:
    return [f["state"] for f in launchpad.fireworks.find({}, {"state": 1}).sort("fw_id", 1)]


def test_each_shard_is_a_firework_and_predicted_once(
    launchpad: LaunchPad, run: tuple[FolderOutput, Plan], tmp_path: Path
) -> None:
    output, plan = run
    assert shards.submit(launchpad, "c", output, plan, "cpu") == 4
    assert shards.submit(launchpad, "c", output, plan, "cpu") == 0
    launch(launchpad, tmp_path)
    assert states(launchpad) == ["COMPLETED"] * 4
    totals = output.totals()
    assert (totals.shards, totals.n, totals.broken) == (4, N, 1)
    assert [row["index"] for row in output.top(N)].count(3) == 0
    assert shards.submit(launchpad, "c", output, plan, "cpu") == 0


def test_the_fireworks_say_what_they_are_and_hold_no_secret(
    launchpad: LaunchPad, run: tuple[FolderOutput, Plan]
) -> None:
    shards.submit(launchpad, "c", *run, "cpu")
    f = launchpad.fireworks.find_one({"spec.selector_shard": 2})
    assert f["name"] == "predict shard 2 of 4"
    assert f["spec"]["campaign"] == "c"
    assert f["spec"]["_category"] == "predict"
    assert f["spec"]["_tasks"][0]["output"] == {"folder": str(run[0].folder)}
    w = launchpad.workflows.find_one({"metadata.selector_shard": 2})
    assert w["nodes"] == [f["fw_id"]]
    assert "mongodb" not in str(f) + str(w)


def test_a_shard_that_was_lost_or_removed_is_handed_out_again(
    launchpad: LaunchPad, run: tuple[FolderOutput, Plan], tmp_path: Path
) -> None:
    output, plan = run
    shards.submit(launchpad, "c", output, plan, "cpu")
    launch(launchpad, tmp_path)
    (output.folder / "shard-000001.parquet").unlink()
    assert shards.submit(launchpad, "c", output, plan, "cpu") == 1
    assert states(launchpad) == ["COMPLETED", "READY", "COMPLETED", "COMPLETED"]
    launch(launchpad, tmp_path)
    assert output.done() == {0, 1, 2, 3}


def test_fireworks_that_were_half_added_are_added(launchpad: LaunchPad, run: tuple[FolderOutput, Plan]) -> None:
    """Killed between a run's workflows and their fireworks."""
    output, plan = run
    shards.submit(launchpad, "c", output, plan, "cpu")
    launchpad.fireworks.delete_many({"spec.selector_shard": {"$gt": 1}})
    assert shards.submit(launchpad, "c", output, plan, "cpu") == 2
    assert launchpad.workflows.count_documents({}) == launchpad.fireworks.count_documents({}) == 4


def test_a_collection_is_read_and_written_by_rockets(launchpad: LaunchPad, tmp_path: Path) -> None:
    def database() -> Database[Any]:
        return launchpad.db

    database()["pool"].insert_many(pq.read_table(crystals(tmp_path / "a.parquet")).to_pylist())
    output = shard_work.open_output({"collection": "predictions"}, database)
    source = shard_work.find_source([Path("collection:pool")], None, database)
    plan = shard_work.begin(output, source, None, 0.75, SIZE)
    assert shard_work.begin(output, source, None, 0.75, None) == output.plan() == plan
    shards.submit(launchpad, "c", output, plan, "cpu")
    launch(launchpad, tmp_path)
    assert (output.totals().n, output.totals().broken) == (N, 1)
    best = database()["predictions"].find({}).sort("value", -1).limit(1)[0]
    assert best["material_id"] == output.top(1)[0]["material_id"]
    assert "value_1" in database()["predictions"].index_information()
    with pytest.raises(UsageError, match="collection 'predictions' holds predictions of another threshold"):
        shard_work.begin(output, source, None, 0.8, None)


def test_a_shard_that_keeps_failing_ends_the_run_with_its_reason(
    launchpad: LaunchPad, run: tuple[FolderOutput, Plan], tmp_path: Path
) -> None:
    output, plan = run
    shards.submit(launchpad, "c", output, plan, "cpu")
    (tmp_path / "a.parquet").unlink()
    before = shards._launches(launchpad, shards.run_key(output, plan))
    for _ in range(shards.MAX_LAUNCHES - 1):
        launch(launchpad, tmp_path, 1)
        shards._try_again(launchpad, shards.run_key(output, plan), before)
    launch(launchpad, tmp_path, 1)
    with pytest.raises(SelectorError, match=r"a shard failed 3 times: .*a\.parquet: missing, or changed since"):
        shards._try_again(launchpad, shards.run_key(output, plan), before)
    assert output.done() == set()


def test_another_model_than_planned_is_refused(run: tuple[FolderOutput, Plan], monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a machine with another release."""
    output, plan = run
    real = shard_work._predictor(None)
    monkeypatch.setattr(shard_work, "_predictor", lambda checkpoint: real)
    monkeypatch.setitem(real.card, "model_id", "sc-other")
    with pytest.raises(
        SelectorError, match=f"the weights that ship: sc-other, where the run began with {plan.model_id}"
    ):
        shard_work.predict_shard(output, 0, "cpu")
    with pytest.raises(UsageError, match="holds predictions of another model"):
        shard_work.begin(output, shard_work.open_source(plan.source), None, 0.75, None)


@pytest.mark.parametrize("device", ["auto", pytest.param("cuda", marks=pytest.mark.gpu)])
def test_a_network_predicts_on_the_device_that_is_named(tmp_path: Path, device: str) -> None:
    checkpoint = Path(__file__).parents[1] / "data" / "checkpoints" / "sc_network-0.2.safetensors"
    output, source = FolderOutput(tmp_path / "out"), shard_work.find_source([crystals(tmp_path / "a.parquet")], None)
    plan = shard_work.begin(output, source, checkpoint, 0.75, None)
    done = shard_work.predict_shard(output, 0, device)
    assert done is not None
    assert (done.n, done.broken) == (N, 1)
    rows = [row for row in source.rows(plan.shards[0]) if row.structure is not None]
    expected = checkpoints.load(checkpoint).predict([row.structure for row in rows], device="cpu").mean
    said = [row["sc_mean"] for row in sorted(output.top(N), key=lambda row: row["index"])]
    # Half precision on a GPU.
    assert np.allclose(said, expected, atol=1e-6 if device == "auto" and not torch.cuda.is_available() else 5e-3)
    assert plan.model_id == checkpoints.load(checkpoint).model_id
    for wrong in ("sc_spectrum_predictor-0.2", "absent"):
        with pytest.raises(SelectorError, match=f"{wrong}.safetensors: "):
            shard_work.begin(output, source, checkpoint.with_name(f"{wrong}.safetensors"), 0.75, None)


def test_peak_memory_is_that_of_this_process() -> None:
    status = Path(f"/proc/{os.getpid()}/status").read_text()
    kb = int(next(line.split()[1] for line in status.splitlines() if line.startswith("VmHWM:")))
    assert shard_work.peak_mb() == pytest.approx(kb / 1e3, rel=0.2)
