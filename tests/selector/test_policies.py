"""Policies: what they dispatch, in which order, and what they say about it."""

from __future__ import annotations

import time
from importlib.metadata import EntryPoint, EntryPoints
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from users_policy import UsersPolicy

from selector import policies
from selector.config import PolicyConfig
from selector.errors import SelectorError, UsageError
from selector.policies import BATCH, POLICIES, Policy, ValuePerCost, checked_rank, get_policy
from selector.pool import Pool

NO_FLOOR = ValuePerCost(diversity=0.0, value_floor=0.0)


def named(name: str) -> Policy:
    return get_policy(PolicyConfig(name=name))


def pool_of(mean: Any, ids: list[str] | None = None, **other: Any) -> Pool:
    n = len(mean)
    arrays: dict[str, Any] = {
        "spread": np.full(n, 0.1),
        "lo": np.array(mean) - 0.1,
        "hi": np.array(mean) + 0.1,
        "p_low": np.full(n, 0.5),
        "value": 0.5 * (1.2 - np.array(mean)),
        "cost_cpu_h": np.ones(n),
        "latent": np.zeros((n, 0)),
        "in_flight_latent": np.zeros((0, np.shape(other.get("latent", np.zeros((n, 0))))[1])),
        **other,
    }
    return Pool(material_id=np.array(ids or [f"m{i:03d}" for i in range(n)], dtype=str), mean=np.array(mean), **arrays)


def permuted(pool: Pool, order: np.ndarray) -> Pool:
    return pool.take(order, np.array([], dtype=np.intp))


def ranked_ids(policy: Policy, pool: Pool, threshold: float = 0.75, seed: int = 1, n: int = 1000) -> list[str]:
    return pool.material_id[checked_rank(policy, pool, threshold, np.random.default_rng(seed), n)].tolist()


# Few distinct values, so that ties are common.
tenths = st.integers(-2, 11).map(lambda i: i / 10)
means = st.lists(tenths, max_size=30)
names = st.sampled_from(sorted(POLICIES))


@st.composite
def pools(draw: Any) -> Pool:
    n = draw(st.integers(1, 25))

    def some(values: Any) -> np.ndarray:
        return np.array(draw(st.lists(values, min_size=n, max_size=n)), dtype=float)

    places = st.integers(0, 3).map(float)
    out = draw(st.lists(st.tuples(places, places), max_size=4))
    return pool_of(
        some(tenths),
        value=some(st.sampled_from([0.0, 0.005, 0.1, 0.2, 0.4])),
        cost_cpu_h=some(st.sampled_from([0.5, 1.0, 2.0, 7.0])),
        spread=some(st.sampled_from([0.05, 0.1])),
        latent=np.column_stack([some(places), some(places)]),
        in_flight_latent=np.array(out, dtype=float).reshape(-1, 2),
    )


# -- the single policies ----------------------------------------------------------------------------------------------


def test_value_per_cost_goes_by_the_ratio() -> None:
    pool = pool_of([0.5] * 4, value=[0.4, 0.1, 0.3, 0.02], cost_cpu_h=[4.0, 0.2, 1.0, 1.0])
    assert ranked_ids(NO_FLOOR, pool) == ["m001", "m002", "m000", "m003"]


def test_where_all_is_predicted_the_same_the_cheapest_goes_first() -> None:
    cost = np.random.default_rng(0).uniform(0.1, 9.0, 50)
    pool = pool_of([0.8] * 50, value=[0.1] * 50, cost_cpu_h=cost)
    assert ranked_ids(named("value_per_cost"), pool) == ranked_ids(named("cheapest"), pool)


def test_below_the_floor_nothing_is_worth_rpa() -> None:
    pool = pool_of([0.9, 0.9, 0.9], value=[0.0099, 0.01, 0.5], p_low=[0.03, 0.03, 0.9])
    policy = named("value_per_cost")
    assert ranked_ids(policy, pool) == ["m002", "m001"]
    assert policy.skip_reason(pool, 0, 0.75) == (
        "expected error 0.010 (SC < 0.75 with probability 0.03), below the floor 0.01"
    )
    assert policy.reason(pool, 2, 0.75) == "expected error 0.500 (SC < 0.75 with probability 0.90) for 1.0000 CPU-h"


def line(places: list[float], **other: Any) -> Pool:
    return pool_of([0.5] * len(places), latent=np.array(places)[:, None], **other)


