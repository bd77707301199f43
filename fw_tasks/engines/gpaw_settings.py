"""What decides GPAW's spectra: settings, presets, and what of them is hashed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from fw_tasks.engines.presets import resolve

YOUNGER = ("cell", "response_mesh")


class GPAWSettings(BaseModel):
    """What decides the spectra. Energies in eV; the hash of `record` without ``name`` tells labels apart.

    Attributes
    ----------
    name : the preset's name and version
    xc : exchange-correlation functional
    pw_ev : plane-wave cutoff of the wave functions
    kppa_scf, kppa_response : k-points times atoms, Gamma-centred ground state and off-Gamma response
    emax_c_ev : bands up to about this energy above the valence top
    ecut_ev : cutoff of the G-vectors that couple in RPA
    closed_shell : round ``ecut_ev`` up to a closed shell of G-vectors
    eta_ev : broadening
    domega0_ev : spacing of the frequency grid at 0
    cell : "standard" (spglib's standardised primitive cell) or "niggli" (the same, Niggli-reduced: another k-mesh)
    response_mesh : "off-gamma" or "gamma"
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    name: str
    xc: Literal["PBE"] = "PBE"
    pw_ev: float = Field(ge=100.0, le=2000.0)
    kppa_scf: int = Field(ge=1)
    kppa_response: int = Field(ge=1)
    emax_c_ev: float = Field(gt=0.0)
    ecut_ev: float = Field(default=54.4, gt=0.0)
    closed_shell: bool = True
    eta_ev: float = Field(default=0.3, gt=0.0)
    domega0_ev: float = Field(default=0.1, gt=0.0)
    cell: Literal["standard", "niggli"] = "standard"
    response_mesh: Literal["off-gamma", "gamma"] = "off-gamma"

    def record(self) -> dict[str, Any]:
        """What stands in labels and is hashed: settings younger than the shipped labels only where they differ."""
        fields = type(self).model_fields
        return self.model_dump(exclude={key for key in YOUNGER if getattr(self, key) == fields[key].default})

    def repaired(self, changes: Mapping[str, Any]) -> GPAWSettings:
        """What was computed after all, where a repair had to change settings: another name, another hash."""
        return type(self)(**self.model_dump() | {"name": f"{self.name}-repaired"} | dict(changes)) if changes else self


PRESETS: dict[str, GPAWSettings] = {
    "smoke": GPAWSettings(name="smoke-1", pw_ev=300.0, kppa_scf=60, kppa_response=100, emax_c_ev=25.0),
    "standard": GPAWSettings(name="standard-1", pw_ev=350.0, kppa_scf=100, kppa_response=300, emax_c_ev=35.0),
    "tight": GPAWSettings(name="tight-1", pw_ev=450.0, kppa_scf=200, kppa_response=1500, emax_c_ev=60.0),
}


def resolve_settings(preset: str, changes: Mapping[str, Any] | None = None) -> GPAWSettings:
    """A preset's settings, some of them changed; errors as :func:`fw_tasks.engines.presets.resolve`."""
    return resolve("gpaw", PRESETS, preset, changes)
