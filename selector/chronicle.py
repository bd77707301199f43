"""The campaign's memory told as one plain record: what the report, `status` and `--json` show."""

from __future__ import annotations

from typing import Any

from selector.documents import Document, now
from selector.progress import progress
from selector.report.record import CampaignRecord
from selector.spectra import ENERGY_EV
from selector.store import Store

STATUS = {"reserved": "running"}


def compile_record(store: Store) -> CampaignRecord:
    """Everything a report shows. Spectra are traces / 3 on 0-20 eV."""
    candidates = list(store.without_structure())
    decisions = _decision_rows(store, candidates)
    counts: dict[str, int] = {}
    for row in decisions:
        counts[row["status"]] = counts.get(row["status"], 0) + 1
    return CampaignRecord(
        summary=_summary(store, counts),
        decisions=decisions,
        predictions=[_prediction_row(c) for c in candidates if c.get("decision", {}).get("level") == "rpa"],
        models=[
            {
                **{k: m.get(k) for k in ("round", "model_id", "parent", "n_new_labels", "created", "gate")},
                "accepted": m.get("accepted", True),
                "reads_ipa": m.get("reads_ipa", False),
                "oof_mae": m.get("metrics", {}).get("oof_mae"),
            }
            for m in store.model_history()
        ],
        ledger=store.ledger.history(),
        spectra=_spectra(store, candidates),
        events=[{k: e[k] for k in ("time", "kind", "message")} for e in store.events()],
    )


def decision_rows(store: Store) -> list[dict[str, Any]]:
    """One row for every candidate, rejected inputs included, under `selector.report.DECISION_COLUMNS`."""
    return _decision_rows(store, list(store.without_structure()))


def _decision_rows(store: Store, candidates: list[Document]) -> list[dict[str, Any]]:
    charged = store.ledger.charged()
    return [_decision_row(c, charged) for c in candidates]


def _summary(store: Store, counts: dict[str, int]) -> dict[str, Any]:
    campaign, totals = store.campaign(), store.ledger.totals()
    config, standing = campaign["config"], progress(store)
    return {
        "name": store.name,
        "state": campaign["state"],
        "stop_reason": campaign["stop_reason"],
        "policy": config["policy"]["name"],
        "threshold": config["policy"]["threshold"],
        "engine": config["engine"]["name"],
        "preset": config["engine"]["preset"],
        "settings_hash": campaign["settings_hash"],
        "budget_cpu_h": totals.budget_cpu_h,
        "spent_cpu_h": totals.spent_cpu_h,
        "reserved_cpu_h": totals.reserved_cpu_h,
        "audit_available_cpu_h": totals.audit_available_cpu_h,
        "by_purpose": totals.by_purpose,
        "by_stage": totals.by_stage,
        "n_candidates": sum(counts.values()),
        "counts": counts,
        "created": campaign["created"],
        "updated": now(),
        **{k: standing[k] for k in ("calibration", "bound", "updates", "errors")},
    }


def _decision_row(c: Document, charged: dict[str, float]) -> dict[str, Any]:
    status: str = STATUS.get(c["status"]) or c["status"]
    decision = c.get("decision", {})
    standing = c.get("prediction", {}) if status == "pending" else decision
    level: str = decision.get("level", "ipa")
    return {
        "material_id": c["material_id"],
        "formula": c.get("formula", ""),
        "level": "" if status == "rejected" else level,
        "status": status,
        "reason": _reason(c, status),
        "sc_pred": standing.get("sc_mean"),
        "sc_lo": standing.get("sc_lo"),
        "sc_hi": standing.get("sc_hi"),
        "sc_computed": c.get("sc_computed"),
        "cost_predicted_cpu_h": decision.get("cost_predicted_cpu_h"),
        "cost_cpu_h": charged.get(c["material_id"]),
        "model_id": standing.get("model_id"),
        "out_of_domain": standing.get("out_of_domain"),
        "calibration": standing.get("calibration"),
        "p_low": standing.get("p_low"),
        **{k: decision.get(k) for k in ("policy", "purpose", "random_draw", "audit_probability", "attempt", "fw_id")},
        "outcome": decision.get("outcome", {}).get("status"),
        "by_hand": next((word for word in ("pinned", "vetoed") if c.get(word)), None),
    }


def _reason(c: Document, status: str) -> str:
    if status == "rejected":
        return str(c["message"])
    if status == "failed":
        return f"{c['decision']['reason']}; failed: {c['reason_code']}: {c['message']}"
    reason = "not decided yet" if status == "pending" else str(c["decision"]["reason"])
    if status == "pending" and c.get("ipa"):
        reason += f"; its IPA spectrum is {c['ipa']}"
    if status != "done" and c.get("reason_code"):
        reason += f"; last attempt: {c['reason_code']}: {c['message']}"
    return reason


def _prediction_row(c: Document) -> dict[str, Any]:
    d = c["decision"]
    return {
        "material_id": c["material_id"],
        "formula": c["formula"],
        "model_id": d["model_id"],
        "model_round": d["model_round"],
        "sc_pred": d["sc_mean"],
        "sc_lo": d["sc_lo"],
        "sc_hi": d["sc_hi"],
        "sc_computed": c.get("sc_computed"),
    }


def _spectra(store: Store, candidates: list[Document]) -> dict[str, dict[str, Any]]:
    by_id = {c["material_id"]: c for c in candidates if c["status"] != "rejected"}
    found = {}
    for material_id, levels in store.spectra().items():
        if {"ipa", "rpa"} <= levels.keys():
            ipa, rpa = (levels[level].on_grid(ENERGY_EV).mean for level in ("ipa", "rpa"))
            c = by_id[material_id]
            found[material_id] = {
                "formula": c["formula"],
                "sc": c.get("sc_computed"),
                "energy_ev": ENERGY_EV,
                "ipa_im": ipa.imag,
                "ipa_re": ipa.real,
                "rpa_im": rpa.imag,
                "rpa_re": rpa.real,
            }
    return found
