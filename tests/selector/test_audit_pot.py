"""What the audit's pot pays for: sizes of draws, who is given up, and what is said where nothing can be drawn."""

from __future__ import annotations

import math
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from selector.account import Totals
from selector.amounts import MS_PER_CPU_H, to_ms
from selector.audit import AuditOutcome, audit_bound, draw, upper_bound
from selector.audit_plan import audit_plan
from selector.audit_pot import PAID, AuditSample, affordable_draws, audit_sample, no_audit
from selector.errors import SelectorError

reservations_ = st.lists(st.floats(1e-6, 1e4), min_size=1, max_size=60)
ONE_MS = 1 / MS_PER_CPU_H


def share(sample: AuditSample, n_members: int) -> float:
    """The bound without a hit."""
    return audit_bound(n_members, AuditOutcome(sample.n_drawn, 0, 0, sample.n_given_up)).share


def test_draws_by_hand() -> None:
    assert affordable_draws([2.0] * 10, 7.0) == 3
    assert affordable_draws([0.1] * 10, 0.3) == 3
    assert affordable_draws([2.0] * 10, 20.0) == 10
    assert affordable_draws([1.0, 3.0] * 10, 8.0) == 2  # 3 + 3 fit, 3 + 3 + 3 do not
    assert affordable_draws([1.0], 0.0) == affordable_draws([], 5.0) == 0
    assert affordable_draws([1.0] * 500 + [1e6], 20.0) == 0
    assert affordable_draws([ONE_MS / 10] * 3, 2 * ONE_MS) == 2  # the ledger's least amount


def test_the_long_tail_is_given_up_so_that_it_does_not_rule_out_the_rest() -> None:
    reserve = [1.0] * 500 + [1e6]
    sample = audit_sample(reserve, 20.0)
    assert (sample.n_drawn, sample.n_given_up) == (20, 1)
    assert sample.may_draw(reserve).tolist() == [True] * 500 + [False]
    assert share(sample, 501) == (1 + upper_bound(500, 20, 0)) / 501


def test_equals_are_given_up_together_and_never_where_the_pot_pays_for_all() -> None:
    reserve = np.repeat([1.0, 2.0, 300.0], [40, 40, 20])
    sample = audit_sample(reserve, 30.0)
    assert sample.n_given_up in (20, 60)
    assert audit_sample(reserve, reserve.sum()) == AuditSample(100, 0, 300.0 * MS_PER_CPU_H)
    assert audit_sample([5.0, 1.0], 6.0).n_drawn == 2
    assert audit_sample([5.0], 5.0).n_drawn == 1


def test_among_many_the_draw_is_nearly_as_large_as_the_mean_reservation_allows() -> None:
    """Long-tailed costs: the dearest-fit rule would draw a handful; the pot has 100 mean reservations."""
    reserve = np.exp(np.random.default_rng(0).standard_normal(2000))
    pot = 100 * float(reserve.mean())
    sample = audit_sample(reserve, pot)
    dearest = int((np.cumsum(np.sort(reserve)[::-1]) <= pot).sum())
    assert dearest < 12 and sample.n_drawn > 60
    assert share(sample, 2000) < 1.6 * upper_bound(2000, 100, 0) / 2000


@given(reservations_, st.floats(1e-6, 1e5), st.integers(0, 99))
def test_a_draw_is_paid_whole_whatever_it_costs_up_to_its_reservations(
    reserve: list[float], pot: float, seed: int
) -> None:
    """In at least 95 of 100 draws the ledger's whole amounts fit the pot; few draws are tried, so some slack."""
    sample = audit_sample(reserve, pot)
    who = np.flatnonzero(sample.may_draw(reserve))
    names = [f"{i:02d}" for i in who]
    booked = {n: to_ms(reserve[i], "reservation", zero=False) for n, i in zip(names, who, strict=True)}
    sums = [sum(booked[m] for m in draw(names, sample.n_drawn, seed, look)) for look in range(60)]
    unpaid = sum(x > round(pot * MS_PER_CPU_H) for x in sums)
    assert unpaid <= 9  # of 60 with 5 % each, 10 or more have a probability below 0.001
    dearest = sorted(booked.values())[-sample.n_drawn :] if sample.n_drawn else []
    if sum(dearest) <= pot * MS_PER_CPU_H:
        assert unpaid == 0


