"""A whole campaign with replayed labels, command by command."""

from __future__ import annotations

import csv
import itertools
import json
from pathlib import Path

import pytest

from models.labels import Label
from selector.config import load_config
from selector.report import DECISION_COLUMNS
from tests.conftest import Run


@pytest.mark.slow
def test_a_whole_campaign(selector: Run, folder: Path, labels: list[Label]) -> None:
    config = folder / "campaign.yaml"
    assert selector("init", config)[0] == 0
    code, out, _ = selector("add", folder / "cifs", "--config", config, "--json")
    assert code == 0
    assert len(json.loads(out)["added"]) == len(labels)
    assert "were there already" in selector("add", folder / "cifs", "--config", config)[1]

    code, out, _ = selector("plan", "--config", config, "--json")
    plan = json.loads(out)
    wanted = [c for c in plan["choices"] if c["level"] == "rpa"]
    # By value per cost, of which likeness to what goes before takes 30 % at most.
    ratio = [c["value"] / c["cost_predicted_cpu_h"] for c in wanted]
    assert all(after * 0.7 <= before for before, after in itertools.pairwise(ratio))
    assert all(c["sc_lo"] < c["sc_mean"] < c["sc_hi"] for c in plan["choices"])
    assert 0 < plan["cost_predicted_cpu_h"] <= plan["available_cpu_h"]
    assert "would get RPA" in selector("plan", "--config", config)[1]

    code, out, err = selector("run", "--config", config, "--workers", 2)
    assert code == 0, err
    assert "fine-tuned" in out

    status = json.loads(selector("status", "--config", config, "--json")[1])
    assert status["state"] == "finished"
    assert status["counts"]["done"] >= 6
    assert 0 < status["spent_cpu_h"] <= status["budget_cpu_h"]
    assert status["reserved_cpu_h"] == 0.0
    assert status["calibration"]["state"] == "held_out"
    assert len(status["models"]) >= 2
    assert "rehearsal, finished" in selector("status", "--config", config)[1]
    assert "finished" in selector("status", "--config", config, "--watch")[1]
    assert "campaign finished" in selector("step", "--config", config)[1]
    assert json.loads(selector("step", "--config", config, "--json")[1])["dispatched"] == 0

    # The map, which takes its time, has tests of its own.
    code, out, _ = selector("report", "--config", config, "--no-map")
    assert code == 0
    with (folder / "run" / "report" / "decisions.csv").open(encoding="utf-8") as f:
        rows = {row["material_id"]: row for row in csv.DictReader(f)}
    assert set(rows) == {label.material_id for label in labels}
    assert set(next(iter(rows.values()))) == set(DECISION_COLUMNS)
    assert all(row["reason"] and row["model_id"] for row in rows.values())
    for label in labels:
        row = rows[label.material_id]
        if row["status"] == "done":
            assert row["level"] == "rpa"
            # The grid's splines are taken twice: once when labels were packed, once here.
            assert float(row["sc_computed"]) == pytest.approx(label.sc, abs=2e-3)
    page = (folder / "run" / "report" / "report.html").read_text(encoding="utf-8")
    assert "rehearsal" in page
    other = folder / "elsewhere"
    files = json.loads(selector("report", "--config", config, "--no-map", "--out", other, "--json")[1])["files"]
    assert Path(files["decisions"]).parent == other

    assert "answers" in selector("doctor", "--config", config)[1]
    assert json.loads(selector("db", "status", "--config", config, "--json")[1])["running"]
    assert "mongodb://" in selector("db", "start", "--config", config)[1]
    assert "stopped" in selector("db", "stop", "--config", config)[1]


def test_a_campaign_calibrated_by_its_weights_says_what_predict_says(selector: Run, folder: Path) -> None:
    config = folder / "campaign.yaml"
    selector("init", config)
    selector("add", folder / "cifs", "--config", config)
    predicted = json.loads(selector("predict", folder / "cifs", "--json")[1])["predictions"]
    ends = {p["material_id"]: (p["sc_lo"], p["sc_mean"], p["sc_hi"]) for p in predicted}
    choices = json.loads(selector("plan", "--config", config, "--json")[1])["choices"]
    assert {c["material_id"] for c in choices} == set(ends)
    for c in choices:
        assert (c["sc_lo"], c["sc_mean"], c["sc_hi"]) == pytest.approx(ends[c["material_id"]], abs=1e-6)
        assert c["calibration"] == "held_out"


def test_a_campaign_moves_to_another_database(selector: Run, folder: Path, labels: list[Label]) -> None:
    config = folder / "campaign.yaml"
    selector("init", config)
    selector("add", folder / "cifs", "--config", config)
    assert "documents" in selector("db", "export", folder / "dump", "--config", config)[1]
    moved = folder / "moved.yaml"
    moved.write_text(config.read_text(encoding="utf-8") + "database: {name: moved}\n", encoding="utf-8")
    dumped = next(file.parent for file in (folder / "dump").rglob("campaigns.bson"))
    assert "read from" in selector("db", "import", dumped, "--config", moved)[1]
    assert "rehearsal, running" in selector("status", "--config", moved)[1]


def test_the_demo_configuration_is_the_one_the_readme_shows(demo_crystals: Path) -> None:
    config = load_config(demo_crystals / "campaign.yaml")
    assert config.engine.name == "gpaw"
    assert config.engine.preset == "standard"
