from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from pymatgen.core import Lattice, Structure

from models.labelled_crystals import LabelledCrystals
from models.optimate import OptiMateSizes
from models.sc_network import FIT, N_MEMBERS, NetworkPredictor
from models.training import TrainingSettings
from selector.errors import SelectorError

SIZES = OptiMateSizes(node=(8, 8), attention=((8, 2),), output=(16,))
FAST = replace(FIT, epochs=12, device="cpu", learning_rate=5e-3, batch_size=8)


def fit(labels, **kwargs) -> NetworkPredictor:
    return NetworkPredictor.fit(
        [k.structure for k in labels],
        [k.sc for k in labels],
        engine="gpaw",
        settings_hash=labels[0].settings_hash,
        material_ids=[k.material_id for k in labels],
        **{"sizes": SIZES, "settings": FAST} | kwargs,
    )


@pytest.fixture(scope="module")
def network(labels) -> NetworkPredictor:
    return fit(labels[:30])


@pytest.mark.slow
def test_it_says_what_a_predictor_says(network, labels):
    p = network.predict([k.structure for k in labels[30:40]])
    assert p.mean.shape == p.spread.shape == p.out_of_domain.shape == (10,)
    assert p.latent.shape == (10, 16)
    assert (p.spread > 0).all()
    assert len(network.scores) == 30
    # The scores are |error| / spread, the spread their root mean square.
    assert np.sqrt(np.mean(network.scores**2)) == pytest.approx(1.0)
    assert network.card["metrics"]["n_labels"] == 30
    assert network.card["kind"] == "sc_network"


@pytest.mark.slow
def test_a_held_out_label_changes_nothing_in_the_member_that_judges_it(labels):
    """Each label is predicted by a member trained without its formula: moving it moves its error by as much."""
    a = fit(labels[:12], settings=replace(FAST, epochs=3))
    moved = [replace(labels[0], sc=-1.0), *labels[1:12]]  # to the other side of every prediction: L1 sees signs
    b = fit(moved, settings=replace(FAST, epochs=3))
    assert b._held_out[0] == a._held_out[0]
    assert not np.array_equal(b._held_out, a._held_out)


@pytest.mark.slow
def test_deterministic_from_the_seed(labels):
    few = replace(FAST, epochs=2)
    a, b, c = (fit(labels[:12], settings=few, seed=s).model_id for s in (0, 0, 1))
    assert a == b != c


@pytest.mark.slow
def test_fine_tuning_replays_and_keeps_the_folds(network, labels):
    new = labels[28:36]  # two of them are known
    tuned = network.fine_tune(
        [k.structure for k in new],
        [k.sc for k in new],
        material_ids=[k.material_id for k in new],
        settings_hash=network.settings_hash,
        settings=TrainingSettings(epochs=2, device="cpu"),
    )
    assert len(tuned.scores) == 36
    assert tuned.card["parent"] == network.model_id
    assert tuned.card["round"] == 1
    fold = dict(zip(network._labels.formulas, network._labels.fold, strict=True))
    for formula, k in zip(tuned._labels.formulas, tuned._labels.fold, strict=True):
        assert fold.setdefault(formula, k) == k
    assert network.predict([new[0].structure]).mean != tuned.predict([new[0].structure]).mean


@pytest.mark.slow
def test_elements_without_input_or_unseen_get_a_wider_interval(network, rocksalt):
    iron = Structure(Lattice.cubic(2.87), ["Fe", "O"], [[0, 0, 0], [0.5, 0.5, 0.5]])
    argon = Structure(Lattice.cubic(4), ["Ar"], [[0, 0, 0]])
    p = network.predict([rocksalt, iron, argon])
    assert p.out_of_domain.tolist() == [False, True, True]
    assert (p.spread[1:] > p.spread[0]).all()
    assert p.mean[1] == np.median(network._labels.sc)
    assert network.predict([iron]).mean.shape == (1,)


def test_crystals_survive_as_arrays(labels):
    known = LabelledCrystals.of([k.structure for k in labels[:9]], [k.sc for k in labels[:9]], None, None, 5, 0)
    data = {"formulas": known.formulas, "material_ids": known.material_ids}
    again = LabelledCrystals.from_arrays(known.to_arrays(), data)
    assert again.structures == known.structures
    assert np.array_equal(again.sc, known.sc)
    assert np.array_equal(again.fold, known.fold)


@pytest.mark.parametrize("bad", [np.nan, np.inf, 1.5])
def test_a_bad_label_is_named(labels, bad):
    with pytest.raises(SelectorError, match=f"{labels[1].material_id}.*leave this label out"):
        fit([labels[0], replace(labels[1], sc=bad), *labels[2:8]])


@pytest.mark.slow
def test_too_few_labels_other_settings_and_foreign_elements(network, labels):
    with pytest.raises(SelectorError, match=f"4 formulas: a predictor needs {N_MEMBERS}"):
        fit(labels[:4])
    with pytest.raises(SelectorError, match="they are never mixed"):
        network.fine_tune([labels[40].structure], [0.8], settings_hash="0" * 12)
    with pytest.raises(SelectorError, match="a label needs one of each"):
        network.fine_tune([], [])
    iron = Structure(Lattice.cubic(2.87), ["Fe", "O"], [[0, 0, 0], [0.5, 0.5, 0.5]])
    with pytest.raises(SelectorError, match="FeO: element Fe"):
        network.fine_tune([iron], [0.8])
