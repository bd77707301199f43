"""The benchmark of the audit: its sources, and a seeded part of its campaigns."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

ROOT = Path(__file__).parents[2]
N = 200


@pytest.fixture(scope="module")
def audit() -> ModuleType:
    spec = importlib.util.spec_from_file_location("audit_benchmark", ROOT / "benchmarks" / "audit.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules["audit_benchmark"] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def rows(audit: ModuleType) -> dict[str, dict[str, float]]:
    return audit.simulate(audit.paper_pairs(), N)


def test_paper_pairs(audit: ModuleType) -> None:
    pairs = audit.paper_pairs()
    assert len(pairs) == len(pairs.predicted) == 639
    assert [int((pairs.sc < t).sum()) for t in audit.THRESHOLDS] == [139, 311]
    assert np.corrcoef(np.log(pairs.reserve_cpu_h), pairs.sc)[0, 1] == pytest.approx(-0.5, abs=0.1)


def test_predictions_of_the_labels_are_held_out(audit: ModuleType) -> None:
    """As good as the predictor's own cross-validation, and not as good as a model that saw them."""
    labels = audit.shipped_labels(ROOT / "benchmarks" / "manifests" / "2026-11-21.json")
    assert len(labels) == 95
    error = np.abs(labels.predicted - labels.sc).mean()
    assert 0.02 < error < np.abs(labels.sc - np.median(labels.sc)).mean()
    assert (labels.reserve_cpu_h > 0.0).all()


def test_worst_case_leaves_the_most_dangerous_number(audit: ModuleType) -> None:
    pairs, rng = audit.paper_pairs(), np.random.default_rng(0)
    setting = audit.Setting(0.75, 239, 30)
    left = audit.worst_case(pairs, setting, rng)
    assert left.sum() == 400
    n_low = int((pairs.sc[left] < 0.75).sum())
    chance = audit.chance_of_a_miss(400, 30, 0.05)
    possible = chance[400 - 328 : 311 + 1]  # 328 are high, 311 low
    assert chance[n_low] == possible.max()
    assert 0.045 < possible.max() < 0.05


@pytest.mark.slow
def test_no_policy_makes_the_bound_fail_too_often(audit: ModuleType, rows: dict[str, dict[str, float]]) -> None:
    """5 % allowed: a row with 200 campaigns has 20 misses or more with probability 0.002 at the most."""
    kept = {name: row for name, row in rows.items() if not name.startswith("[")}
    assert set(audit.POLICIES) < set(kept)
    assert {row["campaigns"] for name, row in rows.items() if name in audit.POLICIES} == {N}
    for name, row in kept.items():
        assert row["missed"] < 0.1 * row["campaigns"], name
    assert kept["all policies"]["share"] <= audit.MOST_MISSES


@pytest.mark.slow
def test_the_bound_is_as_narrow_as_a_simple_random_sample_allows(
    audit: ModuleType, rows: dict[str, dict[str, float]]
) -> None:
    for name in (*audit.POLICIES, "all policies", audit.MONEY):
        assert rows[name]["ratio"] <= audit.MOST_WIDE, name
    assert rows["money: only if the dearest fit"]["bound"] > 1.3 * rows[audit.MONEY]["bound"]


@pytest.mark.slow
def test_failed_runs_are_on_the_safe_side_and_broken_rules_are_not(rows: dict[str, dict[str, float]]) -> None:
    assert rows["5 % fail"]["no_result"] > 0.5
    assert rows["5 % fail"]["bound"] >= rows["worst case for the bound"]["bound"]
    for name, row in rows.items():
        if name.startswith("["):
            assert row["lo"] > 0.06, name


def test_counting_failures_is_conservative_draw_by_draw(audit: ModuleType) -> None:
    """The same draw, with and without failures: the bound with them is never the smaller."""
    pairs, policy = audit.paper_pairs(), audit.POLICIES["by prediction"]
    for seed in range(40):
        known = audit.campaign(pairs, policy, audit.all_return, seed)
        failing = audit.campaign(pairs, policy, audit.some_fail(0.3, 0.3), seed)
        assert known.n_low == failing.n_low
        assert known.bound.outcome.n_drawn == failing.bound.outcome.n_drawn
        assert failing.bound.n_low >= known.bound.n_low


@pytest.mark.slow
def test_verdict(audit: ModuleType, rows: dict[str, dict[str, float]]) -> None:
    """Rows in brackets do not count; one other row that misses too often, or is too wide, does."""
    good = {name: row | {"share": 0.05, "ratio": 1.2} for name, row in rows.items()}
    assert audit.verdict(good | {"[broken]": {"share": 0.5, "ratio": 9.0}})
    assert not audit.verdict(good | {"random": {"share": 0.061, "ratio": 1.0}})
    assert not audit.verdict(good | {"random": {"share": 0.0, "ratio": 1.21}})


@pytest.mark.slow
def test_command(audit: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "audit.json"
    audit.main(["--campaigns", "10", "--out", str(out)])
    figures = json.loads(out.read_text())
    assert figures == json.loads(capsys.readouterr().out.splitlines()[-1])
    for source in ("paper's Fig. 6", "shipped labels"):
        assert figures[source]["random"]["campaigns"] == 10
