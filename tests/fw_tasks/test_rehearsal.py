"""Rehearsed campaigns on shipped labels: nothing leaks, nothing hangs on the machine, and policies do what they say."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np
import pytest

from fw_tasks.from_nothing import Prior
from fw_tasks.known_labels import KnownLabels
from fw_tasks.rehearsal import Rehearsal, one_campaign_each, refuse_if_known, rehearse, rehearse_all
from models import checkpoints
from models.labels import Label, load_labels, read_manifest
from models.sc_predictor import SCPredictor
from selector.errors import SelectorError, UsageError

MANIFEST = Path(__file__).parents[2] / "benchmarks" / "manifests" / "2026-11-21-138.json"
WARM = Rehearsal(warm_start=10, n_workers=4)


@pytest.fixture(scope="module")
def labels() -> list[Label]:
    return load_labels(ids=read_manifest(MANIFEST))


@pytest.fixture(scope="module")
def few(labels: list[Label]) -> KnownLabels:
    return KnownLabels(labels[::3])


def exchanged(labels: list[Label], order: np.ndarray, *, with_ipa: bool = True) -> list[Label]:
    """The same crystals and costs, with one another's SC and spectra, those of IPA only ``with_ipa``."""
    return [
        replace(label, sc=other.sc, sc_xyz=other.sc_xyz, rpa=other.rpa, ipa=(other if with_ipa else label).ipa)
        for label, other in zip(labels, (labels[i] for i in order), strict=True)
    ]


@pytest.mark.parametrize("ipa", ["skip", pytest.param("have", marks=pytest.mark.slow)])
def test_what_has_not_returned_changes_nothing(few: KnownLabels, ipa: Literal["skip", "have"]) -> None:
    """Labels that never came back are exchanged among one another: no decision may be another."""
    rehearsal = replace(WARM, ipa=ipa)
    before = rehearse(few, rehearsal)
    assert before.n_accepted + before.n_refused > 0
    every = list(few.labels.values())
    warm_or_returned = set(before.returned) | set(known_at_the_start(few))
    hidden = [i for i, label in enumerate(every) if label.material_id not in warm_or_returned]
    order = np.arange(len(every))
    order[hidden] = np.roll(hidden, 1)
    after = rehearse(KnownLabels(exchanged(every, order, with_ipa=ipa == "skip")), rehearsal)
    assert len(hidden) > 10
    assert after.returned == before.returned


@pytest.mark.slow
def test_where_ipa_spectra_are_at_hand_choices_are_made_with_them(few: KnownLabels) -> None:
    """Those of all that is neither known nor computed are exchanged: what is chosen changes."""
    rehearsal = replace(WARM, ipa="have")
    before = rehearse(few, rehearsal)
    every, warm = list(few.labels.values()), known_at_the_start(few)
    pool = [i for i, label in enumerate(every) if label.material_id not in warm]
    others = {i: every[j] for i, j in zip(pool, np.roll(pool, 1).tolist(), strict=True)}
    changed = [replace(label, ipa=others[i].ipa) if i in others else label for i, label in enumerate(every)]
    assert rehearse(KnownLabels(changed), rehearsal).returned != before.returned


def known_at_the_start(few: KnownLabels) -> list[str]:
    from fw_tasks.rehearsal import _draw

    return _draw(few, WARM).warm


def test_a_replay_can_be_repeated(few: KnownLabels) -> None:
    one, two = rehearse(few, WARM), rehearse(few, WARM)
    assert (one.outcome, one.returned, one.n_accepted) == (two.outcome, two.returned, two.n_accepted)


def test_a_baseline_is_one_campaign_at_any_threshold(few: KnownLabels) -> None:
    """It is run once and judged twice, each time as if it had been run for that threshold alone."""
    wanted = [replace(WARM, policy="cheapest", threshold=threshold) for threshold in (0.75, 0.7)]
    (together,) = one_campaign_each(wanted)
    assert together == wanted
    assert len(one_campaign_each([WARM, replace(WARM, threshold=0.7)])) == 2, "to the default it says what is wanted"
    for rehearsal, both in rehearse_all(list(few.labels.values()), wanted):
        alone = rehearse(few, rehearsal)
        assert (both.outcome, both.returned) == (alone.outcome, alone.returned)
        assert both.oracle.error_removed == alone.oracle.error_removed
        assert np.array_equal(both.curve, alone.curve)


def test_the_budget_holds_and_pays_for_learning_too(few: KnownLabels) -> None:
    rehearsed = rehearse(few, Rehearsal(n_workers=4))
    assert 0.5 * rehearsed.budget_cpu_h < rehearsed.outcome.cost_cpu_h <= rehearsed.budget_cpu_h
    assert rehearsed.outcome.error_removed <= rehearsed.oracle.error_removed
    assert rehearsed.curve[-1] == pytest.approx(rehearsed.outcome.error_removed, rel=1e-12)  # other orders of summation


def test_from_nothing_the_first_calculations_are_those_of_cheapest(few: KnownLabels) -> None:
    """The documented prior is the same for all, so that value per cost begins with the cheapest."""
    default = rehearse(few, Rehearsal(n_workers=1)).returned
    cheapest = rehearse(few, Rehearsal("cheapest", n_workers=1)).returned
    lots = set(default[:9]) - set(cheapest[:10])
    assert len(lots) <= 2, "at most what was drawn by lot, one in twenty"


