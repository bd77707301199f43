"""One GPAW calculation in a process of its own: ``python gpaw_worker.py job.json result.npz``.

This is the only file of the project that imports GPAW. GPAW is GPL-3, the project is MIT: they meet at a process
boundary (JSON in, npz out), GPAW is an optional extra, and nothing of it is copied here. The file imports nothing of
this project either, so it also runs under another Python that has GPAW. Set OMP_NUM_THREADS=1: more threads make the
small matrices here up to twenty times slower.

The job holds ``cell`` (angstrom), ``frac``, ``numbers``, ``settings`` (the keys of ``GPAWSettings``), ``levels``,
``spin_check``, ``max_scf_iterations``, ``ladder_to_ev`` (or null), ``memory_limit_gb`` (or null), ``parent`` (process
id of the caller; null behind a launcher such as mpirun), and an ``id`` that comes back in the result. The result holds
``energy_ev`` (n,), one ``<level>_eps`` complex (3, n) per level for the field along x, y, z, ``ladder_eps`` (rungs, n),
the trace / 3 at RPA with every closed shell of G-vectors, and ``meta`` (JSON). A refusal or failure leaves
``error.json`` beside the result (class name, message) and exit code 1. Both files appear whole or not at all.

The protocol is that of the shipped labels, "standard-1": Gamma-centred ground state; its density kept fixed on an
off-Gamma mesh; empty bands by free-electron counting; one response function for both levels and every cutoff.

What fails for its numerics is repaired, gentlest first, and ``meta`` tells how. A repair of the way there (mixing,
eigensolver, a cell symmetrised less strictly) leaves the numbers what they are. One that changes the k-mesh, and so the
numbers, stands in ``meta["changed_settings"]``: its result bears another settings hash.
"""

from __future__ import annotations

import ctypes
import errno
import json
import math
import os
import resource
import signal
import sys
import time
import traceback
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import spglib
from ase import Atoms
from ase.units import Bohr, Ha

SYMPREC_ANG = (1e-3, 1e-2)
SHELL_WIDTH_EV = 0.01
SMEARING_EV = 0.02
SMALLEST_GAP_EV = 0.1
OMEGA2_EV = 20.0
HEAD_ONLY_EV = 1e-3
# Full diagonalisation is faster than Davidson below this number of plane waves.
DIAGONALIZE_BELOW_N_PW = 1200
# And possible below this one, where Davidson fails: matrices of 0.4 GB.
DIAGONALIZE_AT_MOST_N_PW = 5000
# What to try when the ground state does not converge: (what it is called, keywords of GPAW).
GENTLE_MIXER = {"backend": "pulay", "beta": 0.02, "nmaxold": 5, "weight": 100.0}
SCF_REPAIRS: tuple[tuple[str | None, dict[str, Any]], ...] = (
    (None, {}),
    ("mixer: Pulay, 0.02", {"mixer": GENTLE_MIXER}),
    ("mixer: Pulay, 0.02; solver: PPCG", {"mixer": GENTLE_MIXER, "eigensolver": "ppcg"}),
)
# GPAW says "this mesh will not do" by whatever its arithmetic stumbles over.
MESH_FAILURES = (AssertionError, LookupError, RuntimeError, ValueError)
# Complex numbers of a frequency's matrices that are eliminated together: 4 MB stay in the processor's cache.
CHUNK = 2**18
# A closed-shell run cannot see moments. Ions of these elements may have a low-spin state with a gap above a magnetic
# ground state; unpaired electrons of other elements leave no gap in a closed-shell run, and are refused as metals.
MAGNETIC_NUMBERS = frozenset([*range(23, 29), *range(58, 70)])  # V to Ni, Ce to Tm
MOMENT_LIMIT_MUB = 0.1


class RefusalError(Exception):
    """The calculation ends here; ``name`` is the adapter's class of error."""

    def __init__(self, name: str, message: str) -> None:
        super().__init__(message)
        self.name = name


