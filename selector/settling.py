"""What came of a calculation, booked: spectra, label, ledger, status, in that order.

Each write is idempotent and the status comes last, so that a booking cut short is finished by the next one. An attempt
that was given up as lost may yet return, and so may one whose candidate was settled by such a return: *strays*. Their
cost is booked either way; a result is taken if there is none yet.

IPA alone ends in no label: its spectrum and cost are booked, and the candidate goes back to the pool, where the choice
is made again with the spectrum. One that comes late is kept too, and changes no status.
"""

from __future__ import annotations

from typing import Any

from selector.config import CampaignConfig
from selector.dispatching import given_up, workdir
from selector.documents import IN_FLIGHT, Document, cost_fields, now
from selector.protocols import Dispatcher, Failure, Result
from selector.spectra import ENERGY_EV, mae, mse, similarity
from selector.store import Store

PREDICTED = ("sc_mean", "sc_std", "sc_lo", "sc_hi", "model_id", "calibration")
OPEN = ("pending", "failed", "skipped", *IN_FLIGHT)
"""The states of a candidate without a result."""
VANISHED = "Vanished"
GROUND_STATE, RESPONSE = ("scf", "spin", "bands"), "response"
"""A worker's stages; where both levels are computed the response is one for both, and stands in the ledger as "rpa"."""
SHIPPED = ("scf", "bands", "response")
"""The stages of the labels that ship, which give their times in this order."""


def settle(store: Store, c: Document, dispatcher: Dispatcher, config: CampaignConfig) -> bool:
    """Book what came of the present attempt of candidate ``c``, if anything has; whether this call did it."""
    if c["status"] not in IN_FLIGHT:
        return False
    decision = c["decision"]
    outcome = dispatcher.outcome(decision["key"], workdir(config, c["material_id"], decision))
    if isinstance(outcome, Result):
        book = _book_ipa if decision["level"] == "ipa" else _book_result
        return book(store, c, decision, outcome.calculation, config)
    if outcome is None or (outcome.reason == VANISHED and c["status"] == "reserved"):
        # A workflow that is not there may be about to be added, by the step that reserved.
        return False
    return _book_failure(store, c, outcome, config)


def settle_strays(store: Store, c: Document, dispatcher: Dispatcher, config: CampaignConfig) -> int:
    """Book what came late of earlier attempts of candidate ``c``; how many results were taken."""
    strays, taken = c["strays"], 0
    awaited = []
    for decision in strays:
        key = decision["key"]
        outcome = dispatcher.outcome(key, workdir(config, c["material_id"], decision))
        if isinstance(outcome, Result):
            taken += take_late(store, c["material_id"], decision, outcome.calculation, config)
        elif outcome is not None and store.ledger.reserved(key):
            _charge(store, key, outcome, config)
        elif outcome is None or (outcome.wall_s is None and wanted(c, decision["level"])):
            awaited.append(decision)
    if len(awaited) < len(strays):
        store.set_strays(c["material_id"], strays, awaited)
    return taken


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


def _book_result(
    store: Store, c: Document, decision: Document, calculation: Any, config: CampaignConfig, late: bool = False
) -> bool:
    """Take a result of the attempt that ``decision`` sent out: the candidate's present one, or a late one."""
    found, material_id = label(calculation), c["material_id"]
    present = c.get("decision") or {}
    # Beside the label stands what was predicted before: coverage is measured on such pairs (selector.recalibration).
    said = {k: decision.get(k) for k in PREDICTED} | ({"reads_ipa": True} if decision.get("reads_ipa") else {})
    about = {"prediction": said, "random_draw": bool(decision.get("random_draw")), "purpose": decision.get("purpose")}
    store.save_result(material_id, calculation, found | about)
    used_cpu_h = _charge_result(store, decision, calculation, config)
    outcome = {"status": "done", "sc": found["sc"], "cpu_h": used_cpu_h, "late": late, "time": now()}
    fields: Document = {
        "attempts": max(c["attempts"], decision["attempt"]),
        "sc_computed": found["sc"],
        "used_cpu_h": used_cpu_h,
        "gap_ev": calculation.gap_ev,
        "reason_code": None,
        "decision": {**decision, "fw_id": decision.get("fw_id", c.get("fw_id")), "outcome": outcome},
    }
    push: Document = {}
    if late and present:
        push["history"] = present
        if c["status"] in IN_FLIGHT:
            push["strays"], fields["awaited"] = present, True
    before = [c["status"]] if late else IN_FLIGHT
    if not store.move(material_id, before, "done", key=present.get("key"), push=push, **fields):
        return False
    message = f"{c['formula']} ({material_id}): SC[RPA; IPA] = {found['sc']:.3f}" + ("; it came late" if late else "")
    store.event("recorded", message, material_id=material_id, sc=found["sc"], cpu_h=used_cpu_h)
    return True


def _book_late_result(
    store: Store, material_id: str, decision: Document, calculation: Any, config: CampaignConfig
) -> bool:
    c = store.candidate(material_id)
    while c["status"] in OPEN:
        if _book_result(store, c, decision, calculation, config, late=True):
            return True
        c = store.candidate(material_id)
    _charge_result(store, decision, calculation, config)
    return False


