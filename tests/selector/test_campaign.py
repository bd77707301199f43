"""The step against a rehearsed FireWorks: whatever the outcomes, their order and the crashes, its promises hold."""

from __future__ import annotations

import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from pymongo.database import Database
from rehearsal import HASH, Computed, begin, check_promises, computed, crystal

from selector import recalibration
from selector.campaign import Campaign
from selector.candidates import Rejection
from selector.chronicle import compile_record
from selector.errors import SelectorError, UsageError
from selector.protocols import Failure, Result
from selector.report import DECISION_COLUMNS
from selector.store import Store


def test_lowest_predicted_sc_goes_first_and_only_below_the_threshold(database: Database[Any], tmp_path: Path) -> None:
    campaign, dispatcher = begin(database, tmp_path)
    campaign.add([crystal("high", 0.9), crystal("mid", 0.7), crystal("low", 0.5)], [])
    report = campaign.step()
    assert report.dispatched == 2
    assert [j.material_id for j in dispatcher.jobs.values()] == ["low", "mid"]
    assert campaign.step().dispatched == 0
    check_promises(campaign, dispatcher)


def test_a_result_becomes_spectra_label_charge_and_status_once(database: Database[Any], tmp_path: Path) -> None:
    campaign, dispatcher = begin(database, tmp_path)
    campaign.add([crystal("a", 0.5), crystal("b", 0.9)], [])
    campaign.step()
    (key,) = dispatcher.jobs
    dispatcher.outcomes[key] = Result(Computed(0.6))
    before = campaign.store.candidate("a")
    assert campaign.settle(before)
    assert not campaign.settle(before)
    c = campaign.store.candidate("a")
    assert (c["status"], round(c["sc_computed"], 9)) == ("done", 0.6)
    assert campaign.store.ledger.totals().spent_cpu_h == pytest.approx(0.01)
    assert database["spectra"].count_documents({}) == 2
    assert database["labels"].count_documents({}) == 1
    spectra = campaign.store.spectra()["a"]
    assert spectra["rpa"].eps.imag[0, -1] == pytest.approx(0.6 * spectra["ipa"].eps.imag[0, -1])


def test_learning_starts_after_every_second_result_and_blocks_nobody(database: Database[Any], tmp_path: Path) -> None:
    campaign, dispatcher = begin(database, tmp_path)
    campaign.add([crystal(f"x{i}", 0.4 + 0.04 * i) for i in range(6)], [])
    campaign.step()
    for key in list(dispatcher.jobs):
        dispatcher.outcomes[key] = Result(Computed(0.5))
    report = campaign.step()
    assert report.learning
    assert report.dispatched == 2
    assert len(dispatcher.learning) == 1
    assert campaign.learn(dispatcher.learning[0]) == "m2"
    assert campaign.learn(dispatcher.learning[0]) is None
    campaign.step()
    assert {c["prediction"]["model_id"] for c in campaign.store.candidates("pending")} == {"m2"}
    assert [m["model_id"] for m in campaign.store.models()] == ["m0", "m2"]


def test_a_learning_job_that_died_is_told_and_not_repeated(database: Database[Any], tmp_path: Path) -> None:
    campaign, dispatcher = begin(database, tmp_path)
    campaign.add([crystal("a", 0.4), crystal("b", 0.5), crystal("c", 0.95)], [])
    campaign.step()
    for key in list(dispatcher.jobs):
        dispatcher.outcomes[key] = Result(Computed(0.5))
    campaign.step()
    dispatcher.lost_learning |= set(dispatcher.learning)
    campaign.step()
    assert len(dispatcher.learning) == 1
    assert campaign.store.campaign()["state"] == "finished"
    assert "learning failed" in {e["kind"] for e in campaign.store.events()}


