"""From documents to choices: what goes first, what fits, at what cost; bad input leaves a campaign unharmed."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rehearsal
from hypothesis import given
from hypothesis import strategies as st
from pymongo.database import Database
from users_policy import UsersPolicy

from selector.budgeting import MIN_WALL_S, IpaFirst, learn_costs
from selector.choosing import Choice, Pending, choose, plan, rank
from selector.config import CampaignConfig, PolicyConfig, load_config
from selector.costs import CostModel
from selector.errors import SelectorError, UsageError
from selector.policies import POLICIES, get_policy
from selector.predictions import latent_vectors, prior, to_documents

KNOWN = CostModel.learn([], engine_log_sd=0.2)
SCORES = np.linspace(0.05, 2.0, 40)


def config_of(**policy: Any) -> CampaignConfig:
    return CampaignConfig.model_validate(
        {"campaign": "c", "folder": "run", "budget_cpu_h": 1.0, "policy": {"name": "threshold", **policy}}
    )


def candidate(name: str, sc: float, **fields: Any) -> dict[str, Any]:
    (said,) = to_documents([sc], [0.05], np.array([[sc, 0.0]]), SCORES, 0.75)
    about = {"out_of_domain": False, "model_id": "m0", "model_round": 0, "calibration": "held_out"}
    return {"material_id": name, "formula": "MgO", "estimate_cpu_h": 0.1, "prediction": {**said, **about}, **fields}


def gather(
    documents: list[dict[str, Any]],
    in_flight: Any = (),
    config: CampaignConfig | None = None,
    ipa_first: IpaFirst | None = None,
) -> Pending:
    return Pending.of(documents, list(in_flight), KNOWN, config or config_of(), ipa_first)


def names(choices: list[Choice], dispatch: bool | None = None) -> list[str]:
    return [c.candidate["material_id"] for c in choices if dispatch is None or c.dispatch == dispatch]


THRESHOLD = get_policy(PolicyConfig(name="threshold"))


# -- order, hands, budget ---------------------------------------------------------------------------------------------


def test_pinned_first_then_the_policy_then_what_stays_then_vetoed() -> None:
    documents = [
        candidate("a", 0.9),
        candidate("b", 0.6),
        candidate("c", 0.2, vetoed=True),
        candidate("d", 0.95, pinned=True),
        candidate("e", 0.4),
        candidate("f", 0.8),
        candidate("g", 0.1, pinned=True, vetoed=True),
    ]
    pending = gather(documents)
    found = rank(pending, THRESHOLD, config_of())
    assert names(found, True) == ["d", "e", "b"]
    assert names(found, False) == ["f", "a", "c", "g"]
    told = {c.candidate["material_id"]: c.reason for c in found}
    assert (told["d"], told["c"], told["g"]) == ("pinned by hand", "vetoed by hand", "vetoed by hand")
    assert told["e"] == "predicted SC 0.400 is below the threshold 0.75"
    assert names(choose(pending, THRESHOLD, config_of(), 100.0, 2)) == ["d", "e"]
    assert names(choose(pending, THRESHOLD, config_of(), 100.0, 9)) == ["d", "e", "b"]
    assert choose(pending, THRESHOLD, config_of(), 100.0, 0) == []


def test_what_does_not_fit_makes_room_for_what_does() -> None:
    documents = [candidate("a", 0.3, estimate_cpu_h=9.0), candidate("b", 0.4), candidate("c", 0.5, pinned=True)]
    pending = gather(documents)
    each = float(pending.reserve_cpu_h[1])
    assert names(choose(pending, THRESHOLD, config_of(), 2.01 * each, 3)) == ["c", "b"]
    assert names(choose(pending, THRESHOLD, config_of(), 1.01 * each, 3)) == ["c"]
    assert choose(pending, THRESHOLD, config_of(), 0.5 * each, 3) == []
    told = {c.candidate["material_id"]: c for c in plan(rank(pending, THRESHOLD, config_of()), 2.01 * each)}
    assert not told["a"].dispatch
    assert "but it needs" in told["a"].reason
    assert told["b"].dispatch


costs_cpu_h = st.floats(0.01, 5.0)


@given(
    st.lists(st.tuples(st.floats(-0.2, 0.99), costs_cpu_h, st.booleans(), st.booleans()), max_size=12),
    st.sampled_from(sorted(POLICIES)),
    st.floats(0.0, 40.0),
    st.integers(0, 8),
)
def test_choices_fit_the_budget_together_and_leave_nothing_that_would(
    crystals: list[tuple[float, float, bool, bool]], name: str, budget_cpu_h: float, room: int
) -> None:
    documents = [
        candidate(f"x{i:02d}", sc, estimate_cpu_h=cost, pinned=pinned, vetoed=vetoed)
        for i, (sc, cost, pinned, vetoed) in enumerate(crystals)
    ]
    config = config_of(name=name)
    policy, pending = get_policy(config.policy), gather(documents)
    found = choose(pending, policy, config, budget_cpu_h, room)
    chosen = names(found)
    assert len(set(chosen)) == len(chosen) <= room
    left = budget_cpu_h - sum(c.reserve_cpu_h for c in found)
    assert left >= -1e-9
    assert not any(c.candidate["vetoed"] for c in found)
    pins = [c.candidate["pinned"] for c in found]
    assert pins == sorted(pins, reverse=True)
    everything = rank(pending, policy, config)
    assert sorted(names(everything)) == [c["material_id"] for c in documents]
    assert set(chosen) <= set(names(everything, True))
    if len(found) < room:
        assert not any(c.dispatch and c.reserve_cpu_h < left for c in everything if names([c])[0] not in chosen)


@given(
    st.lists(st.tuples(st.floats(-0.2, 0.99), costs_cpu_h, costs_cpu_h, st.booleans(), st.booleans()), max_size=12),
    st.floats(0.0, 40.0),
    st.integers(0, 8),
)
def test_with_ipa_first_the_order_is_the_same_and_both_calculations_fit(
    crystals: list[tuple[float, float, float, bool, bool]], budget_cpu_h: float, room: int
) -> None:
    documents = [
        candidate(
            f"x{i:02d}", sc, estimate_cpu_h=rpa, estimate_ipa_cpu_h=ipa, pinned=pinned,
            **({"ipa": "given"} if known else {}),
        )
        for i, (sc, rpa, ipa, pinned, known) in enumerate(crystals)
    ]  # fmt: skip
    config = config_of(name="value_per_cost")
    policy, pending = get_policy(config.policy), gather(documents, ipa_first=IpaFirst(KNOWN))
    assert names(rank(pending, policy, config)) == names(rank(gather(documents), policy, config))
    left = budget_cpu_h
    for c in choose(pending, policy, config, budget_cpu_h, room):
        assert c.needed_cpu_h <= left + 1e-9
        left -= c.now.reserve
        assert (c.level == "rpa") == bool(c.candidate["pinned"] or c.candidate.get("ipa"))
        wanted = c.candidate["estimate_cpu_h" if c.level == "rpa" else "estimate_ipa_cpu_h"]
        assert c.now.predicted == pytest.approx(wanted)


def test_a_calculation_at_ipa_that_ran_out_of_time_gets_twice_as_much() -> None:
    documents = [candidate("a", 0.3, estimate_ipa_cpu_h=0.01, timed_out_ipa_cpu_h=0.5, timed_out_cpu_h=9.0)]
    (found,) = choose(gather(documents, ipa_first=IpaFirst(KNOWN)), THRESHOLD, config_of(), 100.0, 1)
    assert (found.now.predicted, found.now.reserve, found.reserve_cpu_h) == (pytest.approx(0.01), 1.0, 18.0)
    (found,) = choose(gather(documents, ipa_first=IpaFirst(KNOWN, left_cpu_h=0.9)), THRESHOLD, config_of(), 100.0, 1)
    assert found.level == "rpa", "the cap for IPA has no room for it"


def test_only_the_policys_own_choices_are_random_draws() -> None:
    config = config_of(name="random")
    pending = gather([candidate("a", 0.9, pinned=True), candidate("b", 0.9), candidate("c", 0.9, vetoed=True)])
    found = rank(pending, get_policy(config.policy), config)
    assert {c.candidate["material_id"]: c.random_draw for c in found} == {"a": True, "b": True, "c": False} | {
        "a": False
    }


# -- what documents become --------------------------------------------------------------------------------------------


def test_a_reservation_is_a_quantile_at_least_a_moment_and_doubles_after_a_timeout() -> None:
    documents = [
        candidate("a", 0.5),
        candidate("b", 0.5, estimate_cpu_h=1e-6),
        candidate("c", 0.5, timed_out_cpu_h=0.9),
        candidate("d", 0.5, timed_out_cpu_h=None),
    ]
    reserve = gather(documents).reserve_cpu_h
    usual = float(KNOWN.reserve([0.1], config_of().reserve_quantile)[0])
    assert reserve == pytest.approx([usual, MIN_WALL_S / 3600, 1.8, usual])


def test_what_is_unlike_all_known_is_told() -> None:
    odd = candidate("a", 0.5)
    odd["prediction"]["out_of_domain"] = True
    (choice,) = rank(gather([odd]), THRESHOLD, config_of())
    assert choice.reason.endswith("(unlike every crystal the model has learned from)")


def test_a_choice_carries_the_prediction_but_not_the_vector() -> None:
    (choice,) = rank(gather([candidate("a", 0.5)]), THRESHOLD, config_of())
    assert choice.prediction["sc_mean"] == 0.5
    assert choice.prediction["value"] == pytest.approx(0.5, abs=0.01)
    assert "latent" not in choice.prediction


def test_only_what_the_same_model_sees_in_flight_counts() -> None:
    other = candidate("z", 0.5)
    other["prediction"] |= {"model_id": "m9", "latent": bytes(4 * 7)}
    pool = gather([candidate("a", 0.5)], [candidate("b", 0.7), other, {"material_id": "c"}]).pool
    np.testing.assert_allclose(pool.in_flight_latent, [[0.7, 0.0]], rtol=1e-6)


def test_likeness_to_what_was_chosen_counts_when_the_rest_is_ranked_again() -> None:
    """The best does not fit beside the pinned one; of the others, the pinned one's twin waits."""
    documents = [
        candidate("a", 0.30, estimate_cpu_h=0.3),
        candidate("b", 0.50, pinned=True),
        candidate("c", 0.50),
        candidate("d", 0.52),
    ]
    for c, place in zip(documents, (9.0, 0.0, 0.0, 5.0), strict=True):
        c["prediction"]["latent"] = np.array([place, 0.0], dtype="<f4").tobytes()
    config = config_of(name="value_per_cost", diversity=0.5)
    pending = gather(documents)
    budget = float(pending.reserve_cpu_h[0] + 0.9 * pending.reserve_cpu_h[1])
    assert names(choose(pending, get_policy(config.policy), config, budget, 2)) == ["b", "d"]


