"""From a choice to a calculation: claim, reserve, submit, each conditional on what it expects to find.

A candidate goes pending -> reserved with its decision, its cost is set aside under the attempt's key, its workflow is
added, and it is marked running. A dispatch cut short anywhere is finished, or undone, by the next step (`resume`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

from selector.budgeting import IpaFirst
from selector.choosing import Choice, Pending
from selector.config import CampaignConfig
from selector.costs import CostModel
from selector.documents import IN_FLIGHT, Document, now
from selector.lease import LeaseLost
from selector.protocols import Dispatcher, Job
from selector.store import Store

BOOKED = ("learn-", "late-")
"""So begin the ledger's keys that are no attempt's: costs booked once they have arisen."""


def job_key(campaign: str, material_id: str, level: str, attempt: int) -> str:
    """The name of one attempt, the same whoever computes it."""
    return hashlib.sha256("\0".join([campaign, material_id, level, str(attempt)]).encode()).hexdigest()[:24]


def workdir(config: CampaignConfig, material_id: str, decision: Document) -> Path:
    return config.folder / "calculations" / material_id / f"{decision['level']}-{decision['attempt']}"


def pool(store: Store, costs: CostModel, config: CampaignConfig, ipa_costs: CostModel | None = None) -> Pending:
    """The pending candidates as choosing sees them; with ``ipa_costs``, IPA goes first.

    One whose IPA spectrum has just come, and that was not predicted with it yet, waits for the next step.
    """
    ready = [c for c in store.pending() if not c.get("ipa") or (c.get("prediction") or {}).get("reads_ipa")]
    first = None if ipa_costs is None else IpaFirst(ipa_costs, store.ledger.cap_left_cpu_h("ipa"))
    return Pending.of(ready, store.choosing(*IN_FLIGHT), costs, config, first)


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
    material_id, attempt, level = c["material_id"], c["attempts"] + 1, choice.level
    key = job_key(config.campaign, material_id, level, attempt)
    about = {"material_id": material_id, "level": level, "attempt": attempt}
    purpose = "ipa" if level == "ipa" else purpose
    decision = {
        **choice.prediction,
        "policy": policy,
        "random_draw": choice.random_draw,
        "rank": rank,
        "reason": choice.reason if level == "rpa" else f"its IPA spectrum first: {choice.reason}",
        "threshold": config.policy.threshold,
        "cost_predicted_cpu_h": choice.now.predicted,
        "reserved_cpu_h": choice.now.reserve,
        "audit_probability": choice.audit_probability,
        "key": key,
        "level": level,
        "purpose": purpose,
        "attempt": attempt,
        "time": now(),
    }
    before = c["status"]
    if not payable(store, choice, purpose) or not claim(store, c, decision):
        return False
    if not store.ledger.reserve(key, choice.now.reserve, purpose=purpose, **about):
        store.move(material_id, ["reserved"], before, key=key)
        return False
    claimed = store.candidate(material_id)
    if claimed["decision"].get("key") != key:
        # It was given up meanwhile, and left at IPA, or claimed anew; the next step gives the reservation back.
        raise LeaseLost
    submit(store, claimed, config, dispatcher)
    return True


def payable(store: Store, choice: Choice, purpose: str = "rpa") -> bool:
    """Whether the ledger would reserve it now, and RPA after IPA."""
    if choice.ipa is None:
        return store.ledger.why_not(choice.reserve_cpu_h, purpose) is None
    wanted = (choice.ipa.reserve, "ipa"), (choice.reserve_cpu_h, "rpa")
    return all(store.ledger.why_not(cpu_h, what) is None for cpu_h, what in wanted)


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
        decision=decision,
        notices=str(config.folder / "returned"),
    )
    if not store.move(material_id, ["reserved"], "reserved", key=decision["key"]):
        raise LeaseLost
    fw_id = dispatcher.submit(job)
    launch: Document = {"fw_id": fw_id, "decision.fw_id": fw_id}
    if store.move(material_id, ["reserved"], "running", key=decision["key"], **launch):
        store.event(
            "dispatched",
            f"{c['formula']} ({material_id}) to {decision['level'].upper()}: {decision['reason']}",
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
    for key in orphans(store):
        store.ledger.refund(key)


def orphans(store: Store) -> set[str]:
    """The open reservations of no attempt: what a late step reserved for a candidate that was taken from it."""
    opened = store.campaign()["ledger"]["open"]
    ours = {key for key in opened if not key.startswith(BOOKED)}
    if ours:
        ours -= {c["decision"]["key"] for c in store.without_structure(*IN_FLIGHT)}
        ours -= {stray["key"] for c in store.awaited() for stray in c["strays"]}
    return ours


def given_up(decision: Document) -> str:
    """Where a candidate goes back to when its attempt comes to nothing and may be repeated."""
    return "skipped" if decision.get("purpose") == "audit" else "pending"