@pytest.mark.parametrize(
    ("failure", "status", "spent"),
    [
        (Failure("Metallic", "no gap", 18.0, retry=False), "failed", 0.005),
        (Failure("TimedOut", "too slow", 18.0, retry=True), "pending", 0.005),
        (Failure("Interrupted", "stopped", 18.0, retry=False, interrupted=True), "pending", 0.005),
        (Failure("Vanished", "no trace", None, retry=True), "pending", None),
    ],
)
def test_a_failure_is_named_charged_and_retried_where_that_may_help(
    database: Database[Any], tmp_path: Path, failure: Failure, status: str, spent: float | None
) -> None:
    campaign, dispatcher = begin(database, tmp_path)
    campaign.add([crystal("a", 0.5)], [])
    campaign.step()
    (key,) = dispatcher.jobs
    reserved = campaign.store.ledger.totals().reserved_cpu_h
    dispatcher.outcomes[key] = failure
    assert campaign.settle(campaign.store.candidate("a"))
    c = campaign.store.candidate("a")
    assert (c["status"], c["reason_code"]) == (status, failure.reason)
    assert campaign.store.ledger.totals().spent_cpu_h == pytest.approx(reserved if spent is None else spent)
    assert database["labels"].count_documents({}) == 0
    if failure.reason == "TimedOut":
        (again,) = campaign.rank()
        assert again.reserve_cpu_h == pytest.approx(2 * reserved, rel=1e-5)


def test_a_timed_out_candidate_asks_for_twice_its_time_however_long_it_waits(
    database: Database[Any], tmp_path: Path
) -> None:
    campaign, dispatcher = begin(database, tmp_path, max_in_flight=1)
    known = [crystal(f"x{i}", 0.3 + 0.01 * i) for i in range(5)]
    campaign.add([*known, crystal("a", 0.5), crystal("b", 0.6)], [])
    campaign.step()
    for _ in known:
        (job,) = dispatcher.waiting()
        dispatcher.outcomes[job.key] = Result(computed(job, 0.3, 36.0))
        campaign.step()
    (job,) = dispatcher.waiting()
    reserved = campaign.store.ledger.totals().reserved_cpu_h
    assert (job.material_id, job.time_limit_s) == ("a", pytest.approx(reserved * 3600, abs=0.001))
    dispatcher.outcomes[job.key] = Failure("TimedOut", "slow", reserved * 3600, retry=True)
    # What is left is enough for b, not for a's second attempt: it waits, and then stays at IPA.
    spare_cpu_h = campaign.store.ledger.totals().available_cpu_h - 1.9 * reserved
    campaign.store.ledger.book("learn-much", spare_cpu_h)
    for _ in range(4):
        campaign.step()
    second = next(job for job in dispatcher.jobs.values() if job.material_id == "b")
    dispatcher.outcomes[second.key] = Failure("Metallic", "no gap", 1.0, retry=False)
    campaign.step()
    campaign.learn(dispatcher.learning[-1])
    campaign.step()
    c = campaign.store.candidate("a")
    assert c["status"] == "skipped"
    assert f"needs {2 * reserved:.4f} CPU-h" in c["decision"]["reason"]


def test_retries_end_at_the_limit(database: Database[Any], tmp_path: Path) -> None:
    campaign, dispatcher = begin(database, tmp_path, max_attempts=2)
    campaign.add([crystal("a", 0.5)], [])
    for _ in range(4):
        campaign.step()
        for job in dispatcher.waiting():
            dispatcher.outcomes[job.key] = Failure("NotConverged", "no", 1.0, retry=True)
    assert len(dispatcher.jobs) == 2
    assert campaign.store.candidate("a")["status"] == "failed"
    assert campaign.store.campaign()["state"] == "finished"


