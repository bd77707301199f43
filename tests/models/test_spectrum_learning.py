from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pymatgen.core import Lattice, Structure

from models.optimate import OptiMateSizes
from models.spectrum_learning import (
    SMALL,
    SpectrumLabels,
    agreement,
    default_sizes,
    learn,
    seen_formulas,
    settings_for,
    spectrum_metrics,
    summary,
)
from models.training import TrainingSettings
from selector.errors import SelectorError, UsageError
from selector.spectra import similarity

SIZES = OptiMateSizes(node=(16, 16), attention=((16, 2),), output=(32,))
FAST = TrainingSettings(epochs=6, patience=6, batch_size=8, device="cpu", learning_rate=3e-3)


@pytest.fixture(scope="module")
def ipa(labels):
    return SpectrumLabels.of(labels[:40], "ipa")


@pytest.fixture(scope="module")
def rpa(labels):
    return SpectrumLabels.of(labels[:40], "rpa")


@pytest.fixture(scope="module")
def ipa_model(ipa):
    return learn(ipa, sizes=SIZES, settings=FAST, command="test")


def test_labels_hold_the_trace_of_their_level(ipa, rpa, labels):
    assert torch.equal(ipa.target[3], torch.tensor(labels[3].ipa.mean.imag, dtype=torch.float32))
    assert torch.equal(rpa.target[3], torch.tensor(labels[3].rpa.mean.imag, dtype=torch.float32))
    assert ipa.elements[3] == {e.symbol for e in labels[3].structure.composition}
    assert (len(ipa), ipa.engine, ipa.settings_hash) == (40, "gpaw", labels[0].settings_hash)


@pytest.mark.slow
def test_direct_learning_then_transfer(ipa_model, rpa):
    model = learn(rpa, start=ipa_model, settings=FAST)
    assert (ipa_model.level, model.level) == ("ipa", "rpa")
    assert model.card["parent"] == ipa_model.model_id
    assert model.card["data"]["material_ids"] == list(rpa.material_ids)
    assert model.card["data"]["elements"] == sorted(set().union(*rpa.elements))
    assert ipa_model.card["training"]["validation_loss"] > 0.0
    # All parameters are free: none is where it was.
    before, after = ipa_model.network.state_dict(), model.network.state_dict()
    assert all(not torch.equal(before[k], v) for k, v in after.items() if v.is_floating_point())


def test_the_model_started_from_stays_as_it_is(ipa_model, rpa):
    name = ipa_model.model_id
    learn(rpa, start=ipa_model, settings=replace(FAST, epochs=1))
    assert ipa_model._model_id() == name


@pytest.mark.slow
def test_it_learns(ipa):
    untrained = learn(ipa, sizes=SIZES, settings=replace(FAST, epochs=1, learning_rate=1e-8))
    trained = learn(ipa, sizes=SIZES, settings=replace(FAST, epochs=25))
    assert np.median(agreement(trained, ipa)) > np.median(agreement(untrained, ipa)) + 0.2


@pytest.mark.slow
def test_transfer_needs_fewer_labels(ipa, ipa_model, rpa):
    """From ten labels, what IPA taught is worth more than anything ten labels teach."""
    few, rest = rpa.select(np.arange(10)), rpa.select(np.arange(10, 40))
    start = learn(ipa, sizes=SIZES, settings=replace(FAST, epochs=25))
    transfer = learn(few, start=start, settings=replace(FAST, learning_rate=3e-4))
    direct = learn(few, sizes=SIZES, settings=replace(FAST, epochs=25))
    assert np.median(agreement(transfer, rest)) > np.median(agreement(direct, rest)) + 0.05


@pytest.mark.slow
def test_the_same_seed_gives_the_same_model(rpa):
    a, b, c = (learn(rpa, sizes=SIZES, settings=replace(FAST, epochs=2, seed=s)).model_id for s in (0, 0, 1))
    assert a == b != c


