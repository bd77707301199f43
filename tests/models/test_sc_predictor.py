from __future__ import annotations

import time

import numpy as np
import pytest
from pymatgen.core import Lattice, Structure

from models.labels import Label
from models.sc_predictor import SCPredictor
from models.sc_regression import in_sc, log_gap, metrics
from selector.errors import SelectorError


def fit(labels: list[Label], **kwargs) -> SCPredictor:
    return SCPredictor.fit(
        [k.structure for k in labels], [k.sc for k in labels], engine="gpaw", settings_hash="abc", **kwargs
    )


def held_out(labels: list[Label], predictor: SCPredictor) -> list[Label]:
    known = set(predictor.card["data"]["formulas"])
    return [k for k in labels if k.formula not in known]


def test_it_beats_guessing_on_formulas_it_has_not_seen(labels, predictor):
    test = held_out(labels, predictor)
    sc = np.array([k.sc for k in test])
    said = predictor.predict([k.structure for k in test])
    guess = np.median([k.sc for k in labels if k not in test])
    # Over 10 folds of the whole manifest the ratio is 0.59 (0.49 to 0.70); here 34 labels judge 60.
    assert np.abs(said.mean - sc).mean() < 0.85 * np.abs(guess - sc).mean()


def test_held_out_metrics_and_scores(predictor):
    m = predictor.card["metrics"]
    assert m["n_labels"] == 60
    assert m["oof_mae"] < 0.8 * m["mae_guess"]
    assert predictor.scores.shape == (60,)
    assert (predictor.scores >= 0).all()
    # A spread in the right units: scores of order one, a tenth of them beyond some one to four spreads.
    assert 0.2 < np.median(predictor.scores) < 1.2
    assert 1.0 < np.quantile(predictor.scores, 0.9) < 4.0


def test_prediction_is_deterministic_and_one_crystal_at_a_time_is_the_same(labels, predictor):
    crystals = [k.structure for k in labels[:7]]
    one, again = predictor.predict(crystals), predictor.predict(crystals)
    assert np.array_equal(one.mean, again.mean)
    assert one.mean.shape == one.spread.shape == one.out_of_domain.shape == (7,)
    assert one.latent.shape[0] == 7
    singly = [predictor.predict([s]).mean[0] for s in crystals]
    assert one.mean == pytest.approx(singly, abs=1e-12)
    assert (one.spread > 0).all()
    assert (one.mean < 1).all()
    empty = predictor.predict([])
    assert empty.mean.shape == empty.out_of_domain.shape == (0,)


def test_training_is_deterministic_and_named_by_content(labels):
    part = labels[:30]
    a, b = fit(part), fit(part)
    assert a.model_id == b.model_id
    assert a.model_id.startswith("sc-")
    assert np.array_equal(a.scores, b.scores)
    assert fit(labels[:31]).model_id != a.model_id
    assert fit(part, seed=1).model_id != a.model_id


def test_fine_tuning_with_one_label_replays_the_old(labels, predictor):
    new = held_out(labels, predictor)[0]
    start = time.perf_counter()
    tuned = predictor.fine_tune([new.structure], [new.sc], [new.formula], material_ids=[new.material_id])
    assert time.perf_counter() - start < 30
    assert tuned.model_id != predictor.model_id
    assert tuned.card["round"] == predictor.card["round"] + 1 == 1
    assert tuned.card["parent"] == predictor.model_id
    assert tuned.card["data"]["n"] == 61
    assert tuned.card["data"]["material_ids"][-1] == new.material_id
    assert len(tuned.scores) == 61
    before, after = (abs(p.predict([new.structure]).mean[0] - new.sc) for p in (predictor, tuned))
    assert after <= before
    # The old labels still stand: none is forgotten for the new one.
    old = labels[:60]
    sc = np.array([k.sc for k in old])
    assert np.abs(tuned.predict([k.structure for k in old]).mean - sc).mean() < 0.04
    # The original is untouched.
    assert predictor.card["round"] == 0


def test_fine_tuning_equals_training_on_everything(labels, predictor):
    more = labels[60:70]
    tuned = predictor.fine_tune([k.structure for k in more], [k.sc for k in more])
    whole = fit(labels[:70])
    crystals = [k.structure for k in labels[70:]]
    assert tuned.predict(crystals).mean == pytest.approx(whole.predict(crystals).mean, abs=1e-9)


