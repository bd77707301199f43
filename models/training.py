"""One training loop for networks: L1 loss, Adam, validation, early stop; deterministic from a seed."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from models.graphs import Graphs
from selector.errors import SelectorError, UsageError

Progress = Callable[[int, float, float], None]


@dataclass(frozen=True)
class TrainingSettings:
    """How to train.

    Attributes
    ----------
    epochs : at most
    patience : stop after this many epochs without a better validation loss
    batch_size : crystals a step
    learning_rate : of Adam
    seed : of the weights' order of batches
    device : "auto" (CUDA if there is one), "cpu" or "cuda"
    """

    epochs: int = 300
    patience: int = 50
    batch_size: int = 32
    learning_rate: float = 1e-3
    seed: int = 0
    device: str = "auto"


@dataclass
class History:
    """Losses by epoch, and the epoch whose weights were kept."""

    train: list[float] = field(default_factory=list)
    validation: list[float] = field(default_factory=list)
    best_epoch: int = -1

    @property
    def best(self) -> float:
        return self.validation[self.best_epoch]


def pick_device(name: str) -> torch.device:
    """The device that "auto", "cpu" or "cuda" names."""
    if name not in ("auto", "cpu", "cuda"):
        raise UsageError(f"device {name!r}: choose auto, cpu or cuda")
    if name == "cuda" and not torch.cuda.is_available():
        raise UsageError("device 'cuda': no CUDA device answers here: use auto or cpu")
    return torch.device("cuda" if name != "cpu" and torch.cuda.is_available() else "cpu")


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Torch's random numbers from this seed inside, undisturbed outside; use it around the making of a network."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        yield


def train(
    model: nn.Module,
    graphs: Graphs,
    target: Tensor,
    validation: tuple[Graphs, Tensor],
    settings: TrainingSettings | None = None,
    progress: Progress | None = None,
) -> History:
    """Train `model` in place; it ends with the weights of its best validation epoch, on the CPU, in evaluation mode.

    Parameters
    ----------
    model : takes `Graphs` to (n, n_out)
    graphs, target : n crystals and their (n, n_out) targets
    validation : the same, held out
    settings : `TrainingSettings()` if None
    progress : called after each epoch with its number, training loss and validation loss

    Raises
    ------
    SelectorError
        Fewer than two crystals to train on (batch normalisation needs two), none to validate on, or a target is NaN.
    """
    s = settings or TrainingSettings()
    if len(graphs) < 2 or len(validation[0]) < 1:
        raise SelectorError(
            f"{len(graphs)} labels to train on and {len(validation[0])} to validate on: at least 2 and 1 are needed"
        )
    if not (torch.isfinite(target).all() and torch.isfinite(validation[1]).all()):
        raise SelectorError("a training label is NaN: leave it out")
    device = pick_device(s.device)
    model.to(device)
    graphs, target = graphs.to(device), target.to(device)
    held_graphs, held_target = validation[0].to(device), validation[1].to(device)
    optimiser = torch.optim.Adam(model.parameters(), lr=s.learning_rate)
    order = np.random.default_rng(s.seed)
    history, best_state = History(), copy.deepcopy(model.state_dict())
    with seeded(s.seed):
        for epoch in range(s.epochs):
            model.train()
            total = 0.0
            for rows in _batches(order.permutation(len(graphs)), s.batch_size):
                index = torch.from_numpy(rows).to(device)
                optimiser.zero_grad()
                loss = (model(graphs.select(index)) - target[index]).abs().mean()
                loss.backward()
                optimiser.step()
                total += float(loss.detach()) * len(rows)
            history.train.append(total / len(graphs))
            history.validation.append(float((apply(model, held_graphs) - held_target).abs().mean()))
            if history.best_epoch < 0 or history.validation[-1] < history.best:
                history.best_epoch, best_state = epoch, copy.deepcopy(model.state_dict())
            if progress is not None:
                progress(epoch, history.train[-1], history.validation[-1])
            if epoch - history.best_epoch >= s.patience:
                break
    model.load_state_dict(best_state)
    model.to("cpu").eval()
    return history


def apply(model: nn.Module, graphs: Graphs) -> Tensor:
    """The model's output (n, n_out) in evaluation mode, without gradients."""
    model.eval()
    with torch.no_grad():
        return model(graphs)


def _batches(order: NDArray[np.int64], size: int) -> list[NDArray[np.int64]]:
    """Consecutive parts of `order`; one crystal left over joins the part before it: a batch of one has no variance."""
    cuts = list(range(size, len(order), size))
    if cuts and len(order) - cuts[-1] == 1:
        cuts.pop()
    return np.split(order, cuts)
