"""Looks one condition at a time: when one is due, when it is over, at which error, and when it ends a campaign."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from pymongo.database import Database
from rehearsal import Computed, Rehearsal, begin, crystal

from selector import audit, looks
from selector.campaign import Campaign
from selector.protocols import Result

TARGET = {
    **{"stop": {"bound": 0.3}, "budget_cpu_h": 9.0, "max_in_flight": 4, "seed": 3},
    **{"policy": {"name": "random", "random_share": 0.0}, "predictor": {"retrain_every": 999}},
}
N = 40


def started(database: Database[Any], tmp_path: Path, sc: float = 0.95, **changes: Any) -> tuple[Campaign, Rehearsal]:
    campaign, dispatcher = begin(database, tmp_path, **{**TARGET, **changes})
    campaign.add([crystal(f"x{i:02d}", sc) for i in range(N)], [])
    return campaign, dispatcher


def look(campaign: Campaign, available_cpu_h: float = 9.0) -> list[dict[str, Any]]:
    """Draw a look if one is due; all there are."""
    looks.begin(campaign.store, campaign.pool(campaign.store), campaign.config, available_cpu_h)
    return list(campaign.store.campaign()["looks"])


def conclude(campaign: Campaign, available_cpu_h: float = 9.0) -> Any:
    """State the bound of the standing look if it is over; it, or None."""
    looks.conclude(campaign.store, campaign.pool(campaign.store), campaign.config, available_cpu_h)
    return campaign.store.campaign()["looks"][-1]["bound"]


def set_status(campaign: Campaign, names: list[str], status: str, **fields: Any) -> None:
    for name in names:
        campaign.store.db["candidates"].update_one({"_id": f"c:{name}"}, {"$set": {"status": status, **fields}})


def finished(n_low: int = 2, n_drawn: int = 10, mark: str = "first") -> dict[str, Any]:
    drawn = [f"x{i:02d}" for i in range(n_drawn)]
    about = {"mark": mark, "n_members": N, "drawn": drawn, "n_labels": 0, "threshold": 0.75}
    return {**about, "bound": {"n_low": n_low, "share": n_low / N}}


def test_a_look_is_drawn_once_from_the_campaigns_seed_and_its_number(
    database: Database[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    campaign, _ = started(database, tmp_path, stop={"bound": 0.5})
    (first,) = look(campaign)
    names = [f"x{i:02d}" for i in range(N)]
    assert first["drawn"] == audit.draw(names, len(first["drawn"]), 3, look=1)
    assert first["n_members"] == N
    monkeypatch.setattr(looks, "_is_time", lambda *_: True)
    assert looks._size(N, 0.5, audit.alpha_of_look(2), 0, campaign.config.max_in_flight)
    assert look(campaign) == [first]  # one that stands is waited for, however many results have come since


@pytest.mark.parametrize(("n_low", "n_looks"), [(0, 1), (20, 1), (30, 0)])
def test_a_look_waits_until_the_model_expects_half_the_target(
    database: Database[Any], tmp_path: Path, n_low: int, n_looks: int
) -> None:
    """Of 100, so many are surely low; the target is half of them. A draw large enough would fit, all three times."""
    campaign, _ = begin(database, tmp_path, **{**TARGET, "stop": {"bound": 0.5}})
    campaign.add([crystal(f"x{i:02d}", 0.3 if i < n_low else 0.95) for i in range(100)], [])
    pending = campaign.pool(campaign.store)
    assert pending.pool.p_low.mean() == pytest.approx(n_low / 100, abs=0.03)
    assert looks._size(100, 0.5, 0.025, 3, campaign.config.max_in_flight)
    assert len(look(campaign)) == n_looks


def test_a_look_that_cannot_be_paid_is_not_begun(database: Database[Any], tmp_path: Path) -> None:
    campaign, _ = started(database, tmp_path)
    each = float(campaign.pool(campaign.store).reserve_cpu_h[0])
    assert not look(campaign, available_cpu_h=each)
    (first,) = look(campaign)
    assert len(first["drawn"]) > 1
    database["campaigns"].update_one({}, {"$set": {"looks": []}})
    assert not look(campaign, available_cpu_h=each * (len(first["drawn"]) - 0.1))
    assert look(campaign, available_cpu_h=each * (len(first["drawn"]) + 0.1))


def test_a_look_is_over_when_every_draw_is_back_or_cannot_be_paid(database: Database[Any], tmp_path: Path) -> None:
    campaign, _ = started(database, tmp_path)
    (first,) = look(campaign)
    drawn = first["drawn"]
    assert conclude(campaign) is None  # all pending, all payable
    set_status(campaign, drawn[1:], "done", sc_computed=0.9)
    assert conclude(campaign) is None
    set_status(campaign, drawn[:1], "running", decision={"key": "k"})
    assert conclude(campaign, available_cpu_h=0.0) is None  # one is out, whatever the money
    set_status(campaign, drawn[:1], "pending")
    bound = conclude(campaign, available_cpu_h=0.0)
    assert (bound["n_drawn"], bound["n_below"], bound["n_failed"]) == (len(drawn), 0, 1)
    assert bound["n_low"] == audit.upper_bound(N, len(drawn), 1, 0.025)


def test_the_second_look_spends_a_third_of_the_error_of_the_first(database: Database[Any], tmp_path: Path) -> None:
    campaign, _ = started(database, tmp_path)
    second = {**finished(), "bound": None, "mark": "second"}
    database["campaigns"].update_one({}, {"$set": {"looks": [finished(), second]}})
    set_status(campaign, second["drawn"], "done", sc_computed=0.9)
    bound = conclude(campaign)
    assert bound["n_low"] == audit.upper_bound(N, 10, 0, 0.05 / 6) > audit.upper_bound(N, 10, 0, 0.025)
    assert bound["sentence"].startswith("Provisional, look 2")


@pytest.mark.parametrize(("since", "is_time"), [(0, False), (10, False), (19, False), (20, True)])
def test_the_next_look_waits_for_twice_as_many_results_as_the_last_has_drawn(since: int, is_time: bool) -> None:
    store = SimpleNamespace(n_labels=lambda settings_hash: 7 + since)
    assert looks._is_time(store, [{**finished(), "n_labels": 7}], "hash") == is_time  # type: ignore[arg-type]
    assert looks._is_time(store, [], "hash")  # type: ignore[arg-type]


@pytest.mark.parametrize("hits", [0, 2])
@pytest.mark.parametrize("beside", [0, 8])
def test_the_size_of_a_look_is_the_smallest_that_reaches_the_target_for_what_it_leaves(hits: int, beside: int) -> None:
    def reached(n: int) -> bool:
        return audit.upper_bound(100, n, hits, 0.025) - hits <= 0.2 * (100 - n - beside)

    n = looks._size(100, 0.2, 0.025, hits, beside)
    assert n is not None and reached(n) and not reached(n - 1)
    assert looks._size(20, 0.01, 0.025, 1, 0) is None


@pytest.mark.parametrize(
    ("n_low", "n_done", "n_done_low", "reached"),
    [
        (9, 10, 0, True),  # 9 of 30: exactly the target
        (10, 10, 0, False),
        (12, 10, 3, True),  # what was found is no longer among those left
        (13, 10, 3, False),
        (40, 40, 0, False),  # nothing is left to speak of
    ],
)
def test_a_look_ends_a_campaign_at_its_target_for_what_is_left(
    database: Database[Any], tmp_path: Path, n_low: int, n_done: int, n_done_low: int, reached: bool
) -> None:
    campaign, _ = started(database, tmp_path)
    names = campaign.store.mark_look("first")
    set_status(campaign, names[:n_done], "done", sc_computed=0.9)
    set_status(campaign, names[:n_done_low], "done", sc_computed=0.6)
    database["campaigns"].update_one({}, {"$set": {"looks": [finished(n_low)]}})
    assert (looks.reached(campaign.store, campaign.config) is not None) == reached
    database["campaigns"].update_one({}, {"$set": {"looks": [{**finished(n_low), "bound": None}]}})
    assert looks.reached(campaign.store, campaign.config) is None  # it stands: nothing is known of it yet


def test_one_that_joined_after_the_look_is_not_spoken_of(database: Database[Any], tmp_path: Path) -> None:
    campaign, dispatcher = started(database, tmp_path)
    campaign.store.mark_look("first")
    database["campaigns"].update_one({}, {"$set": {"looks": [finished(1)]}})
    assert looks.reached(campaign.store, campaign.config)
    campaign.add([crystal("new", 0.95)], [])
    assert looks.reached(campaign.store, campaign.config) is None
    campaign.pin("new")
    campaign.step()
    (job,) = [j for j in dispatcher.waiting() if j.material_id == "new"]
    dispatcher.outcomes[job.key] = Result(Computed(0.9))
    campaign.settle(campaign.store.candidate("new"))
    assert looks.reached(campaign.store, campaign.config)