def test_without_a_model_the_cheapest_goes_first() -> None:
    rng = np.random.default_rng(2)
    documents = [
        {"material_id": f"x{i}", "formula": "MgO", "estimate_cpu_h": float(cost)}
        for i, cost in enumerate(rng.uniform(0.1, 1.0, 20))
    ]
    config = config_of(name="value_per_cost")
    found = rank(gather(documents), get_policy(config.policy), config)
    assert names(found, True) == names(sorted(found, key=lambda c: c.cost_cpu_h))
    assert {c.prediction["p_low"] for c in found} == {0.5}
    assert {(c.prediction["sc_lo"], c.prediction["sc_hi"]) for c in found} == {(-1.0, 1.0)}


@given(st.floats(0.05, 1.0))
def test_the_prior_is_worth_rpa_at_any_threshold(threshold: float) -> None:
    said = prior(threshold)
    assert said["model_id"] is None
    if threshold <= 0.95:
        assert said["value"] >= PolicyConfig().value_floor


@given(st.integers(0, 5), st.integers(0, 6))
def test_latent_vectors_come_back_as_they_were(n: int, d: int) -> None:
    vectors = np.random.default_rng(0).normal(size=(n, d)).astype(np.float32)
    said = to_documents(np.full(n, 0.5), np.full(n, 0.1), vectors, SCORES, 0.75)
    np.testing.assert_array_equal(latent_vectors(said, d), vectors)


