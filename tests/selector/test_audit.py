"""The audit's bound: exact coverage by enumeration, properties, sizes, draws and the sentence."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from selector.audit import (
    ALPHA,
    AuditOutcome,
    alpha_of_look,
    audit_bound,
    audit_size,
    draw,
    upper_bound,
)
from selector.errors import UsageError

alpha_ = st.sampled_from([0.001, 0.05, 0.1, 0.3])


def at_most(hits: int, n_members: int, n_low: int, n_drawn: int) -> Fraction:
    """P(X <= hits), X hypergeometric, without rounding."""
    ways = sum(math.comb(n_low, x) * math.comb(n_members - n_low, n_drawn - x) for x in range(hits + 1))
    return Fraction(ways, math.comb(n_members, n_drawn))


@st.composite
def draws(draw_: st.DrawFn, largest: int = 400) -> tuple[int, int, int]:
    """N, n, hits."""
    n_members = draw_(st.integers(0, largest))
    n_drawn = draw_(st.integers(0, n_members))
    return n_members, n_drawn, draw_(st.integers(0, n_drawn))


@pytest.mark.parametrize("alpha", ["0.05", "0.1", "0.3"])
def test_the_bound_is_too_small_with_probability_alpha_at_most(alpha: str) -> None:
    """Every set of up to 12 members, every draw, every number of low ones."""
    for n_members in range(1, 13):
        for n_drawn in range(n_members + 1):
            bounds = [upper_bound(n_members, n_drawn, x, float(alpha)) for x in range(n_drawn + 1)]
            for n_low in range(n_members + 1):
                too_small = max((x for x, bound in enumerate(bounds) if bound < n_low), default=-1)
                assert at_most(too_small, n_members, n_low, n_drawn) <= Fraction(alpha)


@given(draws(60), st.sampled_from(["0.01", "0.05", "0.3"]))
def test_the_bound_is_the_largest_number_not_excluded(case: tuple[int, int, int], alpha: str) -> None:
    n_members, n_drawn, hits = case
    bound = upper_bound(n_members, n_drawn, hits, float(alpha))
    assert at_most(hits, n_members, bound, n_drawn) >= Fraction(alpha)
    if bound < n_members:
        assert at_most(hits, n_members, bound + 1, n_drawn) < Fraction(alpha)


@pytest.mark.parametrize(("n_drawn", "hits"), [(1, 0), (60, 0), (60, 2), (3000, 0), (2000, 30)])
def test_a_million_members(n_drawn: int, hits: int) -> None:
    bound = upper_bound(10**6, n_drawn, hits)
    assert at_most(hits, 10**6, bound, n_drawn) >= Fraction("0.05")
    assert at_most(hits, 10**6, bound + 1, n_drawn) < Fraction("0.05")


def test_many_hits_among_a_million_agree_with_the_normal_approximation() -> None:
    bound = upper_bound(10**6, 500_000, 250_000)
    spread = 2 * math.sqrt(500_000 * 0.25 * 0.5)  # of K as estimated from half of the set
    assert bound == pytest.approx(500_000 + 1.645 * spread, abs=10)


@given(draws(), alpha_)
def test_range(case: tuple[int, int, int], alpha: float) -> None:
    n_members, n_drawn, hits = case
    assert hits <= upper_bound(n_members, n_drawn, hits, alpha) <= n_members - n_drawn + hits


@given(draws(), alpha_)
def test_one_more_hit_never_lowers_it_and_one_more_good_one_never_raises_it(
    case: tuple[int, int, int], alpha: float
) -> None:
    n_members, n_drawn, hits = case
    bound = upper_bound(n_members, n_drawn, hits, alpha)
    if hits < n_drawn:
        assert upper_bound(n_members, n_drawn, hits + 1, alpha) >= bound
    if n_drawn < n_members:
        assert upper_bound(n_members, n_drawn + 1, hits, alpha) <= bound
        assert upper_bound(n_members, n_drawn + 1, hits + 1, alpha) >= bound
    assert upper_bound(n_members, n_drawn, hits, alpha / 2) >= bound


def test_edges() -> None:
    assert upper_bound(0, 0, 0) == 0
    assert upper_bound(50, 0, 0) == 50  # nothing is known
    assert [upper_bound(50, 50, x) for x in (0, 7, 50)] == [0, 7, 50]  # everything is
    assert [upper_bound(50, n, n) for n in (1, 20)] == [50, 50]  # nothing but hits
    assert upper_bound(20, 1, 0) == 19  # P(X = 0 | 19 low) is exactly 0.05: a tie is not excluded


@given(st.integers(1, 300), st.integers(0, 300), st.integers(0, 300), st.integers(0, 300))
def test_results_that_come_in_never_raise_the_bound(n_members: int, below: int, above: int, missing: int) -> None:
    """A member without a result counts as below; what it turns out to be can't make the statement bolder than it is."""
    n_drawn = below + above + missing
    if n_drawn > n_members:
        return
    early = audit_bound(n_members, AuditOutcome(n_drawn, below, missing)).n_low
    for low_ones in {0, missing // 2, missing}:
        assert audit_bound(n_members, AuditOutcome(n_drawn, below + low_ones, 0)).n_low <= early


def test_error_of_the_looks_sums_to_alpha() -> None:
    spent = np.cumsum([alpha_of_look(k) for k in range(1, 1001)])
    assert (spent < ALPHA).all()
    assert spent[-1] == pytest.approx(ALPHA, rel=2e-3)
    assert alpha_of_look(1) == ALPHA / 2
    later = [audit_bound(200, AuditOutcome(30, 1, 0), look=k).n_low for k in (1, 2, 5)]
    assert audit_bound(200, AuditOutcome(30, 1, 0)).n_low < later[0] < later[1] < later[2]


@given(st.integers(0, 3000), st.floats(0.0, 1.0), alpha_, st.integers(0, 5))
def test_audit_size_is_the_smallest_that_reaches_the_target(
    n_members: int, target: float, alpha: float, hits: int
) -> None:
    size = audit_size(n_members, target, alpha, hits)
    if size is None:
        assert hits > target * n_members or hits > n_members
        return
    assert upper_bound(n_members, size, hits, alpha) <= target * n_members * (1 + 1e-9)
    if size > hits:
        assert upper_bound(n_members, size - 1, hits, alpha) > target * n_members


def test_audit_size_is_about_three_over_the_target() -> None:
    assert audit_size(10**6, 0.01) == pytest.approx(300, rel=0.01)
    assert audit_size(10**6, 0.05) == pytest.approx(60, rel=0.03)
    sizes = [audit_size(n, 0.05) for n in (20, 100, 1000, 10**6)]
    assert sizes == sorted(sizes)  # a large draw from a small set says more
    assert audit_size(1000, 0.05, expected_hits=1) > audit_size(1000, 0.05)
    assert audit_size(0, 0.05) == 0
    assert audit_size(100, 1.0) == 0
    assert audit_size(40, 0.0, expected_hits=1) is None
    # At the size planned, a draw with no hit says what was asked.
    assert audit_bound(1000, AuditOutcome(sizes[2], 0, 0)).share <= 0.05


@given(st.sets(st.text(max_size=6), max_size=40), st.integers(0, 2**31), st.integers(0, 5), st.randoms())
def test_draw_knows_only_the_set(ids: set[str], seed: int, look: int, random: object) -> None:
    shuffled = list(ids)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    everyone = draw(ids, len(ids), seed, look)
    assert sorted(everyone) == sorted(ids)
    for n in (0, len(ids) // 2):
        assert draw(shuffled, n, seed, look) == everyone[:n]


def test_every_subset_is_as_likely() -> None:
    ids, n_seeds = list("abcde"), 4000
    count = Counter(frozenset(draw(ids, 2, seed)) for seed in range(n_seeds))
    assert set(count) == {frozenset(pair) for pair in itertools.combinations(ids, 2)}
    spread = math.sqrt(n_seeds * 0.1 * 0.9)
    assert max(abs(c - n_seeds / 10) for c in count.values()) < 4 * spread


def test_looks_and_policies_of_one_seed_share_no_draw() -> None:
    """A policy that ordered the pool by the draw's own random numbers could leave out whom it will be judged by."""
    ids = [f"{i:03d}" for i in range(200)]
    of_policy = [ids[i] for i in np.random.default_rng(7).permutation(200)[:50]]
    samples = [set(draw(ids, 50, 7, look)) for look in range(4)] + [set(of_policy)]
    for a, b in itertools.combinations(samples, 2):
        assert len(a & b) < 25  # 12.5 expected, standard deviation 2.7


def test_sentence() -> None:
    closing = audit_bound(412, AuditOutcome(40, 1, 2))
    assert closing.sentence(0.75) == (
        "Of the 412 materials left at IPA, at most 17.8 % (95 %) have SC below 0.75: "
        "of 40 drawn at random, 1 below, 2 without a result and counted as below."
    )
    assert closing.n_low == 73  # 17.72 %, rounded up
    early = audit_bound(412, AuditOutcome(40, 0, 0), alpha=0.1, look=2)
    assert early.sentence(0.7) == (
        f"Provisional, look 2: of the 412 materials left at IPA, at most {math.ceil(early.share * 1000) / 10:g} % "
        "(90 %, all looks together) have SC below 0.7: of 40 drawn at random, 0 below."
    )
    dear = audit_bound(412, AuditOutcome(40, 1, 0, 12))
    assert dear.n_low == 12 + upper_bound(400, 40, 1)
    assert dear.sentence(0.75).endswith(
        "of 40 drawn at random, 1 below; 12 too dear for the audit count as below, too."
    )
    assert audit_bound(9, AuditOutcome(0, 0, 0)).sentence(0.75) == (
        "No audit: nothing is known of the 9 materials left at IPA."
    )
    assert audit_bound(0, AuditOutcome(0, 0, 0)).sentence(0.75) == "No material is left at IPA."
    assert audit_bound(0, AuditOutcome(0, 0, 0)).share == 0.0


@given(draws())
def test_the_percentage_said_is_not_below_the_bound(case: tuple[int, int, int]) -> None:
    n_members, n_drawn, hits = case
    bound = audit_bound(n_members, AuditOutcome(n_drawn, hits, 0))
    if n_drawn:
        said = Fraction(bound.sentence(0.75).split("at most ")[1].split(" %")[0])
        assert 0 <= said / 100 - Fraction(bound.n_low, n_members) < Fraction("0.001")


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: upper_bound(5, 6, 0),
        lambda: upper_bound(5, 3, 4),
        lambda: upper_bound(5, 3, -1),
        lambda: upper_bound(5, 3, 1, alpha=0.0),
        lambda: upper_bound(5, 3, 1, alpha=math.nan),
        lambda: AuditOutcome(3, 2, 2),
        lambda: AuditOutcome(3, -1, 2),
        lambda: alpha_of_look(0),
        lambda: audit_size(-1, 0.1),
        lambda: audit_size(10, 0.1, alpha=1.0),
        lambda: draw(["a", "a"], 1, 0),
        lambda: draw(["a"], 2, 0),
        lambda: draw(["a"], 1, 0, look=-1),
        lambda: AuditOutcome(3, 1, 1, -1),
        lambda: audit_bound(5, AuditOutcome(3, 0, 0, 3)),
    ],
)
def test_impossible_arguments(wrong) -> None:
    with pytest.raises(ValueError, match=r"."):
        wrong()


def test_errors_of_users() -> None:
    for target in (-0.1, 1.5, math.nan):
        with pytest.raises(UsageError, match="target share"):
            audit_size(100, target)
    with pytest.raises(UsageError, match="seed -3"):
        draw(["a"], 1, -3)
