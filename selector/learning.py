"""When the predictor learns from a campaign's own labels, from which, and whether what it learned is used."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Sequence

import numpy as np

from selector import gate
from selector.candidates import Candidate
from selector.errors import SelectorError
from selector.gate import Array, Verdict
from selector.protocols import ModelShelf, Predictor
from selector.store import Document, Store

MIN_OWN_LABELS = 20
"""With weights of another kind of label, learning starts anew from this many labels of the campaign's own."""


def due(store: Store, settings_hash: str, every: int) -> str | None:
    """The key of the fine-tuning job to send out, once ``every`` labels have come since the last, used or not."""
    n_labels = store.n_labels(settings_hash)
    learned = max((m["n_new_labels"] for m in store.models(accepted=None)), default=0)
    if n_labels - learned < every or (n_labels < MIN_OWN_LABELS and _foreign(store)):
        return None
    campaign = store.campaign()
    key = f"{store.name}:{campaign['model_id']}:{n_labels}"
    return None if key in campaign["learning_failed"] else key


def learn(store: Store, shelf: ModelShelf, settings_hash: str, key: str) -> str | None:
    """Fine-tune on all the campaign's labels, judge, book; the model's id, or None if ``key`` is no longer wanted.

    Always from the weights the campaign began with, on all its labels: the order of arrival leaves no trace. A model
    that the gate refuses is kept on record, and the standing one goes on. The CPU time is booked, whatever comes of it.
    """
    if store.campaign()["learning"] != key:
        return None
    started = time.process_time()
    try:
        return _learn(store, shelf, settings_hash, key)
    finally:
        cpu_h = (time.process_time() - started) / 3600
        store.ledger.book("learn-" + hashlib.sha256(key.encode()).hexdigest()[:24], cpu_h, "learn")


def _learn(store: Store, shelf: ModelShelf, settings_hash: str, key: str) -> str:
    standing, labels = store.model(), store.labels(settings_hash)
    candidates = [Candidate.from_dict(store.candidate(label["material_id"])) for label in labels]
    predictor = _train(store, shelf, candidates, labels)
    held_out = _held_out(predictor, len(labels))
    verdict = _judge(store, shelf, standing, candidates, labels, held_out)
    file = shelf.save(predictor)
    store.add_model(
        predictor.model_id,
        accepted=verdict.accepted,
        round=standing["round"] + 1,
        parent=standing["model_id"],
        file=file,
        engine=labels[0]["engine"],
        settings_hash=settings_hash,
        n_new_labels=len(labels),
        metrics=predictor.card.get("metrics", {}),
        held_out=[[c.material_id, float(x)] for c, x in zip(candidates, held_out, strict=True)],
        gate=verdict.summary(),
    )
    store.end_learning(key)
    word = "learned" if verdict.accepted else "refused"
    store.event(word, f"model {predictor.model_id} from {len(labels)} new labels; {verdict.message}")
    return predictor.model_id


def _train(store: Store, shelf: ModelShelf, candidates: Sequence[Candidate], labels: Sequence[Document]) -> Predictor:
    structures, sc = [c.structure for c in candidates], [label["sc"] for label in labels]
    if _foreign(store):
        return shelf.train(structures, sc, labels[0]["engine"], labels[0]["settings_hash"])
    tuned: Predictor = shelf.load(store.models()[0]["file"]).fine_tune(structures, sc)
    return tuned


def _held_out(predictor: Predictor, n: int) -> Array:
    """What models like this one say of its last ``n`` labels, each having learned of other formulas alone."""
    said = predictor.held_out
    if said is None or len(said) < n or not np.isfinite(said[-n:]).all():
        raise SelectorError(
            f"model {predictor.model_id}: it does not tell what it predicts of held-out labels, or no finite number; "
            "it can't be judged"
        )
    return said[-n:]


def _judge(
    store: Store,
    shelf: ModelShelf,
    standing: Document,
    candidates: Sequence[Candidate],
    labels: Sequence[Document],
    held_out: Array,
) -> Verdict:
    """The new model against the standing one, on every label that both can be asked honestly.

    What the standing model says of labels that it learned from was held out when it was made; labels that came since
    it has not seen, so it is asked itself. Left out of these are those of a formula that it has learned from, be it
    here or before the campaign.
    """
    known: dict[str, float] = dict(standing.get("held_out", []))
    model = shelf.load(standing["file"])
    learned = {c.formula for c in candidates if c.material_id in known}
    learned |= set(model.card.get("data", {}).get("formulas", []))
    use = [i for i, c in enumerate(candidates) if c.material_id in known or c.formula not in learned]
    own = model.predict([candidates[i].structure for i in use]).mean if use else np.empty(0)
    old = [known.get(candidates[i].material_id, float(said)) for i, said in zip(use, own, strict=True)]
    weights = gate.pool_weights(store.predicted_means(), [labels[i]["prediction"]["sc_mean"] for i in use])
    sc, formulas = [labels[i]["sc"] for i in use], [candidates[i].formula for i in use]
    return gate.judge(sc, old, held_out[use], weights, formulas)


def _foreign(store: Store) -> bool:
    """Labels of two kinds are never mixed: where the first weights know another kind, every learning starts anew."""
    weights, own = store.label_kinds()
    return weights != own
