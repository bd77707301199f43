"""The benchmark of transfer: its subsets, and a run of one epoch."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from models.labels import load_labels, read_manifest

ROOT = Path(__file__).parents[2]
MANIFEST = ROOT / "benchmarks" / "manifests" / "2026-11-21.json"


@pytest.fixture(scope="module")
def transfer() -> ModuleType:
    return importlib.import_module("transfer")


def test_subsets_are_nested_and_never_of_the_test_fold(transfer: ModuleType) -> None:
    labels = load_labels(ids=read_manifest(MANIFEST))
    rest = np.arange(10, 95)
    found = transfer.subsets(labels, rest, 3)
    sized = [set(rows.tolist()) for name, rows in found.items() if name.startswith("n = ")]
    assert [len(s) for s in sized] == [10, 30, 85]
    assert sized[0] < sized[1] < sized[2] == set(rest.tolist())
    small = found["cells <= 3"]
    assert max(len(labels[i].structure) for i in small) <= 3
    assert set(small.tolist()) <= set(rest.tolist())


def test_a_run_of_one_epoch(
    transfer: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    few = tmp_path / "few.json"
    few.write_text(json.dumps(read_manifest(MANIFEST)[:30]))
    monkeypatch.setattr(transfer, "LEVELS_N", (10, 100))
    monkeypatch.setattr(transfer, "DIRECT_SIZES", ("ipa",))
    monkeypatch.setattr(transfer, "TRANSFER_RATES", (3e-4,))
    files = {"--manifest": few, "--out": tmp_path / "out.json", "--picture": tmp_path / "curve.png"}
    options = [str(x) for pair in files.items() for x in pair] + ["--epochs", "1", "--seeds", "1"]
    transfer.main([*options, "--keep", str(tmp_path / "kept")])
    figures = json.loads((tmp_path / "out.json").read_text())
    row = figures["rows"]["n = 10"]
    assert row["n"] == 10
    for method in ("direct", "transfer"):
        assert -1.0 <= row[method][0] <= 1.0
    assert row["difference"][0] == pytest.approx(row["transfer"][0] - row["direct"][0])
    # The computed IPA spectra taken as RPA: no network enters.
    assert 0.6 < figures["IPA spectrum taken as RPA"][0] < 0.9
    assert "transfer - direct (95 %)" in capsys.readouterr().out
    assert (tmp_path / "curve.png").stat().st_size > 5000
    # Called again, it takes the seed from its file.
    monkeypatch.setattr(transfer, "learn", None)
    transfer.main([*options, "--keep", str(tmp_path / "kept")])
    assert json.loads((tmp_path / "out.json").read_text())["rows"] == figures["rows"]
