"""How a campaign looks in a terminal, and as plain data for `--json`."""

from __future__ import annotations

from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Group, RenderableType
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from selector.choosing import Choice
from selector.ledger import Totals
from selector.store import Store

LAST_EVENTS = 5


def status_json(store: Store) -> dict[str, Any]:
    """Counts per state, CPU-hours, the models' errors, the last events."""
    campaign, totals, counts = store.campaign(), store.ledger.totals(), store.counts()
    running = counts.pop("reserved", 0) + counts.get("running", 0)
    if running:
        counts["running"] = running
    return {
        "campaign": store.name,
        "state": campaign["state"],
        "stop_reason": campaign["stop_reason"],
        "counts": counts,
        **vars(totals),
        "model_id": campaign["model_id"],
        "models": [
            {"round": m["round"], "model_id": m["model_id"], "n_new_labels": m["n_new_labels"], **m["metrics"]}
            for m in store.models()
        ],
        "rejected": {c["material_id"]: c["message"] for c in store.candidates("rejected")},
        "failed": {c["material_id"]: f"{c['reason_code']}: {c['message']}" for c in store.candidates("failed")},
        "events": store.last_events(LAST_EVENTS),
    }


def status_table(status: dict[str, Any]) -> RenderableType:
    """The same for a reader."""
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    reason = f": {status['stop_reason']}" if status["stop_reason"] else ""
    table.add_row("campaign", f"{status['campaign']}, {status['state']}{reason}")
    table.add_row(
        "candidates", ", ".join(f"{n} {state}" for state, n in sorted(status["counts"].items())) or "none yet"
    )
    table.add_row(
        "CPU-hours",
        f"{status['spent_cpu_h']:.4f} spent + {status['reserved_cpu_h']:.4f} reserved of {status['budget_cpu_h']:.4f}",
    )
    model = status["models"][-1]
    learned = f"round {model['round']}, {model['n_new_labels']} labels of this campaign learned"
    table.add_row("model", f"{status['model_id']} ({learned})")
    for name in ("rejected", "failed"):
        for material_id, message in list(status[name].items())[:LAST_EVENTS]:
            table.add_row(name, escape(f"{material_id}: {message}"))
    for event in status["events"]:
        table.add_row(event["time"][11:19], escape(f"{event['kind']}: {event['message']}"))
    return table


def event_line(event: dict[str, Any]) -> Text:
    return Text(f"{event['time'][11:19]}  {event['kind']:<10}  {event['message']}")


def plan_json(choices: list[Choice], totals: Totals) -> dict[str, Any]:
    return {
        "available_cpu_h": totals.available_cpu_h,
        "cost_predicted_cpu_h": sum(c.cost_cpu_h for c in choices if c.dispatch),
        "choices": [
            {
                "material_id": c.candidate["material_id"],
                "formula": c.candidate["formula"],
                "level": "rpa" if c.dispatch else "ipa",
                "reason": c.reason,
                "cost_predicted_cpu_h": c.cost_cpu_h,
                "reserve_cpu_h": c.reserve_cpu_h,
                **{
                    k: c.candidate["prediction"][k]
                    for k in ("sc_mean", "sc_std", "sc_lo", "sc_hi", "p_low", "model_id")
                },
            }
            for c in choices
        ],
    }


def plan_table(choices: list[Choice], totals: Totals) -> RenderableType:
    table = Table(box=SIMPLE_HEAD)
    for header, justify in (("", "right"), ("material", "left"), ("formula", "left"), ("SC predicted", "left")):
        table.add_column(header, justify=justify)  # type: ignore[arg-type]
    table.add_column("CPU-h", justify="right")
    table.add_column("why")
    for i, c in enumerate(choices, start=1):
        p = c.candidate["prediction"]
        table.add_row(
            f"{i} RPA" if c.dispatch else "IPA",
            escape(c.candidate["material_id"]),
            c.candidate["formula"],
            f"{p['sc_mean']:.3f} ({p['sc_lo']:.2f}-{p['sc_hi']:.2f})",
            f"{c.cost_cpu_h:.4f}",
            escape(c.reason),
            style=None if c.dispatch else "dim",
        )
    n, cost = sum(c.dispatch for c in choices), sum(c.cost_cpu_h for c in choices if c.dispatch)
    line = (
        f"{n} of {len(choices)} pending candidates would get RPA, at {cost:.4f} CPU-h predicted; "
        f"{totals.available_cpu_h:.4f} CPU-h are available."
    )
    return Group(table, line)


def outcome(store: Store) -> str:
    """The campaign in two sentences."""
    counts, totals, campaign = store.counts(), store.ledger.totals(), store.campaign()
    tunings = len(store.models()) - 1
    return (
        f"Campaign '{store.name}' {campaign['state']}"
        + (f" ({campaign['stop_reason']})" if campaign["stop_reason"] else "")
        + f". {counts.get('done', 0)} materials got RPA, {counts.get('skipped', 0)} stay at IPA, "
        f"{counts.get('failed', 0)} failed, {counts.get('rejected', 0)} were rejected; {totals.spent_cpu_h:.4f} of "
        f"{totals.budget_cpu_h:.4f} CPU-h spent; the predictor was fine-tuned {tunings} times."
    )