def test_the_campaign_stops_at_its_budget_and_says_so(database: Database[Any], tmp_path: Path) -> None:
    campaign, dispatcher = begin(database, tmp_path, budget_cpu_h=0.075)
    campaign.add([crystal(f"x{i}", 0.3 + 0.02 * i) for i in range(10)], [])
    for _ in range(30):
        campaign.step()
        check_promises(campaign, dispatcher)
        for job in dispatcher.waiting():
            dispatcher.outcomes[job.key] = Result(Computed(0.5))
        for key in dispatcher.learning:
            campaign.learn(key)
    state = campaign.store.campaign()
    assert state["state"] == "finished"
    assert state["stop_reason"].startswith("budget")
    assert 1 <= campaign.store.counts()["done"] < 10
    skipped = campaign.store.candidates("skipped")
    assert all("CPU-h reserved" in c["decision"]["reason"] for c in skipped)


def test_a_crash_between_claim_and_dispatch_is_healed(database: Database[Any], tmp_path: Path) -> None:
    campaign, dispatcher = begin(database, tmp_path)
    campaign.add([crystal("a", 0.5)], [])
    dispatcher.crash = True
    with pytest.raises(ConnectionError):
        campaign.step()
    assert campaign.store.candidate("a")["status"] == "reserved"
    dispatcher.crash = False
    campaign.step()
    assert campaign.store.candidate("a")["status"] == "running"
    assert len(dispatcher.jobs) == 1
    check_promises(campaign, dispatcher)


def test_a_crash_before_the_reservation_gives_the_candidate_back(database: Database[Any], tmp_path: Path) -> None:
    campaign, dispatcher = begin(database, tmp_path)
    campaign.add([crystal("a", 0.5)], [])
    campaign.store.move("a", ["pending"], "reserved", decision={"key": "k"}, attempts=1)
    campaign.step()
    c = campaign.store.candidate("a")
    # The first attempt's key is not used again: whoever claimed it may still be about to reserve under it.
    assert (c["status"], c["attempts"], len(dispatcher.jobs)) == ("running", 2, 1)
    check_promises(campaign, dispatcher)


def test_two_steps_at_once_are_one_step_and_another_round(database: Database[Any], tmp_path: Path) -> None:
    campaign, _ = begin(database, tmp_path)
    epoch = campaign.store.lease.take("someone else")
    assert epoch is not None
    assert campaign.step().busy
    assert campaign.store.step_requested()
    campaign.store.lease.drop(epoch)
    assert not campaign.step().busy
    assert not campaign.store.step_requested()


def test_a_lease_dies_with_its_holder(database: Database[Any], tmp_path: Path) -> None:
    campaign, _ = begin(database, tmp_path)
    ended = subprocess.Popen([sys.executable, "-c", "pass"])
    ended.wait()
    assert campaign.store.lease.take(f"{socket.gethostname()}:{ended.pid}") is not None
    assert not campaign.step().busy
    assert campaign.store.lease.take(f"another-host:{ended.pid}") is not None
    assert campaign.step().busy


def test_foreign_weights_are_never_mixed_with_own_labels(database: Database[Any], tmp_path: Path) -> None:
    many = {"max_in_flight": 30, "budget_cpu_h": 9.0, "predictor": {"retrain_every": 1}}
    campaign, dispatcher = begin(database, tmp_path, weights="another", **many)
    campaign.add([crystal(f"x{i:02d}", 0.3 + 0.01 * i) for i in range(22)], [])
    campaign.step()
    keys = list(dispatcher.jobs)
    for key in keys[:19]:
        dispatcher.outcomes[key] = Result(Computed(0.5))
    assert not campaign.step().learning
    dispatcher.outcomes[keys[19]] = Result(Computed(0.5))
    assert campaign.step().learning
    assert campaign.learn(dispatcher.learning[0]) == "own20"
    # The first weights stay foreign: the second round, too, learns from the campaign's own labels alone.
    dispatcher.outcomes[keys[20]] = Result(Computed(0.5))
    assert campaign.step().learning
    assert campaign.learn(dispatcher.learning[1]) == "own21"


def widths(campaign: Campaign) -> list[float]:
    return [c["prediction"]["sc_hi"] - c["prediction"]["sc_lo"] for c in campaign.store.candidates("pending")]


