"""The account of a campaign: what stands in it, what a change does to it, and what is always true of it.

Pure functions of the field ``ledger`` of the campaign's document, which `selector.ledger` applies atomically. Amounts
are whole CPU-milliseconds, so that sums are exact; at every moment, with no term below zero::

    budget_ms = spent_ms + reserved_ms + available_ms + audit_available_ms

``open`` holds each open reservation under its key (``ms``, ``purpose``); ``purposes`` what each purpose has taken
(``taken_ms``: spent or reserved; ``spent_ms``; ``n``: calculations open or charged); ``stages`` what was spent on each;
``caps_ms`` and ``caps_n`` what a purpose may take. ``closings`` counts the reservations that were closed. Accounts of
the first release have neither purposes, stages, caps nor an audit pot, and whole numbers in ``open``.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from selector.amounts import MOST_MS, MS_PER_CPU_H, OTHER_STAGE, to_ms
from selector.errors import SelectorError, UsageError

Account = Mapping[str, Any]

PURPOSES = ("ipa", "rpa", "learn", "audit")
_SUMS = ("budget", "spent", "reserved", "available", "audit_available")
FIELDS = (*(f"{name}_ms" for name in _SUMS), "audit_fraction", "purposes", "stages", "caps_ms", "caps_n", "closings")
"""All but ``open``, which may be long."""
_FIRST_PURPOSE = "rpa"


@dataclass(frozen=True)
class Totals:
    """CPU-hours; ``budget = spent + reserved + available + audit_available`` at every moment.

    Attributes
    ----------
    available_cpu_h, audit_available_cpu_h : what is left for all but the audit, and for the audit alone
    by_purpose, by_stage : CPU-hours spent per purpose ("ipa", "rpa", "learn", "audit") and per stage ("ground_state",
        "ipa", "rpa"; "other" is what no stage was named for)
    n_by_purpose : calculations open or charged; what was refunded does not count
    """

    budget_cpu_h: float
    spent_cpu_h: float
    reserved_cpu_h: float
    available_cpu_h: float
    audit_available_cpu_h: float = 0.0
    by_purpose: dict[str, float] = field(default_factory=dict)
    by_stage: dict[str, float] = field(default_factory=dict)
    n_by_purpose: dict[str, int] = field(default_factory=dict)


def opening(
    budget_cpu_h: float,
    audit_fraction: float = 0.0,
    caps_cpu_h: Mapping[str, float] | None = None,
    caps_n: Mapping[str, int] | None = None,
) -> dict[str, Any]:
    """The account as it stands in a new campaign's document.

    Parameters
    ----------
    budget_cpu_h : CPU-hours, above zero
    audit_fraction : share of the budget that only ``purpose="audit"`` may take, 0 <= audit_fraction < 1
    caps_cpu_h, caps_n : the most that a purpose may take, in CPU-hours and in calculations

    Raises
    ------
    UsageError
        A figure is out of its range, or a cap is for an unknown purpose.
    """
    if not 0.0 <= audit_fraction < 1.0:
        raise UsageError(f"audit fraction {audit_fraction}: give a share of the budget from 0 to below 1")
    caps_cpu_h, caps_n = caps_cpu_h or {}, caps_n or {}
    for purpose in (*caps_cpu_h, *caps_n):
        if purpose not in PURPOSES:
            raise UsageError(f"a cap for '{purpose}': there is no such purpose; use one of {', '.join(PURPOSES)}")
    for purpose, n in caps_n.items():
        if not (isinstance(n, int) and 0 <= n <= MOST_MS):
            raise UsageError(f"cap of {n!r} calculations for '{purpose}': give a whole number from 0")
    try:
        budget_ms = to_ms(budget_cpu_h, "budget", zero=False)
        caps_ms = {purpose: to_ms(cap, f"cap for '{purpose}'") for purpose, cap in caps_cpu_h.items()}
    except SelectorError as e:
        raise UsageError(str(e)) from None
    audit_ms = round(budget_ms * audit_fraction)
    return {
        "budget_ms": budget_ms,
        "available_ms": budget_ms - audit_ms,
        "audit_available_ms": audit_ms,
        "audit_fraction": float(audit_fraction),
        "reserved_ms": 0,
        "spent_ms": 0,
        "open": {},
        "purposes": {purpose: {"taken_ms": 0, "spent_ms": 0, "n": 0} for purpose in PURPOSES},
        "stages": {},
        "caps_ms": caps_ms,
        "caps_n": dict(caps_n),
        "closings": 0,
    }


def opened(account: Account, key: str) -> dict[str, Any] | None:
    """The open reservation under ``key``: ``reserved_ms`` and, but for one of the first release, ``purpose``."""
    entry = account.get("open", {}).get(key)
    if entry is None:
        return None
    if isinstance(entry, int):
        return {"reserved_ms": entry}
    return {"reserved_ms": entry["ms"], "purpose": entry["purpose"]}


def room_ms(account: Account, purpose: str) -> int:
    """The largest reservation for ``purpose`` that the account can take now."""
    cap_ms, cap_n = (account.get(caps, {}).get(purpose) for caps in ("caps_ms", "caps_n"))
    if cap_n is not None and account["purposes"][purpose]["n"] >= cap_n:
        return 0
    left: int = account.get(_pot(purpose), 0)
    return left if cap_ms is None else min(left, cap_ms - account["purposes"][purpose]["taken_ms"])


def cap_left_ms(account: Account, purpose: str) -> float:
    """What the cap for ``purpose`` leaves it; infinite without a cap."""
    cap_ms = account.get("caps_ms", {}).get(purpose)
    return math.inf if cap_ms is None else cap_ms - account["purposes"][purpose]["taken_ms"]


def refusal(account: Account, ms: int, purpose: str) -> str | None:
    """Why ``ms`` can't be reserved for ``purpose``, in words; None if it can."""
    if ms <= room_ms(account, purpose):
        return None
    wanted = f"{ms / MS_PER_CPU_H:.4f} CPU-h wanted"
    left = account.get(_pot(purpose), 0)
    if ms > left:
        pot = "the audit's share of the budget" if purpose == "audit" else "the budget"
        return f"{wanted}, {left / MS_PER_CPU_H:.4f} left of {pot}"
    taken, cap_ms, cap_n = (account[k].get(purpose) for k in ("purposes", "caps_ms", "caps_n"))
    if cap_n is not None and taken["n"] >= cap_n:
        return f"cap: {taken['n']} of {cap_n} calculations for '{purpose}' are made or in flight"
    rest = (cap_ms - taken["taken_ms"]) / MS_PER_CPU_H
    return f"cap: {wanted}, {rest:.4f} left of the {cap_ms / MS_PER_CPU_H:g} CPU-h for '{purpose}'"


