"""How a campaign looks in a terminal, and as plain data for `--json`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rich.box import SIMPLE_HEAD
from rich.console import Group, RenderableType
from rich.markup import escape
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from selector.audit_plan import AuditPlan
    from selector.choosing import Choice
    from selector.ledger import Totals
    from selector.store import Store

LAST_EVENTS = 5
MAX_ROWS = 200
PREDICTED = ("sc_mean", "sc_std", "sc_lo", "sc_hi", "p_low", "value", "out_of_domain", "calibration", "model_id")


def status_json(store: Store) -> dict[str, Any]:
    """Counts per state, CPU-hours, what is in flight, the models' errors, the bound, the end, the last events."""
    from selector.progress import progress

    campaign, totals, counts = store.campaign(), store.ledger.totals(), store.counts()
    running = counts.pop("reserved", 0) + counts.get("running", 0)
    if running:
        counts["running"] = running
    rejected, failed = store.reasons("rejected"), store.reasons("failed")
    return {
        "campaign": store.name,
        "state": campaign["state"],
        "stop_reason": campaign["stop_reason"],
        "counts": counts,
        **vars(totals),
        "threshold": campaign["config"]["policy"]["threshold"],
        "deadline": campaign["config"].get("deadline"),
        "max_in_flight": campaign["config"]["max_in_flight"],
        "model_id": campaign["model_id"],
        **({"model_id_ipa": campaign["model_id_ipa"]} if "model_id_ipa" in campaign else {}),
        "learning": campaign["learning"],
        **progress(store),
        "rejected": {c["material_id"]: c["message"] for c in rejected},
        "failed": {c["material_id"]: f"{c['reason_code']}: {c['message']}" for c in failed},
        "events": store.last_events(LAST_EVENTS),
    }


def status_table(status: dict[str, Any]) -> RenderableType:
    """The same for a reader."""
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    reason = f": {status['stop_reason']}" if status["stop_reason"] else ""
    table.add_row("campaign", escape(f"{status['campaign']}, {status['state']}{reason}"))
    counts = ", ".join(f"{n} {state}" for state, n in sorted(status["counts"].items()))
    table.add_row("candidates", counts or "none yet")
    for name, line in (
        ("in flight", _in_flight(status)),
        ("CPU-hours", _account(status)),
        ("", _spent_on(status)),
        ("model", _model(status)),
        ("updates", _updates(status)),
        ("errors", _errors(status)),
        ("intervals", status["calibration"]["message"]),
        ("with IPA", status.get("calibration_ipa", {}).get("message", "")),
        ("bound", status["bound"]["sentence"]),
        ("expected end", _end(status)),
    ):
        if line:
            table.add_row(name, escape(line))
    for name in ("rejected", "failed"):
        for material_id, message in list(status[name].items())[:LAST_EVENTS]:
            table.add_row(name, escape(f"{material_id}: {message}"))
    for event in status["events"]:
        table.add_row(event["time"][11:19], escape(f"{event['kind']}: {event['message']}"))
    return table


def _in_flight(status: dict[str, Any]) -> str:
    """How many, and the oldest few with their ages."""
    out = status["in_flight"]
    named = [f"{c['formula']} ({c['material_id']}) {age(c['age_s'])}" for c in out[:LAST_EVENTS]]
    more = f", and {len(out) - len(named)} more" if len(out) > len(named) else ""
    return f"{len(out)} of at most {status['max_in_flight']}; {', '.join(named)}{more}" if out else ""


def _account(status: dict[str, Any]) -> str:
    return (
        f"{status['spent_cpu_h']:.4f} spent + {status['reserved_cpu_h']:.4f} reserved + "
        f"{status['available_cpu_h']:.4f} left + {status['audit_available_cpu_h']:.4f} left for the audit "
        f"of {status['budget_cpu_h']:.4f}"
    )


def _spent_on(status: dict[str, Any]) -> str:
    by = [
        ", ".join(f"{name} {cpu_h:.4f}" for name, cpu_h in status[key].items() if cpu_h)
        for key in ("by_purpose", "by_stage")
    ]
    return f"spent on {by[0]}; by stage: {by[1]}" if by[0] else ""


def _model(status: dict[str, Any]) -> str:
    model = status["models"][-1]
    out = ", learning" if status["learning"] else ""
    beside = f"; {status['model_id_ipa']} where the IPA spectrum is at hand" if "model_id_ipa" in status else ""
    learned = f"round {model['round']}, {model['n_new_labels']} labels of this campaign learned"
    return f"{status['model_id']} ({learned}){beside}{out}"


def _updates(status: dict[str, Any]) -> str:
    said = status["updates"]
    return f"{said['accepted']} accepted, {said['rejected']} rejected" if said["accepted"] + said["rejected"] else ""


