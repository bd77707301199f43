"""Learning from nothing: a predictor that says the prior until it has labels, and a shelf in memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pymatgen.core import Structure

from models.labels import reduced_formula
from models.sc_predictor import MIN_FORMULAS, Prediction, SCPredictor
from selector.errors import SelectorError
from selector.predictions import PRIOR_SC, PRIOR_SPREAD
from selector.protocols import Predictor
from selector.spectra import Spectrum

Array = NDArray[np.float64]


class MemoryShelf:
    """`selector.protocols.ModelShelf` in memory."""

    def __init__(self) -> None:
        self._models: dict[str, Predictor] = {}

    def load(self, file: str) -> Predictor:
        return self._models[file]

    def save(self, predictor: Predictor) -> str:
        self._models[predictor.model_id] = predictor
        return predictor.model_id

    def train(
        self,
        structures: Sequence[Structure],
        sc: Sequence[float],
        engine: str,
        settings_hash: str,
        *,
        spectra: Sequence[Spectrum] | None = None,
    ) -> Predictor:
        return Prior(engine, settings_hash, spectra is not None).fine_tune(structures, sc, spectra=spectra)


@dataclass(frozen=True)
class Prior:
    """`selector.protocols.Predictor` where there are no weights: it says the documented prior of every crystal.

    With labels of enough formulas it becomes an `SCPredictor` that has learned from these alone; with fewer it keeps
    them for later.

    Attributes
    ----------
    engine, settings_hash : of the labels
    reads_ipa : whether what it becomes reads IPA spectra beside structures
    learns : False: it stays what it is, for policies that read no prediction
    structures, sc, spectra : n crystals, their SC and, where it reads them, IPA spectra, known so far
    """

    engine: str
    settings_hash: str
    reads_ipa: bool = False
    learns: bool = True
    structures: tuple[Structure, ...] = ()
    sc: tuple[float, ...] = ()
    spectra: tuple[Spectrum, ...] = ()

    @property
    def model_id(self) -> str:
        return f"prior-{'ipa-' if self.reads_ipa else ''}{len(self.sc)}"

    @property
    def scores(self) -> Array:
        return np.empty(0)

    @property
    def held_out(self) -> Array:
        return np.full(len(self.sc), PRIOR_SC)

    @property
    def card(self) -> dict[str, Any]:
        return {"metrics": {}}

    def predict(self, structures: Sequence[Structure], spectra: Sequence[Spectrum] | None = None) -> Prediction:
        n = len(structures)
        return Prediction(np.full(n, PRIOR_SC), np.full(n, PRIOR_SPREAD), np.empty((n, 0)), np.zeros(n, dtype=bool))

    def fine_tune(
        self, structures: Sequence[Structure], sc: Sequence[float], *, spectra: Sequence[Spectrum] | None = None
    ) -> Predictor:
        if (spectra is not None) != self.reads_ipa:
            raise SelectorError(f"the prior reads {'IPA spectra too' if self.reads_ipa else 'no IPA spectra'}")
        crystals, values, seen = (*self.structures, *structures), (*self.sc, *sc), (*self.spectra, *(spectra or ()))
        if self.learns and len({reduced_formula(s) for s in crystals}) >= MIN_FORMULAS:
            beside = seen if self.reads_ipa else None
            return SCPredictor.fit(
                crystals, values, engine=self.engine, settings_hash=self.settings_hash, spectra=beside
            )
        return replace(self, structures=crystals, sc=values, spectra=seen)
