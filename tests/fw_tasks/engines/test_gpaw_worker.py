"""The worker's own arithmetic (no GPAW is imported here) and how it names what goes wrong."""

from __future__ import annotations

import errno
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
from pymatgen.core import Lattice, Structure

from fw_tasks.engines import gpaw_worker as worker
from fw_tasks.engines.gpaw_settings import PRESETS

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


@pytest.mark.parametrize("record", REFERENCE, ids=lambda r: r["formula"])
def test_the_ladder_has_a_rung_at_the_cutoff_of_the_labels(record: dict) -> None:
    atoms = atoms_of(record)
    ecut_ev = worker.closed_shell_ev(atoms, 54.4)
    i = np.arange(-9, 10)
    g = np.stack(np.meshgrid(i, i, i, indexing="ij"), -1).reshape(-1, 3)
    energy_ev = 0.5 * ((g @ (2 * np.pi * atoms.cell.reciprocal() * Bohr)) ** 2).sum(1) * Ha
    shells = worker.closed_shells(energy_ev[energy_ev <= ecut_ev])
    assert shells[0] == (pytest.approx(worker.SHELL_WIDTH_EV), 1)
    assert shells[-1] == (pytest.approx(ecut_ev), record["n_g"])
    assert shells == sorted(shells)
    assert len({n_g for _, n_g in shells}) == len(shells)


def dielectric_matrix(rng: np.random.Generator, n_w: int, n: int) -> np.ndarray:
    """1 + a + i b per frequency, b positive definite, as a response has it: no leading block is singular."""
    a, b = rng.normal(size=(2, n_w, n, n)) + 1j * rng.normal(size=(2, n_w, n, n))
    hermitian, absorbing = a + a.conj().transpose(0, 2, 1), b @ b.conj().transpose(0, 2, 1)
    return np.eye(n) + hermitian / n + 1j * absorbing / n


@settings(deadline=None, max_examples=30, derandomize=True)
@given(counts=st.lists(st.integers(2, 14), min_size=1, max_size=6, unique=True), seed=st.integers(0, 10**6))
def test_every_rung_is_the_inverse_of_its_own_submatrix(counts: list[int], seed: int) -> None:
    counts = [1, *sorted(counts)]
    n_w, n = 3, counts[-1]
    rng = np.random.default_rng(seed)
    matrix = dielectric_matrix(rng, n_w, n)
    # Field along x, y, z: head and wings of their own, the body shared.
    head = matrix[:, 0, 0, None] * np.array([1.0, 1.3, 1.7])
    rows = matrix[:, None, 0, 1:] * np.array([1.0, 0.5, 2.0])[:, None]
    columns = matrix[:, 1:, 0, None] * np.array([1.0, 1.5, 0.7])
    ladder = worker.local_field_ladder(head, rows, columns, matrix[:, 1:, 1:], counts)
    for rung, count in enumerate(counts):
        for d in range(3):
            sub = matrix[:, :count, :count].copy()
            sub[:, 0, 0], sub[:, 0, 1:], sub[:, 1:, 0] = head[:, d], rows[:, d, : count - 1], columns[:, : count - 1, d]
            expected = 1.0 / np.linalg.inv(sub)[:, 0, 0]
            assert ladder[rung, d] == pytest.approx(expected, rel=1e-8)


class FakeChi0:
    """Head, wings and body of a response to four G-vectors at three frequencies, as GPAW lays them out."""

    def __init__(self, rng: np.random.Generator) -> None:
        def random(*shape: int) -> np.ndarray:
            return -rng.random(shape) * (1.0 + 0.5j) * 0.01

        self.chi0_Wvv, self.chi0_WxvG, self.chi0_WgG = random(3, 3, 3), random(3, 2, 3, 4), random(3, 4, 4)


def test_the_dielectric_function_from_gpaws_arrays(monkeypatch: pytest.MonkeyPatch) -> None:
    chi0, energy_ev = FakeChi0(np.random.default_rng(1)), np.array([0.0, 40.0, 10.0, 20.0])
    shells = [(0.01, 1), (10.01, 2), (20.01, 3), (40.01, 4)]
    eps = worker.macroscopic(chi0, shells, energy_ev)
    assert eps.shape == (4, 3, 3)
    v = 4 * np.pi / np.array([1.0, *(2 * energy_ev[1:] / Ha)])
    for d in range(3):
        full = chi0.chi0_WgG.copy()
        full[:, 0], full[:, :, 0] = chi0.chi0_WxvG[:, 0, d], chi0.chi0_WxvG[:, 1, d]
        full[:, 0, 0] = chi0.chi0_Wvv[:, d, d]
        matrix = np.eye(4) - np.sqrt(v[:, None] * v) * full
        for rung, kept in enumerate(([0], [0, 2], [0, 2, 3], [0, 2, 3, 1])):
            expected = 1.0 / np.linalg.inv(matrix[:, kept][:, :, kept])[:, 0, 0]
            assert eps[rung, d] == pytest.approx(expected, rel=1e-10)
    # However many frequencies are taken together.
    monkeypatch.setattr(worker, "CHUNK", 1)
    assert worker.macroscopic(chi0, shells, energy_ev) == pytest.approx(eps, rel=1e-12)


