"""One GPAW calculation in a process of its own: ``python gpaw_worker.py job.json result.npz``.

This is the only file of the project that imports GPAW. GPAW is GPL-3, the project is MIT: they meet at a process
boundary (JSON in, npz out), GPAW is an optional extra, and nothing of it is copied here. The file imports nothing of
this project either, so it also runs under another Python that has GPAW. Set OMP_NUM_THREADS=1: more threads make the
small matrices here up to twenty times slower.

The job holds ``cell`` (angstrom), ``frac``, ``numbers``, ``settings`` (the keys of ``GPAWSettings``), ``levels``,
``spin_check``, ``max_scf_iterations``, ``parent`` (process id of the caller), and an ``id`` that comes back in the
result. The result holds ``energy_ev`` (n,), one ``<level>_eps`` complex (3, n) per level for the field along x, y, z,
and ``meta`` (JSON). A refusal or failure leaves ``error.json`` beside the result (class name, message) and exit code 1.
Both files appear whole or not at all.

The protocol is that of the shipped labels, "standard-1": Gamma-centred ground state; its density kept fixed on an
off-Gamma mesh; empty bands by free-electron counting; one response function for both levels.
"""

from __future__ import annotations

import ctypes
import json
import math
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import spglib
from ase import Atoms
from ase.units import Bohr, Ha

SYMPREC_ANG = (1e-3, 1e-2)
SMEARING_EV = 0.02
SMALLEST_GAP_EV = 0.1
OMEGA2_EV = 20.0
HEAD_ONLY_EV = 1e-3
# Full diagonalisation is faster than Davidson below this number of plane waves.
DIAGONALIZE_BELOW_N_PW = 1200
# A closed-shell run cannot see moments. Ions of these elements may have a low-spin state with a gap above a magnetic
# ground state; unpaired electrons of other elements leave no gap in a closed-shell run, and are refused as metals.
MAGNETIC_NUMBERS = frozenset([*range(23, 29), *range(58, 70)])  # V to Ni, Ce to Tm
MOMENT_LIMIT_MUB = 0.1


class RefusalError(Exception):
    """The calculation ends here; ``name`` is the adapter's class of error."""

    def __init__(self, name: str, message: str) -> None:
        super().__init__(message)
        self.name = name


def primitive(job: dict[str, Any], symprec_ang: float) -> Atoms:
    """The standardised primitive cell, as the shipped labels have it.

    Skewed cells are not Niggli-reduced: another choice of axes is another k-mesh, so results would differ from labels
    that carry the same settings hash.
    """
    cell = (job["cell"], job["frac"], job["numbers"])
    standard = spglib.standardize_cell(cell, to_primitive=True, no_idealize=False, symprec=symprec_ang)
    lattice, frac, numbers = standard or cell
    return Atoms(numbers=numbers, cell=lattice, scaled_positions=frac, pbc=True)


def k_mesh(atoms: Atoms, kppa: float) -> tuple[int, int, int]:
    """Mesh of about kppa / n_atoms points, spacing as even as possible; equal axes stay equal."""
    length = np.linalg.norm(atoms.cell.reciprocal(), axis=1)
    length = np.round(length / length.max(), 4)
    target = max(1.0, kppa / len(atoms))

    def mesh(scale: float) -> np.ndarray:
        return np.maximum(1, np.ceil(scale * length - 1e-6)).astype(int)

    low, high = 1e-3, 1e5
    for _ in range(100):
        middle = math.sqrt(low * high)
        low, high = (low, middle) if np.prod(mesh(middle)) >= target else (middle, high)
    a, b, c = mesh(high)
    return int(a), int(b), int(c)


