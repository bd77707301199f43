"""The ledger under processes that share keys, race, and kill themselves with SIGKILL between any two writes."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from pymongo.database import Database

from selector.account import PURPOSES
from selector.ledger import MS_PER_CPU_H, Ledger, check

TRADER = r'''
"""One of many processes that trade on one account: URI, database, seed, share, file of what is done."""
import os, random, signal, sys
from pathlib import Path
from pymongo import MongoClient, monitoring
from selector.account import PURPOSES
from selector.errors import SelectorError
from selector.ledger import Ledger

uri, name, seed, share, file = sys.argv[1:]
tally = os.open(file, os.O_CREAT | os.O_APPEND | os.O_WRONLY)


class Killer(monitoring.CommandListener):
    """SIGKILL at the n-th write: before it is sent, or after it is done and before its reply is read."""

    def __init__(self, rng):
        self.left, self.before = rng.randint(1, 120), rng.random() < 0.5

    def started(self, event):
        if event.command_name in ("insert", "update", "findAndModify"):
            self.left -= 1
            if self.left == 0 and self.before:
                os.kill(os.getpid(), signal.SIGKILL)

    def succeeded(self, event):
        if self.left == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    failed = succeeded


def trade(done):
    rng = random.Random(f"{seed} {done}")
    db = MongoClient(uri, event_listeners=[Killer(rng)])[name]
    ledger = Ledger(db, "c")
    while done < int(share):
        done += 1
        os.write(tally, b".")
        key, event = f"k{rng.randrange(4 * int(share))}", rng.random()
        if event < 0.5:
            ledger.reserve(key, rng.uniform(0.01, 0.5), purpose=rng.choice(PURPOSES), material_id=key)
        elif event < 0.9:
            close(ledger, db, rng, key)
        elif event < 0.96:
            ledger.book(f"b{key}", rng.uniform(0.0, 0.2), rng.choice(PURPOSES))
        else:
            ledger.reconcile()


def close(ledger, db, rng, key):
    """Close an open reservation, mostly; another process may be at the same one."""
    if rng.random() < 0.9:
        key = rng.choice([*db["campaigns"].find_one({"_id": "c"})["ledger"]["open"], key])
    how = rng.choice(["settle", "settle", "refund", "charge_in_full"])
    try:
        if how == "settle":
            ledger.settle(key, rng.uniform(0.0, 0.6), {"ground_state": rng.uniform(0.0, 0.2), "rpa": 0.1})
        else:
            getattr(ledger, how)(key)
    except SelectorError as e:
        assert "no reservation" in str(e) or "never made" in str(e), e


while (done := Path(file).stat().st_size) < int(share):
    child = os.fork()
    if child == 0:
        try:
            trade(done)
        except BaseException:
            import traceback
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL:
        print("killed", flush=True)
    elif status != 0:
        sys.exit(1)
'''


def the_account(db: Database[Any]) -> dict[str, Any]:
    document = db["campaigns"].find_one({"_id": "c"})
    assert document is not None
    check(document)
    account: dict[str, Any] = document["ledger"]
    assert account["spent_ms"] + account["reserved_ms"] <= account["budget_ms"]
    return account


@pytest.mark.parametrize(
    ("n_processes", "n_operations"), [(4, 240), pytest.param(8, 2000, marks=pytest.mark.slow, id="8-2000")]
)
def test_processes_that_die_anywhere_never_overspend_and_the_sums_are_exact(
    database: Database[Any], mongo_uri: str, tmp_path: Path, n_processes: int, n_operations: int
) -> None:
    budget = 0.03 * n_operations
    caps = {"caps_cpu_h": {"rpa": budget / 6}, "caps_n": {"ipa": n_operations // 40}}
    database["campaigns"].insert_one({"_id": "c", "ledger": Ledger.opening(budget, 0.1, **caps)})
    database["ledger"].create_index([("campaign", 1), ("state", 1)])
    share = str(n_operations // n_processes)
    command = [sys.executable, "-c", TRADER, mongo_uri, database.name]
    traders = [
        subprocess.Popen([*command, str(seed), share, str(tmp_path / str(seed))], stdout=subprocess.PIPE, text=True)
        for seed in range(n_processes)
    ]
    ledger, samples, least = Ledger(database, "c"), 0, budget * MS_PER_CPU_H
    while any(trader.poll() is None for trader in traders):
        least = min(least, the_account(database)["available_ms"])
        samples += 1
        if samples == 100:
            ledger.add_budget(0.1 * budget)
        time.sleep(0.003)
    deaths = sum(trader.communicate()[0].count("killed") for trader in traders)
    assert [trader.returncode for trader in traders] == [0] * n_processes
    assert sum((tmp_path / str(seed)).stat().st_size for seed in range(n_processes)) == n_operations
    assert deaths >= n_operations / 80, "hardly any process died: the test tests nothing"
    assert samples > 100
    print(f"{deaths} deaths, {samples} samples, least available {least / MS_PER_CPU_H:.3f} CPU-h")

    ledger.reconcile()
    account = the_account(database)
    entries = list(database["ledger"].find())
    settled = [e for e in entries if e["state"] == "settled"]
    reserved = [e for e in entries if e["state"] == "reserved"]
    assert len(settled) > n_operations / 8
    assert account["spent_ms"] == sum(e["charged_ms"] for e in settled) > 0
    assert account["open"] == {e["_id"]: {"ms": e["reserved_ms"], "purpose": e["purpose"]} for e in reserved}
    assert account["reserved_ms"] == sum(e["reserved_ms"] for e in reserved)
    assert all(0 <= e["charged_ms"] <= e["reserved_ms"] for e in settled)
    assert {e["state"] for e in entries} <= {"reserving", "reserved", "settled"}
    for purpose in PURPOSES:
        mine = [e["charged_ms"] for e in settled if e["purpose"] == purpose]
        held = [e["reserved_ms"] for e in reserved if e["purpose"] == purpose]
        purse = {"taken_ms": sum(mine) + sum(held), "spent_ms": sum(mine), "n": sum(ms > 0 for ms in mine + held)}
        assert account["purposes"][purpose] == purse
    stages: dict[str, int] = {}
    for e in settled:
        for stage, ms in e["stages_ms"].items():
            stages[stage] = stages.get(stage, 0) + ms
    assert account["stages"] == stages
    totals = [(e["reserved_at"], e["reserved_totals"]) for e in entries if "reserved_at" in e]
    totals += [(e["settled_at"], e["settled_totals"]) for e in settled]
    assert all(t["spent_ms"] + t["reserved_ms"] <= account["budget_ms"] for _, t in totals)

    for e in reserved:
        ledger.refund(e["_id"])
    ledger.release_audit()
    account = the_account(database)
    assert (account["open"], account["reserved_ms"], account["audit_available_ms"]) == ({}, 0, 0)
    assert account["available_ms"] == account["budget_ms"] - account["spent_ms"]
