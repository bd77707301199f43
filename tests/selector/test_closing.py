"""How a campaign ends and is steered: stop rules, looks, the closing audit, stop, resume, pin, veto, budget."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pymatgen.core import Structure
from pymongo.database import Database
from rehearsal import Computed, Meter, Rehearsal, begin, check_promises, crystal

from selector import audit
from selector.audit_plan import audit_plan
from selector.campaign import Campaign
from selector.chronicle import compile_record
from selector.errors import UsageError
from selector.progress import progress
from selector.protocols import Failure, Result

AUDITED = {"audit_fraction": 0.5, "budget_cpu_h": 1.0}


def finish(campaign: Campaign, dispatcher: Rehearsal, sc: float = 0.6, most: int = 60) -> dict[str, Any]:
    """Bring everything home as it comes; the campaign's document in the end."""
    for _ in range(most):
        campaign.step()
        check_promises(campaign, dispatcher)
        if campaign.store.campaign()["state"] == "finished":
            break
        for job in dispatcher.waiting():
            dispatcher.outcomes[job.key] = Result(Computed(sc))
        for key in dispatcher.learning:
            campaign.learn(key)
    return campaign.store.campaign()


class Uneven(Meter):
    """Costs of a long tail: an eighth to eight times the usual, as the number in a name says; tellurides the most."""

    def estimate_cpu_h(self, structure: Structure) -> float:
        return 0.5 if "Te" in structure.composition else 0.01 * 2.0 ** (structure.lattice.a * 1e6 % 7 - 3)


def pool(n: int, sc: float = 0.9) -> list[Any]:
    return [crystal(f"x{i:02d}", sc + 1e-7 * i) for i in range(n)]


def test_the_closing_audit_draws_from_what_is_left_and_states_its_bound(
    database: Database[Any], tmp_path: Path
) -> None:
    """Twenty that the policy leaves; what the audit's share pays for is drawn and computed, none below."""
    campaign, dispatcher = begin(database, tmp_path, **AUDITED)
    campaign.add(pool(20), [])
    assert campaign.step().state == "auditing"
    frozen = campaign.store.campaign()["audit"]
    n = len(frozen["drawn"])
    assert 1 <= n < 20 and frozen["n_members"] == 20
    assert {j.material_id for j in dispatcher.jobs.values()} <= set(frozen["drawn"])
    document = finish(campaign, dispatcher, sc=0.95)
    assert {j.material_id for j in dispatcher.jobs.values()} == set(frozen["drawn"])
    bound = document["audit"]["bound"]
    assert (bound["n_drawn"], bound["n_below"], bound["n_failed"]) == (n, 0, 0)
    assert bound["n_low"] == audit.upper_bound(20, n, 0)
    assert bound["sentence"] in [e["message"] for e in campaign.store.events()]
    totals = campaign.store.ledger.totals()
    assert totals.by_purpose["audit"] == pytest.approx(totals.spent_cpu_h)
    for material_id in frozen["drawn"]:
        decision = campaign.store.candidate(material_id)["decision"]
        assert (decision["purpose"], decision["audit_probability"]) == ("audit", n / 20)


def test_failures_in_the_audit_count_as_below(database: Database[Any], tmp_path: Path) -> None:
    campaign, dispatcher = begin(database, tmp_path, **AUDITED)
    campaign.add(pool(10), [])
    campaign.step()
    first = dispatcher.waiting()[0]
    dispatcher.outcomes[first.key] = Failure("Metallic", "no gap", 3.0, retry=False)
    bound = finish(campaign, dispatcher, sc=0.95)["audit"]["bound"]
    assert (bound["n_below"], bound["n_failed"]) == (0, 1)
    assert bound["n_low"] == audit.upper_bound(10, bound["n_drawn"], 1)


@given(seed=st.integers(0, 9999), pot=st.floats(0.1, 1.5), used=st.lists(st.floats(0.0, 1.0), min_size=1, max_size=12))
@settings(max_examples=8)
@pytest.mark.slow
def test_every_drawn_member_is_paid_if_none_costs_more_than_its_reservation(
    database: Database[Any], tmp_path: Path, seed: int, pot: float, used: list[float]
) -> None:
    """Whatever is learned of costs while the audit goes on, and whoever comes back first."""
    for name in database.list_collection_names():
        database[name].delete_many({})
    campaign, dispatcher = begin(
        database, tmp_path, audit_fraction=0.5, budget_cpu_h=2 * pot, max_in_flight=3, seed=seed
    )
    campaign.engine = Uneven()
    campaign.add(pool(16), [])
    campaign.step()
    frozen = campaign.store.campaign()["audit"]
    for i in range(60):
        waiting = dispatcher.waiting()
        if campaign.step().state == "finished":
            break
        for job in waiting[i % 2 :][:2] or waiting:
            wall_s = used[len(dispatcher.outcomes) % len(used)] * job.time_limit_s
            dispatcher.outcomes[job.key] = Result(Computed(0.95, wall_s))
    bound = campaign.store.campaign()["audit"]["bound"]
    assert {j.material_id for j in dispatcher.jobs.values()} == set(frozen["drawn"])
    assert (bound["n_drawn"], bound["n_below"], bound["n_failed"]) == (len(frozen["drawn"]), 0, 0)
    reserved = [j.time_limit_s / 3600 for j in dispatcher.jobs.values()]
    assert reserved == pytest.approx([dict(zip(frozen["drawn"], frozen["reserve_cpu_h"], strict=True))[j.material_id]
                                      for j in dispatcher.jobs.values()])  # fmt: skip


