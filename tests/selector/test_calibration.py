"""Conformal intervals and P(SC < threshold): exact small cases, properties, and coverage measured on random draws."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy.stats import binom

from selector.calibration import expected_error, interval, p_low
from selector.errors import SelectorError

scores_ = hnp.arrays(np.float64, st.integers(0, 60), elements=st.floats(0.0, 10.0))
mean_ = st.floats(-0.5, 1.0)
spread_ = st.floats(1e-3, 0.5)
coverage_ = st.floats(0.05, 0.99)


def test_quantile_by_hand() -> None:
    """Nine scores, 90 %: k = ceil(10 * 0.9) = 9, the largest. 80 %: k = 8."""
    scores = np.arange(1.0, 10.0)[::-1] / 10
    lo, hi = interval([0.5], [0.1], scores)
    assert (lo[0], hi[0]) == pytest.approx((0.5 - 0.09, 0.5 + 0.09))
    lo, hi = interval([0.5], [0.1], scores, coverage=0.8)
    assert (lo[0], hi[0]) == pytest.approx((0.5 - 0.08, 0.5 + 0.08))


@pytest.mark.parametrize(("m", "k"), [(9, 9), (19, 18), (29, 27), (69, 63), (99, 90), (100, 91)])
def test_rank_of_the_quantile_is_not_moved_by_rounding(m: int, k: int) -> None:
    """(m + 1) * 0.9 in floating point may exceed the integer it is."""
    lo, _ = interval([0.0], [1.0], np.arange(1, m + 1) / 1000)
    assert lo[0] == pytest.approx(-k / 1000)


@pytest.mark.parametrize("m", [0, 1, 8])
def test_too_few_scores_give_the_whole_range(m: int) -> None:
    lo, hi = interval([0.9, 0.2], [0.01, 0.1], np.full(m, 0.5))
    np.testing.assert_array_equal(lo, [-1.0, -1.0])
    np.testing.assert_array_equal(hi, [1.0, 1.0])


def test_sc_is_at_most_one_but_may_be_negative() -> None:
    lo, hi = interval([0.95, 0.05], [0.1, 0.1], np.full(20, 2.0))
    np.testing.assert_allclose(lo, [0.75, -0.15])
    np.testing.assert_allclose(hi, [1.0, 0.25])


@given(mean_, spread_, scores_, coverage_)
def test_intervals_hold_the_mean_and_lie_in_range(
    mean: float, spread: float, scores: np.ndarray, coverage: float
) -> None:
    lo, hi = interval([mean], [spread], scores, coverage)
    assert -1.0 <= lo[0] <= mean <= hi[0] <= 1.0


@given(mean_, spread_, scores_, coverage_, coverage_)
def test_more_coverage_is_never_narrower(mean: float, spread: float, scores: np.ndarray, a: float, b: float) -> None:
    narrow, wide = (interval([mean], [spread], scores, c) for c in sorted((a, b)))
    assert wide[0][0] <= narrow[0][0]
    assert narrow[1][0] <= wide[1][0]


@given(mean_, spread_, scores_, st.lists(st.floats(-1.5, 1.5), min_size=2, max_size=10))
def test_p_low_never_falls_with_the_threshold(
    mean: float, spread: float, scores: np.ndarray, thresholds: list[float]
) -> None:
    p = [p_low([mean], [spread], scores, t)[0] for t in sorted(thresholds)]
    assert np.all(np.diff(p) >= 0.0)
    assert 0.0 < p[0] <= p[-1] < 1.0


@given(mean_, spread_, scores_)
def test_p_low_is_one_half_at_the_mean(mean: float, spread: float, scores: np.ndarray) -> None:
    assert p_low([mean], [spread], scores, mean)[0] == 0.5


@given(spread_, scores_, st.floats(0.0, 2.0))
def test_p_low_is_symmetric_about_the_mean(spread: float, scores: np.ndarray, step: float) -> None:
    above, below = (p_low([0.0], [spread], scores, sign * step)[0] for sign in (1, -1))
    assert above + below == pytest.approx(1.0, abs=1e-12)


@given(spread_, st.integers(1, 60), coverage_)
def test_p_low_agrees_with_the_interval(spread: float, m: int, coverage: float) -> None:
    """At the ends of an interval that is not clipped, the tail beyond holds at most half of what it does not cover."""
    scores = np.linspace(0.1, 1.0, m)
    lo, hi = interval([0.0], [spread], scores, coverage)
    if hi[0] < 1.0:
        assert p_low([0.0], [spread], scores, hi)[0] >= (1 + coverage) / 2 - 1e-6
        assert p_low([0.0], [spread], scores, lo)[0] <= (1 - coverage) / 2 + 1e-6


def test_p_low_by_hand() -> None:
    """Scores 1 and 3: P(score <= 1) = 1/3, <= 2 is half way to 2/3; beyond 3 nothing more is known than 2/3."""
    p = p_low(np.zeros(5), np.full(5, 0.1), [3.0, 1.0], np.array([0.1, 0.2, 0.3, 5.0, -0.05]))
    np.testing.assert_allclose(p, [0.5 + 1 / 6, 0.75, 0.5 + 1 / 3, 0.5 + 1 / 3, 0.5 - 1 / 12])


def test_without_scores_p_low_knows_nothing() -> None:
    np.testing.assert_array_equal(p_low([0.1, 0.9], [0.1, 0.1], [], 0.75), [0.5, 0.5])


def test_empty_pool() -> None:
    lo, hi = interval([], [], np.ones(20))
    assert lo.shape == hi.shape == p_low([], [], np.ones(20), 0.75).shape == (0,)


def draw(rng: np.random.Generator, shape: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Predictions, spreads that tell only half of the truth, and what the SC turns out to be; nothing is clipped."""
    spread = rng.uniform(0.02, 0.06, shape)
    mean = rng.uniform(-0.2, 0.4, shape)
    error = rng.laplace(scale=np.sqrt(spread * 0.04)) * 0.5
    return mean, spread, mean + error


