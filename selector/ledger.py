"""CPU-hours: reserved before a calculation starts, settled when it ends, never overspent.

The totals and every open reservation stand in one document, the campaign's (`selector.account`), so that each change is
one atomic update with its conditions in the query. Each is written into the history (`selector.reservations`) before
and after it: `Ledger.reconcile` finishes what a crash cut short.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pymongo import ReturnDocument
from pymongo.database import Database

from selector import account as books
from selector.account import Totals, check
from selector.amounts import MS_PER_CPU_H, plain_name, split_ms, to_ms
from selector.errors import SelectorError
from selector.reservations import UNSETTLED, Entry, Reservations

__all__ = ["MS_PER_CPU_H", "Ledger", "Totals", "check"]

_ACCOUNT = {f"ledger.{name}": 1 for name in books.FIELDS}
_SUMS = {"ledger.spent_ms": 1, "ledger.reserved_ms": 1}


class Ledger:
    """The account of one campaign."""

    opening = staticmethod(books.opening)

    def __init__(self, db: Database[Any], campaign: str) -> None:
        self._campaigns = db["campaigns"]
        self._campaign = campaign
        self._reservations = Reservations(db, campaign)

    def totals(self) -> Totals:
        """The account in CPU-hours, by purpose and by stage too."""
        return books.totals(self._account())

    def why_not(self, cpu_h: float, purpose: str = "rpa") -> str | None:
        """Why a reservation would be refused now (budget, audit's share, cap), in words; None if it would not be."""
        ms = to_ms(cpu_h, "reservation", zero=False)
        return books.refusal(self._account(), ms, _known(purpose))

    def cap_left_cpu_h(self, purpose: str) -> float:
        """CPU-hours that the cap for ``purpose`` leaves it, whatever the budget has; infinite without a cap."""
        return books.cap_left_ms(self._account(), _known(purpose)) / MS_PER_CPU_H

    # -- reserve, settle ---------------------------------------------------------------------------------------------

    def reserve(self, key: str, cpu_h: float, *, purpose: str = "rpa", **about: Any) -> bool:
        """Set ``cpu_h`` aside under ``key``; a key is reserved once, ever.

        Parameters
        ----------
        key : letters, digits, hyphens and underscores
        cpu_h : CPU-hours, above zero
        purpose : "rpa", "ipa" and "learn" draw on the budget; "audit", and nothing else, on the audit's share
        about : kept with the reservation (material_id, level, attempt ...)

        Returns
        -------
        Whether ``key`` is reserved; False if that exceeds what is available or a cap, or if ``key`` is settled already.

        Raises
        ------
        SelectorError
            The amount is not above zero and finite, ``key`` is no plain name, or there is no such purpose.
        """
        ms = to_ms(cpu_h, f"reservation {key}", zero=False)
        return self._open(key, "reserving", ms, purpose, about)

    def settle(self, key: str, cpu_h: float, stages: Mapping[str, float] | None = None) -> float:
        """Charge what was used, at most what was reserved, and give the rest back; the CPU-hours charged.

        ``stages`` (name -> CPU-hours) tells what the charge went into. Settling again changes nothing.

        Raises
        ------
        SelectorError
            ``key`` is not reserved, or an amount is negative or not finite.
        """
        return self._settle(key, to_ms(cpu_h, f"settlement of {key}"), stages)

    def refund(self, key: str) -> None:
        """Give a whole reservation back: its calculation never started."""
        self._settle(key, 0)

    def charge_in_full(self, key: str) -> float:
        """Charge a whole reservation: its calculation vanished, and nobody knows what it used."""
        return self._settle(key, None)

    def book(self, key: str, cpu_h: float, purpose: str = "learn", **about: Any) -> float:
        """Charge a cost that has arisen already, once per key; the CPU-hours charged.

        That is less than ``cpu_h`` where the budget or a cap has less left: they are never exceeded.

        Raises
        ------
        SelectorError
            The amount is negative or not finite, ``key`` is no plain name, or there is no such purpose.
        """
        ms = to_ms(cpu_h, f"booking {key}")
        self._open(key, "booking", ms, purpose, {**about, "used_ms": ms})
        return self._settle(key, ms)

    def charge(self, key: str, cpu_h: float, purpose: str = "rpa", **about: Any) -> float:
        """Settle ``key`` if it is reserved, book it if nobody knows of it; the CPU-hours charged, once per key.

        So what a restored database has forgotten is charged exactly once. What its history calls reserved and its
        account does not (a backup that was taken while the campaign ran) is booked as ``late-``.

        Raises
        ------
        SelectorError
            As :meth:`book`.
        """
        entry = self._reservations.find(key)
        if entry is None or entry["state"] == "booking":
            return self.book(key, cpu_h, purpose, **about)
        if entry["state"] in UNSETTLED and not self.reserved(key):
            return self.book(f"late-{key}", cpu_h, purpose, **about)
        return self.settle(key, cpu_h)

    def entry(self, key: str) -> dict[str, Any] | None:
        """What the history tells of ``key``: its state, and where it is known what was used and charged (CPU-hours)."""
        entry = self._reservations.find(key)
        if entry is None:
            return None
        amounts = {k: entry.get(f"{k}_ms") for k in ("used", "charged")}
        return {"state": entry["state"]} | {
            f"{k}_cpu_h": None if ms is None else ms / MS_PER_CPU_H for k, ms in amounts.items()
        }

    def reserved(self, key: str) -> bool:
        """Whether ``key`` is an open reservation."""
        return books.opened(self._account(key), key) is not None

    def reconcile(self) -> None:
        """Finish what a crash interrupted between the account and its history; check that the account adds up.

        A reservation that had not reached the account stays as it is: it holds nothing, and may be made again.

        Raises
        ------
        SelectorError
            The account does not add up.
        """
        for entry in self._reservations.unfinished():
            key, state = entry["_id"], entry["state"]
            if state == "settling":
                self._close(entry)
            elif state == "booking":
                self._open(key, state, entry["used_ms"], entry["purpose"], {})
                self._settle(key, entry["used_ms"])
            elif opened := books.opened(account := self._account(key), key):
                self._reservations.note(key, "reserving", "reserved", account, **opened)
        check(self._document({"ledger": 1}))

    # -- the budget --------------------------------------------------------------------------------------------------

    def add_budget(self, cpu_h: float) -> None:
        """Enlarge the budget, and the audit's share with it.

        Raises
        ------
        SelectorError
            ``cpu_h`` is not above zero and finite.
        """
        ms = to_ms(cpu_h, "budget", zero=False)
        audit = round(ms * self._account().get("audit_fraction", 0.0))
        change = {"ledger.budget_ms": ms, "ledger.available_ms": ms - audit, "ledger.audit_available_ms": audit}
        self._campaigns.update_one({"_id": self._campaign}, {"$inc": change})

    def release_audit(self) -> float:
        """Let everything draw on what the audit's share has left; the CPU-hours released."""
        while left := self._account().get("audit_available_ms", 0):
            change = {"ledger.audit_available_ms": -left, "ledger.available_ms": left}
            if self._change({"ledger.audit_available_ms": left}, {"$inc": change}):
                break
        return float(left / MS_PER_CPU_H)

    # -- the history -------------------------------------------------------------------------------------------------

    def charged(self) -> dict[str, float]:
        """CPU-hours charged so far per material_id, all attempts together."""
        return self._reservations.charged()

    def history(self) -> list[dict[str, Any]]:
        """Every change in order: time, event, purpose, material_id, cpu_h, and the totals after it (CPU-hours)."""
        return self._reservations.events()

    # -- one reservation ---------------------------------------------------------------------------------------------

    def _open(self, key: str, state: str, wanted_ms: int, purpose: str, about: Mapping[str, Any]) -> bool:
        """Make the reservation, announced as ``state``; a booking takes what there is."""
        plain_name(key, "reservation")
        about = {**about, "purpose": _known(purpose)}
        while True:
            # The account is read before the history: what the history does not call closed then, is not closed now.
            account = self._account(key)
            opened = books.opened(account, key)
            ms = min(wanted_ms, books.room_ms(account, purpose)) if state == "booking" else wanted_ms
            if opened is None and books.refusal(account, ms, purpose):
                return False
            found = self._reservations.announce(key, state, {**about, "reserved_ms": ms})
            if found != state:
                return found == "reserved"
            after = account if opened else self._change(*books.reservation(account, key, ms, purpose))
            if after is not None:
                opened = opened or {"reserved_ms": ms, "purpose": purpose}
                self._reservations.note(key, "reserving", "reserved", after, **opened)
                return True

    def _settle(self, key: str, used_ms: int | None, stages: Mapping[str, float] | None = None) -> float:
        """Charge ``used_ms``, or the whole reservation where that is None."""
        entry = self._reservations[key]
        if entry["state"] in UNSETTLED:
            entry = self._begin_settling(key, used_ms, stages)
        if entry["state"] == "settling":
            self._close(entry)
        return float(entry["charged_ms"] / MS_PER_CPU_H)

    def _begin_settling(self, key: str, used_ms: int | None, stages: Mapping[str, float] | None) -> Entry:
        account = self._account(key)
        opened = books.opened(account, key)
        if opened is None:
            entry = self._reservations[key]
            if entry["state"] in UNSETTLED:
                raise SelectorError(f"campaign '{self._campaign}': reservation {key} was never made; nothing to settle")
            return entry
        self._reservations.note(key, "reserving", "reserved", account, **opened)
        charged = opened["reserved_ms"] if used_ms is None else min(used_ms, opened["reserved_ms"])
        used = {} if used_ms is None else {"used_ms": used_ms}
        charge = {**opened, **used, "charged_ms": charged, "stages_ms": split_ms(charged, stages)}
        return self._reservations.begin_settling(key, charge)

    def _close(self, entry: Entry) -> None:
        after = self._change(*books.closing(entry)) or self._account()
        self._reservations.note(entry["_id"], "settling", "settled", after)

    # -- the account -------------------------------------------------------------------------------------------------

    def _account(self, key: str | None = None) -> dict[str, Any]:
        """The account but for its open reservations, of which only ``key`` is read."""
        account: dict[str, Any] = self._document(_ACCOUNT | ({f"ledger.open.{key}": 1} if key else {}))["ledger"]
        return account

    def _document(self, fields: Mapping[str, Any]) -> dict[str, Any]:
        document: dict[str, Any] | None = self._campaigns.find_one({"_id": self._campaign}, fields)
        if document is None:
            raise SelectorError(f"campaign '{self._campaign}' does not exist; create it with `selector init`")
        return document

    def _change(self, query: Mapping[str, Any], update: Mapping[str, Any]) -> dict[str, Any] | None:
        """Change the account if it meets ``query``; its sums after that, or None."""
        document: dict[str, Any] | None = self._campaigns.find_one_and_update(
            {"_id": self._campaign, **query}, update, projection=_SUMS, return_document=ReturnDocument.AFTER
        )
        return document["ledger"] if document else None


def _known(purpose: str) -> str:
    if purpose not in books.PURPOSES:
        raise SelectorError(f"'{purpose}' is no purpose of the ledger; use one of {', '.join(books.PURPOSES)}")
    return purpose
