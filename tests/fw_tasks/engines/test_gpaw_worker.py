"""The worker's own arithmetic (no GPAW is imported here) and how it names what goes wrong."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.units import Bohr, Ha
from crystals import REFERENCE
from hypothesis import given, settings
from hypothesis import strategies as st

from fw_tasks.engines import gpaw_worker as worker
from fw_tasks.engines.gpaw import PRESETS

lengths = st.floats(2.0, 12.0)


def atoms_of(record: dict) -> Atoms:
    return worker.primitive(record["structure"], 1e-3)


@settings(deadline=None, max_examples=50, derandomize=True)
@given(a=lengths, b=lengths, c=lengths, n=st.integers(1, 12), kppa=st.integers(1, 2000))
def test_k_mesh_holds_enough_points_evenly_spaced(a: float, b: float, c: float, n: int, kppa: int) -> None:
    mesh = worker.k_mesh(Atoms(f"Si{n}", cell=[a, b, c], pbc=True), kppa)
    assert np.prod(mesh) >= kppa / n
    # A longer axis never gets more points, and no axis is denser than another by more than one subdivision.
    spacing = [length * points for length, points in zip((a, b, c), mesh, strict=True)]
    fewer = [length * (points - 1) for length, points in zip((a, b, c), mesh, strict=True)]
    # The worker rounds relative lengths to four digits: 5e-5 of the longest, 3e-4 of the shortest here.
    assert max(fewer) < 1.001 * max(spacing)


@pytest.mark.parametrize("ratio", [1.0, 1.0 + 1e-6])
def test_equal_axes_stay_equal(ratio: float) -> None:
    nx, ny, _ = worker.k_mesh(Atoms("Si2", cell=[3.0, 3.0 * ratio, 7.0], pbc=True), 300)
    assert nx == ny


@pytest.mark.parametrize("record", REFERENCE, ids=lambda r: r["formula"])
def test_closed_shells_hold_the_recorded_number_of_g_vectors(record: dict) -> None:
    atoms = atoms_of(record)
    ecut_ev = worker.closed_shell_ev(atoms, 54.4)
    i = np.arange(-9, 10)
    g = np.stack(np.meshgrid(i, i, i, indexing="ij"), -1).reshape(-1, 3)
    energy_ev = 0.5 * ((g @ (2 * np.pi * atoms.cell.reciprocal() * Bohr)) ** 2).sum(1) * Ha
    assert (energy_ev <= ecut_ev).sum() == record["n_g"]
    assert ecut_ev >= 54.4


def test_ipa_alone_couples_nothing() -> None:
    atoms, standard = atoms_of(REFERENCE[0]), PRESETS["standard"].model_dump()
    assert worker.response_cutoff_ev(atoms, standard, ["ipa"]) < 1.0
    assert worker.response_cutoff_ev(atoms, standard, ["ipa", "rpa"]) > 54.4
    assert worker.response_cutoff_ev(atoms, standard | {"closed_shell": False}, ["rpa"]) == 54.4


def test_basis_grows_with_volume_and_never_exceeds_the_plane_waves() -> None:
    standard = PRESETS["standard"].model_dump()
    sizes = [worker.basis_size(v, 4, standard) for v in (10.0, 40.0, 160.0)]
    assert sizes == sorted(sizes)
    assert all(n_bands <= 0.9 * n_pw for n_pw, n_bands in [*sizes, worker.basis_size(5.0, 60, standard)])


def test_conventional_cells_are_reduced() -> None:
    corners, middles = [[0, 0, 0], [0.5, 0.5, 0], [0.5, 0, 0.5], [0, 0.5, 0.5]], [[0.5, 0, 0], [0, 0.5, 0], [0, 0, 0.5]]
    rock_salt = {
        "cell": (4.026 * np.eye(3)).tolist(),
        "frac": [*corners, *middles, [0.5, 0.5, 0.5]],
        "numbers": [3] * 4 + [9] * 4,
    }
    atoms = worker.primitive(rock_salt, 1e-3)
    assert len(atoms) == 2
    assert atoms.get_volume() == pytest.approx(4.026**3 / 4)


class FakeCalculator:
    """Eigenvalues (eV) by k-point."""

    def __init__(self, eigenvalues_ev: list[list[float]]) -> None:
        self.eigenvalues_ev = eigenvalues_ev

    def get_ibz_k_points(self) -> list[int]:
        return list(range(len(self.eigenvalues_ev)))

    def get_eigenvalues(self, kpt: int) -> list[float]:
        return self.eigenvalues_ev[kpt]


def test_the_gap_is_indirect_and_may_be_negative() -> None:
    assert worker.lowest_gap_ev(FakeCalculator([[-1.0, 0.0, 3.0], [-1.0, -0.5, 2.0]]), 2) == 2.0
    assert worker.lowest_gap_ev(FakeCalculator([[-1.0, 0.0, 3.0], [-1.0, -0.5, -0.2]]), 2) == pytest.approx(-0.2)
    assert math.isnan(worker.lowest_gap_ev(FakeCalculator([[-1.0, 0.0]]), 2))


@pytest.mark.parametrize("gap_ev", [-0.3, 0.0, 0.0999])
def test_metals_are_refused(gap_ev: float) -> None:
    with pytest.raises(worker.RefusalError, match="mesh") as caught:
        worker.refuse_metal(gap_ev, "response")
    assert caught.value.name == "Metallic"
    worker.refuse_metal(0.2, "response")


def test_stages_add_up(capsys: pytest.CaptureFixture[str]) -> None:
    stages = worker.Stages()
    for name in ("scf", "bands", "end"):
        stages.begin(name)
    assert [line.split()[:2] for line in capsys.readouterr().out.splitlines()] == [["stage", "scf"], ["stage", "bands"]]
    assert set(stages.cpu_s) == {"start", "scf", "bands"}


def test_a_worker_without_its_caller_does_not_start(tmp_path: Path) -> None:
    job = tmp_path / "job.json"
    job.write_text(json.dumps({"id": "x", "parent": os.getpid() + 1}))
    command = [sys.executable, worker.__file__, str(job), str(tmp_path / "result.npz")]
    ended = subprocess.run(command, check=False, capture_output=True, text=True)
    assert ended.returncode == 1
    assert "that one is gone" in ended.stderr
    assert list(tmp_path.iterdir()) == [job]


@pytest.mark.gpaw
def test_names_of_errors() -> None:
    from gpaw import KohnShamConvergenceError
    from gpaw.new.symmetry import SymmetryAnalysisBug

    assert worker.explain(worker.RefusalError("Magnetic", "m")) == ("Magnetic", "m")
    assert worker.explain(KohnShamConvergenceError("Did not converge!")) == ("NotConverged", "Did not converge!")
    assert worker.explain(MemoryError("3 GiB"))[0] == "OutOfMemory"
    assert worker.explain(ModuleNotFoundError("No module named 'gpaw'"))[0] == "ProgramMissing"
    assert worker.explain(FileNotFoundError('Could not find required PBE setup file "Tc.PBE"'))[0] == "MissingDataset"
    assert worker.explain(SymmetryAnalysisBug("!")) == ("BadOutput", "GPAW stopped with SymmetryAnalysisBug: !")


@pytest.mark.gpaw
def test_a_slightly_asymmetric_cell_is_standardised_less_strictly(monkeypatch: pytest.MonkeyPatch) -> None:
    from gpaw.new.symmetry import SymmetryAnalysisBug

    # Silicon displaced by 0.003 angstrom: symmetric within 0.01 only.
    job = {"cell": REFERENCE[0]["structure"]["cell"], "frac": [[0, 0, 0], [0.2505, 0.2502, 0.25]], "numbers": [14, 14]}
    seen: list[np.ndarray] = []

    def strict(atoms: Atoms, job: dict) -> tuple[dict, dict]:
        seen.append(atoms.get_distance(0, 1, mic=True))
        if len(seen) == 1:
            raise SymmetryAnalysisBug
        return {}, {}

    monkeypatch.setattr(worker, "compute", strict)
    assert worker.run(job) == ({}, {"symprec_ang": 1e-2})
    assert seen[1] == pytest.approx(5.431 * math.sqrt(3) / 4, abs=1e-4)
    assert seen[0] != pytest.approx(seen[1], abs=1e-4)

    def never(atoms: Atoms, job: dict) -> tuple[dict, dict]:
        raise SymmetryAnalysisBug

    monkeypatch.setattr(worker, "compute", never)
    with pytest.raises(worker.RefusalError, match="asymmetric") as caught:
        worker.run(job)
    assert caught.value.name == "BadOutput"
