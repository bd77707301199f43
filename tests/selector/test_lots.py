"""Dispatches drawn by lot: how many, among what, and what they cost together."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pymongo.database import Database
from rehearsal import begin, crystal
from test_choosing import candidate, config_of, gather

from selector import lots
from selector.policies import get_policy


def test_every_dispatch_is_a_lot_where_all_the_cpu_hours_are_for_lots(database: Database[Any], tmp_path: Path) -> None:
    campaign, _ = begin(
        database, tmp_path, max_in_flight=4, policy={"name": "threshold", "random_share": 1.0}, budget_cpu_h=9.0
    )
    campaign.add([crystal(f"x{i}", 0.5 + 1e-7 * i) for i in range(8)], [])
    campaign.step()
    decisions = [c["decision"] for c in campaign.store.candidates("running")]
    assert len(decisions) == 4 and all(d["random_draw"] for d in decisions)
    assert sorted(d["audit_probability"] for d in decisions) == pytest.approx([1 / 8, 1 / 7, 1 / 6, 1 / 5])


def test_no_lot_where_the_policy_wants_nothing() -> None:
    config = config_of(random_share=1.0)
    policy, pending = get_policy(config.policy), gather([candidate(f"x{i}", 0.95) for i in range(5)])
    assert lots.choose(pending, policy, config, 100.0, 5, 0) == []


@pytest.mark.slow
@pytest.mark.parametrize("share", [0.2, 0.5])
def test_lots_take_their_share_of_the_cpu_hours_and_fall_on_all_alike(share: float) -> None:
    """A policy that takes the cheapest: a lot costs 25 times as much, so lots are that much rarer."""
    documents = [candidate(f"x{i}", 0.5, estimate_cpu_h=0.1 * 1.5 ** (i % 12)) for i in range(24)]
    config = config_of(name="cheapest", random_share=share)
    policy, pending = get_policy(config.policy), gather(documents)
    choices = [lots.choose(pending, policy, config, 1e6, 1, number)[0] for number in range(6000)]
    by_lot = np.array([c.random_draw for c in choices])
    cost = np.array([c.cost_cpu_h for c in choices])
    # Some 60 lots (share 0.2), whose costs scatter by their own mean: a seventh of the share is one standard deviation.
    assert cost[by_lot].sum() / cost.sum() == pytest.approx(share, rel=0.4)
    assert 0.0 < by_lot.mean() < share / 5
    dearer = np.array([c.cost_cpu_h > 1.0 for c in choices])[by_lot]
    # Half of them cost more than a CPU-hour: three standard deviations of a share among so many draws.
    assert dearer.mean() == pytest.approx(0.5, abs=3 * 0.5 / np.sqrt(by_lot.sum()))


def test_which_are_lots_follows_from_seed_and_number_of_dispatches() -> None:
    documents = [candidate(f"x{i}", 0.5) for i in range(10)]
    config = config_of(random_share=0.5)
    policy, pending = get_policy(config.policy), gather(documents)

    def drawn(n_before: int) -> list[str]:
        return [c.candidate["material_id"] for c in lots.choose(pending, policy, config, 100.0, 3, n_before)]

    assert drawn(7) == drawn(7)
    assert len({tuple(drawn(n)) for n in range(20)}) > 5
