"""The benchmark behind the quoted errors: its rows are fair, and its figures are those of its predictions."""

from __future__ import annotations

import importlib
import json
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from models.labels import Label, grouped_folds, load_labels, read_manifest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def accuracy() -> ModuleType:
    return importlib.import_module("accuracy")


@pytest.fixture(scope="module")
def rows() -> ModuleType:
    return importlib.import_module("accuracy_rows")


@pytest.fixture(scope="module")
def figures() -> ModuleType:
    return importlib.import_module("accuracy_figures")


@pytest.fixture(scope="module")
def labels() -> list[Label]:
    return load_labels(ids=read_manifest(ROOT / "benchmarks" / "manifests" / "2026-11-21.json"))


def here(function: Any, *args: Any) -> Any:
    return lambda: function(*args)


def test_no_row_sees_a_test_formula(accuracy: ModuleType, labels: list[Label]) -> None:
    judged = []

    def spy(training: list[Label], test: list[Label], seed: int) -> np.ndarray:
        judged.extend((seed, k.material_id) for k in test)
        assert {k.formula for k in training}.isdisjoint(k.formula for k in test)
        assert len(training) + len(test) == len(labels)
        return np.tile([[0.5], [0.4], [0.6]], len(test))

    said, _ = accuracy.cross_validate({"spy": spy}, labels, [k.formula for k in labels], [0, 1], 5, here)
    assert sorted(judged) == sorted((s, k.material_id) for s in (0, 1) for k in labels)
    assert (said["spy"] == np.array([0.5, 0.4, 0.6])[:, None]).all()


def test_fresh_labels_are_judged_by_models_that_saw_neither_them_nor_their_formulas(
    accuracy: ModuleType, labels: list[Label]
) -> None:
    # The second half is fresh; so is another label of a formula of the first.
    twin = replace(labels[0], material_id="twin")
    seen = {k.material_id for k in labels[:50]}

    def spy(training: list[Label], test: list[Label], seed: int) -> np.ndarray:
        assert {k.material_id for k in training} <= seen
        assert {k.formula for k in training}.isdisjoint(k.formula for k in test)
        return np.tile([[0.5], [np.nan], [np.nan]], len(test))

    found = accuracy.fresh_labels({"spy": spy}, [*labels, twin], seen, here)
    assert found["n_test"] == len(labels) - 50 + 1
    assert found["n_training"] < 50


def test_a_kept_fold_is_not_learned_again(accuracy: ModuleType, labels: list[Label], tmp_path: Path) -> None:
    learned: list[int] = []

    def spy(training: list[Label], test: list[Label], seed: int) -> np.ndarray:
        learned.append(seed)
        return np.tile([[0.5 + seed / 10], [np.nan], [np.nan]], len(test))

    formulas = [k.formula for k in labels]
    submit = accuracy.keeping(here, tmp_path / "folds")
    first, _ = accuracy.cross_validate({"spy": spy}, labels, formulas, [0], 5, submit)
    again, _ = accuracy.cross_validate({"spy": spy}, labels, formulas, [0, 1], 5, submit)
    assert learned == [0] * 5 + [1] * 5
    assert np.array_equal(again["spy"][:1], first["spy"], equal_nan=True)
    # Another row, or other labels, is another fold.
    accuracy.cross_validate({"another": spy}, labels, formulas, [0], 5, submit)
    accuracy.cross_validate({"spy": spy}, labels[:-1], formulas[:-1], [0], 5, submit)
    assert len(learned) == 20


def test_the_learning_curve_nests_its_parts(labels: list[Label]) -> None:
    curve = importlib.import_module("learning_curve")
    parts: list[list[str]] = []

    def spied(rows: dict[str, Any], training: list[Label], test: list[Label], seed: int) -> dict[str, Any]:
        assert {k.formula for k in training}.isdisjoint(k.formula for k in test)
        parts.append([k.material_id for k in training])
        # An error that is one over the number of labels.
        said = np.array([k.sc for k in test]) + 1.0 / len(training)
        return {"spy": (np.stack([said] * 3), 0.0)}

    found = curve.learning_curve({"spy": None}, labels, [k.formula for k in labels], [0], 5, here, spied)
    assert all(set(a) < set(b) for a, b in pairwise(parts) if len(a) < len(b))
    assert found["n"][:2] == [20.0, 40.0]
    assert found["mae"]["spy"][:2] == pytest.approx([1 / 20, 1 / 40])


