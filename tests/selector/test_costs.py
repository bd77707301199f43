"""Costs: the engine's estimate, corrected by what was measured."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from selector.costs import CostModel

positive = st.floats(1e-4, 1e3)


def test_without_measurements_the_estimate_stands() -> None:
    costs = CostModel.learn([], [], engine_log_sd=0.3)
    assert costs.predict(np.array([2.0])) == pytest.approx([2.0])
    # Upper 95 % of a log-normal whose sd joins machine (1.0) and scatter (0.3).
    assert costs.reserve(np.array([2.0]), 0.95) == pytest.approx(
        [2.0 * math.exp(1.6449 * math.hypot(1.0, 0.3))], rel=1e-3
    )


def test_a_machine_twice_as_slow_is_learned() -> None:
    rng = np.random.default_rng(1)
    estimates = rng.uniform(0.1, 1.0, 60)
    measured = 2.0 * estimates * np.exp(rng.normal(0.0, 0.3, 60))
    costs = CostModel.learn(list(measured), list(estimates), engine_log_sd=0.5)
    # 60 draws of scatter 0.3 fix the common factor to 0.3 / sqrt(60) = 4 %.
    assert math.exp(costs.shift) == pytest.approx(2.0, rel=0.12)
    assert costs.scatter == pytest.approx(0.3, abs=0.1)


def test_reservations_are_rarely_exceeded() -> None:
    rng = np.random.default_rng(2)
    exceeded = []
    for _ in range(300):
        machine = math.exp(rng.normal(0.0, 1.0))
        cost = machine * np.exp(rng.normal(0.0, 0.4, 12))
        costs = CostModel.learn(list(cost[:11]), [1.0] * 11, engine_log_sd=0.4)
        exceeded.append(cost[11] > costs.reserve(np.array([1.0]), 0.95)[0])
    # 5 % expected; 300 repetitions have a standard error of 1.3 %.
    assert np.mean(exceeded) < 0.05 + 3 * 0.013


@given(st.lists(st.tuples(positive, positive), max_size=20), positive)
def test_a_reservation_exceeds_the_prediction(pairs: list[tuple[float, float]], estimate: float) -> None:
    costs = CostModel.learn([m for m, _ in pairs], [e for _, e in pairs], engine_log_sd=0.3)
    expected, reserve = costs.predict(np.array([estimate])), costs.reserve(np.array([estimate]), 0.9)
    assert np.isfinite(reserve).all()
    assert 0 < expected[0] < reserve[0]


def test_useless_pairs_are_left_out() -> None:
    assert CostModel.learn([0.0], [1.0], 0.3) == CostModel.learn([], [], 0.3)
