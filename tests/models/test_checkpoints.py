from __future__ import annotations

import json
import pickle

import numpy as np
import pytest
import torch

from models.checkpoints import FORMAT, default_checkpoint, load, load_network, save, save_network
from models.graphs import build_graphs
from models.optimate import OptiMate, OptiMateSizes
from models.sc_predictor import SCPredictor
from selector.errors import SelectorError, UsageError


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
    class Bomb:
        def __reduce__(self):
            return (open, (str(tmp_path / "ran"), "w"))

    weights_of(stem).write_bytes(pickle.dumps(Bomb()))
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
    old = SCPredictor(
        predictor._rows, predictor._process, predictor.scores, predictor.card | {"features": {"version": 0}}
    )
    save(old, tmp_path / "old")
    refused(tmp_path / "old", "train it again")


def test_networks_round_trip_and_kinds_are_kept_apart(stem, tmp_path, labels):
    sizes = OptiMateSizes(node=(8, 8), attention=((8, 2),), output=(16,), n_out=3)
    model = OptiMate(sizes)
    model.train()
    graphs = build_graphs([k.structure for k in labels[:5]])
    model(graphs)  # moves the batch statistics, which must be kept as well
    model.eval()
    save_network(model, tmp_path / "net", {"seed": 7})
    again, card = load_network(tmp_path / "net")
    assert again.sizes == sizes
    assert card["seed"] == 7
    assert card["kind"] == "optimate"
    with torch.no_grad():
        assert torch.equal(model(graphs), again(graphs))
    refused(tmp_path / "net", "holds a 'optimate' model, a 'sc_predictor' model is needed")
    refused(stem, "a 'optimate' model is needed", reader=load_network)


def test_a_network_whose_sizes_do_not_fit(tmp_path):
    model = OptiMate(OptiMateSizes(node=(8, 8), attention=((8, 2),), output=(16,)))
    model.sizes = OptiMateSizes(node=(8, 8), attention=((8, 2),), output=(32,))
    save_network(model, tmp_path / "net")
    refused(tmp_path / "net", "not a complete network", reader=load_network)


def test_an_unwritable_folder(tmp_path, predictor):
    (tmp_path / "file").write_text("")
    with pytest.raises(SelectorError, match="can't write the checkpoint"):
        save(predictor, tmp_path / "file" / "model")


def test_the_default_checkpoint_is_there():
    assert default_checkpoint().name == "sc-default.safetensors"
    assert load(default_checkpoint()).engine == "gpaw"
