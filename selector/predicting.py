"""What the standing model says of the pending candidates, calibrated as things stand."""

from __future__ import annotations

from selector import predictions, recalibration
from selector.candidates import Candidate
from selector.protocols import ModelShelf
from selector.store import Store


def predict(store: Store, shelf: ModelShelf, threshold: float) -> None:
    """Predict every pending candidate whose prediction is not the standing model's, or otherwise calibrated."""
    model, calibrated = store.model(), recalibration.standing(store)
    if store.note_calibration(calibrated.state):
        store.event("calibration", calibrated.message)
    stamp, predictor = f"{model['model_id']} {calibrated.state}", None
    for stale in store.unpredicted(stamp):
        store.renew()
        predictor = predictor or shelf.load(model["file"])
        p = predictor.predict([Candidate.from_dict(c).structure for c in stale])
        said = predictions.to_documents(p.mean, p.spread, p.latent, calibrated.scores(predictor.scores), threshold)
        about = {
            "model_id": model["model_id"],
            "model_round": model["round"],
            "calibration": calibrated.state,
            "stamp": stamp,
        }
        store.set_predictions(
            {
                c["material_id"]: {**prediction, "out_of_domain": bool(outside), **about}
                for c, prediction, outside in zip(stale, said, p.out_of_domain, strict=True)
            }
        )