def closed_shell_ev(atoms: Atoms, ecut_ev: float) -> float:
    """Smallest cutoff (eV) at or above ``ecut_ev`` that closes a shell of G-vectors, as Yambo rounds."""
    b = 2 * np.pi * np.asarray(atoms.cell.reciprocal()) * Bohr
    n = math.ceil(math.sqrt(2 * 2.5 * ecut_ev / Ha) / np.linalg.norm(b, axis=1).min()) + 3
    i = np.arange(-n, n + 1)
    g = np.stack(np.meshgrid(i, i, i, indexing="ij"), -1).reshape(-1, 3) @ b
    shells = np.unique(np.round(0.5 * (g**2).sum(1) * Ha, 3))
    return float(shells[shells >= ecut_ev - 1e-3][0]) + 0.01


def response_cutoff_ev(atoms: Atoms, settings: dict[str, Any], levels: list[str]) -> float:
    """Cutoff of the G-vectors that couple; IPA alone needs no more than G = 0."""
    if "rpa" not in levels:
        return HEAD_ONLY_EV
    return closed_shell_ev(atoms, settings["ecut_ev"]) if settings["closed_shell"] else float(settings["ecut_ev"])


def free_electron_states(volume_ang3: float, energy_ev: float) -> float:
    """Number of doubly occupied free-electron states below ``energy_ev``."""
    return volume_ang3 / Bohr**3 * (2 * energy_ev / Ha) ** 1.5 / (6 * math.pi**2)


def basis_size(volume_ang3: float, n_occupied: int, settings: dict[str, Any]) -> tuple[int, int]:
    """Number of plane waves, and of bands up to about ``emax_c_ev`` above the valence top."""
    n_pw = int(free_electron_states(volume_ang3, settings["pw_ev"]))
    n_bands = math.ceil(1.1 * free_electron_states(volume_ang3, settings["emax_c_ev"])) + n_occupied + 2
    return n_pw, min(n_bands, int(0.9 * n_pw))


class Stages:
    """Names each stage on standard output as it begins, and keeps the CPU seconds of each."""

    def __init__(self) -> None:
        self.cpu_s: dict[str, float] = {}
        self._name, self._start = "start", 0.0

    def begin(self, name: str) -> None:
        now = time.process_time()
        self.cpu_s[self._name] = self.cpu_s.get(self._name, 0.0) + now - self._start
        self._name, self._start = name, now
        if name != "end":
            print(f"stage {name} (after {now:.1f} CPU s)", flush=True)


def lowest_gap_ev(calc: Any, n_occupied: int) -> float:
    """Gap on the mesh of ``calc``; not a number where it holds no empty band."""
    eig = np.array([calc.get_eigenvalues(kpt=i) for i in range(len(calc.get_ibz_k_points()))])
    if eig.shape[1] <= n_occupied:
        return float("nan")
    return float(eig[:, n_occupied].min() - eig[:, n_occupied - 1].max())


def refuse_metal(gap_ev: float, mesh: str) -> None:
    if gap_ev < SMALLEST_GAP_EV:
        raise RefusalError("Metallic", f"gap {gap_ev:.2f} eV on the {mesh} mesh, below {SMALLEST_GAP_EV} eV")


def refuse_magnetic(atoms: Atoms, scf: dict[str, Any], energy_ev: float) -> dict[str, Any]:
    """Ferromagnetic high-spin start on the magnetic elements; refuse when moments survive and lower the energy.

    An antiferromagnet shows as well: its moments survive in the ferromagnetic order too. Moments of other elements
    (superoxides, molecules with unpaired electrons) are not looked for.
    """
    from gpaw import GPAW, ConvergenceError

    moments = [5.0 if z in MAGNETIC_NUMBERS else 0.0 for z in atoms.numbers]
    if not any(moments):
        return {"done": False, "why": "no element with open d or f shells"}
    spin = atoms.copy()
    spin.set_initial_magnetic_moments(moments)
    spin.calc = GPAW(**scf | {"txt": "spin.txt", "convergence": {"density": 1e-3}, "maxiter": 80})
    try:
        gain_ev = energy_ev - spin.get_potential_energy()
    except ConvergenceError:
        return {"done": False, "why": "the spin-polarised ground state did not converge"}
    moment = float(np.abs(spin.get_magnetic_moments()).sum())
    if moment > MOMENT_LIMIT_MUB and gain_ev > 1e-3:
        raise RefusalError("Magnetic", f"moments of {moment:.2f} Bohr magnetons lower the energy by {gain_ev:.3f} eV")
    return {"done": True, "moment_mub": moment, "energy_gain_ev": float(gain_ev)}