def reservation(account: Account, key: str, ms: int, purpose: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Conditions and update that set ``ms`` aside under ``key``, if nothing was closed since ``account`` was read.

    A key that was not yet closed before that reading is then not closed at the update either: none is opened twice.
    """
    pot, purse = f"ledger.{_pot(purpose)}", f"ledger.purposes.{purpose}"
    query: dict[str, Any] = {f"ledger.open.{key}": {"$exists": False}, "ledger.closings": account.get("closings")}
    if ms:
        query[pot] = {"$gte": ms}
    if (cap_ms := account.get("caps_ms", {}).get(purpose)) is not None:
        query[f"{purse}.taken_ms"] = {"$lte": cap_ms - ms}
    if (cap_n := account.get("caps_n", {}).get(purpose)) is not None and ms:
        query[f"{purse}.n"] = {"$lt": cap_n}
    # In an account of the first release the purse is made here.
    taken = {f"{purse}.taken_ms": ms, f"{purse}.spent_ms": 0, f"{purse}.n": int(ms > 0)}
    update = {
        "$inc": {pot: -ms, "ledger.reserved_ms": ms, **taken},
        "$set": {f"ledger.open.{key}": {"ms": ms, "purpose": purpose}},
    }
    return query, update


def closing(entry: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Conditions and update that charge ``charged_ms`` of the reservation ``entry`` and give the rest back."""
    reserved, charged = entry["reserved_ms"], entry["charged_ms"]
    purpose = entry.get("purpose", _FIRST_PURPOSE)
    # What the first release reserved was never booked under a purpose.
    before = reserved if "purpose" in entry else 0
    stages = entry.get("stages_ms", {OTHER_STAGE: charged})
    purse = f"ledger.purposes.{purpose}"
    changes = {
        f"ledger.{_pot(purpose)}": reserved - charged,
        "ledger.reserved_ms": -reserved,
        "ledger.spent_ms": charged,
        "ledger.closings": 1,
        f"{purse}.taken_ms": charged - before,
        f"{purse}.spent_ms": charged,
        f"{purse}.n": int(charged > 0) - int(before > 0),
        **{f"ledger.stages.{stage}": ms for stage, ms in stages.items()},
    }
    place = f"ledger.open.{entry['_id']}"
    return {place: {"$exists": True}}, {"$inc": changes, "$unset": {place: ""}}


def totals(account: Account) -> Totals:
    """The account in CPU-hours."""
    purposes = account.get("purposes", {})
    sums = {f"{name}_cpu_h": account.get(f"{name}_ms", 0) / MS_PER_CPU_H for name in _SUMS}
    return Totals(
        **sums,
        by_purpose={name: purse["spent_ms"] / MS_PER_CPU_H for name, purse in purposes.items()},
        by_stage={name: ms / MS_PER_CPU_H for name, ms in account.get("stages", {}).items()},
        n_by_purpose={name: purse["n"] for name, purse in purposes.items()},
    )


def check(document: Mapping[str, Any]) -> None:
    """Whether the account in a campaign's document adds up.

    Raises
    ------
    SelectorError
        It does not; the message names the first promise that is broken.
    """
    account = document["ledger"]
    sums = {name: account.get(f"{name}_ms", 0) for name in _SUMS}
    holds = [opened(account, key) or {} for key in account["open"]]
    purposes, stages = account.get("purposes", {}), account.get("stages", {})
    booked = [purse["spent_ms"] for purse in purposes.values()], list(stages.values())
    # What the first release spent was booked under neither purpose nor stage.
    complete = operator.eq if "audit_fraction" in account else operator.le
    promises = {
        "amounts are whole and not negative": all(isinstance(ms, int) and ms >= 0 for ms in sums.values()),
        "budget = spent + reserved + available": 2 * sums["budget"] == sum(sums.values()),
        "reserved = sum of the open reservations": sums["reserved"] == sum(entry["reserved_ms"] for entry in holds),
        "spent = sum over purposes, and over stages": all(complete(sum(parts), sums["spent"]) for parts in booked),
        "no purpose or stage below zero": all(ms >= 0 for parts in booked for ms in parts),
    }
    for name, purse in purposes.items():
        own = [entry["reserved_ms"] for entry in holds if entry.get("purpose") == name]
        taken, n = purse["taken_ms"], purse["n"]
        cap_ms, cap_n = account.get("caps_ms", {}).get(name, taken), account.get("caps_n", {}).get(name, n)
        promises |= {
            f"'{name}': taken = spent + its open reservations": taken == purse["spent_ms"] + sum(own),
            f"'{name}': at least as many calculations as are open": n >= sum(ms > 0 for ms in own),
            f"'{name}': within its caps": taken <= cap_ms and n <= cap_n,
        }
    broken = [promise for promise, kept in promises.items() if not kept]
    if broken:
        raise SelectorError(
            f"campaign '{document.get('_id')}': its account does not add up ({broken[0]}); something else has changed "
            "the database: restore it from an export"
        )


def _pot(purpose: str) -> str:
    return "audit_available_ms" if purpose == "audit" else "available_ms"
