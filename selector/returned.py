"""Attempts that ended, by what lies on disk, and that the campaign's memory knows nothing of, or has given up.

So it is when a database was restored from a backup or begun anew, or when an attempt was run again by hand. Its cost is
booked, once, under the attempt's own key; a result is taken if there is none yet, and a material that the memory has
lost comes back with it. A failure counts like any other. What the usual ways will settle is left to them.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

from selector import stages
from selector.candidates import Candidate
from selector.config import CampaignConfig
from selector.dispatching import job_key
from selector.documents import IN_FLIGHT, Document, now
from selector.errors import SelectorError
from selector.protocols import CostEngine, Dispatcher, Failure, Result, Returned
from selector.settling import take_late, wanted
from selector.store import Store

TAKEN, FAILED, KNOWN, WAITING, REFUSED = "taken", "failed", "known", "waiting", "refused"
LEVELS = ("ipa", "rpa")


def take_in(store: Store, dispatcher: Dispatcher, config: CampaignConfig, engine: CostEngine) -> Counter[str]:
    """Book what came back unnoticed; how many were taken, had failed, were known, are for the usual way, or refused."""
    said: Counter[str] = Counter()
    for found in dispatcher.returned(config.campaign, store.epoch):
        store.renew()
        verdict = _take(store, found, config, engine)
        said[verdict] += 1
        if verdict != WAITING:
            dispatcher.acknowledge(found.job["key"])
    return said


def refusal(store: Store, found: Returned) -> str | None:
    """Why an attempt cannot be this campaign's, or its result no label of it; None if it can."""
    job = found.job
    about = tuple(job.get(k) for k in ("campaign", "material_id", "level", "attempt"))
    what = f"{found.place} holds {about[1]}, {about[2]}, attempt {about[3]}"
    if about[0] != store.name:
        return f"{what}, of campaign '{about[0]}', not of '{store.name}'"
    if about[2] not in LEVELS or not isinstance(about[3], int) or job["key"] != job_key(*about):  # type: ignore[arg-type]
        return f"{what}, which is not what its key {job['key']} stands for: its job.json was changed"
    outcome = found.read()
    if isinstance(outcome, Result):
        kind, own = outcome.calculation, store.campaign()
        if (kind.engine, kind.settings_hash) != (own["engine"], own["settings_hash"]):
            return (
                f"{what}, computed by {kind.engine} with settings {kind.settings_hash}; "
                f"this campaign's labels are of {own['engine']} with {own['settings_hash']}"
            )
        if not set(LEVELS[: LEVELS.index(about[2]) + 1]) <= set(kind.spectra):
            return f"{what}, without the spectra of that level"
    return None


def _take(store: Store, found: Returned, config: CampaignConfig, engine: CostEngine) -> str:
    job, key, material_id = found.job, found.job["key"], found.job.get("material_id")
    c = store.find(str(material_id))
    if c is not None and _is_awaited(c, key):
        return WAITING
    entry = store.ledger.entry(key)
    if entry is not None and (c is None or not wanted(c, job["level"])):
        return KNOWN
    if why := refusal(store, found):
        return _refuse(store, why, material_id)
    outcome = found.read()
    if outcome is None or (entry is not None and isinstance(outcome, Failure)):
        return KNOWN
    if c is None:
        try:
            c = _bring_back(store, found, config, engine)
        except (SelectorError, KeyError, ValueError, TypeError) as e:
            return _refuse(store, f"{found.place}: {material_id} is not in the campaign and does not come back ({e})")
    decision = _decision(c, found)
    if isinstance(outcome, Failure):
        _note_failure(store, c, decision, outcome, job, config)
        verdict = FAILED
    else:
        _charge(store, decision, outcome.calculation.wall_s * config.cores_per_job / 3600, str(material_id))
        taken = wanted(c, job["level"]) and take_late(store, c["material_id"], decision, outcome.calculation, config)
        verdict = TAKEN if taken else KNOWN
    store.raise_attempts(c["material_id"], decision["attempt"])
    return verdict


