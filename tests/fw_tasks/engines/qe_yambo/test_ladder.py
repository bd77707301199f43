"""The ladder's stop rule by itself."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fw_tasks.engines.base import NotConverged
from fw_tasks.engines.qe_yambo.ladder import Rung, climb, stands_still

TOLERANCE = 0.01


def rungs(*values: tuple[int, float]) -> list[Rung]:
    """From (coupling G-vectors, SC)."""
    return [Rung(2000 * (i + 1), 10 * (i + 1), n, sc) for i, (n, sc) in enumerate(values)]


@st.composite
def ladders(draw: st.DrawFn) -> list[Rung]:
    """Numbers of coupling G-vectors that never fall, and any SC."""
    steps = draw(st.lists(st.tuples(st.integers(0, 12), st.floats(0.0, 1.0)), min_size=1, max_size=8))
    growth, sc = zip(*steps, strict=True)
    return rungs(*((1 + sum(growth[: i + 1]), sc[i]) for i in range(len(steps))))


def climbed(ladder: list[Rung], to_the_end: bool = False) -> list[Rung]:
    by_cutoff = {rung.cutoff_mry: rung for rung in ladder}
    return climb(list(by_cutoff), by_cutoff.__getitem__, TOLERANCE, to_the_end=to_the_end)


@given(ladders())
def test_it_stops_at_the_first_rung_that_stands_still_or_not_at_all(ladder: list[Rung]) -> None:
    first = next((n for n in range(1, len(ladder) + 1) if stands_still(ladder[:n], TOLERANCE)), None)
    if first is None:
        with pytest.raises(NotConverged) as caught:
            climbed(ladder)
        assert f"{ladder[-1].sc:.4f}" in str(caught.value)
        assert len(ladder) == 1 or f"{ladder[-2].sc:.4f} (" in str(caught.value)
    else:
        assert climbed(ladder) == ladder[:first]


@given(ladders())
def test_where_it_stops_three_values_lie_close_and_more_couple_each_time(ladder: list[Rung]) -> None:
    if stands_still(ladder, TOLERANCE):
        last = {rung.n_coupling: rung.sc for rung in ladder}
        coupling = sorted(last)[-3:]
        assert len(coupling) == 3
        a, b, c = (last[n] for n in coupling)
        assert abs(a - b) < TOLERANCE
        assert abs(b - c) < TOLERANCE


@given(ladders())
def test_rungs_on_which_nothing_new_couples_are_no_steps(ladder: list[Rung]) -> None:
    same = [Rung(r.cutoff_mry, r.n_g, 1, r.sc) for r in ladder]
    assert not stands_still(same, TOLERANCE)
    repeated = [r for rung in ladder for r in (rung, rung)]
    assert stands_still(repeated, TOLERANCE) == stands_still(ladder, TOLERANCE)


@given(ladders())
def test_a_fixed_ladder_is_run_to_its_end(ladder: list[Rung]) -> None:
    assert climbed(ladder, to_the_end=True) == ladder


def test_the_papers_rule_would_have_stopped_too_early() -> None:
    """Recorded: silicon at 2000 and 4000 mRy; and a layer along x, where at first no G-vector couples."""
    silicon = rungs((16, 0.9067), (40, 0.8876))
    assert not stands_still(silicon, TOLERANCE)
    layers = rungs((1, 1.0), (1, 1.0), (1, 1.0), (13, 0.93), (25, 0.91), (37, 0.905), (49, 0.903))
    assert climbed(layers) == layers
    with pytest.raises(NotConverged, match=r"1\.0000 \(1 of 20.*1\.0000 \(1 of 30"):
        climbed(layers[:3])