def test_a_member_that_ran_out_of_its_time_is_tried_again_under_a_larger_reservation(
    database: Database[Any], tmp_path: Path
) -> None:
    campaign, dispatcher = begin(database, tmp_path, **AUDITED)
    campaign.add(pool(20), [])
    campaign.step()
    first = dispatcher.waiting()[0]
    dispatcher.outcomes[first.key] = Failure("TimedOut", "slow", first.time_limit_s, retry=True)
    bound = finish(campaign, dispatcher, sc=0.95)["audit"]["bound"]
    again = [j for j in dispatcher.jobs.values() if j.material_id == first.material_id]
    assert [j.time_limit_s / first.time_limit_s for j in again] == pytest.approx([1, 2], rel=1e-3)
    assert bound["n_failed"] == 0


def test_members_too_dear_for_the_pot_are_given_up_before_the_draw_and_count_as_below(
    database: Database[Any], tmp_path: Path
) -> None:
    campaign, dispatcher = begin(database, tmp_path, **AUDITED)
    campaign.engine = Uneven()
    campaign.add([*pool(16), crystal("dear", 0.99, ("Ba", "Te"))], [])
    document = finish(campaign, dispatcher, sc=0.95)
    frozen, bound = document["audit"], document["audit"]["bound"]
    n, n_dear = len(frozen["drawn"]), frozen["n_given_up"]
    assert "dear" not in frozen["drawn"] and 1 <= n_dear < 8
    assert bound["n_low"] == n_dear + audit.upper_bound(17 - n_dear, n, 0)
    assert f"{n_dear} too dear for the audit count as below" in bound["sentence"]
    decision = campaign.store.candidate(frozen["drawn"][0])["decision"]
    assert decision["audit_probability"] == n / (17 - n_dear)
    assert f"{n} of 17 materials left at IPA, but for the {n_dear} dearest" in decision["reason"]


@pytest.mark.parametrize(
    ("changes", "why"),
    [({}, "none of the budget"), ({"budget_cpu_h": 0.1, "audit_fraction": 0.05}, "the pot of 0.0050 CPU-h")],
)
def test_where_the_pot_pays_for_no_audit_that_is_said_instead_of_a_bound(
    database: Database[Any], tmp_path: Path, changes: dict[str, Any], why: str
) -> None:
    """In the event, in `status`, in the record that the report tells, and in the plan before it."""
    campaign, dispatcher = begin(database, tmp_path, **changes)
    campaign.add(pool(35), [])
    plan = audit_plan(campaign.plan(), campaign.store.ledger.totals(), 0.05)
    assert plan.n_affordable == 0
    document = finish(campaign, dispatcher)
    bound = document["audit"]["bound"]
    assert bound["sentence"].startswith("No audit: ")
    assert why in bound["sentence"] and "raise audit_fraction" in bound["sentence"] and "%" not in bound["sentence"]
    assert plan.sentence(0.75, 1.0).startswith(bound["sentence"])
    assert (bound["n_low"], bound["n_drawn"], bound["share"]) == (35, 0, None)
    assert not dispatcher.jobs
    assert ("no audit", bound["sentence"]) in [(e["kind"], e["message"]) for e in campaign.store.events()]
    assert progress(campaign.store)["bound"]["sentence"] == bound["sentence"]
    assert compile_record(campaign.store).summary["bound"]["sentence"] == bound["sentence"]


def test_the_plan_of_a_campaign_that_wants_nothing_is_the_audit_that_it_gets(
    database: Database[Any], tmp_path: Path
) -> None:
    campaign, dispatcher = begin(database, tmp_path, **AUDITED)
    campaign.engine = Uneven()
    campaign.add(pool(30), [])
    plan = audit_plan(campaign.plan(), campaign.store.ledger.totals(), 0.05)
    document = finish(campaign, dispatcher, sc=0.95)
    frozen, bound = document["audit"], document["audit"]["bound"]
    assert (plan.n_members, plan.n_affordable, plan.n_given_up, plan.share) == (
        *(frozen["n_members"], len(frozen["drawn"]), frozen["n_given_up"], bound["share"]),
    )