def test_what_is_known_at_the_start_is_no_candidate(few: KnownLabels) -> None:
    from fw_tasks.rehearsal import _draw

    drawn = _draw(few, Rehearsal(warm_start=15, resampled=True, seed=3))
    assert len(drawn.warm) == 15
    assert not set(drawn.warm) & set(drawn.pool.values()), "nor are its copies"
    assert not {few.labels[m].formula for m in drawn.unseen} & {few.labels[m].formula for m in drawn.pool.values()}
    assert len(set(drawn.pool.values())) < len(drawn.pool), "some formula was drawn twice"


def test_rounds_wait_for_the_slowest(few: KnownLabels) -> None:
    """By a policy that learns nothing: the same materials either way, so that only the waiting differs."""
    free, rounds = (rehearse(few, Rehearsal("cheapest", warm_start=10, in_rounds=r)) for r in (False, True))
    assert set(rounds.returned) == set(free.returned)
    assert rounds.outcome.wall_h > free.outcome.wall_h


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1])
def test_where_labels_say_nothing_the_default_falls_to_cheapest(labels: list[Label], seed: int) -> None:
    """Spectra are exchanged at random among materials, so that what is learned of one says nothing of another.

    Then the default takes what `cheapest` takes, but for its lots (one in twenty) and a few that a model of noise
    prefers. Where labels tell something, it takes others, and removes more.
    """

    def default_and_cheapest(known: KnownLabels) -> tuple[float, float]:
        """Error removed beyond that of `cheapest`, and the share of what was computed that `cheapest` computes too."""
        default, cheapest = (
            rehearse(known, Rehearsal(policy, seed, warm_start=20)) for policy in ("value_per_cost", "cheapest")
        )
        shared = len(set(default.returned) & set(cheapest.returned)) / len(default.returned)
        return default.outcome.error_removed - cheapest.outcome.error_removed, shared

    gain, shared = default_and_cheapest(KnownLabels(labels))
    order = np.random.default_rng(seed).permutation(len(labels))
    blind_gain, blind_shared = default_and_cheapest(KnownLabels(exchanged(labels, order)))
    assert abs(blind_gain) < 0.08 < gain
    assert shared < 0.85 < blind_shared


# -- weights to start from --------------------------------------------------------------------------------------------


def test_weights_that_know_a_replayed_formula_are_refused(few: KnownLabels) -> None:
    with pytest.raises(SelectorError, match=r"has learned from \S+ \(\d+ of the replayed formulas\); use --pretrained"):
        rehearse(few, replace(WARM, pretrained=checkpoints.default_checkpoint()))


def test_weights_that_do_not_say_what_they_know_are_refused() -> None:
    with pytest.raises(SelectorError, match="lists no formulas"):
        refuse_if_known({"data": {}}, {"NaCl"}, Path("w.safetensors"))


@pytest.mark.slow
def test_weights_of_other_formulas_are_used(few: KnownLabels, labels: list[Label], tmp_path: Path) -> None:
    formulas = {label.formula for label in few.labels.values()}
    others = [label for label in labels if label.formula not in formulas]
    parent = SCPredictor.fit(
        [x.structure for x in others], [x.sc for x in others], engine="gpaw", settings_hash=others[0].settings_hash
    )
    checkpoints.save(parent, tmp_path / "others")
    start, nothing = (rehearse(few, Rehearsal(pretrained=p)) for p in (tmp_path / "others.safetensors", None))
    assert start.returned != nothing.returned


def test_the_prior_becomes_a_predictor_with_labels_of_five_formulas(labels: list[Label]) -> None:
    prior = Prior("gpaw", labels[0].settings_hash)
    crystals, sc = [x.structure for x in labels[:12]], [x.sc for x in labels[:12]]
    assert set(prior.predict(crystals).mean) == {0.8}
    kept = prior.fine_tune(crystals[:3], sc[:3])
    assert isinstance(kept, Prior)
    grown = kept.fine_tune(crystals[3:], sc[3:])
    whole = SCPredictor.fit(crystals, sc, engine="gpaw", settings_hash=labels[0].settings_hash)
    assert grown.predict(crystals).mean == pytest.approx(whole.predict(crystals).mean)


def test_a_prior_that_reads_ipa_spectra_becomes_a_predictor_that_does(labels: list[Label]) -> None:
    prior = Prior("gpaw", labels[0].settings_hash, reads_ipa=True)
    crystals, sc, ipa = [x.structure for x in labels[:12]], [x.sc for x in labels[:12]], [x.ipa for x in labels[:12]]
    with pytest.raises(SelectorError, match="the prior reads IPA spectra too"):
        prior.fine_tune(crystals, sc)
    kept = prior.fine_tune(crystals[:3], sc[:3], spectra=ipa[:3])
    assert (isinstance(kept, Prior), kept.model_id) == (True, "prior-ipa-3")
    grown = kept.fine_tune(crystals[3:], sc[3:], spectra=ipa[3:])
    whole = SCPredictor.fit(crystals, sc, engine="gpaw", settings_hash=labels[0].settings_hash, spectra=ipa)
    assert grown.predict(crystals, ipa).mean == pytest.approx(whole.predict(crystals, ipa).mean)


# -- bad labels -------------------------------------------------------------------------------------------------------


def test_labels_without_a_cost_and_of_two_kinds_are_refused(labels: list[Label]) -> None:
    with pytest.raises(UsageError, match=f"{labels[1].material_id}: its label tells no CPU time"):
        KnownLabels([labels[0], replace(labels[1], cpu_s=float("nan"))])
    with pytest.raises(UsageError, match="labels of 2 different settings"):
        KnownLabels([labels[0], replace(labels[1], settings_hash="another")])


def test_too_many_known_at_the_start(few: KnownLabels) -> None:
    with pytest.raises(UsageError, match="--warm-start 500 leaves none of 46 materials"):
        rehearse(few, replace(WARM, warm_start=500))
