"""How far a campaign is, from plain documents: errors, bound, end, and the audit that a plan pays for."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pymongo.database import Database
from rehearsal import Computed, begin, crystal

from selector import documents, reservations, telling
from selector.account import Totals
from selector.audit import audit_size, upper_bound
from selector.audit_plan import audit_plan
from selector.cli.views import age
from selector.errors import UsageError
from selector.progress import errors_by_round, expected_end, progress, provisional, updates, working_hours
from selector.protocols import Result

NOON = datetime(2026, 11, 21, 12, tzinfo=UTC)


def charge(cpu_h: float, purpose: str = "rpa") -> dict[str, Any]:
    return {"cpu_h": cpu_h, "purpose": purpose}


def test_errors_are_those_of_the_predictions_that_stood_at_dispatch() -> None:
    models = [{"model_id": "a", "round": 0}, {"model_id": "b", "round": 1}]
    labels = [
        {"sc": 0.7, "prediction": {"model_id": "b", "sc_mean": 0.72}, "random_draw": False},
        {"sc": 0.7, "prediction": {"model_id": "a", "sc_mean": 0.8}, "random_draw": True},
        {"sc": 0.7, "prediction": {"model_id": "a", "sc_mean": 0.5}, "random_draw": False},
        {"sc": 0.7, "prediction": {"model_id": None, "sc_mean": 0.8}, "random_draw": False},
        {"sc": 0.7, "prediction": {"model_id": "a", "sc_mean": None}},
        {"sc": 0.7},
    ]
    prior, a, b = errors_by_round(labels, models)
    assert (prior["round"], prior["n"], prior["mae_random"]) == (None, 1, None)
    assert (a["round"], a["n"], a["mae"], a["n_random"], a["mae_random"]) == pytest.approx((0, 2, 0.15, 1, 0.1))
    assert (b["round"], b["n"], b["mae"]) == pytest.approx((1, 1, 0.02))


def test_updates_are_counted_without_the_first_weights() -> None:
    models = [
        {"parent": None, "accepted": True},
        {"parent": "a", "accepted": True, "gate": {"new_error": 0.1}},
        {"parent": "b", "accepted": False, "gate": {"new_error": 0.3}},
    ]
    assert updates(models) == {"accepted": 1, "rejected": 1, "last": {"new_error": 0.3}}
    assert updates(models[:1]) == {"accepted": 0, "rejected": 0, "last": None}


@given(st.lists(st.floats(0.3, 1.0), max_size=60), st.integers(0, 5))
def test_a_provisional_bound_lies_above_the_share_seen_and_says_that_it_is_provisional(
    sc: list[float], n_failed: int
) -> None:
    said = provisional(sc, n_failed, 0.75)
    assert said["sentence"].startswith("Provisional")
    n, hits = len(sc) + n_failed, sum(x < 0.75 for x in sc) + n_failed
    assert said["n_drawn"] == n
    if n == 0:
        assert said["share"] is None
    else:
        assert hits / n <= said["share"] <= 1.0
        # A failed draw counts as below.
        assert said["share"] == provisional([*sc, *[0.3] * n_failed], 0, 0.75)["share"]


def test_a_provisional_bound_is_the_exact_binomial_one() -> None:
    # No hit in n: 1 - 0.05^(1/n), about 3 / n.
    assert provisional([0.9] * 60, 0, 0.75)["share"] == pytest.approx(1 - 0.05 ** (1 / 60))


def test_the_end_is_the_first_of_budget_pool_and_deadline() -> None:
    charges = [charge(9.0), *[charge(1.0)] * 4]  # 1 CPU-h and 1 calculation an hour
    end = expected_end(charges, 4.0, 6.0, 20, None, NOON)
    assert end == {"time": (NOON + timedelta(hours=6)).isoformat(), "by": "budget", "cpu_h_per_h": 1.0}
    end = expected_end(charges, 4.0, 6.0, 2, None, NOON)
    assert (end["by"], end["time"]) == ("pool", (NOON + timedelta(hours=2)).isoformat())
    end = expected_end(charges, 4.0, 6.0, 20, (NOON + timedelta(hours=1)).isoformat(), NOON)
    assert (end["by"], end["time"]) == ("deadline", (NOON + timedelta(hours=1)).isoformat())


def test_the_end_is_unknown_before_there_is_a_pace() -> None:
    assert expected_end([], 0.0, 6.0, 20, None, NOON) is None
    assert expected_end([charge(1.0)], 1.0, 6.0, 20, None, NOON) is None
    assert expected_end([charge(1.0), charge(1.0)], 0.0, 6.0, 20, None, NOON) is None
    # Learning takes CPU-hours, and no candidate out of the pool.
    assert expected_end([charge(1.0), charge(1.0, "learn")], 4.0, 6.0, 1, None, NOON)["by"] == "budget"
    assert expected_end([charge(1.0), charge(0.0)], 4.0, 1e9, 10**9, None, NOON)


def span(begun: float, ended: float, limit_h: float = 2.0, cores: int = 1) -> tuple[str, str, float]:
    """In flight between these hours before noon."""
    return (*((NOON - timedelta(hours=h)).isoformat() for h in (begun, ended)), limit_h * cores)  # type: ignore[return-value]


@pytest.mark.parametrize("cores", [1, 4])
@pytest.mark.parametrize(
    ("spans", "hours"),
    [
        ([], 0.0),
        ([(10, 9), (9, 8), (8.5, 7)], 3.0),  # one after another and beside each other
        ([(10, 9), (2, 1)], 2.0),  # stopped from 9 to 2
        ([(30, 9)], 1.0),  # what was before the first settlement is another pace's
        ([(10, 9), (1.5, 0)], 2.5),  # one is out now, within its time
        ([(10, 9), (7, 0)], 3.0),  # long overdue: its worker is gone
        ([(10, 9), (9, 1), (9, 1), (1, 0)], 4.0),  # cut off at 9, booked in the morning: a time limit, not a night
        ([(10, 0, 50.0)], 10.0),
        ([(10, 0, 1.0), *((10 - i, 9 - i, 1.0) for i in range(10))], 10.0),  # in a queue for long, while others come
    ],
)
def test_working_hours_leave_pauses_out(spans: list[tuple[float, ...]], hours: float, cores: int) -> None:
    told = [span(begun, ended, *limit or [2.0], cores=cores) for begun, ended, *limit in spans]
    since = (NOON - timedelta(hours=10)).isoformat()
    assert working_hours(told, cores, since, NOON) == pytest.approx(hours)


def test_a_night_changes_the_expected_end_by_its_own_length_alone(
    database: Database[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A virtual history: four calculations of half an hour in the evening, a stop, the same in the morning."""
    campaign, dispatcher = begin(database, tmp_path, budget_cpu_h=40.0, predictor={"retrain_every": 999})
    campaign.engine.estimate_cpu_h = lambda structure, level="rpa": 0.3  # type: ignore[method-assign]
    campaign.add([crystal(f"x{i}", 0.5) for i in range(30)], [])
    clock = [NOON]

    class Virtual(datetime):
        @classmethod
        def now(cls, tz: Any = None) -> datetime:
            return clock[0]

    for module in (documents, reservations):
        monkeypatch.setattr(module, "datetime", Virtual)

    def work(n: int) -> datetime:
        for _ in range(n):
            campaign.step()
            clock[0] += timedelta(hours=0.5)
            for job in dispatcher.waiting():
                dispatcher.outcomes[job.key] = Result(Computed(0.5, wall_s=1800.0))
        campaign.stop()
        campaign.step()
        end = progress(campaign.store, clock[0])["expected_end"]
        assert end is None  # stopped
        campaign.resume()
        told = progress(campaign.store, clock[0])["expected_end"]
        assert told["cpu_h_per_h"] == pytest.approx(2.0, rel=0.2)  # two at a time
        return datetime.fromisoformat(told["time"])

    evening = work(4)
    campaign.stop()
    clock[0] += timedelta(hours=12)
    campaign.resume()
    morning = datetime.fromisoformat(progress(campaign.store, clock[0])["expected_end"]["time"])
    assert morning - evening == pytest.approx(timedelta(hours=12), abs=timedelta(minutes=1))
    work(4)


