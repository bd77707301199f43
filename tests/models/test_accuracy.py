"""The benchmark behind the quoted figures: its rows are fair, and its figures are those of its predictions."""

from __future__ import annotations

import importlib.util
import json
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from models.labels import grouped_folds

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def accuracy() -> ModuleType:
    spec = importlib.util.spec_from_file_location("accuracy", ROOT / "benchmarks" / "accuracy.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules["accuracy"] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def test_no_row_sees_a_test_formula(accuracy, labels):
    seen = []

    def spy(training, test, seed):
        seen.append(len(test))
        assert {k.formula for k in training}.isdisjoint(k.formula for k in test)
        return np.full(len(test), 0.5)

    result = accuracy.cross_validate(spy, labels, [0, 1])
    assert sum(seen) == 2 * len(labels)
    assert (result.predictions == 0.5).all()


def test_ridge_finds_a_linear_law_of_composition(accuracy, labels):
    x = accuracy.composition_features([k.structure for k in labels])
    y = 0.7 + 0.05 * (x[:, 0] - x[:, 0].mean())
    made_up = [replace(k, sc=float(v)) for k, v in zip(labels, y, strict=True)]
    fold = grouped_folds([k.formula for k in labels], 5, 0)
    training = [k for k, f in zip(made_up, fold, strict=True) if f]
    test = [k for k, f in zip(made_up, fold, strict=True) if not f]
    error = accuracy.ridge_composition(training, test, 0) - accuracy.targets(test)
    assert np.abs(error).mean() < 0.05 * accuracy.targets(test).std()


def test_bootstrap_ratio_of_equal_and_halved_errors(accuracy):
    e = np.random.default_rng(0).uniform(0.01, 0.1, 60)
    names = [f"f{k // 2}" for k in range(60)]
    assert accuracy.bootstrap_ratio(e, e, names) == pytest.approx((1.0, 1.0, 1.0))
    assert accuracy.bootstrap_ratio(e / 2, e, names) == pytest.approx((0.5, 0.5, 0.5))


def test_it_prints_a_table_and_writes_json(accuracy, tmp_path, capsys):
    out = tmp_path / "figures.json"
    accuracy.main(["--rows", "guess the median", "ridge on composition", "--out", str(out)])
    figures = json.loads(out.read_text())
    assert figures["n_labels"] == 95
    assert figures["rows"]["ridge on composition"]["mae"] < figures["rows"]["guess the median"]["mae"]
    printed = capsys.readouterr().out
    assert "ridge on composition" in printed
    assert json.loads(printed.splitlines()[-1])["rows"].keys() == figures["rows"].keys()
