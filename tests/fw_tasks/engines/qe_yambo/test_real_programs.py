"""The real pw.x, with small settings (marker qe), and the whole workflow where yambo is installed (marker yambo)."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from pymatgen.core import Lattice, Structure

from fw_tasks.engines.base import Magnetic, Metallic, TimedOut
from fw_tasks.engines.checks import primitive_cell
from fw_tasks.engines.qe_yambo import QEYamboEngine
from fw_tasks.engines.qe_yambo.commands import Programs
from fw_tasks.engines.qe_yambo.geometry import even_mesh
from fw_tasks.engines.qe_yambo.ground_state import GroundStates
from fw_tasks.engines.qe_yambo.pseudopotentials import find_pseudopotentials
from fw_tasks.engines.qe_yambo.pw_run import PwRuns
from fw_tasks.engines.qe_yambo.qe_input import SAVE, PwJob, pw_input
from fw_tasks.engines.qe_yambo.qe_output import read_pw
from fw_tasks.engines.qe_yambo.settings import resolve_settings
from fw_tasks.engines.qe_yambo.steps import Steps

PSEUDOS = Path(os.environ.get("SELECTOR_PSEUDO_DIR", "build/sg15"))
SMALL = {
    "ecutwfc_ry": 30, "kppa_scf": 60, "kppa_response": 40, "conv_thr_ry": 1e-8, "converge": "none",
}  # fmt: skip


def need(*programs: str) -> None:
    """Fail, not skip: whoever asks for these tests wants them run."""
    missing = [program for program in programs if shutil.which(program) is None]
    if missing:
        pytest.fail(f"not on PATH: {', '.join(missing)} (make test-qe installs pw.x; yambo and p2y are the site's)")
    if not PSEUDOS.is_dir():
        pytest.fail(f"{PSEUDOS} is not there: make pseudos, or set SELECTOR_PSEUDO_DIR")


def states_of(structure: Structure, root: Path, **settings: object) -> GroundStates:
    need("pw.x")
    cell = primitive_cell(structure)
    files = find_pseudopotentials(PSEUDOS.resolve(), [site.specie.symbol for site in cell], "SG15-1.2")
    chosen = resolve_settings("standard", SMALL | settings)
    return GroundStates(PwRuns(cell, files, Programs(), Steps(root)), chosen, first_bands=24)


# Gaps in eV and bands up to 20 eV, with these settings, QE 6.7.
FOUND = {"Si": (0.72, 20), "LiF": (8.49, 9), "BN": (4.61, 18)}


@pytest.mark.qe
@pytest.mark.parametrize("name", FOUND)
def test_the_steps_of_pw(name: str, crystals: dict[str, Structure], tmp_path: Path) -> None:
    """Self-consistent field, bands, shifted mesh; at the end lies what p2y reads."""
    states = states_of(crystals[name], tmp_path)
    ground, path = states.converge()
    assert path[0]["total_energy_ry"] == ground.result.total_energy_ry < 0.0
    n_bands, gap_ev = states.bands(ground)
    assert (n_bands, gap_ev) == (FOUND[name][1], pytest.approx(FOUND[name][0], abs=0.05))
    shifted, n_k = states.shifted(ground, n_bands)
    assert n_k % np.prod(even_mesh(states.pw.cell, 40)) == 0
    files = {path.name for path in (shifted.folder / SAVE).iterdir()}
    assert {"data-file-schema.xml", "charge-density.dat"} | {f"wfc{k + 1}.dat" for k in range(n_k)} <= files
    assert {p.path.name for p in states.pw.pseudopotentials.values()} <= files
    assert "fractional translation" not in (shifted.folder / "pw.out").read_text()

    again = states_of(crystals[name], tmp_path)
    again.shifted(again.converge()[0], again.bands(ground)[0])
    assert all(step.reused for step in again.pw.steps.finished)


@pytest.mark.qe
@pytest.mark.parametrize(("name", "a_bohr"), [("LiF", 7.679846417584745)])
def test_the_recorded_ground_state(name: str, a_bohr: float, golden: Callable[[str], str], tmp_path: Path) -> None:
    """Other axes, the same crystal: the total energy of the recorded run to 1e-6 Ry, its levels to 1 meV."""
    a = a_bohr * 0.529177210903
    lif = Structure.from_spacegroup("Fm-3m", Lattice.cubic(a), ["Li", "F"], [[0, 0, 0], [0.5, 0.5, 0.5]])
    ours, _ = states_of(lif, tmp_path, ecutwfc_ry=60, kppa_scf=500, conv_thr_ry=1e-10).converge()
    recorded = read_pw(golden(f"{name}/pw_{name}_scf_k500_E60.out"), ours.job)
    assert ours.result.total_energy_ry == pytest.approx(recorded.total_energy_ry, abs=1e-6)
    assert ours.result.eigenvalues_ev is not None
    assert recorded.eigenvalues_ev is not None
    assert np.sort(ours.result.eigenvalues_ev[:, 4]) == pytest.approx(np.sort(recorded.eigenvalues_ev[:, 4]), abs=1e-3)


@pytest.mark.qe
def test_a_metal(tmp_path: Path) -> None:
    magnesium = Structure(Lattice([[0, 2.26, 2.26], [2.26, 0, 2.26], [2.26, 2.26, 0]]), ["Mg"], [[0, 0, 0]])
    with pytest.raises(Metallic):
        states_of(magnesium, tmp_path).converge()


@pytest.mark.qe
def test_a_magnet(tmp_path: Path) -> None:
    """Nickel oxide's moments survive in the ferromagnetic order; its closed shell, looked past here, has no gap."""
    nickel_oxide = Structure.from_spacegroup("Fm-3m", Lattice.cubic(4.18), ["Ni", "O"], [[0, 0, 0], [0.5, 0.5, 0.5]])
    states = states_of(nickel_oxide, tmp_path, conv_thr_ry=1e-6, smearing_ry=0.01)
    with pytest.raises(Magnetic, match="Bohr magnetons"):
        states.refuse_magnetic(states._scf(60, (4, 4, 4)))


