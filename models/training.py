"""One training loop for networks, whether they learn from nothing, by transfer or by fine-tuning.

L1 loss and Adam, as in the paper; early stop on validation; mixed precision on a GPU; deterministic from a seed.
"""

from __future__ import annotations

import copy
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from models.graphs import Graphs
from selector.errors import SelectorError, UsageError

Progress = Callable[[int, float, float], None]
DEVICES = ("auto", "cpu", "cuda")
EDGES_AT_ONCE = {"cpu": 8_000, "cuda": 200_000}
"""In prediction: on a CPU what its caches hold, on a GPU about a gigabyte in the published networks."""
PRECISIONS = ("auto", "single", "mixed")


@dataclass(frozen=True)
class TrainingSettings:
    """How to train.

    Attributes
    ----------
    epochs : at most
    patience : stop after this many epochs without a better validation loss
    batch_size : crystals a step
    learning_rate : of Adam
    seed : of the order of batches; the weights at the start are their maker's (:func:`seeded`)
    device : "auto" (CUDA if there is one), "cpu" or "cuda"
    precision : "single", "mixed" (matrix products in half precision, on a GPU only), or "auto" (mixed on a GPU)
    """

    epochs: int = 300
    patience: int = 50
    batch_size: int = 32
    learning_rate: float = 1e-3
    seed: int = 0
    device: str = "auto"
    precision: str = "auto"


@dataclass
class History:
    """Losses by epoch (validation NaN where there was none), and the epoch whose weights were kept."""

    train: list[float] = field(default_factory=list)
    validation: list[float] = field(default_factory=list)
    best_epoch: int = -1

    @property
    def best(self) -> float:
        return self.validation[self.best_epoch]


def pick_device(name: str) -> torch.device:
    """The device that "auto", "cpu" or "cuda" names.

    Raises
    ------
    UsageError
        Another name, or "cuda" where there is none.
    """
    if name not in DEVICES:
        raise UsageError(f"device {name!r}: choose auto, cpu or cuda")
    if name == "cuda" and not torch.cuda.is_available():
        raise UsageError("device 'cuda': no CUDA device answers here: use auto or cpu")
    return torch.device("cuda" if name != "cpu" and torch.cuda.is_available() else "cpu")


def pick_half(precision: str, device: torch.device) -> torch.dtype | None:
    """The half precision that matrix products take, or None for single: bfloat16 where the GPU has it, else float16.

    Raises
    ------
    UsageError
        Another name, or "mixed" without a GPU.
    """
    if precision not in PRECISIONS:
        raise UsageError(f"precision {precision!r}: choose auto, single or mixed")
    if device.type == "cpu":
        if precision == "mixed":
            raise UsageError("precision 'mixed' is for a GPU, and this runs on the CPU: use auto or single")
        return None
    if precision == "single":
        return None
    return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16


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
    validation: tuple[Graphs, Tensor] | None,
    settings: TrainingSettings | None = None,
    progress: Progress | None = None,
) -> History:
    """Train `model` in place; it ends with the weights of its best validation epoch, on the CPU, in evaluation mode.

    Parameters
    ----------
    model : takes `Graphs` to (n, n_out)
    graphs, target : n crystals and their (n, n_out) targets
    validation : the same, held out; None to train for all `settings.epochs`
    settings : `TrainingSettings()` if None
    progress : called after each epoch with its number, training loss and validation loss (NaN without validation)

    Raises
    ------
    SelectorError
        Fewer than two crystals to train on (batch normalisation needs two), none to validate on, or a target is NaN.
    UsageError
        A device or precision that is not to be had here.
    """
    s = settings or TrainingSettings()
    _check(graphs, target, validation)
    device = pick_device(s.device)
    half = pick_half(s.precision, device)
    model.to(device)
    graphs, target = graphs.to(device), target.to(device)
    optimiser = torch.optim.Adam(model.parameters(), lr=s.learning_rate, fused=True)
    # Gradients of float16 vanish unless the loss is scaled up; those of bfloat16 and single precision do not.
    scaler = torch.amp.GradScaler(device.type, enabled=half is torch.float16)
    order = np.random.default_rng(s.seed)
    history, best_state = History(), None
    with seeded(s.seed), _repeatable(device):
        for epoch in range(s.epochs):
            model.train()
            total = torch.zeros((), device=device)
            for rows in _batches(order.permutation(len(graphs)), s.batch_size):
                index = torch.from_numpy(rows).to(device)
                optimiser.zero_grad()
                with torch.autocast(device.type, dtype=half, enabled=half is not None):
                    output = model(graphs.select(index))
                loss = (output.float() - target[index]).abs().mean()
                scaler.scale(loss).backward()
                scaler.step(optimiser)
                scaler.update()
                total += loss.detach() * len(rows)
            history.train.append(float(total) / len(graphs))
            history.validation.append(np.nan if validation is None else _error(model, *validation))
            if validation is None or history.best_epoch < 0 or history.validation[-1] < history.best:
                history.best_epoch = epoch
                best_state = copy.deepcopy(model.state_dict()) if validation is not None else None
            if progress is not None:
                progress(epoch, history.train[-1], history.validation[-1])
            if epoch - history.best_epoch >= s.patience:
                break
    if best_state is not None:
        model.load_state_dict(best_state)
    model.to("cpu").eval()
    return history


