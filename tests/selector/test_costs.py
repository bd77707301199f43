"""Costs: the engine's estimate, corrected by what was measured."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from selector.costs import CostModel, Settled

positive = st.floats(1e-4, 1e3)


def scattered(rng: np.random.Generator, sd: float, n: int) -> np.ndarray:
    """Log costs of mean 0: much delays a calculation, little speeds it up."""
    scale = sd * math.sqrt(6) / math.pi
    return rng.gumbel(-np.euler_gamma * scale, scale, n)


def pairs_of(used: np.ndarray, estimates: np.ndarray) -> list[Settled]:
    return [Settled(float(e), float(u)) for u, e in zip(used, estimates, strict=True)]


def test_without_measurements_the_estimate_stands() -> None:
    costs = CostModel.learn([], engine_log_sd=0.3)
    assert costs.predict(np.array([2.0])) == pytest.approx([2.0])
    # Upper 95 %: the machine's factor, normal (0.7), and the scatter (0.3), skewed, both beyond the median.
    upper = -0.3 * 0.1643 + math.hypot(0.7 * 1.6449, 0.3 * (1.8658 + 0.1643))
    assert costs.reserve(np.array([2.0]), 0.95) == pytest.approx([2.0 * math.exp(upper)], rel=1e-3)


def test_a_machine_twice_as_slow_is_learned() -> None:
    rng = np.random.default_rng(1)
    estimates = rng.uniform(0.1, 1.0, 60)
    measured = 2.0 * estimates * np.exp(rng.normal(0.0, 0.3, 60))
    costs = CostModel.learn(pairs_of(measured, estimates), engine_log_sd=0.5)
    # 60 draws of scatter 0.3 fix the common factor to 0.3 / sqrt(60) = 4 %.
    assert math.exp(costs.shift) == pytest.approx(2.0, rel=0.12)
    assert costs.scatter == pytest.approx(0.3, abs=0.1)


def test_reservations_are_rarely_exceeded() -> None:
    rng = np.random.default_rng(2)
    exceeded = []
    for _ in range(300):
        machine = math.exp(rng.normal(0.0, 1.0))
        cost = machine * np.exp(scattered(rng, 0.4, 12))
        costs = CostModel.learn(pairs_of(cost[:11], np.ones(11)), engine_log_sd=0.4)
        exceeded.append(cost[11] > costs.reserve(np.array([1.0]), 0.95)[0])
    # 5 % expected; 300 repetitions have a standard error of 1.3 %.
    assert np.mean(exceeded) < 0.05 + 3 * 0.013


settled = st.builds(Settled, positive, positive, st.booleans())


@given(st.lists(settled, max_size=20), positive)
def test_reservation_and_interval_enclose_the_prediction(seen: list[Settled], estimate: float) -> None:
    costs = CostModel.learn(seen, engine_log_sd=0.3)
    expected, reserve = costs.predict([estimate]), costs.reserve([estimate], 0.9)
    lo, hi = costs.interval([estimate])
    assert np.isfinite(reserve).all()
    assert 0 < lo[0] < expected[0] < reserve[0] < hi[0]


@pytest.mark.parametrize("bad", [(1.0, 0.0), (1.0, -1.0), (0.0, 1.0), (-1.0, 1.0), (1.0, math.inf), (math.nan, 1.0)])
def test_useless_records_are_left_out(bad: tuple[float, float]) -> None:
    assert CostModel.learn([Settled(*bad)], 0.3) == CostModel.learn([], 0.3)


def test_intervals_hold_what_they_say() -> None:
    """90 % of 600 machines' next calculations, whose errors are independent: a standard error of 1.2 %."""
    rng = np.random.default_rng(4)
    inside = []
    for _ in range(600):
        cost = math.exp(rng.normal(0.0, 1.0)) * np.exp(scattered(rng, 0.3, 16))
        lo, hi = CostModel.learn(pairs_of(cost[:15], np.ones(15)), 0.3).interval([1.0])
        inside.append(lo[0] <= cost[15] <= hi[0])
    assert abs(np.mean(inside) - 0.9) < 4 * 0.012


def test_the_error_report_predicts_each_from_the_others() -> None:
    rng = np.random.default_rng(6)
    seen = [Settled(1.0, float(c), finished=i % 9 > 0) for i, c in enumerate(2 * np.exp(rng.normal(0, 0.3, 40)))]
    error = CostModel.learn(seen, 0.2).error()
    finished = [s for s in seen if s.finished]
    stopped = [s for s in seen if not s.finished]
    assert error is not None and error.n == len(finished) == 35
    off, inside = [], 0
    for i, s in enumerate(finished):
        others = CostModel.learn([*finished[:i], *finished[i + 1 :], *stopped], 0.2)
        off.append(abs(math.log(s.used_cpu_h / others.predict([1.0])[0])))
        lo, hi = others.interval([1.0])
        inside += bool(lo[0] <= s.used_cpu_h <= hi[0])
    # The completed costs of the stopped five are not completed anew for each: that moves a mean of 40 by a hair.
    assert error.median_abs_log == pytest.approx(np.median(off), abs=0.003)
    assert abs(error.inside - inside) <= 1


def test_no_error_is_reported_before_anything_has_finished() -> None:
    assert CostModel.learn([], 0.3).error() is None
    assert CostModel.learn([Settled(1.0, 2.0, finished=False)], 0.3).error() is None
    error = CostModel.learn([Settled(1.0, 2.0)], 0.3).error()
    assert error is not None
    assert (error.n, error.median_abs_log) == (1, pytest.approx(math.log(2.0)))


def test_what_was_stopped_does_not_count_as_cheap() -> None:
    """Of 2,000 costs all above their median are stopped there: taken as they are, the shift would be far too low."""
    rng = np.random.default_rng(8)
    log_cost = 0.5 + scattered(rng, 0.6, 2000)
    seen = [Settled(1.0, math.exp(min(x, 0.4)), finished=x < 0.4) for x in log_cost]
    costs = CostModel.learn(seen, engine_log_sd=0.6)
    # The information left gives a standard error of about 0.6 * 1.3 / sqrt(2000) = 0.017 to the mean.
    assert costs.shift == pytest.approx(0.5, abs=0.06)
    assert costs.scatter == pytest.approx(0.6, abs=0.06)
    naive = CostModel.learn([Settled(s.estimate_cpu_h, s.used_cpu_h) for s in seen], engine_log_sd=0.6)
    assert naive.shift < 0.3


@given(st.integers(1, 5), st.floats(1.0, 50.0))
def test_where_all_were_stopped_more_is_asked_for(n: int, limit: float) -> None:
    costs = CostModel.learn([Settled(1.0, limit, finished=False)] * n, engine_log_sd=0.2)
    assert math.isfinite(costs.shift)
    assert costs.reserve([1.0], 0.95)[0] > CostModel.learn([Settled(1.0, limit)] * n, 0.2).reserve([1.0], 0.95)[0]


def test_an_engine_without_scatter_is_no_division_by_zero() -> None:
    costs = CostModel.learn([Settled(1.0, 2.0)] * 3, engine_log_sd=0.0)
    assert costs.predict([1.0])[0] == pytest.approx(2.0, rel=0.01)
