"""The ledger: never above budget or caps, sums exact, every operation repeatable, whatever dies in between."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
from accounts import NO_AMOUNT, account_of, first_release, open_account
from hypothesis import given
from hypothesis import strategies as st
from pymongo.database import Database

from selector.amounts import split_ms
from selector.errors import SelectorError, UsageError
from selector.ledger import MS_PER_CPU_H, Ledger

# -- one reservation ---------------------------------------------------------------------------------------------------


def test_a_calculation_is_reserved_settled_and_the_rest_refunded(database: Database[Any]) -> None:
    ledger = open_account(database, 10.0)
    assert ledger.reserve("a", 4.0, material_id="m")
    assert ledger.reserved("a")
    assert ledger.totals().available_cpu_h == 6.0
    assert ledger.settle("a", 1.5) == 1.5
    assert not ledger.reserved("a")
    totals = ledger.totals()
    assert (totals.spent_cpu_h, totals.reserved_cpu_h, totals.available_cpu_h) == (1.5, 0.0, 8.5)
    assert ledger.charged() == {"m": 1.5}
    rows = [(row["event"], row["cpu_h"], row["spent_cpu_h"], row["reserved_cpu_h"]) for row in ledger.history()]
    assert rows == [("reserve", 4.0, 0.0, 4.0), ("settle", 1.5, 1.5, 0.0)]


def test_what_does_not_fit_is_refused_and_leaves_no_trace(database: Database[Any]) -> None:
    ledger = open_account(database, 1.0)
    assert not ledger.reserve("a", 1.1)
    assert ledger.totals().available_cpu_h == 1.0
    assert database["ledger"].count_documents({}) == 0
    assert ledger.reserve("a", 1.0)
    assert not ledger.reserve("b", 1e-6)


def test_a_charge_is_at_most_the_reservation_and_what_was_used_is_kept(database: Database[Any]) -> None:
    ledger = open_account(database, 2.0)
    ledger.reserve("a", 1.0)
    assert ledger.settle("a", 1.3) == 1.0
    entry = database["ledger"].find_one({"_id": "a"})
    assert entry is not None and entry["used_ms"] == round(1.3 * MS_PER_CPU_H)


def test_what_vanished_is_charged_in_full_and_what_never_started_not_at_all(database: Database[Any]) -> None:
    ledger = open_account(database, 2.0)
    ledger.reserve("a", 0.5)
    ledger.reserve("b", 0.5)
    assert ledger.charge_in_full("a") == 0.5
    ledger.refund("b")
    assert ledger.totals().available_cpu_h == 1.5


def test_a_key_is_reserved_and_settled_once_ever(database: Database[Any]) -> None:
    ledger = open_account(database, 2.0)
    assert ledger.reserve("a", 0.5)
    assert ledger.reserve("a", 1.9)
    assert ledger.totals().reserved_cpu_h == 0.5
    ledger.settle("a", 0.1)
    assert not ledger.reserve("a", 0.5)
    assert ledger.settle("a", 0.4) == ledger.charge_in_full("a") == 0.1
    assert ledger.totals().spent_cpu_h == 0.1


def test_what_was_never_reserved_is_an_error(database: Database[Any]) -> None:
    ledger = open_account(database, 1.0)
    for close in (
        lambda: ledger.settle("zzz", 0.1),
        lambda: ledger.refund("zzz"),
        lambda: ledger.charge_in_full("zzz"),
    ):
        with pytest.raises(SelectorError, match="no reservation zzz"):
            close()
    database["ledger"].insert_one({"_id": "a", "campaign": "c", "state": "reserving", "reserved_ms": 1000})
    with pytest.raises(SelectorError, match="reservation a was never made"):
        ledger.settle("a", 0.1)
    assert account_of(database)["spent_ms"] == 0


def test_campaigns_share_no_reservation_and_a_missing_one_is_an_error(database: Database[Any]) -> None:
    ledger = open_account(database, 1.0)
    ledger.reserve("a", 0.5)
    database["campaigns"].insert_one({"_id": "d", "ledger": Ledger.opening(1.0)})
    with pytest.raises(SelectorError, match=r"campaign 'd'.*no reservation a"):
        Ledger(database, "d").settle("a", 0.1)
    with pytest.raises(SelectorError, match="'e' does not exist"):
        Ledger(database, "e").reserve("b", 0.1)


# -- purposes, stages, caps --------------------------------------------------------------------------------------------


def test_charges_are_booked_by_purpose_and_by_stage(database: Database[Any]) -> None:
    ledger = open_account(database, 100.0, 0.1)
    ledger.reserve("r", 10.0)
    ledger.reserve("i", 10.0, purpose="ipa")
    ledger.reserve("a", 10.0, purpose="audit")
    ledger.settle("r", 8.0, {"ground_state": 1.0, "ipa": 2.0, "rpa": 4.0})
    ledger.settle("i", 3.0, {"ground_state": 1.0, "ipa": 2.0})
    ledger.charge_in_full("a")
    ledger.book("fit", 0.5)
    totals = ledger.totals()
    assert totals.by_purpose == {"rpa": 8.0, "ipa": 3.0, "audit": 10.0, "learn": 0.5}
    assert totals.by_stage == {"ground_state": 2.0, "ipa": 4.0, "rpa": 4.0, "other": 11.5}
    assert totals.n_by_purpose == {"rpa": 1, "ipa": 1, "audit": 1, "learn": 1}
    assert (totals.available_cpu_h, totals.audit_available_cpu_h) == (78.5, 0.0)
    account_of(database)


def test_only_the_audit_draws_on_its_share_until_it_is_released(database: Database[Any]) -> None:
    ledger = open_account(database, 10.0, 0.2)
    assert not ledger.reserve("r", 8.5)
    assert not ledger.reserve("a", 2.5, purpose="audit")
    assert ledger.reserve("a", 1.5, purpose="audit")
    assert ledger.totals().audit_available_cpu_h == 0.5
    assert ledger.release_audit() == 0.5
    assert ledger.release_audit() == 0.0
    assert not ledger.reserve("a2", 0.1, purpose="audit")
    ledger.settle("a", 0.5)
    assert ledger.release_audit() == 1.0
    assert ledger.reserve("r", 9.5)
    assert account_of(database)["available_ms"] == 0


def test_caps_in_hours_and_in_number_hold_and_are_named(database: Database[Any]) -> None:
    ledger = open_account(database, 100.0, 0.0, {"rpa": 5.0}, {"ipa": 2})
    assert ledger.why_not(5.0) is None
    assert ledger.reserve("r1", 4.0)
    assert not ledger.reserve("r2", 1.5)
    assert ledger.why_not(1.5) == "cap: 1.5000 CPU-h wanted, 1.0000 left of the 5 CPU-h for 'rpa'"
    ledger.settle("r1", 1.0)
    assert ledger.reserve("r2", 4.0)
    assert ledger.reserve("i1", 1.0, purpose="ipa")
    assert ledger.reserve("i2", 1.0, purpose="ipa")
    assert not ledger.reserve("i3", 1.0, purpose="ipa")
    assert ledger.why_not(1.0, "ipa") == "cap: 2 of 2 calculations for 'ipa' are made or in flight"
    ledger.refund("i1")
    assert ledger.why_not(1.0, "ipa") is None
    assert ledger.reserve("i3", 1.0, purpose="ipa")
    ledger.charge_in_full("i3")
    assert not ledger.reserve("i4", 1.0, purpose="ipa")
    assert ledger.why_not(1000.0, "learn") == "1000.0000 CPU-h wanted, 93.0000 left of the budget"
    assert "left of the audit's share" in (ledger.why_not(1.0, "audit") or "")
    account_of(database)


def test_a_booking_is_charged_once_and_at_most_what_is_left(database: Database[Any]) -> None:
    ledger = open_account(database, 1.0)
    assert ledger.book("fit-1", 0.4, material_id="m") == 0.4
    assert ledger.book("fit-1", 0.4) == 0.4
    assert ledger.book("fit-2", 0.7) == 0.6
    assert ledger.book("fit-3", 0.1) == 0.0
    assert ledger.book("fit-4", 0.0) == 0.0
    assert (ledger.totals().spent_cpu_h, ledger.totals().n_by_purpose["learn"]) == (1.0, 2)
    used = {e["_id"]: e["used_ms"] / MS_PER_CPU_H for e in database["ledger"].find()}
    assert used == {"fit-1": 0.4, "fit-2": 0.7, "fit-3": 0.1, "fit-4": 0.0}
    assert [row["event"] for row in ledger.history()] == ["settle"] * 4
    assert ledger.charged() == {"m": 0.4}


def test_a_booking_keeps_to_the_caps(database: Database[Any]) -> None:
    ledger = open_account(database, 10.0, 0.0, {"learn": 0.5}, {"ipa": 1})
    assert ledger.book("fit", 2.0) == 0.5
    assert ledger.book("late-1", 1.0, "ipa") == 1.0
    assert ledger.book("late-2", 1.0, "ipa") == 0.0
    account_of(database)


def test_a_larger_budget_serves_the_audit_too(database: Database[Any]) -> None:
    ledger = open_account(database, 10.0, 0.1)
    ledger.add_budget(10.0)
    totals = ledger.totals()
    assert (totals.budget_cpu_h, totals.available_cpu_h, totals.audit_available_cpu_h) == (20.0, 18.0, 2.0)
    account_of(database)


amounts = st.floats(0.0, 100.0)


@given(st.integers(0, 10**9), st.dictionaries(st.sampled_from(["ground_state", "ipa", "rpa", "other"]), amounts))
def test_stages_sum_to_the_charge_and_keep_their_proportions(charged_ms: int, stages: dict[str, float]) -> None:
    parts = split_ms(charged_ms, stages)
    took = {stage: round(cpu_h * MS_PER_CPU_H) for stage, cpu_h in stages.items()}
    assert sum(parts.values()) == charged_ms
    assert all(ms > 0 for ms in parts.values())
    whole = max(charged_ms, sum(took.values()))
    for stage in took.keys() - {"other"}:
        assert abs(parts.get(stage, 0) * whole - took[stage] * charged_ms) <= whole


# -- bad input ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("amount", [0.0, *NO_AMOUNT])
def test_an_amount_that_is_none_is_refused_and_changes_nothing(database: Database[Any], amount: Any) -> None:
    ledger = open_account(database, 10.0)
    ledger.reserve("open", 1.0)
    before = account_of(database)
    bad: list[Callable[[], Any]] = [
        lambda: ledger.reserve("a", amount),
        lambda: ledger.why_not(amount),
        lambda: ledger.add_budget(amount),
    ]
    if amount != 0.0:
        bad += [
            lambda: ledger.settle("open", amount),
            lambda: ledger.settle("open", 0.5, {"rpa": amount}),
            lambda: ledger.book("b", amount),
        ]
    for action in bad:
        with pytest.raises(SelectorError, match=r"CPU-hours cannot be booked; give a"):
            action()
    assert account_of(database) == before
    assert database["ledger"].count_documents({}) == 1


@pytest.mark.parametrize(
    ("limits", "message"),
    [
        ((0.0,), "budget: 0.0 CPU-hours"),
        *(((amount,), "budget: ") for amount in NO_AMOUNT),
        ((1.0, 1.5), "audit fraction 1.5"),
        ((1.0, -0.1), "audit fraction -0.1"),
        ((1.0, math.nan), "audit fraction nan"),
        ((1.0, 0.0, {"bse": 1.0}), "cap for 'bse'"),
        ((1.0, 0.0, {"rpa": -1.0}), "cap for 'rpa': -1.0"),
        ((1.0, 0.0, {}, {"rpa": 1.5}), "1.5 calculations"),
        ((1.0, 0.0, {}, {"rpa": -1}), "-1 calculations"),
    ],
)
def test_an_account_with_bad_limits_is_not_opened(limits: tuple[Any, ...], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        Ledger.opening(*limits)


def test_names_that_are_none_are_refused(database: Database[Any]) -> None:
    ledger = open_account(database, 1.0)
    for key in ("a.b", "$a", "", "a b"):
        with pytest.raises(SelectorError, match="letters, digits"):
            ledger.reserve(key, 0.1)
    for call in (lambda: ledger.reserve("a", 0.1, purpose="bse"), lambda: ledger.why_not(0.1, "bse")):
        with pytest.raises(SelectorError, match="'bse' is no purpose"):
            call()
    ledger.reserve("a", 0.1)
    with pytest.raises(SelectorError, match=r"stage 'x\.y'"):
        ledger.settle("a", 0.1, {"x.y": 0.1})
    assert ledger.totals().spent_cpu_h == 0.0


@pytest.mark.parametrize(
    ("change", "promise"),
    [
        ({"$inc": {"ledger.available_ms": 1}}, "budget = "),
        ({"$inc": {"ledger.available_ms": 1, "ledger.reserved_ms": -1}}, "reserved = "),
        ({"$inc": {"ledger.available_ms": -1, "ledger.spent_ms": 1}}, "spent = "),
        ({"$inc": {"ledger.budget_ms": 0.5, "ledger.available_ms": 0.5}}, "whole"),
        ({"$unset": {"ledger.open.a": ""}}, "reserved = "),
        ({"$set": {"ledger.open.a.purpose": "ipa"}}, "'ipa': taken"),
        ({"$set": {"ledger.caps_ms.rpa": 1}}, "'rpa': within its caps"),
        ({"$set": {"ledger.purposes.rpa.n": 0}}, "'rpa': at least"),
    ],
)
def test_an_account_that_was_tampered_with_is_noticed(
    database: Database[Any], change: dict[str, Any], promise: str
) -> None:
    ledger = open_account(database, 2.0)
    ledger.reserve("a", 1.0)
    ledger.reconcile()
    database["campaigns"].update_one({"_id": "c"}, change)
    with pytest.raises(SelectorError, match=promise):
        ledger.reconcile()


# -- accounts of the first release -------------------------------------------------------------------------------------


def test_an_account_of_the_first_release_is_read(database: Database[Any]) -> None:
    totals = first_release(database).totals()
    assert (totals.budget_cpu_h, totals.spent_cpu_h, totals.reserved_cpu_h, totals.available_cpu_h) == (10, 2, 4, 4)
    assert (totals.audit_available_cpu_h, totals.by_purpose, totals.by_stage, totals.n_by_purpose) == (0, {}, {}, {})
    account_of(database)


def test_an_account_of_the_first_release_goes_on(database: Database[Any]) -> None:
    ledger = first_release(database)
    ledger.reconcile()
    states = {e["_id"]: e["state"] for e in database["ledger"].find()}
    assert states == {
        "reserved": "reserved",
        "reserving": "reserved",
        "unmade": "reserving",
        "settling": "settled",
        "closed": "settled",
        "settled": "settled",
    }
    assert ledger.totals().spent_cpu_h == 2.5
    assert ledger.reserve("unmade", 1.5)
    assert ledger.reserve("new", 1.0, purpose="ipa")
    assert not ledger.reserve("audit", 0.1, purpose="audit")
    assert ledger.settle("reserved", 0.75, {"rpa": 0.5}) == 0.75
    assert ledger.charge_in_full("reserving") == 2.0
    assert ledger.settle("unmade", 1.0) == 1.0
    ledger.refund("new")
    ledger.add_budget(1.0)
    assert ledger.release_audit() == 0.0
    totals = ledger.totals()
    assert (totals.spent_cpu_h, totals.reserved_cpu_h, totals.available_cpu_h) == (6.25, 0.0, 4.75)
    assert totals.by_purpose == {"rpa": 4.25, "ipa": 0.0}
    assert totals.n_by_purpose == {"rpa": 4, "ipa": 0}
    assert ledger.charged()["m-reserving"] == 2.0
    assert len([row for row in ledger.history() if row["event"] == "settle"]) == 7
    account_of(database)
