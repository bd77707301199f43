"""What a spectrum must obey before it may become a label, whatever engine it comes from."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from fw_tasks.engines.base import BadOutput, Calculation
from fw_tasks.engines.checks import (
    KRAMERS_KRONIG_TOLERANCE,
    REJECTED,
    accept,
    check_kramers_kronig,
    check_response,
    kramers_kronig_deviation,
)
from selector.spectra import ENERGY_EV, Spectrum, similarity

# As GPAW's: 0.1 eV apart at 0, 0.2 at 20 eV, and far past the last transition.
STEPS = np.arange(0.0, 300.0)
GRID_EV = 0.1 * STEPS / (1.0 - (np.sqrt(2.0) - 1.0) * 0.1 / 20.0 * STEPS)
N_ELECTRONS, VOLUME_BOHR3 = 8, 110.0
PLASMA_EV2 = 4.0 * np.pi * N_ELECTRONS / VOLUME_BOHR3 * 27.211386**2


def spectrum(center_ev: float, share: float, width_ev: float = 0.6, grid_ev: np.ndarray = GRID_EV) -> Spectrum:
    """One oscillator with this share of all electrons' strength: Kramers-Kronig and the f-sum hold exactly."""
    eps = 1.0 + share * PLASMA_EV2 / (center_ev**2 - grid_ev**2 - 1j * width_ev * grid_ev)
    return Spectrum(grid_ev, np.array([eps] * 3))


def calculation(ipa: Spectrum, rpa: Spectrum, gap_ev: float = 3.0) -> Calculation:
    return Calculation({"ipa": ipa, "rpa": rpa}, gap_ev, 2.0, 1.5, "gpaw", "0", {}, "hash", {"n_g": 27})


@settings(deadline=None, max_examples=15, derandomize=True)
@given(
    center_ev=st.floats(3.0, 14.0), shift_ev=st.floats(0.0, 4.0), share=st.floats(0.2, 0.9), loss=st.floats(0.3, 1.0)
)
def test_no_check_looks_at_sc(
    center_ev: float, shift_ev: float, share: float, loss: float, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Pairs of every SC between -0.3 and 1 pass, as long as each of the two is a response."""
    ipa, rpa = spectrum(center_ev, share), spectrum(center_ev + shift_ev, share * loss)
    folder = tmp_path_factory.mktemp("accepted")
    taken = accept(calculation(ipa, rpa), N_ELECTRONS, VOLUME_BOHR3, folder, whole_range=True)
    assert -1.0 <= taken.sc <= 1.0
    assert list(folder.iterdir()) == []


def test_those_pairs_do_cover_sc() -> None:
    ipa = spectrum(3.0, 0.5).on_grid(ENERGY_EV).mean.imag
    found = [similarity(spectrum(3.0 + s, 0.5).on_grid(ENERGY_EV).mean.imag, ipa) for s in (0.0, 0.2, 0.5, 4.0)]
    assert found[0] == 1.0
    assert found == sorted(found, reverse=True)
    assert 0.2 < found[1] < 0.9
    assert found[-1] < -0.3


@settings(deadline=None, max_examples=10, derandomize=True)
@given(center_ev=st.floats(2.0, 25.0), width_ev=st.floats(0.6, 3.0), share=st.floats(0.05, 1.0))
def test_kramers_kronig_holds_for_every_oscillator(center_ev: float, width_ev: float, share: float) -> None:
    assert kramers_kronig_deviation(spectrum(center_ev, share, width_ev)).max() < 0.2 * KRAMERS_KRONIG_TOLERANCE


@settings(deadline=None, max_examples=10, derandomize=True)
@given(center_ev=st.floats(3.0, 15.0), factor=st.one_of(st.floats(0.3, 0.85), st.floats(1.2, 3.0)))
def test_kramers_kronig_sees_a_part_that_does_not_belong(center_ev: float, factor: float) -> None:
    good = spectrum(center_ev, 0.6)
    scaled = Spectrum(good.energy_ev, good.eps.real + 1j * factor * good.eps.imag)
    reversed_in_time = Spectrum(good.energy_ev, good.eps.conj())
    for wrong in (scaled, reversed_in_time):
        with pytest.raises(BadOutput, match="Kramers"):
            check_kramers_kronig({"rpa": wrong})


def test_kramers_kronig_sees_one_direction_of_three() -> None:
    eps = spectrum(8.0, 0.6).eps.copy()
    eps[1] = spectrum(12.0, 0.6).eps[1].real + 1j * eps[1].imag
    deviation = kramers_kronig_deviation(Spectrum(GRID_EV, eps))
    assert deviation[1] > 0.3
    assert max(deviation[0], deviation[2]) < 0.2 * KRAMERS_KRONIG_TOLERANCE


@settings(deadline=None, max_examples=10, derandomize=True)
@given(share=st.floats(0.0, 3.0))
def test_no_more_strength_than_electrons(share: float) -> None:
    assume(share > 1e-3)
    assume(not 1.05 < share < 1.2)  # all but a few percent of the oscillator lie on 0-20 eV; the slack is 10 %
    spectra = {"ipa": spectrum(8.0, share)}
    if share < 1.05:
        check_response(spectra, 1.0, N_ELECTRONS, VOLUME_BOHR3)
    else:
        with pytest.raises(BadOutput, match="absorbs like"):
            check_response(spectra, 1.0, N_ELECTRONS, VOLUME_BOHR3)


@pytest.mark.parametrize(
    ("ipa", "rpa", "gap_ev", "says"),
    [
        (spectrum(8.0, 0.5), spectrum(8.0, 0.4), 0.0, "gap is 0 eV"),
        (spectrum(8.0, 0.5), spectrum(8.0, 0.4), float("nan"), "gap is nan eV"),
        (spectrum(8.0, 0.4), spectrum(8.0, 0.5), 3.0, "static limit"),
        (spectrum(8.0, 0.5), Spectrum(GRID_EV, spectrum(8.0, 0.4).eps.conj()), 3.0, "negative|no absorption"),
    ],
)
def test_a_rejected_calculation_is_kept_with_its_reason(
    ipa: Spectrum, rpa: Spectrum, gap_ev: float, says: str, tmp_path: Path
) -> None:
    with pytest.raises(BadOutput, match=says) as caught:
        accept(calculation(ipa, rpa, gap_ev), N_ELECTRONS, VOLUME_BOHR3, tmp_path)
    kept = Calculation.load(tmp_path / REJECTED)
    assert kept.details == {"n_g": 27, "rejected": str(caught.value)}
    assert kept.spectra["rpa"].eps == pytest.approx(rpa.eps, rel=1e-5)
    assert caught.value.wall_s == 1.5


def test_kramers_kronig_is_not_asked_of_0_to_20_ev(tmp_path: Path) -> None:
    # Half the strength lies above 20 eV: what is left breaks the relation, rightly.
    both = [Spectrum(ENERGY_EV, s.on_grid(ENERGY_EV).eps) for s in (spectrum(19.0, 0.9, 2.0), spectrum(19.5, 0.9, 2.0))]
    accept(calculation(*both), N_ELECTRONS, VOLUME_BOHR3, tmp_path)
    with pytest.raises(BadOutput, match="Kramers"):
        accept(calculation(*both), N_ELECTRONS, VOLUME_BOHR3, tmp_path, whole_range=True)