def test_ridge_finds_a_linear_law_of_composition(rows: ModuleType, labels: list[Label]) -> None:
    x = rows.composition(labels)
    y = 0.7 + 0.05 * (x[:, 0] - x[:, 0].mean())
    made_up = [replace(k, sc=float(v)) for k, v in zip(labels, y, strict=True)]
    fold = grouped_folds([k.formula for k in labels], 5, 0)
    training, test = ([k for k, f in zip(made_up, fold, strict=True) if (f == 0) == held] for held in (False, True))
    mean, low, high = rows.ridge(training, test, 0)
    assert np.abs(mean - rows.targets(test)).mean() < 0.05 * rows.targets(test).std()
    assert np.isnan([low, high]).all()


def test_bootstrap_ratio_of_equal_and_halved_errors(figures: ModuleType) -> None:
    e = np.random.default_rng(0).uniform(0.01, 0.1, 60)
    names = [f"f{k // 2}" for k in range(60)]
    assert figures.bootstrap_ratio(e, e, names) == pytest.approx((1.0, 1.0, 1.0))
    assert figures.bootstrap_ratio(e / 2, e, names) == pytest.approx((0.5, 0.5, 0.5))
    ratio, low, high = figures.bootstrap_ratio(e, np.roll(e, 7), names)
    assert low < ratio < high


def test_figures_of_known_predictions(accuracy: ModuleType, figures: ModuleType) -> None:
    sc = np.array([0.5, 0.7, 0.8, 0.9])
    said = np.array([[0.6, 0.8, 0.7, 0.9], [0.5, 0.75, 0.6, 0.8], [0.7, 0.85, 0.8, 1.0]])
    got = figures.figures(said[None], sc)
    assert set(accuracy.COLUMNS) == {*got, "fold_s"}
    assert got["mae"] == pytest.approx(0.075)
    assert (got["recall"], got["precision"], got["coverage"]) == (0.5, 0.5, 0.75)
    assert got["width"] == pytest.approx(0.175)
    assert figures.figures(np.stack([said, said]), sc)["mae_sd"] == 0.0
    low, high = figures.expected_coverage(231)
    assert 0.85 < low < 0.9 < high < 0.95


@pytest.mark.slow
def test_it_prints_tables_and_writes_json(accuracy: ModuleType, rows: ModuleType, tmp_path: Path, capsys: Any) -> None:
    out, names = tmp_path / "figures.json", [rows.GUESS, rows.SIMPLE[0], rows.DEFAULT]
    every, seen = (
        json.loads((ROOT / "benchmarks" / "manifests" / f"2026-11-21-{n}.json").read_text()) for n in (231, 138)
    )
    few = [*seen[:45], *sorted(set(every) - set(seen))[:15]]
    manifest = tmp_path / "few.json"
    manifest.write_text(json.dumps(few))
    arguments = ["--quick", "--manifest", manifest, "--rows", *names, "--out", out, "--curve", tmp_path / "curve"]
    accuracy.main([str(a) for a in arguments])
    record = json.loads(out.read_text())
    assert (record["n_labels"], record["quick"]) == (60, True)
    for grouping in ("formula", "prototype", "fresh labels"):
        assert list(record[grouping]["rows"]) == names
        assert record[grouping]["rows"][rows.DEFAULT]["mae"] > 0.0
    assert record["formula"]["compared"][rows.DEFAULT]["best simple row"] == rows.SIMPLE[0]
    printed = capsys.readouterr().out
    assert "--quick: these are not the figures that are quoted" in printed
    assert (tmp_path / "curve.png").stat().st_size > 5000
    assert (tmp_path / "curve.svg").is_file()