def compute(atoms: Atoms, job: dict[str, Any]) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Both levels for one primitive cell: ({energy_ev, <level>_eps}, meta)."""
    from gpaw import GPAW, PW, FermiDirac
    from gpaw.response.df import DielectricFunction

    settings, stages = job["settings"], Stages()
    stages.begin("scf")
    scf = {
        "mode": PW(settings["pw_ev"]),
        "xc": settings["xc"],
        "kpts": {"size": k_mesh(atoms, settings["kppa_scf"]), "gamma": True},
        "occupations": FermiDirac(SMEARING_EV),
        "convergence": {"density": 1e-5},
        "maxiter": job["max_scf_iterations"],
        "txt": "scf.txt",
    }
    atoms = atoms.copy()
    atoms.calc = ground = GPAW(**scf)
    energy_ev = float(atoms.get_potential_energy())
    electrons = float(ground.get_number_of_electrons())
    if round(electrons) % 2:
        raise RefusalError("OddElectrons", f"{electrons:g} valence electrons in the primitive cell")
    n_occupied = round(electrons) // 2
    gap_ev = lowest_gap_ev(ground, n_occupied)

    stages.begin("spin")
    spin_check: dict[str, Any] = {"done": False, "why": "switched off"}
    if job["spin_check"]:
        spin_check = refuse_magnetic(atoms, scf, energy_ev)
    refuse_metal(gap_ev, "ground-state")

    stages.begin("bands")
    n_pw, n_bands = basis_size(atoms.get_volume(), n_occupied, settings)
    shifted = {"size": k_mesh(atoms, settings["kppa_response"]), "gamma": False}
    fixed: dict[str, Any] = {"kpts": shifted, "update_fermi_level": True, "txt": "bands.txt"}
    if n_pw < DIAGONALIZE_BELOW_N_PW:
        calc = ground.fixed_density(nbands=n_occupied + 2, convergence={"eigenstates": 1e3}, **fixed)
        calc.diagonalize_full_hamiltonian(nbands=n_bands)
    else:
        converge = {"bands": n_bands, "eigenstates": 1e-5}
        calc = ground.fixed_density(nbands=int(n_bands * 1.08) + 4, maxiter=400, convergence=converge, **fixed)
    gap_response_ev = lowest_gap_ev(calc, n_occupied)
    refuse_metal(gap_response_ev, "response")

    stages.begin("response")
    ecut_ev = response_cutoff_ev(atoms, settings, job["levels"])
    response = DielectricFunction(
        calc,
        frequencies={"type": "nonlinear", "domega0": settings["domega0_ev"], "omega2": OMEGA2_EV},
        eta=settings["eta_ev"],
        ecut=ecut_ev,
        hilbert=True,
        nbands=n_bands,
        intraband=False,
        txt="response.txt",
    )
    pairs = [response.get_dielectric_function(direction=d, filename=None) for d in "xyz"]
    ipa, rpa = (np.array([pair[i] for pair in pairs]) for i in (0, 1))
    eps = {level: e for level, e in (("ipa", ipa), ("rpa", rpa)) if level in job["levels"]}
    stages.begin("end")

    arrays = {"energy_ev": np.asarray(response.get_frequencies())} | {f"{level}_eps": eps[level] for level in eps}
    meta = {
        "n_g": int(response.get_chi0([0, 0, 0]).qpd.ngmax),
        "n_k": len(calc.get_ibz_k_points()),
        "n_bands": n_bands,
        "n_pw": n_pw,
        "n_atoms": len(atoms),
        "ecut_used_ev": ecut_ev,
        "eps_static": {level: float(e.mean(axis=0)[0].real) for level, e in eps.items()},
        "gap_ev": None if math.isnan(gap_ev) else gap_ev,
        "gap_response_ev": gap_response_ev,
        "energy_ev": energy_ev,
        "electrons": electrons,
        "spin_check": spin_check,
        "cpu_stage_s": stages.cpu_s,
    }
    return arrays, meta


def run(job: dict[str, Any]) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Standardise and compute; a cell that GPAW finds slightly asymmetric is standardised once more, less strictly."""
    from gpaw.new.symmetry import SymmetryAnalysisBug, SymmetryBrokenError

    for symprec_ang in SYMPREC_ANG:
        try:
            arrays, meta = compute(primitive(job, symprec_ang), job)
            return arrays, meta | {"symprec_ang": symprec_ang}
        except (SymmetryAnalysisBug, SymmetryBrokenError) as error:
            print(f"GPAW rejects the symmetry at {symprec_ang} angstrom: {error}", flush=True)
    raise RefusalError("BadOutput", f"GPAW finds the cell asymmetric even at {SYMPREC_ANG[-1]} angstrom; symmetrise it")


