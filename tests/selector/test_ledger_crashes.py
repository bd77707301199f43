"""The account after a crash anywhere: by hand, and over any sequence of operations."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any, ClassVar

import pytest
from accounts import Brittle, Crash, Fuse, account_of, open_account
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, initialize, invariant, precondition, rule
from pymongo.database import Database

from selector.account import PURPOSES
from selector.errors import SelectorError
from selector.ledger import MS_PER_CPU_H, Ledger


def test_a_settlement_cut_short_is_finished_by_reconcile(database: Database[Any]) -> None:
    ledger = open_account(database, 2.0)
    ledger.reserve("a", 1.0)
    database["ledger"].update_one({"_id": "a"}, {"$set": {"state": "settling", "charged_ms": 1000, "used_ms": 1000}})
    ledger.reconcile()
    ledger.reconcile()
    assert ledger.totals().spent_cpu_h == 1000 / MS_PER_CPU_H
    assert ledger.totals().reserved_cpu_h == 0.0


def test_a_reservation_cut_short_is_made_anew_at_the_present_amount(database: Database[Any]) -> None:
    ledger = open_account(database, 2.0)
    entry = {"_id": "a", "campaign": "c", "state": "reserving", "reserved_ms": 1000, "material_id": "m"}
    database["ledger"].insert_one(entry)
    ledger.reconcile()
    assert not ledger.reserved("a")
    assert ledger.reserve("a", 1.5)
    assert ledger.totals().reserved_cpu_h == 1.5
    assert ledger.charge_in_full("a") == 1.5
    assert ledger.totals().available_cpu_h == 0.5


class Account(RuleBasedStateMachine):
    """Any order of operations, each cut short at any point, against a model that only counts."""

    keys = Bundle("keys")
    # In a list: hypothesis looks at every attribute, and a pymongo Database answers to any name.
    databases: ClassVar[list[Database[Any]]] = []

    @property
    def _db(self) -> Database[Any]:
        return self.databases[0]

    @initialize(audit=st.sampled_from([0.0, 0.2]), caps=st.booleans())
    def begin(self, audit: float, caps: bool) -> None:
        self._db["campaigns"].delete_many({})
        self._db["ledger"].delete_many({})
        self.cap_ms = {"rpa": round(2.5 * MS_PER_CPU_H)} if caps else {}
        self.cap_n = {"ipa": 2, "learn": 3} if caps else {}
        open_account(self._db, 5.0, audit, {"rpa": 2.5} if caps else {}, self.cap_n)
        self.fuse = Fuse()
        self.ledger = Ledger(Brittle(self._db, self.fuse), "c")  # type: ignore[arg-type]
        self.audit_fraction = audit
        self.share = {"audit": round(5 * audit * MS_PER_CPU_H)}
        self.share["main"] = 5 * MS_PER_CPU_H - self.share["audit"]
        self.open: dict[str, tuple[int, str]] = {}
        self.spent: dict[str, tuple[int, str]] = {}
        self.settling: dict[str, int] = {}
        self.booking: set[str] = set()
        self.n = 0

    # -- the model ---------------------------------------------------------------------------------------------------

    def taken(self, *purposes: str) -> int:
        return sum(ms for ms, p in [*self.open.values(), *self.spent.values()] if p in purposes)

    def count(self, purpose: str) -> int:
        return sum(ms > 0 for ms, p in [*self.open.values(), *self.spent.values()] if p == purpose)

    def left(self, pot: str) -> int:
        return self.share[pot] - self.taken(*(p for p in PURPOSES if (p == "audit") == (pot == "audit")))

    def room(self, purpose: str) -> int:
        room = self.left("audit" if purpose == "audit" else "main")
        if self.count(purpose) >= self.cap_n.get(purpose, math.inf):
            return 0
        return room if purpose not in self.cap_ms else min(room, self.cap_ms[purpose] - self.taken(purpose))

    def survives(self, action: Callable[[], Any], dies_at: int | None, *keys: str) -> tuple[bool, Any]:
        """Whether the action ran to its end, and what it returned; if not, see how far it came."""
        self.fuse.left = dies_at
        try:
            return True, action()
        except Crash:
            account = account_of(self._db)
            for key in keys:
                self.see(key, account["open"].get(key))
            return False, None
        finally:
            self.fuse.left = None

    def see(self, key: str, opened: dict[str, Any] | None) -> None:
        entry = self._db["ledger"].find_one({"_id": key})
        if entry is None:
            assert opened is None
            return
        if opened is not None:
            self.open[key] = opened["ms"], opened["purpose"]
            if entry["state"] == "settling":
                self.settling[key] = entry["charged_ms"]
        elif key in self.open or entry["state"] in ("settling", "settled"):
            self.close(key, entry["charged_ms"], entry["purpose"])
        if entry["state"] == "booking":
            self.booking.add(key)

    def close(self, key: str, ms: int, purpose: str) -> None:
        self.open.pop(key, None)
        self.settling.pop(key, None)
        self.booking.discard(key)
        self.spent[key] = ms, purpose

    # -- events ------------------------------------------------------------------------------------------------------

    hours = st.floats(1e-6, 3.0)
    purposes = st.sampled_from(PURPOSES)
    deaths = st.none() | st.integers(1, 12)

    @rule(target=keys, cpu_h=hours, purpose=purposes, dies_at=deaths)
    def reserve(self, cpu_h: float, purpose: str, dies_at: int | None) -> str:
        self.n += 1
        self.reserve_key(f"k{self.n}", cpu_h, purpose, dies_at)
        return f"k{self.n}"

    @rule(key=keys, cpu_h=hours, purpose=purposes, dies_at=deaths)
    def reserve_again(self, key: str, cpu_h: float, purpose: str, dies_at: int | None) -> None:
        self.reserve_key(key, cpu_h, purpose, dies_at)

    def reserve_key(self, key: str, cpu_h: float, purpose: str, dies_at: int | None) -> None:
        ms, known = max(1, round(cpu_h * MS_PER_CPU_H)), key in self.open or key in self.spent or key in self.booking
        fits = ms <= self.room(purpose)
        why_not = self.ledger.why_not(cpu_h, purpose)
        assert (why_not is None) == fits
        alive, reserved = self.survives(lambda: self.ledger.reserve(key, cpu_h, purpose=purpose), dies_at, key)
        if known:
            holds = key in self.open and key not in self.settling and key not in self.booking
            assert not alive or reserved == holds
        elif alive:
            assert reserved == fits
            if fits:
                self.open[key] = ms, purpose
        else:
            assert self.open.get(key, (ms, purpose)) == (ms, purpose)

    @rule(key=keys, cpu_h=st.none() | st.just(0.0) | st.floats(0.0, 4.0), stage=st.floats(0.0, 4.0), dies_at=deaths)
    def settle(self, key: str, cpu_h: float | None, stage: float, dies_at: int | None) -> None:
        """None: it vanished; 0: it never started."""
        ledger = self.ledger
        action: Callable[[], Any] = partial(ledger.settle, key, cpu_h or 0.0, {"rpa": stage, "ipa": 0.1})
        if not cpu_h:
            action = partial(ledger.charge_in_full if cpu_h is None else ledger.refund, key)
        if key not in self.open and key not in self.spent:
            with pytest.raises(SelectorError, match=r"no reservation|never made"):
                action()
            return
        alive, charged = self.survives(action, dies_at, key)
        if alive and key in self.open:
            ms, purpose = self.open[key]
            used = ms if cpu_h is None else min(ms, round(cpu_h * MS_PER_CPU_H))
            self.close(key, self.settling.get(key, used), purpose)
        if alive and cpu_h != 0.0:
            assert charged == self.spent[key][0] / MS_PER_CPU_H

    @rule(target=keys, cpu_h=st.floats(0.0, 2.0), purpose=purposes, dies_at=deaths)
    def book(self, cpu_h: float, purpose: str, dies_at: int | None) -> str:
        self.n += 1
        key, used = f"k{self.n}", round(cpu_h * MS_PER_CPU_H)
        fits = min(used, self.room(purpose))
        alive, charged = self.survives(lambda: self.ledger.book(key, cpu_h, purpose), dies_at, key)
        if alive:
            assert charged == fits / MS_PER_CPU_H
            self.close(key, fits, purpose)
        else:
            assert self.open.get(key, self.spent.get(key, (fits, purpose))) == (fits, purpose)
        return key

    @rule(cpu_h=st.floats(1e-6, 1.0), dies_at=st.none() | st.integers(1, 2))
    def add_budget(self, cpu_h: float, dies_at: int | None) -> None:
        ms = max(1, round(cpu_h * MS_PER_CPU_H))
        self.survives(lambda: self.ledger.add_budget(cpu_h), dies_at)
        if dies_at != 1:
            audit = round(ms * self.audit_fraction)
            self.share["audit"] += audit
            self.share["main"] += ms - audit

    @rule(dies_at=st.none() | st.integers(1, 2))
    @precondition(lambda self: self.left("audit") > 0)
    def release_audit(self, dies_at: int | None) -> None:
        left = self.left("audit")
        alive, released = self.survives(self.ledger.release_audit, dies_at)
        assert not alive or released == left / MS_PER_CPU_H
        if dies_at != 1:
            self.share["audit"] -= left
            self.share["main"] += left

    @rule(dies_at=deaths)
    def reconcile(self, dies_at: int | None) -> None:
        alive, _ = self.survives(self.ledger.reconcile, dies_at, *self.settling, *self.booking)
        if not alive:
            return
        for key, charge in list(self.settling.items()):
            self.close(key, charge, self.open[key][1])
        for key in list(self.booking):
            entry = self._db["ledger"].find_one({"_id": key})
            assert entry is not None and 0 <= entry["charged_ms"] <= entry["used_ms"]
            self.close(key, entry["charged_ms"], entry["purpose"])
        self.history_agrees()

    # -- what must hold ----------------------------------------------------------------------------------------------

    @invariant()
    def the_account_is_the_models(self) -> None:
        account = account_of(self._db)
        assert account["budget_ms"] == sum(self.share.values())
        assert (account["available_ms"], account["audit_available_ms"]) == (self.left("main"), self.left("audit"))
        assert account["open"] == {key: {"ms": ms, "purpose": p} for key, (ms, p) in self.open.items()}
        assert account["reserved_ms"] == sum(ms for ms, _ in self.open.values())
        assert account["spent_ms"] == sum(ms for ms, _ in self.spent.values())
        for purpose in PURPOSES:
            spent = sum(ms for ms, p in self.spent.values() if p == purpose)
            expected = {"taken_ms": self.taken(purpose), "spent_ms": spent, "n": self.count(purpose)}
            assert account["purposes"][purpose] == expected

    def history_agrees(self) -> None:
        history = {e["_id"]: e for e in self._db["ledger"].find()}
        settled = {k: (e["charged_ms"], e["purpose"]) for k, e in history.items() if e["state"] == "settled"}
        reserved = {k: (e["reserved_ms"], e["purpose"]) for k, e in history.items() if e["state"] == "reserved"}
        assert settled == self.spent
        assert reserved == self.open
        assert {e["state"] for e in history.values()} <= {"reserving", "reserved", "settled"}
        assert len([r for r in self.ledger.history() if r["event"] == "settle"]) == len(settled)

    def teardown(self) -> None:
        if hasattr(self, "ledger"):
            self.reconcile(None)
            self.the_account_is_the_models()


def test_any_sequence_cut_short_anywhere_keeps_the_books(database: Database[Any]) -> None:
    machine = type("BoundAccount", (Account,), {"databases": [database]})
    case = machine.TestCase
    case.settings = settings(max_examples=40, stateful_step_count=30)
    case("runTest").runTest()