def test_durations_are_told_in_the_unit_that_suits() -> None:
    assert [age(s) for s in (5, 119, 600, 7300, 200_000)] == ["5 s", "119 s", "10 min", "2.0 h", "2.3 d"]


def choices(n_left: int, n_wanted: int = 3, n_vetoed: int = 2) -> list[Any]:
    def choice(dispatch: bool, **c: Any) -> Any:
        return SimpleNamespace(dispatch=dispatch, reserve_cpu_h=2.0, candidate=c)

    vetoed = [choice(False, vetoed=True)] * n_vetoed
    return [choice(True)] * n_wanted + [choice(False)] * n_left + vetoed


def test_a_plan_says_what_its_audit_pays_for_and_what_a_bound_needs() -> None:
    totals = Totals(budget_cpu_h=1000.0, spent_cpu_h=0, reserved_cpu_h=0, available_cpu_h=950, audit_available_cpu_h=50)
    plan = audit_plan(choices(400), totals, 0.05)
    assert (plan.n_members, plan.n_affordable) == (400, 25)
    assert plan.share == upper_bound(400, 25, 0) / 400
    assert plan.n_needed == audit_size(400, 0.05)
    assert plan.needed_cpu_h == pytest.approx(2.0 * plan.n_needed)
    words = plan.sentence(0.75, totals.budget_cpu_h)
    assert "pay for 25 of the 400 materials left at IPA: with none of them below 0.75, at most" in words
    assert f"A bound of 5 % needs {plan.n_needed} without a hit" in words
    assert f"audit_fraction {2 * plan.n_needed / 1000:.3f}" in words
    # That share of the budget does pay for it.
    more = Totals(1000.0, 0, 0, 0, audit_available_cpu_h=plan.needed_cpu_h)
    assert audit_plan(choices(400), more, 0.05).share <= 0.05


