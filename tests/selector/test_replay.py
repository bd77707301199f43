"""Replays in virtual time: when results return, what an oracle would do, and that figures say what happened."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from selector.errors import SelectorError, UsageError
from selector.protocols import Failure, Job, Result
from selector.replaying.figures import Figure, Pool
from selector.replaying.plot import draw
from selector.replaying.virtual import LEARNING_S, Return, VirtualWorkers


@dataclass(frozen=True)
class Took:
    wall_s: float


def job(material_id: str, limit_s: float = 1e9, attempt: int = 1) -> Job:
    key = f"{material_id}-{attempt}"
    return Job("c", key, material_id, "NaCl", {}, "rpa", attempt, {}, 1, limit_s, f"work/{key}")


# -- virtual time -----------------------------------------------------------------------------------------------------


def test_no_result_is_there_before_its_time() -> None:
    workers = VirtualWorkers({"a": Took(20.0), "b": Took(5.0)}, 2)
    for name in "ab":
        workers.submit(job(name))
    assert workers.outcome("a-1", Path()) is None
    assert workers.outcome("b-1", Path()) is None
    assert workers.advance()
    assert (workers.now_s, workers.outcome("a-1", Path())) == (5.0, None)
    assert isinstance(workers.outcome("b-1", Path()), Result)
    assert workers.advance()
    assert isinstance(workers.outcome("a-1", Path()), Result)
    assert not workers.advance()


def test_what_reaches_its_limit_is_stopped_there_and_may_be_tried_again() -> None:
    workers = VirtualWorkers({"a": Took(20.0)}, 1)
    workers.submit(job("a", 8.0))
    workers.advance()
    failure = workers.outcome("a-1", Path())
    assert isinstance(failure, Failure)
    assert (failure.reason, failure.wall_s, failure.retry) == ("TimedOut", 8.0, True)
    workers.submit(job("a", 30.0, attempt=2))
    workers.advance()
    assert isinstance(workers.outcome("a-2", Path()), Result)
    assert [(r.has_result, r.cpu_h) for r in workers.returns] == [(False, 8 / 3600), (True, 20 / 3600)]


def test_submitting_again_changes_nothing() -> None:
    workers = VirtualWorkers({"a": Took(20.0)}, 1)
    assert workers.submit(job("a")) == workers.submit(job("a"))
    assert workers.advance()
    assert not workers.advance()


def test_learning_takes_its_time_beside_the_workers() -> None:
    learned: list[tuple[str, float]] = []
    workers = VirtualWorkers({"a": Took(LEARNING_S + 1)}, 1)
    workers.learn = lambda key: learned.append((key, workers.now_s))
    workers.submit(job("a"))
    workers.submit_learning("c", "k")
    assert workers.learning_is_out("k")
    workers.advance()
    assert learned == [("k", LEARNING_S)]
    assert not workers.learning_is_out("k")
    assert workers.returns == []


@settings(max_examples=50, deadline=None, derandomize=True)
@given(times=st.lists(st.floats(0.1, 1e4), min_size=1, max_size=30), n=st.integers(1, 8))
def test_so_many_workers_are_never_exceeded_and_none_idles(times: list[float], n: int) -> None:
    workers = VirtualWorkers({str(i): Took(t) for i, t in enumerate(times)}, n)
    for i in range(len(times)):
        workers.submit(job(str(i)))
    while workers.advance():
        pass
    ends = {r.material_id: 3600 * r.time_h for r in workers.returns}
    spans = [(ends[str(i)] - t, ends[str(i)]) for i, t in enumerate(times)]
    for start, _ in spans:
        # Those that start as others end do not count beside them: a hair's breadth after the start.
        assert sum(a <= start + 1e-6 < b for a, b in spans) <= n
    # List scheduling ends before the mean load and the longest calculation together.
    assert max(ends.values()) <= sum(times) / n + max(times) + 1e-6
    assert [r.time_h for r in workers.returns] == sorted(r.time_h for r in workers.returns)


# -- figures ----------------------------------------------------------------------------------------------------------


def pool(sc: list[float], cpu_h: list[float], threshold: float = 0.75) -> Pool:
    return Pool([f"m{i}" for i in range(len(sc))], np.array(sc), np.array(cpu_h), threshold)


def test_only_what_came_back_counts_as_removed_and_all_that_was_charged_as_cost() -> None:
    returns = [Return(1.0, "m0", 2.0, True), Return(2.0, "m1", 1.5, False), Return(3.0, "m2", 1.0, True)]
    outcome = pool([0.5, 0.6, 0.9], [2.0, 3.0, 1.0]).outcome(returns)
    assert outcome.error_removed == pytest.approx(0.5 / 0.9)
    assert outcome.recall == 0.5
    assert (outcome.cost_cpu_h, outcome.wall_h) == (4.5, 3.0)


def test_a_curve_rises_where_something_came_back_and_ends_at_the_outcome() -> None:
    returns = [Return(1.0, "m2", 1.0, True), Return(2.0, "m1", 1.5, False), Return(3.0, "m0", 2.0, True)]
    curve = pool([0.5, 0.6, 0.9], [2.0, 3.0, 1.0]).curve(returns, [0.0, 1.0, 4.4, 4.5, 9.0])
    assert curve == pytest.approx([0.0, 0.0, 0.0, 0.5 / 0.9, 0.5 / 0.9])


def test_without_anything_to_remove_there_is_no_figure() -> None:
    with pytest.raises(SelectorError, match=r"no SC of 2 materials is below 0\.3"):
        pool([0.5, 0.6], [1.0, 1.0], 0.3)


@settings(max_examples=100, deadline=None, derandomize=True)
@given(
    materials=st.lists(st.tuples(st.floats(-1.0, 1.0), st.floats(0.01, 100.0)), min_size=1, max_size=40),
    fraction=st.floats(0.01, 1.0),
)
def test_the_oracle_is_within_one_material_of_the_best_there_is(
    materials: list[tuple[float, float]], fraction: float
) -> None:
    known = pool([-0.5, *(m[0] for m in materials)], [1.0, *(m[1] for m in materials)])
    budget = fraction * float(known.cpu_h.sum())
    oracle = known.oracle(budget)
    assert oracle.cost_cpu_h <= budget * (1 + 1e-9)
    # With divisible materials the greedy order is exact (Dantzig): no choice of whole ones is better than that.
    share, left, best = known.error / known.error.sum(), budget, 0.0
    for i in np.argsort(-known.error / known.cpu_h, kind="stable"):
        best += share[i] * min(1.0, left / known.cpu_h[i])
        left -= min(left, known.cpu_h[i])
    assert best - share.max() - 1e-9 <= oracle.error_removed <= best + 1e-9


def test_an_interval_holds_95_percent_of_the_replays() -> None:
    assert Figure.of([0.4]) == Figure(0.4, 0.4, 0.4)
    found = Figure.of(np.arange(201) / 200)
    assert (found.mean, found.lo, found.hi) == pytest.approx((0.5, 0.025, 0.975))


@pytest.mark.parametrize("suffix", [".png", ".svg"])
def test_a_plot_is_written(tmp_path: Path, suffix: str) -> None:
    draw([0.0, 0.5, 1.0], {"random": [[0, 0.1, 0.3], [0, 0.2, 0.4]], "oracle": [[0, 0.8, 1]]}, tmp_path / f"p{suffix}")
    assert (tmp_path / f"p{suffix}").stat().st_size > 1000


def test_another_kind_of_picture_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"p\.gif: unknown kind of picture"):
        draw([0.0, 1.0], {"random": [[0, 1]]}, tmp_path / "p.gif")
