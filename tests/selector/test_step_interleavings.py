"""Two processes in one order that matters, each told by hand: what chance may pass by in `test_step_machine`.

A late step is one that slept past the end of its lease while another took over. It sleeps at the worst moment: its next
write is decided on, and not yet made.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from pymongo.collection import Collection
from pymongo.database import Database
from rehearsal import Computed, begin, check_promises, crystal

from selector.campaign import Campaign
from selector.lease import LeaseLost
from selector.protocols import Failure, Result
from selector.store import Store


def another(campaign: Campaign) -> Campaign:
    """The same campaign in the hands of another process."""
    store = Store(campaign.store.db, campaign.store.name)
    return Campaign(store, campaign.config, campaign.engine, campaign.dispatcher, campaign.shelf)


def sleeps_before_it_makes(
    status: str, monkeypatch: pytest.MonkeyPatch, campaign: Campaign, meanwhile: Callable[[], Any]
) -> list[str]:
    """Before the first write that gives a candidate this status its process sleeps; who has slept."""
    write, slept = Collection.update_one, list[str]()

    def late(self: Any, query: Any, update: Any, *args: Any, **kwargs: Any) -> Any:
        if not slept and self.name == "candidates" and update.get("$set", {}).get("status") == status:
            slept.append(query["_id"])
            campaign.store.db["campaigns"].update_one({}, {"$set": {"lease.expires": datetime(2000, 1, 1)}})
            meanwhile()
        return write(self, query, update, *args, **kwargs)

    monkeypatch.setattr(Collection, "update_one", late)
    return slept


# -- a late step ------------------------------------------------------------------------------------------------------


def test_a_late_step_claims_nothing_of_a_campaign_that_was_stopped_meanwhile(
    database: Database[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever took over left the candidate alone: nothing but its epoch says that another step came by."""
    campaign, dispatcher = begin(database, tmp_path)
    campaign.add([crystal("a", 0.4), crystal("b", 0.5)], [])

    def meanwhile() -> None:
        another(campaign).stop()
        assert another(campaign).step().state == "stopped"

    slept = sleeps_before_it_makes("reserved", monkeypatch, campaign, meanwhile)
    campaign.step()
    assert slept == ["c:a"]
    assert not dispatcher.jobs
    assert campaign.store.counts() == {"pending": 2}
    assert campaign.store.ledger.totals().reserved_cpu_h == 0.0
    check_promises(campaign, dispatcher)


