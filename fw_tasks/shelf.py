"""Where a campaign's models lie: one checkpoint each, in the campaign's folder."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pymatgen.core import Structure

from models import checkpoints
from models.sc_predictor import SCPredictor


class Shelf:
    """`selector.protocols.ModelShelf` in a folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def adopt(self, checkpoint: Path | None) -> tuple[SCPredictor, str]:
        """Copy the weights a campaign starts from (default: those that ship) into its folder."""
        predictor = checkpoints.load(checkpoint or checkpoints.default_checkpoint())
        return predictor, self.save(predictor)

    def load(self, file: str) -> SCPredictor:
        return checkpoints.load(self._folder / file)

    def save(self, predictor: SCPredictor) -> str:
        """The file's name in the folder."""
        self._folder.mkdir(parents=True, exist_ok=True)
        checkpoints.save(predictor, self._folder / predictor.model_id)
        return f"{predictor.model_id}.safetensors"

    def train(
        self, structures: Sequence[Structure], sc: Sequence[float], engine: str, settings_hash: str
    ) -> SCPredictor:
        """A predictor of the campaign's own, from its labels alone."""
        return SCPredictor.fit(structures, sc, engine=engine, settings_hash=settings_hash)
