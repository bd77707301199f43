"""The benchmark of the GPU: its parts on the CPU everywhere, its claims where there is a GPU."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from types import ModuleType

import pytest
import torch

from models.labels import load_labels, read_manifest
from models.optimate import OptiMateSizes
from models.spectrum_learning import SpectrumLabels

ROOT = Path(__file__).parents[2]
TINY = OptiMateSizes(node=(8,), attention=((8, 2),), output=(8,))


@pytest.fixture(scope="module")
def gpu() -> ModuleType:
    return importlib.import_module("gpu")


def test_one_line_where_there_is_no_gpu(
    gpu: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SystemExit) as e:
        gpu.main([])
    assert e.value.code == 2
    out, err = capsys.readouterr()
    assert (out, err) == ("", "GPU: not run: no CUDA device answers here\n")


def test_the_comparisons_are_of_like_with_like(gpu: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    """On the CPU, against itself: no difference; and the two trainings differ in their precision alone."""
    assert gpu.difference_of_outputs("cpu", 5) == 0.0
    asked = []

    def single(precision: str, device: torch.device) -> None:
        asked.append(precision)

    monkeypatch.setattr("models.training.pick_half", single)
    labels = SpectrumLabels.of(load_labels(ids=read_manifest(gpu.MANIFEST)[:24]), "ipa")
    found = gpu.change_by_mixed_precision(labels, 1, 2, TINY, "cpu")
    assert asked == ["single", "mixed"]
    assert found["mae_single"] == found["mae_mixed"] > 0.0
    assert found["change"] == 0.0


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_the_gpu_gives_the_same_and_mixed_precision_nearly(
    gpu: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    gpu.main(["--out", str(tmp_path / "gpu.json")])
    figures = json.loads((tmp_path / "gpu.json").read_text())
    assert figures["difference"] < gpu.MOST_DIFFERENT
    assert abs(figures["precision"]["change"]) < gpu.MOST_CHANGED
    assert min(figures["rates"]["cuda"].values()) > 0.0
    assert "structures/s predicted" in capsys.readouterr().out
