"""The campaign's memory: the only module that knows MongoDB collections and queries.

Uses only what MongoDB documents: each method is one or a few atomic single-document operations, and every write that
matters is conditional on the state it expects, so that any number of processes may call them at once. `Store.under`
gives the store in which a step writes: there, every write is conditional on the step's lease too (`selector.lease`).
"""

from __future__ import annotations

import copy
import io
import json
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from itertools import islice
from typing import Any, TypeVar

import numpy as np
from bson import Binary
from pymongo import ASCENDING, UpdateOne
from pymongo.database import Database
from pymongo.errors import DuplicateKeyError

from selector.amounts import MS_PER_CPU_H
from selector.candidates import Candidate, Rejection
from selector.errors import SelectorError, UsageError
from selector.lease import Lease, Writes
from selector.ledger import Ledger
from selector.spectra import Spectrum

STATUSES = ("pending", "reserved", "running", "done", "failed", "skipped", "rejected")
IN_FLIGHT = ("reserved", "running")
CHOOSING = (
    *("material_id", "formula", "status", "prediction", "estimate_cpu_h", "attempts", "failures"),
    *("timed_out_cpu_h", "pinned", "vetoed"),
)
"""What choosing needs of a candidate: all but its structure and its history."""
CHUNK = 1000
Document = dict[str, Any]
T = TypeVar("T")


def now() -> str:
    """UTC time as ISO text, the way FireWorks keeps its dates."""
    return datetime.now(UTC).isoformat()


def _chunks(items: Iterable[T]) -> Iterator[list[T]]:
    rest = iter(items)
    while chunk := list(islice(rest, CHUNK)):
        yield chunk


