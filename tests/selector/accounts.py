"""Accounts to be tested: a fresh one, one of the first release, and one whose writes end where fate has it."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from pymongo.database import Database

from selector.ledger import MS_PER_CPU_H, Ledger, check

NO_AMOUNT = [-1.0, -1e-9, math.nan, math.inf, -math.inf, 1e300, None, "much"]


def open_account(db: Database[Any], budget_cpu_h: float, *limits: Any) -> Ledger:
    db["campaigns"].insert_one({"_id": "c", "ledger": Ledger.opening(budget_cpu_h, *limits)})
    return Ledger(db, "c")


def account_of(db: Database[Any]) -> dict[str, Any]:
    document = db["campaigns"].find_one({"_id": "c"})
    assert document is not None
    check(document)
    account: dict[str, Any] = document["ledger"]
    return account


def first_release(db: Database[Any]) -> Ledger:
    """An account as the first release left it, at each point where it can have died."""
    h = MS_PER_CPU_H
    account = {"budget_ms": 10 * h, "available_ms": 4 * h, "reserved_ms": 4 * h, "spent_ms": 2 * h}
    account["open"] = {"reserved": h, "reserving": 2 * h, "settling": h}
    db["campaigns"].insert_one({"_id": "c", "ledger": account})
    noted = {"reserved_at": "2026-11-21T08:00:00+00:00", "reserved_totals": {"spent_ms": 0, "reserved_ms": h}}
    settled = {"settled_at": "2026-11-21T09:00:00+00:00", "settled_totals": {"spent_ms": h, "reserved_ms": 0}}
    charge = {"charged_ms": h, "used_ms": h}
    states: dict[str, dict[str, Any]] = {
        "reserved": noted,
        "reserving": {"reserved_ms": 2 * h},
        "unmade": {"state": "reserving"},
        "settling": {**noted, "charged_ms": h // 2, "used_ms": h // 2},
        "closed": {"state": "settling", **noted, **charge},
        "settled": {**noted, **charge, **settled},
    }
    for key, entry in states.items():
        about = {"material_id": f"m-{key}", "level": "rpa", "attempt": 1}
        db["ledger"].insert_one({"_id": key, "campaign": "c", "state": key, "reserved_ms": h, **about, **entry})
    return Ledger(db, "c")


class Crash(BaseException):
    """The process died."""


class Fuse:
    """Burns before and after every write, and kills when it is burnt down."""

    def __init__(self) -> None:
        self.left: int | None = None

    def burn(self) -> None:
        if self.left is not None:
            self.left -= 1
            if self.left == 0:
                raise Crash


class Brittle:
    """A database, or one of its collections, whose writes burn the fuse."""

    def __init__(self, target: Any, fuse: Fuse, meanwhile: Callable[[], None] = lambda: None) -> None:
        self._target, self._fuse, self._meanwhile = target, fuse, meanwhile

    def __getitem__(self, name: str) -> Brittle:
        return Brittle(self._target[name], self._fuse, self._meanwhile)

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._target, name)
        if name.startswith("find") and name != "find_one_and_update":
            return method

        def write(*args: Any, **kwargs: Any) -> Any:
            self._meanwhile()
            self._fuse.burn()
            result = method(*args, **kwargs)
            self._fuse.burn()
            return result

        return write