def test_what_is_vetoed_is_no_part_of_the_statement(database: Database[Any], tmp_path: Path) -> None:
    campaign, dispatcher = begin(database, tmp_path, **AUDITED)
    campaign.add(pool(6), [])
    campaign.veto("x03")
    document = finish(campaign, dispatcher, sc=0.95)
    assert document["audit"]["n_members"] == 5
    assert campaign.store.candidate("x03")["decision"]["reason"] == "vetoed by hand"


def test_what_is_added_during_the_audit_opens_the_campaign_again(database: Database[Any], tmp_path: Path) -> None:
    campaign, dispatcher = begin(database, tmp_path, **AUDITED)
    campaign.add(pool(5), [])
    assert campaign.step().state == "auditing"
    campaign.add([crystal("new", 0.4)], [])
    document = finish(campaign, dispatcher, sc=0.95)
    assert campaign.store.candidate("new")["status"] == "done"
    assert not campaign.store.candidates("pending")
    assert [e["kind"] for e in campaign.store.events()].count("audited") == 2
    assert document["audit"]["bound"] is not None


def test_a_stop_while_the_audit_runs_ends_it_nowhere_else(database: Database[Any], tmp_path: Path) -> None:
    campaign, dispatcher = begin(database, tmp_path, **AUDITED)
    campaign.add(pool(10), [])
    campaign.step()
    reason = campaign.store.campaign()["stop_reason"]
    campaign.stop("lunch")
    for job in dispatcher.waiting():
        dispatcher.outcomes[job.key] = Result(Computed(0.95))
    campaign.step()
    campaign.step()
    document = campaign.store.campaign()
    assert (document["state"], document["stop_reason"], document["audit"]["bound"]) == ("stopped", "lunch", None)
    campaign.resume()
    document = finish(campaign, dispatcher, sc=0.95)
    assert document["stop_reason"] == reason
    assert document["audit"]["bound"]["n_failed"] == 0


