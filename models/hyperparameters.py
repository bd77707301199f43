"""Which of several trainings, or sizes of the paper's network, is best: the same folds for each, grouped by formula."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

import numpy as np
import torch
from torch import Tensor, nn

from models.graphs import Graphs
from models.labels import grouped_folds
from models.optimate import OptiMate, OptiMateSizes
from models.training import TrainingSettings, seeded, train
from selector.errors import UsageError

N_FOLDS = 3


@dataclass(frozen=True)
class Trial:
    """A training to try.

    Attributes
    ----------
    name : for tables
    make : a new network, the same at every call: of some size, or a copy of one that has learned
    settings : how to train it
    """

    name: str
    make: Callable[[], nn.Module]
    settings: TrainingSettings


@dataclass
class Outcome:
    """What came of a trial.

    Attributes
    ----------
    losses : best validation loss of each fold
    epochs : after how many epochs it was reached
    """

    trial: Trial
    losses: list[float] = field(default_factory=list)
    epochs: list[int] = field(default_factory=list)

    @property
    def loss(self) -> float:
        return float(np.mean(self.losses))


def search(
    trials: Sequence[Trial],
    graphs: Graphs,
    target: Tensor,
    formulas: Sequence[str],
    n_folds: int = N_FOLDS,
    seed: int = 0,
    on_training: Callable[[], None] = lambda: None,
) -> list[Outcome]:
    """Every trial on every fold, best first.

    Each training stops early on its own held-out fold, so that the losses flatter all trials alike: they rank, and are
    no estimate of the error.

    Parameters
    ----------
    trials : at least one
    graphs, target : n crystals and their (n, n_out) targets
    formulas : n names, by which folds are grouped
    n_folds : at most as many as there are formulas
    seed : of the folds
    on_training : called after each of the `len(trials) * n_folds` trainings

    Raises
    ------
    UsageError
        No trial, or fewer than two formulas.
    """
    if not trials:
        raise UsageError("a search over no trials: give at least one")
    fold = grouped_folds(formulas, n_folds, seed)
    outcomes = [Outcome(trial) for trial in trials]
    for k in range(int(fold.max()) + 1):
        held, kept = (torch.from_numpy(np.flatnonzero(part)) for part in (fold == k, fold != k))
        for outcome in outcomes:
            network = outcome.trial.make()
            history = train(
                network, graphs.select(kept), target[kept], (graphs.select(held), target[held]), outcome.trial.settings
            )
            outcome.losses.append(history.best)
            outcome.epochs.append(history.best_epoch + 1)
            on_training()
    return sorted(outcomes, key=lambda outcome: outcome.loss)


def draw_network(sizes: OptiMateSizes, n_out: int, seed: int) -> OptiMate:
    """A network of so many outputs, its weights drawn from a seed."""
    with seeded(seed):
        return OptiMate(replace(sizes, n_out=n_out))


def best_sizes(
    sizes: Sequence[OptiMateSizes],
    graphs: Graphs,
    target: Tensor,
    formulas: Sequence[str],
    settings: TrainingSettings,
    on_training: Callable[[], None] = lambda: None,
) -> OptiMateSizes:
    """Those with which direct learning of the targets goes best; of a single one no search is made.

    Parameters as in :func:`search`; weights are drawn from `settings.seed`.
    """
    if len(sizes) == 1:
        return sizes[0]
    n_out, seed = target.shape[1], settings.seed
    trials = [Trial(str(k), partial(draw_network, s, n_out, seed), settings) for k, s in enumerate(sizes)]
    best = search(trials, graphs, target, formulas, seed=seed, on_training=on_training)[0]
    return sizes[int(best.trial.name)]
