"""The benchmark of candidates: the same draw every time, and it goes on where it was left."""

from __future__ import annotations

import importlib.util
import json
import sys
from functools import partial
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[2]
FAKE_WORKER = ROOT / "tests" / "fw_tasks" / "engines" / "fake_worker.py"


@pytest.fixture
def candidates(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    spec = importlib.util.spec_from_file_location("candidates_benchmark", ROOT / "benchmarks" / "candidates.py")
    module = importlib.util.module_from_spec(spec)
    # The processes of its pool look its functions up.
    monkeypatch.setitem(sys.modules, "candidates_benchmark", module)
    spec.loader.exec_module(module)
    return module


def test_the_draw(candidates: ModuleType) -> None:
    records = candidates.drawn(60, 0, 120.0)
    assert len({r["mat_id"] for r in records}) == 60
    assert max(r["volume"] for r in records) <= 120.0
    assert [r["mat_id"] for r in records[:2]] == ["agm002766538", "agm003094986"]
    assert candidates.drawn(60, 1, 120.0) != records


def test_it_goes_on_and_tells_labels_from_refusals(
    candidates: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    first, second = candidates.drawn(2, 0, 120.0)
    known = {key: first[key] for key in ("mat_id", "formula", "volume", "gap")}
    row = known | {
        "sc": 0.9,
        "gap_ev": 1.0,
        "repairs": ["mixer"],
        "refusal": None,
        "cpu_s": 30.0,
        "estimated_cpu_s": 10.0,
    }
    out = tmp_path / "rows.jsonl"
    out.write_text(json.dumps(row) + "\n", encoding="utf-8")
    # A worker that knows no material of this name ends with a traceback.
    monkeypatch.setattr(candidates, "GPAWEngine", partial(candidates.GPAWEngine, worker=FAKE_WORKER))
    monkeypatch.setattr(sys, "argv", ["candidates.py", "--out", str(out), "--count", "2"])
    candidates.main()
    lines = [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()]
    assert lines[0] == row
    assert (lines[1]["mat_id"], lines[1]["refusal"], lines[1]["sc"]) == (second["mat_id"], "BadOutput", None)
    assert lines[1]["cpu_s"] > 0.0
    said = capsys.readouterr().out
    assert "| 0.9000 |" in said
    assert "| `BadOutput`: " in said
    assert "2 candidates: 1 labels (1 repaired), 1 refused" in said