def test_what_is_like_the_first_waits_for_it() -> None:
    """Two twins at 0, one crystal far away, worth a little less: it goes between the twins."""
    pool = line([0.0, 0.0, 9.0, 5.0], value=[0.30, 0.30, 0.25, 0.05])
    assert ranked_ids(ValuePerCost(0.3, 0.0), pool) == ["m000", "m002", "m001", "m003"]
    assert ranked_ids(ValuePerCost(0.0, 0.0), pool) == ["m000", "m001", "m002", "m003"]
    # A twin loses 30 % of its value, not more.
    dear = line([0.0, 0.0, 9.0, 5.0], value=[0.30, 0.30, 0.20, 0.05])
    assert ranked_ids(ValuePerCost(0.3, 0.0), dear) == ["m000", "m001", "m002", "m003"]


def test_what_is_in_flight_counts_too() -> None:
    pool = line([0.0, 9.0, 5.0, 3.0], value=[0.30, 0.25, 0.02, 0.01], in_flight_latent=np.array([[0.0]]))
    assert ranked_ids(ValuePerCost(0.3, 0.0), pool)[:2] == ["m001", "m000"]


def test_likeness_is_measured_against_the_pools_own_distances() -> None:
    """Stretching the whole latent space changes nothing."""
    rng = np.random.default_rng(3)
    places, value = rng.normal(size=(80, 4)), rng.uniform(0.05, 0.3, 80)
    small, large = (
        pool_of([0.5] * 80, latent=k * places, value=value, in_flight_latent=k * places[:3]) for k in (1.0, 1024.0)
    )
    policy = ValuePerCost(0.6, 0.0)
    assert ranked_ids(policy, small) == ranked_ids(policy, large) != ranked_ids(NO_FLOOR, small)


def greedy(pool: Pool, diversity: float, n: int) -> list[str]:
    """The definition, looked up for every material at every pick."""
    chosen: list[int] = []
    for _ in range(min(n, len(pool))):
        best, score = -1, -1.0
        for i in pool.by_id.tolist():
            if i in chosen:
                continue
            out = [*pool.in_flight_latent, *pool.latent[chosen]]
            nearest = min((float(((pool.latent[i] - x) ** 2).sum()) for x in out), default=np.inf)
            like = np.exp(-0.5 * nearest / pool.alike_distance**2)
            found = pool.value[i] / pool.cost_cpu_h[i] * (1 - diversity * like)
            if found > score + 1e-12:
                best, score = i, found
        chosen.append(best)
    return pool.material_id[chosen].tolist()


@given(st.integers(0, 1000), st.sampled_from([0.0, 0.3, 0.8, 1.0]), st.integers(1, 12))
def test_the_short_cut_chooses_what_the_definition_chooses(seed: int, diversity: float, n: int) -> None:
    rng = np.random.default_rng(seed)
    pool = pool_of(
        [0.5] * 40,
        value=rng.uniform(0.02, 0.6, 40),
        cost_cpu_h=rng.uniform(0.5, 4.0, 40),
        latent=rng.normal(size=(40, 2)),
        in_flight_latent=rng.normal(size=(3, 2)),
    )
    assert ranked_ids(ValuePerCost(diversity, 0.0), pool, n=n) == greedy(pool, diversity, n)


def test_beyond_a_batch_the_order_is_by_ratio() -> None:
    n = BATCH + 50
    value = np.linspace(0.9, 0.1, n)
    pool = pool_of([0.5] * n, value=value, latent=np.zeros((n, 2)))
    found = ranked_ids(ValuePerCost(0.3, 0.0), pool)
    assert found == pool.material_id.tolist()


def test_threshold_takes_the_lowest_first_and_leaves_the_rest() -> None:
    pool = pool_of([0.9, 0.3, 0.75, 0.74, -0.2])
    assert ranked_ids(named("threshold"), pool) == ["m004", "m001", "m003"]


def test_uncertainty_and_cheapest_go_by_one_number() -> None:
    pool = pool_of([0.9, 0.3, 0.7], spread=[0.1, 0.3, 0.2], cost_cpu_h=[2.0, 3.0, 1.0])
    assert ranked_ids(named("uncertainty"), pool) == ["m001", "m002", "m000"]
    assert ranked_ids(named("cheapest"), pool) == ["m002", "m000", "m001"]


@pytest.mark.parametrize("name", ["value_per_cost", "threshold", "uncertainty", "cheapest"])
def test_ties_go_by_material_id(name: str) -> None:
    pool = pool_of([0.5] * 4, ids=["c", "a", "z", "b"])
    assert ranked_ids(named(name), pool) == ["a", "b", "c", "z"]


def test_random_takes_everything_whatever_is_predicted() -> None:
    pool = pool_of([0.99] * 50)
    first, second = (ranked_ids(named("random"), pool, seed=seed) for seed in (1, 2))
    assert sorted(first) == sorted(second) == sorted(pool.material_id)
    assert first != second
    assert first == ranked_ids(named("random"), pool, seed=1)


