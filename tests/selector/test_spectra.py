"""SC, MSE and MAE (Eqs. 6-8), the energy grid, and what a settings hash depends on."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from selector.spectra import ENERGY_EV, Spectrum, mae, mse, settings_hash, similarity

STANDARD = {"name": "standard-1", "xc": "PBE", "pw_ev": 350.0, "kppa_scf": 100, "closed_shell": True, "eta_ev": 0.3}

values = hnp.arrays(np.float64, 9, elements=st.floats(0.0, 50.0, allow_subnormal=False))
absorbing = values.filter(lambda y: y.sum() > 1e-3)
energy_ev = np.linspace(0.0, 20.0, 9)


def lorentzian(energy: np.ndarray, centre_ev: float, width_ev: float = 1.0) -> np.ndarray:
    return width_ev / ((energy - centre_ev) ** 2 + width_ev**2)


def test_the_grid_is_the_paper_s() -> None:
    assert len(ENERGY_EV) == 2001
    assert ENERGY_EV[0] == 0.0
    assert ENERGY_EV[-1] == 20.0
    np.testing.assert_allclose(np.diff(ENERGY_EV), 0.01, rtol=1e-9)


def test_sc_by_hand_with_trapezoids() -> None:
    """On 0, 1, 3 eV: int |4 - 2, 3 - 1, 0| = 1 * 2 + 2 * 1 = 4, int |2, 1, 0| = 1.5 + 1 = 2.5: SC = 1 - 4 / 2.5."""
    sc = similarity(np.array([4.0, 3.0, 0.0]), np.array([2.0, 1.0, 0.0]), np.array([0.0, 1.0, 3.0]))
    assert sc == pytest.approx(-0.6, abs=1e-12)


def test_the_second_argument_divides() -> None:
    """Halving a spectrum: SC[y / 2; y] = 1 - 1/2, SC[y; y / 2] = 1 - 1."""
    y = lorentzian(ENERGY_EV, 8.0)
    assert similarity(y / 2, y) == pytest.approx(0.5, abs=1e-12)
    assert similarity(y, y / 2) == pytest.approx(0.0, abs=1e-12)


def test_spectra_apart_have_minus_one() -> None:
    """Equal integrals and no overlap: int |a - b| = 2 int |b|."""
    a, b = np.zeros(2001), np.zeros(2001)
    a[200:400], b[1200:1400] = 3.0, 3.0
    assert similarity(a, b) == pytest.approx(-1.0, abs=1e-12)


def test_mse_and_mae_by_hand() -> None:
    a, b = np.array([1.0, 2.0, 6.0]), np.array([1.0, 4.0, 3.0])
    assert mse(a, b) == pytest.approx((0 + 4 + 9) / 3)
    assert mae(a, b) == pytest.approx((0 + 2 + 3) / 3)


@given(absorbing)
def test_a_spectrum_equals_itself(y: np.ndarray) -> None:
    assert similarity(y, y, energy_ev) == 1.0


@given(values, absorbing, st.floats(1e-3, 1e3))
def test_sc_does_not_depend_on_the_scale(a: np.ndarray, b: np.ndarray, c: float) -> None:
    assert similarity(c * a, c * b, energy_ev) == pytest.approx(similarity(a, b, energy_ev), rel=1e-9, abs=1e-9)


@given(values, absorbing)
def test_sc_is_at_most_one_and_bounded_below_by_the_integrals(a: np.ndarray, b: np.ndarray) -> None:
    """|a - b| <= a + b where both are positive, so SC >= - int a / int b."""
    sc = similarity(a, b, energy_ev)
    ratio = np.trapezoid(a, energy_ev) / np.trapezoid(b, energy_ev)
    assert -ratio - 1e-9 * (1 + ratio) <= sc <= 1.0


@given(values, values)
def test_mse_and_mae_are_symmetric_and_mae_is_the_smaller_root(a: np.ndarray, b: np.ndarray) -> None:
    assert mse(a, b) == mse(b, a)
    assert mae(a, b) == mae(b, a)
    assert mae(a, b) <= np.sqrt(mse(a, b)) + 1e-9


def test_a_dark_reference_is_an_error() -> None:
    with pytest.raises(ValueError, match="zero everywhere"):
        similarity(np.ones(2001), np.zeros(2001))


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("which", [0, 1])
def test_a_number_that_is_not_finite_is_an_error(bad: float, which: int) -> None:
    pair = [np.ones(2001), np.ones(2001)]
    pair[which][7] = bad
    with pytest.raises(ValueError, match="not finite"):
        similarity(*pair)


def test_spectra_of_different_lengths_are_an_error() -> None:
    with pytest.raises(ValueError, match=r"shape|broadcast"):
        similarity(np.ones(2001), np.ones(2000))


def test_a_spectrum_has_three_directions() -> None:
    with pytest.raises(ValueError, match=r"\(2, 9\), not \(3, 9\)"):
        Spectrum(energy_ev, np.zeros((2, 9), complex))
    with pytest.raises(ValueError, match=r"\(3, 8\), not \(3, 9\)"):
        Spectrum(energy_ev, np.zeros((3, 8), complex))


def test_mean_is_trace_over_three() -> None:
    eps = np.arange(27.0).reshape(3, 9) * (1 + 2j)
    np.testing.assert_allclose(Spectrum(energy_ev, eps).mean, np.arange(9.0, 18.0) * (1 + 2j))


def test_on_grid_interpolates_real_and_imaginary_parts() -> None:
    """A nonlinear grid like an engine's, 0.1 eV and up against a width of 1 eV: a cubic spline is good to 1e-4."""
    coarse = np.sort(np.concatenate([np.linspace(0.0, 12.0, 121), np.linspace(12.2, 25.0, 65)]))
    eps = np.array([lorentzian(coarse, c) * (1 - 0.5j) for c in (5.0, 6.0, 9.0)])
    fine = Spectrum(coarse, eps).on_grid()
    assert fine.energy_ev is ENERGY_EV
    exact = np.array([lorentzian(ENERGY_EV, c) * (1 - 0.5j) for c in (5.0, 6.0, 9.0)])
    np.testing.assert_allclose(fine.eps, exact, atol=1e-4)