def test_a_niggli_reduced_cell_is_the_same_crystal_on_shorter_axes() -> None:
    # Layers of LiCoO2: spglib's rhombohedral cell has an angle of 33 degrees.
    layers = Structure.from_spacegroup(
        "R-3m", Lattice.hexagonal(2.816, 14.054), ["Li", "Co", "O"], [[0, 0, 0.5], [0, 0, 0], [0, 0, 0.26]]
    )
    skewed = {"cell": layers.lattice.matrix, "frac": layers.frac_coords, "numbers": layers.atomic_numbers}
    plain, reduced = worker.primitive(skewed, 1e-3), worker.primitive(skewed, 1e-3, niggli=True)
    assert reduced.get_volume() == pytest.approx(plain.get_volume())
    assert np.linalg.norm(reduced.cell, axis=1).sum() < np.linalg.norm(plain.cell, axis=1).sum() - 1.0
    # One lattice: the axes of each are whole numbers of the other's; and atoms stay where they were.
    steps = reduced.cell @ np.linalg.inv(plain.cell)
    assert steps == pytest.approx(np.round(steps), abs=1e-6)
    assert abs(np.linalg.det(steps)) == pytest.approx(1.0)
    moved = (reduced.positions - plain.positions) @ np.linalg.inv(plain.cell)
    assert moved == pytest.approx(np.round(moved), abs=1e-6)
    # Mesh points follow the axes: this is why the reduced cell is another setting.
    assert worker.k_mesh(reduced, 300) != worker.k_mesh(plain, 300)


def test_the_response_is_weighed_before_it_is_allocated() -> None:
    worker.refuse_too_large(200, 100, None)
    worker.refuse_too_large(200, 100, worker.peak_memory_gb() + 0.2)
    with pytest.raises(worker.RefusalError, match="memory_limit_gb = 1") as caught:
        worker.refuse_too_large(200, 1000, 1.0)
    assert caught.value.name == "OutOfMemory"


def test_a_memory_limit_ends_an_allocation_not_the_machine() -> None:
    code = (
        "import sys; sys.path.insert(0, sys.argv[1]); import gpaw_worker as w, numpy as np; w.limit_memory(2.0)\n"
        "try: np.ones(int(4e8))\n"
        "except MemoryError as error: print(*w.explain(error))\n"
    )
    folder = str(Path(worker.__file__).parent)
    ended = subprocess.run([sys.executable, "-c", code, folder], check=False, capture_output=True, text=True)
    assert ended.stdout.startswith("OutOfMemory not enough memory")
    assert "memory_limit_gb" in ended.stdout


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
    assert worker.explain(ImportError("failed to map segment from shared object"))[0] == "OutOfMemory"
    assert worker.explain(OSError(errno.ENOMEM, "Cannot allocate memory"))[0] == "OutOfMemory"
    assert worker.explain(ModuleNotFoundError("No module named 'gpaw'"))[0] == "ProgramMissing"
    assert worker.explain(FileNotFoundError('Could not find required PBE setup file "Tc.PBE"'))[0] == "MissingDataset"
    assert worker.explain(SymmetryAnalysisBug("!")) == ("BadOutput", "GPAW stopped with SymmetryAnalysisBug: !")


@pytest.mark.gpaw
def test_a_slightly_asymmetric_cell_is_standardised_less_strictly(monkeypatch: pytest.MonkeyPatch) -> None:
    from gpaw.new.symmetry import SymmetryAnalysisBug

    # Silicon displaced by 0.003 angstrom: symmetric within 0.01 only.
    job = {"cell": REFERENCE[0]["structure"]["cell"], "frac": [[0, 0, 0], [0.2505, 0.2502, 0.25]], "numbers": [14, 14]}
    seen: list[Atoms] = []

    def strict(atoms: Atoms, job: dict) -> tuple[dict, dict]:
        seen.append(atoms)
        if len(seen) < accepted_at:
            raise SymmetryAnalysisBug
        return {}, {"repairs": ["mixer"], "changed_settings": {}}

    monkeypatch.setattr(worker, "compute", strict)
    job["settings"], accepted_at = {}, 2
    meta = worker.run(job)[1]
    assert meta["repairs"] == ["cell symmetrised to 0.01 angstrom", "mixer"]
    assert (meta["symprec_ang"], meta["changed_settings"]) == (1e-2, {})
    ideal_ang = 5.431 * math.sqrt(3) / 4
    assert seen[1].get_distance(0, 1, mic=True) == pytest.approx(ideal_ang, abs=1e-4)
    assert seen[0].get_distance(0, 1, mic=True) != pytest.approx(ideal_ang, abs=1e-4)

    seen.clear()
    accepted_at = 3
    meta = worker.run(job)[1]
    assert meta["repairs"][0] == "Niggli-reduced cell"
    assert meta["changed_settings"] == {"cell": "niggli"}

    accepted_at = 99
    with pytest.raises(worker.RefusalError, match="asymmetric") as caught:
        worker.run(job)
    assert caught.value.name == "BadOutput"