def test_how_often_a_draw_is_not_paid_whole() -> None:
    """Costs all at their reservations, long tails: Bernstein's inequality has something to spare."""
    rng = np.random.default_rng(0)
    for sd in (0.5, 1.0, 1.5):
        reserve = np.exp(sd * rng.standard_normal(400))
        for mean_draws in (5, 20, 80):
            pot = mean_draws * float(reserve.mean())
            sample = audit_sample(reserve, pot)
            may = reserve[sample.may_draw(reserve)]
            sums = [rng.choice(may, sample.n_drawn, replace=False).sum() for _ in range(400)]
            assert np.mean(np.array(sums) > pot) <= 1 - PAID


@given(reservations_, st.floats(0.0, 1e5), st.floats(0.0, 1e5), st.randoms())
def test_more_money_never_draws_fewer_of_all(reserve: list[float], a: float, b: float, random: object) -> None:
    less, more = sorted((a, b))
    n = affordable_draws(reserve, less)
    assert 0 <= n <= affordable_draws(reserve, more) <= len(reserve)
    shuffled = list(reserve)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    assert affordable_draws(shuffled, less) == n
    assert audit_sample(shuffled, less) == audit_sample(reserve, less)


@given(reservations_, st.floats(0.0, 1e5))
def test_giving_up_never_makes_the_bound_wider_than_drawing_from_all(reserve: list[float], pot: float) -> None:
    """Up to the approximation by which the limit is found: one member, or one in fifty."""
    n, sample = len(reserve), audit_sample(reserve, pot)
    from_all = upper_bound(n, affordable_draws(reserve, pot), 0) / n
    assert min(from_all, 1.0) >= min(0.9, share(sample, n) - max(1.01 / n, 0.02))


def test_where_nothing_can_be_drawn_it_is_said_in_words() -> None:
    assert audit_sample([0.02] * 35, 0.005) == audit_sample([], 1.0) == audit_sample([1.0], 0.0) == AuditSample(0)
    assert audit_sample([1.0] * 100, 1.0).n_drawn == 0  # "at most 95 %" says nothing
    assert no_audit([0.02] * 35, 0.005) == (
        "No audit: the pot of 0.0050 CPU-h is too small to draw from the 35 materials left at IPA (the cheapest needs "
        "0.0200 reserved), and nothing is known of them; raise audit_fraction."
    )
    assert no_audit([0.02] * 35, 0.0).startswith("No audit: none of the budget")


@settings(max_examples=15)
@given(reservations_, st.sampled_from([0.02, 0.1, 0.3, 0.8]))
def test_the_pot_that_a_plan_asks_for_reaches_its_target_and_a_smaller_one_does_not(
    reserve: list[float], target: float
) -> None:
    def plan(pot: float) -> float:
        choices = [SimpleNamespace(dispatch=False, reserve_cpu_h=x, candidate={}) for x in reserve]
        found = audit_plan(choices, Totals(1e6, 0, 0, 0, audit_available_cpu_h=pot), target)  # type: ignore[arg-type]
        assert found.n_affordable == audit_sample(reserve, pot).n_drawn
        return 1.0 if found.share is None else found.share

    choices = [SimpleNamespace(dispatch=False, reserve_cpu_h=x, candidate={}) for x in reserve]
    needed = audit_plan(choices, Totals(1e6, 0, 0, 0), target).needed_cpu_h  # type: ignore[arg-type]
    assert plan(needed) <= target + 1e-12
    assert needed == 0.0 or plan(needed - ONE_MS) > target


def test_impossible_amounts() -> None:
    with pytest.raises(ValueError, match="not a number"):
        affordable_draws([1.0], math.nan)
    for cost in (-1.0, math.nan, math.inf):
        with pytest.raises(SelectorError, match="predicted cost"):
            audit_sample([1.0, cost], 5.0)
