"""How far a campaign is: what is in flight, how good its predictions were, what can be said of the rest, when it ends.

Plain data from the store, every query of it from an index. Prediction errors are *prequential*: what was predicted of a
material when it was dispatched, before anything of it was computed, against what was computed (Dawid,
J. R. Stat. Soc. A 147, 278 (1984)).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
from scipy.special import betaincinv

from selector.audit import ALPHA
from selector.closing import statement
from selector.documents import IN_FLIGHT, Document
from selector.recalibration import Calibration, Draws, of_line
from selector.store import Store

RECENT_CHARGES = 100
"""The pace of a campaign is taken from so many of its last settlements."""


def progress(store: Store, at: datetime | None = None) -> dict[str, Any]:
    """Everything that ``status`` says beside the counts and the account; JSON-able."""
    at = at or datetime.now(UTC)
    campaign, models = store.campaign(), store.model_history()
    labels = store.outcomes(campaign["settings_hash"])
    structure = [m for m in models if not m.get("reads_ipa")]
    with_ipa = [m for m in models if m.get("reads_ipa")]
    return {
        "in_flight": [in_flight(c, at) for c in store.in_flight()],
        "models": [
            {"round": m["round"], "model_id": m["model_id"], "n_new_labels": m["n_new_labels"], **m["metrics"]}
            for m in structure
            if m.get("accepted", True)
        ],
        "errors": errors_by_round(labels, models),
        "updates": updates(models),
        "calibration": _calibration(labels, structure, campaign),
        **({"calibration_ipa": _calibration(labels, with_ipa, campaign)} if with_ipa else {}),
        "bound": bound(store, campaign, labels),
        "expected_end": _expected_end(store, campaign, at),
    }


def _calibration(labels: Sequence[Document], line: Sequence[Document], campaign: Document) -> Document:
    """What the intervals of a line of models rest on."""
    weights, own = (f"{d['engine']} {d['settings_hash']}" for d in (line[0], campaign))
    return Calibration(Draws.of(of_line(labels, bool(line[0].get("reads_ipa")))), weights, own).summary()


def in_flight(c: Document, at: datetime) -> dict[str, Any]:
    """A candidate that was dispatched and is not back, with the seconds since its dispatch."""
    d = c["decision"]
    return {
        "material_id": c["material_id"],
        "formula": c["formula"],
        "age_s": max(0.0, (at - datetime.fromisoformat(d["time"])).total_seconds()),
        "purpose": d.get("purpose", "rpa"),
        "attempt": d["attempt"],
        "reserved_cpu_h": d.get("reserved_cpu_h"),
        "fw_id": d.get("fw_id"),
    }


def errors_by_round(labels: Sequence[Document], models: Sequence[Document]) -> list[dict[str, Any]]:
    """Mean |predicted - computed SC| of the predictions that stood at dispatch, by the model that made them.

    Returns
    -------
    One row a model that has been put to the test: round (None: the prior, before there was a model), model_id, n, mae,
    n_random and mae_random (of materials drawn by lot, the only ones that stand for the pool).
    """
    rounds = {m["model_id"]: m["round"] for m in models}
    found: dict[str | None, list[tuple[float, bool]]] = {}
    for label in labels:
        said = label.get("prediction") or {}
        if said.get("sc_mean") is not None:
            error = abs(said["sc_mean"] - label["sc"])
            found.setdefault(said.get("model_id"), []).append((error, bool(label.get("random_draw"))))
    rows = []
    for model_id, errors in found.items():
        drawn = [error for error, by_lot in errors if by_lot]
        rows.append(
            {
                "round": rounds.get(model_id) if model_id else None,
                "model_id": model_id,
                "n": len(errors),
                "mae": float(np.mean([error for error, _ in errors])),
                "n_random": len(drawn),
                "mae_random": float(np.mean(drawn)) if drawn else None,
            }
        )
    return sorted(rows, key=lambda row: -1 if row["round"] is None else row["round"])


def updates(models: Sequence[Document]) -> dict[str, Any]:
    """How many updates the learning gate let through and how many it refused, and the last comparison."""
    learned = [m for m in models if m.get("parent") is not None]
    accepted = sum(m.get("accepted", True) for m in learned)
    last = learned[-1].get("gate") if learned else None
    return {"accepted": accepted, "rejected": len(learned) - accepted, "last": last}


# -- what can be said of the rest -------------------------------------------------------------------------------------


def bound(store: Store, campaign: Document, labels: Sequence[Document]) -> dict[str, Any]:
    """The share of materials with SC below the threshold among those left at IPA, as far as it is known.

    Returns
    -------
    dict
        ``kind``: "final" (the closing audit), "auditing" (as if all that is not back were below) or "provisional" (from
        the lots drawn during the campaign: the pool shrank meanwhile, so that nothing is guaranteed); ``share``: the
        upper end, or None; ``n_drawn``, ``n_below``, ``n_failed``; ``sentence``.
    """
    frozen, state = campaign.get("audit"), campaign["state"]
    if state == "stopped":
        state = campaign.get("stopped_from", "running")
    if frozen and state in ("auditing", "finished"):
        return _audited(store, frozen, final=state == "finished")
    drawn = [label["sc"] for label in labels if label.get("random_draw")]
    return provisional(drawn, store.n_failed_draws(), campaign["config"]["policy"]["threshold"])


def _audited(store: Store, frozen: Document, final: bool) -> dict[str, Any]:
    said = frozen["bound"] if final and frozen.get("bound") else statement(store, frozen)
    told = {"kind": "final" if final else "auditing", **{k: v for k, v in said.items() if k != "time"}}
    if not final and said["n_drawn"]:
        n, sentence = said["n_drawn"], said["sentence"]
        lower = f"{sentence[:1].lower()}{sentence[1:]}"
        told["sentence"] = f"Audit, {n - said['n_failed']} of {n} back: as it stands, {lower}"
    return told


def provisional(sc: Sequence[float], n_failed: int, threshold: float) -> dict[str, Any]:
    """What the lots drawn during a campaign say: exact binomial upper limit, a failed draw counting as below.

    Parameters
    ----------
    sc : what was computed of those drawn
    n_failed : drawn and given up
    """
    n, below = len(sc) + n_failed, sum(x < threshold for x in sc)
    hits = below + n_failed
    share = float(betaincinv(hits + 1, n - hits, 1 - ALPHA)) if n > hits else 1.0
    facts = {"kind": "provisional", "n_drawn": n, "n_below": below, "n_failed": n_failed, "share": share if n else None}
    if not n:
        return {**facts, "sentence": "Provisional: nothing drawn by lot is back yet, so nothing is known of the rest."}
    failed = f", {n_failed} failed and count as below" if n_failed else ""
    return {
        **facts,
        "sentence": (
            f"Provisional, no guarantee: of {n} materials drawn by lot from what was pending, {below} have SC below "
            f"{threshold:g}{failed}: about {100 * hits / n:.0f} %, at most {np.ceil(1000 * share) / 10:g} % (95 %)."
        ),
    }


# -- when it ends -----------------------------------------------------------------------------------------------------


def _expected_end(store: Store, campaign: Document, at: datetime) -> dict[str, Any] | None:
    if campaign["state"] not in ("running", "auditing"):
        return None
    totals, n_left = store.ledger.totals(), store.count(*IN_FLIGHT)
    if campaign["state"] == "running":
        n_left += store.count("pending")
        cpu_h_left = totals.available_cpu_h + totals.reserved_cpu_h
    else:
        n_left += sum(c["status"] == "skipped" for c in store.some(campaign["audit"]["drawn"]))
        cpu_h_left = totals.audit_available_cpu_h + totals.reserved_cpu_h
    deadline = campaign["config"].get("deadline")
    charges = store.recent_charges(RECENT_CHARGES)
    spans = [(c["reserved_at"], c["time"], c["reserved_cpu_h"]) for c in charges]
    for d in (c["decision"] for c in store.in_flight()):
        spans.append((d["time"], at.isoformat(), d.get("reserved_cpu_h") or 0.0))
    cores = campaign["config"].get("cores_per_job", 1)
    hours = working_hours(spans, cores, charges[0]["time"], at) if charges else 0.0
    return expected_end(charges, hours, cpu_h_left, n_left, deadline, at)


def working_hours(spans: Sequence[tuple[str, str, float]], cores: int, since: str, at: datetime) -> float:
    """The hours since then in which a campaign worked: those with a calculation in flight.

    What happened (a reservation, a settlement) cuts the time into stretches. One in which nothing was in flight does
    not count: a stop, a campaign that waits for money or candidates. Any other counts, but no longer than the longest
    time limit of what was in flight (its reservation / cores): had it been running, it would have come back by then. So
    a night without workers counts no more than one calculation, be it that nothing was out, or that what was out was
    cut off in the evening and booked in the morning.

    Parameters
    ----------
    spans : (reserved at, settled at or now, CPU-hours reserved) of each calculation, ISO times
    cores : of a calculation
    since, at : beginning (ISO) and end
    """
    times = [tuple(datetime.fromisoformat(t).timestamp() for t in span[:2]) for span in spans]
    first, last = datetime.fromisoformat(since).timestamp(), at.timestamp()
    begun, ended = np.clip(np.array(times, dtype=float).reshape(-1, 2), first, last).T
    cuts = np.unique(np.concatenate([begun, ended, [first, last]]))
    in_flight = (begun <= cuts[:-1, None]) & (ended >= cuts[1:, None])
    limits_s = np.array([3600 * cpu_h / cores for _, _, cpu_h in spans])
    longest_s = np.where(in_flight, limits_s, 0.0).max(axis=1, initial=0.0)
    return float(np.minimum(np.diff(cuts), longest_s).sum() / 3600)


def expected_end(
    charges: Sequence[Mapping[str, Any]],
    hours: float,
    cpu_h_left: float,
    n_left: int,
    deadline: str | None,
    at: datetime,
) -> dict[str, Any] | None:
    """When budget, pool or deadline ends a campaign at its present pace, whichever is first; None before there is one.

    The pace is that of the hours in which the campaign worked since the oldest of ``charges`` (`working_hours`): pauses
    leave it as it was, and it falls while what is out does not come back. The end is told as if it worked on without
    a pause.

    Parameters
    ----------
    charges : the last settlements, oldest first: cpu_h, purpose
    hours : that it worked since the first of them
    cpu_h_left : CPU-hours not spent
    n_left : candidates in flight or still to be decided; a policy may leave many of them at IPA
    deadline : ISO time
    at : now

    Returns
    -------
    time (ISO, UTC), by ("budget", "pool", "deadline"), cpu_h_per_h
    """
    ends: dict[str, datetime] = {}
    cpu_h_per_h = None
    if len(charges) > 1 and hours > 0.0:
        since = charges[1:]
        cpu_h_per_h = sum(c["cpu_h"] for c in since) / hours
        n_per_h = sum(c["purpose"] != "learn" for c in since) / hours
        left = {"budget": (cpu_h_left, cpu_h_per_h), "pool": (n_left, n_per_h)}
        ends = {by: at + timedelta(hours=min(x / pace, 1e6)) for by, (x, pace) in left.items() if pace > 0.0}
    if deadline is not None:
        ends["deadline"] = datetime.fromisoformat(deadline).astimezone(UTC)
    if not ends:
        return None
    by = min(ends, key=lambda k: ends[k])
    return {"time": ends[by].isoformat(timespec="seconds"), "by": by, "cpu_h_per_h": cpu_h_per_h}