def test_on_grid_reproduces_a_cubic_exactly() -> None:
    """A not-a-knot spline through points of a cubic is that cubic."""
    cubic = (0.01 * energy_ev**3 - 0.3 * energy_ev**2 + energy_ev)[None] * np.array([[1.0], [2.0], [3j]])
    target = np.linspace(0.0, 20.0, 57)
    exact = (0.01 * target**3 - 0.3 * target**2 + target)[None] * np.array([[1.0], [2.0], [3j]])
    np.testing.assert_allclose(Spectrum(energy_ev, cubic).on_grid(target).eps, exact, atol=1e-9)


def test_on_its_own_grid_a_spectrum_is_returned_as_it_is() -> None:
    spectrum = Spectrum(ENERGY_EV, np.ones((3, 2001), complex))
    assert spectrum.on_grid() is spectrum


@pytest.mark.parametrize(("start_ev", "end_ev"), [(0.0, 19.9), (0.05, 25.0)])
def test_on_grid_never_extrapolates(start_ev: float, end_ev: float) -> None:
    e = np.linspace(start_ev, end_ev, 300)
    with pytest.raises(ValueError, match="covers"):
        Spectrum(e, np.ones((3, 300), complex)).on_grid()


def test_settings_hash_ignores_name_and_order() -> None:
    reference = settings_hash(STANDARD)
    assert len(reference) == 12
    assert int(reference, 16) >= 0
    assert settings_hash({**STANDARD, "name": "standard"}) == reference
    assert settings_hash({k: v for k, v in STANDARD.items() if k != "name"}) == reference
    assert settings_hash(dict(reversed(STANDARD.items()))) == reference


def test_settings_hash_does_not_change_between_versions() -> None:
    """Stored labels carry it: another value here would orphan all of them."""
    assert settings_hash({"name": "x", "pw_ev": 350.0, "xc": "PBE"}) == "2ee6b46a1568"


@pytest.mark.parametrize("key", [k for k in STANDARD if k != "name"])
def test_settings_hash_depends_on_every_setting(key: str) -> None:
    value = STANDARD[key]
    other = not value if isinstance(value, bool) else value + 1 if isinstance(value, int | float) else "LDA"
    assert settings_hash({**STANDARD, key: other}) != settings_hash(STANDARD)
    assert settings_hash({k: v for k, v in STANDARD.items() if k != key}) != settings_hash(STANDARD)
