"""The campaign's memory: with `selector.records`, the only module that knows MongoDB collections and queries.

Uses only what MongoDB documents: each method is one or a few atomic single-document operations, and every write that
matters is conditional on the state it expects, so that any number of processes may call them at once. `Store.under`
gives the store in which a step writes: there, every write is conditional on the step's lease too (`selector.lease`).
"""

from __future__ import annotations

import copy
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from pymongo import UpdateOne
from pymongo.database import Database
from pymongo.errors import DuplicateKeyError

from selector.candidates import Candidate, Rejection
from selector.documents import Document, chunks, now, of_line, pack, packed
from selector.errors import UsageError
from selector.indexes import ensure_indexes
from selector.lease import Lease, Writes
from selector.ledger import Ledger
from selector.records import Records
from selector.spectra import Spectrum


class Store(Records):
    """One campaign in one database."""

    def __init__(self, db: Database[Any], campaign: str) -> None:
        super().__init__(db, campaign)
        self.ledger = Ledger(db, campaign)
        self.lease = Lease(db, campaign)
        self._epoch: int | None = None

    # -- the step's writes ---------------------------------------------------------------------------------------------

    def under(self, epoch: int) -> Store:
        """The same store, whose writes to the campaign and its candidates need the lease of that epoch."""
        fenced = copy.copy(self)
        fenced._epoch = epoch
        return fenced

    @property
    def epoch(self) -> int:
        """The epoch of the lease under which this store writes; 0 without one."""
        return self._epoch or 0

    def renew(self) -> None:
        """Hold the lease for another while; `LeaseLost` if another process has it. Without a lease, nothing."""
        if self._epoch is not None:
            self.lease.renew(self._epoch)

    def announce(self, writes: Writes) -> None:
        """Tell which candidates are written next; `LeaseLost` if another process has the lease."""
        if self._epoch is not None:
            self.lease.announce(self._epoch, writes)

    def inherit(self) -> None:
        """Shut out whoever held the lease before: what it was about to write gets this step's epoch."""
        writes = self.lease.inherited()
        if writes:
            which = {"status": "pending"} if writes == "all" else {"_id": {"$in": [self._id(m) for m in writes]}}
            query = {"campaign": self.name, **which, **self._unpassed()}
            self._candidates.update_many(query, {"$set": {"epoch": self._epoch}})
            self.announce([])

    def _unpassed(self) -> Document:
        """The condition on a candidate that no later step has written it."""
        return {} if self._epoch is None else {"epoch": {"$not": {"$gt": self._epoch}}}

    def _change(self, update: Document, **query: Any) -> bool:
        """Change the campaign's document where ``query`` holds, and the lease if one is needed."""
        held = {} if self._epoch is None else {"lease.epoch": self._epoch}
        return self._campaigns.update_one({"_id": self.name, **held, **query}, update).matched_count == 1

    # -- the campaign --------------------------------------------------------------------------------------------------

    def create(self, config: Document, budget_cpu_h: float, engine: str, settings_hash: str, **account: Any) -> None:
        """Write a new campaign, whose labels are of that kind; `UsageError` if its name is taken.

        ``account``: what `Ledger.opening` takes beside the budget.
        """
        self.create_indexes()
        document: Document = {
            "_id": self.name,
            "config": config,
            "engine": engine,
            "settings_hash": settings_hash,
            "state": "running",
            "stop_reason": None,
            "model_id": None,
            "learning": None,
            "learning_failed": [],
            "looks": [],
            "n_dispatched": 0,
            "calibration": "held_out",
            "step_requested": False,
            "lease": Lease.opening(),
            "ledger": Ledger.opening(budget_cpu_h, **account),
            "created": now(),
        }
        try:
            self._campaigns.insert_one(document)
        except DuplicateKeyError:
            raise UsageError(f"campaign '{self.name}' exists already in this database; choose another name") from None

    def create_indexes(self) -> None:
        """An index for every query of a step and of ``status``."""
        of_candidates = (
            ("status", "material_id"),
            ("material_id",),
            ("status", "prediction.stamp"),
            ("used_cpu_h",),
            ("used_ipa_cpu_h",),
            ("awaited",),
            ("look", "status"),
        )
        wanted = {
            self._candidates: of_candidates,
            self._models: ((),),
            self._spectra: (("material_id", "level"),),
            self.db["ledger"]: (("state",), ("settled_at",)),
            self._labels: (("settings_hash", "random_draw"),),
            self._events: (("time",), ("material_id",)),
        }
        for collection, indexes in wanted.items():
            ensure_indexes(collection, [("campaign", *fields) for fields in indexes])

    def set_state(self, state: str, reason: str | None, before: Sequence[str] | None = None, **fields: Any) -> bool:
        """Change the campaign's state if it is one of ``before``, whatever it is if None; whether this call did it."""
        query = {} if before is None else {"state": {"$in": list(before)}}
        return self._change({"$set": {"state": state, "stop_reason": reason, **fields}}, **query)

    def set_config(self, **values: Any) -> None:
        """Change what may change of the configuration in mid-campaign."""
        self._change({"$set": {f"config.{key}": value for key, value in values.items()}})

    def note_given(self, values: Document) -> None:
        """Note what the campaign's file said of it when it was read last."""
        self._change({"$set": {"given": values}})

    def set_audit(self, audit: Document) -> bool:
        """Note what the closing audit is at."""
        return self._change({"$set": {"audit": audit}})

    def may_dispatch(self, material_ids: Sequence[str]) -> bool:
        """Announce and count dispatches, unless the campaign was told to stop meanwhile."""
        self.announce(material_ids)
        return self._change({"$inc": {"n_dispatched": len(material_ids)}}, state={"$in": ["running", "auditing"]})

    def add_look(self, look: Document) -> bool:
        """Note a look that was drawn: its error is spent from now on."""
        return self._change({"$push": {"looks": look}})

    def end_look(self, mark: str, bound: Document) -> bool:
        """Note what a look found, unless that was done before; whether this call did it."""
        place = {"looks": {"$elemMatch": {"mark": mark, "bound": None}}}
        return self._change({"$set": {"looks.$.bound": bound}}, **place)

    def note_calibration(self, state: str, reads_ipa: bool = False) -> bool:
        """Note what the intervals of a line of models rest on; whether that is new."""
        field = of_line("calibration", reads_ipa)
        return self._change({"$set": {field: state}}, **{field: {"$ne": state}})

    def begin_learning(self, key: str) -> bool:
        """Note that the learning job ``key`` is out; False if another one is."""
        return self._change({"$set": {"learning": key}}, learning=None)

    def end_learning(self, key: str) -> None:
        self._change({"$set": {"learning": None}}, learning=key)

    def fail_learning(self, key: str) -> bool:
        """Note that the job ``key`` ended without a model and is not to be repeated; whether this call did it."""
        return self._change({"$set": {"learning": None}, "$addToSet": {"learning_failed": key}}, learning=key)

    def request_step(self) -> None:
        """Ask the process that holds the lease for another round."""
        self._campaigns.update_one({"_id": self.name}, {"$set": {"step_requested": True}})

    def clear_request(self) -> None:
        self._campaigns.update_one({"_id": self.name}, {"$set": {"step_requested": False}})

    # -- candidates ----------------------------------------------------------------------------------------------------

    def add_candidates(
        self,
        candidates: Iterable[Candidate],
        estimates_cpu_h: Iterable[float],
        more: Mapping[str, Document] | None = None,
    ) -> None:
        """Take crystals into the pool, with ``more`` fields by material_id; those that are there stay as they are."""
        more = more or {}
        documents = (
            {
                "_id": self._id(candidate.material_id),
                "campaign": self.name,
                "status": "pending",
                "attempts": 0,
                "estimate_cpu_h": estimate,
                "added": now(),
                **more.get(candidate.material_id, {}),
                **packed(candidate.to_dict()),
            }
            for candidate, estimate in zip(candidates, estimates_cpu_h, strict=True)
        )
        for batch in chunks(documents):
            updates = [UpdateOne({"_id": d["_id"]}, {"$setOnInsert": d}, upsert=True) for d in batch]
            self._candidates.bulk_write(updates, ordered=False)

    def add_rejections(self, rejections: Iterable[Rejection]) -> None:
        """A rejected input never replaces a candidate of the same name."""
        for r in rejections:
            document = {
                "_id": self._id(r.material_id),
                "campaign": self.name,
                "material_id": r.material_id,
                "source": str(r.source),
                "status": "rejected",
                "reason": r.reason,
                "message": r.message,
                "added": now(),
            }
            before = self._candidates.find_one({"_id": document["_id"]}, {"status": 1})
            if before is not None and before["status"] != "rejected":
                document["_id"] += f":{r.source}"
            self._candidates.replace_one({"_id": document["_id"]}, document, upsert=True)

    def move(
        self,
        material_id: str,
        before: Sequence[str],
        after: str,
        key: str | None = None,
        *,
        push: Mapping[str, Any] | None = None,
        also: Mapping[str, Any] | None = None,
        unset: Sequence[str] = (),
        **fields: Any,
    ) -> bool:
        """Change a candidate's status if it is one of ``before`` and its attempt ``key``; whether this call did it.

        ``push`` appends to its arrays; ``also``: further conditions; ``unset``: fields to be removed.
        """
        query: Document = {"_id": self._id(material_id), "status": {"$in": list(before)}, **self._unpassed()}
        query |= also or {}
        if key is not None:
            query["decision.key"] = key
        stamp = {} if self._epoch is None else {"epoch": self._epoch}
        update: Document = {"$set": {"status": after, "updated": now(), **stamp, **fields}}
        if push:
            update["$push"] = dict(push)
        if unset:
            update["$unset"] = dict.fromkeys(unset, "")
        return self._candidates.update_one(query, update).modified_count == 1

    def mark_look(self, mark: str) -> list[str]:
        """Mark every candidate without a result, pending or in flight, for a look; their ids."""
        query = {**self._without_result(), **self._unpassed()}
        self._candidates.update_many(query, {"$set": {"look": mark}})
        found = self._candidates.find({**self._without_result(), "look": mark}, {"_id": 0, "material_id": 1})
        return [c["material_id"] for c in found]

    def mark(self, material_id: str, before: Sequence[str], **fields: Any) -> bool:
        """Change fields of a candidate in one of these states; whether it was in one."""
        query = {"_id": self._id(material_id), "status": {"$in": list(before)}}
        return self._candidates.update_one(query, {"$set": fields}).matched_count == 1

    def raise_attempts(self, material_id: str, attempt: int) -> None:
        """Note that there has been an attempt of this number: it is not made again."""
        self._candidates.update_one({"_id": self._id(material_id)}, {"$max": {"attempts": attempt}})

    def set_strays(self, material_id: str, before: Sequence[Document], after: Sequence[Document]) -> None:
        """Replace the attempts that are awaited beside the present one, unless they changed meanwhile."""
        query = {"_id": self._id(material_id), "strays": list(before)}
        self._candidates.update_one(query, {"$set": {"strays": list(after), "awaited": bool(after)}})

    def set_predictions(self, predictions: Mapping[str, Document]) -> None:
        """Store a prediction per material_id; what is decided, or predicted by a later model, keeps its own.

        What has its IPA spectrum meanwhile is not said anything of by a model that reads none.
        """
        updates = []
        for material_id, said in predictions.items():
            not_later: Document = {"prediction.model_round": {"$not": {"$gt": said["model_round"]}}}
            if (reads_ipa := said.get("reads_ipa")) is not None:
                another_line = {"prediction.reads_ipa": {"$ne": reads_ipa}}
                not_later = {"ipa": {"$exists": reads_ipa}, "$or": [another_line, not_later]}
            query = {"_id": self._id(material_id), "status": "pending", **not_later, **self._unpassed()}
            updates.append(UpdateOne(query, {"$set": {"prediction": said}}))
        if updates:
            self._candidates.bulk_write(updates, ordered=False)

    def skip(self, decisions: Mapping[str, Document]) -> None:
        """Leave pending candidates at IPA, each with its decision; an earlier one goes to its history."""
        stamp = {} if self._epoch is None else {"epoch": self._epoch}
        query = {"campaign": self.name, "status": "pending", "decision": {"$exists": True}}
        earlier = {c["_id"]: c["decision"] for c in self._candidates.find(query, {"decision": 1})}
        for batch in chunks(decisions.items()):
            self.renew()
            updates = []
            for material_id, decision in batch:
                _id = self._id(material_id)
                push = {"$push": {"history": earlier[_id]}} if _id in earlier else {}
                fields = {"status": "skipped", "updated": now(), "decision": decision, **stamp}
                updates.append(
                    UpdateOne({"_id": _id, "status": "pending", **self._unpassed()}, {"$set": fields, **push})
                )
            self._candidates.bulk_write(updates, ordered=False)

    def reopen(self) -> None:
        """Give every skipped candidate back to the pool; its decision stands until the next one."""
        query = {"campaign": self.name, "status": "skipped"}
        self._candidates.update_many(query, {"$set": {"status": "pending", "updated": now()}})

    # -- results, models and events ------------------------------------------------------------------------------------

    def save_spectrum(self, material_id: str, level: str, spectrum: Spectrum, key: str, **about: Any) -> None:
        """Write a spectrum under ``key``, unless one is there."""
        _id = f"{self.name}:{material_id}:{level}:{key}"
        document = {
            **{"_id": _id, "campaign": self.name, "material_id": material_id, "level": level},
            **about,
            "energy_ev": pack(spectrum.energy_ev.astype(np.float32)),
            "eps": pack(spectrum.eps.astype(np.complex64)),
            "recorded": now(),
        }
        self._spectra.update_one({"_id": _id}, {"$setOnInsert": document}, upsert=True)

    def save_computed(self, material_id: str, calculation: Any, levels: Collection[str]) -> None:
        """Write the spectra of a calculation, each once for its engine and settings."""
        about = {k: getattr(calculation, k) for k in ("engine", "settings_hash", "version", "settings", "gap_ev")}
        about |= {k: getattr(calculation, k) for k in ("wall_s", "details")} | {"cpu_h": calculation.cpu_s / 3600}
        for level in levels:
            key = f"{calculation.engine}:{calculation.settings_hash}"
            self.save_spectrum(material_id, level, calculation.spectra[level], key, **about)

    def note_given_ipa(self, material_ids: Collection[str]) -> None:
        """Note of candidates without a result that their IPA spectra were given, where they have none yet."""
        ids = [self._id(material_id) for material_id in material_ids]
        query = {"_id": {"$in": ids}, "status": {"$nin": ["done", "rejected"]}, "ipa": {"$exists": False}}
        self._candidates.update_many(query, {"$set": {"ipa": "given"}, "$unset": {"prediction.stamp": ""}})

    def note_late_ipa(self, material_id: str, used_cpu_h: float) -> bool:
        """Note that a candidate's IPA spectrum came late, where it has none yet; whether this call did it."""
        query = {"_id": self._id(material_id), "status": {"$ne": "done"}, "ipa": {"$exists": False}}
        update = {"$set": {"ipa": "computed", "used_ipa_cpu_h": used_cpu_h}, "$unset": {"prediction.stamp": ""}}
        return self._candidates.update_one(query, update).modified_count == 1

    def save_result(self, material_id: str, calculation: Any, label: Document) -> None:
        """Spectra first, then the label; writing the same result again changes nothing."""
        kind = {"engine": calculation.engine, "settings_hash": calculation.settings_hash}
        self.save_computed(material_id, calculation, calculation.spectra)
        key = f"{self.name}:{material_id}:{calculation.engine}:{calculation.settings_hash}"
        document = {"_id": key, "campaign": self.name, "material_id": material_id, **kind, **label, "recorded": now()}
        self._labels.update_one({"_id": key}, {"$setOnInsert": document}, upsert=True)

    def add_model(self, model_id: str, accepted: bool = True, **about: Any) -> None:
        """Record a model, and make it the standing one of its line (``reads_ipa``) if it was accepted."""
        document = {"campaign": self.name, "model_id": model_id, "created": now(), "accepted": accepted, **about}
        self._models.update_one({"_id": self._id(model_id)}, {"$setOnInsert": document}, upsert=True)
        if accepted:
            self._change({"$set": {of_line("model_id", bool(about.get("reads_ipa"))): model_id}})

    def event(self, kind: str, message: str, **about: Any) -> None:
        self._events.insert_one({"campaign": self.name, "time": now(), "kind": kind, "message": message, **about})
