"""The ledger: never above budget, sums exact, every operation repeatable."""

from __future__ import annotations

import subprocess
import sys
from typing import Any, ClassVar

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, initialize, invariant, rule
from pymongo.database import Database

from selector.errors import SelectorError
from selector.ledger import MS_PER_CPU_H, Ledger


def open_account(db: Database[Any], budget_cpu_h: float) -> Ledger:
    db["campaigns"].insert_one({"_id": "c", "ledger": Ledger.opening(budget_cpu_h)})
    return Ledger(db, "c")


def test_a_calculation_is_reserved_settled_and_the_rest_refunded(database: Database[Any]) -> None:
    ledger = open_account(database, 10.0)
    assert ledger.reserve("a", 4.0, material_id="m")
    assert ledger.totals().available_cpu_h == 6.0
    assert ledger.settle("a", 1.5) == 1.5
    totals = ledger.totals()
    assert (totals.spent_cpu_h, totals.reserved_cpu_h, totals.available_cpu_h) == (1.5, 0.0, 8.5)
    assert ledger.charged() == {"m": 1.5}
    assert [row["event"] for row in ledger.history()] == ["reserve", "settle"]


def test_what_does_not_fit_is_refused_and_leaves_no_trace(database: Database[Any]) -> None:
    ledger = open_account(database, 1.0)
    assert not ledger.reserve("a", 1.1)
    assert ledger.totals().available_cpu_h == 1.0
    assert ledger.reserve("a", 1.0)
    assert not ledger.reserve("b", 1e-6)


def test_a_charge_is_at_most_the_reservation_and_what_was_used_is_kept(database: Database[Any]) -> None:
    ledger = open_account(database, 2.0)
    ledger.reserve("a", 1.0)
    assert ledger.settle("a", 1.3) == 1.0
    assert database["ledger"].find_one({"_id": "a"})["used_ms"] == round(1.3 * MS_PER_CPU_H)


def test_what_vanished_is_charged_in_full_and_what_never_started_not_at_all(database: Database[Any]) -> None:
    ledger = open_account(database, 2.0)
    ledger.reserve("a", 0.5)
    ledger.reserve("b", 0.5)
    assert ledger.charge_in_full("a") == 0.5
    ledger.refund("b")
    assert ledger.totals().available_cpu_h == 1.5


def test_a_settled_key_is_never_reserved_again(database: Database[Any]) -> None:
    ledger = open_account(database, 2.0)
    ledger.reserve("a", 0.5)
    ledger.settle("a", 0.1)
    assert not ledger.reserve("a", 0.5)
    assert ledger.settle("a", 0.4) == 0.1


def test_an_unknown_key_is_an_error(database: Database[Any]) -> None:
    with pytest.raises(SelectorError, match="no reservation zzz"):
        open_account(database, 1.0).settle("zzz", 0.1)


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
    assert ledger.reserve("a", 1.5)
    assert ledger.totals().reserved_cpu_h == 1.5
    assert ledger.charge_in_full("a") == 1.5
    assert ledger.totals().available_cpu_h == 0.5


class Account(RuleBasedStateMachine):
    """Any order of operations, repeated ones and unknown outcomes included."""

    keys = Bundle("keys")
    # In a list: hypothesis looks at every attribute, and a pymongo Database answers to any name.
    databases: ClassVar[list[Database[Any]]] = []

    @property
    def _db(self) -> Database[Any]:
        return self.databases[0]

    @initialize()
    def begin(self) -> None:
        self._db["campaigns"].delete_many({})
        self._db["ledger"].delete_many({})
        self.ledger = open_account(self._db, 5.0)
        self.open: dict[str, int] = {}
        self.spent = 0
        self.n = 0

    @rule(target=keys, cpu_h=st.floats(0.01, 3.0))
    def reserve(self, cpu_h: float) -> str:
        key, amount = f"k{self.n}", round(cpu_h * MS_PER_CPU_H)
        self.n += 1
        fits = amount <= 5 * MS_PER_CPU_H - self.spent - sum(self.open.values())
        assert self.ledger.reserve(key, cpu_h) == fits
        if fits:
            self.open[key] = amount
        return key

    @rule(key=keys, cpu_h=st.floats(0.0, 4.0))
    def settle(self, key: str, cpu_h: float) -> None:
        if key in self.open:
            self.spent += min(round(cpu_h * MS_PER_CPU_H), self.open.pop(key))
            self.ledger.settle(key, cpu_h)

    @rule(key=keys)
    def settle_again(self, key: str) -> None:
        if key not in self.open and self._db["ledger"].find_one({"_id": key}):
            self.ledger.settle(key, 1.0)

    @rule(key=keys)
    def vanish(self, key: str) -> None:
        if key in self.open:
            self.spent += self.open.pop(key)
            self.ledger.charge_in_full(key)

    @invariant()
    def sums_are_exact(self) -> None:
        account = self._db["campaigns"].find_one({"_id": "c"})["ledger"]
        assert account["spent_ms"] == self.spent
        assert account["reserved_ms"] == sum(self.open.values()) == sum(account["open"].values())
        assert account["available_ms"] == account["budget_ms"] - account["spent_ms"] - account["reserved_ms"] >= 0


def test_any_sequence_keeps_the_books(database: Database[Any]) -> None:
    machine = type("BoundAccount", (Account,), {"databases": [database]})
    case = machine.TestCase
    case.settings = settings(max_examples=15, stateful_step_count=20)
    case("runTest").runTest()


TRADE = """
import random, sys
from pymongo import MongoClient
from selector.ledger import Ledger

uri, name, seed = sys.argv[1:]
rng = random.Random(int(seed))
ledger = Ledger(MongoClient(uri)[name], "c")
for i in range(40):
    # Some keys are shared between processes: only one reservation may come of them.
    key = f"s{i}" if i % 5 == 0 else f"p{seed}-{i}"
    if ledger.reserve(key, rng.uniform(0.01, 0.5)) and rng.random() < 0.9:
        ledger.settle(key, rng.uniform(0.0, 0.6))
"""


def test_four_processes_never_overspend(database: Database[Any], mongo_uri: str) -> None:
    ledger = open_account(database, 10.0)
    workers = [
        subprocess.Popen([sys.executable, "-c", TRADE, mongo_uri, database.name, str(seed)]) for seed in range(4)
    ]
    assert [worker.wait(60) for worker in workers] == [0, 0, 0, 0]
    account = database["campaigns"].find_one({"_id": "c"})["ledger"]
    settled = sum(e["charged_ms"] for e in database["ledger"].find({"state": "settled"}))
    reserved = sum(e["reserved_ms"] for e in database["ledger"].find({"state": "reserved"}))
    assert account["spent_ms"] == settled
    assert account["reserved_ms"] == reserved
    assert account["spent_ms"] + account["reserved_ms"] + account["available_ms"] == account["budget_ms"]
    assert account["available_ms"] >= 0
    assert ledger.totals().spent_cpu_h > 5.0
