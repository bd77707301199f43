"""The campaign's memory: the only module that knows MongoDB collections and queries.

Uses only what MongoDB documents: each method is one or a few atomic single-document operations, and every write that
matters is conditional on the state it expects, so that any number of processes may call them at once.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
from bson import Binary
from pymongo import ASCENDING, ReturnDocument, UpdateOne
from pymongo.database import Database
from pymongo.errors import DuplicateKeyError

from selector.candidates import Candidate, Rejection
from selector.errors import SelectorError, UsageError
from selector.ledger import Ledger
from selector.spectra import Spectrum

IN_FLIGHT = ("reserved", "running")
LEASE_S = 120.0
Document = dict[str, Any]


def now() -> str:
    """UTC time as ISO text, the way FireWorks keeps its dates."""
    return datetime.now(UTC).isoformat()


class Store:
    """One campaign in one database."""

    def __init__(self, db: Database[Any], campaign: str) -> None:
        self.db = db
        self.name = campaign
        self.ledger = Ledger(db, campaign)
        self._campaigns, self._candidates = db["campaigns"], db["candidates"]
        self._spectra, self._labels = db["spectra"], db["labels"]
        self._models, self._events = db["models"], db["events"]

    # -- the campaign ------------------------------------------------------------------------------------------------

    def create(self, config: Document, budget_cpu_h: float, settings_hash: str) -> None:
        """Write a new campaign; `UsageError` if its name is taken."""
        self._candidates.create_index([("campaign", ASCENDING), ("status", ASCENDING)])
        self._candidates.create_index([("campaign", ASCENDING), ("material_id", ASCENDING)])
        for collection in (self._spectra, self._labels, self._models, self.db["ledger"]):
            collection.create_index([("campaign", ASCENDING)])
        self._events.create_index([("campaign", ASCENDING), ("time", ASCENDING)])
        document: Document = {
            "_id": self.name,
            "config": config,
            "settings_hash": settings_hash,
            "state": "running",
            "stop_reason": None,
            "model_id": None,
            "learning": None,
            "learning_failed": [],
            "step_requested": False,
            "lease": {"owner": None, "epoch": 0, "expires": datetime(1970, 1, 1)},
            "ledger": Ledger.opening(budget_cpu_h),
            "created": now(),
        }
        try:
            self._campaigns.insert_one(document)
        except DuplicateKeyError:
            raise UsageError(f"campaign '{self.name}' exists already in this database; choose another name") from None

    def exists(self) -> bool:
        return self._campaigns.find_one({"_id": self.name}, {"_id": 1}) is not None

    def campaign(self) -> Document:
        """The campaign's document; `SelectorError` if there is none."""
        document: Document | None = self._campaigns.find_one({"_id": self.name})
        if document is None:
            raise SelectorError(f"campaign '{self.name}' does not exist; create it with `selector init`")
        return document

    def set_state(self, state: str, reason: str | None) -> None:
        self._campaigns.update_one({"_id": self.name}, {"$set": {"state": state, "stop_reason": reason}})

    def begin_learning(self, key: str) -> bool:
        """Note that the learning job ``key`` is out; False if another one is."""
        query = {"_id": self.name, "learning": None}
        return self._campaigns.update_one(query, {"$set": {"learning": key}}).modified_count == 1

    def end_learning(self, key: str) -> None:
        self._campaigns.update_one({"_id": self.name, "learning": key}, {"$set": {"learning": None}})

    def fail_learning(self, key: str) -> bool:
        """Note that the job ``key`` ended without a model and is not to be repeated; whether this call did it."""
        update = {"$set": {"learning": None}, "$addToSet": {"learning_failed": key}}
        return self._campaigns.update_one({"_id": self.name, "learning": key}, update).modified_count == 1

    def request_step(self) -> None:
        """Ask the process that holds the lease for another round."""
        self._campaigns.update_one({"_id": self.name}, {"$set": {"step_requested": True}})

    def clear_request(self) -> None:
        self._campaigns.update_one({"_id": self.name}, {"$set": {"step_requested": False}})

    def step_requested(self) -> bool:
        return bool(self.campaign()["step_requested"])

    def take_lease(self, owner: str) -> int | None:
        """The step's lease: its epoch, or None while another holds it. It expires by the database's clock."""
        clock = self.db.client.admin.command("hello")["localTime"]
        document = self._campaigns.find_one_and_update(
            {"_id": self.name, "lease.expires": {"$lt": clock}},
            {
                "$set": {"lease.owner": owner, "lease.expires": clock + timedelta(seconds=LEASE_S)},
                "$inc": {"lease.epoch": 1},
            },
            return_document=ReturnDocument.AFTER,
        )
        return document["lease"]["epoch"] if document else None

    def lease(self) -> tuple[str | None, int]:
        """Who holds the step's lease, if anybody does, and its epoch."""
        lease = self.campaign()["lease"]
        return lease["owner"], lease["epoch"]

    def drop_lease(self, epoch: int) -> None:
        released = {"lease.owner": None, "lease.expires": datetime(1970, 1, 1)}
        self._campaigns.update_one({"_id": self.name, "lease.epoch": epoch}, {"$set": released})

    # -- candidates --------------------------------------------------------------------------------------------------

    def add_candidates(self, candidates: Iterable[Candidate], estimates_cpu_h: Iterable[float]) -> None:
        for candidate, estimate in zip(candidates, estimates_cpu_h, strict=True):
            document = {
                "_id": f"{self.name}:{candidate.material_id}",
                "campaign": self.name,
                "status": "pending",
                "attempts": 0,
                "estimate_cpu_h": estimate,
                "added": now(),
                **candidate.to_dict(),
            }
            self._candidates.update_one({"_id": document["_id"]}, {"$setOnInsert": document}, upsert=True)

    def add_rejections(self, rejections: Iterable[Rejection]) -> None:
        """A rejected input never replaces a candidate of the same name."""
        for r in rejections:
            document = {
                "_id": f"{self.name}:{r.material_id}",
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
        """Candidates in these states (all when none is named), by material_id."""
        query: Document = {"campaign": self.name}
        if status:
            query["status"] = {"$in": list(status)}
        return list(self._candidates.find(query).sort("material_id", ASCENDING))

    def candidate(self, material_id: str) -> Document:
        document: Document | None = self._candidates.find_one({"_id": f"{self.name}:{material_id}"})
        if document is None:
            raise SelectorError(
                f"material '{material_id}' is not in campaign '{self.name}'; add it with `selector add`"
            )
        return document

    def counts(self) -> dict[str, int]:
        """Candidates per status."""
        pipeline: list[Document] = [
            {"$match": {"campaign": self.name}},
            {"$group": {"_id": "$status", "n": {"$sum": 1}}},
        ]
        return {row["_id"]: row["n"] for row in self._candidates.aggregate(pipeline)}

    def move(self, material_id: str, before: Sequence[str], after: str, key: str | None = None, **fields: Any) -> bool:
        """Change a candidate's status if it is one of ``before`` and its attempt ``key``; whether this call did it."""
        query: Document = {"_id": f"{self.name}:{material_id}", "status": {"$in": list(before)}}
        if key is not None:
            query["decision.key"] = key
        update = {"$set": {"status": after, "updated": now(), **fields}}
        return self._candidates.update_one(query, update).modified_count == 1

    def set_predictions(self, predictions: dict[str, Document]) -> None:
        """Store a prediction per material_id; what has been decided already keeps its own."""
        updates = [
            UpdateOne({"_id": f"{self.name}:{k}", "status": "pending"}, {"$set": {"prediction": v}})
            for k, v in predictions.items()
        ]
        if updates:
            self._candidates.bulk_write(updates, ordered=False)

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

    def spectra(self) -> dict[str, dict[str, Spectrum]]:
        """material_id -> level -> Spectrum, all that was recorded."""
        found: dict[str, dict[str, Spectrum]] = {}
        for document in self._spectra.find({"campaign": self.name}):
            spectrum = Spectrum(_unpack(document["energy_ev"]).astype(np.float64), _unpack(document["eps"]))
            found.setdefault(document["material_id"], {})[document["level"]] = spectrum
        return found

    # -- models and events -------------------------------------------------------------------------------------------

    def add_model(self, model_id: str, **about: Any) -> None:
        """Record a model and make it the standing one."""
        document = {"campaign": self.name, "model_id": model_id, "created": now(), **about}
        self._models.update_one({"_id": f"{self.name}:{model_id}"}, {"$setOnInsert": document}, upsert=True)
        self._campaigns.update_one({"_id": self.name}, {"$set": {"model_id": model_id}})

    def models(self) -> list[Document]:
        return list(self._models.find({"campaign": self.name}).sort([("round", ASCENDING), ("created", ASCENDING)]))

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


def _pack(array: np.ndarray[Any, Any]) -> Binary:
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=False)
    return Binary(buffer.getvalue())


def _unpack(data: bytes) -> np.ndarray[Any, Any]:
    return np.asarray(np.load(io.BytesIO(data), allow_pickle=False))
