"""What a running campaign is told wrongly is a clear error, and what it remembers stays as it was.

Beside the tests of a policy's and a model's mistakes in `test_choosing`, and of the configuration in `test_config`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pymongo.database import Database
from rehearsal import HASH, Computed, Rehearsal, begin, check_promises, crystal, remembered

from selector.campaign import Campaign
from selector.config import CampaignConfig
from selector.errors import SelectorError, UsageError
from selector.protocols import Failure, Result
from selector.store import Store


def under_way(database: Database[Any], tmp_path: Path) -> tuple[Campaign, Rehearsal]:
    """Two in flight, two waiting."""
    campaign, dispatcher = begin(database, tmp_path, predictor={"retrain_every": 99})
    campaign.add([crystal(f"x{i}", 0.5 + 0.02 * i) for i in range(4)], [])
    assert campaign.step().dispatched == 2
    return campaign, dispatcher


@pytest.mark.parametrize("change", [{"policy": {"threshold": 1.5}}, {"policy": {"threshold": 0.0}}])
def test_no_threshold_outside_its_range_reaches_a_campaign(tmp_path: Path, change: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="threshold"):
        CampaignConfig.model_validate({"campaign": "c", "folder": tmp_path, "budget_cpu_h": 1.0, **change})


@pytest.mark.parametrize("fraction", [1.5, 1.0, -0.1, float("nan")])
def test_no_campaign_is_begun_with_an_impossible_audit_fraction(database: Database[Any], fraction: float) -> None:
    """Beside the configuration, which refuses it too, the ledger itself."""
    with pytest.raises(UsageError, match=r"audit fraction .*: give a share of the budget from 0 to below 1"):
        Store(database, "c").create({}, 1.0, "gpaw", HASH, audit_fraction=fraction)
    assert not Store(database, "c").exists()


def test_a_second_campaign_of_one_name_leaves_the_first_as_it_is(database: Database[Any], tmp_path: Path) -> None:
    campaign, dispatcher = under_way(database, tmp_path)
    before = remembered(database)
    with pytest.raises(UsageError, match="campaign 'c' exists already in this database; choose another name"):
        begin(database, tmp_path, budget_cpu_h=99.0, policy={"name": "random"})
    assert remembered(database) == before
    for job in dispatcher.waiting():
        dispatcher.outcomes[job.key] = Result(Computed(0.5))
    assert campaign.step().settled == 2
    check_promises(campaign, dispatcher)


class AsksForTheRunning:
    """A user's policy that remembers a pool it has seen, and wants what has gone out of it since."""

    name = "mine"
    draws_at_random = False

    def __init__(self, n_seen: int) -> None:
        self.n_seen = n_seen

    def rank(self, pool: Any, threshold: float, rng: np.random.Generator, n: int) -> Any:
        return [self.n_seen - 1]

    def reason(self, pool: Any, index: int, threshold: float) -> str:
        return "seen before"

    skip_reason = reason


def test_a_policy_that_wants_what_is_running_harms_neither_it_nor_what_came_back(
    database: Database[Any], tmp_path: Path
) -> None:
    """What came back is booked, as always; what is out stays out, and the account adds up."""
    campaign, dispatcher = under_way(database, tmp_path)
    good, campaign.policy = campaign.policy, AsksForTheRunning(4)
    first = dispatcher.waiting()[0]
    dispatcher.outcomes[first.key] = Result(Computed(0.5))
    for _ in range(2):
        with pytest.raises(SelectorError, match="policy 'mine' returned index 3 where 2 materials are pending"):
            campaign.step()
        assert campaign.store.counts() == {"done": 1, "running": 1, "pending": 2}
        check_promises(campaign, dispatcher)
    assert len(dispatcher.jobs) == 2
    campaign.policy = good
    assert campaign.step().dispatched == 1


@pytest.mark.parametrize("wall_s", [-36.0, float("nan"), float("inf")])
@pytest.mark.parametrize("kind", ["result", "failure"])
def test_a_calculation_that_claims_an_impossible_cost_is_named_and_charged_nothing(
    database: Database[Any], tmp_path: Path, wall_s: float, kind: str
) -> None:
    """Neither is its reservation given back: what it really cost is not known yet."""
    campaign, dispatcher = under_way(database, tmp_path)
    job = dispatcher.waiting()[0]
    before = campaign.store.ledger.totals()
    told = {
        "result": lambda s: Result(Computed(0.5, wall_s=s)),
        "failure": lambda s: Failure("Metallic", "no gap", s, retry=False),
    }[kind]
    dispatcher.outcomes[job.key] = told(wall_s)
    with pytest.raises(SelectorError, match=f"settlement of {job.key}: .* CPU-hours cannot be booked") as error:
        campaign.step()
    assert "\n" not in str(error.value)
    assert campaign.store.ledger.totals() == before
    assert campaign.store.candidate(job.material_id)["status"] == "running"
    check_promises(campaign, dispatcher)
    dispatcher.outcomes[job.key] = told(36.0)
    assert campaign.step().settled == 1
    assert campaign.store.ledger.totals().spent_cpu_h == pytest.approx(0.01)


@pytest.mark.parametrize("amount", [-1.0, 0.0, float("nan"), float("inf")])
def test_a_budget_is_enlarged_by_a_positive_number_or_not_at_all(
    database: Database[Any], tmp_path: Path, amount: float
) -> None:
    campaign, _ = under_way(database, tmp_path)
    before = remembered(database)
    with pytest.raises(SelectorError, match="CPU-hours"):
        campaign.add_budget(amount)
    assert remembered(database) == before
