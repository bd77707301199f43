"""A campaign record made up from real labels, and what reads the report of it back."""

from __future__ import annotations

import csv
import io
import json
from base64 import b64decode
from datetime import datetime, timedelta, timezone
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
from rich.console import Console

import models
from selector.report import (
    DECISION_COLUMNS,
    CampaignRecord,
    MaterialMap,
    decision_table,
)
from selector.spectra import ENERGY_EV, Spectrum

N_COMPUTED, N_KEPT, BUDGET_CPU_H, THRESHOLD = 12, 26, 0.12, 0.72

HOSTILE = "<script>document.title='owned'</script>"


def calibration(message: str | None = None, n: int = 0, inside: int = 0) -> dict:
    """What the intervals rest on; uncalibrated where there is a message."""
    return {
        "state": "uncalibrated" if message else "held_out", "message": message or "held-out errors",
        "weights": "gpaw a", "own": "gpaw b", "n_random": n, "n_random_needed": 30,
        "coverage": {"inside": inside, "n": n, "lo": 0.7, "hi": 0.97} if n else None,
    }  # fmt: skip


BOUND = {
    "kind": "final", "share": 0.115, "n_drawn": 12, "n_below": 0, "n_failed": 0,
    "sentence": "Of the 26 materials left at IPA, at most 11.6 % (95 %) have SC below 0.72: of 12 drawn at random, "
    "0 below.",
}  # fmt: skip


def real_labels(n: int) -> list[dict]:
    """RbF3, whose SC is the lowest of the paper's halides, and the next n - 1 labels by id."""
    labels = {}
    for shard in sorted((Path(models.__file__).parent / "data" / "alexandria_gpaw").glob("shard-*.npz")):
        with np.load(shard) as z:
            omega, ipa, rpa, start = z["omega"], z["ipa"], z["rpa"], z["start"]
            for i, meta in enumerate(json.loads(str(z["meta"]))):
                part = slice(start[i], start[i + 1])
                levels = {"ipa": ipa[:, part], "rpa": rpa[:, part]}
                means = {k: Spectrum(omega[part].astype(float), eps).on_grid().mean for k, eps in levels.items()}
                curves = {f"{k}_im": v.imag for k, v in means.items()} | {f"{k}_re": v.real for k, v in means.items()}
                labels[meta["mat_id"]] = meta | curves
    first = labels.pop("agm002763063")
    return [first, *(labels[k] for k in sorted(labels)[: n - 1])]