@pytest.mark.parametrize("coverage", [0.5, 0.9])
def test_coverage_of_random_draws_is_the_stated_one(coverage: float) -> None:
    """39 scores make k / (m + 1) the coverage exactly; 3,000 repetitions must lie in the binomial 99.9 % range."""
    rng = np.random.default_rng(20250101)
    n, m = 3000, 39
    mean, spread, sc = draw(rng, (n, m + 1))
    scores = np.abs(sc - mean) / spread
    hits = 0
    for i in range(n):
        lo, hi = interval(mean[i, -1:], spread[i, -1:], scores[i, :-1], coverage)
        hits += int(lo[0] <= sc[i, -1] <= hi[0])
    low, high = binom.interval(0.999, n, coverage)
    assert low <= hits <= high


def test_p_low_is_a_frequency() -> None:
    """Of the materials with about the same P(SC < threshold), that share does lie below it.

    Errors here scale with the spread. Each bin gets its binomial 99.9 % range, widened by three standard errors of an
    empirical distribution of 20,000 scores, 3 * 0.5 / sqrt(20,000) / 2.
    """
    rng = np.random.default_rng(7)
    n, threshold = 20_000, 0.1
    spread, mean = rng.uniform(0.02, 0.1, (2, n)), rng.uniform(-0.2, 0.4, (2, n))
    sc = mean + spread * rng.laplace(size=(2, n))
    p = p_low(mean[1], spread[1], np.abs(sc[0] - mean[0]) / spread[0], threshold)
    bins = np.digitize(p, [0.02, 0.1, 0.3, 0.5, 0.7, 0.9, 0.98])
    assert set(bins) == set(range(8))
    for b in range(8):
        here = bins == b
        count, slack = int(here.sum()), 0.0053 * here.sum()
        low, high = binom.interval(0.999, count, p[here].mean())
        assert low - slack <= (sc[1][here] < threshold).sum() <= high + slack


@pytest.mark.parametrize(
    ("mean", "spread", "scores", "message"),
    [
        ([np.nan], [0.1], [1.0], "not finite"),
        ([0.5], [np.inf], [1.0], "not finite"),
        ([0.5], [0.0], [1.0], "not positive"),
        ([0.5], [-0.1], [1.0], "not positive"),
        ([0.5], [0.1], [np.nan], "scores"),
        ([0.5], [0.1], [-1.0], "scores"),
    ],
)
def test_bad_numbers_are_refused(mean: list[float], spread: list[float], scores: list[float], message: str) -> None:
    with pytest.raises(SelectorError, match=message):
        interval(mean, spread, scores)
    with pytest.raises(SelectorError, match=message):
        p_low(mean, spread, scores, 0.75)


