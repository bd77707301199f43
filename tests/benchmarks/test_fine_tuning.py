"""Fine-tuning on 20 new labels takes under a minute, whatever is tuned."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_under_a_minute_on_two_cores(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    spec = importlib.util.spec_from_file_location("fine_tuning", ROOT / "benchmarks" / "fine_tuning.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.main(["--out", str(tmp_path / "s.json")])
    figures = json.loads((tmp_path / "s.json").read_text())
    assert figures["n_old"] == 211
    assert figures["s"].keys() == {"default predictor", "with the IPA spectrum", "ipa spectra", "rpa spectra"}
    for name, seconds in figures["s"].items():
        assert seconds < 60.0, name
    assert "20 new labels, 211 old ones" in capsys.readouterr().out
