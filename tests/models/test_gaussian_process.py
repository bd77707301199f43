from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.gaussian_process import GaussianProcess, leave_group_out, matern32, members


@pytest.fixture
def noisy_sine() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    x = rng.uniform(-3, 3, (60, 1))
    return x, np.sin(x[:, 0]) + 0.05 * rng.normal(size=60)


def test_kernel_is_one_at_no_distance_and_falls():
    x = np.linspace(0, 5, 20)[:, None]
    k = matern32(x, x, 1.3)
    assert np.diag(k) == pytest.approx(1.0)
    assert (np.diff(k[0]) < 0).all()
    r = np.sqrt(3) * 5 / 1.3
    assert k[0, -1] == pytest.approx((1 + r) * np.exp(-r))


@pytest.mark.parametrize("noises", [[0.1], [0.03, 0.5]])
def test_closed_form_equals_refitting_without_the_group(noisy_sine, noises):
    x, y = noisy_sine
    names = [f"pair {k // 2}" if k < 20 else "three" if k in (20, 31, 42) else str(k) for k in range(60)]
    groups = members(names)
    residual, variance = leave_group_out(matern32(x, x, 1.0), noises, y, groups)
    for row, noise in enumerate(noises):
        for rows in (rows for of_size in groups for rows in of_size):
            assert len({names[k] for k in rows}) == 1
            kept = np.setdiff1d(np.arange(60), rows)
            left = GaussianProcess(x[kept], y[kept], 1.0, noise, 0.0, 1.0)
            mean, sd = left.predict(x[rows])
            assert y[rows] - mean == pytest.approx(residual[row, rows], abs=1e-8)
            assert sd**2 == pytest.approx(variance[row, rows], abs=1e-8)


@given(st.lists(st.sampled_from("abcdefg"), min_size=1, max_size=30))
def test_rows_of_one_name_are_left_out_together(names):
    found = [rows for of_size in members(names) for rows in of_size.tolist()]
    assert sorted(k for rows in found for k in rows) == list(range(len(names)))
    assert sorted(found) == sorted([k for k, n in enumerate(names) if n == name] for name in set(names))


def test_it_learns_and_knows_where_it_knows_nothing(noisy_sine):
    x, y = noisy_sine
    process = GaussianProcess.fit(x, y, members([str(k) for k in range(60)]))
    grid = np.linspace(-2.5, 2.5, 50)[:, None]
    mean, near = process.predict(grid)
    assert np.abs(mean - np.sin(grid[:, 0])).max() < 0.2
    far_mean, far = process.predict(np.array([[100.0]]))
    assert far_mean[0] == pytest.approx(process.mean)
    assert far[0] == pytest.approx(process.prior_sd)
    assert near.max() < 0.7 * far[0]


def test_spread_matches_the_errors(noisy_sine):
    x, y = noisy_sine
    process = GaussianProcess.fit(x, y, members([str(k) for k in range(60)]))
    fresh = np.random.default_rng(1)
    xt = fresh.uniform(-3, 3, (400, 1))
    yt = np.sin(xt[:, 0]) + 0.05 * fresh.normal(size=400)
    mean, sd = process.predict(xt)
    # Standardised errors of 400 draws have a root mean square near one.
    assert 0.6 < np.sqrt(np.mean(((yt - mean) / sd) ** 2)) < 1.6
