"""How a campaign ends: its stop rules, what is left at IPA and why, and the closing audit of it.

When the campaign closes, the set S of what is left at IPA, the model and the threshold are frozen; members drawn at
random are computed from the budget's audit share, and `selector.audit` makes the campaign's statement of them. Vetoed
materials are no part of S: the statement is about what the campaign left, not about what a person forbade.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

import numpy as np

from selector import audit, audit_pot, choosing
from selector.audit import AuditBound, AuditOutcome
from selector.choosing import Choice, Pending
from selector.config import CampaignConfig
from selector.costs import CostModel
from selector.documents import Document, now
from selector.policies import Policy
from selector.pool import Array
from selector.store import Store


def stop_rule(pending: Pending, config: CampaignConfig) -> str | None:
    """Why nothing more is to be dispatched, whatever the budget; None if there is no such reason."""
    if config.deadline is not None and datetime.now(UTC) >= config.deadline:
        return f"deadline: {config.deadline.isoformat()} has passed"
    floor = config.stop.value_floor
    if floor > 0.0 and len(pending.pool) and not pending.pinned.any():
        best = float((pending.pool.value / pending.pool.cost_cpu_h).max())
        if best < floor:
            return f"value: the best that remains removes {best:.4g} of error per CPU-h, below the floor {floor:g}"
    return None


def begin(store: Store, pending: Pending, policy: Policy, config: CampaignConfig, rule: str | None) -> None:
    """Close a running campaign: from now on nothing but its audit is dispatched. `freeze` does the rest."""
    reason = rule or _spent(store, [c for c in choosing.rank(pending, policy, config) if c.dispatch], policy.name)
    opened = {"frozen": False, "n_members": 0, "drawn": [], "threshold": config.policy.threshold, "bound": None}
    if store.set_state("auditing", reason, ["running"], audit=opened):
        store.event("closing", reason)


def freeze(store: Store, pending: Pending, costs: CostModel, policy: Policy, config: CampaignConfig) -> None:
    """Leave what is pending at IPA, each with its reason; fix S and the draw from it, before any of it is computed."""
    _leave(store, pending, policy, config)
    left = Pending.of(store.choosing("skipped"), [], costs, config)
    names, reserve, pot = left.pool.material_id, left.reserve_cpu_h, store.ledger.totals().audit_available_cpu_h
    sample = audit_pot.audit_sample(reserve, pot)
    drawn = audit.draw(names[sample.may_draw(reserve)].tolist(), sample.n_drawn, config.seed)
    set_aside = dict(zip(names.tolist(), reserve.tolist(), strict=True))
    store.set_audit(
        {
            "frozen": True,
            "n_members": len(names),
            "n_given_up": sample.n_given_up,
            "drawn": drawn,
            "reserve_cpu_h": [set_aside[m] for m in drawn],
            "no_audit": audit_pot.no_audit(reserve, pot) if len(names) and not drawn else None,
            "threshold": config.policy.threshold,
            "model_id": store.campaign()["model_id"],
            "time": now(),
            "bound": None,
        }
    )
    if drawn:
        store.event(
            "auditing", f"{len(drawn)} of the {_audited(len(names), sample.n_given_up)} are drawn for the audit"
        )


def _audited(n_members: int, n_given_up: int) -> str:
    dear = f", but for the {n_given_up} dearest," if n_given_up else ""
    return f"{n_members} materials left at IPA{dear}"


def _leave(store: Store, pending: Pending, policy: Policy, config: CampaignConfig) -> None:
    available, why = store.ledger.totals().available_cpu_h, store.campaign()["stop_reason"]
    store.announce("all")
    store.skip(
        {
            c.candidate["material_id"]: {
                **c.prediction,
                "policy": policy.name,
                "reason": _stays(c, why, available),
                "threshold": config.policy.threshold,
                "cost_predicted_cpu_h": c.cost_cpu_h,
                "audit_probability": 0.0,
                "level": "ipa",
                "time": now(),
            }
            for c in choosing.rank(pending, policy, config)
        }
    )
    store.announce([])


def _spent(store: Store, wanted: list[Choice], policy: str) -> str:
    if not wanted:
        return f"pool: the policy '{policy}' wants no further candidate at RPA"
    cheapest = min(c.needed_cpu_h for c in wanted)
    why = store.ledger.why_not(cheapest, "rpa") or "the first of them do not fit"
    left = store.ledger.totals().available_cpu_h
    if why.startswith("cap"):
        return f"{why}; {len(wanted)} candidates are still wanted at RPA"
    return f"budget: {left:.4f} CPU-h left, too little for any of {len(wanted)} candidates still wanted at RPA"


def _stays(choice: Choice, why: str, available_cpu_h: float) -> str:
    if not choice.dispatch:
        return choice.reason
    if why.startswith("budget"):
        return choice.over_budget(available_cpu_h).reason
    return f"{choice.reason}, but the campaign closed ({why})"


# -- the audit --------------------------------------------------------------------------------------------------------


def to_audit(store: Store, costs: CostModel, config: CampaignConfig) -> list[Choice]:
    """Drawn members still to be computed, cheapest first, so that the fewest stay unpaid."""
    frozen = store.campaign()["audit"]
    left = [c for c in store.some(frozen["drawn"]) if c["status"] == "skipped"]
    if not left:
        return []
    pending = Pending.of(left, [], costs, config)
    reserve = _as_drawn(pending, frozen)
    n, members, given_up = len(frozen["drawn"]), frozen["n_members"], frozen.get("n_given_up", 0)
    return [
        Choice(
            candidate=left[i],
            prediction={k: v for k, v in pending.predictions[i].items() if k != "latent"},
            cost_cpu_h=float(pending.pool.cost_cpu_h[i]),
            reserve_cpu_h=float(reserve[i]),
            dispatch=True,
            reason=f"drawn for the closing audit: {n} of {_audited(members, given_up).rstrip(',')}",
            audit_probability=n / (members - given_up),
        )
        for i in np.argsort(reserve, kind="stable")
    ]


def _as_drawn(pending: Pending, frozen: Document) -> Array:
    """(n,) CPU-hours to reserve for each: as the draw counted on it, whatever was learned of costs since.

    One that ran out of that needs what choosing says; what the first release froze has no reservations.
    """
    counted_on = dict(zip(frozen["drawn"], frozen.get("reserve_cpu_h", []), strict=False))

    def reserve(c: Document, asked_cpu_h: float) -> float:
        counted = float(counted_on.get(c["material_id"], asked_cpu_h))
        return asked_cpu_h if (c.get("timed_out_cpu_h") or 0.0) >= counted else counted

    return np.array([reserve(c, x) for c, x in zip(pending.documents, pending.reserve_cpu_h.tolist(), strict=True)])


def conclude(store: Store) -> bool:
    """Finish with the campaign's statement, from what came of the draw; whether this call did it."""
    campaign = store.campaign()
    frozen, reason = campaign["audit"], campaign["stop_reason"]
    said = statement(store, frozen)
    if not store.set_state("finished", reason, ["auditing"], audit={**frozen, "bound": said}):
        return False
    store.event("no audit" if frozen.get("no_audit") else "audited", said["sentence"])
    store.event("finished", reason)
    return True


def statement(store: Store, frozen: Document) -> Document:
    """What the closing audit says as it stands; where nothing is drawn, why."""
    outcome = outcome_of(store, frozen["drawn"], frozen["threshold"], frozen.get("n_given_up", 0))
    said = stated(audit.audit_bound(frozen["n_members"], outcome), frozen["threshold"])
    if not frozen["drawn"] and frozen["n_members"]:
        said |= {"share": None, "sentence": frozen.get("no_audit") or said["sentence"]}
    return said


def outcome_of(store: Store, drawn: Sequence[str], threshold: float, n_given_up: int = 0) -> AuditOutcome:
    """What came of a draw until now; what has no SC counts as failed."""
    known = [c["sc_computed"] for c in store.some(drawn) if c["status"] == "done"]
    return AuditOutcome(len(drawn), sum(sc < threshold for sc in known), len(drawn) - len(known), n_given_up)


def stated(bound: AuditBound, threshold: float) -> Document:
    """A bound as the store keeps it."""
    return {
        **vars(bound.outcome),
        "n_members": bound.n_members,
        "n_low": bound.n_low,
        "share": bound.share,
        "alpha": bound.alpha,
        "sentence": bound.sentence(threshold),
        "time": now(),
    }
