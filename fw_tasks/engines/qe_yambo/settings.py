"""What decides the spectra of Quantum ESPRESSO + Yambo; where and how the programs run is not here."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from fw_tasks.engines.presets import resolve

KCAL_MOL_IN_RY = 0.0031872022
Cutoffs = Annotated[
    tuple[Annotated[int, Field(ge=0)], ...],
    BeforeValidator(lambda value: tuple(value) if isinstance(value, list) else value),
]


class QEYamboSettings(BaseModel):
    """The hash of these fields without ``name`` tells labels apart.

    Attributes
    ----------
    name : the preset's name and version
    xc : exchange-correlation functional
    pseudopotentials : the family; files that belong to a known family are recognised by their MD5 sums
    ecutwfc_ry, ecutwfc_step_ry, ecutwfc_max_ry : Ry, plane-wave cutoffs of the ground state: first, step, last
    kppa_scf, kppa_step, kppa_max : k-points times atoms of its Gamma-centred meshes, likewise
    energy_tolerance_kcal_mol : kcal/mol per atom, change of the total energy at which cutoff and mesh are converged
    conv_thr_ry : Ry, the self-consistent field's threshold
    smearing_ry : Ry, Gaussian smearing of the self-consistent field (it lets a metal show itself)
    kppa_response : k-points times atoms of the shifted mesh of the response
    emax_c_ev : eV, bands whose lowest energy lies below this energy above the valence top
    g_cutoffs_mry : mRy, increasing cutoffs of the G-vectors that couple in RPA; 0 is IPA
    sc_tolerance : how far SC[RPA; IPA] may still move in two steps of the ladder that has converged
    converge : "all", or "none": the first cutoff, the first mesh, and every rung of the ladder
    eta_ev : eV, broadening
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    name: str
    xc: Literal["PBE"] = "PBE"
    pseudopotentials: str = "SG15-1.2"
    ecutwfc_ry: int = Field(default=60, ge=10, le=400)
    ecutwfc_step_ry: int = Field(default=5, ge=1)
    ecutwfc_max_ry: int = Field(default=160, ge=10, le=400)
    kppa_scf: int = Field(default=1500, ge=1)
    kppa_step: int = Field(default=1500, ge=1)
    kppa_max: int = Field(default=15000, ge=1)
    energy_tolerance_kcal_mol: float = Field(default=1.0, gt=0.0)
    conv_thr_ry: float = Field(default=1e-10, gt=0.0)
    smearing_ry: float = Field(default=4.593661607577953e-4, gt=0.0)
    kppa_response: int = Field(default=1500, ge=1)
    emax_c_ev: float = Field(default=20.0, gt=0.0)
    g_cutoffs_mry: Cutoffs = (2000, 4000, 6000, 8000, 10000)
    sc_tolerance: float = Field(default=0.01, gt=0.0)
    converge: Literal["all", "none"] = "all"
    eta_ev: float = Field(default=0.3, gt=0.0)

    @model_validator(mode="after")
    def _ladder_rises(self) -> QEYamboSettings:
        ladder = self.g_cutoffs_mry
        if not ladder or ladder[-1] == 0 or any(b <= a for a, b in pairwise(ladder)):
            raise ValueError("g_cutoffs_mry must rise and end above 0")
        return self


PRESETS: dict[str, QEYamboSettings] = {
    "smoke": QEYamboSettings(
        name="qe-yambo-smoke-1",
        ecutwfc_ry=40,
        kppa_scf=60,
        kppa_response=60,
        conv_thr_ry=1e-8,
        g_cutoffs_mry=(2000, 4000),
        converge="none",
    ),
    "standard": QEYamboSettings(name="qe-yambo-1"),
}


def resolve_settings(preset: str, changes: Mapping[str, Any] | None = None) -> QEYamboSettings:
    """A preset's settings, some of them changed; errors as :func:`fw_tasks.engines.presets.resolve`."""
    return resolve("qe_yambo", PRESETS, preset, changes)
