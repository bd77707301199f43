"""A campaign whose processes, sockets, disk and clocks fail loses nothing, and ends (benchmarks/faults.py has more)."""

from __future__ import annotations

from pathlib import Path

import pytest
from fault_injection.story import plan_of, suffer

from models.labels import load_labels

N_LABELS = 40
MEAN_S = 3.0
"""So that on a quick machine, too, most faults strike before the campaign ends."""
LIMIT_S = 900.0
"""On two busy cores each killed worker takes up to half a minute to be back."""


@pytest.mark.slow  # needs the right to mount, and libfaketime
@pytest.mark.parametrize("seed", [0, 1], ids=["database on the campaign's disk", "database behind an address"])
def test_nothing_is_lost_or_repeated_and_the_budget_holds(tmp_path: Path, seed: int) -> None:
    story = suffer(tmp_path / "story", plan_of(seed, load_labels(), N_LABELS, MEAN_S), seed, 1, LIMIT_S)
    assert story["wrong"] == [], story
    assert sum(story["struck"].values()) >= 8, story
    assert story["results"] >= 8, story