def test_a_stop_in_the_middle_of_a_step_leaves_the_pool_alone(
    database: Database[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Told between the choice and the dispatch: nothing goes out, and nothing is given up."""
    campaign, _ = begin(database, tmp_path)
    campaign.add(pool(3, sc=0.5), [])
    choose = campaign.policy.rank

    def rank(*args: Any) -> Any:
        if campaign.store.campaign()["state"] == "running":
            campaign.stop()
        return choose(*args)

    monkeypatch.setattr(campaign.policy, "rank", rank)
    assert campaign.step().dispatched == 0
    assert campaign.store.counts() == {"pending": 3}
    monkeypatch.undo()
    campaign.resume()
    assert campaign.step().dispatched == 2


def test_a_veto_in_the_middle_of_a_step_holds_and_ends_nothing(
    database: Database[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    campaign, dispatcher = begin(database, tmp_path, max_in_flight=1)
    campaign.add([crystal("a", 0.4), crystal("b", 0.5)], [])
    choose = campaign.policy.rank

    def rank(*args: Any) -> Any:
        if campaign.store.candidate("a")["status"] == "pending":
            campaign.veto("a")
        return choose(*args)

    monkeypatch.setattr(campaign.policy, "rank", rank)
    campaign.step()
    assert [j.material_id for j in dispatcher.jobs.values()] == ["b"]
    assert campaign.store.campaign()["state"] == "running"


@pytest.mark.parametrize("rule", ["deadline", "value", "cap"])
def test_stop_rules_name_themselves(database: Database[Any], tmp_path: Path, rule: str) -> None:
    changes: dict[str, Any] = {
        "deadline": {},
        "value": {"stop": {"value_floor": 1e6}},
        "cap": {"budget_calculations": 2},
    }[rule]
    campaign, dispatcher = begin(database, tmp_path, **changes)
    campaign.add(pool(5, sc=0.5), [])
    if rule == "deadline":
        campaign.set_deadline(datetime.now(UTC) - timedelta(seconds=1))
    document = finish(campaign, dispatcher)
    assert document["stop_reason"].startswith(rule)
    assert len(dispatcher.jobs) == (2 if rule == "cap" else 0)
    for c in campaign.store.candidates("skipped"):
        assert f"the campaign closed ({document['stop_reason']})" in c["decision"]["reason"]


def test_a_larger_budget_and_resume_go_on_with_what_was_left_and_keep_its_history(
    database: Database[Any], tmp_path: Path
) -> None:
    campaign, dispatcher = begin(database, tmp_path, budget_cpu_h=0.02)
    campaign.add(pool(4, sc=0.5), [])
    assert finish(campaign, dispatcher)["stop_reason"].startswith("budget")
    left = {c["material_id"]: c["decision"] for c in campaign.store.candidates("skipped")}
    assert left
    with pytest.raises(UsageError, match="finished already"):
        campaign.stop()
    campaign.add_budget(1.0)
    campaign.resume()
    with pytest.raises(UsageError, match="is running"):
        campaign.resume()
    finish(campaign, dispatcher)
    for material_id, decision in left.items():
        c = campaign.store.candidate(material_id)
        assert c["status"] == "done"
        assert c["history"] == [decision]


def test_pinned_first_whatever_its_value(database: Database[Any], tmp_path: Path) -> None:
    campaign, dispatcher = begin(database, tmp_path, max_in_flight=1)
    campaign.add([crystal("low", 0.3), crystal("high", 0.95)], [])
    campaign.pin("high")
    campaign.step()
    assert [j.material_id for j in dispatcher.jobs.values()] == ["high"]
    with pytest.raises(UsageError, match="is running, not pending"):
        campaign.veto("high")


# -- looks -------------------------------------------------------------------------------------------------------------

LOOKS = {"stop": {"bound": 0.3}, "budget_cpu_h": 9.0, "max_in_flight": 4}


def test_a_look_that_reaches_the_bound_ends_the_campaign(database: Database[Any], tmp_path: Path) -> None:
    """All are predicted and found to be high: the first look, with half the error, is enough."""
    campaign, dispatcher = begin(
        database, tmp_path, **LOOKS, policy={"name": "random", "random_share": 0.0}, predictor={"retrain_every": 999}
    )
    campaign.add(pool(60, sc=0.95), [])
    document = finish(campaign, dispatcher, sc=0.95)
    (look,) = document["looks"]
    n = len(look["drawn"])
    assert look["bound"]["n_low"] == audit.upper_bound(60, n, 0, 0.025) <= 0.3 * 60
    assert look["bound"]["sentence"].startswith("Provisional, look 1")
    assert document["stop_reason"].startswith("bound: at most")
    assert len(dispatcher.jobs) < 60


def test_a_look_that_finds_too_many_does_not_end_it(database: Database[Any], tmp_path: Path) -> None:
    """Predicted high, found low: the campaign goes on until its pool is done."""
    campaign, dispatcher = begin(
        database, tmp_path, **LOOKS, policy={"name": "random", "random_share": 0.0}, predictor={"retrain_every": 999}
    )
    campaign.add(pool(60, sc=0.95), [])
    document = finish(campaign, dispatcher, sc=0.5)
    assert document["stop_reason"].startswith("pool")
    assert all(look["bound"]["share"] > 0.3 for look in document["looks"] if look["bound"])
    assert document["looks"]


def test_what_is_added_after_a_look_is_not_covered_by_it(database: Database[Any], tmp_path: Path) -> None:
    campaign, dispatcher = begin(
        database, tmp_path, **LOOKS, policy={"name": "threshold", "random_share": 0.0}, predictor={"retrain_every": 999}
    )
    campaign.add(pool(60, sc=0.95), [])
    campaign.step()
    campaign.add([crystal(f"new{i}", 0.95) for i in range(5)], [])
    document = finish(campaign, dispatcher, sc=0.95)
    assert not document["stop_reason"].startswith("bound")


def test_without_a_target_nothing_is_looked_at(database: Database[Any], tmp_path: Path) -> None:
    campaign, dispatcher = begin(database, tmp_path)
    campaign.add(pool(20, sc=0.95), [])
    assert finish(campaign, dispatcher)["looks"] == []


def test_a_look_stops_wrongly_no_more_often_than_its_error(database: Database[Any], tmp_path: Path) -> None:
    """The mechanics of `audit` as looks use it: 400 sets with just more low ones than the target, two looks each.

    The first alone may fail in 2.5 %, both in 0.025 + 0.0083; 400 trials of 3.3 % have at most 24 failures in 99.9 %.
    """
    rng, n_all, n_low = np.random.default_rng(1), 60, 13
    low, wrong = {f"x{i}" for i in range(n_low)}, 0
    for trial in range(400):
        ids = [f"x{i}" for i in rng.permutation(n_all)]
        for look in (1, 2):
            n = audit.audit_size(n_all, 0.2, audit.alpha_of_look(look)) or 0
            hits = len(low & set(audit.draw(ids, n, trial, look)))
            bound = audit.audit_bound(n_all, audit.AuditOutcome(n, hits, 0), look=look)
            if bound.n_low <= 0.2 * n_all:
                wrong += 1
                break
    assert wrong <= 24
