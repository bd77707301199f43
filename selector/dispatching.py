"""From a choice to a calculation: claim, reserve, submit, each conditional on what it expects to find.

A candidate goes pending -> reserved with its decision, its cost is set aside under the attempt's key, its workflow is
added, and it is marked running. A dispatch cut short anywhere is finished, or undone, by the next step (`resume`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from selector import choosing
from selector.choosing import Choice, Pending
from selector.config import CampaignConfig
from selector.costs import CostModel
from selector.lease import LeaseLost
from selector.looks import Look
from selector.policies import Policy
from selector.protocols import Dispatcher, Job
from selector.store import IN_FLIGHT, Document, Store, now

BOOKED = ("learn-", "late-")
"""So begin the ledger's keys that are no attempt's: costs booked once they have arisen."""
_LOTS = 0x10_75
"""The stream of random numbers that says which dispatches are drawn by lot, and from what."""


def job_key(campaign: str, material_id: str, level: str, attempt: int) -> str:
    """The name of one attempt, the same whoever computes it."""
    return hashlib.sha256("\0".join([campaign, material_id, level, str(attempt)]).encode()).hexdigest()[:24]


def workdir(config: CampaignConfig, material_id: str, decision: Document) -> Path:
    return config.folder / "calculations" / material_id / f"{decision['level']}-{decision['attempt']}"


def pool(store: Store, costs: CostModel, config: CampaignConfig) -> Pending:
    """The pending candidates as choosing sees them."""
    return Pending.of(store.pending(), store.choosing(*IN_FLIGHT), costs, config)


def choose(
    pending: Pending,
    policy: Policy,
    config: CampaignConfig,
    available_cpu_h: float,
    room: int,
    n_before: int,
    look: Look | None = None,
) -> list[Choice]:
    """What to dispatch now, at most ``room``: what a look has drawn, then by lot, then pinned, then by the policy.

    Each dispatch is a random draw with probability ``random_share``, whatever is predicted; which ones, and what they
    draw, follows from the campaign's seed and the number of dispatches before. Lots fall on what the budget can pay.
    """
    drawn: dict[int, Choice] = {}
    names, left = pending.pool.material_id, available_cpu_h
    if look is not None:
        for i in np.flatnonzero(np.isin(names, look.drawn)).tolist():
            if len(drawn) < room and pending.reserve_cpu_h[i] <= left:
                drawn[i] = _drawn(pending, i, look.probability, look.reason)
                left -= float(pending.reserve_cpu_h[i])
    for number in range(n_before, n_before + min(room - len(drawn), len(names))):
        rng = np.random.default_rng([_LOTS, config.seed, number])
        if rng.random() >= config.policy.random_share:
            continue
        fitting = pending.reserve_cpu_h <= left
        fitting[list(drawn)] = False
        if n := int(fitting.sum()):
            i = int(pending.pool.by_id[fitting[pending.pool.by_id]][rng.integers(n)])
            reason = f"drawn by lot among {n} pending candidates, whatever is predicted"
            drawn[i] = _drawn(pending, i, 1 / n, reason)
            left -= float(pending.reserve_cpu_h[i])
    rest = choosing.choose(_without(pending, list(drawn)), policy, config, left, room - len(drawn))
    return [*drawn.values(), *rest]


def _drawn(pending: Pending, i: int, probability: float, reason: str) -> Choice:
    return Choice(
        candidate=pending.documents[i],
        prediction={k: v for k, v in pending.predictions[i].items() if k != "latent"},
        cost_cpu_h=float(pending.pool.cost_cpu_h[i]),
        reserve_cpu_h=float(pending.reserve_cpu_h[i]),
        dispatch=True,
        reason=reason,
        random_draw=True,
        audit_probability=probability,
    )


def _without(pending: Pending, taken: list[int]) -> Pending:
    """The other candidates, while those are in flight."""
    if not taken:
        return pending
    rest = np.setdiff1d(np.arange(len(pending.documents)), taken)
    return replace(
        pending,
        documents=[pending.documents[i] for i in rest],
        predictions=[pending.predictions[i] for i in rest],
        pool=pending.pool.take(rest, np.array(taken, dtype=np.intp)),
        reserve_cpu_h=pending.reserve_cpu_h[rest],
        pinned=pending.pinned[rest],
    )


def dispatch(
    store: Store,
    choices: Sequence[Choice],
    config: CampaignConfig,
    dispatcher: Dispatcher,
    policy: str,
    purpose: str = "rpa",
) -> int:
    """Claim these candidates, set their costs aside, hand them to FireWorks; how many were."""
    if not choices or not store.may_dispatch([c.candidate["material_id"] for c in choices]):
        return 0
    n = 0
    for rank, choice in enumerate(choices, start=1):
        store.renew()
        n += _dispatch(store, choice, config, dispatcher, policy, purpose, rank)
    store.announce([])
    return n


def _dispatch(
    store: Store, choice: Choice, config: CampaignConfig, dispatcher: Dispatcher, policy: str, purpose: str, rank: int
) -> bool:
    c = choice.candidate
    material_id, attempt = c["material_id"], c["attempts"] + 1
    key = job_key(config.campaign, material_id, "rpa", attempt)
    about = {"material_id": material_id, "level": "rpa", "attempt": attempt}
    decision = {
        **choice.prediction,
        "policy": policy,
        "random_draw": choice.random_draw,
        "rank": rank,
        "reason": choice.reason,
        "threshold": config.policy.threshold,
        "cost_predicted_cpu_h": choice.cost_cpu_h,
        "reserved_cpu_h": choice.reserve_cpu_h,
        "audit_probability": choice.audit_probability,
        "key": key,
        "level": "rpa",
        "purpose": purpose,
        "attempt": attempt,
        "time": now(),
    }
    before = c["status"]
    if store.ledger.why_not(choice.reserve_cpu_h, purpose) or not claim(store, c, decision):
        return False
    if not store.ledger.reserve(key, choice.reserve_cpu_h, purpose=purpose, **about):
        store.move(material_id, ["reserved"], before, key=key)
        return False
    submit(store, store.candidate(material_id), config, dispatcher)
    return True


def claim(store: Store, c: Document, decision: Document) -> bool:
    """Take a candidate for the attempt that ``decision`` names; what was decided of it before goes to its history."""
    earlier = store.candidate(c["material_id"]).get("decision")
    push = {"history": earlier} if earlier else None
    unless = {"vetoed": {"$ne": True}}
    fields = {"decision": decision, "attempts": decision["attempt"]}
    return store.move(c["material_id"], [c["status"]], "reserved", push=push, also=unless, **fields)


def submit(store: Store, c: Document, config: CampaignConfig, dispatcher: Dispatcher) -> None:
    """Add the workflow of a candidate whose cost is set aside, unless it is there, and mark the candidate running.

    Raises
    ------
    LeaseLost
        Another step has taken the candidate meanwhile; its reservation is given back by the next one.
    """
    decision, material_id = c["decision"], c["material_id"]
    job = Job(
        campaign=config.campaign,
        key=decision["key"],
        material_id=material_id,
        formula=c["formula"],
        structure=c["structure"],
        level=decision["level"],
        attempt=decision["attempt"],
        engine=config.engine.model_dump(),
        cores=config.cores_per_job,
        time_limit_s=decision["reserved_cpu_h"] * 3600 / config.cores_per_job,
        workdir=str(workdir(config, material_id, decision)),
    )
    if not store.move(material_id, ["reserved"], "reserved", key=decision["key"]):
        raise LeaseLost
    fw_id = dispatcher.submit(job)
    launch: Document = {"fw_id": fw_id, "decision.fw_id": fw_id}
    if store.move(material_id, ["reserved"], "running", key=decision["key"], **launch):
        store.event(
            "dispatched",
            f"{c['formula']} ({material_id}) to RPA: {decision['reason']}",
            material_id=material_id,
            decision=decision,
            fw_id=fw_id,
        )


def resume(store: Store, config: CampaignConfig, dispatcher: Dispatcher) -> None:
    """Finish or undo what a step before left half done."""
    for c in store.candidates("reserved"):
        key = c["decision"]["key"]
        if store.ledger.reserved(key):
            submit(store, c, config, dispatcher)
        else:
            # The attempt's number is not used again: whoever claimed it may still be about to reserve under its key.
            store.move(c["material_id"], ["reserved"], given_up(c["decision"]), key=key)
    _refund_orphans(store)


def _refund_orphans(store: Store) -> None:
    """Give back what a late step reserved for a candidate that was taken from it."""
    opened = store.campaign()["ledger"]["open"]
    ours = {key for key in opened if not key.startswith(BOOKED)}
    if ours:
        wanted = {c["decision"]["key"] for c in store.without_structure(*IN_FLIGHT)}
        wanted |= {stray["key"] for c in store.awaited() for stray in c["strays"]}
        for key in ours - wanted:
            store.ledger.refund(key)


def given_up(decision: Document) -> str:
    """Where a candidate goes back to when its attempt comes to nothing and may be repeated."""
    return "skipped" if decision.get("purpose") == "audit" else "pending"
