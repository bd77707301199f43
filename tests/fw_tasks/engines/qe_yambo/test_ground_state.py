"""Decisions on the way to the ground state, which is made up; and the physics every response is held to."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from pymatgen.core import Structure

from fw_tasks.engines.base import BadOutput, Magnetic, Metallic, NotConverged, OddElectrons
from fw_tasks.engines.checks import check_response, check_spectra, primitive_cell
from fw_tasks.engines.qe_yambo.commands import Programs, Usage
from fw_tasks.engines.qe_yambo.geometry import BOHR_ANG
from fw_tasks.engines.qe_yambo.ground_state import GroundStates
from fw_tasks.engines.qe_yambo.pseudopotentials import find_pseudopotentials
from fw_tasks.engines.qe_yambo.pw_run import PwRuns
from fw_tasks.engines.qe_yambo.qe_input import PwJob
from fw_tasks.engines.qe_yambo.qe_output import PwResult, TooFewBands
from fw_tasks.engines.qe_yambo.repairs import with_enough_bands
from fw_tasks.engines.qe_yambo.settings import KCAL_MOL_IN_RY, resolve_settings
from fw_tasks.engines.qe_yambo.steps import Step, Steps
from fw_tasks.engines.qe_yambo.yambo_input import YamboJob
from fw_tasks.engines.qe_yambo.yambo_output import read_response
from selector.spectra import ENERGY_EV, Spectrum

Answer = Callable[[str, PwJob], PwResult]
SPACING_EV = 0.9
GAP_EV = 2.0


def levels_ev(job: PwJob, n_filled: int, gap_ev: float = GAP_EV) -> np.ndarray:
    """Two k-points; valence top at 0, then bands SPACING_EV apart from the gap on."""
    ladder = np.arange(job.n_bands) - n_filled
    ladder = np.where(ladder < 0, ladder + 1.0, ladder * SPACING_EV + gap_ev)
    return np.array([ladder, ladder + np.where(ladder > 0, 0.3, -0.3)])


@pytest.fixture
def made_up(crystals: dict[str, Structure], pseudo_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Ground states of silicon or iron fluoride whose pw.x is a function (step's name, job) -> result."""

    def make(answer: Answer, structure: Structure | None = None, **settings: object) -> GroundStates:
        cell = primitive_cell(structure or crystals["Si"])
        files = find_pseudopotentials(pseudo_dir, [site.specie.symbol for site in cell], "stub")
        runs = PwRuns(cell, files, Programs(), Steps(tmp_path))

        def pw(name: str, job: PwJob, after: Step | None) -> tuple[Step, PwResult]:
            return Step(name, tmp_path / name, name, Usage()), answer(name, job)

        monkeypatch.setattr(runs, "run", pw)
        return GroundStates(runs, resolve_settings("standard", settings))

    return make


def converging(job: PwJob, cutoff_scale_ry: float = 5.0, mesh_scale: float = 2.0) -> PwResult:
    """An energy that falls exponentially with cutoff and mesh."""
    energy_ry = 10.0 * math.exp(-job.ecutwfc_ry / cutoff_scale_ry) + 10.0 * math.exp(-job.k[0] / mesh_scale)
    return PwResult("6.7", 8.0, 2, energy_ry, levels_ev(job, 4), None)


def test_cutoff_then_mesh_until_the_energy_stands_still(made_up: Callable[..., GroundStates]) -> None:
    ground, path = made_up(lambda name, job: converging(job, 12.0)).converge()
    limit_ry = KCAL_MOL_IN_RY * 2
    energies = [point["total_energy_ry"] for point in path]
    steps = np.abs(np.diff(energies))
    cutoffs, meshes = [p["ecutwfc_ry"] for p in path], [p["mesh"][0] for p in path]
    last_cutoff = cutoffs.index(max(cutoffs))
    assert cutoffs[: last_cutoff + 1] == list(range(60, max(cutoffs) + 1, 5))
    assert set(meshes[: last_cutoff + 1]) == {10}
    assert steps[last_cutoff - 1] < limit_ry
    assert (steps[: last_cutoff - 1] >= limit_ry).all()
    # Then meshes, each of them denser than the one before.
    assert (np.diff(meshes[last_cutoff:]) > 0).all()
    assert len(meshes) > last_cutoff + 1
    assert steps[-1] < limit_ry
    assert ground.job.k == (meshes[-1],) * 3
    fixed, path = made_up(lambda name, job: converging(job, 12.0), converge="none").converge()
    assert (len(path), fixed.job.ecutwfc_ry) == (1, 60)


@pytest.mark.parametrize(("scales", "says"), [((100.0, 2.0), "moves at 160 Ry"), ((5.0, 100.0), "moves at 15000 k")])
def test_an_energy_that_never_stands_still(
    scales: tuple[float, float], says: str, made_up: Callable[..., GroundStates]
) -> None:
    with pytest.raises(NotConverged, match=rf"{says}.*Ry then .*Ry"):
        made_up(lambda name, job: converging(job, *scales)).converge()


def test_metals_end_at_the_first_ground_state(made_up: Callable[..., GroundStates]) -> None:
    asked: list[str] = []

    def metal(name: str, job: PwJob) -> PwResult:
        asked.append(name)
        return PwResult("6.7", 8.0, 2, -1.0, levels_ev(job, 4, gap_ev=0.05), None)

    with pytest.raises(Metallic, match=r"0\.05"):
        made_up(metal).converge()
    assert asked == ["scf_e60_k10x10x10"]