def test_a_late_step_does_not_fill_the_place_that_another_has_filled(
    database: Database[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    campaign, dispatcher = begin(database, tmp_path, max_in_flight=1)
    campaign.add([crystal("a", 0.4), crystal("b", 0.5)], [])

    def meanwhile() -> None:
        another(campaign).pin("b")
        assert another(campaign).step().dispatched == 1

    slept = sleeps_before_it_makes("reserved", monkeypatch, campaign, meanwhile)
    campaign.step()
    assert slept == ["c:a"]
    assert [job.material_id for job in dispatcher.jobs.values()] == ["b"]
    check_promises(campaign, dispatcher)


def test_what_a_step_is_about_to_claim_is_announced_and_the_next_one_stamps_it(
    database: Database[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    campaign, _ = begin(database, tmp_path)
    campaign.add([crystal("a", 0.4), crystal("b", 0.5), crystal("z", 0.6)], [])
    seen: dict[str, Any] = {}

    def meanwhile() -> None:
        seen["announced"] = set(campaign.store.lease.inherited())
        another(campaign).stop()
        another(campaign).step()
        seen["epochs"] = {c["material_id"]: c.get("epoch") for c in campaign.store.candidates()}

    sleeps_before_it_makes("reserved", monkeypatch, campaign, meanwhile)
    campaign.step()
    assert seen == {"announced": {"a", "b"}, "epochs": {"a": 2, "b": 2, "z": None}}


LATE_WRITES: dict[str, Callable[[Store], Any]] = {
    "move": lambda store: store.move("a", ["pending"], "reserved"),
    "skip": lambda store: store.skip({"a": {"reason": "late", "policy": "threshold"}}),
    "predictions": lambda store: store.set_predictions({"a": {"model_round": 99, "sc_mean": 0.123}}),
    "a look": lambda store: store.mark_look("late"),
}


@pytest.mark.parametrize("name", LATE_WRITES)
def test_no_write_to_a_candidate_passes_a_later_epoch(database: Database[Any], tmp_path: Path, name: str) -> None:
    """Each of a step's writes, with the lease's renewal out of the way: it was due a moment before."""
    campaign, _ = begin(database, tmp_path)
    campaign.add([crystal("a", 0.4)], [])
    database["candidates"].update_one({"_id": "c:a"}, {"$set": {"epoch": 5}})
    before = database["candidates"].find_one({"_id": "c:a"})
    for epoch, written in ((4, False), (5, True)):
        store = campaign.store.under(epoch)
        store.renew = lambda: None  # type: ignore[method-assign]
        LATE_WRITES[name](store)
        assert (database["candidates"].find_one({"_id": "c:a"}) != before) == written


def test_a_late_step_can_neither_announce_nor_count_a_dispatch(database: Database[Any], tmp_path: Path) -> None:
    campaign, _ = begin(database, tmp_path)
    campaign.add([crystal("a", 0.4)], [])
    campaign.step()
    n = campaign.store.campaign()["n_dispatched"]
    with pytest.raises(LeaseLost):
        campaign.store.under(0).may_dispatch(["a"])
    assert campaign.store.campaign()["n_dispatched"] == n
    assert campaign.store.lease.inherited() == []


# -- a task that books what came, beside the step --------------------------------------------------------------------


def test_an_attempt_whose_workflow_is_not_there_yet_is_not_taken_for_lost(
    database: Database[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The task that should book the first attempt is late: a step has booked it, and is about to submit the second."""
    campaign, dispatcher = begin(database, tmp_path)
    campaign.add([crystal("a", 0.4)], [])
    campaign.step()
    (first,) = dispatcher.waiting()
    dispatcher.outcomes[first.key] = Failure("TimedOut", "took too long", 36.0, retry=True)
    submit, booked = type(dispatcher).submit, list[bool]()

    def slow(self: Any, job: Any) -> int:
        booked.append(another(campaign).settle(another(campaign).store.candidate("a")))
        return submit(self, job)

    monkeypatch.setattr(type(dispatcher), "submit", slow)
    campaign.step()
    assert booked == [False]
    assert campaign.store.candidate("a")["status"] == "running"
    (second,) = dispatcher.waiting()
    dispatcher.outcomes[second.key] = Result(Computed(0.4))
    campaign.step()
    assert campaign.store.candidate("a")["status"] == "done"
    check_promises(campaign, dispatcher)


# -- nobody may be out when a campaign closes -------------------------------------------------------------------------


def test_a_campaign_does_not_close_while_a_calculation_is_out(database: Database[Any], tmp_path: Path) -> None:
    """One is out, the money left pays for no other; what it gives back does."""
    campaign, dispatcher = begin(database, tmp_path, budget_cpu_h=0.08, predictor={"retrain_every": 99})
    campaign.add([crystal("a", 0.4), crystal("b", 0.5)], [])
    assert campaign.step().dispatched == 1
    for _ in range(2):
        assert campaign.step().state == "running"
        assert campaign.store.counts() == {"running": 1, "pending": 1}
    (first,) = dispatcher.waiting()
    dispatcher.outcomes[first.key] = Result(Computed(0.4, wall_s=36.0))
    report = campaign.step()
    assert (report.state, report.dispatched) == ("running", 1)
    assert {job.material_id for job in dispatcher.jobs.values()} == {"a", "b"}


@pytest.mark.parametrize("left", [0, 1])
def test_a_campaign_does_not_close_while_a_model_learns(database: Database[Any], tmp_path: Path, left: int) -> None:
    """Nothing pending is wanted as the standing model has it, or nothing is pending; learning is brought to its end."""
    campaign, dispatcher = begin(database, tmp_path)
    campaign.add([crystal("a", 0.4), crystal("b", 0.5), *([crystal("high", 0.95)] * left)], [])
    campaign.step()
    for job in dispatcher.waiting():
        dispatcher.outcomes[job.key] = Result(Computed(0.5))
    for _ in range(2):
        report = campaign.step()
        assert (report.state, report.learning) == ("running", True)
        assert campaign.store.count("pending") == left
    campaign.learn(dispatcher.learning[0])
    assert campaign.step().state == "finished"


def test_an_audit_is_not_concluded_while_a_member_is_out(database: Database[Any], tmp_path: Path) -> None:
    campaign, dispatcher = begin(database, tmp_path, audit_fraction=0.5, budget_cpu_h=2.0, max_in_flight=9)
    campaign.add([crystal(f"x{i}", 0.9) for i in range(4)], [])
    assert campaign.step().dispatched == 4
    for n_back in range(4):
        report = campaign.step()
        assert (report.state, campaign.store.campaign()["audit"]["bound"]) == ("auditing", None)
        assert len(dispatcher.waiting()) == 4 - n_back
        dispatcher.outcomes[dispatcher.waiting()[0].key] = Result(Computed(0.9))
    assert campaign.step().state == "finished"
    assert campaign.store.campaign()["audit"]["bound"]["n_failed"] == 0


def test_s_is_frozen_only_when_nothing_is_out_any_more(database: Database[Any], tmp_path: Path) -> None:
    """A stop rule holds with a calculation out: it belongs neither to S nor to what the campaign knows yet."""
    campaign, dispatcher = begin(database, tmp_path, max_in_flight=1, audit_fraction=0.5, budget_cpu_h=2.0)
    campaign.add([crystal("a", 0.4), crystal("b", 0.5), crystal("c", 0.9)], [])
    campaign.step()
    campaign.set_deadline(datetime.fromisoformat("2000-01-01T00:00:00+00:00"))
    assert campaign.step().state == "running"
    assert "audit" not in campaign.store.campaign()
    dispatcher.outcomes[dispatcher.waiting()[0].key] = Result(Computed(0.4))
    assert campaign.step().state == "auditing"
    assert campaign.store.campaign()["audit"]["n_members"] == 2