def explain(error: BaseException) -> tuple[str, str]:
    """(adapter's class of error, one line) for whatever went wrong."""
    if isinstance(error, RefusalError):
        return error.name, str(error)
    if isinstance(error, MemoryError):
        return "OutOfMemory", f"not enough memory: {error}"
    if isinstance(error, ImportError):
        return "ProgramMissing", f"GPAW cannot be imported ({error}): pip install 'theory-level-selector[gpaw]'"
    from gpaw import ConvergenceError

    text = " ".join(str(error).split())[:300]
    if isinstance(error, ConvergenceError):
        return "NotConverged", text or "the self-consistent field did not converge"
    if isinstance(error, FileNotFoundError) and "setup" in text.lower():
        return "MissingDataset", text
    return "BadOutput", f"GPAW stopped with {type(error).__name__}: {text}"


def die_with(parent: int) -> None:
    """On Linux, be killed when the process that started this one dies, however it dies."""
    if sys.platform.startswith("linux"):
        pr_set_pdeathsig = 1
        ctypes.CDLL(None, use_errno=True).prctl(pr_set_pdeathsig, signal.SIGKILL)
    if os.getppid() != parent:
        sys.exit(
            f"not started by process {parent}, which asked for it: that one is gone, or python is a wrapper script"
        )


def main(argv: list[str]) -> int:
    job_file, result_file = Path(argv[0]).resolve(), Path(argv[1]).resolve()
    job = json.loads(job_file.read_text())
    die_with(job["parent"])
    # This file's folder also holds a gpaw.py, which must not shadow the library.
    here = Path(__file__).resolve().parent
    sys.path[:] = [p for p in sys.path if Path(p or ".").resolve() != here]
    try:
        arrays, meta = run(job)
        import gpaw
        import gpaw_data

        meta["versions"] = {"gpaw": gpaw.__version__, "gpaw-data": gpaw_data.__version__}
    except Exception as error:
        import traceback

        traceback.print_exc()
        name, message = explain(error)
        part = result_file.with_name("error.json.part")
        part.write_text(json.dumps({"id": job["id"], "error": name, "message": message}))
        part.replace(result_file.with_name("error.json"))
        return 1
    meta |= {"id": job["id"], "cpu_s": time.process_time()}
    part = result_file.with_name(result_file.name + ".part")
    with part.open("wb") as f:
        content: dict[str, Any] = arrays | {"meta": np.array(json.dumps(meta))}
        np.savez_compressed(f, **content)
    part.replace(result_file)
    print(f"done after {meta['cpu_s']:.1f} CPU s", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