def primitive(job: dict[str, Any], symprec_ang: float, niggli: bool = False) -> Atoms:
    """The standardised primitive cell, as the shipped labels have it; Niggli-reduced only where the settings say so.

    Another choice of axes is another k-mesh, so a reduced cell gives other numbers: it has a settings hash of its own.
    """
    cell = (job["cell"], job["frac"], job["numbers"])
    standard = spglib.standardize_cell(cell, to_primitive=True, no_idealize=False, symprec=symprec_ang)
    lattice, frac, numbers = standard or cell
    atoms = Atoms(numbers=numbers, cell=lattice, scaled_positions=frac, pbc=True)
    reduced = spglib.niggli_reduce(lattice) if niggli else None
    if reduced is not None:
        # The same lattice in the same frame: only the axes change, the atoms stay where they are.
        atoms.set_cell(reduced, scale_atoms=False)
        atoms.wrap(eps=1e-9)
    return atoms


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
    return float(shells[shells >= ecut_ev - 1e-3][0]) + SHELL_WIDTH_EV


def closed_shells(energy_ev: np.ndarray) -> list[tuple[float, int]]:
    """(cutoff in eV, G-vectors below it) of every closed shell, rising, from the G-vectors' energies (n,)."""
    cutoffs = np.unique(np.round(energy_ev, 3)) + SHELL_WIDTH_EV
    counts, first = np.unique(np.searchsorted(np.sort(energy_ev), cutoffs, side="right"), return_index=True)
    return list(zip(cutoffs[first].tolist(), counts.tolist(), strict=True))


def local_field_ladder(
    head: np.ndarray, rows: np.ndarray, columns: np.ndarray, body: np.ndarray, counts: Sequence[int]
) -> np.ndarray:
    """Macroscopic dielectric function with the first ``counts`` G-vectors: every cutoff of one response function.

    eps_M = head - row body^-1 column, the Schur complement of the dielectric matrix. Eliminating one shell after
    another leaves it at each cutoff on the way, for about the price of the largest alone.

    Parameters
    ----------
    head : (w, 3) complex, eps_00 for the field along x, y, z
    rows, columns : (w, 3, n) and (w, n, 3), eps_0G and eps_G0; G-vectors by rising length, without G = 0
    body : (w, n, n), eps_GG'
    counts : G-vectors at each cutoff, G = 0 among them; rising from 1 to n + 1

    Returns
    -------
    (len(counts), 3, w) complex
    """
    eps, rows, columns, body = head.copy(), rows.copy(), columns.copy(), body.copy()
    ladder = [eps.copy()]
    for low, high in pairwise(counts):
        block, rest = slice(low - 1, high - 1), slice(high - 1, None)
        right = np.concatenate([body[:, block, rest], columns[:, block]], axis=2)
        solved = np.linalg.solve(body[:, block, block], right)
        to_rest, to_field = solved[:, :, :-3], solved[:, :, -3:]
        eps -= np.einsum("wdg,wgd->wd", rows[:, :, block], to_field)
        columns[:, rest] -= body[:, rest, block] @ to_field
        rows[:, :, rest] -= rows[:, :, block] @ to_rest
        body[:, rest, rest] -= body[:, rest, block] @ to_rest
        ladder.append(eps.copy())
    return np.array(ladder).transpose(0, 2, 1)


