"""What has to be true of a campaign under faults: watched as it runs, and counted when it has ended.

Three witnesses who know nothing of each other: the database's documents as they lie there, the files of results, and
the engine's own log.
"""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pymongo.errors import PyMongoError

from fault_injection.campaign import NAME, Campaign, computations
from fw_tasks.engines.base import Calculation
from selector.account import check
from selector.dispatching import job_key
from selector.errors import SelectorError

DECIDED = ("done", "failed", "skipped")
LEVELS, UNFINISHED = ["ipa", "rpa"], ["WAITING", "READY", "RESERVED", "RUNNING"]
DISK_FULL = ("No space left on device", "database or disk is full")
"""A command may end so, in as many words: its user makes room and starts it again."""
SUMS = ("budget_ms", "spent_ms", "reserved_ms", "available_ms", "audit_available_ms")


@dataclass
class Watch:
    """Looks at the account as often as it is asked to.

    Attributes
    ----------
    looks, blind : how often it saw the account, and how often the database was away
    over_ms : the most by which spent + reserved exceeded the budget, CPU-milliseconds; at best zero
    """

    looks: int = 0
    blind: int = 0
    over_ms: int = 0
    unequal: int = 0
    forgot: list[str] = field(default_factory=list)
    _known: set[str] = field(default_factory=set)

    def look(self, campaign: Campaign) -> None:
        """The account now, and whether a label that was there is there no more."""
        try:
            with campaign.memory() as db:
                document = db.campaigns.find_one({"_id": NAME}, {"ledger": 1})
                labels = {d["material_id"] for d in db.labels.find({"campaign": NAME}, {"material_id": 1})}
        except PyMongoError:
            self.blind += 1
            return
        budget, spent, reserved, *rest = (document["ledger"][name] for name in SUMS)
        self.looks += 1
        self.over_ms = max(self.over_ms, spent + reserved - budget)
        self.unequal += budget != spent + reserved + sum(rest)
        self.forgot += sorted(self._known - labels)
        self._known |= labels


def verdict(campaign: Campaign, watch: Watch) -> dict[str, Any]:
    """The figures of a campaign that has ended, and under ``wrong`` what should not be, in words."""
    with campaign.memory() as db:
        document = db.campaigns.find_one({"_id": NAME})
        candidates = {c["material_id"]: c for c in db.candidates.find({"campaign": NAME})}
        labels = Counter(d["material_id"] for d in db.labels.find({"campaign": NAME}))
        entries = list(db.ledger.find({"campaign": NAME}))
        active = db.fireworks.count_documents({"spec._category": {"$in": LEVELS}, "state": {"$in": UNFINISHED}})
    results = _results(campaign)
    ends = [end for command in campaign.commands.values() for end in command.ends]
    statuses = Counter(c["status"] for c in candidates.values())
    found = {
        "state": document["state"],
        "materials": len(candidates),
        **{status: statuses.get(status, 0) for status in DECIDED},
        "results": len(results),
        "lost": sorted({material for material, _, _ in results} - labels.keys()),
        "computed_again": computed_again(campaign.log),
        "computations": sum(line["event"] == "start" for line in computations(campaign.log)),
        "attempts_by_outcome": _outcomes(campaign),
        "budget_cpu_h": round(document["ledger"]["budget_ms"] / 3.6e6, 4),
        "spent_cpu_h": round(document["ledger"]["spent_ms"] / 3.6e6, 4),
        "looks": watch.looks,
        "blind_looks": watch.blind,
        "over_budget_ms": watch.over_ms,
        "stopped_by_full_disk": sum(any(words in end for words in DISK_FULL) for end in ends),
        "found_no_database": sum(command.not_begun for command in campaign.commands.values()),
        "fell_over": [end for end in ends if not any(words in end for words in DISK_FULL)],
    }
    twice = [material for material, n in Counter(material for material, _, _ in results).items() if n > 1]
    undecided = [k for k, c in candidates.items() if c["status"] not in DECIDED]
    # Attempts have no end here, and no label is of a calculation that failed.
    given_up = [f"{k}: {c['message']}" for k, c in candidates.items() if c["status"] == "failed"]
    checks = {
        "the campaign is not finished": found["state"] != "finished",
        f"undecided: {undecided}": bool(undecided),
        f"given up: {given_up}": bool(given_up),
        f"{active} calculations wait or run still": active > 0,
        f"results lost: {found['lost']}": bool(found["lost"]),
        f"labels were there and went: {watch.forgot}": bool(watch.forgot),
        f"labels without a result, or not of what is done: {sorted(labels)}": set(labels)
        != {material for material, _, _ in results}
        or set(labels) != {k for k, c in candidates.items() if c["status"] == "done"},
        f"labelled twice: {labels}": any(n > 1 for n in labels.values()),
        f"two results of {twice}": bool(twice),
        f"computed again: {found['computed_again']}": bool(found["computed_again"]),
        f"the budget was exceeded by {watch.over_ms} ms": watch.over_ms > 0,
        f"the account did not add up at {watch.unequal} looks": watch.unequal > 0,
        "it was never looked at": watch.looks == 0,
        f"commands fell over: {found['fell_over']}": bool(found["fell_over"]),
    }
    return found | {"wrong": [what for what, so in checks.items() if so] + ledger_errors(document, entries, results)}