@pytest.mark.qe
def test_a_run_that_stopped_itself_goes_on(crystals: dict[str, Structure], tmp_path: Path) -> None:
    """The same energy as in one go."""
    states = states_of(crystals["LiF"], tmp_path / "whole")
    job = PwJob("scf", 60, 10, (6, 6, 6), 1e-9, 4.6e-4)
    whole = states.pw.run("scf", job, after=None)[1]
    folder = tmp_path / "stopped"
    folder.mkdir()
    states.pw.provide(folder, None)
    stops = 0
    for max_seconds in (0.5, 0.5, None):
        text = pw_input(states.pw.cell, states.pw.pseudopotentials, job, max_seconds=max_seconds, restart=stops > 0)
        (folder / "pw.in").write_text(text)
        said, _ = states.pw.programs.run("pw", ["-in", "pw.in"], folder, "pw.out", 300.0)
        try:
            result = read_pw(said, job)
        except TimedOut:
            stops += 1
    assert stops == 2
    assert result.total_energy_ry == pytest.approx(whole.total_energy_ry, abs=1e-6)


@pytest.mark.yambo
@pytest.mark.parametrize("name", ["LiF", "BN"])
def test_the_whole_workflow(name: str, crystals: dict[str, Structure], tmp_path: Path) -> None:
    need("pw.x", "p2y", "yambo")
    engine = QEYamboEngine(settings=SMALL | {"g_cutoffs_mry": [2000, 4000, 6000]}, pseudo_dir=PSEUDOS.resolve())
    calculation = engine.compute(name, crystals[name], ["ipa", "rpa"], tmp_path / "run", 3000.0)
    assert 0.6 < calculation.sc < 0.99
    assert calculation.gap_ev == pytest.approx(FOUND[name][0], abs=0.05)
    ladder = calculation.details["ladder"]
    axes = {"LiF": ["xyz"], "BN": ["xy", "z"]}[name]
    assert [(r["axes"], r["cutoff_mry"]) for r in ladder] == [(a, c) for a in axes for c in (2000, 4000, 6000)]
    if name == "BN":
        # G-vectors along c only, which do not couple to a field in the plane.
        first = ladder[0]
        assert (first["n_coupling"], first["sc"]) == (1, pytest.approx(1.0, abs=1e-4))
    again = engine.compute(name, crystals[name], ["ipa"], tmp_path / "ipa", 3000.0)
    assert np.allclose(again.spectra["ipa"].eps, calculation.spectra["ipa"].eps, rtol=5e-3, atol=5e-3)
    assert re.match(r"QE .*, Yambo \d", calculation.version)