class Store:
    """One campaign in one database."""

    def __init__(self, db: Database[Any], campaign: str) -> None:
        self.db = db
        self.name = campaign
        self.ledger = Ledger(db, campaign)
        self.lease = Lease(db, campaign)
        self._epoch: int | None = None
        self._campaigns, self._candidates = db["campaigns"], db["candidates"]
        self._spectra, self._labels = db["spectra"], db["labels"]
        self._models, self._events = db["models"], db["events"]

    # -- the step's writes -------------------------------------------------------------------------------------------

    def under(self, epoch: int) -> Store:
        """The same store, whose writes to the campaign and its candidates need the lease of that epoch."""
        fenced = copy.copy(self)
        fenced._epoch = epoch
        return fenced

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

    def _id(self, material_id: str) -> str:
        return f"{self.name}:{material_id}"

    def _change(self, update: Document, **query: Any) -> bool:
        """Change the campaign's document where ``query`` holds, and the lease if one is needed."""
        held = {} if self._epoch is None else {"lease.epoch": self._epoch}
        return self._campaigns.update_one({"_id": self.name, **held, **query}, update).matched_count == 1

    # -- the campaign ------------------------------------------------------------------------------------------------

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
            ("awaited",),
            ("look", "status"),
        )
        for fields in of_candidates:
            self._candidates.create_index([("campaign", ASCENDING), *((f, ASCENDING) for f in fields)])
        self._models.create_index([("campaign", ASCENDING)])
        self._spectra.create_index([("campaign", ASCENDING), ("material_id", ASCENDING), ("level", ASCENDING)])
        for field in ("state", "settled_at"):
            self.db["ledger"].create_index([("campaign", ASCENDING), (field, ASCENDING)])
        self._labels.create_index([("campaign", ASCENDING), ("settings_hash", ASCENDING), ("random_draw", ASCENDING)])
        for field in ("time", "material_id"):
            self._events.create_index([("campaign", ASCENDING), (field, ASCENDING)])

    def exists(self) -> bool:
        return self._campaigns.find_one({"_id": self.name}, {"_id": 1}) is not None

    def campaign(self) -> Document:
        """The campaign's document; `SelectorError` if there is none."""
        document: Document | None = self._campaigns.find_one({"_id": self.name})
        if document is None:
            raise SelectorError(f"campaign '{self.name}' does not exist; create it with `selector init`")
        return document

    def label_kinds(self) -> tuple[str, str]:
        """Engine and settings hash of the labels that its first weights learned from, and of those it computes."""
        first, own = (f"{d['engine']} {d['settings_hash']}" for d in (self.models()[0], self.campaign()))
        return first, own

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

    def note_calibration(self, state: str) -> bool:
        """Note what the intervals rest on; whether that is new."""
        return self._change({"$set": {"calibration": state}}, calibration={"$ne": state})

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

    def step_requested(self) -> bool:
        return bool(self.campaign()["step_requested"])

    # -- candidates --------------------------------------------------------------------------------------------------

    def add_candidates(self, candidates: Iterable[Candidate], estimates_cpu_h: Iterable[float]) -> None:
        """Take crystals into the pool; those that are there already stay as they are."""
        documents = (
            {
                "_id": self._id(candidate.material_id),
                "campaign": self.name,
                "status": "pending",
                "attempts": 0,
                "estimate_cpu_h": estimate,
                "added": now(),
                **_packed(candidate.to_dict()),
            }
            for candidate, estimate in zip(candidates, estimates_cpu_h, strict=True)
        )
        for batch in _chunks(documents):
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

    def candidates(self, *status: str) -> list[Document]:
        """Whole documents of the candidates in these states (all when none is named), by material_id."""
        return [_unpacked(c) for c in self._find(status)]

    def pending(self) -> list[Document]:
        """The pending candidates by material_id, with what choosing needs (`CHOOSING`)."""
        return self.choosing("pending")

    def choosing(self, *status: str) -> list[Document]:
        """The same for the candidates in these states."""
        return list(self._find(status, {"_id": 0, **dict.fromkeys(CHOOSING, 1)}))

    def without_structure(self, *status: str) -> Iterator[Document]:
        """Documents of the candidates in these states, but for their structures."""
        return self._find(status, {"structure": 0})

    def unpredicted(self, stamp: str) -> Iterator[list[Document]]:
        """Pending candidates whose prediction does not bear this stamp; whole documents, some at a time."""
        query = {"campaign": self.name, "status": "pending"}
        if self._candidates.count_documents(query) == self._candidates.count_documents(
            {**query, "prediction.stamp": stamp}
        ):
            return
        stale = self._candidates.find({**query, "prediction.stamp": {"$ne": stamp}}, {"_id": 1})
        for ids in _chunks([c["_id"] for c in stale.sort("material_id", ASCENDING)]):
            yield [_unpacked(c) for c in self._candidates.find({"_id": {"$in": ids}}).sort("_id", ASCENDING)]

    def settled(self) -> Iterator[Document]:
        """Estimated and used CPU-hours of every calculation that told them."""
        fields = {"_id": 0, "estimate_cpu_h": 1, "used_cpu_h": 1, "status": 1}
        return self._candidates.find({"campaign": self.name, "used_cpu_h": {"$gt": 0.0}}, fields)

    def predicted_means(self) -> list[float]:
        """Predicted SC of every candidate, as it stood at its dispatch or else stands."""
        fields = {"_id": 0, "prediction.sc_mean": 1, "decision.sc_mean": 1}
        said = ({**c.get("prediction", {}), **c.get("decision", {})} for c in self._find((), fields))
        return [c["sc_mean"] for c in said if "sc_mean" in c]

    def awaited(self) -> list[Document]:
        """Candidates with attempts that were given up and may yet return, without structures."""
        return list(self._candidates.find({"campaign": self.name, "awaited": True}, {"structure": 0}))

    def candidate(self, material_id: str) -> Document:
        document: Document | None = self._candidates.find_one({"_id": self._id(material_id)})
        if document is None:
            raise SelectorError(
                f"material '{material_id}' is not in campaign '{self.name}'; add it with `selector add`"
            )
        return _unpacked(document)

    def some(self, material_ids: Collection[str]) -> list[Document]:
        """These candidates by material_id, without structures."""
        ids = [self._id(material_id) for material_id in material_ids]
        return list(self._candidates.find({"_id": {"$in": ids}}, {"structure": 0}).sort("material_id", ASCENDING))

    def counts(self) -> dict[str, int]:
        """Candidates per status, from an index; states without any are left out."""
        found = {status: self.count(status) for status in STATUSES}
        return {status: n for status, n in found.items() if n}

    def count(self, *status: str) -> int:
        return self._candidates.count_documents({"campaign": self.name, "status": {"$in": list(status)}})

    def move(
        self,
        material_id: str,
        before: Sequence[str],
        after: str,
        key: str | None = None,
        *,
        push: Mapping[str, Any] | None = None,
        also: Mapping[str, Any] | None = None,
        **fields: Any,
    ) -> bool:
        """Change a candidate's status if it is one of ``before`` and its attempt ``key``; whether this call did it.

        ``push`` appends to its arrays; ``also``: further conditions.
        """
        query: Document = {"_id": self._id(material_id), "status": {"$in": list(before)}, **self._unpassed()}
        query |= also or {}
        if key is not None:
            query["decision.key"] = key
        stamp = {} if self._epoch is None else {"epoch": self._epoch}
        update: Document = {"$set": {"status": after, "updated": now(), **stamp, **fields}}
        if push:
            update["$push"] = dict(push)
        return self._candidates.update_one(query, update).modified_count == 1

    def mark_look(self, mark: str) -> list[str]:
        """Mark every candidate without a result, pending or in flight, for a look; their ids."""
        query = {**self._without_result(), **self._unpassed()}
        self._candidates.update_many(query, {"$set": {"look": mark}})
        found = self._candidates.find({**self._without_result(), "look": mark}, {"_id": 0, "material_id": 1})
        return [c["material_id"] for c in found]

    def count_look(self, mark: str, threshold: float) -> tuple[int, int, int]:
        """Of a look's candidates those without a result and those found below ``threshold``; how many others there are.

        Others: without a result, and no part of the look.
        """
        query: Document = {"campaign": self.name, "look": mark, "status": "done", "sc_computed": {"$lt": threshold}}
        left = self._candidates.count_documents({**self._without_result(), "look": mark})
        every = self._candidates.count_documents(self._without_result())
        return left, self._candidates.count_documents(query), every - left

    def _without_result(self) -> Document:
        return {"campaign": self.name, "status": {"$in": ["pending", *IN_FLIGHT]}, "vetoed": {"$ne": True}}

    def mark(self, material_id: str, before: Sequence[str], **fields: Any) -> bool:
        """Change fields of a candidate in one of these states; whether it was in one."""
        query = {"_id": self._id(material_id), "status": {"$in": list(before)}}
        return self._candidates.update_one(query, {"$set": fields}).matched_count == 1

    def set_strays(self, material_id: str, before: Sequence[Document], after: Sequence[Document]) -> None:
        """Replace the attempts that are awaited beside the present one, unless they changed meanwhile."""
        query = {"_id": self._id(material_id), "strays": list(before)}
        self._candidates.update_one(query, {"$set": {"strays": list(after), "awaited": bool(after)}})

    def set_predictions(self, predictions: Mapping[str, Document]) -> None:
        """Store a prediction per material_id; what is decided, or predicted by a later model, keeps its own."""
        updates = [
            UpdateOne(
                {
                    "_id": self._id(material_id),
                    "status": "pending",
                    "prediction.model_round": {"$not": {"$gt": said["model_round"]}},
                    **self._unpassed(),
                },
                {"$set": {"prediction": said}},
            )
            for material_id, said in predictions.items()
        ]
        if updates:
            self._candidates.bulk_write(updates, ordered=False)

    def skip(self, decisions: Mapping[str, Document]) -> None:
        """Leave pending candidates at IPA, each with its decision; an earlier one goes to its history."""
        stamp = {} if self._epoch is None else {"epoch": self._epoch}
        query = {"campaign": self.name, "status": "pending", "decision": {"$exists": True}}
        earlier = {c["_id"]: c["decision"] for c in self._candidates.find(query, {"decision": 1})}
        for batch in _chunks(decisions.items()):
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

    def _find(self, status: Sequence[str], fields: Document | None = None) -> Any:
        query: Document = {"campaign": self.name}
        if status:
            query["status"] = status[0] if len(status) == 1 else {"$in": list(status)}
        return self._candidates.find(query, fields).sort("material_id", ASCENDING)

    # -- results -----------------------------------------------------------------------------------------------------

    def save_result(self, material_id: str, calculation: Any, label: Document) -> None:
        """Spectra first, then the label; writing the same result again changes nothing."""
        kind = {"engine": calculation.engine, "settings_hash": calculation.settings_hash}
        for level, spectrum in calculation.spectra.items():
            key = f"{self.name}:{material_id}:{level}:{calculation.engine}:{calculation.settings_hash}"
            document = {
                "_id": key,
                "campaign": self.name,
                "material_id": material_id,
                "level": level,
                **kind,
                "version": calculation.version,
                "settings": calculation.settings,
                "energy_ev": _pack(spectrum.energy_ev.astype(np.float32)),
                "eps": _pack(spectrum.eps.astype(np.complex64)),
                "gap_ev": calculation.gap_ev,
                "cpu_h": calculation.cpu_s / 3600,
                "wall_s": calculation.wall_s,
                "details": calculation.details,
                "recorded": now(),
            }
            self._spectra.update_one({"_id": key}, {"$setOnInsert": document}, upsert=True)
        key = f"{self.name}:{material_id}:{calculation.engine}:{calculation.settings_hash}"
        document = {"_id": key, "campaign": self.name, "material_id": material_id, **kind, **label, "recorded": now()}
        self._labels.update_one({"_id": key}, {"$setOnInsert": document}, upsert=True)

    def labels(self, settings_hash: str) -> list[Document]:
        """The campaign's labels of one kind, in the order of their recording."""
        query = {"campaign": self.name, "settings_hash": settings_hash}
        return list(self._labels.find(query).sort([("recorded", ASCENDING), ("_id", ASCENDING)]))

    def n_labels(self, settings_hash: str) -> int:
        return self._labels.count_documents({"campaign": self.name, "settings_hash": settings_hash})

    def spectra(self) -> dict[str, dict[str, Spectrum]]:
        """material_id -> level -> Spectrum, all that was recorded."""
        found: dict[str, dict[str, Spectrum]] = {}
        for about, spectrum in self.recorded_spectra():
            found.setdefault(about["material_id"], {})[about["level"]] = spectrum
        return found

    # -- models and events -------------------------------------------------------------------------------------------

    def add_model(self, model_id: str, accepted: bool = True, **about: Any) -> None:
        """Record a model, and make it the standing one if it was accepted."""
        document = {"campaign": self.name, "model_id": model_id, "created": now(), "accepted": accepted, **about}
        self._models.update_one({"_id": self._id(model_id)}, {"$setOnInsert": document}, upsert=True)
        if accepted:
            self._change({"$set": {"model_id": model_id}})

    def models(self, accepted: bool | None = True) -> list[Document]:
        """The models by round: those that stood, those that the learning gate refused (False), or all (None)."""
        found = self._models.find({"campaign": self.name}).sort([("round", ASCENDING), ("created", ASCENDING)])
        return [m for m in found if accepted is None or m.get("accepted", True) == accepted]

    def model(self) -> Document:
        """The standing model's document."""
        model_id = self.campaign()["model_id"]
        document: Document | None = self._models.find_one({"_id": f"{self.name}:{model_id}"})
        if document is None:
            raise SelectorError(f"campaign '{self.name}' has no model; create it anew with `selector init`")
        return document

    def event(self, kind: str, message: str, **about: Any) -> None:
        self._events.insert_one({"campaign": self.name, "time": now(), "kind": kind, "message": message, **about})

    def events(self) -> list[Document]:
        return list(self._events.find({"campaign": self.name}, {"_id": 0}).sort("time", ASCENDING))

    def last_events(self, n: int) -> list[Document]:
        """The ``n`` latest events, oldest first: time, kind, message."""
        fields = {"_id": 0, "time": 1, "kind": 1, "message": 1}
        return list(self._events.find({"campaign": self.name}, fields).sort("time", -1).limit(n))[::-1]

    # -- what is shown -----------------------------------------------------------------------------------------------

    def in_flight(self) -> list[Document]:
        """Candidates in flight with their decisions, the oldest dispatch first."""
        fields = {"_id": 0, "material_id": 1, "formula": 1, "decision": 1}
        return sorted(self._find(IN_FLIGHT, fields), key=lambda c: str(c["decision"]["time"]))

    def reasons(self, status: str) -> list[Document]:
        """Of the candidates in this state material_id, reason_code and message, as far as they are known."""
        return list(self._find([status], {"_id": 0, "material_id": 1, "reason_code": 1, "message": 1}))

    def n_failed_draws(self) -> int:
        """Candidates that were drawn by lot and given up."""
        query = {"campaign": self.name, "status": "failed", "decision.random_draw": True}
        return self._candidates.count_documents(query)

    def outcomes(self, settings_hash: str) -> list[Document]:
        """Of each label what was predicted and what was computed, and whether it was drawn by lot."""
        query = {"campaign": self.name, "settings_hash": settings_hash}
        return list(self._labels.find(query, {"_id": 0, "prediction": 1, "sc": 1, "random_draw": 1}))

    def model_history(self) -> list[Document]:
        """All models by round, refused ones too, without what they say of each label."""
        found = self._models.find({"campaign": self.name}, {"_id": 0, "held_out": 0})
        return list(found.sort([("round", ASCENDING), ("created", ASCENDING)]))

    def recent_charges(self, n: int) -> list[Document]:
        """The last ``n`` settlements, oldest first: time, cpu_h, purpose."""
        query = {"campaign": self.name, "settled_at": {"$gt": ""}}
        fields = {"_id": 0, "settled_at": 1, "charged_ms": 1, "purpose": 1}
        found = self.db["ledger"].find(query, fields).sort("settled_at", -1).limit(n)
        return [
            {"time": e["settled_at"], "cpu_h": e["charged_ms"] / MS_PER_CPU_H, "purpose": e.get("purpose", "rpa")}
            for e in found
        ][::-1]

    def events_of(self, material_id: str) -> list[Document]:
        """Everything that happened to this material: time, kind, message."""
        query = {"campaign": self.name, "material_id": material_id}
        return list(self._events.find(query, {"_id": 0, "time": 1, "kind": 1, "message": 1}).sort("time", ASCENDING))

    def spectra_kept(self) -> Iterator[Document]:
        """Which spectra are recorded: material_id, level, origin (where it was not computed), gap_ev."""
        fields = {"_id": 0, "material_id": 1, "level": 1, "origin": 1, "gap_ev": 1}
        return self._spectra.find({"campaign": self.name}, fields)

    def whole(self, material_ids: Collection[str]) -> list[Document]:
        """Whole documents of these candidates, by material_id."""
        ids = [self._id(material_id) for material_id in material_ids]
        return [_unpacked(c) for c in self._candidates.find({"_id": {"$in": ids}}).sort("material_id", ASCENDING)]

    def recorded_spectra(self) -> Iterator[tuple[Document, Spectrum]]:
        """Every recorded spectrum with its document (without the arrays), one at a time, by material and level."""
        found = self._spectra.find({"campaign": self.name})
        for document in found.sort([("material_id", ASCENDING), ("level", ASCENDING)]):
            energy_ev, eps = (_unpack(document.pop(name)) for name in ("energy_ev", "eps"))
            yield document, Spectrum(energy_ev.astype(np.float64), eps)


def _pack(array: np.ndarray[Any, Any]) -> Binary:
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=False)
    return Binary(buffer.getvalue())


def _unpack(data: bytes) -> np.ndarray[Any, Any]:
    return np.asarray(np.load(io.BytesIO(data), allow_pickle=False))


def _packed(candidate: Document) -> Document:
    """With its structure as JSON text, which is not taken apart when a pool is read."""
    return {**candidate, "structure": json.dumps(candidate["structure"])}


def _unpacked(candidate: Document) -> Document:
    """The inverse; what the first release wrote is no text."""
    if isinstance(candidate.get("structure"), str):
        candidate["structure"] = json.loads(candidate["structure"])
    return candidate
