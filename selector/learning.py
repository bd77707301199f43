"""When the predictor learns from a campaign's own labels, and from which."""

from __future__ import annotations

from selector.candidates import Candidate
from selector.protocols import ModelShelf, Predictor
from selector.store import Document, Store

MIN_OWN_LABELS = 20
"""With weights of another settings hash, learning starts anew from this many labels of the campaign's own."""


def due(store: Store, settings_hash: str, every: int) -> str | None:
    """The key of the fine-tuning job to send out, once ``every`` labels have come since the standing model."""
    model, n_labels = store.model(), len(store.labels(settings_hash))
    if n_labels - model["n_new_labels"] < every or not _one_kind(model, settings_hash, n_labels):
        return None
    key = f"{store.name}:{model['model_id']}:{n_labels}"
    return None if key in store.campaign()["learning_failed"] else key


def learn(store: Store, shelf: ModelShelf, settings_hash: str, key: str) -> str | None:
    """Fine-tune on all the campaign's labels; the new model's id, or None if ``key`` is no longer wanted."""
    if store.campaign()["learning"] != key:
        return None
    standing, labels = store.model(), store.labels(settings_hash)
    structures = [Candidate.from_dict(store.candidate(label["material_id"])).structure for label in labels]
    sc = [label["sc"] for label in labels]
    if standing["settings_hash"] == settings_hash:
        # Always from the weights the campaign began with, on all its labels: the order of arrival leaves no trace.
        predictor: Predictor = shelf.load(store.models()[0]["file"]).fine_tune(structures, sc)
    else:
        predictor = shelf.train(structures, sc, labels[0]["engine"], settings_hash)
    store.add_model(
        predictor.model_id,
        round=standing["round"] + 1,
        parent=standing["model_id"],
        file=shelf.save(predictor),
        settings_hash=settings_hash,
        n_new_labels=len(labels),
        metrics=predictor.card.get("metrics", {}),
    )
    store.end_learning(key)
    store.event("learned", f"model {predictor.model_id} from {len(labels)} new labels")
    return predictor.model_id


def _one_kind(model: Document, settings_hash: str, n_labels: int) -> bool:
    """Labels of two settings hashes are never mixed: with foreign weights, learning starts anew, and later."""
    return model["settings_hash"] == settings_hash or n_labels >= MIN_OWN_LABELS
