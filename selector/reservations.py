"""The ledger's history: a document per reservation, from the moment before it is made until after it is closed.

A reservation goes ``reserving -> reserved -> settling -> settled``, a cost that is booked at once
``booking -> settling -> settled``. What is open, the account tells (`selector.account`); what is to be charged, the
history: both are written down before the account changes, so that whatever a crash cut short can be finished.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from pymongo import ReturnDocument
from pymongo.database import Database
from pymongo.errors import DuplicateKeyError

from selector.amounts import MS_PER_CPU_H
from selector.errors import SelectorError

Entry = dict[str, Any]

UNSETTLED = ("booking", "reserving", "reserved")


class Reservations:
    """All reservations of one campaign, those that are closed too."""

    def __init__(self, db: Database[Any], campaign: str) -> None:
        self._entries = db["ledger"]
        self._campaign = campaign

    def announce(self, key: str, state: str, fields: Mapping[str, Any]) -> str:
        """Write down what is about to be made; the state that ``key`` has then, which may be another's doing."""
        try:
            self._entries.insert_one({**fields, "_id": key, "campaign": self._campaign, "state": state})
        except DuplicateKeyError:
            return str(self[key]["state"])
        return state

    def __getitem__(self, key: str) -> Entry:
        """The reservation ``key``; `SelectorError` if there is none."""
        entry = self.find(key)
        if entry is None:
            raise SelectorError(f"campaign '{self._campaign}': the ledger has no reservation {key}")
        return entry

    def find(self, key: str) -> Entry | None:
        """The reservation ``key``; None if there is none."""
        entry: Entry | None = self._entries.find_one({"_id": key, "campaign": self._campaign})
        return entry

    def begin_settling(self, key: str, fields: Mapping[str, Any]) -> Entry:
        """Write down what is to be charged, unless that was done before; the reservation after that."""
        changed: Entry | None = self._entries.find_one_and_update(
            {"_id": key, "state": {"$in": list(UNSETTLED)}},
            {"$set": {**fields, "state": "settling"}},
            return_document=ReturnDocument.AFTER,
        )
        return changed or self[key]

    def note(self, key: str, before: str, state: str, account: Mapping[str, Any], **fields: Any) -> None:
        """Write down that the account has changed, where ``key`` is still in the state ``before``."""
        sums = {name: account[name] for name in ("spent_ms", "reserved_ms")}
        change = {**fields, "state": state, f"{state}_at": datetime.now(UTC).isoformat(), f"{state}_totals": sums}
        self._entries.update_one({"_id": key, "state": before}, {"$set": change})

    def unfinished(self) -> list[Entry]:
        """Those between two states."""
        states = ["booking", "reserving", "settling"]
        return list(self._entries.find({"campaign": self._campaign, "state": {"$in": states}}))

    def charged(self) -> dict[str, float]:
        """CPU-hours charged so far per material_id, all attempts together."""
        sums: dict[str, int] = {}
        query = {"campaign": self._campaign, "charged_ms": {"$exists": True}, "material_id": {"$exists": True}}
        for entry in self._entries.find(query, {"material_id": 1, "charged_ms": 1}):
            sums[entry["material_id"]] = sums.get(entry["material_id"], 0) + entry["charged_ms"]
        return {material_id: ms / MS_PER_CPU_H for material_id, ms in sums.items()}

    def events(self) -> list[dict[str, Any]]:
        """Every change in order: time, event, purpose, material_id, cpu_h, and the totals after it (CPU-hours)."""
        rows = []
        for entry in self._entries.find({"campaign": self._campaign}):
            for state, event, amount in (("reserved", "reserve", "reserved_ms"), ("settled", "settle", "charged_ms")):
                if f"{state}_at" in entry:
                    rows.append(
                        {
                            "time": entry[f"{state}_at"],
                            "event": event,
                            "purpose": entry.get("purpose", "rpa"),
                            "material_id": entry.get("material_id"),
                            "cpu_h": entry[amount] / MS_PER_CPU_H,
                            "spent_cpu_h": entry[f"{state}_totals"]["spent_ms"] / MS_PER_CPU_H,
                            "reserved_cpu_h": entry[f"{state}_totals"]["reserved_ms"] / MS_PER_CPU_H,
                        }
                    )
        return sorted(rows, key=lambda row: row["time"])
