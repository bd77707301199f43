"""Random draws and what follows from them: exact small cases, properties, and coverage measured in simulation."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy.stats import binom

from selector.calibration import interval, p_low
from selector.recalibration import MIN_RANDOM_LABELS, WIDENING, Calibration, Draws, coverage

OWN, OTHER = "gpaw 0123456789ab", "gpaw ba9876543210"
numbers = st.floats(-1.0, 1.0)


def draws(n: int, error: float = 0.05, spread: float = 0.05) -> Draws:
    mean = np.linspace(0.2, 0.8, n)
    return Draws(mean, np.full(n, spread), mean - 0.1, mean + 0.1, mean + error)


@given(hnp.arrays(np.float64, st.tuples(st.just(3), st.integers(0, 50)), elements=numbers))
def test_coverage_counts_and_its_interval_holds_the_share(x: np.ndarray) -> None:
    lo, hi = np.sort(x[:2], axis=0)
    found = coverage(lo, hi, x[2])
    assert found.inside == sum(a <= s <= b for a, b, s in zip(lo, hi, x[2], strict=True))
    assert 0.0 <= found.lo <= found.hi <= 1.0
    if found.n:
        assert found.lo <= found.inside / found.n <= found.hi
        # What is not inside is outside: counting those instead gives the mirrored interval.
        mirrored = coverage(np.zeros(found.n), np.zeros(found.n), np.arange(found.n) < found.inside)
        assert (1 - mirrored.hi, 1 - mirrored.lo) == pytest.approx((found.lo, found.hi))
    else:
        assert (found.lo, found.hi) == (0.0, 1.0)


@pytest.mark.parametrize(("k", "n"), [(0, 10), (3, 10), (27, 30), (30, 30)])
def test_the_exact_interval_is_where_either_tail_holds_a_fortieth(k: int, n: int) -> None:
    found = coverage(np.zeros(n), np.zeros(n), np.arange(n) >= k)
    assert (found.inside, found.n) == (k, n)
    if k > 0:
        assert binom.sf(k - 1, n, found.lo) == pytest.approx(0.025)
    if k < n:
        assert binom.cdf(k, n, found.hi) == pytest.approx(0.025)


@given(st.integers(0, 60), st.booleans())
def test_the_state_depends_on_the_number_of_random_draws_and_on_the_weights(n: int, foreign: bool) -> None:
    calibration = Calibration(draws(n), OTHER if foreign else OWN, OWN)
    if n >= MIN_RANDOM_LABELS:
        assert calibration.state == "random_draws"
    else:
        assert calibration.state == ("uncalibrated" if foreign else "held_out")
    assert "\n" not in calibration.message
    assert (f"of {n} random draws" in calibration.message) == (n > 0)
    assert ("not measured" in calibration.message) == (n == 0)
    assert calibration.summary()["n_random"] == n


@given(
    hnp.arrays(np.float64, st.integers(0, 60), elements=st.floats(0.0, 10.0)),
    numbers,
    st.floats(1e-3, 0.5),
    st.floats(-1.0, 1.0),
)
def test_uncalibrated_intervals_are_wider_and_probabilities_less_sure(
    held_out: np.ndarray, mean: float, spread: float, threshold: float
) -> None:
    sure, unsure = (Calibration(draws(3), kind, OWN).scores(held_out) for kind in (OWN, OTHER))
    (a, b), (c, d) = interval([mean], [spread], sure), interval([mean], [spread], unsure)
    assert c[0] <= a[0] and b[0] <= d[0]
    if len(held_out) >= 9 and c[0] > -1.0 and d[0] < 1.0:
        assert d[0] - c[0] == pytest.approx(WIDENING * (b[0] - a[0]))
    p, q = (p_low([mean], [spread], s, threshold)[0] for s in (sure, unsure))
    assert abs(q - 0.5) <= abs(p - 0.5) + 1e-12


def test_own_draws_replace_the_scores_of_the_weights() -> None:
    scores = Calibration(draws(30, error=-0.1, spread=0.05), OTHER, OWN).scores(np.full(100, 0.01))
    np.testing.assert_allclose(scores, np.full(30, 2.0))
    few = Calibration(draws(29, error=-0.1), OWN, OWN)
    np.testing.assert_array_equal(few.scores(np.full(100, 0.01)), np.full(100, 0.01))


def test_labels_that_were_not_drawn_at_random_do_not_count() -> None:
    said = {"sc_mean": 0.5, "sc_std": 0.1, "sc_lo": 0.3, "sc_hi": 0.7}
    labels = [
        {"sc": 0.6, "random_draw": True, "prediction": said},
        {"sc": 0.9, "random_draw": False, "prediction": said},
        {"sc": 0.8},
    ]
    found = Draws.of(labels)
    assert len(found) == 1
    np.testing.assert_allclose(found.scores, [1.0])
    assert len(Draws.of([])) == 0
    assert Draws.of([]).scores.shape == (0,)


@pytest.mark.parametrize("weights", [OWN, OTHER])
def test_weights_that_are_too_sure_are_put_right_by_own_draws(weights: str) -> None:
    """Errors three times those that the weights came with: 39 own draws bring the coverage back to 90 %.

    39 scores make k / (m + 1) the coverage exactly; 2,000 repetitions must lie in the binomial 99.9 % range.
    """
    rng = np.random.default_rng(20261121)
    n, m = 2000, 39
    spread, mean = rng.uniform(0.02, 0.06, (n, m + 1)), rng.uniform(-0.2, 0.4, (n, m + 1))
    sc = mean + 3 * spread * np.clip(rng.laplace(size=(n, m + 1)), -4, 4) / 4
    held_out = np.abs(np.clip(rng.laplace(size=200), -4, 4)) / 4
    hits = {"before": 0, "after": 0}
    for i in range(n):
        past = Draws(mean[i, :-1], spread[i, :-1], mean[i, :-1], mean[i, :-1], sc[i, :-1])
        none = Draws(*np.empty((5, 0)))
        for when, known in (("before", none), ("after", past)):
            lo, hi = interval(mean[i, -1:], spread[i, -1:], Calibration(known, weights, OWN).scores(held_out))
            hits[when] += int(lo[0] <= sc[i, -1] <= hi[0])
    low, high = binom.interval(0.999, n, 0.9)
    assert hits["before"] < low
    assert low <= hits["after"] <= high