def test_vectors_of_two_lengths_are_never_mixed() -> None:
    with pytest.raises(ValueError, match="different lengths"):
        latent_vectors([{"latent": bytes(4)}, {"latent": bytes(8)}])


def test_costs_are_learned_from_what_was_settled_and_what_ran_out_of_time() -> None:
    done = [{"estimate_cpu_h": 0.1, "used_cpu_h": 0.2, "status": "done"}] * 8
    stopped = [{"estimate_cpu_h": 0.1, "used_cpu_h": 0.2, "status": status} for status in ("pending", "failed")]
    rest = [{"estimate_cpu_h": 0.1, "status": "pending"}, {"estimate_cpu_h": 0.1, "used_cpu_h": None, "status": "done"}]
    known = learn_costs([*done, *rest], 0.2)
    assert known.predict([0.1])[0] == pytest.approx(0.2, rel=0.05)
    # The same 0.2 CPU-h, but two calculations were cut off there: they would have used more.
    assert learn_costs([*done, *stopped], 0.2).shift > known.shift


# -- size -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [50_000, 100_000])
def test_a_choice_among_many_is_made_in_time(n: int, capsys: pytest.CaptureFixture[str]) -> None:
    rng = np.random.default_rng(0)
    latent = rng.normal(size=(n, 99)) / 10
    mean, spread = rng.normal(0.78, 0.1, n).clip(-0.5, 0.95), rng.uniform(0.02, 0.1, n)
    start = time.process_time()
    said = to_documents(mean, spread, latent, rng.exponential(1.0, 95), 0.75)
    stored_s = time.process_time() - start
    about = {"out_of_domain": False, "model_id": "m0", "model_round": 0, "calibration": "held_out"}
    estimates = rng.lognormal(-5.0, 1.0, n).tolist()
    documents = [
        {"material_id": f"agm{i:09d}", "formula": "MgO", "estimate_cpu_h": e, "prediction": {**p, **about}}
        for i, (e, p) in enumerate(zip(estimates, said, strict=True))
    ]
    config = config_of(name="value_per_cost")
    start = time.process_time()
    pending = gather(documents[8:], documents[:8], config)
    gathered_s = time.process_time() - start
    found = choose(pending, get_policy(config.policy), config, 100.0, 8)
    taken_s = time.process_time() - start
    with capsys.disabled():
        print(
            f"\n{n} candidates: choice {taken_s:.2f} s (arrays from documents {gathered_s:.2f} s); "
            f"predictions to documents {stored_s:.2f} s"
        )
    assert len(found) == 8
    if n == 50_000:
        assert taken_s < 3.0