def wanted(c: Document, level: str) -> bool:
    """Whether a result of this level would still be taken."""
    return c["status"] in OPEN and (level == "rpa" or not c.get("ipa"))


def take_late(store: Store, material_id: str, decision: Document, calculation: Any, config: CampaignConfig) -> bool:
    """Take a result of an earlier attempt, which the ledger knows, if it is still wanted; whether it was."""
    book = _book_late_ipa if decision["level"] == "ipa" else _book_late_result
    return book(store, material_id, decision, calculation, config)


def _book_ipa(store: Store, c: Document, decision: Document, calculation: Any, config: CampaignConfig) -> bool:
    """Take the IPA spectrum, and give the candidate back to the pool for its second choice."""
    material_id = c["material_id"]
    store.save_computed(material_id, calculation, ["ipa"])
    used_cpu_h = _charge_result(store, decision, calculation, config)
    fields: Document = {
        "ipa": "computed",
        "used_ipa_cpu_h": used_cpu_h,
        "gap_ev": calculation.gap_ev,
        "reason_code": None,
        "decision.outcome": {"status": "done", "cpu_h": used_cpu_h, "late": False, "time": now()},
    }
    # Without its stamp the prediction is renewed before the candidate can be chosen.
    if not store.move(
        material_id, IN_FLIGHT, given_up(decision), key=decision["key"], unset=["prediction.stamp"], **fields
    ):
        return False
    message = f"{c['formula']} ({material_id}): IPA spectrum computed; the choice is made again with it"
    store.event("recorded", message, material_id=material_id, cpu_h=used_cpu_h)
    return True


def _book_late_ipa(
    store: Store, material_id: str, decision: Document, calculation: Any, config: CampaignConfig
) -> bool:
    store.save_computed(material_id, calculation, ["ipa"])
    used_cpu_h = _charge_result(store, decision, calculation, config)
    if not store.note_late_ipa(material_id, used_cpu_h):
        return False
    message = f"{store.candidate(material_id)['formula']} ({material_id}): IPA spectrum computed; it came late"
    store.event("recorded", message, material_id=material_id, cpu_h=used_cpu_h)
    return True


def _book_failure(store: Store, c: Document, failure: Failure, config: CampaignConfig) -> bool:
    decision = c["decision"]
    key = decision["key"]
    charged = _charge(store, key, failure, config)
    failures = c.get("failures", 0) + (not failure.interrupted)
    again = failure.interrupted or (failure.retry and failures < config.max_attempts)
    outcome = {"status": failure.reason, "message": failure.message, "cpu_h": charged, "again": again, "time": now()}
    fields: Document = {
        "failures": failures,
        "reason_code": failure.reason,
        "message": failure.message,
        "decision.outcome": outcome,
    }
    push: Document = {}
    if failure.reason == "TimedOut" and failure.wall_s is not None:
        _, used, timed_out = cost_fields(decision["level"])
        fields |= {used: charged, timed_out: decision["reserved_cpu_h"]}
    if failure.reason == VANISHED:
        push["strays"], fields["awaited"] = {**decision, "outcome": outcome}, True
    after = given_up(decision) if again else "failed"
    if not store.move(c["material_id"], IN_FLIGHT, after, key=key, push=push, **fields):
        return False
    at = " at IPA" if decision["level"] == "ipa" else ""
    message = f"{c['formula']} ({c['material_id']}){at}: {failure.reason}: {failure.message}"
    store.event(
        "failed",
        message + ("; it will be tried again" if again else ""),
        material_id=c["material_id"],
        reason=failure.reason,
    )
    return True


def _charge(store: Store, key: str, failure: Failure, config: CampaignConfig) -> float:
    """CPU-hours: what it used, or its whole reservation where nobody knows."""
    if failure.wall_s is None:
        return store.ledger.charge_in_full(key)
    return store.ledger.settle(key, failure.wall_s * config.cores_per_job / 3600)


def _charge_result(store: Store, decision: Document, calculation: Any, config: CampaignConfig) -> float:
    """CPU-hours used. What was charged already as lost is not charged again; what a late one used beyond it is."""
    key, used_cpu_h = decision["key"], calculation.wall_s * config.cores_per_job / 3600
    charged = store.ledger.settle(key, used_cpu_h, stages(calculation, decision["level"]))
    given_up_on = decision.get("outcome", {}).get("status") == VANISHED
    if given_up_on and used_cpu_h > charged + 1e-6:
        store.ledger.book(f"late-{key}", used_cpu_h - charged, decision.get("purpose", "rpa"))
    return float(used_cpu_h)


def stages(calculation: Any, level: str) -> dict[str, float]:
    """CPU-hours per stage of a calculation at this level, as far as the engine tells them."""
    found: dict[str, float] = {}
    names = dict.fromkeys(GROUND_STATE, "ground_state") | {RESPONSE: level}
    told = calculation.details.get("cpu_stage_s", {})
    for name, cpu_s in (told if isinstance(told, dict) else dict(zip(SHIPPED, told, strict=False))).items():
        if name in names:
            found[names[name]] = found.get(names[name], 0.0) + cpu_s / 3600
    return found
