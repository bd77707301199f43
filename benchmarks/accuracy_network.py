"""The paper's network as rows of `benchmarks/accuracy.py`: SC learned from nothing, or from IPA weights.

Each fold has its own search: every published size learns SC for a few epochs, and that of the least error on a tenth of
the training formulas goes on to be trained in full. The same tenth stops that training. Both rows take the size found,
so that their search costs the same. The IPA weights come from the IPA spectra of the training fold alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from accuracy_rows import Row, bare, targets
from numpy.typing import NDArray
from torch import Tensor

from models.graphs import Graphs, build_graphs
from models.hyperparameters import draw_network
from models.labels import Label, grouped_folds
from models.optimate import SPECTRUM_WIDTH, OptiMate, OptiMateSizes, read_sizes
from models.training import TrainingSettings, apply, train

Array = NDArray[np.float64]

SCRATCH, FROM_IPA = "paper's network, from scratch", "paper's network, from IPA weights"
SIZES = Path(__file__).parents[1] / "configs" / "optimate_sizes.yaml"
SEARCH = TrainingSettings(epochs=6, patience=6, batch_size=8)
FIT = TrainingSettings(epochs=80, patience=20, batch_size=8)
IPA = TrainingSettings(epochs=40, patience=10, batch_size=8)


@dataclass(frozen=True)
class Effort:
    """How long to train: a size in the search, SC, and the IPA spectra before it."""

    search: TrainingSettings = SEARCH
    sc: TrainingSettings = FIT
    ipa: TrainingSettings = IPA

    def quick(self) -> Effort:
        """Some epochs: a check that it runs, no figure."""
        return Effort(*(replace(s, epochs=2) for s in (self.search, self.sc, self.ipa)))


@dataclass
class _Fold:
    """What both rows need of a training fold: graphs, SC, IPA spectra, and which part stops the training."""

    graphs: Graphs
    sc: Tensor
    ipa: Tensor
    learned: Tensor
    judged: Tensor

    @classmethod
    def of(cls, training: Sequence[Label], seed: int) -> _Fold:
        held = grouped_folds([k.formula for k in training], 10, seed) == 0
        return cls(
            build_graphs([k.structure for k in training]),
            torch.tensor(targets(training), dtype=torch.float32)[:, None],
            torch.tensor(np.array([k.ipa.mean.imag for k in training]), dtype=torch.float32),
            *(torch.from_numpy(np.flatnonzero(part)) for part in (~held, held)),
        )

    def train(self, network: OptiMate, target: Tensor, settings: TrainingSettings) -> float:
        """Train in place; the best error on the part that judges."""
        parts = [(self.graphs.select(rows), target[rows]) for rows in (self.learned, self.judged)]
        return train(network, *parts[0], parts[1], settings).best


@dataclass
class PaperNetwork:
    """Both rows; the second takes over the size that the first found in the same fold."""

    effort: Effort = field(default_factory=Effort)
    sizes: dict[str, OptiMateSizes] = field(default_factory=lambda: read_sizes(SIZES))
    _found: dict[tuple[str, ...], OptiMateSizes] = field(default_factory=dict)

    def rows(self) -> dict[str, Row]:
        return {SCRATCH: self.from_scratch, FROM_IPA: self.from_ipa}

    def from_scratch(self, training: Sequence[Label], test: Sequence[Label], seed: int) -> Array:
        fold = _Fold.of(training, seed)
        network = draw_network(self._size(fold, training, seed), 1, seed)
        fold.train(network, fold.sc, replace(self.effort.sc, seed=seed))
        return _said(network, test)

    def from_ipa(self, training: Sequence[Label], test: Sequence[Label], seed: int) -> Array:
        fold = _Fold.of(training, seed)
        size = self._size(fold, training, seed)
        spectra = draw_network(size, SPECTRUM_WIDTH, seed)
        fold.train(spectra, fold.ipa, replace(self.effort.ipa, seed=seed))
        network = draw_network(size, 1, seed)
        fresh = network.state_dict()
        kept = {k: v for k, v in spectra.state_dict().items() if v.shape == fresh[k].shape}  # all but the last layer
        network.load_state_dict(fresh | kept)
        fold.train(network, fold.sc, replace(self.effort.sc, seed=seed))
        return _said(network, test)

    def _size(self, fold: _Fold, training: Sequence[Label], seed: int) -> OptiMateSizes:
        key = (*(label.material_id for label in training), str(seed))
        if key not in self._found:
            settings = replace(self.effort.search, seed=seed)
            errors = {
                name: fold.train(draw_network(size, 1, seed), fold.sc, settings) for name, size in self.sizes.items()
            }
            self._found = {key: self.sizes[min(errors, key=errors.__getitem__)]}
        return self._found[key]


def _said(network: OptiMate, test: Sequence[Label]) -> Array:
    return bare(apply(network, build_graphs([k.structure for k in test]))[:, 0].double().numpy())
