"""`selector map` and the map in `selector report`, as a user types them."""

from __future__ import annotations

import csv
import json
import re
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from models import checkpoints
from models.labels import Label
from models.optimate import OptiMate, OptiMateSizes
from models.spectrum_model import SpectrumModel
from tests.conftest import Run


@pytest.fixture
def labels(cheap_labels: list[Label]) -> list[Label]:
    """Labels of elements that the paper's network has an input for."""
    return cheap_labels[:12]


@pytest.fixture
def folder(folder: Path) -> Path:
    """The same with a campaign that computes a few."""
    (folder / "campaign.yaml").write_text(
        "campaign: charted\nfolder: run\nbudget_cpu_h: 0.05\nengine: {name: replay}\npolicy: {threshold: 0.9}\n",
        encoding="utf-8",
    )
    return folder


@pytest.fixture
def spectrum_models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Untrained spectrum models in place of those that ship: it is about the page here, not about their quality."""
    torch.manual_seed(0)
    files = []
    for level in ("ipa", "rpa"):
        sizes = OptiMateSizes(node=(8,), attention=((8, 2),), output=(8,), n_out=2001)
        files.append(tmp_path / f"{level}.safetensors")
        checkpoints.save_spectrum_model(SpectrumModel(OptiMate(sizes), level), files[-1])
    monkeypatch.setattr(checkpoints, "shipped_spectrum_models", lambda: files)


def payload(page: Path) -> dict[str, Any]:
    source = page.read_text(encoding="utf-8")
    return json.loads(re.search(r'id="payload">(.*?)</script>', source, re.DOTALL).group(1))


@pytest.mark.slow
def test_a_map_of_structure_files(selector: Run, folder: Path, labels: list[Label], spectrum_models: None) -> None:
    (folder / "cifs" / "broken.cif").write_text("data_x\n", encoding="utf-8")
    out = folder / "maps" / "one.html"
    code, said, err = selector("map", folder / "cifs", "--out", out, "--json")
    assert code == 1
    assert sum("broken.cif" in line for line in err.splitlines()) == 1
    points = {p["material_id"]: p for p in json.loads(said)["points"]}
    assert set(points) == {k.material_id for k in labels}
    assert all(p["sc_computed"] is None for p in points.values())
    assert len({(p["x"], p["y"]) for p in points.values()}) == len(labels)
    # One predictor, one interval: the map says what `selector predict` says.
    predicted = json.loads(selector("predict", folder / "cifs", "--json")[1])["predictions"]
    for row in predicted:
        p = points[row["material_id"]]
        assert (p["sc_pred"], p["sc_lo"], p["sc_hi"]) == pytest.approx((row["sc_mean"], row["sc_lo"], row["sc_hi"]))
    drawn = payload(out)
    assert len(drawn["map"]["points"]) == len(labels)
    assert {s["material_id"] for s in drawn["map"]["predicted"]} == set(points)


@pytest.mark.slow
def test_a_map_of_a_campaign_and_in_its_report(
    selector: Run, folder: Path, labels: list[Label], spectrum_models: None
) -> None:
    config = folder / "campaign.yaml"
    selector("init", config)
    selector("add", folder / "cifs", "--config", config)
    assert selector("run", "--config", config, "--workers", 1)[0] == 0
    code, said, err = selector("map", "--config", config)
    assert code == 0, err
    page = folder / "run" / "report" / "map.html"
    assert str(page) in said.replace("\n", "")
    drawn = payload(page)
    sc = {k.material_id: k.sc for k in labels}
    computed = {p["material_id"]: p["sc_computed"] for p in drawn["map"]["points"] if p["sc_computed"] is not None}
    assert 0 < len(computed) < len(labels)
    for material_id, value in computed.items():
        assert value == pytest.approx(sc[material_id], abs=2e-3)
    # Every material has spectra: its own where computed, predicted ones elsewhere.
    shown = {s["material_id"] for s in drawn["spectra"]}
    assert shown == set(computed)
    assert {s["material_id"] for s in drawn["map"]["predicted"]} == set(sc) - shown

    assert selector("report", "--config", config)[0] == 0
    report = payload(folder / "run" / "report" / "report.html")
    assert report["map"]["points"] == drawn["map"]["points"]
    assert selector("report", "--config", config, "--no-map")[0] == 0
    assert payload(folder / "run" / "report" / "report.html")["map"] is None
    with (folder / "run" / "report" / "decisions.csv").open(encoding="utf-8") as f:
        rows = list(csv.DictReader(f))
    assert {row["calibration"] for row in rows} == {"held_out"}
    assert {row["out_of_domain"] for row in rows} <= {"True", "False"}


def test_without_umap_the_report_goes_on_and_the_map_is_one_line(
    selector: Run, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "umap", None)
    config = folder / "campaign.yaml"
    selector("init", config)
    selector("add", folder / "cifs", "--config", config)
    code, _, err = selector("report", "--config", config)
    assert code == 0
    (line,) = err.strip().splitlines()
    assert "[map]" in line and "pip install" in line
    assert "pip install" in (folder / "run" / "report" / "report.html").read_text(encoding="utf-8")
    code, _, err = selector("map", folder / "cifs", "--out", folder / "map.html")
    assert code == 1
    (line,) = err.strip().splitlines()
    assert "pip install" in line
    assert not (folder / "map.html").exists()


def test_too_few_crystals_for_a_map_are_said(selector: Run, folder: Path, labels: list[Label]) -> None:
    files = [folder / "cifs" / f"{k.material_id}.cif" for k in labels[:3]]
    code, _, err = selector("map", *files, "--out", folder / "map.html")
    assert code == 1
    assert "4 different crystals or more, here are 3" in err


@pytest.mark.slow
def test_a_large_pool_is_drawn_in_part_and_says_so(
    selector: Run, folder: Path, labels: list[Label], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("models.map.MAX_CRYSTALS", 8)
    out = folder / "map.html"
    code, said, _ = selector("map", folder / "cifs", "--out", out)
    assert code == 0
    assert f"8 of {len(labels)} materials are drawn" in said
    assert len(payload(out)["map"]["points"]) == 8