def test_weights_of_another_kind_of_label_start_uncalibrated(database: Database[Any], tmp_path: Path) -> None:
    crystals = [crystal(f"x{i}", 0.3 + 0.05 * i) for i in range(4)]
    own, _ = begin(database, tmp_path)
    own.add(crystals, [])
    assert own.store.campaign()["calibration"] == "held_out"
    known = widths(own)
    for name in ("campaigns", "candidates", "models", "events"):
        database[name].delete_many({})
    foreign, dispatcher = begin(database, tmp_path, weights="another")
    foreign.add(crystals, [])
    assert widths(foreign) == pytest.approx([2 * w for w in known])
    status = recalibration.standing(foreign.store).summary()
    assert (status["state"], status["n_random"], status["coverage"]) == ("uncalibrated", 0, None)
    assert "another" in status["message"] and HASH in status["message"]
    (event,) = [e for e in foreign.store.events() if e["kind"] == "calibration"]
    assert event["message"] == status["message"]
    # Labels that a policy chose change nothing of it.
    foreign.step()
    for key in dispatcher.jobs:
        dispatcher.outcomes[key] = Result(Computed(0.5))
    foreign.step()
    record = compile_record(foreign.store)
    assert record.summary["calibration"]["state"] == "uncalibrated"
    assert {d["calibration"] for d in record.decisions} == {"uncalibrated"}


def test_another_engine_with_the_same_settings_is_another_kind(database: Database[Any], tmp_path: Path) -> None:
    campaign, _ = begin(database, tmp_path)
    database["models"].update_many({}, {"$set": {"engine": "yambo"}})
    campaign.add([crystal("a", 0.5)], [])
    assert campaign.store.campaign()["calibration"] == "uncalibrated"
    assert f"labels of yambo {HASH}, this campaign computes gpaw {HASH}" in campaign.store.events()[-1]["message"]


def test_thirty_random_labels_calibrate_a_campaign_anew(database: Database[Any], tmp_path: Path) -> None:
    """Every SC computed lies two spreads (2 x 0.05) above its prediction: the intervals become +- 0.1."""
    many = {"max_in_flight": 10, "budget_cpu_h": 9.0, "predictor": {"retrain_every": 1000}}
    campaign, dispatcher = begin(database, tmp_path, weights="another", policy={"name": "random"}, **many)
    campaign.add([crystal(f"x{i:02d}", 0.2 + 0.01 * i) for i in range(60)], [])
    while campaign.store.counts().get("done", 0) < 30:
        assert campaign.store.campaign()["calibration"] == "uncalibrated"
        campaign.step()
        for job in dispatcher.waiting():
            c = campaign.store.candidate(job.material_id)
            dispatcher.outcomes[job.key] = Result(Computed(c["decision"]["sc_mean"] + 0.1))
    assert campaign.store.campaign()["calibration"] == "random_draws"
    pending = [c["prediction"] for c in campaign.store.candidates("pending")]
    assert pending and all(p["calibration"] == "random_draws" for p in pending)
    for p in pending:
        assert (p["sc_hi"] - p["sc_mean"], p["sc_mean"] - p["sc_lo"]) == pytest.approx((0.1, 0.1))
    # Doubled, the 40 scores from 0.05 to 2 gave +- 0.18: each of the 30 lay within what was stated for it.
    found = recalibration.standing(campaign.store).summary()
    assert found["n_random"] == 30
    assert (found["coverage"]["inside"], found["coverage"]["n"]) == (30, 30)
    assert "30 of 30 random draws lay within theirs, 100 % (95 % confidence 88 to 100 %)" in found["message"]
    kinds = [e["kind"] for e in campaign.store.events()]
    assert kinds.count("calibration") == 2