def _check(graphs: Graphs, target: Tensor, validation: tuple[Graphs, Tensor] | None) -> None:
    n_held = 1 if validation is None else len(validation[0])
    if len(graphs) < 2 or n_held < 1:
        raise SelectorError(
            f"{len(graphs)} labels to train on and {n_held} to validate on: at least 2 and 1 are needed"
        )
    for labels in (target,) if validation is None else (target, validation[1]):
        if not torch.isfinite(labels).all():
            raise SelectorError("a training label is NaN: leave it out")


def _error(model: nn.Module, graphs: Graphs, target: Tensor) -> float:
    return float((apply(model, graphs) - target.cpu()).abs().mean())


@contextmanager
def _repeatable(device: torch.device) -> Iterator[None]:
    """On a GPU, sums whose order is fixed: the same seed gives the same weights; elsewhere they are anyway."""
    before = torch.are_deterministic_algorithms_enabled()
    if device.type == "cuda":
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before)


def apply(model: nn.Module, graphs: Graphs, output: Callable[[Graphs], Tensor] | None = None) -> Tensor:
    """The model's output (n, n_out) on the CPU, in evaluation mode, without gradients, some crystals at a time.

    Parameters
    ----------
    model : runs on the device where its weights are
    graphs : n crystals, on any device
    output : the method of the model to call; its `forward` if None
    """
    model.eval()
    device, call = next(model.parameters()).device, output or model
    edges_at_once = EDGES_AT_ONCE[device.type]
    with torch.no_grad():
        parts = [call(graphs.select(rows).to(device)).float().cpu() for rows in _by_edges(graphs, edges_at_once)]
    return torch.cat(parts)


def _by_edges(graphs: Graphs, edges_at_once: int) -> Iterator[Tensor]:
    """Rows of consecutive crystals, so many that they have about `edges_at_once` edges; at least one part."""
    part = (graphs.edge_start[1:].cpu() - 1).clamp(min=0) // edges_at_once
    cuts = (torch.nonzero(part.diff()).flatten() + 1).tolist()
    for begin, end in pairwise([0, *cuts, len(graphs)]):
        yield torch.arange(begin, end, device=graphs.crystal.device)


def _batches(order: NDArray[np.int64], size: int) -> list[NDArray[np.int64]]:
    """Consecutive parts of `order`; one crystal left over joins the part before it: a batch of one has no variance."""
    cuts = list(range(size, len(order), size))
    if cuts and len(order) - cuts[-1] == 1:
        cuts.pop()
    return np.split(order, cuts)