# -- bad input, through the campaign ----------------------------------------------------------------------------------


@pytest.mark.parametrize("threshold", [0.0, -0.1, 1.01, float("nan")])
def test_a_threshold_outside_its_range_is_refused(tmp_path: Path, threshold: float) -> None:
    file = tmp_path / "campaign.yaml"
    file.write_text(
        f"campaign: c\nfolder: r\nbudget_cpu_h: 1\npolicy: {{threshold: {threshold}}}\n".replace("nan", ".nan")
    )
    with pytest.raises(UsageError, match=r"key 'policy.threshold'"):
        load_config(file)


@pytest.mark.parametrize("key", ["diversity", "value_floor"])
@pytest.mark.parametrize("value", [-0.1, 1.1])
def test_settings_of_the_policy_have_their_range(tmp_path: Path, key: str, value: float) -> None:
    file = tmp_path / "campaign.yaml"
    file.write_text(f"campaign: c\nfolder: r\nbudget_cpu_h: 1\npolicy: {{{key}: {value}}}\n")
    with pytest.raises(UsageError, match=f"key 'policy.{key}'"):
        load_config(file)


@pytest.mark.parametrize(
    ("answer", "what"),
    [
        (lambda n: [n], "unknown, or decided already"),
        ([-1], "unknown, or decided already"),
        (["a"], "not a list of indices"),
        ([0, 0], "twice"),
        (lambda n: list(range(n)), "were asked for"),
        (ValueError("oops"), "failed"),
        ([0], "no words"),
    ],
)
def test_a_bad_policy_leaves_the_campaign_unharmed(
    database: Database[Any], tmp_path: Path, answer: Any, what: str
) -> None:
    campaign, dispatcher = rehearsal.begin(database, tmp_path, max_in_flight=3)
    campaign.add([rehearsal.crystal(f"x{i}", 0.5 + 0.02 * i) for i in range(6)], [])
    good, campaign.policy = campaign.policy, UsersPolicy(answer, RuntimeError("no words"))
    before = rehearsal.remembered(database)
    with pytest.raises(SelectorError, match=f"policy 'mine' .*{what}") as error:
        campaign.step()
    assert "\n" not in str(error.value)
    assert not dispatcher.jobs
    assert rehearsal.remembered(database) == before
    campaign.policy = good
    assert campaign.step().dispatched == 3
    rehearsal.check_promises(campaign, dispatcher)