def fabricate(labels: list[dict], seed: int = 7) -> CampaignRecord:
    """A finished campaign: three rounds of the lowest predicted SC, one failure, one rejected file, the rest at IPA."""
    rng = np.random.default_rng(seed)
    sc = np.array([m["sc"] for m in labels])
    pred = 0.35 * sc.mean() + 0.65 * sc + rng.normal(0, 0.03, len(sc))
    half = rng.uniform(0.05, 0.12, len(sc))
    order = np.argsort(pred)
    begin = datetime(2026, 11, 21, 9, 0, tzinfo=timezone(timedelta(hours=1)))
    decisions, predictions, ledger, spectra, events = [], [], [], {}, []
    spent = 0.0
    for rank, i in enumerate(order):
        m = labels[i]
        cost = m["cpu_s"] / 3600
        model_round = min(rank // 5, 2)
        row = {
            "material_id": m["mat_id"], "formula": m["formula"], "sc_pred": pred[i], "sc_lo": pred[i] - half[i],
            "sc_hi": min(pred[i] + half[i], 1.0), "sc_computed": None, "cost_predicted_cpu_h": 1.1 * cost,
            "cost_cpu_h": None, "model_id": f"sc-{model_round:010x}", "out_of_domain": bool(rank % 9 == 8),
            "calibration": "held_out", "p_low": 0.4, "policy": "threshold", "purpose": None, "random_draw": False,
            "audit_probability": 0.0, "attempt": None, "fw_id": None, "outcome": None, "by_hand": None,
        }  # fmt: skip
        if rank <= N_COMPUTED:
            failed = rank == N_COMPUTED
            row |= {"level": "rpa", "status": "failed" if failed else "done", "cost_cpu_h": cost}
            row |= {"purpose": "rpa", "attempt": 1, "fw_id": 10 + rank, "outcome": "TimedOut" if failed else "done"}
            if rank == 3:
                row |= {"random_draw": True, "audit_probability": 0.125}
            row["reason"] = "TimedOut: 120 s" if failed else f"lowest predicted SC, {pred[i]:.3f} < {THRESHOLD:g}"
            time = begin + timedelta(seconds=25 * rank)
            reserve = {"event": "reserve", "cpu_h": 1.6 * cost, "spent_cpu_h": spent, "reserved_cpu_h": 1.6 * cost}
            spent += cost
            settle = {"event": "settle", "cpu_h": cost, "spent_cpu_h": spent, "reserved_cpu_h": 0.0}
            for entry, seconds in ((reserve, 0), (settle, 18)):
                ledger.append(
                    {"time": (time + timedelta(seconds=seconds)).isoformat(), "material_id": m["mat_id"]} | entry
                )
            if not failed:
                row["sc_computed"] = m["sc"]
                keys = ("material_id", "formula", "model_id", "sc_pred", "sc_lo", "sc_hi", "sc_computed")
                predictions.append({k: row[k] for k in keys} | {"model_round": model_round})
                shown = ("formula", "sc", "ipa_im", "ipa_re", "rpa_im", "rpa_re")
                spectra[m["mat_id"]] = {k: m[k] for k in shown} | {"energy_ev": ENERGY_EV}
            outcome = "TimedOut" if failed else f"SC {m['sc']:.3f}"
            message = f"{m['mat_id']}: {outcome}, {cost:.4f} CPU-h"
            events.append({"time": ledger[-1]["time"], "kind": row["status"], "message": message})
        else:
            row |= {"level": "ipa", "status": "skipped", "reason": "the budget went to lower predicted SC"}
        decisions.append(row)
    decisions.append(
        dict.fromkeys(DECISION_COLUMNS)
        | {"material_id": "broken", "level": "", "status": "rejected", "reason": "broken.cif: no atoms in the file"}
    )
    statuses = [d["status"] for d in decisions]
    summary = {
        "name": "demo", "state": "finished", "stop_reason": "the budget has no room for another calculation",
        "policy": "threshold", "threshold": THRESHOLD, "engine": "gpaw", "preset": "standard-1",
        "settings_hash": "0123456789ab", "budget_cpu_h": BUDGET_CPU_H, "spent_cpu_h": spent, "reserved_cpu_h": 0.0,
        "n_candidates": len(decisions), "counts": {s: statuses.count(s) for s in dict.fromkeys(statuses)},
        "created": (begin - timedelta(seconds=20)).isoformat(), "updated": (begin + timedelta(seconds=340)).isoformat(),
        "calibration": calibration(), "bound": BOUND, "updates": {"accepted": 1, "rejected": 1, "last": None},
        "audit_available_cpu_h": 0.01, "by_purpose": {"rpa": spent, "learn": 0.0}, "by_stage": {"ground_state": spent},
        "errors": [
            {"round": 0, "model_id": "sc-0000000000", "n": 5, "mae": 0.0771, "n_random": 1, "mae_random": 0.0812},
            {"round": 1, "model_id": "sc-0000000001", "n": 7, "mae": 0.0432, "n_random": 0, "mae_random": None},
        ],
    }  # fmt: skip
    gate = {"old_error": 0.061, "new_error": 0.052, "standard_error": 0.004, "n_labels": 5}
    rounds = [
        {"round": r, "model_id": f"sc-{r:010x}", "parent": f"sc-{r - 1:010x}" if r else None, "n_new_labels": 5 * r,
         "created": (begin + timedelta(seconds=125 * r)).isoformat(), "oof_mae": 0.046 - 0.002 * r,
         "accepted": r < 2, "gate": gate | {"accepted": r < 2} if r else None}
        for r in range(3)
    ]  # fmt: skip
    return CampaignRecord(summary, decisions, predictions, rounds, ledger, spectra, events)


def unpacked(curve: str) -> np.ndarray:
    """A curve as the page holds it."""
    return np.frombuffer(b64decode(curve), "<f2").astype(float)


def read_csv(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as f:
        return list(csv.DictReader(f))


def terminal(record: CampaignRecord, **kwargs: int) -> str:
    console = Console(width=100, file=io.StringIO(), color_system=None)
    console.print(decision_table(record, **kwargs))
    return console.file.getvalue()


class Page(HTMLParser):
    """Elements, the texts of the table's rows, and the scripts."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict]] = []
        self.rows: list[str] = []
        self.scripts: list[str] = []
        self.visible = ""
        self.feed(source)

    def handle_starttag(self, tag: str, attrs: list) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag == "tr":
            self.rows.append("")
        if tag == "script":
            self.scripts.append("")

    def handle_data(self, data: str) -> None:
        if self.cdata_elem == "script":
            self.scripts[-1] += data
        elif self.cdata_elem is None:
            self.visible += data
            if self.rows:
                self.rows[-1] += data

    @property
    def payload(self) -> dict:
        return json.loads(self.scripts[0])


def scattered(record: CampaignRecord, note: str | None = None) -> MaterialMap:
    """Every candidate somewhere, with spectra for all but the one of highest SC (all the same, for want of a model)."""
    rng = np.random.default_rng(3)
    rows = [d for d in record.decisions if d["status"] != "rejected"]
    keys = ("material_id", "formula", "sc_pred", "sc_lo", "sc_hi", "sc_computed", "out_of_domain")
    points = [{k: d[k] for k in keys} | {"x": rng.normal(), "y": rng.normal()} for d in rows]
    some = next(iter(record.spectra.values()))
    spectra = {k: some[k] for k in ("energy_ev", "ipa_im", "rpa_im")}
    lacking = max(rows, key=lambda d: d["sc_pred"])["material_id"]
    predicted = {d["material_id"]: spectra for d in rows if d["material_id"] != lacking}
    return MaterialMap(points, "sc-0123456789", predicted, note)


def before_anything(record: CampaignRecord) -> CampaignRecord:
    """The same campaign before anything was predicted or computed."""
    unknown = dict.fromkeys(
        ("out_of_domain", "sc_pred", "sc_lo", "sc_hi", "sc_computed", "cost_predicted_cpu_h", "cost_cpu_h", "model_id")
    )
    rows = [d | unknown | {"level": "ipa", "status": "pending", "reason": None} for d in record.decisions[:5]]
    summary = record.summary | {"state": "running", "stop_reason": None, "spent_cpu_h": 0.0, "counts": {"pending": 5}}
    return CampaignRecord(summary, rows)