def computed_again(log: Path) -> list[str]:
    """Computations that began though the material's result lay there, or while another was at it."""
    starts = [line for line in computations(log) if line["event"] == "start"]
    return [f"{s['material_id']} {s['attempt']}" for s in starts if s["lies"] or not s["alone"]]


def _results(campaign: Campaign) -> list[tuple[str, str, Calculation]]:
    """Material, attempt and content of each result on disk; one that cannot be read raises."""
    files = sorted(campaign.disk.folder.glob("calculations/*/*/calculation.npz"))
    return [(file.parent.parent.name, file.parent.name, Calculation.load(file)) for file in files]


def _outcomes(campaign: Campaign) -> dict[str, int]:
    said: Counter[str] = Counter()
    for folder in campaign.disk.folder.glob("calculations/*/*/"):
        if (folder / "calculation.npz").exists():
            said["result"] += 1
        elif (folder / "failure.json").exists():
            said[json.loads((folder / "failure.json").read_text())["reason"]] += 1
        else:
            said["nothing"] += 1
    return dict(said)


def ledger_errors(document: dict[str, Any], entries: list[dict[str, Any]], results: list[Any]) -> list[str]:
    """What is wrong with the account, its history, or the two together; a result is charged what it took, once."""
    account, wrong = document["ledger"], []
    try:
        check(document)
    except SelectorError as e:
        wrong.append(str(e))
    charged = sum(entry.get("charged_ms", 0) for entry in entries)
    if charged != account["spent_ms"]:
        wrong.append(f"the history charges {charged} ms, the account has spent {account['spent_ms']}")
    if account["open"] or account["reserved_ms"]:
        wrong.append(f"still reserved: {account['open']}")
    if between := [e["_id"] for e in entries if e["state"] in ("booking", "settling")]:
        wrong.append(f"between two states: {between}")
    if over := [e["_id"] for e in entries if e.get("charged_ms", 0) > e.get("reserved_ms", 0)]:
        wrong.append(f"charged more than was reserved: {over}")
    for material, attempt, calculation in results:
        level, _, number = attempt.partition("-")
        about = (material, level, int(number))
        own = {e["_id"]: e for e in entries if (e.get("material_id"), e.get("level"), e.get("attempt")) == about}
        paid, used = sum(e.get("charged_ms", 0) for e in own.values()), round(calculation.wall_s * 1000)
        first = own.get(job_key(NAME, *about), {})
        # An attempt that was taken for lost was charged in full before its result came.
        full = first.get("reserved_ms", 0) if first.get("charged_ms") == first.get("reserved_ms") else 0
        if abs(paid - used) > 1 and paid != max(full, used):
            wrong.append(f"{material} {attempt} took {used} ms and was charged {paid}")
    return wrong
