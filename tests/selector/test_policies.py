"""Policies: what they dispatch, in which order, and what they say about it."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from selector.errors import SelectorError, UsageError
from selector.policies import POLICIES, Policy, Pool, get_policy


def pool_of(mean: list[float], ids: list[str] | None = None, **other: list[float]) -> Pool:
    n = len(mean)
    arrays = {
        "lo": np.array(mean) - 0.1,
        "hi": np.array(mean) + 0.1,
        "p_low": np.full(n, 0.5),
        "cost_cpu_h": np.ones(n),
        **other,
    }
    return Pool(material_id=np.array(ids or [f"m{i:03d}" for i in range(n)], dtype=str), mean=np.array(mean), **arrays)


def permuted(pool: Pool, order: np.ndarray) -> Pool:
    return Pool(**{name: getattr(pool, name)[order] for name in pool.__dataclass_fields__})


def ranked_ids(policy: Policy, pool: Pool, threshold: float = 0.75, seed: int = 1) -> list[str]:
    return [str(pool.material_id[i]) for i in policy.rank(pool, threshold, np.random.default_rng(seed))]


# Few distinct values, so that ties are common.
means = st.lists(st.integers(-2, 11).map(lambda i: i / 10), max_size=30)
policies = st.sampled_from(sorted(POLICIES)).map(get_policy)


def test_threshold_takes_the_lowest_first_and_leaves_the_rest() -> None:
    pool = pool_of([0.9, 0.3, 0.75, 0.74, -0.2])
    assert ranked_ids(get_policy("threshold"), pool) == ["m004", "m001", "m003"]


def test_ties_go_by_material_id() -> None:
    pool = pool_of([0.5, 0.5, 0.1, 0.5], ids=["c", "a", "z", "b"])
    assert ranked_ids(get_policy("threshold"), pool) == ["z", "a", "b", "c"]


def test_threshold_does_not_look_at_the_seed() -> None:
    pool = pool_of([0.5, 0.6, 0.5, 0.1])
    assert ranked_ids(get_policy("threshold"), pool, seed=1) == ranked_ids(get_policy("threshold"), pool, seed=2)


def test_random_takes_everything_whatever_is_predicted() -> None:
    pool = pool_of([0.99] * 50)
    first, second = (ranked_ids(get_policy("random"), pool, seed=seed) for seed in (1, 2))
    assert sorted(first) == sorted(second) == sorted(pool.material_id)
    assert first != second
    assert first == ranked_ids(get_policy("random"), pool, seed=1)


def test_random_is_uniform() -> None:
    """Each of five comes first in a fifth of 2,000 draws: 400 +- 5 sigma, sigma = sqrt(2000 * 0.2 * 0.8) = 18."""
    pool = pool_of([0.1, 0.2, 0.3, 0.4, 0.9])
    rng = np.random.default_rng(3)
    first = np.bincount([get_policy("random").rank(pool, 0.75, rng)[0] for _ in range(2000)], minlength=5)
    assert np.all(np.abs(first - 400) < 90)


@given(policies, means, st.sampled_from([0.0, 0.3, 0.75]))
def test_each_is_ranked_or_has_a_reason_and_never_both(policy: Policy, mean: list[float], threshold: float) -> None:
    pool = pool_of(mean)
    ranked = policy.rank(pool, threshold, np.random.default_rng(0))
    assert len(set(ranked.tolist())) == len(ranked)
    for i in range(len(pool)):
        if i in ranked:
            assert policy.reason(pool, i, threshold)
            with pytest.raises(ValueError, match=r"below the threshold|leaves no material"):
                policy.skip_reason(pool, i, threshold)
        else:
            assert policy.skip_reason(pool, i, threshold)
            with pytest.raises(ValueError, match="not below"):
                policy.reason(pool, i, threshold)


@given(means, st.sampled_from([0.0, 0.3, 0.75]))
def test_threshold_never_returns_what_is_not_below(mean: list[float], threshold: float) -> None:
    pool = pool_of(mean)
    ranked = get_policy("threshold").rank(pool, threshold, np.random.default_rng(0))
    assert set(ranked.tolist()) == {i for i, m in enumerate(mean) if m < threshold}
    assert np.all(np.diff(pool.mean[ranked]) >= 0.0)


@given(policies, means, st.integers(0, 1000))
def test_the_order_of_the_pool_does_not_matter(policy: Policy, mean: list[float], seed: int) -> None:
    pool = pool_of(mean)
    shuffled = permuted(pool, np.random.default_rng(seed).permutation(len(pool)))
    assert ranked_ids(policy, pool) == ranked_ids(policy, shuffled)


def test_reasons_in_words() -> None:
    pool = pool_of([0.86, 0.61])
    policy = get_policy("threshold")
    assert policy.skip_reason(pool, 0, 0.75) == "predicted SC 0.860 is not below the threshold 0.75"
    assert policy.reason(pool, 1, 0.75) == "predicted SC 0.610 is below the threshold 0.75"
    assert "random" in get_policy("random").reason(pool, 0, 0.75)


@pytest.mark.parametrize("name", ["mean", "lo", "hi", "p_low", "cost_cpu_h"])
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_number_that_is_not_finite_names_the_material(name: str, bad: float) -> None:
    arrays = {"mean": [0.1, 0.2, 0.3], name: [0.1, bad, 0.3]}
    with pytest.raises(SelectorError, match=f"m001: its predicted {name} is not finite"):
        pool_of(**arrays)


def test_arrays_of_different_lengths_are_refused() -> None:
    with pytest.raises(ValueError, match="shape"):
        pool_of([0.1, 0.2], cost_cpu_h=[1.0])


def test_a_material_is_in_the_pool_once() -> None:
    with pytest.raises(ValueError, match="twice"):
        pool_of([0.1, 0.2], ids=["a", "a"])


def test_an_unknown_policy_names_the_choices() -> None:
    with pytest.raises(UsageError, match=r"'greedy'; choose one of random, threshold"):
        get_policy("greedy")


@pytest.mark.parametrize("name", sorted(POLICIES))
def test_policies_know_their_names(name: str) -> None:
    assert get_policy(name).name == name