def test_a_new_label_of_a_material_replaces_its_old_one(labels, predictor):
    k = labels[0]
    tuned = predictor.fine_tune([k.structure], [0.5], material_ids=[k.material_id])
    assert tuned.card["data"]["n"] == 60
    assert tuned.predict([k.structure]).mean[0] < predictor.predict([k.structure]).mean[0]


def test_labels_of_other_settings_are_refused(labels, predictor):
    k = labels[70]
    with pytest.raises(SelectorError, match="never mixed"):
        predictor.fine_tune([k.structure], [k.sc], settings_hash="0123456789ab")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1.2])
def test_impossible_labels_are_refused(labels, predictor, value):
    with pytest.raises(SelectorError, match=r"SC is .*leave this label out") as e:
        predictor.fine_tune([labels[0].structure], [value])
    assert "\n" not in str(e.value)


def test_too_few_labels_are_refused(labels, predictor):
    with pytest.raises(SelectorError, match="1 labels of 1 formulas"):
        fit(labels[:1])
    with pytest.raises(SelectorError, match="0 structures"):
        predictor.fine_tune([], [])
    with pytest.raises(SelectorError, match="1 structures, 2 SC"):
        predictor.fine_tune([labels[0].structure], [0.5, 0.6])


def test_an_unseen_element_is_out_of_domain_with_a_wider_spread(labels, predictor):
    label = next(k for k in labels[:60] if "Li" in k.formula)
    twin = label.structure.copy()
    twin.replace_species({"Li": "U"})
    known, foreign = predictor.predict([label.structure]), predictor.predict([twin])
    assert not known.out_of_domain[0]
    assert foreign.out_of_domain[0]
    # Relative to 1 - SC, as the model works in its logarithm.
    relative = [p.spread[0] / (1 - p.mean[0]) for p in (known, foreign)]
    assert relative[1] > 1.5 * relative[0]


def test_an_isolated_atom_is_out_of_domain_not_a_silent_number(predictor, lone_atom):
    said = predictor.predict([lone_atom])
    assert said.out_of_domain[0]
    assert np.isfinite(said.mean[0])
    assert said.spread[0] / (1 - said.mean[0]) == pytest.approx(np.sinh(predictor._learned.process.prior_sd))


def test_a_large_cell_is_the_small_one_repeated(labels, predictor):
    label = labels[0]
    big = label.structure * (4, 3, 3)
    assert len(big) > 200
    start = time.perf_counter()
    said = predictor.predict([big])
    assert time.perf_counter() - start < 2.0
    assert said.mean[0] == pytest.approx(predictor.predict([label.structure]).mean[0], abs=1e-5)


def test_a_structure_takes_a_few_milliseconds(labels, predictor):
    crystals = [k.structure for k in labels] * 2
    predictor.predict(crystals[:5])
    times = []
    for _ in range(3):
        start = time.process_time()
        predictor.predict(crystals)
        times.append((time.process_time() - start) / len(crystals))
    assert min(times) < 3e-3


def test_disordered_structures_are_refused(predictor):
    alloy = Structure(Lattice.cubic(4), [{"Na": 0.5, "K": 0.5}], [[0, 0, 0]])
    with pytest.raises(SelectorError, match="disordered"):
        predictor.predict([alloy])


def test_spread_in_sc_is_half_the_central_68_percent():
    mean, spread = in_sc(np.array([-1.5]), np.array([0.3]))
    draws = 1 - np.exp(np.random.default_rng(0).normal(-1.5, 0.3, 200_000))
    assert mean[0] == pytest.approx(np.median(draws), abs=2e-3)
    low, high = np.quantile(draws, [0.15866, 0.84134])
    assert spread[0] == pytest.approx((high - low) / 2, rel=0.02)


def test_log_gap_has_a_floor():
    assert np.isfinite(log_gap(np.array([1.0, 0.175]))).all()


def test_metrics_of_known_errors():
    m = metrics(np.array([0.5, 0.6, 0.7]), np.array([0.6, 0.6, 0.9]), ["a", "b", "b"])
    assert m["oof_mae"] == pytest.approx(0.1)
    assert m["oof_median"] == pytest.approx(0.1)
    assert m["oof_rmse"] == pytest.approx(np.sqrt(0.05 / 3))
    assert m["mae_guess"] == pytest.approx(0.2 / 3)
    assert m["n_formulas"] == 2
