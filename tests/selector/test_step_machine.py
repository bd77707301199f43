"""Whatever happens in whatever order, and wherever a process dies or falls asleep, the campaign keeps its promises.

Hypothesis plays FireWorks, people and fate: results arrive, fail, vanish and come late; processes die before or after
any write, or sleep there while another takes over; learning is accepted, refused or lost; people stop, resume, pin,
veto and pay. After every rule invariants 1 to 5 of docs/architecture.md are looked at; at the end all is brought home.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from itertools import product
from pathlib import Path
from typing import Any

import pytest
from fate import FAILURES, Fate, FireWorks, Fragile, Hands, Killed, Meters, Pupil
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test
from pymongo.database import Database
from rehearsal import HASH, Drawer, computed, crystal, first_models

from selector import lots
from selector.campaign import Campaign
from selector.config import CampaignConfig
from selector.documents import IN_FLIGHT
from selector.errors import UsageError
from selector.ledger import check
from selector.protocols import Failure, Result
from selector.store import Store

MAX_ATTEMPTS = 2
ELEMENTS = [(a, b) for a in ("Mg", "Ca", "Sr", "Ba") for b in ("O", "S", "Se", "Te")]
WHEN = st.sampled_from(["dies before", "dies after", "sleeps before", "sleeps after"])
SC = st.floats(0.2, 1.0)
MEANWHILE = st.lists(st.sampled_from(["step", "step", "result", *FAILURES, "stop", "resume"]), min_size=1, max_size=5)


class Machine(RuleBasedStateMachine):
    """One campaign and its world."""

    stage: tuple[Database[Any], Path]
    """Behind a tuple: Hypothesis looks for rules in every attribute, and a database has whatever it is asked for."""

    @property
    def database(self) -> Database[Any]:
        return self.stage[0]

    @initialize(
        sc=st.lists(SC, min_size=3, max_size=9),
        policy=st.sampled_from(["value_per_cost", "threshold", "random"]),
        bound=st.sampled_from([None, 0.4]),
        ipa=st.sampled_from(["skip", "compute"]),
    )
    def begin(self, sc: list[float], policy: str, bound: float | None, ipa: str = "skip") -> None:
        for name in ("campaigns", "candidates", "spectra", "labels", "models", "events", "ledger"):
            self.database[name].delete_many({})
        self.fireworks, self.pupils = FireWorks(), (Pupil("m0"), Pupil("i0", reads_ipa=True))
        self.shelf = Drawer({pupil.model_id: pupil for pupil in self.pupils})
        self.config = CampaignConfig.model_validate(
            {
                **{"campaign": "c", "folder": self.stage[1], "budget_cpu_h": 0.25, "audit_fraction": 0.2},
                **{"predictor": {"retrain_every": 2}, "policy": {"name": policy, "random_share": 0.2}},
                **{"max_in_flight": 3, "max_attempts": MAX_ATTEMPTS, "stop": {"bound": bound}, "ipa": ipa},
            }
        )
        self.most_in_flight, self.learned = 3, set[str]()
        self.recorded: dict[str, float] = {}
        self.drawn: dict[str, list[str]] = {}
        store = Store(self.database, "c")
        store.create(self.config.public(), self.config.budget_cpu_h, "gpaw", HASH, **self.config.account())
        first_models(store, self.config)
        self.n_added = 0
        self.add(sc)

    # -- processes -----------------------------------------------------------------------------------------------------

    def process(self, fate: Fate | None = None) -> Campaign:
        database: Any = self.database if fate is None else Fragile(self.database, fate)
        hands: Any = self.fireworks if fate is None else Hands(self.fireworks, fate)
        return Campaign(Store(database, "c"), self.config, Meters(), hands, self.shelf)  # type: ignore[arg-type]

    def expire(self) -> None:
        """The lease's time is over."""
        self.database["campaigns"].update_one({"_id": "c"}, {"$set": {"lease.expires": datetime(2000, 1, 1)}})

    def unlucky(self, n: int, when: str, act: Callable[[Campaign], Any], meanwhile: Callable[[], None]) -> bool:
        """Let a process ``act`` under this fate; whether it survived."""

        def others() -> None:
            self.expire()
            meanwhile()

        self.fate = Fate(n, when, others)
        try:
            act(self.process(self.fate))
        except Killed:
            self.expire()
            return False
        return True

    def another_step(self) -> None:
        self.process().step()

    @rule()
    def step(self) -> None:
        report = self.process().step()
        assert not report.busy
        self.look_for_idle_hands()

    @rule(n=st.integers(1, 40), when=WHEN, events=MEANWHILE)
    def unlucky_step(self, n: int, when: str, events: list[str]) -> None:
        def meanwhile() -> None:
            for event in events:
                if event == "step":
                    self.another_step()
                elif event == "result":
                    self.result(0, 0.6, 36.0)
                elif event in FAILURES:
                    self.failure(0, event)
                else:
                    self.stop_or_resume(event)

        self.unlucky(n, when, lambda campaign: campaign.step(), meanwhile)

    @rule(n=st.integers(1, 12), when=WHEN)
    def unlucky_record(self, n: int, when: str) -> None:
        """A rocket books its calculation, while steps go on."""
        for c in self.process().store.candidates("running")[:1]:
            self.unlucky(n, when, lambda campaign, c=c: campaign.settle(c), self.another_step)

    @rule(n=st.integers(0, 8), when=WHEN, good=st.booleans())
    def learn(self, n: int, when: str, good: bool) -> None:
        """A worker fine-tunes; one that dies leaves FireWorks with a lost job."""
        for pupil in self.pupils:
            pupil.good = good
        key = next(reversed(self.fireworks.learning), None)
        if key is not None and key not in self.learned | self.fireworks.lost_learning:
            lived = self.unlucky(n, when, lambda campaign: campaign.learn(key), self.another_step)
            (self.learned if lived else self.fireworks.lost_learning).add(key)

    @rule()
    def a_learning_job_is_lost(self) -> None:
        self.fireworks.lost_learning |= set(self.fireworks.learning[-1:]) - self.learned

    # -- calculations --------------------------------------------------------------------------------------------------

    @rule(which=st.integers(0, 9), sc=SC, wall_s=st.sampled_from([5.0, 36.0, 1e5]))
    def result(self, which: int, sc: float, wall_s: float) -> None:
        if waiting := self.fireworks.waiting():
            job = waiting[which % len(waiting)]
            self.fireworks.outcomes[job.key] = Result(computed(job, sc, wall_s))

    @rule(which=st.integers(0, 9), how=st.sampled_from(sorted(FAILURES)))
    def failure(self, which: int, how: str) -> None:
        if waiting := self.fireworks.waiting():
            job = waiting[which % len(waiting)]
            self.fireworks.outcomes[job.key] = FAILURES[how]()
            self.fireworks.failed.add(job.key)

    @rule(which=st.integers(0, 9), sc=SC)
    def one_given_up_comes_home(self, which: int, sc: float) -> None:
        gone = [k for k, o in self.fireworks.outcomes.items() if isinstance(o, Failure) and o.reason == "Vanished"]
        if gone:
            key = gone[which % len(gone)]
            self.fireworks.outcomes[key] = Result(computed(self.fireworks.jobs[key], sc, 90.0))

    # -- people --------------------------------------------------------------------------------------------------------

    @rule(sc=st.lists(SC, min_size=1, max_size=3))
    def add(self, sc: list[float]) -> None:
        if self.n_added < 15:
            numbers = range(self.n_added, self.n_added + len(sc))
            self.process().add(
                [crystal(f"x{i:02d}", x, ELEMENTS[i % 16]) for i, x in zip(numbers, sc, strict=True)], []
            )
            self.n_added += len(sc)

    @rule(word=st.sampled_from(["stop", "resume"]))
    def stop_or_resume(self, word: str) -> None:
        with contextlib.suppress(UsageError):
            getattr(self.process(), word)()

    @rule(word=st.sampled_from(["pin", "veto"]), on=st.booleans(), which=st.integers(0, 14))
    def point(self, word: str, on: bool, which: int) -> None:
        with contextlib.suppress(UsageError):
            getattr(self.process(), word)(f"x{which % self.n_added:02d}", on)

    @rule(cpu_h=st.floats(0.01, 0.1))
    def pay(self, cpu_h: float) -> None:
        self.process().add_budget(cpu_h)

    @rule(n=st.integers(1, 4))
    def change_room(self, n: int) -> None:
        self.most_in_flight = max(self.most_in_flight, n)
        self.process().set_max_in_flight(n)

    @rule(over=st.booleans())
    def change_deadline(self, over: bool) -> None:
        self.process().set_deadline(datetime.now(UTC) - timedelta(days=1) if over else None)

    # -- what must always hold -----------------------------------------------------------------------------------------

    @invariant()
    def results_stay(self) -> None:
        """1: what was recorded once stays as it is; a label and two spectra stand behind it."""
        store = Store(self.database, "c")
        done = {c["material_id"]: c["sc_computed"] for c in store.candidates("done")}
        assert self.recorded.items() <= done.items()
        self.recorded = done
        assert set(done) <= {label["material_id"] for label in store.labels(HASH)}
        spectra = store.spectra()
        assert {m for m, levels in spectra.items() if set(levels) == {"ipa", "rpa"}} >= set(done)
        assert {c["material_id"] for c in store.candidates() if c.get("ipa")} <= set(spectra)

    @invariant()
    def nothing_is_done_twice(self) -> None:
        """2: beside `FireWorks.submit`, which refuses double work: retries have their limit, and so has what is out."""
        counted: dict[str, int] = {}
        for job in self.fireworks.jobs.values():
            outcome = self.fireworks.outcomes.get(job.key)
            repeats = not (isinstance(outcome, Failure) and outcome.interrupted)
            if repeats and not (job.level == "ipa" and isinstance(outcome, Result)):
                counted[job.material_id] = counted.get(job.material_id, 0) + 1
        assert max(counted.values(), default=0) <= MAX_ATTEMPTS
        assert Store(self.database, "c").count(*IN_FLIGHT) <= self.most_in_flight

    @invariant()
    def the_account_adds_up(self) -> None:
        """3: and what runs may run no longer than its reservation pays for."""
        campaign = self.database["campaigns"].find_one({"_id": "c"})
        check(campaign)
        entries = {e["_id"]: e for e in self.database["ledger"].find({})}
        for key, job in self.fireworks.jobs.items():
            reserved_s = entries[key]["reserved_ms"] / 1000
            assert job.time_limit_s * job.cores <= reserved_s + 1e-3
        for c in self.database["candidates"].find({"status": "running"}):
            assert c["decision"]["key"] in campaign["ledger"]["open"] or self.fireworks.outcomes[c["decision"]["key"]]

    def look_for_idle_hands(self) -> None:
        """4: after a whole step everything is out that may be, whoever is slow and whether or not a model learns."""
        campaign = self.process()
        state = campaign.store.campaign()
        if state["state"] != "running" or state["config"]["deadline"] or self.config.stop.bound:
            return
        room = state["config"]["max_in_flight"] - campaign.store.count(*IN_FLIGHT)
        pending = campaign.pool(campaign.store)
        left = campaign.store.ledger.totals().available_cpu_h
        if room > 0:
            assert not lots.choose(pending, campaign.policy, campaign.config, left, room, state["n_dispatched"])

    @invariant()
    def decisions_are_told(self) -> None:
        """5: each with policy, model, interval, cost, probability of the draw; history keeps those before."""
        for c in Store(self.database, "c").candidates():
            told = [*c.get("history", []), *([c["decision"]] if "decision" in c else [])]
            if c["status"] not in ("pending", "rejected"):
                assert told
            for d in told:
                assert d["reason"] and d["policy"] and d["model_id"]
                assert d["sc_lo"] <= d["sc_mean"] <= d["sc_hi"] and 0 <= d["p_low"] <= 1
                assert d["cost_predicted_cpu_h"] > 0 and 0 <= d["audit_probability"] <= 1
            keys = [d["key"] for d in told if "key" in d]
            submitted = {k for k, job in self.fireworks.jobs.items() if job.material_id == c["material_id"]}
            assert submitted <= set(keys)

    @invariant()
    def draws_are_not_changed(self) -> None:
        campaign = self.database["campaigns"].find_one({"_id": "c"})
        audit = campaign.get("audit") or {"frozen": False}
        draws = {look["mark"]: look["drawn"] for look in campaign["looks"]}
        draws |= {audit["time"]: audit["drawn"]} if audit["frozen"] else {}
        for mark, drawn in draws.items():
            assert self.drawn.setdefault(mark, drawn) == drawn
        assert len(set(draws)) == len(campaign["looks"]) + audit["frozen"]

    @invariant()
    def only_accepted_models_stand(self) -> None:
        store = Store(self.database, "c")
        for reads_ipa in store.lines():
            assert store.model(reads_ipa)["model_id"] in {m["model_id"] for m in store.models(reads_ipa=reads_ipa)}
            assert not any(m["model_id"].endswith("-bad") and m["accepted"] and m["gate"]["n_labels"] > 2
                           and m["gate"]["standard_error"] is not None and m["gate"]["old_error"] < 0.1
                           for m in store.models(None, reads_ipa) if m["parent"])  # fmt: skip

    @invariant()
    def second_choices_are_made_with_the_spectrum(self) -> None:
        """RPA goes out by a prediction that read the spectrum where one was there, unless it goes whatever is said."""
        for c in Store(self.database, "c").candidates():
            told = [*c.get("history", []), *([c["decision"]] if "decision" in c else [])]
            first = next((i for i, d in enumerate(told) if d.get("purpose") == "ipa" and _came_home(d)), len(told))
            assert not any(d.get("reads_ipa") for d in told[:first] if "key" in d) or c.get("ipa")
            assert all(d.get("reads_ipa") for d in told[first + 1 :] if "key" in d and d["purpose"] != "audit")

    def teardown(self) -> None:
        """Everything comes home: the campaign ends, and nothing is left over."""
        if not hasattr(self, "drawn"):
            return
        self.expire()
        for _ in range(80):
            campaign = self.process()
            state = campaign.store.campaign()["state"]
            if state == "finished" and not self.fireworks.waiting():
                break
            if state == "stopped":
                campaign.resume()
            for _ in self.fireworks.waiting():
                self.result(0, 0.6, 36.0)
            for key in self.fireworks.learning[-1:]:
                if key not in self.fireworks.lost_learning:
                    campaign.learn(key)
            campaign.step()
        self.process().step()
        store = Store(self.database, "c")
        assert store.campaign()["state"] == "finished"
        assert not store.candidates("pending", *IN_FLIGHT)
        for invariant_ in (self.results_stay, self.nothing_is_done_twice, self.the_account_adds_up):
            invariant_()
        self.decisions_are_told()
        self.draws_are_not_changed()
        back = [self.fireworks.jobs[k] for k, o in self.fireworks.outcomes.items() if isinstance(o, Result)]
        home = {job.material_id for job in back if job.level == "rpa"}
        assert {job.material_id for job in back} <= set(store.spectra())
        assert home == {c["material_id"] for c in store.candidates("done")}
        assert self.database["labels"].count_documents({}) == len(home)
        account, entries = store.campaign()["ledger"], list(self.database["ledger"].find({}))
        assert not account["open"] and account["reserved_ms"] == 0
        assert account["spent_ms"] == sum(e.get("charged_ms", 0) for e in entries)
        charged = {e["_id"]: e.get("charged_ms", 0) / 1000 for e in entries}
        for key, job in self.fireworks.jobs.items():
            outcome = self.fireworks.outcomes[key]
            wall_s = outcome.calculation.wall_s if isinstance(outcome, Result) else outcome.wall_s
            used_s = job.time_limit_s if wall_s is None else min(wall_s, job.time_limit_s)
            assert charged[key] >= used_s * job.cores - 1e-2
        bound = store.campaign()["audit"]["bound"]
        assert bound["n_drawn"] == len(store.campaign()["audit"]["drawn"]) <= bound["n_members"]
        assert bound["n_below"] + bound["n_failed"] <= bound["n_low"] or bound["n_members"] == 0


