"""What a campaign's memory tells: reading, by documented queries, most of them from indexes; nothing is changed."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from typing import Any

import numpy as np
from pymongo import ASCENDING
from pymongo.database import Database

from selector.amounts import MS_PER_CPU_H
from selector.documents import CHOOSING, IN_FLIGHT, STATUSES, Document, chunks, cost_fields, of_line, unpack, unpacked
from selector.errors import SelectorError
from selector.spectra import Spectrum


class Records:
    """One campaign's documents in one database."""

    def __init__(self, db: Database[Any], campaign: str) -> None:
        self.db = db
        self.name = campaign
        self._campaigns, self._candidates = db["campaigns"], db["candidates"]
        self._spectra, self._labels = db["spectra"], db["labels"]
        self._models, self._events = db["models"], db["events"]

    def _id(self, material_id: str) -> str:
        return f"{self.name}:{material_id}"

    def exists(self) -> bool:
        return self._campaigns.find_one({"_id": self.name}, {"_id": 1}) is not None

    def campaign(self) -> Document:
        """The campaign's document; `SelectorError` if there is none."""
        document: Document | None = self._campaigns.find_one({"_id": self.name})
        if document is None:
            raise SelectorError(f"campaign '{self.name}' does not exist; create it with `selector init`")
        return document

    def label_kinds(self, reads_ipa: bool = False) -> tuple[str, str]:
        """Engine and settings hash of the labels that a line's first weights learned from, and of those it computes."""
        kinds = (self.first_model(reads_ipa), self.campaign())
        first, own = (f"{d['engine']} {d['settings_hash']}" for d in kinds)
        return first, own

    def step_requested(self) -> bool:
        return bool(self.campaign()["step_requested"])

    # -- candidates ----------------------------------------------------------------------------------------------------

    def candidates(self, *status: str) -> list[Document]:
        """Whole documents of the candidates in these states (all when none is named), by material_id."""
        return [unpacked(c) for c in self._find(status)]

    def pending(self) -> list[Document]:
        """The pending candidates by material_id, with what choosing needs (`CHOOSING`)."""
        return self.choosing("pending")

    def choosing(self, *status: str) -> list[Document]:
        """The same for the candidates in these states."""
        return list(self._find(status, {"_id": 0, **dict.fromkeys(CHOOSING, 1)}))

    def without_structure(self, *status: str) -> Iterator[Document]:
        """Documents of the candidates in these states, but for their structures."""
        return self._find(status, {"structure": 0})

    def unpredicted(self, *stamps: str) -> Iterator[list[Document]]:
        """Pending candidates whose prediction bears none of these stamps; whole documents, some at a time."""
        query = {"campaign": self.name, "status": "pending"}
        fresh = sum(self._candidates.count_documents({**query, "prediction.stamp": stamp}) for stamp in set(stamps))
        if self._candidates.count_documents(query) == fresh:
            return
        stale = self._candidates.find({**query, "prediction.stamp": {"$nin": list(stamps)}}, {"_id": 1})
        for ids in chunks([c["_id"] for c in stale.sort("material_id", ASCENDING)]):
            yield [unpacked(c) for c in self._candidates.find({"_id": {"$in": ids}}).sort("_id", ASCENDING)]

    def settled(self, level: str = "rpa") -> Iterator[Document]:
        """Estimated and used CPU-hours of every calculation at this level that told them."""
        estimated, used = cost_fields(level)[:2]
        fields = {"_id": 0, **dict.fromkeys((estimated, used, "status", "ipa"), 1)}
        return self._candidates.find({"campaign": self.name, used: {"$gt": 0.0}}, fields)

    def predicted_means(self) -> list[float]:
        """Predicted SC of every candidate, as it stood at its dispatch or else stands."""
        fields = {"_id": 0, "prediction.sc_mean": 1, "decision.sc_mean": 1}
        said = ({**c.get("prediction", {}), **c.get("decision", {})} for c in self._find((), fields))
        return [c["sc_mean"] for c in said if "sc_mean" in c]

    def awaited(self) -> list[Document]:
        """Candidates with attempts that were given up and may yet return, without structures."""
        return list(self._candidates.find({"campaign": self.name, "awaited": True}, {"structure": 0}))

    def candidate(self, material_id: str) -> Document:
        """The whole document of a candidate; `SelectorError` if there is none."""
        document = self.find(material_id)
        if document is None:
            raise SelectorError(
                f"material '{material_id}' is not in campaign '{self.name}'; add it with `selector add`"
            )
        return document

    def find(self, material_id: str) -> Document | None:
        """The same; None if there is none."""
        document: Document | None = self._candidates.find_one({"_id": self._id(material_id)})
        return None if document is None else unpacked(document)

    def some(self, material_ids: Collection[str]) -> list[Document]:
        """These candidates by material_id, without structures."""
        ids = [self._id(material_id) for material_id in material_ids]
        return list(self._candidates.find({"_id": {"$in": ids}}, {"structure": 0}).sort("material_id", ASCENDING))

    def whole(self, material_ids: Collection[str]) -> list[Document]:
        """Whole documents of these candidates, by material_id."""
        ids = [self._id(material_id) for material_id in material_ids]
        return [unpacked(c) for c in self._candidates.find({"_id": {"$in": ids}}).sort("material_id", ASCENDING)]

    def in_flight(self) -> list[Document]:
        """Candidates in flight with their decisions, the oldest dispatch first."""
        fields = {"_id": 0, "material_id": 1, "formula": 1, "decision": 1}
        return sorted(self._find(IN_FLIGHT, fields), key=lambda c: str(c["decision"]["time"]))

    def reasons(self, status: str) -> list[Document]:
        """Of the candidates in this state material_id, reason_code and message, as far as they are known."""
        return list(self._find([status], {"_id": 0, "material_id": 1, "reason_code": 1, "message": 1}))

    def counts(self) -> dict[str, int]:
        """Candidates per status, from an index; states without any are left out."""
        found = {status: self.count(status) for status in STATUSES}
        return {status: n for status, n in found.items() if n}

    def count(self, *status: str) -> int:
        return self._candidates.count_documents({"campaign": self.name, "status": {"$in": list(status)}})

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

    def n_failed_draws(self) -> int:
        """Candidates that were drawn by lot and given up."""
        query = {"campaign": self.name, "status": "failed", "decision.random_draw": True}
        return self._candidates.count_documents(query)

    def _find(self, status: Sequence[str], fields: Document | None = None) -> Any:
        query: Document = {"campaign": self.name}
        if status:
            query["status"] = status[0] if len(status) == 1 else {"$in": list(status)}
        return self._candidates.find(query, fields).sort("material_id", ASCENDING)

    # -- results -------------------------------------------------------------------------------------------------------

    def labels(self, settings_hash: str) -> list[Document]:
        """The campaign's labels of one kind, in the order of their recording."""
        query = {"campaign": self.name, "settings_hash": settings_hash}
        return list(self._labels.find(query).sort([("recorded", ASCENDING), ("_id", ASCENDING)]))

    def n_labels(self, settings_hash: str) -> int:
        return self._labels.count_documents({"campaign": self.name, "settings_hash": settings_hash})

    def outcomes(self, settings_hash: str, drawn_by_lot: bool = False) -> list[Document]:
        """Of each label, or each drawn by lot, what was predicted and computed, and whether it was drawn by lot."""
        query = {"campaign": self.name, "settings_hash": settings_hash} | (
            {"random_draw": True} if drawn_by_lot else {}
        )
        return list(self._labels.find(query, {"_id": 0, "prediction": 1, "sc": 1, "random_draw": 1}))

    def spectra(self) -> dict[str, dict[str, Spectrum]]:
        """material_id -> level -> Spectrum, all that was recorded; what was computed goes before what was given."""
        return _sorted_in(self.recorded_spectra())

    def ipa_spectra(self, material_ids: Collection[str]) -> list[Spectrum]:
        """The IPA spectrum of each of these materials, in their order, computed or else given; they all have one."""
        query = {"material_id": {"$in": list(material_ids)}, "level": "ipa"}
        found = _sorted_in(self.recorded_spectra(query))
        return [found[material_id]["ipa"] for material_id in material_ids]

    def spectra_kept(self) -> Iterator[Document]:
        """Which spectra are recorded: material_id, level, origin (where it was not computed), gap_ev."""
        fields = {"_id": 0, "material_id": 1, "level": 1, "origin": 1, "gap_ev": 1}
        return self._spectra.find({"campaign": self.name}, fields)

    def recorded_spectra(self, query: Document | None = None) -> Iterator[tuple[Document, Spectrum]]:
        """Every recorded spectrum with its document (without the arrays), one at a time, by material and level."""
        found = self._spectra.find({"campaign": self.name, **(query or {})})
        for document in found.sort([("material_id", ASCENDING), ("level", ASCENDING)]):
            energy_ev, eps = (unpack(document.pop(name)) for name in ("energy_ev", "eps"))
            yield document, Spectrum(energy_ev.astype(np.float64), eps)

    def recent_charges(self, n: int) -> list[Document]:
        """The last ``n`` settlements, oldest first: time, cpu_h, purpose; since when how much had been reserved."""
        query = {"campaign": self.name, "settled_at": {"$gt": ""}}
        fields = {"_id": 0, "settled_at": 1, "charged_ms": 1, "purpose": 1, "reserved_at": 1, "reserved_ms": 1}
        found = self.db["ledger"].find(query, fields).sort("settled_at", -1).limit(n)
        return [
            {
                "time": e["settled_at"],
                "cpu_h": e["charged_ms"] / MS_PER_CPU_H,
                "purpose": e.get("purpose", "rpa"),
                "reserved_at": e.get("reserved_at", e["settled_at"]),
                "reserved_cpu_h": e["reserved_ms"] / MS_PER_CPU_H,
            }
            for e in found
        ][::-1]

    # -- models and events ---------------------------------------------------------------------------------------------

    def lines(self) -> tuple[bool, ...]:
        """The campaign's lines of models: whether each reads IPA spectra beside structures."""
        return (False, True) if self.campaign().get(of_line("model_id", True)) else (False,)

    def models(self, accepted: bool | None = True, reads_ipa: bool = False) -> list[Document]:
        """A line's models by round: those that stood, those the learning gate refused (False), or all (None)."""
        found = self._models.find({"campaign": self.name}).sort([("round", ASCENDING), ("created", ASCENDING)])
        line = [m for m in found if m.get("reads_ipa", False) == reads_ipa]
        return [m for m in line if accepted is None or m.get("accepted", True) == accepted]

    def first_model(self, reads_ipa: bool = False) -> Document:
        """The document of the model that a line began with."""
        query = {"campaign": self.name, "round": 0, "reads_ipa": True if reads_ipa else {"$ne": True}}
        return self._found(next(iter(self._models.find(query).sort("created", ASCENDING).limit(1)), None))

    def model(self, reads_ipa: bool = False) -> Document:
        """The document of a line's standing model."""
        model_id = self.campaign()[of_line("model_id", reads_ipa)]
        return self._found(self._models.find_one({"_id": f"{self.name}:{model_id}"}))

    def _found(self, model: Document | None) -> Document:
        if model is None:
            raise SelectorError(f"campaign '{self.name}' has no model; create it anew with `selector init`")
        return model

    def model_history(self) -> list[Document]:
        """All models by round, refused ones too, without what they say of each label."""
        found = self._models.find({"campaign": self.name}, {"_id": 0, "held_out": 0})
        return list(found.sort([("round", ASCENDING), ("created", ASCENDING)]))

    def events(self) -> list[Document]:
        return list(self._events.find({"campaign": self.name}, {"_id": 0}).sort("time", ASCENDING))

    def events_since(self, time: str) -> list[Document]:
        """The events at or after this time (ISO), oldest first, with their ids."""
        return list(self._events.find({"campaign": self.name, "time": {"$gte": time}}).sort("time", ASCENDING))

    def last_events(self, n: int) -> list[Document]:
        """The ``n`` latest events, oldest first: time, kind, message."""
        fields = {"_id": 0, "time": 1, "kind": 1, "message": 1}
        return list(self._events.find({"campaign": self.name}, fields).sort("time", -1).limit(n))[::-1]

    def events_of(self, material_id: str) -> list[Document]:
        """Everything that happened to this material: time, kind, message."""
        query = {"campaign": self.name, "material_id": material_id}
        return list(self._events.find(query, {"_id": 0, "time": 1, "kind": 1, "message": 1}).sort("time", ASCENDING))


def _sorted_in(spectra: Iterable[tuple[Document, Spectrum]]) -> dict[str, dict[str, Spectrum]]:
    found: dict[str, dict[str, Spectrum]] = {}
    for about, spectrum in spectra:
        levels = found.setdefault(about["material_id"], {})
        if about.get("origin") != "given" or about["level"] not in levels:
            levels[about["level"]] = spectrum
    return found
