"""The step against a rehearsed FireWorks: whatever the outcomes, their order and the crashes, its promises hold."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pymatgen.core import Lattice, Structure
from pymongo.database import Database

from selector.campaign import Campaign
from selector.candidates import Candidate, Rejection
from selector.chronicle import compile_record
from selector.config import CampaignConfig
from selector.errors import SelectorError, UsageError
from selector.protocols import Failure, Job, Result
from selector.report import DECISION_COLUMNS
from selector.spectra import ENERGY_EV, Spectrum
from selector.store import Store

HASH = "0123456789ab"


@dataclass(frozen=True)
class Computed:
    """A calculation whose RPA absorption is ``sc`` times its IPA absorption, so that SC[RPA; IPA] = sc."""

    sc: float
    wall_s: float = 36.0
    engine: str = "gpaw"
    version: str = "0"
    settings_hash: str = HASH
    settings: dict[str, Any] = field(default_factory=dict)
    details: dict[str, Any] = field(default_factory=dict)
    gap_ev: float = 2.0
    cpu_s: float = 30.0

    @property
    def spectra(self) -> dict[str, Spectrum]:
        ipa = np.tile(1j * ENERGY_EV, (3, 1))
        return {"ipa": Spectrum(ENERGY_EV, ipa), "rpa": Spectrum(ENERGY_EV, self.sc * ipa)}


@dataclass
class Rehearsal:
    """A dispatcher in memory: jobs wait until a test says what became of them."""

    jobs: dict[str, Job] = field(default_factory=dict)
    outcomes: dict[str, Result | Failure] = field(default_factory=dict)
    learning: list[str] = field(default_factory=list)
    lost_learning: set[str] = field(default_factory=set)
    crash: bool = False

    def submit(self, job: Job) -> int:
        if self.crash:
            raise ConnectionError("the launcher died")
        self.jobs.setdefault(job.key, job)
        return list(self.jobs).index(job.key) + 1

    def submit_learning(self, campaign: str, key: str) -> int:
        self.learning.append(key)
        return 1000 + len(self.learning)

    def outcome(self, key: str, workdir: Path) -> Result | Failure | None:
        return self.outcomes.get(key)

    def learning_is_out(self, key: str) -> bool:
        return key not in self.lost_learning

    def reap(self, campaign: str) -> int:
        return 0

    def waiting(self) -> list[Job]:
        return [job for key, job in self.jobs.items() if key not in self.outcomes]


@dataclass
class Guess:
    mean: np.ndarray
    spread: np.ndarray
    out_of_domain: np.ndarray


@dataclass
class Table:
    """A predictor that reads SC from the cell's length; each fine-tuning shifts it."""

    model_id: str = "m0"
    settings_hash: str = HASH
    seen: int = 0
    card: dict[str, Any] = field(default_factory=lambda: {"metrics": {"oof_mae": 0.05}})
    scores: np.ndarray = field(default_factory=lambda: np.linspace(0.05, 2.0, 40))

    def predict(self, structures: Sequence[Structure]) -> Guess:
        mean = np.array([s.lattice.a / 10 for s in structures])
        return Guess(mean, np.full(len(mean), 0.05), np.zeros(len(mean), bool))

    def fine_tune(self, structures: Sequence[Structure], sc: Sequence[float]) -> Table:
        return Table(f"m{len(sc)}", seen=len(sc))


@dataclass
class Drawer:
    models: dict[str, Table] = field(default_factory=lambda: {"m0": Table()})

    def load(self, file: str) -> Table:
        return self.models[file]

    def save(self, predictor: Table) -> str:
        self.models[predictor.model_id] = predictor
        return predictor.model_id

    def train(self, structures: Sequence[Structure], sc: Sequence[float], engine: str, settings_hash: str) -> Table:
        return Table(f"own{len(sc)}", settings_hash=settings_hash, seen=len(sc))


@dataclass
class Meter:
    cost_log_sd: float = 0.2
    settings_hash: str = HASH

    def check(self, structure: Structure) -> None:
        return None

    def estimate_cpu_h(self, structure: Structure) -> float:
        return 0.01


def crystal(name: str, sc: float) -> Candidate:
    """A caesium-chloride cell whose length tells `Table` what to predict."""
    structure = Structure(Lattice.cubic(10 * sc), ["Mg", "O"], [[0, 0, 0], [0.5, 0.5, 0.5]])
    return Candidate(name, structure, f"{name}.cif")


def begin(database: Database[Any], tmp_path: Path, **changes: Any) -> tuple[Campaign, Rehearsal]:
    config = CampaignConfig.model_validate(
        {"campaign": "c", "folder": tmp_path, "budget_cpu_h": 1.0, "predictor": {"retrain_every": 2}, **changes}
    )
    store, dispatcher = Store(database, "c"), Rehearsal()
    store.create(config.public(), config.budget_cpu_h, HASH)
    store.add_model("m0", round=0, parent=None, file="m0", settings_hash=HASH, n_new_labels=0, metrics={})
    return Campaign(store, config, Meter(), dispatcher, Drawer()), dispatcher


