"""What came of a calculation, booked: spectra, label, ledger, status, in that order.

Each write is idempotent and the status comes last, so that a booking cut short is finished by the next one.
"""

from __future__ import annotations

from typing import Any

from selector.config import CampaignConfig
from selector.protocols import Failure, Result
from selector.spectra import ENERGY_EV, mae, mse, similarity
from selector.store import IN_FLIGHT, Document, Store


def book(store: Store, c: Document, outcome: Result | Failure, config: CampaignConfig) -> bool:
    """Book the outcome of candidate ``c``'s present attempt; whether this call did it."""
    if isinstance(outcome, Result):
        return _book_result(store, c, outcome.calculation, config)
    return _book_failure(store, c, outcome, config)


def label(calculation: Any) -> Document:
    """SC[RPA; IPA] of the traces / 3 and per field direction, with MSE and MAE, on 0-20 eV."""
    on_grid = {level: s.on_grid(ENERGY_EV) for level, s in calculation.spectra.items()}
    ipa, rpa = on_grid["ipa"], on_grid["rpa"]
    return {
        "sc": similarity(rpa.mean.imag, ipa.mean.imag),
        "sc_xyz": [similarity(r, i) for r, i in zip(rpa.eps.imag, ipa.eps.imag, strict=True)],
        "mse": mse(rpa.mean.imag, ipa.mean.imag),
        "mae": mae(rpa.mean.imag, ipa.mean.imag),
    }


def _book_result(store: Store, c: Document, calculation: Any, config: CampaignConfig) -> bool:
    found, key = label(calculation), c["decision"]["key"]
    used_cpu_h = calculation.wall_s * config.cores_per_job / 3600
    store.save_result(c["material_id"], calculation, found)
    store.ledger.settle(key, used_cpu_h)
    fields = {"sc_computed": found["sc"], "used_cpu_h": used_cpu_h, "gap_ev": calculation.gap_ev, "reason_code": None}
    if not store.move(c["material_id"], IN_FLIGHT, "done", key=key, **fields):
        return False
    message = f"{c['formula']} ({c['material_id']}): SC[RPA; IPA] = {found['sc']:.3f}"
    store.event("recorded", message, material_id=c["material_id"], sc=found["sc"], cpu_h=used_cpu_h)
    return True


def _book_failure(store: Store, c: Document, failure: Failure, config: CampaignConfig) -> bool:
    key = c["decision"]["key"]
    if failure.wall_s is None:
        store.ledger.charge_in_full(key)
    else:
        store.ledger.settle(key, failure.wall_s * config.cores_per_job / 3600)
    failures = c.get("failures", 0) + (not failure.interrupted)
    again = failure.interrupted or (failure.retry and failures < config.max_attempts)
    fields: Document = {"failures": failures, "reason_code": failure.reason, "message": failure.message}
    if failure.reason == "TimedOut" and failure.wall_s is not None:
        fields |= {
            "used_cpu_h": failure.wall_s * config.cores_per_job / 3600,
            "timed_out_cpu_h": c["decision"]["reserved_cpu_h"],
        }
    if not store.move(c["material_id"], IN_FLIGHT, "pending" if again else "failed", key=key, **fields):
        return False
    message = f"{c['formula']} ({c['material_id']}): {failure.reason}: {failure.message}"
    store.event(
        "failed",
        message + ("; it will be tried again" if again else ""),
        material_id=c["material_id"],
        reason=failure.reason,
    )
    return True
