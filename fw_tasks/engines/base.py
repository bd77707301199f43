"""What an engine is: a structure in, dielectric functions at one or more theory levels out."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Protocol

import numpy as np
from pymatgen.core import Structure

from selector.errors import SelectorError
from selector.spectra import ENERGY_EV, Spectrum, similarity


class EngineError(SelectorError):
    """A calculation was refused or failed; the class names the reason.

    Attributes
    ----------
    retry : bool
        Whether the same calculation may succeed a second time, with more time or other settings.
    remedy : str
        What the user can do.
    wall_s : float
        Wall seconds spent before the failure.
    """

    retry: ClassVar[bool] = False
    remedy: ClassVar[str] = "see the log in the calculation's folder"

    def __init__(self, message: str, wall_s: float = 0.0) -> None:
        super().__init__(message)
        self.wall_s = wall_s

    @property
    def reason(self) -> str:
        return type(self).__name__


class NotConverged(EngineError):
    """The self-consistent field or a convergence ladder did not settle."""

    retry = True
    remedy = "try another preset, or look at the structure"


class Metallic(EngineError):
    """No gap: neither level is defined as it is used here."""

    remedy = "leave it out: SC is defined for insulators"


class OddElectrons(EngineError):
    """An odd number of electrons: not a closed-shell insulator."""

    remedy = "leave it out, or give the cell in which the electrons pair"


class Magnetic(EngineError):
    """A magnetic ground state."""

    remedy = "leave it out: SC is defined for closed shells"


class MissingDataset(EngineError):
    """No PAW dataset or pseudopotential for an element."""

    remedy = "take another engine, or leave the material out"


class OutOfMemory(EngineError):
    """The calculation was killed for its memory."""

    retry = True
    remedy = "give the calculation more memory, or leave it out"


class TimedOut(EngineError):
    """The calculation reached its time limit."""

    retry = True
    remedy = "give it more time"


class BadOutput(EngineError):
    """The spectrum is not finite, negative, or inconsistent."""

    remedy = "look at its log; the spectrum is not used"


class ProgramMissing(EngineError):
    """The engine's program is not installed."""

    remedy = "`selector doctor` says what is there"


@dataclass(frozen=True)
class Calculation:
    """What an engine returns for one material.

    Attributes
    ----------
    spectra : level ("ipa", "rpa") -> Spectrum
    gap_ev : float, eV, on the ground-state mesh; on the response's where the ground state held no empty band
    cpu_s, wall_s : float, seconds
    engine, version, settings, settings_hash : what produced it
    details : convergence record and other facts (n_g, n_k, n_bands, stage times ...), JSON-able
    """

    spectra: dict[str, Spectrum]
    gap_ev: float
    cpu_s: float
    wall_s: float
    engine: str
    version: str
    settings: dict[str, Any]
    settings_hash: str
    details: dict[str, Any] = field(default_factory=dict)

    @property
    def sc(self) -> float:
        """SC[RPA; IPA] of the traces / 3 on 0-20 eV."""
        means = {level: s.on_grid(ENERGY_EV).mean for level, s in self.spectra.items()}
        on_grid = {level: np.asarray(eps.imag, dtype=np.float64) for level, eps in means.items()}
        return similarity(on_grid["rpa"], on_grid["ipa"])

    def save(self, path: Path) -> None:
        """Write one .npz file, atomically: it is either whole or absent."""
        meta = {k: getattr(self, k) for k in self.__dataclass_fields__ if k != "spectra"}
        arrays: dict[str, Any] = {"meta": np.array(json.dumps(meta))}
        for level, spectrum in self.spectra.items():
            arrays[f"{level}_energy_ev"] = spectrum.energy_ev.astype(np.float64)
            arrays[f"{level}_eps"] = spectrum.eps.astype(np.complex64)
        part = path.with_name(path.name + ".part")
        with part.open("wb") as f:
            np.savez_compressed(f, **arrays)
            f.flush()
            os.fsync(f.fileno())
        part.replace(path)

    @classmethod
    def load(cls, path: Path) -> Calculation:
        """Read what :meth:`save` wrote."""
        with np.load(path, allow_pickle=False) as z:
            levels = [k.removesuffix("_eps") for k in z.files if k.endswith("_eps")]
            spectra = {level: Spectrum(z[f"{level}_energy_ev"], z[f"{level}_eps"]) for level in levels}
            return cls(spectra=spectra, **json.loads(str(z["meta"])))


class Engine(Protocol):
    """A program that computes dielectric functions."""

    name: str
    cost_log_sd: float
    """Standard deviation of log(measured / estimated) cost."""

    @property
    def settings(self) -> dict[str, Any]:
        """Plain JSON-able settings, units in the key names; ``name`` is the preset's."""

    @property
    def label_engine(self) -> str:
        """What its results carry as ``engine``: its name, or for replayed labels that of the engine behind them."""

    @property
    def settings_hash(self) -> str: ...

    def check(self, structure: Structure) -> None:
        """Refuse before any cost what cannot be computed (`MissingDataset`, `OddElectrons`, `ProgramMissing`)."""

    def estimate_cpu_h(self, structure: Structure, level: str = "rpa") -> float:
        """Expected CPU-hours: of IPA and RPA together, or for ``level="ipa"`` of IPA alone."""

    def compute(
        self, material_id: str, structure: Structure, levels: Sequence[str], workdir: Path, time_limit_s: float | None
    ) -> Calculation:
        """Compute, or raise an `EngineError`; ``time_limit_s`` is wall seconds."""

    def collect(self, workdir: Path) -> Calculation | None:
        """A result finished in ``workdir`` but never read, because whoever waited for it died; or None."""