def _came_home(decision: dict[str, Any]) -> bool:
    return bool(decision.get("outcome", {}).get("status") == "done")


def play(database: Database[Any], folder: Path, examples: int, steps: int) -> None:
    machine = type("Played", (Machine,), {"stage": (database, folder)})
    run_state_machine_as_test(machine, settings=settings(max_examples=examples, stateful_step_count=steps))


def test_promises_hold_whatever_happens(database: Database[Any], tmp_path: Path) -> None:
    play(database, tmp_path, examples=10, steps=20)


@pytest.mark.slow
def test_promises_hold_for_long(database: Database[Any], tmp_path: Path) -> None:
    play(database, tmp_path, examples=100, steps=50)


SLEEPS = list(
    product(
        ("sleeps before", "sleeps after", "dies before", "dies after"),
        ("vanished", "metal", "stopped", "result"),
        ("skip", "compute"),
    )
)


@pytest.mark.slow
@pytest.mark.parametrize(("when", "what", "ipa"), SLEEPS)
def test_a_step_cut_at_each_of_its_writes(
    database: Database[Any], tmp_path: Path, when: str, what: str, ipa: str
) -> None:
    """Write by write, a process dies or sleeps while others dispatch what it was about to, and hear what came of it."""
    machine = type("Swept", (Machine,), {"stage": (database, tmp_path)})()
    for n in range(1, 200):
        machine.begin([0.5, 0.6, 0.95], "threshold", None, ipa)

        def meanwhile() -> None:
            machine.another_step()
            for _ in machine.fireworks.waiting():
                machine.result(0, 0.6, 36.0) if what == "result" else machine.failure(0, what)
            machine.another_step()

        machine.unlucky(n, when, lambda campaign: campaign.step(), meanwhile)
        machine.teardown()
        if machine.fate.n > 0:
            break
    assert 10 < n < 199