def _is_awaited(c: Document, key: str) -> bool:
    """Whether the usual ways settle this attempt (`selector.settling`)."""
    present = c["status"] in IN_FLIGHT and c["decision"]["key"] == key
    return present or any(stray["key"] == key for stray in c.get("strays", []))


def _decision(c: Document, found: Returned) -> Document:
    """The decision that sent the attempt out: as the memory has it, as its job says, or as far as it is known."""
    key = found.job["key"]
    for decision in (c.get("decision") or {}, *c.get("history", []), dict(found.job.get("decision") or {})):
        if decision.get("key") == key:
            return decision
    said = {k: v for k, v in (c.get("prediction") or {}).items() if k != "latent"}
    about = {k: found.job[k] for k in ("key", "level", "attempt")}
    purpose = "ipa" if about["level"] == "ipa" else "rpa"
    return said | about | {"purpose": purpose, "reason": f"its result lay in {found.place}", "time": now()}


def _bring_back(store: Store, found: Returned, config: CampaignConfig, engine: CostEngine) -> Document:
    """Take a material back into the pool that the memory has lost."""
    job = found.job
    candidate = Candidate.from_dict({**job, "source": f"{found.place}/job.json"})
    estimate = engine.estimate_cpu_h(candidate.structure)
    store.add_candidates([candidate], [estimate], stages.opening(config, engine, [candidate], {}))
    message = f"{candidate.formula} ({candidate.material_id}): back in the pool, as its job in {found.place} has it"
    store.event("restored", message, material_id=candidate.material_id)
    return store.candidate(candidate.material_id)


def _charge(store: Store, decision: Document, used_cpu_h: float, material_id: str) -> float:
    """Book what an attempt used, as far as it was not charged before; the CPU-hours charged under its key."""
    key, purpose = decision["key"], decision.get("purpose") or "rpa"
    about = {"material_id": material_id, "level": decision["level"], "attempt": decision["attempt"]}
    before = store.ledger.entry(key)
    charged = store.ledger.charge(key, used_cpu_h, purpose, **about)
    if before is not None and before["state"] == "settled" and (before.get("used_cpu_h") or 0.0) < used_cpu_h - 1e-6:
        # It was refunded, or charged for less than it used in the end.
        if used_cpu_h > charged:
            store.ledger.book(f"late-{key}", used_cpu_h - charged, purpose, **about)
    elif before is None and charged < used_cpu_h - 1e-6:
        message = (
            f"{material_id}: a lost attempt used {used_cpu_h:.4f} CPU-h, of which the budget had {charged:.4f} left"
        )
        store.event("overspent", message, material_id=material_id)
    return charged


def _note_failure(
    store: Store, c: Document, decision: Document, failure: Failure, job: Any, config: CampaignConfig
) -> None:
    """Count a failure that the memory has lost, and what it cost; in full, as it was reserved, where nobody knows."""
    wall_s = job.get("time_limit_s", 0.0) if failure.wall_s is None else failure.wall_s
    charged = _charge(store, decision, wall_s * config.cores_per_job / 3600, c["material_id"])
    failures = c.get("failures", 0) + (not failure.interrupted)
    again = failure.interrupted or (failure.retry and failures < config.max_attempts)
    outcome = {"status": failure.reason, "message": failure.message, "cpu_h": charged, "again": again, "time": now()}
    if c["status"] in ("pending", "skipped"):
        present = c.get("decision")
        store.move(
            c["material_id"],
            [c["status"]],
            c["status"] if again else "failed",
            push={"history": present} if present else None,
            decision={**decision, "outcome": outcome},
            failures=failures,
            reason_code=failure.reason,
            message=failure.message,
        )
    message = f"{c['formula']} ({c['material_id']}): {failure.reason}: {failure.message}; the database had lost this"
    store.event("failed", message, material_id=c["material_id"], reason=failure.reason)


def _refuse(store: Store, why: str, material_id: Any = None) -> str:
    store.event("refused", f"a result was refused: {why}", **({"material_id": material_id} if material_id else {}))
    return REFUSED
