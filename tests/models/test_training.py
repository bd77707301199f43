from __future__ import annotations

import numpy as np
import pytest
import torch

from models.graphs import build_graphs
from models.optimate import OptiMate, OptiMateSizes
from models.training import EDGES_AT_ONCE, TrainingSettings, apply, pick_device, pick_half, seeded, train
from selector.errors import SelectorError, UsageError

SIZES = OptiMateSizes(node=(8, 8), attention=((8, 2),), output=(16,))


@pytest.fixture(scope="module")
def data(labels):
    def part(rows):
        target = torch.tensor([[k.sc] for k in rows], dtype=torch.float32)
        return build_graphs([k.structure for k in rows]), target

    return part(labels[:33]), part(labels[33:45])


def run(data, progress=None, **kwargs):
    (graphs, target), validation = data
    with seeded(3):
        model = OptiMate(SIZES)
    settings = TrainingSettings(**{"epochs": 25, "device": "cpu", "learning_rate": 5e-3} | kwargs)
    return model, train(model, graphs, target, validation, settings, progress)


@pytest.mark.slow
def test_it_learns(data):
    _, history = run(data, batch_size=16)
    assert min(history.train) < 0.5 * history.train[0]


def test_the_same_seed_gives_the_same_weights_another_does_not(data):
    (a, ha), (b, hb), (c, _) = run(data, epochs=4), run(data, epochs=4), run(data, epochs=4, seed=1, batch_size=8)
    assert ha.validation == hb.validation
    for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True):
        assert torch.equal(x, y)
    assert any(not torch.equal(x, y) for x, y in zip(a.parameters(), c.parameters(), strict=True))


def test_training_leaves_the_random_numbers_of_others_alone(data):
    torch.manual_seed(11)
    expected = torch.rand(3)
    torch.manual_seed(11)
    run(data, epochs=2)
    assert torch.equal(torch.rand(3), expected)


def test_it_ends_with_the_best_validation_weights(data):
    model, history = run(data, epochs=15)
    graphs, target = data[1]
    assert float((apply(model, graphs) - target).abs().mean()) == pytest.approx(min(history.validation), abs=1e-6)
    assert history.best == min(history.validation)
    assert not model.training


def test_without_validation_it_trains_every_epoch(data):
    (graphs, target), _ = data
    with seeded(3):
        model = OptiMate(SIZES)
    history = train(model, graphs, target, None, TrainingSettings(epochs=4, patience=1, device="cpu"))
    assert len(history.train) == 4
    assert history.best_epoch == 3
    assert np.isnan(history.validation).all()


@pytest.mark.slow
def test_it_stops_early_and_reports_each_epoch(data):
    seen = []
    # With no learning rate nothing improves after the first epoch but for batch statistics settling.
    _, history = run(data, progress=lambda *a: seen.append(a), epochs=200, patience=3, learning_rate=0.0, batch_size=64)
    assert len(history.train) < 200
    assert len(history.train) == history.best_epoch + 4
    assert [s[0] for s in seen] == list(range(len(history.train)))
    assert [s[2] for s in seen] == history.validation


def test_a_crystal_left_over_joins_the_batch_before_it(data):
    # 33 crystals in batches of 16 leave one, which batch normalisation could not take alone.
    _, history = run(data, epochs=1, batch_size=16)
    assert np.isfinite(history.train).all()


def test_one_label_and_nan_are_refused(data):
    (graphs, target), validation = data
    with pytest.raises(SelectorError, match="1 labels to train on"):
        train(OptiMate(SIZES), graphs.select(torch.tensor([0])), target[:1], validation)
    bad = target.clone()
    bad[2] = torch.nan
    with pytest.raises(SelectorError, match="NaN"):
        train(OptiMate(SIZES), graphs, bad, validation)


def test_many_crystals_are_applied_in_parts(data, monkeypatch):
    model, _ = run(data, epochs=1)
    graphs = data[0][0]
    whole = apply(model, graphs)
    parts = []
    monkeypatch.setitem(EDGES_AT_ONCE, "cpu", 150)
    again = apply(model, graphs, lambda g: parts.append(len(g)) or model(g))
    assert torch.allclose(whole, again, atol=1e-6)
    assert sum(parts) == len(graphs)
    assert len(parts) > 5
    assert apply(model, graphs.select(torch.zeros(0, dtype=torch.int64))).shape == (0, 1)


def test_half_precision_is_for_a_gpu():
    cpu, cuda = torch.device("cpu"), torch.device("cuda")
    assert pick_half("auto", cpu) is None
    assert pick_half("single", cuda) is None
    with pytest.raises(UsageError, match="'mixed' is for a GPU"):
        pick_half("mixed", cpu)
    with pytest.raises(UsageError, match="choose auto, single or mixed"):
        pick_half("double", cpu)


@pytest.mark.parametrize(("has_bfloat16", "half"), [(True, torch.bfloat16), (False, torch.float16)])
def test_bfloat16_where_the_gpu_has_it(monkeypatch, has_bfloat16, half):
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: has_bfloat16)
    assert pick_half("auto", torch.device("cuda")) is half


@pytest.mark.slow
def test_the_network_trains_in_half_precision(data, monkeypatch):
    """The arithmetic of mixed precision, on the CPU, which has bfloat16 too: nearly the same losses."""
    _, single = run(data, epochs=6)
    monkeypatch.setattr("models.training.pick_half", lambda *_: torch.bfloat16)
    _, mixed = run(data, epochs=6)
    assert single.train != mixed.train
    assert mixed.train[-1] == pytest.approx(single.train[-1], rel=0.1)


def test_devices():
    assert pick_device("cpu").type == "cpu"
    assert pick_device("auto").type == ("cuda" if torch.cuda.is_available() else "cpu")
    with pytest.raises(UsageError, match="choose auto, cpu or cuda"):
        pick_device("tpu")


def test_cuda_is_refused_where_there_is_none(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UsageError, match="no CUDA device"):
        pick_device("cuda")
    assert pick_device("auto").type == "cpu"
