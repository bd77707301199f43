from __future__ import annotations

from functools import partial

import pytest
import torch
from torch import nn

from models.graphs import build_graphs
from models.hyperparameters import Trial, best_sizes, draw_network, search
from models.optimate import OptiMateSizes
from models.training import TrainingSettings
from selector.errors import UsageError

SIZES = OptiMateSizes(node=(8, 8), attention=((8, 2),), output=(16,))
FAST = TrainingSettings(epochs=4, device="cpu", learning_rate=5e-3)


class Constant(nn.Module):
    """Predicts one number, and keeps to it."""

    def __init__(self, value: float) -> None:
        super().__init__()
        self.value = nn.Parameter(torch.tensor(value))

    def forward(self, graphs):
        return self.value.expand(len(graphs), 1)


@pytest.fixture(scope="module")
def data(labels):
    part = labels[:24]
    target = torch.tensor([[k.sc] for k in part], dtype=torch.float32)
    return build_graphs([k.structure for k in part]), target, [k.formula for k in part]


def test_the_best_trial_comes_first(data):
    graphs, target, formulas = data
    still = TrainingSettings(epochs=1, learning_rate=0.0, device="cpu")
    median = float(target.median())
    trials = [Trial(str(v), partial(Constant, v), still) for v in (0.0, median, 2.0)]
    counted = []
    outcomes = search(trials, graphs, target, formulas, n_folds=4, on_training=lambda: counted.append(1))
    assert [o.trial.name for o in outcomes] == [str(median), "0.0", "2.0"]
    assert len(counted) == 12
    assert all(len(o.losses) == 4 and o.epochs == [1] * 4 for o in outcomes)
    # A constant is judged on every label once, folds being of equal size but for one formula.
    assert outcomes[1].loss == pytest.approx(float(target.abs().mean()), rel=0.05)


def test_no_formula_is_on_both_sides(data, monkeypatch):
    graphs = data[0]
    sides = []

    def spy(model, kept, kept_target, validation, settings):
        sides.append((set(kept_target[:, 0].tolist()), set(validation[1][:, 0].tolist())))
        return type("H", (), {"best": 0.0, "best_epoch": 0})()

    monkeypatch.setattr("models.hyperparameters.train", spy)
    twice = torch.arange(24) // 2
    by_pair = twice[:, None].float()  # the target names the formula
    search([Trial("a", lambda: Constant(0.0), FAST)], graphs, by_pair, [str(int(k)) for k in twice], n_folds=3)
    assert len(sides) == 3
    for kept, held in sides:
        assert not kept & held
        assert len(kept | held) == 12


def test_sizes_are_chosen_reproducibly(data):
    graphs, target, formulas = data
    other = OptiMateSizes(node=(4,), attention=((4, 1),), output=(4,))
    chosen = [best_sizes([SIZES, other], graphs, target, formulas, FAST) for _ in range(2)]
    assert chosen[0] == chosen[1]
    assert chosen[0] in (SIZES, other)


def test_a_single_size_needs_no_search(data, monkeypatch):
    monkeypatch.setattr("models.hyperparameters.search", lambda *_, **__: pytest.fail("searched"))
    assert best_sizes([SIZES], *data, FAST) == SIZES


def test_networks_are_drawn_from_the_seed():
    a, b, c = (draw_network(SIZES, 3, seed) for seed in (0, 0, 1))
    assert a.sizes.n_out == 3
    assert all(torch.equal(x, y) for x, y in zip(a.parameters(), b.parameters(), strict=True))
    assert any(not torch.equal(x, y) for x, y in zip(a.parameters(), c.parameters(), strict=True))


def test_nothing_to_choose_from(data):
    with pytest.raises(UsageError, match="no trials"):
        search([], *data)
    graphs, target, _ = data
    with pytest.raises(UsageError, match="cross-validation needs two"):
        search([Trial("a", lambda: Constant(0.0), FAST)], graphs, target, ["X"] * len(target))