def test_a_plan_without_a_rest_or_without_a_pot_is_told_plainly() -> None:
    totals = Totals(budget_cpu_h=10.0, spent_cpu_h=0, reserved_cpu_h=0, available_cpu_h=10.0)
    assert "nothing to audit" in audit_plan(choices(0), totals, 0.05).sentence(0.75, 10.0)
    plan = audit_plan(choices(400), totals, 0.05)
    assert (plan.n_affordable, plan.share) == (0, None)
    assert plan.sentence(0.75, 10.0).startswith("No audit: none of the budget is there for one")
    assert "more than the budget" in plan.sentence(0.75, 10.0)
    with pytest.raises(UsageError, match="between 0 and 1"):
        audit_plan(choices(4), totals, float("nan"))


def test_a_retried_and_a_lost_attempt_are_told() -> None:
    decision = {
        "policy": "threshold", "model_id": "sc-1", "model_round": 2, "calibration": "uncalibrated", "sc_mean": 0.7,
        "sc_lo": 0.5, "sc_hi": 0.9, "p_low": 0.6, "out_of_domain": True, "level": "rpa", "purpose": "rpa",
        "reason": "lowest", "random_draw": False, "audit_probability": 0.0, "cost_predicted_cpu_h": 1.0,
        "reserved_cpu_h": 2.0, "attempt": 1, "key": "k1", "fw_id": 7, "time": "2026-11-21T13:00:00+01:00",
        "outcome": {"status": "Vanished", "message": "its worker died", "cpu_h": 2.0, "again": True,
                    "time": "2026-11-21T12:30:00+00:00"},
    }  # fmt: skip
    told = {
        "material_id": "m1", "formula": "NaCl", "status": "running", "threshold": 0.75, "sc_computed": None,
        "message": None, "pinned": False, "vetoed": False, "prediction": None, "awaited": ["k1"], "by_hand": [],
        "decisions": [decision, decision | {"attempt": 2, "key": "k2", "fw_id": None, "outcome": None}],
    }  # fmt: skip
    text = "\n".join(telling.in_words(told))
    assert text.index("attempt 2") < text.index(
        "Before that, 2026-11-21 12:00:00 UTC, policy threshold: RPA, attempt 1"
    )
    assert "Vanished: its worker died (2.0000 CPU-h, 2026-11-21 12:30:00 UTC; to be tried again)" in text
    assert "not handed to FireWorks yet" in text and "not back yet" in text
    assert "Out of domain" in text and "uncalibrated" in text
    assert "k1 was lost; should it return after all" in text
