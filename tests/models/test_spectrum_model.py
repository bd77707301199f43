from __future__ import annotations

import numpy as np
import pytest
import torch
from pymatgen.core import Lattice, Structure

from models.hyperparameters import draw_network
from models.optimate import OptiMate, OptiMateSizes
from models.spectrum_model import SpectrumModel, check_elements, encoded_elements, foreign_elements
from selector.errors import SelectorError, UsageError
from selector.spectra import ENERGY_EV
from tests.crystals import face_centred

SIZES = OptiMateSizes(node=(8, 8), attention=((8, 2),), output=(16,))


@pytest.fixture
def model() -> SpectrumModel:
    return SpectrumModel(draw_network(SIZES, 2001, 0), "ipa", {"data": {"elements": ["Mg", "O", "Na", "Cl"]}})


@pytest.fixture
def iron() -> Structure:
    return Structure(Lattice.cubic(2.87), ["Fe", "O"], [[0, 0, 0], [0.5, 0.5, 0.5]])


def test_a_spectrum_per_crystal_whatever_the_batch(model, labels):
    crystals = [k.structure for k in labels[:7]]
    together = model.predict(crystals)
    assert together.shape == (7, len(ENERGY_EV))
    assert together.dtype == np.float64
    alone = np.concatenate([model.predict([c]) for c in crystals])
    assert np.allclose(together, alone, atol=1e-5)
    assert model.predict([]).shape == (0, 2001)


def test_the_latent_vector_is_what_the_output_is_made_from(model, labels):
    crystals = [k.structure for k in labels[:4]]
    latent = model.embed(crystals)
    assert latent.shape == (4, 16)
    with torch.no_grad():
        out = model.network.output(torch.from_numpy(latent).float())
    expected = torch.nn.functional.leaky_relu(out).double().numpy()
    assert np.allclose(model.predict(crystals), expected, atol=1e-5)


def test_the_id_names_the_weights(model):
    again = SpectrumModel(draw_network(SIZES, 2001, 0), "ipa")
    other = SpectrumModel(draw_network(SIZES, 2001, 1), "ipa")
    assert model.model_id == again.model_id != other.model_id
    assert model.model_id.startswith("ipa-")
    assert SpectrumModel(draw_network(SIZES, 2001, 0), "rpa").model_id.startswith("rpa-")


def test_rounded_weights_take_half_the_space_and_nothing_is_lost_in_them(model, labels):
    rounded = model.rounded()
    assert rounded.model_id != model.model_id
    arrays = rounded.to_arrays()
    halves = {k for k, v in arrays.items() if v.dtype == np.float16}
    assert {name for name, _ in model.network.named_parameters()} <= halves
    again = SpectrumModel.from_arrays(arrays, rounded.card)
    crystals = [k.structure for k in labels[:3]]
    assert np.array_equal(again.predict(crystals), rounded.predict(crystals))
    assert np.allclose(rounded.predict(crystals), model.predict(crystals), atol=5e-3)
    # Weights that are not rounded stay in single precision.
    weights = [n for n, p in model.network.named_parameters() if p.dim() == 2]
    assert all(model.to_arrays()[name].dtype == np.float32 for name in weights)


def test_an_element_without_input_is_named(model, iron, rocksalt):
    with pytest.raises(SelectorError, match="FeO: element Fe: the network knows groups"):
        model.predict([rocksalt, iron])
    with pytest.raises(SelectorError, match="agm7: element Fe"):
        check_elements([iron], ["agm7"])
    assert foreign_elements(iron) == {"Fe"}
    assert {"H", "Te", "Sr"} <= encoded_elements()
    assert not {"Fe", "Cs", "Pb", "La"} & encoded_elements()


def test_what_it_has_not_learned_from_is_out_of_domain(model, rocksalt, lone_atom, iron, labels):
    gaas = face_centred("zincblende", 5.65, "Ga", "As")
    assert model.out_of_domain([rocksalt, lone_atom, gaas, iron]).tolist() == [False, True, True, True]
    unsaid = SpectrumModel(model.network, "ipa")  # a published model's card names no elements
    assert unsaid.out_of_domain([gaas, iron]).tolist() == [False, True]


def test_an_isolated_atom_and_500_atoms_give_numbers(model, lone_atom, rocksalt):
    large = rocksalt * (4, 4, 4)
    assert len(large) == 512
    out = model.predict([lone_atom, large, rocksalt])
    assert np.isfinite(out).all()
    assert np.allclose(out[1], out[2], atol=1e-4)


def test_what_is_no_spectrum_model(model):
    with pytest.raises(UsageError, match="level 'bse': choose ipa or rpa"):
        SpectrumModel(draw_network(SIZES, 2001, 0), "bse")
    with pytest.raises(SelectorError, match="a network of 1 outputs"):
        SpectrumModel(OptiMate(SIZES), "ipa")
    arrays = model.to_arrays()
    with pytest.raises(SelectorError, match="do not fit its sizes"):
        SpectrumModel.from_arrays({k: v for k, v in arrays.items() if "pool" not in k}, model.card)
    arrays["output.lins.0.bias"] = arrays["output.lins.0.bias"] + 1
    with pytest.raises(SelectorError, match="its content is"):
        SpectrumModel.from_arrays(arrays, model.card)
