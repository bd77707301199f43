"""Estimated CPU-hours."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest
from crystals import fcc, reference

from fw_tasks.engines import gpaw_cost
from fw_tasks.engines.gpaw import GPAWEngine
from models.labels import load_labels

ROOT = Path(__file__).resolve().parents[3]


def test_estimates_agree_with_what_labels_cost() -> None:
    labels = load_labels()
    estimated_s = [gpaw_cost.estimate_cpu_s(label.structure, label.settings) for label in labels]
    log_ratio = np.log([label.cpu_s for label in labels]) - np.log(estimated_s)
    # Labels are added all the time, on machines of different speed: a factor of 1.5 in the middle, and a scatter not
    # far from the documented one.
    assert abs(np.median(log_ratio)) < np.log(1.5)
    assert log_ratio.std() < 2.0 * gpaw_cost.COST_LOG_SD


@pytest.mark.parametrize("formula", ["Si", "LiF", "MgO"])
def test_dearer_presets_are_estimated_dearer(formula: str) -> None:
    structure, _ = reference(formula)
    costs = [GPAWEngine(preset).estimate_cpu_h(structure) for preset in ("smoke", "standard", "tight")]
    assert costs == sorted(costs)
    assert costs[-1] > 2.0 * costs[0]


def test_ipa_alone_saves_the_coupling_and_no_more() -> None:
    engine, (structure, _) = GPAWEngine(), reference("MgO")
    share = engine.estimate_cpu_h(structure, "ipa") / engine.estimate_cpu_h(structure)
    assert gpaw_cost.GROUND_STATE_SHARE < gpaw_cost.IPA_SHARE <= share < 1.0


def test_cost_grows_with_volume_and_does_not_see_the_cell_chosen() -> None:
    engine, small, large = GPAWEngine(), fcc(4.0, ["Li", "F"]), fcc(6.0, ["Li", "F"])
    assert engine.estimate_cpu_h(small) < engine.estimate_cpu_h(large)
    doubled = small.make_supercell([2, 2, 1], in_place=False)
    assert engine.estimate_cpu_h(doubled) == pytest.approx(engine.estimate_cpu_h(small), rel=1e-6)


@pytest.mark.slow
def test_the_fit_can_be_repeated(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    path = ROOT / "benchmarks" / "engine_cost.py"
    spec = importlib.util.spec_from_file_location("engine_cost", path)
    assert spec is not None
    assert spec.loader is not None
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    manifest = ROOT / "benchmarks" / "manifests" / "2026-11-21-231.json"
    monkeypatch.setattr("sys.argv", ["engine_cost.py", "--manifest", str(manifest)])
    script.main()
    constants = f"{gpaw_cost.CONSTANT}, {gpaw_cost.BASIS_EXPONENT}, {gpaw_cost.K_EXPONENT}"
    printed = capsys.readouterr().out
    assert f"CONSTANT, BASIS_EXPONENT, K_EXPONENT = {constants}" in printed
    assert f"GROUND_STATE_SHARE = {gpaw_cost.GROUND_STATE_SHARE:.2f}" in printed