@pytest.mark.parametrize("coverage", [0.0, 1.0, 90.0, float("nan")])
def test_coverage_is_a_fraction(coverage: float) -> None:
    with pytest.raises(ValueError, match="between 0 and 1"):
        interval([0.5], [0.1], [1.0], coverage)


def test_expected_error_by_hand() -> None:
    """One score of 1, spread 0.1, mean 0.5: SC is spread evenly over 0.4 to 0.5 and 0.5 to 0.6, a quarter each.

    Below lies another quarter, which counts at 0.4. Up to 0.6: 0.25 (0.6 + 0.55 + 0.45); up to 0.5: 0.25 (0.6 + 0.55);
    up to 0.2, where only the tail is left, it counts at 0.2: 0.25 * 0.8.
    """
    found = [expected_error([0.5], [0.1], [1.0], t)[0] for t in (0.6, 0.5, 0.2)]
    assert found == pytest.approx([0.25 * 1.6, 0.25 * 1.15, 0.2])


def test_expected_error_is_a_mean() -> None:
    """Against a million draws by inverting P(score <= x); their mean has a standard error below 0.0005."""
    rng = np.random.default_rng(5)
    scores, n = rng.exponential(1.0, 30), 1_000_000
    steps = np.append(0.0, np.sort(scores))
    u = rng.uniform(size=n)
    score = np.interp(u, np.arange(31) / 31, steps)
    tail = u > 30 / 31
    for mean, spread, threshold in [(0.9, 0.05, 0.75), (0.6, 0.1, 0.75), (0.2, 0.4, 0.7), (0.76, 0.02, 1.0)]:
        below = np.maximum(mean - spread * score, -1.0)
        above = np.where(tail, 1.0, np.minimum(mean + spread * score, 1.0))
        below = np.where(tail, np.minimum(below, threshold - 1e-12), below)
        sc = np.where(rng.uniform(size=n) < 0.5, below, above)
        assert expected_error([mean], [spread], scores, threshold)[0] == pytest.approx(
            ((1 - sc) * (sc < threshold)).mean(), abs=0.002
        )


@given(mean_, spread_, scores_, st.lists(st.floats(-1.0, 1.0), min_size=2, max_size=6))
def test_expected_error_rises_with_the_threshold_and_bounds_p_low(
    mean: float, spread: float, scores: np.ndarray, thresholds: list[float]
) -> None:
    """It rises from where the largest score ends; below, one half of 1 / (m + 1) counts at the threshold itself."""
    found = [expected_error([mean], [spread], scores, t)[0] for t in sorted(thresholds)]
    known = np.array(sorted(thresholds)) >= mean - scores.max(initial=0.0) * spread
    assert np.all(np.diff(np.array(found)[known]) >= -1e-12)
    for t, value in zip(sorted(thresholds), found, strict=True):
        p = p_low([mean], [spread], scores, t)[0]
        assert (1 - t) * p - 1e-12 <= value <= 2 * p + 1e-12


@given(st.lists(mean_, min_size=2, max_size=6), spread_, scores_, st.floats(0.05, 1.0))
def test_expected_error_falls_as_the_mean_rises(
    means: list[float], spread: float, scores: np.ndarray, threshold: float
) -> None:
    found = expected_error(sorted(means), np.full(len(means), spread), scores, threshold)
    assert np.all(np.diff(found) <= 1e-12)


def test_expected_error_of_a_sure_prediction_is_its_own() -> None:
    """With 10,000 scores of at most 1 and a spread of 1e-6, SC is known but for one half in 10,001."""
    scores = np.linspace(0.0, 1.0, 10_000)
    found = expected_error([0.3, 0.7499, 0.7501, 0.9], np.full(4, 1e-6), scores, 0.75)
    np.testing.assert_allclose(found, [0.7, 0.2501, 0.0, 0.0], atol=5e-5)


def test_without_scores_the_expected_error_is_a_coin() -> None:
    """SC lies at the mean, or at the threshold if the mean is above it, with probability one half."""
    np.testing.assert_allclose(expected_error([0.5, 0.9], [0.1, 0.1], [], 0.75), [0.25, 0.125])
    assert expected_error([], [], np.ones(3), 0.75).shape == (0,)


@pytest.mark.parametrize(("mean", "spread"), [(np.nan, 0.1), (0.5, np.nan), (0.5, 0.0)])
def test_expected_error_refuses_bad_numbers(mean: float, spread: float) -> None:
    with pytest.raises(SelectorError, match=r"not finite|not positive"):
        expected_error([mean], [spread], [1.0], 0.75)