def test_random_is_uniform() -> None:
    """Each of five comes first in a fifth of 2,000 draws: 400 +- 5 sigma, sigma = sqrt(2000 * 0.2 * 0.8) = 18."""
    pool = pool_of([0.1, 0.2, 0.3, 0.4, 0.9])
    rng = np.random.default_rng(3)
    first = np.bincount([named("random").rank(pool, 0.75, rng, 1)[0] for _ in range(2000)], minlength=5)
    assert np.all(np.abs(first - 400) < 90)


# -- all policies -----------------------------------------------------------------------------------------------------


@given(names, pools(), st.sampled_from([0.3, 0.75]))
def test_each_is_ranked_or_has_a_reason_and_never_both(name: str, pool: Pool, threshold: float) -> None:
    policy = named(name)
    ranked = checked_rank(policy, pool, threshold, np.random.default_rng(0), len(pool))
    for i in range(len(pool)):
        if i in ranked:
            assert policy.reason(pool, i, threshold)
            with pytest.raises(ValueError, match=r"below|leaves no material"):
                policy.skip_reason(pool, i, threshold)
        else:
            assert policy.skip_reason(pool, i, threshold)
            with pytest.raises(ValueError, match="below"):
                policy.reason(pool, i, threshold)


@given(names, pools(), st.integers(0, 30), st.integers(0, 1000))
def test_fewer_are_the_first_of_all(name: str, pool: Pool, n: int, seed: int) -> None:
    ranked = ranked_ids(named(name), pool, seed=seed)
    assert ranked_ids(named(name), pool, seed=seed, n=n) == ranked[:n]


@given(names, pools(), st.integers(0, 1000))
def test_the_order_of_the_pool_does_not_matter(name: str, pool: Pool, seed: int) -> None:
    shuffled = permuted(pool, np.random.default_rng(seed).permutation(len(pool)))
    assert ranked_ids(named(name), pool) == ranked_ids(named(name), shuffled)


@given(st.sampled_from(sorted(set(POLICIES) - {"random"})), pools())
def test_only_random_looks_at_the_seed(name: str, pool: Pool) -> None:
    assert not named(name).draws_at_random
    assert ranked_ids(named(name), pool, seed=1) == ranked_ids(named(name), pool, seed=2)


@pytest.mark.parametrize("name", sorted(POLICIES))
def test_policies_know_their_names_and_an_empty_pool(name: str) -> None:
    assert named(name).name == name
    assert ranked_ids(named(name), pool_of([])) == []
    assert named(name).draws_at_random == (name == "random")


def test_reasons_in_words() -> None:
    pool = pool_of([0.86, 0.61])
    policy = named("threshold")
    assert policy.skip_reason(pool, 0, 0.75) == "predicted SC 0.860 is not below the threshold 0.75"
    assert policy.reason(pool, 1, 0.75) == "predicted SC 0.610 is below the threshold 0.75"
    assert named("uncertainty").reason(pool, 1, 0.75) == "predicted SC 0.610 is uncertain by 0.100"
    assert "1.0000 CPU-h" in named("cheapest").reason(pool, 1, 0.75)
    assert "random" in named("random").reason(pool, 0, 0.75)


@pytest.mark.parametrize("diversity", [0.3, 1.0])
def test_a_hundred_thousand_are_ranked_in_a_moment(diversity: float, capsys: pytest.CaptureFixture[str]) -> None:
    """An idle machine takes 0.1 s with the default and 0.5 s with a diversity of 1, which no short cut helps."""
    rng, n = np.random.default_rng(0), 100_000
    pool = pool_of(
        rng.normal(0.78, 0.1, n),
        ids=[f"agm{i:09d}" for i in range(n)],
        value=rng.exponential(0.1, n),
        cost_cpu_h=rng.lognormal(-5.0, 1.0, n),
        latent=rng.normal(size=(n, 60)),
        in_flight_latent=rng.normal(size=(8, 60)),
    )
    start = time.process_time()
    assert len(ranked_ids(ValuePerCost(diversity, 0.01), pool, n=20)) == 20
    taken_s = time.process_time() - start
    with capsys.disabled():
        print(f"\n20 of 100,000 with diversity {diversity:g}: {taken_s:.2f} s")
    assert taken_s < 5.0


# -- bad pools, bad policies -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["mean", "spread", "lo", "hi", "p_low", "value", "cost_cpu_h"])
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_number_that_is_not_finite_names_the_material(name: str, bad: float) -> None:
    arrays: dict[str, Any] = {"mean": [0.1, 0.2, 0.3], name: [0.1, bad, 0.3]}
    if name == "mean":
        arrays["value"] = [0.1] * 3
    with pytest.raises(SelectorError, match=f"m001: its predicted {name} is not finite"):
        pool_of(**arrays)


