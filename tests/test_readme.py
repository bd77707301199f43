"""The README's commands, run as they stand."""

from __future__ import annotations

import re
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from models.labels import load_labels, read_manifest
from selector import localdb
from selector.cli import main
from tests.crystals import face_centred

ROOT = Path(__file__).parents[1]
MANIFEST = ROOT / "benchmarks" / "manifests" / "2026-11-21.json"
README = (ROOT / "README.md").read_text(encoding="utf-8")
SHELL = [line for block in re.findall(r"```sh\n(.*?)```", README, re.S) for line in block.splitlines()]
TOUR = [shlex.split(line, comments=True)[1:] for line in SHELL if line.startswith("selector ")]


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """What the tour takes for granted: campaign.yaml (here with replayed labels) and a folder of structures."""
    text = (ROOT / "configs" / "campaign.yaml").read_text(encoding="utf-8")
    text = text.replace("name: gpaw ", "name: replay ").replace("retrain_every: 10", "retrain_every: 2")
    (tmp_path / "campaign.yaml").write_text(text, encoding="utf-8")
    (tmp_path / "structures").mkdir()
    for label in sorted(load_labels(ids=read_manifest(MANIFEST)), key=lambda label: label.sc)[:4]:
        label.structure.to(str(tmp_path / "structures" / f"{label.material_id}.cif"))
    diamond = face_centred("zincblende", 3.567, "C").get_primitive_structure()
    diamond.to(str(tmp_path / "structures" / "one.cif"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SELECTOR_CONFIG", "campaign.yaml")
    yield tmp_path
    localdb.stop(tmp_path / "my-halides" / "database" / "selector.sqlite")


def test_the_make_targets_exist() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    named = [line.split()[1] for line in SHELL if line.startswith("make ")]
    assert {"demo", "test"} <= set(named)
    for target in named:
        assert re.search(rf"^{target}:", makefile, re.M)


@pytest.mark.slow
@pytest.mark.gpaw
def test_the_tour_runs_as_it_stands(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert [command[0] for command in TOUR] == [
        "doctor", "init", "add", "plan", "run", "status", "report", "why", "export",
        "predict", "predict", "compute", "map", "train",
    ]  # fmt: skip
    for command in TOUR:
        monkeypatch.setattr(sys, "argv", ["selector", *command])
        with pytest.raises(SystemExit) as end:
            main()
        assert not end.value.code, (command, capsys.readouterr().err)
    assert (home / "my-halides" / "report" / "report.html").exists()
    assert len((home / "sc.csv").read_text(encoding="utf-8").splitlines()) == 6
    assert len(list((home / "out").rglob("*.csv"))) == 5
    assert (home / "map.html").exists()
    assert (home / "mine.safetensors").exists()
    assert "one" in (home / "one.json").read_text(encoding="utf-8")[:100]


def test_links_in_the_documents_lead_somewhere() -> None:
    for page in [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]:
        for target in re.findall(r"\]\(([^)#]+)\)", page.read_text(encoding="utf-8")):
            assert (page.parent / target).exists() or target.startswith("http"), (page.name, target)