def test_a_label_keeps_what_was_predicted_before_it(database: Database[Any], tmp_path: Path) -> None:
    campaign, dispatcher = begin(database, tmp_path)
    campaign.add([crystal("a", 0.5)], [])
    campaign.step()
    (key,) = dispatcher.jobs
    dispatcher.outcomes[key] = Result(Computed(0.9))
    campaign.step()
    (label,) = campaign.store.labels(HASH)
    decision = campaign.store.candidate("a")["decision"]
    assert label["prediction"] == {k: decision[k] for k in label["prediction"]}
    assert label["prediction"]["sc_mean"] == pytest.approx(0.5)
    assert label["random_draw"] is False


def test_a_crystal_out_of_domain_is_told_wherever_it_is_decided(database: Database[Any], tmp_path: Path) -> None:
    campaign, _ = begin(database, tmp_path)
    campaign.shelf.models["m0"].foreign = {"Mg", "O"}  # type: ignore[attr-defined]
    campaign.add([crystal("a", 0.5), crystal("b", 0.9)], [])
    for choice in campaign.plan():
        assert "unlike every crystal" in choice.reason
        assert choice.prediction["out_of_domain"] is True
    campaign.step()
    rows = compile_record(campaign.store).decisions
    assert all(row["out_of_domain"] is True for row in rows)
    assert "unlike every crystal" in rows[0]["reason"]


def test_the_record_has_a_row_and_a_reason_for_everything(database: Database[Any], tmp_path: Path) -> None:
    campaign, dispatcher = begin(database, tmp_path)
    rejected = Rejection("broken", "broken.cif", "unreadable", "broken.cif: not a CIF; replace it")
    campaign.add([crystal("a", 0.5), crystal("b", 0.6), crystal("c", 0.9)], [rejected])
    campaign.step()
    keys = list(dispatcher.jobs)
    dispatcher.outcomes[keys[0]] = Result(Computed(0.45))
    dispatcher.outcomes[keys[1]] = Failure("Metallic", "no gap", 3.0, retry=False)
    campaign.step()
    campaign.learn(dispatcher.learning[0])
    campaign.step()
    record = compile_record(campaign.store)
    rows = {row["material_id"]: row for row in record.decisions}
    assert {k: (r["level"], r["status"]) for k, r in rows.items()} == {
        "a": ("rpa", "done"),
        "b": ("rpa", "failed"),
        "c": ("ipa", "skipped"),
        "broken": ("", "rejected"),
    }
    assert all(set(row) == set(DECISION_COLUMNS) and row["reason"] for row in record.decisions)
    assert rows["a"]["sc_computed"] == pytest.approx(0.45)
    assert rows["a"]["cost_cpu_h"] == pytest.approx(0.01)
    assert set(record.spectra) == {"a"}
    assert record.summary["counts"] == {"done": 1, "failed": 1, "skipped": 1, "rejected": 1}


def test_adding_to_a_finished_campaign_opens_it_again(database: Database[Any], tmp_path: Path) -> None:
    campaign, _ = begin(database, tmp_path)
    campaign.add([crystal("a", 0.9)], [])
    campaign.step()
    assert campaign.store.campaign()["state"] == "finished"
    campaign.add([crystal("b", 0.5)], [])
    campaign.step()
    assert campaign.store.candidate("b")["status"] == "running"
    assert campaign.store.candidate("a")["status"] == "pending"


def test_two_campaigns_of_one_name_are_refused(database: Database[Any], tmp_path: Path) -> None:
    begin(database, tmp_path)
    with pytest.raises(UsageError, match="exists already"):
        begin(database, tmp_path)


def test_an_unknown_campaign_or_material_is_named(database: Database[Any], tmp_path: Path) -> None:
    with pytest.raises(SelectorError, match="'nobody' does not exist"):
        Store(database, "nobody").campaign()
    campaign, _ = begin(database, tmp_path)
    with pytest.raises(SelectorError, match="'zzz' is not in campaign"):
        campaign.store.candidate("zzz")