def test_agreement_divides_by_the_computed_spectrum(ipa_model, rpa, labels):
    predicted = ipa_model.predict([labels[5].structure])[0]
    computed = rpa.target[5].double().numpy()
    assert agreement(ipa_model, rpa)[5] == pytest.approx(similarity(predicted, computed), abs=1e-6)
    m = spectrum_metrics(ipa_model, rpa)
    assert m["sc_median"] == pytest.approx(float(np.median(agreement(ipa_model, rpa))))
    assert m["n"] == 40


@given(st.lists(st.floats(-1, 1), min_size=9, max_size=60), st.floats(-1, 1))
def test_the_bound_is_conformal(sc, new):
    """Whichever of the n + 1 values plays the new one, at most a tenth of them fall under the bound from the others."""
    everything = [*sc, new]
    under = sum(v < summary(np.delete(everything, k))["sc_low"] for k, v in enumerate(everything))
    assert under <= 0.1 * len(everything)


def test_eight_labels_bound_nothing():
    assert summary(np.linspace(0, 1, 8))["sc_low"] is None


@given(st.integers(0, 20), st.floats(0.01, 0.9), st.integers(0, 30))
def test_no_formula_is_in_both_parts(ipa, seed, share, n_seen):
    seen = set(ipa.formulas[:n_seen])
    larger, smaller = ipa.split(share, seed, seen)
    assert not set(larger.formulas) & set(smaller.formulas)
    assert not seen & set(smaller.formulas)
    assert sorted(larger.material_ids + smaller.material_ids) == sorted(ipa.material_ids)
    assert larger.target.shape == (len(larger), 2001)


def test_when_all_formulas_are_seen_some_are_held_out_all_the_same(ipa, ipa_model):
    assert seen_formulas(ipa_model) == set(ipa.formulas)
    _, smaller = ipa.split(0.1, 0, seen_formulas(ipa_model))
    assert len(set(smaller.formulas)) == round(0.1 * len(set(ipa.formulas)))


def test_ancestors_are_remembered(ipa_model, rpa):
    child = learn(rpa.select(np.arange(5)), start=ipa_model, settings=replace(FAST, epochs=1))
    assert seen_formulas(child) == seen_formulas(ipa_model)


def test_settings_suit_the_number_of_labels():
    assert settings_for(100, False).epochs == settings_for(500, False).epochs
    assert settings_for(25, False).epochs == 4 * settings_for(100, False).epochs
    assert settings_for(10, True).patience == 5 * settings_for(100, True).patience
    assert settings_for(1000, False).batch_size > settings_for(999, False).batch_size
    assert settings_for(100, True).learning_rate < settings_for(100, False).learning_rate
    assert settings_for(10, True, seed=4, epochs=None).seed == 4
    assert settings_for(10, True, epochs=3).epochs == 3
    assert default_sizes(100) == SMALL
    assert default_sizes(5000) == OptiMateSizes()


def test_what_cannot_be_learned_from(labels, ipa, ipa_model):
    with pytest.raises(SelectorError, match="0 settings hashes"):
        SpectrumLabels.of([], "ipa")
    other = replace(labels[1], settings_hash="0" * 12)
    with pytest.raises(SelectorError, match="2 settings hashes: they are never mixed"):
        SpectrumLabels.of([labels[0], other], "ipa")
    with pytest.raises(UsageError, match="level 'bse'"):
        SpectrumLabels.of(labels[:3], "bse")
    iron = Structure(Lattice.cubic(2.87), ["Fe", "O"], [[0, 0, 0], [0.5, 0.5, 0.5]])
    with pytest.raises(SelectorError, match=f"{labels[0].material_id}: element Fe"):
        SpectrumLabels.of([replace(labels[0], structure=iron), labels[1]], "ipa")
    with pytest.raises(UsageError, match="give one of the two"):
        learn(ipa)
    with pytest.raises(UsageError, match="give one of the two"):
        learn(ipa, sizes=SIZES, start=ipa_model)
    with pytest.raises(SelectorError, match="labels of one formula"):
        learn(ipa.select(np.array([0])), start=ipa_model)
    nan = replace(ipa, target=torch.full_like(ipa.target, torch.nan))
    with pytest.raises(SelectorError, match="NaN"):
        learn(nan, start=ipa_model)
