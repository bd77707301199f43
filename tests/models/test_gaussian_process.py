from __future__ import annotations

import numpy as np
import pytest

from models.gaussian_process import GaussianProcess, leave_group_out, matern32


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
    pairs = [np.array([k, k + 1]) for k in range(0, 20, 2)]
    groups = [*pairs, np.array([20, 31, 42]), *([k] for k in range(20, 60) if k not in (20, 31, 42))]
    residual, variance = leave_group_out(matern32(x, x, 1.0), noises, y, [np.asarray(g) for g in groups])
    for row, noise in enumerate(noises):
        for rows in groups:
            kept = np.setdiff1d(np.arange(60), rows)
            left = GaussianProcess(x[kept], y[kept], 1.0, noise, 0.0, 1.0)
            mean, sd = left.predict(x[rows])
            assert y[rows] - mean == pytest.approx(residual[row, rows], abs=1e-8)
            assert sd**2 == pytest.approx(variance[row, rows], abs=1e-8)


def test_it_learns_and_knows_where_it_knows_nothing(noisy_sine):
    x, y = noisy_sine
    process = GaussianProcess.fit(x, y, [str(k) for k in range(60)])
    grid = np.linspace(-2.5, 2.5, 50)[:, None]
    mean, near = process.predict(grid)
    assert np.abs(mean - np.sin(grid[:, 0])).max() < 0.2
    far_mean, far = process.predict(np.array([[100.0]]))
    assert far_mean[0] == pytest.approx(process.mean)
    assert far[0] == pytest.approx(process.prior_sd)
    assert near.max() < 0.7 * far[0]


def test_spread_matches_the_errors(noisy_sine):
    x, y = noisy_sine
    process = GaussianProcess.fit(x, y, [str(k) for k in range(60)])
    fresh = np.random.default_rng(1)
    xt = fresh.uniform(-3, 3, (400, 1))
    yt = np.sin(xt[:, 0]) + 0.05 * fresh.normal(size=400)
    mean, sd = process.predict(xt)
    # Standardised errors of 400 draws have a root mean square near one.
    assert 0.6 < np.sqrt(np.mean(((yt - mean) / sd) ** 2)) < 1.6
