"""Where a campaign's models lie: one checkpoint each, in the campaign's folder."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pymatgen.core import Structure

from models import checkpoints
from models.sc_predictor import SCPredictor
from selector.spectra import Spectrum


class Shelf:
    """`selector.protocols.ModelShelf` in a folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def adopt(self, checkpoint: Path | None, reads_ipa: bool = False) -> tuple[SCPredictor, str]:
        """Copy the weights a line of models starts from (default: those that ship) into the campaign's folder."""
        name = checkpoints.SPECTRUM_PREDICTOR_NAME if reads_ipa else checkpoints.DEFAULT_NAME
        kinds = (checkpoints.SPECTRUM_PREDICTOR_KIND,) if reads_ipa else checkpoints.SC_KINDS
        predictor = checkpoints.load(checkpoint or checkpoints.shipped(name), kinds)
        return predictor, self.save(predictor)

    def load(self, file: str) -> SCPredictor:
        return checkpoints.load(self._folder / file, (*checkpoints.SC_KINDS, checkpoints.SPECTRUM_PREDICTOR_KIND))

    def save(self, predictor: SCPredictor) -> str:
        """The file's name in the folder."""
        self._folder.mkdir(parents=True, exist_ok=True)
        checkpoints.save(predictor, self._folder / predictor.model_id)
        return f"{predictor.model_id}.safetensors"

    def train(
        self,
        structures: Sequence[Structure],
        sc: Sequence[float],
        engine: str,
        settings_hash: str,
        *,
        spectra: Sequence[Spectrum] | None = None,
    ) -> SCPredictor:
        """A predictor of the campaign's own, from its labels alone."""
        return SCPredictor.fit(structures, sc, engine=engine, settings_hash=settings_hash, spectra=spectra)