def test_bands_are_counted_to_20_ev_above_the_valence_top(made_up: Callable[..., GroundStates]) -> None:
    asked: list[int] = []

    def pw(name: str, job: PwJob) -> PwResult:
        if job.calculation == "nscf":
            asked.append(job.n_bands)
        return PwResult("6.7", 8.0, 2, 0.0, levels_ev(job, 4), None)

    states = made_up(pw, converge="none")
    states.first_bands = 10
    ground, _ = states.converge()
    needed = 4 + math.ceil((20.0 - GAP_EV) / SPACING_EV)
    assert states.bands(ground) == (needed, pytest.approx(GAP_EV))
    assert asked == [10, 20, 40]


def test_bands_that_never_suffice() -> None:
    def run(job: PwJob) -> PwJob:
        if job.n_bands < 30:
            raise TooFewBands("too few")
        return job

    job = PwJob("scf", 60, 4, (2, 2, 2), 1e-10, 5e-4)
    assert with_enough_bands(job, run).n_bands == 32
    with pytest.raises(TooFewBands):
        with_enough_bands(replace(job, n_bands=1), run)


@pytest.mark.parametrize(("moment", "gain_ry", "refused"), [(4.0, 0.02, True), (4.0, -0.02, False), (0.0, 0.0, False)])
def test_magnetic_ground_states(
    moment: float, gain_ry: float, refused: bool, made_up: Callable[..., GroundStates]
) -> None:
    iron_fluoride = Structure(
        [[0, 2.1, 2.1], [2.1, 0, 2.1], [2.1, 2.1, 0]], ["Fe", "F", "F"], [[0] * 3, [0.25] * 3, [0.75] * 3]
    )

    def pw(name: str, job: PwJob) -> PwResult:
        if job.moments_on:
            assert job.moments_on == ("Fe",)
            return PwResult("6.7", 30.0, 2, -1.0 - gain_ry, None, None, moment)
        return PwResult("6.7", 30.0, 2, -1.0, levels_ev(job, 15), None)

    states = made_up(pw, iron_fluoride, converge="none")
    ground, _ = states.converge()
    if refused:
        with pytest.raises(Magnetic, match=r"4\.00 Bohr"):
            states.refuse_magnetic(ground)
    else:
        assert states.refuse_magnetic(ground) == {
            "done": True,
            "moment_mub": moment,
            "energy_gain_ry": pytest.approx(gain_ry),
        }
    silicon = made_up(pw, converge="none")
    assert silicon.refuse_magnetic(ground)["done"] is False


def test_an_odd_number_of_valence_electrons(made_up: Callable[..., GroundStates]) -> None:
    aluminium = Structure([[0, 2, 2], [2, 0, 2], [2, 2, 0]], ["Al"], [[0, 0, 0]])
    with pytest.raises(OddElectrons, match="11 valence"):
        made_up(lambda name, job: converging(job), aluminium).converge()


# Recorded spectra, by (material, cutoffs in mRy, bands, electrons, gap in eV, volume of the primitive cell in bohr**3).
RECORDED = [
    ("Si", (0, 2000, 4000), 20, 8, 0.73, 275.8),
    ("LiF", (0, 2000, 4000, 6000, 8000), 10, 10, 8.903, 113.24),
]


@pytest.fixture
def recorded(golden: Callable[[str], str], tmp_path: Path) -> Callable[..., dict[str, Spectrum]]:
    def read(name: str, cutoff_mry: int, bands: int) -> dict[str, Spectrum]:
        job = YamboJob(0, cutoff_mry, bands, 0.3)
        for file in (f"o-{job.name}.eps_q1_inv_rpa_dyson", f"l-{job.name}_optics_chi"):
            (tmp_path / file).write_text(golden(f"{name}/{file}"))
        response = read_response(tmp_path, job)
        return {level: Spectrum(ENERGY_EV, np.array([getattr(response, level)] * 3)) for level in ("ipa", "rpa")}

    return read


@pytest.mark.parametrize(("name", "cutoffs", "bands", "electrons", "gap_ev", "volume"), RECORDED)
def test_every_recorded_spectrum_passes_the_checks(
    name: str,
    cutoffs: tuple[int, ...],
    bands: int,
    electrons: int,
    gap_ev: float,
    volume: float,
    recorded: Callable[..., dict[str, Spectrum]],
    crystals: dict[str, Structure],
) -> None:
    assert primitive_cell(crystals[name]).volume / BOHR_ANG**3 == pytest.approx(volume, rel=2e-3)
    for cutoff_mry in cutoffs:
        spectra = recorded(name, cutoff_mry, bands)
        check_spectra(spectra)
        check_response(spectra, gap_ev, electrons, volume)


def test_what_no_insulator_can_do_is_refused(recorded: Callable[..., dict[str, Spectrum]]) -> None:
    name, _, bands, electrons, gap_ev, volume = RECORDED[0]
    spectra = recorded(name, 2000, bands)
    with pytest.raises(BadOutput, match="gap"):
        check_response(spectra, 0.0, electrons, volume)
    with pytest.raises(BadOutput, match=r"absorbs like .* electrons"):
        check_response(spectra, gap_ev, 2, volume)
    with pytest.raises(BadOutput, match="static limit"):
        check_response({"ipa": spectra["rpa"], "rpa": spectra["ipa"]}, gap_ev, electrons, volume)
    broken = Spectrum(ENERGY_EV, np.where(ENERGY_EV > 10.0, np.nan, spectra["rpa"].eps))
    with pytest.raises(BadOutput, match="not finite"):
        check_response(spectra | {"rpa": broken}, gap_ev, electrons, volume)
