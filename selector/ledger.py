"""CPU-hours: reserved before a calculation starts, settled when it ends, never overspent.

The totals and every open reservation stand in one document, the campaign's, so that each change is one atomic update;
the ``ledger`` collection holds a document per reservation, the account's history. Amounts are whole CPU-milliseconds:
sums are exact.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from pymongo import ReturnDocument
from pymongo.database import Database
from pymongo.errors import DuplicateKeyError

from selector.errors import SelectorError

MS_PER_CPU_H = 3_600_000


@dataclass(frozen=True)
class Totals:
    """CPU-hours; ``budget = spent + reserved + available`` at every moment."""

    budget_cpu_h: float
    spent_cpu_h: float
    reserved_cpu_h: float
    available_cpu_h: float


class Ledger:
    """The account of one campaign."""

    def __init__(self, db: Database[Any], campaign: str) -> None:
        self._campaigns = db["campaigns"]
        self._history = db["ledger"]
        self._campaign = campaign

    @staticmethod
    def opening(budget_cpu_h: float) -> dict[str, Any]:
        """The account as it stands in a new campaign's document."""
        budget_ms = int(budget_cpu_h * MS_PER_CPU_H)
        return {"budget_ms": budget_ms, "available_ms": budget_ms, "reserved_ms": 0, "spent_ms": 0, "open": {}}

    def totals(self) -> Totals:
        document = self._campaigns.find_one({"_id": self._campaign}, {"ledger": 1})
        if document is None:
            raise SelectorError(f"campaign '{self._campaign}' does not exist; create it with `selector init`")
        return _totals(document["ledger"])

    def reserve(self, key: str, cpu_h: float, **about: Any) -> bool:
        """Set ``cpu_h`` aside under ``key``; False if that exceeds what is available. A key is reserved once, ever."""
        if not cpu_h > 0.0:
            raise ValueError(f"a reservation must be positive, not {cpu_h}")
        amount = max(1, round(cpu_h * MS_PER_CPU_H))
        entry = {"_id": key, "campaign": self._campaign, "state": "reserving", "reserved_ms": amount, **about}
        try:
            self._history.insert_one(entry)
        except DuplicateKeyError:
            before = self._history.find_one({"_id": key})
            if before is None or before["state"] != "reserving":
                return before is not None and before["state"] == "reserved"
            if not self._is_open(key):
                # A crash came between the history and the account: what is asked for now is what counts.
                self._history.update_one({"_id": key, "state": "reserving"}, {"$set": {"reserved_ms": amount}})
        document = self._campaigns.find_one_and_update(
            {"_id": self._campaign, f"ledger.open.{key}": {"$exists": False}, "ledger.available_ms": {"$gte": amount}},
            {
                "$inc": {"ledger.available_ms": -amount, "ledger.reserved_ms": amount},
                "$set": {f"ledger.open.{key}": amount},
            },
            return_document=ReturnDocument.AFTER,
        )
        if document is None and not self._is_open(key):
            self._history.delete_one({"_id": key, "state": "reserving"})
            return False
        self._note(key, ["reserving"], "reserved", document)
        return True

    def settle(self, key: str, cpu_h: float) -> float:
        """Charge what was used, at most what was reserved, and give the rest back; the CPU-hours charged.

        Settling again changes nothing.
        """
        entry = self._history.find_one({"_id": key})
        if entry is None:
            raise SelectorError(f"campaign '{self._campaign}': the ledger has no reservation {key}")
        if entry["state"] in ("reserving", "reserved"):
            charge = min(max(0, round(cpu_h * MS_PER_CPU_H)), entry["reserved_ms"])
            # The charge is written down first: a crash after this line settles by the same figure.
            entry = self._history.find_one_and_update(
                {"_id": key, "state": {"$in": ["reserving", "reserved"]}},
                {"$set": {"state": "settling", "charged_ms": charge, "used_ms": round(cpu_h * MS_PER_CPU_H)}},
                return_document=ReturnDocument.AFTER,
            ) or self._history.find_one({"_id": key})
        assert entry is not None
        if entry["state"] == "settling":
            self._close(entry)
        return entry["charged_ms"] / MS_PER_CPU_H

    def refund(self, key: str) -> None:
        """Give a whole reservation back: its calculation never started."""
        self.settle(key, 0.0)

    def charge_in_full(self, key: str) -> float:
        """Charge a whole reservation: its calculation vanished, and nobody knows what it used."""
        entry = self._history.find_one({"_id": key})
        return self.settle(key, (entry["reserved_ms"] if entry else 0) / MS_PER_CPU_H)

    def reserved(self, key: str) -> bool:
        """Whether ``key`` is an open reservation."""
        return self._is_open(key)

    def reconcile(self) -> None:
        """Finish what a crash interrupted between the account and its history."""
        for entry in self._history.find({"campaign": self._campaign, "state": "settling"}):
            self._close(entry)

    def charged(self) -> dict[str, float]:
        """CPU-hours charged so far per material_id, all attempts together."""
        sums: dict[str, int] = {}
        for entry in self._history.find({"campaign": self._campaign, "charged_ms": {"$exists": True}}):
            material_id = entry.get("material_id")
            sums[material_id] = sums.get(material_id, 0) + entry["charged_ms"]
        return {material_id: ms / MS_PER_CPU_H for material_id, ms in sums.items()}

    def history(self) -> list[dict[str, Any]]:
        """Every change in order: time, event, material_id, cpu_h, and the totals after it (CPU-hours)."""
        rows = []
        for entry in self._history.find({"campaign": self._campaign}):
            for state, event, amount in (("reserved", "reserve", "reserved_ms"), ("settled", "settle", "charged_ms")):
                if f"{state}_at" in entry:
                    rows.append(
                        {
                            "time": entry[f"{state}_at"],
                            "event": event,
                            "material_id": entry.get("material_id"),
                            "cpu_h": entry[amount] / MS_PER_CPU_H,
                            "spent_cpu_h": entry[f"{state}_totals"]["spent_ms"] / MS_PER_CPU_H,
                            "reserved_cpu_h": entry[f"{state}_totals"]["reserved_ms"] / MS_PER_CPU_H,
                        }
                    )
        return sorted(rows, key=lambda row: row["time"])

    def _close(self, entry: dict[str, Any]) -> None:
        reserved, charge, key = entry["reserved_ms"], entry["charged_ms"], entry["_id"]
        document = self._campaigns.find_one_and_update(
            {"_id": self._campaign, f"ledger.open.{key}": {"$exists": True}},
            {
                "$inc": {
                    "ledger.available_ms": reserved - charge,
                    "ledger.reserved_ms": -reserved,
                    "ledger.spent_ms": charge,
                },
                "$unset": {f"ledger.open.{key}": ""},
            },
            return_document=ReturnDocument.AFTER,
        )
        self._note(key, ["settling"], "settled", document)

    def _note(self, key: str, states: list[str], state: str, document: dict[str, Any] | None) -> None:
        document = document or self._campaigns.find_one({"_id": self._campaign}, {"ledger": 1})
        assert document is not None
        totals = {k: document["ledger"][k] for k in ("spent_ms", "reserved_ms")}
        now = datetime.now(UTC).isoformat()
        self._history.update_one(
            {"_id": key, "state": {"$in": states}},
            {"$set": {"state": state, f"{state}_at": now, f"{state}_totals": totals}},
        )

    def _is_open(self, key: str) -> bool:
        query = {"_id": self._campaign, f"ledger.open.{key}": {"$exists": True}}
        return self._campaigns.find_one(query, {"_id": 1}) is not None


def _totals(ledger: dict[str, Any]) -> Totals:
    return Totals(*(ledger[f"{k}_ms"] / MS_PER_CPU_H for k in ("budget", "spent", "reserved", "available")))
