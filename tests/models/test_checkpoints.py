from __future__ import annotations

import json
import pickle
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from pymatgen.core import Lattice, Structure

from models.checkpoints import (
    FORMAT,
    KINDS,
    default_checkpoint,
    load,
    load_spectrum_model,
    save,
    save_spectrum_model,
    shipped_spectrum_models,
)
from models.graphs import build_graphs
from models.hyperparameters import draw_network
from models.optimate import OptiMateSizes
from models.sc_network import NetworkPredictor
from models.spectrum_model import SpectrumModel
from models.training import TrainingSettings
from selector.errors import SelectorError, UsageError
from selector.spectra import ENERGY_EV, Spectrum
from tests.crystals import face_centred

OLD = Path(__file__).parents[1] / "data" / "checkpoints"
SIZES = OptiMateSizes(node=(8, 8), attention=((8, 2),), output=(16,))
GAAS = face_centred("zincblende", 5.65, "Ga", "As")


class Bomb:
    """A pickle that leaves a trace if it is run."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self):
        return (open, (str(self.trace), "w"))


@pytest.fixture
def stem(tmp_path, predictor):
    save(predictor, tmp_path / "sc-test.v1")
    # The suffix after the dot is part of the name.
    assert sorted(p.name for p in tmp_path.iterdir()) == ["sc-test.v1.json", "sc-test.v1.safetensors"]
    return tmp_path / "sc-test.v1"


def weights_of(stem):
    return stem.with_name(stem.name + ".safetensors")


def card_of(stem):
    return stem.with_name(stem.name + ".json")


def edit_card(stem, **changes):
    card = json.loads(card_of(stem).read_text()) | changes
    card_of(stem).write_text(json.dumps(card))


def refused(stem, match, kind=SelectorError, reader=load):
    with pytest.raises(kind, match=match) as e:
        reader(stem)
    assert "\n" not in str(e.value)
    assert stem.name in str(e.value)


def test_round_trip(stem, predictor, labels):
    crystals = [k.structure for k in labels]
    for path in (stem, weights_of(stem), card_of(stem)):
        again = load(path)
        assert again.model_id == predictor.model_id
        a, b = predictor.predict(crystals), again.predict(crystals)
        assert np.array_equal(a.mean, b.mean)
        assert np.array_equal(a.spread, b.spread)
        assert np.array_equal(a.out_of_domain, b.out_of_domain)
        assert np.array_equal(again.scores, predictor.scores)
    assert again.engine == "gpaw"
    assert again.settings_hash == predictor.settings_hash


def test_the_card_says_what_it_is(stem, labels):
    card = json.loads(card_of(stem).read_text())
    assert card["format"] == FORMAT
    assert card["kind"] == "sc_predictor"
    assert card["data"]["material_ids"] == [k.material_id for k in labels[:60]]
    assert card["data"]["formulas"] == [k.formula for k in labels[:60]]
    for key in (
        "model_id",
        "metrics",
        "date",
        "seed",
        "command",
        "licence",
        "settings_hash",
        "engine",
        "round",
        "parent",
    ):
        assert key in card


def test_a_loaded_predictor_can_be_fine_tuned_as_the_original(stem, predictor, labels):
    new = labels[60:63]
    a, b = (p.fine_tune([k.structure for k in new], [k.sc for k in new]) for p in (predictor, load(stem)))
    assert a.model_id == b.model_id
    assert a.predict([labels[80].structure]).mean[0] == b.predict([labels[80].structure]).mean[0]


def test_a_truncated_file(stem):
    weights_of(stem).write_bytes(weights_of(stem).read_bytes()[:-100])
    refused(stem, "not a whole safetensors file")


def test_a_pickle_posing_as_one_is_not_run(stem, tmp_path):
    weights_of(stem).write_bytes(pickle.dumps(Bomb(tmp_path / "ran")))
    refused(stem, "other formats are never read")
    assert not (tmp_path / "ran").exists()


def test_a_torch_file_posing_as_one(stem):
    torch.save({"a": torch.zeros(3)}, weights_of(stem))
    refused(stem, "not a whole safetensors file")


def test_altered_weights(stem):
    blob = bytearray(weights_of(stem).read_bytes())
    blob[-9] ^= 1
    weights_of(stem).write_bytes(bytes(blob))
    refused(stem, "was changed after it was written")


@pytest.mark.parametrize("change", [{"settings_hash": "0" * 12}, {"model_id": "sc-0000000000"}, {"licence": "none"}])
def test_an_altered_card(stem, change):
    edit_card(stem, **change)
    refused(stem, "was changed after it was written")


def test_weights_with_another_model_s_card(stem, predictor, labels):
    other = predictor.fine_tune([labels[70].structure], [labels[70].sc])
    save(other, stem.with_name("other"))
    weights_of(stem).write_bytes(stem.with_name("other.safetensors").read_bytes())
    refused(stem, "was changed after it was written")


def test_a_card_that_is_no_card(stem):
    card_of(stem).write_text("{")
    refused(stem, "not a checkpoint's card")
    card_of(stem).write_text("[]")
    refused(stem, "not a checkpoint's card")


def test_a_newer_format(stem):
    edit_card(stem, format=FORMAT + 1)
    refused(stem, "newer release")


def test_missing_files(stem, tmp_path):
    refused(tmp_path / "nothing", "no such file", UsageError)
    card_of(stem).unlink()
    refused(stem, "no such file", UsageError)


def test_another_release_s_features(tmp_path, predictor):
    old = predictor.card | {"features": {"version": 0, "n": 3}}
    save(SimpleNamespace(to_arrays=predictor.to_arrays, card=old), tmp_path / "old")
    refused(tmp_path / "old", "train it again")


@pytest.fixture
def spectrum_model() -> SpectrumModel:
    model = SpectrumModel(draw_network(SIZES, 2001, 0), "rpa", {"seed": 7})
    model.network.train()
    model.network(build_graphs([GAAS, GAAS * (2, 1, 1)]))  # moves the batch statistics, which must be kept as well
    return SpectrumModel(model.network, "rpa", model.card)


@pytest.fixture
def spectrum_stem(tmp_path, spectrum_model):
    assert save_spectrum_model(spectrum_model, tmp_path / "rpa-test") is None
    return tmp_path / "rpa-test"


def test_spectrum_models_round_trip(spectrum_stem, spectrum_model, labels):
    crystals = [k.structure for k in labels[:5]]
    again = load_spectrum_model(spectrum_stem)
    assert (again.level, again.model_id, again.card["seed"]) == ("rpa", spectrum_model.model_id, 7)
    assert np.array_equal(again.predict(crystals), spectrum_model.predict(crystals))
    # Saved again it is the same file: nothing is lost on the way.
    save_spectrum_model(again, spectrum_stem.with_name("again"))
    assert weights_of(spectrum_stem).read_bytes() == weights_of(spectrum_stem.with_name("again")).read_bytes()


def test_networks_of_sc_round_trip(tmp_path, labels):
    few = labels[:10]
    network = NetworkPredictor.fit(
        [k.structure for k in few], [k.sc for k in few], engine="gpaw", settings_hash="a", sizes=SIZES,
        settings=TrainingSettings(epochs=1, device="cpu"),
    )  # fmt: skip
    path = save(network, tmp_path / "net")
    again = load(path)
    crystals = [k.structure for k in labels[10:14]]
    assert np.array_equal(again.predict(crystals).mean, network.predict(crystals).mean)
    assert np.array_equal(again.scores, network.scores)
    tuned = (n.fine_tune([labels[20].structure], [0.8], settings=TrainingSettings(epochs=1)) for n in (network, again))
    assert len({t.model_id for t in tuned}) == 1


def test_kinds_are_kept_apart(stem, spectrum_stem):
    refused(stem, "holds a 'sc_predictor' model, one of kind spectrum_model is needed", reader=load_spectrum_model)
    refused(spectrum_stem, "holds a 'spectrum_model' model, one of kind sc_predictor or sc_network is needed")


def test_damaged_spectrum_models(spectrum_stem, tmp_path):
    whole = weights_of(spectrum_stem).read_bytes()
    weights_of(spectrum_stem).write_bytes(whole[:-100])
    refused(spectrum_stem, "not a whole safetensors file", reader=load_spectrum_model)
    weights_of(spectrum_stem).write_bytes(whole[:-9] + bytes([whole[-9] ^ 1]) + whole[-8:])
    refused(spectrum_stem, "was changed after it was written", reader=load_spectrum_model)
    torch.save({"a": torch.zeros(3)}, weights_of(spectrum_stem))
    refused(spectrum_stem, "other formats are never read", reader=load_spectrum_model)
    weights_of(spectrum_stem).write_bytes(pickle.dumps(Bomb(tmp_path / "ran")))
    refused(spectrum_stem, "other formats are never read", reader=load_spectrum_model)
    assert not (tmp_path / "ran").exists()


def test_a_card_and_a_file_that_agree_but_hold_something_else(tmp_path, spectrum_model):
    """Digests keep accidents out; a file made on purpose must still say what is wrong with it."""
    arrays = spectrum_model.to_arrays()

    def saved(arrays, **changes):
        return save(SimpleNamespace(to_arrays=lambda: arrays, card=spectrum_model.card | changes), tmp_path / "odd")

    for changed, changes, match in (
        ({k: v for k, v in arrays.items() if "pool" not in k}, {}, "do not fit its sizes"),
        (arrays, {"sizes": {"node": [8]}}, "not a complete model"),
        (arrays, {"sizes": spectrum_model.card["sizes"] | {"output": [32]}}, "do not fit its sizes"),
        (arrays, {"level": "bse"}, "choose ipa or rpa"),
        (arrays, {"model_id": "rpa-0000000000"}, "its card says rpa-0000000000"),
    ):
        with pytest.raises(SelectorError, match=match) as e:
            load_spectrum_model(saved(changed, **changes))
        assert str(e.value).startswith(f"{tmp_path / 'odd'}.safetensors: ")
        assert "\n" not in str(e.value)


def test_published_weights_are_read_where_a_spectrum_model_is(tmp_path, spectrum_model):
    with pytest.raises(UsageError, match="no such file"):
        load_spectrum_model(tmp_path / "gat.pt")
    (tmp_path / "gat.pt").write_bytes(b"nothing")
    with pytest.raises(SelectorError, match=r"gat\.pt"):
        load_spectrum_model(tmp_path / "gat.pt")


def test_an_unwritable_folder(tmp_path, predictor):
    (tmp_path / "file").write_text("")
    with pytest.raises(SelectorError, match="can't write the checkpoint"):
        save(predictor, tmp_path / "file" / "model")


def test_the_default_checkpoint_is_there():
    assert default_checkpoint().name == "sc-default.safetensors"
    assert load(default_checkpoint()).engine == "gpaw"


def test_the_spectrum_models_that_ship_are_there(rocksalt):
    models = [load_spectrum_model(p) for p in shipped_spectrum_models()]
    assert [m.level for m in models] == ["ipa", "rpa"]
    assert models[1].card["parent"]
    assert sum(p.stat().st_size for p in shipped_spectrum_models()) < 12e6
    for m in models:
        assert {"date", "seed", "command", "licence", "metrics", "data", "manifest"} <= m.card.keys()
        assert (m.predict([rocksalt]).max(), m.out_of_domain([rocksalt])[0]) > (1.0, False)


@pytest.mark.parametrize("card", sorted(OLD.glob("*.json")), ids=lambda p: p.stem)
def test_what_earlier_releases_wrote_still_loads_and_says_the_same(card):
    """A file for each kind and format that was ever written (tests/data/checkpoints/make.py); none is ever removed."""
    stored = np.load(card.with_suffix(".npz"))
    crystals = [
        Structure(Lattice(stored[f"cell{k}"]), stored[f"numbers{k}"].tolist(), stored[f"frac{k}"]) for k in "01"
    ]
    kind = json.loads(card.read_text())["kind"]
    model = load(card, (kind,))
    if kind == "spectrum_model":
        assert np.allclose(model.predict(crystals), stored["spectra"], atol=1e-4)
        return
    ipa = [Spectrum(ENERGY_EV, stored[f"ipa{k}"]) for k in "01"] if "ipa0" in stored else None
    p = model.predict(crystals) if ipa is None else model.predict(crystals, ipa)
    for name in ("mean", "spread", "out_of_domain"):
        assert np.allclose(getattr(p, name), stored[name], atol=1e-4)
    assert np.allclose(model.scores, stored["scores"])


def test_there_is_one_of_each_kind():
    assert {json.loads(p.read_text())["kind"] for p in OLD.glob("*.json")} == set(KINDS)