def _errors(status: dict[str, Any]) -> str:
    """Mean error of the predictions at dispatch, round by round."""
    rows, of_structure = [], {m["model_id"] for m in status["models"]}
    for e in status["errors"]:
        reads = "" if e["model_id"] in of_structure else " with IPA spectra"
        name = "prior" if e["round"] is None else f"round {e['round']}{reads}"
        drawn = f"; {e['mae_random']:.3f} over {e['n_random']} drawn by lot" if e["n_random"] else ""
        rows.append(f"{name}: {e['mae']:.3f} over {e['n']}{drawn}")
    return "of SC predicted at dispatch, " + ", ".join(rows) if rows else ""


def _end(status: dict[str, Any]) -> str:
    end = status["expected_end"]
    if end is None:
        return ""
    pace = f", at {end['cpu_h_per_h']:.3g} CPU-h an hour" if end["cpu_h_per_h"] else ""
    return f"{end['time'][:16].replace('T', ' ')} UTC (by {end['by']}{pace})"


def age(seconds: float) -> str:
    """A duration for a reader: 42 s, 12 min, 3.5 h, 2.1 d."""
    for limit, unit, form in ((120, 1, "{:.0f} s"), (7200, 60, "{:.0f} min"), (172800, 3600, "{:.1f} h")):
        if seconds < limit:
            return form.format(seconds / unit)
    return f"{seconds / 86400:.1f} d"


def event_line(event: dict[str, Any]) -> Text:
    return Text(f"{event['time'][11:19]}  {event['kind']:<10}  {event['message']}")


def plan_json(choices: list[Choice], totals: Totals, audited: AuditPlan) -> dict[str, Any]:
    return {
        "available_cpu_h": totals.available_cpu_h,
        "cost_predicted_cpu_h": sum(_cost(c) for c in choices if c.dispatch),
        "audit": vars(audited),
        "choices": [
            {
                "material_id": c.candidate["material_id"],
                "formula": c.candidate["formula"],
                "level": "rpa" if c.dispatch else "ipa",
                "reason": c.reason,
                "cost_predicted_cpu_h": c.cost_cpu_h,
                "reserve_cpu_h": c.reserve_cpu_h,
                **({"ipa_first_cpu_h": c.ipa.predicted} if c.ipa else {}),
                **{k: c.prediction[k] for k in PREDICTED},
            }
            for c in choices
        ],
    }


def plan_table(choices: list[Choice], totals: Totals, audited: AuditPlan, threshold: float) -> RenderableType:
    table = Table(box=SIMPLE_HEAD)
    for header, justify in (("", "right"), ("material", "left"), ("formula", "left"), ("SC predicted", "left")):
        table.add_column(header, justify=justify)  # type: ignore[arg-type]
    table.add_column("CPU-h", justify="right")
    table.add_column("why")
    for i, c in enumerate(choices[:MAX_ROWS], start=1):
        p = c.prediction
        table.add_row(
            f"{i} {'IPA first' if c.ipa else 'RPA'}" if c.dispatch else "IPA",
            escape(c.candidate["material_id"]),
            c.candidate["formula"],
            f"{p['sc_mean']:.3f} ({p['sc_lo']:.2f}-{p['sc_hi']:.2f})",
            f"{_cost(c):.4f}",
            escape(c.reason),
            style=None if c.dispatch else "dim",
        )
    hidden = [f"and {len(choices) - MAX_ROWS} more: see --json"] if len(choices) > MAX_ROWS else []
    n, cost = sum(c.dispatch for c in choices), sum(_cost(c) for c in choices if c.dispatch)
    line = (
        f"{n} of {len(choices)} pending candidates would get RPA, at {cost:.4f} CPU-h predicted; "
        f"{totals.available_cpu_h:.4f} CPU-h are available."
    )
    return Group(table, *hidden, line, audited.sentence(threshold, totals.budget_cpu_h))


def _cost(choice: Choice) -> float:
    """CPU-hours, with the IPA calculation that goes first."""
    return choice.cost_cpu_h + (choice.ipa.predicted if choice.ipa else 0.0)


def outcome(store: Store) -> str:
    """The campaign in a few sentences, its statement the last."""
    counts, totals, campaign = store.counts(), store.ledger.totals(), store.campaign()
    tunings = sum(m.get("accepted", True) for m in store.model_history()) - 1
    bound = (campaign.get("audit") or {}).get("bound")
    return (
        f"Campaign '{store.name}' {campaign['state']}"
        + (f" ({campaign['stop_reason']})" if campaign["stop_reason"] else "")
        + f". {counts.get('done', 0)} materials got RPA, {counts.get('skipped', 0)} stay at IPA, "
        f"{counts.get('failed', 0)} failed, {counts.get('rejected', 0)} were rejected; {totals.spent_cpu_h:.4f} of "
        f"{totals.budget_cpu_h:.4f} CPU-h spent; the predictor was fine-tuned {tunings} times."
        + (f" {bound['sentence']}" if campaign["state"] == "finished" and bound else "")
    )
