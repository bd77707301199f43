"""A new model against the standing one: honest labels only, weighted to the pool, by one standard error."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pymongo.database import Database
from rehearsal import Computed, Table, begin, crystal

from selector.errors import SelectorError
from selector.gate import Verdict, judge, pool_weights
from selector.progress import updates
from selector.protocols import Result


def test_by_hand() -> None:
    """Errors 0.1 and 0.3 against 0.2 and 0.2: the same mean, and a difference of +-0.1."""
    verdict = judge([0.5, 0.5], [0.6, 0.8], [0.7, 0.7], [1, 1], ["A", "B"])
    assert (verdict.old_error, verdict.new_error) == pytest.approx((0.2, 0.2))
    assert verdict.standard_error == pytest.approx(0.1)
    assert verdict.accepted


def test_worse_by_more_than_one_standard_error_is_refused() -> None:
    sc, formulas = np.full(30, 0.5), [f"F{i}" for i in range(30)]
    rng = np.random.default_rng(0)
    old, new = sc + rng.normal(0, 0.05, 30), sc + rng.normal(0, 0.2, 30)
    assert not judge(sc, old, new, np.ones(30), formulas).accepted
    assert judge(sc, new, old, np.ones(30), formulas).accepted
    assert judge(sc, old, old, np.ones(30), formulas).accepted


@pytest.mark.parametrize(("worse_by", "accepted"), [(-0.3, True), (0.0, True), (0.125, True), (0.126, False)])
def test_one_standard_error_is_the_limit(worse_by: float, accepted: bool) -> None:
    assert Verdict(0.25, 0.25 + worse_by, 0.125, 9).accepted == accepted


def test_a_difference_that_is_the_same_everywhere_has_no_standard_error() -> None:
    verdict = judge([0.5] * 4, [0.5] * 4, [0.75] * 4, [1, 1, 1, 1], list("ABCD"))
    assert verdict.new_error - verdict.old_error == 0.25
    assert verdict.standard_error == pytest.approx(0.0, abs=1e-12)
    assert not verdict.accepted


def test_what_lies_on_the_border_of_two_strata_belongs_to_the_upper_one_in_pool_and_labels_alike() -> None:
    """The pool's median is 0.2: one of four lies below it, three on it or above."""
    assert pool_weights([0.0, 0.2, 0.2, 0.4], [0.0, 0.2], n_strata=2) == pytest.approx([0.5, 1.5])


def test_one_formula_or_no_label_says_nothing() -> None:
    assert judge([0.5, 0.5], [0.5, 0.5], [0.9, 0.9], [1, 1], ["A", "A"]).accepted
    nothing = judge([], [], [], [], [])
    assert nothing.accepted and "no label" in nothing.message
    assert nothing.summary()["standard_error"] is None


def test_many_labels_of_one_formula_count_as_one_unit() -> None:
    """Ten equal labels of one formula make no comparison surer than one of them."""
    once = judge([0.5, 0.5], [0.5, 0.6], [0.6, 0.5], [10, 1], ["A", "B"])
    often = judge([0.5] * 11, [0.5] * 10 + [0.6], [0.6] * 10 + [0.5], [1] * 11, ["A"] * 10 + ["B"])
    assert once.standard_error == pytest.approx(often.standard_error)


def test_labels_that_a_policy_chose_count_like_the_pool() -> None:
    """The policy took the lowest 40 of 100 and 4 of the rest: weights give each quarter of the pool its share."""
    pool = np.linspace(0, 1, 100)
    labels = np.concatenate([pool[:40], pool[[45, 55, 70, 95]]])
    weights = pool_weights(pool, labels)
    assert weights.mean() == pytest.approx(1)
    quarter = np.minimum((labels * 4).astype(int), 3)
    share = np.bincount(quarter, weights) / weights.sum()
    assert share == pytest.approx([0.25] * 4, abs=0.01)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=50), st.lists(st.floats(0, 1), max_size=20))
def test_weights_are_positive_whatever_the_pool(pool: list[float], labels: list[float]) -> None:
    weights = pool_weights(pool, labels)
    assert weights.shape == (len(labels),)
    assert (weights > 0).all()


def test_accepted_and_refused_updates_are_counted(
    database: Database[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first update is as good as the standing model; the second guesses all at zero and is refused."""
    campaign, dispatcher = begin(database, tmp_path, max_in_flight=8)
    elements = ["Mg", "Ca", "Sr", "Ba"]
    campaign.add([crystal(f"x{i}", 0.35 + 0.05 * i, (elements[i % 4], "OS"[i // 4])) for i in range(8)], [])
    campaign.step()
    waiting = iter(dispatcher.waiting())

    def four_more() -> str | None:
        for _ in range(4):
            job = next(waiting)
            said = campaign.store.candidate(job.material_id)["decision"]["sc_mean"]
            dispatcher.outcomes[job.key] = Result(Computed(said + 0.01))
        assert campaign.step().learning
        return campaign.learn(dispatcher.learning[-1])

    assert four_more() == campaign.store.campaign()["model_id"] == "m4"
    bad = Table("m8", seen=8, held_out=np.zeros(8))
    monkeypatch.setattr(Table, "fine_tune", lambda *_: bad)
    assert four_more() == "m8"
    assert campaign.store.campaign()["model_id"] == "m4"
    counted = updates(campaign.store.model_history())
    assert (counted["accepted"], counted["rejected"]) == (1, 1)
    assert counted["last"]["new_error"] > counted["last"]["old_error"] + counted["last"]["standard_error"]
    assert [e["kind"] for e in campaign.store.events() if e["kind"] in ("learned", "refused")] == ["learned", "refused"]
    assert campaign.store.ledger.totals().by_purpose["learn"] > 0
    # What was refused is not learned again from the same labels.
    assert not campaign.step().learning


def test_what_the_first_weights_had_learned_is_not_held_against_a_new_model(
    database: Database[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The weights knew MgO before the campaign: their word on it is no prediction, so MgO does not count."""
    campaign, dispatcher = begin(database, tmp_path, max_in_flight=4)
    campaign.shelf.models["m0"].card = {"data": {"formulas": ["MgO"]}}  # type: ignore[attr-defined]
    pairs = [("Mg", "O"), ("Ca", "O"), ("Sr", "O")]
    campaign.add([crystal(e + a, 0.5, (e, a)) for e, a in pairs], [])
    campaign.step()
    for job in dispatcher.waiting():
        dispatcher.outcomes[job.key] = Result(Computed(0.5))
    campaign.step()
    campaign.learn(dispatcher.learning[0])
    assert campaign.store.models()[-1]["gate"]["n_labels"] == 2


def test_a_model_that_does_not_tell_its_held_out_predictions_is_no_candidate(
    database: Database[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    campaign, dispatcher = begin(database, tmp_path)
    campaign.add([crystal("a", 0.5), crystal("b", 0.6)], [])
    campaign.step()
    for job in dispatcher.waiting():
        dispatcher.outcomes[job.key] = Result(Computed(0.5))
    campaign.step()
    monkeypatch.setattr(Table, "fine_tune", lambda *_: Table("m2", held_out=np.array([0.5, np.nan])))
    with pytest.raises(SelectorError, match="m2: it does not tell"):
        campaign.learn(dispatcher.learning[0])
    assert campaign.store.campaign()["model_id"] == "m0"