@pytest.mark.parametrize(
    ("other", "what"),
    [
        ({"cost_cpu_h": [1.0, -2.0]}, "m001: its predicted cost is not positive; veto the material"),
        ({"cost_cpu_h": [0.0, 2.0]}, "m000: its predicted cost is not positive"),
        ({"value": [0.1, -0.1]}, "m001: its predicted value is negative"),
        ({"latent": np.array([[0.0], [np.nan]])}, "m001: its latent vector is not finite"),
    ],
)
def test_what_cannot_be_ranked_is_named(other: dict[str, Any], what: str) -> None:
    with pytest.raises(SelectorError, match=what):
        pool_of([0.1, 0.2], **other)


@pytest.mark.parametrize(
    "other",
    [
        {"cost_cpu_h": [1.0]},
        {"latent": np.zeros((3, 2))},
        {"latent": np.zeros((2, 2)), "in_flight_latent": np.zeros((1, 3))},
    ],
)
def test_arrays_that_do_not_fit_are_refused(other: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="shape"):
        pool_of([0.1, 0.2], **other)


def test_a_material_is_in_the_pool_once() -> None:
    with pytest.raises(ValueError, match="twice"):
        pool_of([0.1, 0.2], ids=["a", "a"])


def test_a_policy_cannot_write_into_the_pool() -> None:
    mean = np.array([0.1, 0.2])
    pool = pool_of(mean)
    with pytest.raises(ValueError, match="read-only"):
        pool.mean[0] = 0.9
    mean[0] = 0.3  # the caller's own array stays writable


@pytest.mark.parametrize("answer", [[], [2], [0, 1], np.array([1, 0]), (2, 0), np.array([1], dtype=np.int32)])
def test_any_list_of_indices_will_do(answer: Any) -> None:
    found = checked_rank(UsersPolicy(answer), pool_of([0.1, 0.2, 0.3]), 0.75, np.random.default_rng(0), 2)
    assert found.dtype == np.intp
    assert found.tolist() == list(answer)


@pytest.mark.parametrize(
    ("answer", "what"),
    [
        ([3], "returned index 3 where 3 materials are pending"),
        ([0, -1], "returned index -1 where 3 materials are pending"),
        ([1, 1], "returned m001 twice"),
        ([0, 1, 2], "returned 3 materials where 2 were asked for"),
        ([0.0, 1.0], "returned float64 of shape"),
        ([True, False], "returned bool of shape"),
        (["m001"], "returned <U4 of shape"),
        ([[0, 1]], r"int64 of shape \(1, 2\)"),
        (1, r"int64 of shape \(\)"),
        (None, "returned object of shape"),
        ([[0], [1, 2]], "failed"),
        (ZeroDivisionError("by\nzero"), r"failed \(ZeroDivisionError: by zero\)"),
    ],
)
def test_what_else_a_policy_returns_is_its_mistake(answer: Any, what: str) -> None:
    with pytest.raises(SelectorError, match=rf"^policy 'mine' .*{what}.*") as error:
        checked_rank(UsersPolicy(answer), pool_of([0.1, 0.2, 0.3]), 0.75, np.random.default_rng(0), 2)
    assert "\n" not in str(error.value)
    assert "choose another" in str(error.value)


# -- by name ----------------------------------------------------------------------------------------------------------


def install(monkeypatch: pytest.MonkeyPatch, value: str, name: str = "mine") -> None:
    entry = EntryPoint(name=name, value=value, group=policies.ENTRY_POINTS)
    monkeypatch.setattr(policies, "entry_points", lambda group: EntryPoints([entry]).select(group=group))


def test_an_unknown_policy_names_the_choices(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, "selector.policies:ThresholdPolicy")
    with pytest.raises(UsageError, match=r"'greedy'; choose one of value_per_cost, .*, random, mine"):
        named("greedy")


def test_a_policy_of_ones_own_is_found_by_entry_point(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys
    import types

    module = types.ModuleType("my_policies")
    module.make = lambda settings: UsersPolicy([int(settings.threshold * 4)])  # type: ignore[attr-defined]
    module.half = lambda settings: object()  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "my_policies", module)
    install(monkeypatch, "my_policies:make")
    policy = get_policy(PolicyConfig(name="mine", threshold=0.5))
    assert ranked_ids(policy, pool_of([0.1, 0.2, 0.3])) == ["m002"]
    install(monkeypatch, "my_policies:half")
    with pytest.raises(UsageError, match="'mine': my_policies:half is no policy: it has no 'name'"):
        named("mine")
    install(monkeypatch, "my_policies:absent")
    with pytest.raises(UsageError, match=r"'mine': my_policies:absent can't be loaded \(AttributeError"):
        named("mine")


def test_the_policies_that_ship_keep_their_names(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, "no_such_module:nothing", name="threshold")
    assert named("threshold").name == "threshold"