def check_promises(campaign: Campaign, dispatcher: Rehearsal) -> None:
    """Invariants 2, 3 and 5 of docs/architecture.md."""
    account = campaign.store.campaign()["ledger"]
    assert account["spent_ms"] + account["reserved_ms"] + account["available_ms"] == account["budget_ms"]
    assert account["available_ms"] >= 0
    running = campaign.store.candidates("reserved", "running")
    assert len(running) <= campaign.config.max_in_flight
    assert {c["decision"]["key"] for c in running} == set(account["open"])
    for c in campaign.store.candidates():
        attempts = [j for j in dispatcher.jobs.values() if j.material_id == c["material_id"]]
        assert len(attempts) == len({j.key for j in attempts}) == c.get("attempts", 0)
        assert c.get("failures", 0) <= campaign.config.max_attempts
        if c["status"] != "pending":
            assert c.get("decision", {}).get("reason") or c["status"] == "rejected"


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
    campaign, dispatcher = begin(database, tmp_path, budget_cpu_h=0.16, max_in_flight=1)
    campaign.add([crystal("a", 0.5), crystal("b", 0.6)], [])
    campaign.step()
    (key,) = dispatcher.jobs
    reserved = campaign.store.ledger.totals().reserved_cpu_h
    dispatcher.outcomes[key] = Failure("TimedOut", "slow", reserved * 3600, retry=True)
    # What is left is enough for b, not for a's second attempt: it waits, and then stays at IPA.
    for _ in range(4):
        campaign.step()
    second = next(job for job in dispatcher.jobs.values() if job.material_id == "b")
    dispatcher.outcomes[second.key] = Failure("Metallic", "no gap", 1.0, retry=False)
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
    campaign, dispatcher = begin(database, tmp_path, budget_cpu_h=0.06)
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
    assert (c["status"], c["attempts"]) == ("running", 1)
    check_promises(campaign, dispatcher)


def test_two_steps_at_once_are_one_step_and_another_round(database: Database[Any], tmp_path: Path) -> None:
    campaign, _ = begin(database, tmp_path)
    epoch = campaign.store.take_lease("someone else")
    assert epoch is not None
    assert campaign.step().busy
    assert campaign.store.step_requested()
    campaign.store.drop_lease(epoch)
    assert not campaign.step().busy
    assert not campaign.store.step_requested()


def test_a_lease_dies_with_its_holder(database: Database[Any], tmp_path: Path) -> None:
    campaign, _ = begin(database, tmp_path)
    ended = subprocess.Popen([sys.executable, "-c", "pass"])
    ended.wait()
    assert campaign.store.take_lease(f"{socket.gethostname()}:{ended.pid}") is not None
    assert not campaign.step().busy
    assert campaign.store.take_lease(f"another-host:{ended.pid}") is not None
    assert campaign.step().busy


def test_foreign_weights_are_never_mixed_with_own_labels(database: Database[Any], tmp_path: Path) -> None:
    campaign, dispatcher = begin(database, tmp_path, max_in_flight=30, budget_cpu_h=9.0, predictor={"retrain_every": 1})
    database["models"].update_one({"model_id": "m0"}, {"$set": {"settings_hash": "another"}})
    campaign.add([crystal(f"x{i:02d}", 0.3 + 0.01 * i) for i in range(22)], [])
    campaign.step()
    keys = list(dispatcher.jobs)
    for key in keys[:19]:
        dispatcher.outcomes[key] = Result(Computed(0.5))
    assert not campaign.step().learning
    dispatcher.outcomes[keys[19]] = Result(Computed(0.5))
    assert campaign.step().learning
    assert campaign.learn(dispatcher.learning[0]) == "own20"


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


OUTCOMES: dict[str, Callable[[], Result | Failure]] = {
    "result": lambda: Result(Computed(0.55)),
    "metal": lambda: Failure("Metallic", "no gap", 9.0, retry=False),
    "timeout": lambda: Failure("TimedOut", "slow", 1e6, retry=True),
    "vanished": lambda: Failure("Vanished", "gone", None, retry=True),
    "stopped": lambda: Failure("Interrupted", "stopped", 2.0, retry=False, interrupted=True),
}


@settings(max_examples=12)
@given(st.lists(st.sampled_from([*OUTCOMES, "step", "crash", "learn"]), min_size=5, max_size=40), st.randoms())
def test_promises_hold_in_any_order_of_events(
    database: Database[Any], tmp_path: Path, events: list[str], rng: Any
) -> None:
    for name in ("campaigns", "candidates", "spectra", "labels", "models", "events", "ledger"):
        database[name].delete_many({})
    campaign, dispatcher = begin(database, tmp_path, budget_cpu_h=0.15)
    campaign.add([crystal(f"x{i}", 0.3 + 0.06 * i) for i in range(9)], [])
    recorded: dict[str, str] = {}
    for event in [*events, *["step", "result", "result", "learn"] * 15]:
        waiting = dispatcher.waiting()
        if event in OUTCOMES and waiting:
            dispatcher.outcomes[rng.choice(waiting).key] = OUTCOMES[event]()
        elif event == "crash":
            dispatcher.crash = True
            with contextlib.suppress(ConnectionError):
                campaign.step()
            dispatcher.crash = False
        elif event == "learn" and dispatcher.learning:
            campaign.learn(dispatcher.learning[-1])
        elif event == "step":
            campaign.step()
            check_promises(campaign, dispatcher)
            # Invariant 1: what was recorded once stays, and is not computed again.
            for c in campaign.store.candidates("done"):
                assert recorded.setdefault(c["material_id"], c["decision"]["key"]) == c["decision"]["key"]
    campaign.step()
    assert campaign.store.campaign()["state"] == "finished"
    assert not campaign.store.candidates("pending", "reserved", "running")
    assert database["labels"].count_documents({}) == campaign.store.counts().get("done", 0)
