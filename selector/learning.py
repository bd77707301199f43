"""When the predictor learns from a campaign's own labels, from which, and whether what it learned is used."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from pymatgen.core import Structure

from selector import gate
from selector.candidates import Candidate
from selector.documents import Document
from selector.errors import SelectorError
from selector.gate import Array, Verdict
from selector.protocols import ModelShelf, Predictor
from selector.spectra import Spectrum
from selector.store import Store

MIN_OWN_LABELS = 20
"""With weights of another kind of label, learning starts anew from this many labels of the campaign's own."""


def due(store: Store, settings_hash: str, every: int) -> str | None:
    """The key of the fine-tuning job to send out, once ``every`` labels have come since the last, used or not.

    One job teaches all the campaign's lines of models; the one that reads structures alone says when.
    """
    n_labels = store.n_labels(settings_hash)
    learned = max((m["n_new_labels"] for m in store.model_history()), default=0)
    if n_labels - learned < every or (n_labels < MIN_OWN_LABELS and _foreign(store)):
        return None
    campaign = store.campaign()
    key = f"{store.name}:{campaign['model_id']}:{n_labels}"
    return None if key in campaign["learning_failed"] else key


def learn(store: Store, shelf: ModelShelf, settings_hash: str, key: str) -> str | None:
    """Fine-tune on all the campaign's labels, judge, book; the model's id, or None if ``key`` is no longer wanted.

    Always from the weights the campaign began with, on all its labels: the order of arrival leaves no trace. A model
    that the gate refuses is kept on record, and the standing one goes on. Where the campaign has a line of models that
    read IPA spectra too, that one learns beside the first, through a gate of its own. The CPU time is booked, whatever
    comes of it.
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
    labels = store.labels(settings_hash)
    material_ids = [label["material_id"] for label in labels]
    by_id = {c["material_id"]: Candidate.from_dict(c) for c in store.whole(material_ids)}
    candidates = [by_id[material_id] for material_id in material_ids]
    model_ids = []
    for reads_ipa in store.lines():
        if not reads_ipa or len(labels) >= MIN_OWN_LABELS or not _foreign(store, reads_ipa):
            model_ids.append(_learn_line(store, shelf, candidates, labels, reads_ipa))
    store.end_learning(key)
    return model_ids[0]


def _learn_line(
    store: Store, shelf: ModelShelf, candidates: Sequence[Candidate], labels: Sequence[Document], reads_ipa: bool
) -> str:
    standing = store.model(reads_ipa)
    known = Known(
        [c.structure for c in candidates],
        store.ipa_spectra([c.material_id for c in candidates]) if reads_ipa else None,
    )
    predictor = _train(store, shelf, known, labels)
    held_out = _held_out(predictor, len(labels))
    verdict = _judge(store, shelf, standing, known, candidates, labels, held_out)
    file = shelf.save(predictor)
    store.add_model(
        predictor.model_id,
        accepted=verdict.accepted,
        round=standing["round"] + 1,
        parent=standing["model_id"],
        file=file,
        engine=labels[0]["engine"],
        settings_hash=labels[0]["settings_hash"],
        n_new_labels=len(labels),
        metrics=predictor.card.get("metrics", {}),
        held_out=[[c.material_id, float(x)] for c, x in zip(candidates, held_out, strict=True)],
        gate=verdict.summary(),
        **({"reads_ipa": True} if reads_ipa else {}),
    )
    word, reads = "learned" if verdict.accepted else "refused", " (reads IPA spectra)" if reads_ipa else ""
    store.event(word, f"model {predictor.model_id}{reads} from {len(labels)} new labels; {verdict.message}")
    return predictor.model_id


@dataclass(frozen=True)
class Known:
    """n crystals with labels, and their IPA spectra for a line of models that reads them."""

    structures: Sequence[Structure]
    spectra: Sequence[Spectrum] | None

    @property
    def beside(self) -> dict[str, Any]:
        """What a model is given beside structures."""
        return {} if self.spectra is None else {"spectra": self.spectra}

    def take(self, indices: Sequence[int]) -> Known:
        spectra = None if self.spectra is None else [self.spectra[i] for i in indices]
        return Known([self.structures[i] for i in indices], spectra)


def _train(store: Store, shelf: ModelShelf, known: Known, labels: Sequence[Document]) -> Predictor:
    sc, reads_ipa = [label["sc"] for label in labels], known.spectra is not None
    if _foreign(store, reads_ipa):
        kind = labels[0]["engine"], labels[0]["settings_hash"]
        return shelf.train(known.structures, sc, *kind, **known.beside)
    first = shelf.load(store.first_model(reads_ipa)["file"])
    tuned: Predictor = first.fine_tune(known.structures, sc, **known.beside)
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
    known: Known,
    candidates: Sequence[Candidate],
    labels: Sequence[Document],
    held_out: Array,
) -> Verdict:
    """The new model against the standing one, on every label that both can be asked honestly.

    What the standing model says of labels that it learned from was held out when it was made; labels that came since
    it has not seen, so it is asked itself. Left out of these are those of a formula that it has learned from, be it
    here or before the campaign.
    """
    said_held_out: dict[str, float] = dict(standing.get("held_out", []))
    model = shelf.load(standing["file"])
    learned = {c.formula for c in candidates if c.material_id in said_held_out}
    learned |= set(model.card.get("data", {}).get("formulas", []))
    use = [i for i, c in enumerate(candidates) if c.material_id in said_held_out or c.formula not in learned]
    asked = known.take(use)
    own = model.predict(asked.structures, **asked.beside).mean if use else np.empty(0)
    old = [said_held_out.get(candidates[i].material_id, float(said)) for i, said in zip(use, own, strict=True)]
    weights = gate.pool_weights(store.predicted_means(), [labels[i]["prediction"]["sc_mean"] for i in use])
    sc, formulas = [labels[i]["sc"] for i in use], [candidates[i].formula for i in use]
    return gate.judge(sc, old, held_out[use], weights, formulas)


def _foreign(store: Store, reads_ipa: bool = False) -> bool:
    """Labels of two kinds are never mixed: where the first weights know another kind, every learning starts anew."""
    weights, own = store.label_kinds(reads_ipa)
    return weights != own