def macroscopic(chi0: Any, shells: Sequence[tuple[float, int]], g_energy_ev: np.ndarray) -> np.ndarray:
    """Macroscopic dielectric function at every cutoff of ``shells``, (rungs, 3, w), from GPAW's chi0 at q = 0.

    The dielectric matrix is 1 - v^(1/2) chi0 v^(1/2), v = 4 pi / G^2; at G = 0 chi0 comes per unit of q^2, as head
    (w, 3, 3) and wings (w, 2, 3, n). The first rung, G = 0 alone, is the IPA.
    """
    order = np.argsort(g_energy_ev, kind="stable")[1:]
    root_v = np.sqrt(4 * np.pi / (2 * g_energy_ev[order] / Ha))
    root_v0 = math.sqrt(4 * np.pi)
    head = 1.0 - 4 * np.pi * np.einsum("wdd->wd", chi0.chi0_Wvv)
    wings = -root_v0 * root_v * chi0.chi0_WxvG[..., order]
    counts = [n_g for _, n_g in shells]
    step = max(1, CHUNK // max(1, len(order)) ** 2)
    parts = []
    for first in range(0, len(head), step):
        w = slice(first, first + step)
        body = np.eye(len(order)) - root_v[:, None] * chi0.chi0_WgG[w][:, order][:, :, order] * root_v
        parts.append(local_field_ladder(head[w], wings[w, 0], wings[w, 1].transpose(0, 2, 1), body, counts))
    return np.concatenate(parts, axis=2)


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


def ground_state(atoms: Atoms, scf: dict[str, Any], repairs: list[str]) -> tuple[Any, float, dict[str, Any]]:
    """(calculator, total energy in eV, keywords that converged); gentler ways first where the first does not."""
    from gpaw import GPAW, ConvergenceError

    failure: Exception | None = None
    for name, change in SCF_REPAIRS:
        if name:
            print(f"repair: {name}", flush=True)
        trial = atoms.copy()
        trial.calc = GPAW(**scf | change)
        try:
            energy_ev = float(trial.get_potential_energy())
        except ConvergenceError as error:
            failure = error
            continue
        if name:
            repairs.append(name)
        return trial.calc, energy_ev, scf | change
    tried = "; ".join(name for name, _ in SCF_REPAIRS if name)
    raise RefusalError("NotConverged", f"the ground state does not converge: {failure} (tried: {tried})")


def empty_bands(ground: Any, mesh: dict[str, Any], sizes: tuple[int, int, int], repairs: list[str]) -> Any:
    """Calculator with converged bands on ``mesh``, the density kept; ``sizes`` are n_pw, n_bands, n_occupied."""
    from gpaw import ConvergenceError

    n_pw, n_bands, n_occupied = sizes
    fixed: dict[str, Any] = {"kpts": mesh, "update_fermi_level": True, "txt": "bands.txt"}

    def diagonalised() -> Any:
        calc = ground.fixed_density(nbands=n_occupied + 2, convergence={"eigenstates": 1e3}, **fixed)
        calc.diagonalize_full_hamiltonian(nbands=n_bands)
        return calc

    if n_pw < DIAGONALIZE_BELOW_N_PW:
        return diagonalised()
    converge = {"bands": n_bands, "eigenstates": 1e-5}
    iterative = {"nbands": int(n_bands * 1.08) + 4, "maxiter": 400, "convergence": converge} | fixed
    try:
        return ground.fixed_density(**iterative)
    except ConvergenceError:
        name = "solver of the bands: " + ("full diagonalisation" if n_pw <= DIAGONALIZE_AT_MOST_N_PW else "PPCG")
        print(f"repair: {name}", flush=True)
        repairs.append(name)
        if n_pw <= DIAGONALIZE_AT_MOST_N_PW:
            return diagonalised()
        return ground.fixed_density(**iterative | {"eigensolver": "ppcg"})


def peak_memory_gb() -> float:
    """Resident memory of this process at its largest."""
    per_unit = 1e-9 if sys.platform == "darwin" else 1.024e-6
    return per_unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def limit_memory(limit_gb: float | None) -> None:
    """Let allocations beyond the limit fail here, before the machine has to choose whom to kill."""
    if limit_gb is not None and sys.platform.startswith("linux"):
        _, hard = resource.getrlimit(resource.RLIMIT_AS)
        limit = int(limit_gb * 1e9)
        resource.setrlimit(resource.RLIMIT_AS, (limit if hard == resource.RLIM_INFINITY else min(limit, hard), hard))


def refuse_too_large(n_w: int, n_g: int, memory_limit_gb: float | None) -> None:
    """Refuse a response function that the memory limit cannot hold: chi0, its spectral function and a copy."""
    needed_gb = 3 * 16e-9 * n_w * n_g**2 + peak_memory_gb()
    if memory_limit_gb is not None and needed_gb > memory_limit_gb:
        raise RefusalError(
            "OutOfMemory",
            f"the response of {n_g} G-vectors at {n_w} frequencies needs about {needed_gb:.1f} GB, "
            f"over memory_limit_gb = {memory_limit_gb:g}: raise it, or shorten ladder_to_ev",
        )


def response(
    calc: Any, atoms: Atoms, job: dict[str, Any], n_bands: int
) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """({energy_ev, <level>_eps, ladder_eps}, cutoff and G-vectors of the level and the ladder) from one chi0.

    It is computed up to the larger of the level's own cutoff and ``ladder_to_ev``; all smaller ones are submatrices.
    """
    from gpaw.response.df import DielectricFunction

    settings, levels = job["settings"], job["levels"]
    ecut_ev = largest_ev = response_cutoff_ev(atoms, settings, levels)
    if "rpa" in levels and job["ladder_to_ev"]:
        largest_ev = max(ecut_ev, closed_shell_ev(atoms, job["ladder_to_ev"]))
    df = DielectricFunction(
        calc,
        frequencies={"type": "nonlinear", "domega0": settings["domega0_ev"], "omega2": OMEGA2_EV},
        eta=settings["eta_ev"],
        ecut=largest_ev,
        hilbert=True,
        nbands=n_bands,
        intraband=False,
        txt="response.txt",
    )
    energy_ev = np.asarray(df.get_frequencies())
    # As many G-vectors lie below an energy as free-electron states.
    n_g = math.ceil(free_electron_states(atoms.get_volume(), largest_ev))
    refuse_too_large(len(energy_ev), n_g, job["memory_limit_gb"])
    chi0 = df.get_chi0([0, 0, 0])
    g_energy_ev = 0.5 * (chi0.qpd.get_reciprocal_vectors(add_q=False) ** 2).sum(axis=1) * Ha
    shells, own = closed_shells(g_energy_ev), int(np.count_nonzero(g_energy_ev <= ecut_ev))
    if own not in [count for _, count in shells]:
        # A cutoff that is not rounded may fall between two shells that are nearly one.
        shells = sorted([*shells, (ecut_ev, own)])
    eps = macroscopic(chi0, shells, g_energy_ev)
    of_level = {"ipa": 0, "rpa": [count for _, count in shells].index(own)}
    arrays = {"energy_ev": energy_ev} | {f"{level}_eps": eps[of_level[level]] for level in levels}
    rungs = [{"cutoff_ev": round(cutoff_ev, 3), "n_g": count} for cutoff_ev, count in shells]
    return arrays | {"ladder_eps": eps.mean(axis=1)}, {"n_g": own, "ecut_used_ev": ecut_ev, "ladder": rungs}


def spectra_on_mesh(
    ground: Any, atoms: Atoms, job: dict[str, Any], mesh: dict[str, Any], stages: Stages, repairs: list[str]
) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Bands and response on one k-mesh: (arrays, what is to be said of them)."""
    n_occupied = round(float(ground.get_number_of_electrons())) // 2
    stages.begin("bands")
    n_pw, n_bands = basis_size(atoms.get_volume(), n_occupied, job["settings"])
    calc = empty_bands(ground, mesh, (n_pw, n_bands, n_occupied), repairs)
    gap_ev = lowest_gap_ev(calc, n_occupied)
    refuse_metal(gap_ev, "response")
    stages.begin("response")
    arrays, cutoffs = response(calc, atoms, job, n_bands)
    stages.begin("end")
    return arrays, cutoffs | {
        "n_k": len(calc.get_ibz_k_points()),
        "n_bands": n_bands,
        "n_pw": n_pw,
        "gap_response_ev": gap_ev,
        "eps_static": {level: float(arrays[f"{level}_eps"].mean(axis=0)[0].real) for level in job["levels"]},
    }


def compute(atoms: Atoms, job: dict[str, Any]) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Both levels for one primitive cell: ({energy_ev, <level>_eps, ladder_eps}, meta)."""
    from gpaw import PW, FermiDirac

    settings, stages, repairs = job["settings"], Stages(), list[str]()
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
    ground, energy_ev, scf = ground_state(atoms, scf, repairs)
    electrons = float(ground.get_number_of_electrons())
    if round(electrons) % 2:
        raise RefusalError("OddElectrons", f"{electrons:g} valence electrons in the primitive cell")
    gap_ev = lowest_gap_ev(ground, round(electrons) // 2)

    stages.begin("spin")
    spin_check: dict[str, Any] = {"done": False, "why": "switched off"}
    if job["spin_check"]:
        spin_check = refuse_magnetic(atoms, scf, energy_ev)
    refuse_metal(gap_ev, "ground-state")

    size, gamma = k_mesh(atoms, settings["kppa_response"]), settings.get("response_mesh") == "gamma"
    changed: dict[str, str] = {}
    try:
        arrays, facts = spectra_on_mesh(ground, atoms, job, {"size": size, "gamma": gamma}, stages, repairs)
    except MESH_FAILURES:
        if gamma:
            raise
        traceback.print_exc()
        print("repair: Gamma-centred mesh of the response", flush=True)
        repairs.append("Gamma-centred mesh of the response")
        changed["response_mesh"] = "gamma"
        arrays, facts = spectra_on_mesh(ground, atoms, job, {"size": size, "gamma": True}, stages, repairs)
    return arrays, facts | {
        "n_atoms": len(atoms),
        "volume_ang3": float(atoms.get_volume()),
        "gap_ev": facts["gap_response_ev"] if math.isnan(gap_ev) else gap_ev,
        "energy_ev": energy_ev,
        "electrons": electrons,
        "spin_check": spin_check,
        "repairs": repairs,
        "changed_settings": changed,
        "cpu_stage_s": stages.cpu_s,
    }


def cells(job: dict[str, Any]) -> Iterator[tuple[float, bool, Atoms]]:
    """(tolerance in angstrom, Niggli-reduced, cell): as asked, symmetrised less strictly, then Niggli-reduced.

    GPAW looks for symmetry among rotations of small whole numbers only, and misses some of a skewed cell's.
    """
    asked = job["settings"].get("cell") == "niggli"
    for symprec_ang in SYMPREC_ANG:
        yield symprec_ang, asked, primitive(job, symprec_ang, asked)
    if not asked:
        yield SYMPREC_ANG[-1], True, primitive(job, SYMPREC_ANG[-1], True)


def run(job: dict[str, Any]) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Standardise and compute; where GPAW finds the cell asymmetric, go on with the next of `cells`."""
    from gpaw.new.symmetry import SymmetryAnalysisBug, SymmetryBrokenError

    asked = job["settings"].get("cell") == "niggli"
    for symprec_ang, niggli, atoms in cells(job):
        try:
            arrays, meta = compute(atoms, job)
        except (SymmetryAnalysisBug, SymmetryBrokenError) as error:
            print(f"GPAW rejects the symmetry at {symprec_ang} angstrom: {error}", flush=True)
            continue
        repairs, changed = meta["repairs"], meta["changed_settings"]
        if symprec_ang != SYMPREC_ANG[0]:
            repairs = [f"cell symmetrised to {symprec_ang} angstrom", *repairs]
        if niggli and not asked:
            repairs, changed = ["Niggli-reduced cell", *repairs], changed | {"cell": "niggli"}
        return arrays, meta | {"symprec_ang": symprec_ang, "repairs": repairs, "changed_settings": changed}
    raise RefusalError("BadOutput", f"GPAW finds the cell asymmetric even at {SYMPREC_ANG[-1]} angstrom; symmetrise it")


def explain(error: BaseException) -> tuple[str, str]:
    """(adapter's class of error, one line) for whatever went wrong."""
    if isinstance(error, RefusalError):
        return error.name, str(error)
    # Where memory is short, neither files nor shared objects can be opened.
    no_file = isinstance(error, OSError) and error.errno == errno.ENOMEM
    no_library = isinstance(error, ImportError) and "map segment" in str(error)
    if isinstance(error, MemoryError) or no_file or no_library:
        return "OutOfMemory", f"not enough memory: {error}; raise the engine's option memory_limit_gb where it is set"
    if isinstance(error, ImportError):
        return "ProgramMissing", f"GPAW cannot be imported ({error}): pip install 'theory-level-selector[gpaw]'"
    from gpaw import ConvergenceError

    text = " ".join(str(error).split())[:300]
    if isinstance(error, ConvergenceError):
        return "NotConverged", text or "the self-consistent field did not converge"
    if isinstance(error, FileNotFoundError) and "setup" in text.lower():
        return "MissingDataset", text
    return "BadOutput", f"GPAW stopped with {type(error).__name__}: {text}"


def die_with(parent: int | None) -> None:
    """On Linux, be killed when the process that started this one dies, however it dies.

    ``parent`` is the caller, who may be gone already; None where a launcher such as mpirun stands in between.
    """
    if sys.platform.startswith("linux"):
        pr_set_pdeathsig = 1
        ctypes.CDLL(None, use_errno=True).prctl(pr_set_pdeathsig, signal.SIGKILL)
    if parent is not None and os.getppid() != parent:
        sys.exit(
            f"not started by process {parent}, which asked for it: that one is gone, or python is a wrapper script"
        )


def processes() -> Any:
    """GPAW's communicator of all processes; refuses several that know nothing of each other."""
    from gpaw.mpi import world

    started = max(int(os.environ.get(name, "1")) for name in ("OMPI_COMM_WORLD_SIZE", "PMI_SIZE"))
    if started > world.size:
        raise RefusalError(
            "ProgramMissing",
            f"{started} processes were started, but this GPAW is built without MPI: name a python whose GPAW has it, "
            "or leave out the engine's option command",
        )
    return world


def main(argv: list[str]) -> int:
    job_file, result_file = Path(argv[0]).resolve(), Path(argv[1]).resolve()
    job = json.loads(job_file.read_text())
    die_with(job["parent"])
    # This file's folder also holds a gpaw.py, which must not shadow the library.
    here = Path(__file__).resolve().parent
    sys.path[:] = [p for p in sys.path if Path(p or ".").resolve() != here]
    try:
        world = processes()
        limit_memory(job["memory_limit_gb"])
        arrays, meta = run(job)
        import gpaw
        import gpaw_data

        meta["versions"] = {"gpaw": gpaw.__version__, "gpaw-data": gpaw_data.__version__}
        meta |= {"processes": world.size, "memory_gb": world.max_scalar(peak_memory_gb())}
        meta |= {"id": job["id"], "cpu_s": world.sum_scalar(time.process_time())}
    except Exception as error:
        traceback.print_exc()
        name, message = explain(error)
        part = result_file.with_name("error.json.part")
        part.write_text(json.dumps({"id": job["id"], "error": name, "message": message}))
        part.replace(result_file.with_name("error.json"))
        return 1
    if world.rank == 0:
        part = result_file.with_name(result_file.name + ".part")
        with part.open("wb") as f:
            content: dict[str, Any] = arrays | {"meta": np.array(json.dumps(meta))}
            np.savez_compressed(f, **content)
        part.replace(result_file)
        print(f"done after {meta['cpu_s']:.1f} CPU s", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
