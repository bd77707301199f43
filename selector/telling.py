"""Why a material got the level it has: its prediction, every decision about it and what came of each, in words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from selector.store import Store

BY_HAND = ("pinned", "unpinned", "vetoed", "veto lifted")
RESTS_ON = {
    "held_out": "the model's errors for formulas it had not seen",
    "random_draws": "the campaign's own random draws",
    "uncalibrated": "errors for another kind of label, widened: uncalibrated",
    "prior": "a prior, for want of a model",
}
ENDS = {
    "pending": "not decided yet",
    "reserved": "about to be computed at RPA",
    "running": "in flight to RPA",
    "done": "computed at RPA",
    "failed": "given up; it stays at IPA",
    "skipped": "left at IPA",
    "rejected": "rejected, it is no candidate",
}
_TOLD = (
    *("policy", "model_id", "model_round", "calibration", "sc_mean", "sc_lo", "sc_hi", "p_low", "out_of_domain"),
    *("level", "purpose", "reason", "rank", "threshold", "random_draw", "audit_probability", "cost_predicted_cpu_h"),
    *("reserved_cpu_h", "attempt", "key", "fw_id", "time", "outcome", "reads_ipa"),
)


def why(store: Store, material_id: str) -> dict[str, Any]:
    """What the campaign knows of a material; JSON-able.

    Returns
    -------
    dict
        material_id, formula, status, sc_computed, ipa ("given" or "computed" before RPA, or None), pinned, vetoed,
        prediction (the standing one, while it is pending), decisions (oldest first, the present one last), awaited
        (keys of lost attempts that may return), by_hand (pins and vetoes: time, kind), threshold, message (why it was
        rejected, or failed last).

    Raises
    ------
    SelectorError
        There is no such material in the campaign.
    """
    c = store.candidate(material_id)
    decisions = [*c.get("history", []), *([c["decision"]] if "decision" in c else [])]
    # What went back into the pool keeps its last decision, whose outcome says that it came to nothing.
    standing = c.get("prediction") if c["status"] == "pending" else None
    return {
        "material_id": c["material_id"],
        "formula": c.get("formula", ""),
        "status": c["status"],
        "threshold": store.campaign()["config"]["policy"]["threshold"],
        "sc_computed": c.get("sc_computed"),
        "ipa": c.get("ipa"),
        "message": c.get("message"),
        "pinned": bool(c.get("pinned")),
        "vetoed": bool(c.get("vetoed")),
        "prediction": _chosen(standing) if standing else None,
        "decisions": [_chosen(d) for d in decisions],
        "awaited": [stray["key"] for stray in c.get("strays", [])] if c.get("awaited") else [],
        "by_hand": [{k: e[k] for k in ("time", "kind")} for e in store.events_of(material_id) if e["kind"] in BY_HAND],
    }


def _chosen(said: Mapping[str, Any]) -> dict[str, Any]:
    return {key: said.get(key) for key in _TOLD if key in said}


def in_words(told: Mapping[str, Any]) -> list[str]:
    """The same as sentences, one a line."""
    head, end = f"{told['formula']} ({told['material_id']})".strip(), ENDS.get(told["status"], "")
    decisions: Sequence[Mapping[str, Any]] = told["decisions"]
    if told["status"] in ("reserved", "running") and decisions and decisions[-1].get("purpose") == "ipa":
        end = end.replace("RPA", "IPA, before the choice is made again")
    lines = [f"{head}: {told['status']}, {end}".rstrip(", ") + _result(told)]
    if told["status"] == "rejected":
        return [f"{lines[0][:-1]}: {told['message']}."]
    if told["prediction"]:
        lines.append("Now predicted: " + prediction_in_words(told["prediction"], told["threshold"]))
    lines += _second_choice(told)
    for i, decision in enumerate(reversed(decisions)):
        lines += [("Decision" if i == 0 else "Before that") + f", {_decision(decision)}", *_basis(decision, told)]
    if not decisions:
        lines.append("No decision has been made yet.")
    for key in told["awaited"]:
        lines.append(f"Its attempt {key} was lost; should it return after all, its result and cost are booked.")
    for event in told["by_hand"]:
        lines.append(f"By hand, {_utc(event['time'])}: {event['kind']}.")
    if told["pinned"] or told["vetoed"]:
        lines.append("Pinned: it goes before all others." if told["pinned"] else "Vetoed: it never gets RPA.")
    return lines


def prediction_in_words(said: Mapping[str, Any], threshold: float) -> str:
    """SC with interval, P(SC < threshold), the model, and what its interval rests on."""
    model = f"model {said['model_id']}, round {said.get('model_round')}" if said.get("model_id") else "no model yet"
    rests_on = RESTS_ON.get(str(said.get("calibration")), "")
    words = (
        f"SC[RPA; IPA] = {said['sc_mean']:.3f}, 90 % interval {said['sc_lo']:.3f} to {said['sc_hi']:.3f}"
        f"{f' (from {rests_on})' if rests_on else ''}"
    )
    if said.get("p_low") is not None:
        words += f", P(SC < {said.get('threshold') or threshold:g}) = {said['p_low']:.2f}"
    words += f"; {model}."
    if said.get("out_of_domain"):
        words += " Out of domain: unlike every crystal the model has learned from, so the interval means little."
    return words


def _second_choice(told: Mapping[str, Any]) -> list[str]:
    """What the IPA spectrum changed of the prediction, where it was at hand."""
    decisions: list[Mapping[str, Any]] = list(told["decisions"])
    with_it = next((d for d in decisions if d.get("reads_ipa")), told["prediction"] or {})
    now = f"SC {with_it['sc_mean']:.2f}" if with_it.get("reads_ipa") else None
    first = next((d for d in decisions if d.get("purpose") == "ipa" and _is_done(d)), None)
    if first is not None:
        again = f", then the choice was made again with it: SC {first['sc_mean']:.2f} -> {now[3:]}" if now else ""
        return [f"IPA computed first ({first['outcome']['cpu_h']:.4f} CPU-h){again}."]
    return [f"Predicted with its IPA spectrum, which was {told.get('ipa')}: {now}."] if now else []


def _is_done(d: Mapping[str, Any]) -> bool:
    return bool((d.get("outcome") or {}).get("status") == "done")


def _result(told: Mapping[str, Any]) -> str:
    sc = told["sc_computed"]
    return "." if sc is None else f"; SC[RPA; IPA] = {sc:.3f} computed."


def _decision(d: Mapping[str, Any]) -> str:
    """When, by which policy, which level, and why."""
    level = str(d.get("level", "ipa")).upper()
    attempt = f", attempt {d['attempt']}" if d.get("attempt") else ""
    return f"{_utc(d['time'])}, policy {d['policy']}: {level}{attempt}: {d['reason']}."


def _basis(d: Mapping[str, Any], told: Mapping[str, Any]) -> list[str]:
    """What a decision rested on, what it started, and what came of that."""
    lines = []
    if d.get("sc_mean") is not None:
        lines.append("  Predicted: " + prediction_in_words(d, told["threshold"]))
    if d.get("cost_predicted_cpu_h") is not None:
        reserved = f", {d['reserved_cpu_h']:.4f} reserved" if d.get("reserved_cpu_h") is not None else ""
        pot = {"audit": " of the audit's share"}.get(str(d.get("purpose")), "")
        lines.append(f"  Cost: {d['cost_predicted_cpu_h']:.4f} CPU-h predicted{reserved}{pot if reserved else ''}.")
    if d.get("purpose") == "audit":
        lines.append(f"  Audit: drawn with probability {d['audit_probability']:.3g} among what was left at IPA.")
    elif d.get("random_draw"):
        lines.append(f"  Drawn by lot with probability {d['audit_probability']:.3g}, whatever was predicted.")
    else:
        lines.append("  Audit probability 0: no random draw.")
    if d.get("key"):
        firework = f"firework {d['fw_id']}" if d.get("fw_id") is not None else "not handed to FireWorks yet"
        lines.append(f"  Launch: {firework}, key {d['key']}.")
        lines.append(f"  Outcome: {_outcome(d.get('outcome'), str(d.get('level')))}")
    return lines


def _outcome(outcome: Mapping[str, Any] | None, level: str) -> str:
    if outcome is None:
        return "not back yet."
    cost, at = f"{outcome['cpu_h']:.4f} CPU-h", _utc(outcome["time"])
    if outcome["status"] == "done":
        late = ", late" if outcome.get("late") else ""
        if level == "ipa":
            return f"IPA spectrum, {cost}, {at}{late}."
        return f"SC[RPA; IPA] = {outcome['sc']:.3f}, {cost}, {at}{late}."
    again = "; to be tried again" if outcome.get("again") else ""
    return f"{outcome['status']}: {outcome.get('message', '')} ({cost}, {at}{again})."


def _utc(time: str) -> str:
    return datetime.fromisoformat(time).astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