@pytest.fixture
def stubborn_gpaw(monkeypatch: pytest.MonkeyPatch) -> list[dict]:
    """GPAW whose ground state converges with the third set of keywords only; what it was asked for."""
    import gpaw

    asked: list[dict] = []

    class Stubborn:
        def __init__(self, **keywords: object) -> None:
            asked.append(keywords)

        def get_potential_energy(self, *args: object, **keywords: object) -> float:
            if "eigensolver" not in asked[-1]:
                raise gpaw.KohnShamConvergenceError("Did not converge!")
            return -1.0

    monkeypatch.setattr(gpaw, "GPAW", Stubborn)
    return asked


@pytest.mark.gpaw
def test_a_ground_state_that_does_not_converge_is_tried_more_gently(stubborn_gpaw: list[dict]) -> None:
    repairs: list[str] = []
    _, energy_ev, keywords = worker.ground_state(Atoms("H"), {"maxiter": 150}, repairs)
    assert energy_ev == -1.0
    tried = [set(keywords) - {"maxiter"} for keywords in stubborn_gpaw]
    assert tried == [set(), {"mixer"}, {"mixer", "eigensolver"}]
    assert repairs == ["mixer: Pulay, 0.02; solver: PPCG"]
    assert keywords == stubborn_gpaw[-1]


class FakeGround:
    """A ground state whose iterative bands never converge; ``asked`` are the keywords of each attempt."""

    def __init__(self) -> None:
        self.asked: list[dict] = []

    def fixed_density(self, **keywords: object) -> FakeGround:
        import gpaw

        self.asked.append(keywords)
        if "maxiter" in keywords and "eigensolver" not in keywords:
            raise gpaw.KohnShamConvergenceError("Did not converge!")
        return self

    def diagonalize_full_hamiltonian(self, nbands: int) -> None:
        self.asked.append({"full": nbands})


@pytest.mark.gpaw
@pytest.mark.parametrize(
    ("n_pw", "repair", "last"),
    [
        (1000, [], {"full": 40}),
        (2000, ["solver of the bands: full diagonalisation"], {"full": 40}),
        (9000, ["solver of the bands: PPCG"], None),
    ],
)
def test_bands_that_do_not_converge_take_another_solver(n_pw: int, repair: list[str], last: dict | None) -> None:
    ground, repairs = FakeGround(), list[str]()
    worker.empty_bands(ground, {"size": (2, 2, 2), "gamma": False}, (n_pw, 40, 4), repairs)
    assert repairs == repair
    assert ground.asked[-1] == last if last else ground.asked[-1]["eigensolver"] == "ppcg"


@pytest.mark.gpaw
@pytest.mark.parametrize("asked", ["off-gamma", "gamma"])
def test_a_mesh_that_gpaw_stumbles_over_is_centred_at_gamma(asked: str, monkeypatch: pytest.MonkeyPatch) -> None:
    meshes: list[bool] = []

    def on_mesh(ground: object, atoms: Atoms, job: dict, mesh: dict, *rest: object) -> tuple[dict, dict]:
        meshes.append(mesh["gamma"])
        if not mesh["gamma"] or asked == "gamma":
            raise AssertionError
        return {}, {}

    silicon = FakeCalculator([[-4.0, -3.0, -2.0, 0.0, 1.0]])
    silicon.get_number_of_electrons = lambda: 8.0
    monkeypatch.setattr(worker, "ground_state", lambda atoms, scf, repairs: (silicon, -1.0, scf))
    monkeypatch.setattr(worker, "spectra_on_mesh", on_mesh)
    chosen = PRESETS["smoke"].model_dump() | {"response_mesh": asked}
    job = {"settings": chosen, "max_scf_iterations": 9, "spin_check": False}
    if asked == "gamma":
        with pytest.raises(AssertionError):
            worker.compute(atoms_of(REFERENCE[0]), job)
        assert meshes == [True]
    else:
        meta = worker.compute(atoms_of(REFERENCE[0]), job)[1]
        assert meshes == [False, True]
        assert meta["repairs"] == ["Gamma-centred mesh of the response"]
        assert meta["changed_settings"] == {"response_mesh": "gamma"}


@pytest.mark.gpaw
def test_processes_that_know_nothing_of_each_other_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    assert worker.processes().size == 1
    monkeypatch.setenv("OMPI_COMM_WORLD_SIZE", "4")
    with pytest.raises(worker.RefusalError, match=r"4 processes.*without MPI") as caught:
        worker.processes()
    assert caught.value.name == "ProgramMissing"
