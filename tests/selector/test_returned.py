"""A database that has forgotten what lies on disk: results are taken once, costs are booked once, nothing twice."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from pymongo.database import Database
from rehearsal import Computed, Rehearsal, begin, check_promises, computed, crystal, remembered

from selector.campaign import Campaign
from selector.ledger import check
from selector.protocols import Failure, Job, Result, Returned

MS = 1 / 3.6e6


@dataclass
class Disk(Rehearsal):
    """A rehearsed FireWorks whose files outlive the database; it counts who computed what."""

    notices: dict[str, Job] = field(default_factory=dict)
    submitted: list[Job] = field(default_factory=list)
    seen: int = 0

    def learning_is_out(self, key: str) -> bool:
        return False

    def submit(self, job: Job) -> int:
        self.submitted.append(job)
        return super().submit(job)

    def ends(self, job: Job, outcome: Result | Failure) -> None:
        """Write the result, or the failure, and the notice."""
        self.outcomes[job.key] = outcome
        self.notices[job.key] = job

    def returned(self, campaign: str, epoch: int) -> list[Returned]:  # type: ignore[override]
        if epoch <= self.seen:
            self.notices = {key: self.jobs[key] for key in self.outcomes}
        self.seen = epoch
        return [
            Returned(vars(job), job.workdir, lambda key=key: self.outcomes[key])  # type: ignore[misc]
            for key, job in self.notices.items()
        ]

    def acknowledge(self, key: str) -> None:
        del self.notices[key]


def on_disk(database: Database[Any], tmp_path: Path, **changes: Any) -> tuple[Campaign, Disk]:
    campaign, _ = begin(database, tmp_path, **changes)
    campaign.dispatcher = disk = Disk()
    return campaign, disk


def backup(database: Database[Any]) -> dict[str, list[Any]]:
    return {name: list(database[name].find({})) for name in database.list_collection_names()}


def restore(database: Database[Any], saved: dict[str, list[Any]]) -> None:
    for name in {*saved, *database.list_collection_names()}:
        database[name].delete_many({})
        if saved.get(name):
            database[name].insert_many(saved[name])


def spent(campaign: Campaign) -> float:
    check(campaign.store.campaign())
    return campaign.store.ledger.totals().spent_cpu_h


@pytest.mark.parametrize("when", ["before it was added", "before its dispatch", "while it ran", "never"])
@pytest.mark.parametrize("ipa", ["skip", "compute"])
def test_what_a_restored_database_has_forgotten_is_taken_in_once(
    database: Database[Any], tmp_path: Path, when: str, ipa: str
) -> None:
    campaign, disk = on_disk(database, tmp_path, ipa=ipa, max_in_flight=1)
    saved = {"before it was added": backup(database)}
    campaign.add([crystal("a", 0.5)], [])
    saved["before its dispatch"] = backup(database)
    campaign.step()
    saved["while it ran"] = backup(database)
    while job := next(iter(disk.waiting()), None):
        disk.ends(job, Result(computed(job, 0.5)))
        campaign.step()
    assert campaign.store.count("done") == 1
    cost, n = spent(campaign), len(disk.jobs)

    if when == "never":
        # The database is lost wholly, and the campaign is begun anew.
        restore(database, {})
        campaign, _ = begin(database, tmp_path, ipa=ipa, max_in_flight=1)
        campaign.dispatcher = disk
    else:
        restore(database, saved[when])
    disk.submitted.clear()
    campaign.step()
    (c,) = campaign.store.candidates()
    assert (c["status"], c["sc_computed"]) == ("done", pytest.approx(0.5, abs=1e-6))
    assert spent(campaign) == pytest.approx(cost, abs=2 * MS)
    assert c["decision"]["reason"]
    assert c["decision"]["sc_mean"] == pytest.approx(0.5)
    assert c["attempts"] == n
    assert not [job for job in disk.submitted if job.key not in disk.outcomes]
    assert not disk.notices
    assert campaign.store.n_labels(campaign.engine.settings_hash) == 1
    campaign.step()
    before = remembered(database)
    disk.notices = dict(disk.jobs)
    campaign.recover()
    assert remembered(database) == before
    check_promises(campaign, disk)


def test_nothing_is_dispatched_by_recovering(database: Database[Any], tmp_path: Path) -> None:
    campaign, disk = on_disk(database, tmp_path)
    campaign.add([crystal(name, 0.5) for name in "abc"], [])
    said = campaign.recover()
    assert said is not None
    assert not said
    assert not disk.submitted


def test_a_result_of_an_attempt_that_was_given_up_is_taken_and_what_it_used_beyond_is_booked(
    database: Database[Any], tmp_path: Path
) -> None:
    campaign, disk = on_disk(database, tmp_path, max_in_flight=1)
    campaign.add([crystal("a", 0.5)], [])
    campaign.step()
    (job,) = disk.jobs.values()
    # Run again by hand after its failure was booked: no stray, and no attempt in flight.
    disk.ends(job, Failure("Metallic", "no gap", 9.0, retry=False))
    campaign.step()
    assert campaign.store.candidate("a")["status"] == "failed"
    disk.ends(job, Result(Computed(0.5, 36.0)))
    campaign.step()
    assert campaign.store.candidate("a")["status"] == "done"
    assert spent(campaign) == pytest.approx(0.01)
    campaign.recover()
    assert spent(campaign) == pytest.approx(0.01)


def test_the_second_attempt_meets_the_result_of_a_first_that_the_database_forgot(
    database: Database[Any], tmp_path: Path
) -> None:
    campaign, disk = on_disk(database, tmp_path, max_in_flight=1)
    campaign.add([crystal("a", 0.5)], [])
    saved = backup(database)
    campaign.step()
    (first,) = disk.jobs.values()
    disk.ends(first, Failure("TimedOut", "slow", 9.0, retry=True))
    campaign.step()
    (second,) = disk.waiting()
    disk.ends(second, Result(Computed(0.5, 36.0)))
    campaign.step()
    cost = spent(campaign)
    restore(database, saved)
    disk.submitted.clear()
    campaign.step()
    c = campaign.store.candidate("a")
    assert (c["status"], c["attempts"], c["decision"]["attempt"]) == ("done", 2, 2)
    assert spent(campaign) == pytest.approx(cost, abs=2 * MS)
    assert not disk.submitted


def test_the_budget_is_never_exceeded_by_what_was_forgotten(database: Database[Any], tmp_path: Path) -> None:
    campaign, disk = on_disk(database, tmp_path, budget_cpu_h=0.2)
    campaign.add([crystal("a", 0.5)], [])
    saved = backup(database)
    campaign.step()
    (job,) = disk.jobs.values()
    disk.ends(job, Result(Computed(0.5, 0.5 * 3600)))
    restore(database, saved)
    campaign.step()
    totals = campaign.store.ledger.totals()
    check(campaign.store.campaign())
    assert totals.spent_cpu_h == pytest.approx(0.2)
    assert campaign.store.candidate("a")["status"] == "done"
    assert [e["kind"] for e in campaign.store.events()].count("overspent") == 1


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"campaign": "other"}, "of campaign 'other', not of 'c'"),
        ({"attempt": 7}, "its job.json was changed"),
        ({"level": "bse"}, "its job.json was changed"),
        ({"hash": "ffffffffffff"}, "with settings ffffffffffff"),
        ({"structure": {}}, "does not come back"),
    ],
)
def test_what_is_not_the_campaigns_is_refused_by_name(
    database: Database[Any], tmp_path: Path, change: dict[str, Any], word: str
) -> None:
    campaign, disk = on_disk(database, tmp_path)
    saved = backup(database)
    campaign.add([crystal("a", 0.5)], [])
    campaign.step()
    (job,) = disk.jobs.values()
    restore(database, saved)
    settings = {"settings_hash": change.pop("hash")} if "hash" in change else {}
    disk.jobs[job.key] = changed = replace(job, **change)
    disk.ends(changed, Result(Computed(0.5, **settings)))
    said = campaign.recover()
    assert said == {"refused": 1}
    (event,) = [e for e in campaign.store.events() if e["kind"] == "refused"]
    assert word in event["message"]
    assert "\n" not in event["message"]
    assert spent(campaign) == 0.0
    assert not disk.notices


@pytest.mark.parametrize("seed", range(8))
def test_a_campaign_whose_database_is_restored_at_any_time_loses_nothing_and_repeats_nothing(
    database: Database[Any], tmp_path: Path, seed: int
) -> None:
    """Every attempt's cost is booked once, and every result taken, wherever backup and restoration fall."""
    draw = random.Random(seed)
    campaign, disk = on_disk(database, tmp_path, budget_cpu_h=2.0, max_attempts=3, max_in_flight=3)
    names = "abcdef"
    campaign.add([crystal(name, 0.3 + 0.05 * i) for i, name in enumerate(names)], [])
    saved = backup(database)
    restorations = draw.sample(range(12), 2)
    for turn in range(40):
        if turn in restorations:
            restore(database, saved)
        if draw.random() < 0.3 and turn < 12:
            saved = backup(database)
        report = campaign.step()
        waiting = disk.waiting()
        for job in draw.sample(waiting, min(len(waiting), draw.randint(0, 2))):
            disk.ends(job, _fate(draw, job))
        if report.state == "finished" and turn > max(restorations) and not waiting:
            break
    else:
        pytest.fail("the campaign did not end")
    results = {job.material_id: key for key, job in disk.jobs.items() if isinstance(disk.outcomes[key], Result)}
    done = {c["material_id"]: c for c in campaign.store.candidates("done")}
    assert set(done) == set(results)
    computed_twice = [m for m in names if sum(isinstance(disk.outcomes[j.key], Result) for j in _attempts(disk, m)) > 1]
    assert not computed_twice
    assert spent(campaign) == pytest.approx(sum(_wall_s(o) for o in disk.outcomes.values()) / 3600, abs=50 * MS)


def _attempts(disk: Disk, material_id: str) -> Sequence[Job]:
    return [job for job in disk.jobs.values() if job.material_id == material_id]


def _fate(draw: random.Random, job: Job) -> Result | Failure:
    wall_s = min(draw.choice([9.0, 18.0, 27.0]), job.time_limit_s)
    if draw.random() < 0.4:
        return Failure("NotConverged", "the density does not converge", wall_s, retry=True)
    return Result(computed(job, 0.5, wall_s))


def _wall_s(outcome: Result | Failure) -> float:
    return float(outcome.calculation.wall_s if isinstance(outcome, Result) else outcome.wall_s or 0.0)
