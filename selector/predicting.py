"""What the standing models say of the pending candidates, calibrated as things stand.

A candidate whose IPA spectrum is at hand is predicted from structure and spectrum, any other from its structure. The
latent vector of either is that of the model that reads structures alone: likeness is measured in one space.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from selector import predictions, recalibration
from selector.candidates import Candidate
from selector.documents import Document
from selector.protocols import ModelShelf, Predictor
from selector.recalibration import Calibration
from selector.store import Store


def predict(store: Store, shelf: ModelShelf, threshold: float) -> None:
    """Predict every pending candidate whose prediction is not its standing model's, or otherwise calibrated."""
    lines = store.lines()
    structure = _Line.standing(store, shelf)
    with_ipa = _Line.standing(store, shelf, structure) if True in lines else structure
    for stale in store.unpredicted(structure.stamp, with_ipa.stamp):
        store.renew()
        for line, has_ipa in ((structure, False), (with_ipa, True)):
            share = [c for c in stale if bool(c.get("ipa")) == has_ipa]
            if share:
                store.set_predictions(line.predict(store, share, threshold, about_lines=len(lines) > 1))


@dataclass(frozen=True)
class _Line:
    """A line's standing model; ``latent`` is the line that says where a crystal lies, if that is another."""

    shelf: ModelShelf
    model: Document
    calibrated: Calibration
    latent: _Line | None = None

    @classmethod
    def standing(cls, store: Store, shelf: ModelShelf, latent: _Line | None = None) -> _Line:
        reads_ipa = latent is not None
        calibrated = recalibration.standing(store, reads_ipa)
        if store.note_calibration(calibrated.state, reads_ipa):
            which = "with IPA spectra, " if reads_ipa else ""
            store.event("calibration", which + calibrated.message)
        return cls(shelf, store.model(reads_ipa), calibrated, latent)

    @property
    def stamp(self) -> str:
        """Names all that a prediction hangs on."""
        own = f"{self.model['model_id']} {self.calibrated.state}"
        return own if self.latent is None else f"{own} {self.latent.model['model_id']}"

    @cached_property
    def predictor(self) -> Predictor:
        return self.shelf.load(self.model["file"])

    def predict(
        self, store: Store, candidates: Sequence[Document], threshold: float, about_lines: bool
    ) -> dict[str, Document]:
        """A prediction for each of the candidates, by material_id."""
        structures = [Candidate.from_dict(c).structure for c in candidates]
        if self.latent is None:
            p = self.predictor.predict(structures)
            latent = p.latent
        else:
            p = self.predictor.predict(structures, store.ipa_spectra([c["material_id"] for c in candidates]))
            latent = self.latent.predictor.predict(structures).latent
        said = predictions.to_documents(
            p.mean, p.spread, latent, self.calibrated.scores(self.predictor.scores), threshold
        )
        about = {
            "model_id": self.model["model_id"],
            "model_round": self.model["round"],
            "calibration": self.calibrated.state,
            "stamp": self.stamp,
        }
        if about_lines:
            about |= {
                "reads_ipa": self.latent is not None,
                "latent_model_id": (self.latent or self).model["model_id"],
            }
        return {
            c["material_id"]: {**prediction, "out_of_domain": bool(outside), **about}
            for c, prediction, outside in zip(candidates, said, p.out_of_domain, strict=True)
        }
