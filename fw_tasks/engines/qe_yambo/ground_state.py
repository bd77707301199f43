"""The ground state by the paper's steps: converge cutoff and mesh, look for moments, count bands, shift the mesh."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pymatgen.core import Element

from fw_tasks.engines.base import BadOutput, Magnetic, Metallic, NotConverged
from fw_tasks.engines.qe_yambo.geometry import even_mesh, shifted_points
from fw_tasks.engines.qe_yambo.pw_run import PwRuns
from fw_tasks.engines.qe_yambo.qe_input import PwJob
from fw_tasks.engines.qe_yambo.qe_output import PwResult, TooFewBands
from fw_tasks.engines.qe_yambo.repairs import with_enough_bands
from fw_tasks.engines.qe_yambo.settings import KCAL_MOL_IN_RY, QEYamboSettings
from fw_tasks.engines.qe_yambo.steps import Step

FIRST_BANDS = 100
SMALLEST_GAP_EV = 0.1
SMALLEST_MOMENT_MUB = 0.1
SMALLEST_GAIN_RY = 1e-3 / 13.605693
# Elements whose closed-shell run may show a gap above a magnetic ground state (V-Ni, Ce-Tm); others show as metals.
OPEN_SHELLS = frozenset(Element.from_Z(z).symbol for z in (*range(23, 29), *range(58, 70)))


@dataclass(frozen=True)
class GroundState:
    """A converged self-consistent field: the step with its charge density, its job, and what pw.x found."""

    step: Step
    job: PwJob
    result: PwResult


@dataclass
class GroundStates:
    """Ground states of one crystal.

    Attributes
    ----------
    pw : runs of pw.x
    settings : what decides the spectra
    first_bands : bands computed to count those the response needs; more where they do not suffice
    """

    pw: PwRuns
    settings: QEYamboSettings
    first_bands: int = FIRST_BANDS

    def converge(self) -> tuple[GroundState, list[dict[str, float]]]:
        """Raise the cutoff, then the k-mesh, until the total energy stands still; the last one, and the way there.

        Raises
        ------
        NotConverged
            It still moves at the last cutoff or mesh of the settings.
        Metallic
        """
        s = self.settings
        cutoff_ry, kppa = s.ecutwfc_ry, s.kppa_scf
        now = self._scf(cutoff_ry, even_mesh(self.pw.cell, kppa))
        path = [_point(now)]
        insulating_gap_ev(_levels(now.result), self.pw.n_filled)
        if s.converge == "none":
            return now, path
        while True:
            cutoff_ry += s.ecutwfc_step_ry
            if cutoff_ry > s.ecutwfc_max_ry:
                raise NotConverged(f"the total energy still moves at {s.ecutwfc_max_ry} Ry: {_last(path)}")
            before, now = now, self._scf(cutoff_ry, even_mesh(self.pw.cell, kppa))
            path.append(_point(now))
            if self._agree(before, now):
                break
        while True:
            while even_mesh(self.pw.cell, kppa) == now.job.k:
                kppa += s.kppa_step
            if kppa > s.kppa_max:
                raise NotConverged(f"the total energy still moves at {s.kppa_max} k-points times atoms: {_last(path)}")
            before, now = now, self._scf(cutoff_ry, even_mesh(self.pw.cell, kppa))
            path.append(_point(now))
            if self._agree(before, now):
                return now, path

    def refuse_magnetic(self, ground: GroundState) -> dict[str, Any]:
        """Compare with a spin-polarised ground state where an element has an open shell.

        Raises
        ------
        Magnetic
            Moments survive and lower the energy.
        """
        magnetic = tuple(sorted(OPEN_SHELLS & set(self.pw.pseudopotentials)))
        if not magnetic:
            return {"done": False, "why": "no element with open d or f shells"}
        job = replace(ground.job, moments_on=magnetic, conv_thr_ry=max(1e-7, ground.job.conv_thr_ry))
        try:
            result = self.pw.run(f"spin_e{job.ecutwfc_ry}", job, after=None)[1]
        except NotConverged:
            return {"done": False, "why": "the spin-polarised ground state did not converge"}
        moment = result.moment_mub or 0.0
        gain_ry = _energy(ground.result) - _energy(result)
        if moment > SMALLEST_MOMENT_MUB and gain_ry > SMALLEST_GAIN_RY:
            raise Magnetic(f"moments of {moment:.2f} Bohr magnetons in the cell lower the energy by {gain_ry:.4f} Ry")
        return {"done": True, "moment_mub": moment, "energy_gain_ry": gain_ry}

    def bands(self, ground: GroundState) -> tuple[int, float]:
        """Bands the response needs (their lowest energy lies below ``emax_c_ev`` above the valence top), and the gap.

        Both are of the ground state's mesh; the gap in eV. The shifted mesh misses Gamma, so its gap is too large.

        Raises
        ------
        Metallic, NotConverged
        """

        def enough(job: PwJob) -> tuple[int, float]:
            _, result = self.pw.run(f"bands_n{job.n_bands}", job, after=ground.step)
            levels = _levels(result)
            gap_ev = insulating_gap_ev(levels, self.pw.n_filled)
            top = levels[:, self.pw.n_filled - 1].max() + self.settings.emax_c_ev
            needed = int((levels.min(axis=0) < top).sum())
            if needed >= job.n_bands:
                raise TooFewBands(
                    f"{job.n_bands} bands do not reach {self.settings.emax_c_ev:g} eV above the valence top"
                )
            return needed, gap_ev

        job = replace(ground.job, calculation="nscf", n_bands=max(self.first_bands, self.pw.n_electrons))
        return with_enough_bands(job, enough)

    def shifted(self, ground: GroundState, n_bands: int) -> tuple[Step, int]:
        """The bands on the shifted mesh of the response, with symmorphic operations only; and its k-points."""
        job = replace(
            ground.job,
            calculation="nscf",
            n_bands=n_bands,
            k=shifted_points(even_mesh(self.pw.cell, self.settings.kppa_response)),
            symmorphic=True,
        )
        step, result = self.pw.run("nscf", job, after=ground.step)
        if result.edges_ev is not None and result.edges_ev[1] - result.edges_ev[0] < SMALLEST_GAP_EV:
            raise Metallic(f"gap {result.edges_ev[1] - result.edges_ev[0]:.3f} eV on the shifted mesh")
        return step, result.n_k

    def _scf(self, cutoff_ry: int, mesh: tuple[int, int, int]) -> GroundState:
        s = self.settings
        # As many empty bands as filled ones: what a metal needs, and a few at least.
        n_bands = max(self.pw.n_electrons, self.pw.n_filled + 4)
        job = PwJob("scf", cutoff_ry, n_bands, mesh, s.conv_thr_ry, s.smearing_ry)

        def run(job: PwJob) -> GroundState:
            name = f"scf_e{cutoff_ry}_k{'x'.join(map(str, mesh))}"
            step, result = self.pw.run(name, job, after=None)
            return GroundState(step, job, result)

        return with_enough_bands(job, run)

    def _agree(self, before: GroundState, now: GroundState) -> bool:
        limit_ry = self.settings.energy_tolerance_kcal_mol * KCAL_MOL_IN_RY * len(self.pw.cell)
        return abs(_energy(now.result) - _energy(before.result)) < limit_ry


def insulating_gap_ev(levels: NDArray[np.float64], n_filled: int) -> float:
    """The gap in eV of ``levels`` (n_k, n_bands) with ``n_filled`` bands filled.

    Raises
    ------
    Metallic
    """
    gap_ev = float(levels[:, n_filled].min() - levels[:, n_filled - 1].max())
    if gap_ev < SMALLEST_GAP_EV:
        raise Metallic(f"gap {gap_ev:.3f} eV on the ground state's mesh")
    return gap_ev


def _levels(result: PwResult) -> NDArray[np.float64]:
    if result.eigenvalues_ev is None:
        raise BadOutput("pw.x printed no bands")
    return result.eigenvalues_ev


def _energy(result: PwResult) -> float:
    if result.total_energy_ry is None:
        raise BadOutput("pw.x printed no total energy")
    return result.total_energy_ry


def _point(ground: GroundState) -> dict[str, Any]:
    return {
        "ecutwfc_ry": ground.job.ecutwfc_ry,
        "mesh": list(np.asarray(ground.job.k).tolist()),
        "total_energy_ry": _energy(ground.result),
    }


def _last(path: list[dict[str, Any]]) -> str:
    return " then ".join(f"{p['total_energy_ry']:.6f} Ry" for p in path[-2:])