def test_a_running_material_is_not_in_the_pool_a_policy_sees(database: Database[Any], tmp_path: Path) -> None:
    campaign, _ = rehearsal.begin(database, tmp_path, max_in_flight=3)
    campaign.add([rehearsal.crystal(f"x{i}", 0.5 + 0.02 * i) for i in range(6)], [])
    campaign.step()
    running = {c["material_id"] for c in campaign.store.candidates("running")}
    assert len(running) == 3
    assert not running & set(names(campaign.rank()))


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("which", ["mean", "spread"])
def test_predictions_that_are_no_numbers_leave_the_campaign_unharmed(
    database: Database[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bad: float, which: str
) -> None:
    campaign, dispatcher = rehearsal.begin(database, tmp_path)
    campaign.add([rehearsal.crystal("a", 0.5)], [])
    campaign.store.add_candidates([rehearsal.crystal("b", 0.6)], [0.01])
    table = campaign.shelf.models["m0"]
    predict = table.predict

    def broken(structures: Any) -> Any:
        guess = predict(structures)
        getattr(guess, which)[:] = bad
        return guess

    monkeypatch.setattr(table, "predict", broken)
    before = rehearsal.remembered(database)
    with pytest.raises(SelectorError, match="not finite; predict with another model"):
        campaign.step()
    assert rehearsal.remembered(database) == before
    assert not dispatcher.jobs
    monkeypatch.undo()
    assert campaign.step().dispatched == 2


@pytest.mark.parametrize(("estimate", "what"), [(-0.01, "not positive"), (0.0, "not positive"), (np.nan, "not finite")])
def test_a_cost_that_is_none_names_the_material_and_a_veto_helps(
    database: Database[Any], tmp_path: Path, estimate: float, what: str
) -> None:
    campaign, dispatcher = rehearsal.begin(database, tmp_path)
    campaign.store.add_candidates([rehearsal.crystal("a", 0.5), rehearsal.crystal("b", 0.6)], [estimate, 0.01])
    campaign.predict()
    before = rehearsal.remembered(database)
    with pytest.raises(SelectorError, match=rf"^a: its predicted cost\w* is {what}; veto the material"):
        campaign.step()
    assert rehearsal.remembered(database) == before
    assert not dispatcher.jobs
    database["candidates"].update_one({"material_id": "a"}, {"$set": {"vetoed": True}})
    assert campaign.step().dispatched == 1
    assert [job.material_id for job in dispatcher.jobs.values()] == ["b"]
