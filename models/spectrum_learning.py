"""How a spectrum model learns: directly, by transfer from another theory level, or by fine-tuning.

All three are one training with all parameters free; they differ in the weights it starts from. The RPA model starts
from the IPA model's (Grunert, Großmann and Runge, Nat. Commun. 16, 8142 (2025), "transfer learning").
"""

from __future__ import annotations

import copy
import datetime
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from models.graphs import Graphs, build_graphs
from models.hyperparameters import draw_network
from models.labels import Label
from models.optimate import SPECTRUM_WIDTH, OptiMateSizes
from models.spectrum_model import LEVELS, SpectrumModel, check_elements
from models.training import Progress, TrainingSettings, apply, train
from selector.errors import SelectorError, UsageError
from selector.spectra import similarity

Array = NDArray[np.float64]

DIRECT = TrainingSettings(epochs=80, patience=15, batch_size=8, learning_rate=1e-3)
# Small steps keep what the other level taught where labels are few.
TRANSFER = TrainingSettings(epochs=40, patience=10, batch_size=8, learning_rate=3e-4)
LARGE_BATCH, MANY_LABELS = 32, 1000
SMALL = OptiMateSizes(node=(48, 48), attention=((48, 4),), output=(256, 256))
"""Enough for some hundred labels: as good as the published sizes there, and a tenth of their weights."""
VALIDATION_SHARE = 0.1


@dataclass(frozen=True)
class SpectrumLabels:
    """n labels of one theory level, engine and settings, as a network learns them.

    Attributes
    ----------
    graphs : n crystals
    target : (n, 2001) float32, Im(eps), trace / 3
    formulas, material_ids : n names each
    elements : of each crystal, symbols
    level, engine, settings_hash : of all of them
    """

    graphs: Graphs
    target: Tensor
    formulas: tuple[str, ...]
    material_ids: tuple[str, ...]
    elements: tuple[frozenset[str], ...]
    level: str
    engine: str
    settings_hash: str

    @classmethod
    def of(cls, labels: Sequence[Label], level: str) -> SpectrumLabels:
        """The spectra of `labels` at a level.

        Raises
        ------
        SelectorError
            No label, labels of two settings hashes, or an element that the paper's network has no input for.
        UsageError
            Another level.
        """
        if level not in LEVELS:
            raise UsageError(f"level {level!r}: choose ipa or rpa")
        kinds = {(label.engine, label.settings_hash) for label in labels}
        if len(kinds) != 1:
            raise SelectorError(f"labels of {len(kinds)} settings hashes: they are never mixed: choose those of one")
        ids, structures = tuple(k.material_id for k in labels), [k.structure for k in labels]
        check_elements(structures, ids)
        target = np.array([getattr(k, level).mean.imag for k in labels], dtype=np.float32)
        ((engine, settings_hash),) = kinds
        return cls(
            build_graphs(structures),
            torch.from_numpy(target),
            tuple(k.formula for k in labels),
            ids,
            tuple(frozenset(e.symbol for e in s.composition.elements) for s in structures),
            level,
            engine,
            settings_hash,
        )

    def __len__(self) -> int:
        return len(self.formulas)

    def select(self, rows: NDArray[np.integer[Any]]) -> SpectrumLabels:
        """The labels `rows` (k,), in that order."""
        index = torch.from_numpy(np.asarray(rows, dtype=np.int64))
        return replace(
            self,
            graphs=self.graphs.select(index),
            target=self.target[index],
            formulas=tuple(self.formulas[i] for i in rows),
            material_ids=tuple(self.material_ids[i] for i in rows),
            elements=tuple(self.elements[i] for i in rows),
        )

    def split(
        self, share: float, seed: int, seen: Collection[str] = frozenset()
    ) -> tuple[SpectrumLabels, SpectrumLabels]:
        """The larger part, and one of about `share` of the formulas, drawn at random; no formula is in both.

        Parameters
        ----------
        share : 0 to 1
        seed : of the draw
        seen : formulas that do not go into the smaller part, unless all are seen

        Raises
        ------
        SelectorError
            There is only one formula.
        """
        names = sorted(set(self.formulas))
        if len(names) < 2:
            raise SelectorError(
                f"{len(self)} labels of one formula ({names[0]}): two or more formulas are needed to hold one out"
            )
        eligible = [f for f in names if f not in seen] or names
        n = min(max(1, round(share * len(names))), len(eligible), len(names) - 1)
        held = set(np.random.default_rng(seed).permutation(eligible)[:n].tolist())
        out = np.array([f in held for f in self.formulas])
        return self.select(np.flatnonzero(~out)), self.select(np.flatnonzero(out))


def settings_for(n_labels: int, transfer: bool, **changes: Any) -> TrainingSettings:
    """Settings that suit so many labels, with `changes` (those that are None are none).

    Fewer than a hundred labels get more epochs, up to five times as many: an epoch of them is fewer steps.
    """
    base = TRANSFER if transfer else DIRECT
    more = min(5.0, max(1.0, 100.0 / max(n_labels, 1)))
    base = replace(base, epochs=round(more * base.epochs), patience=round(more * base.patience))
    if n_labels >= MANY_LABELS:
        base = replace(base, batch_size=LARGE_BATCH)
    return replace(base, **{k: v for k, v in changes.items() if v is not None})


def default_sizes(n_labels: int) -> OptiMateSizes:
    """Sizes for direct learning from so many labels: small, or from a thousand on those of the published models."""
    return SMALL if n_labels < MANY_LABELS else OptiMateSizes()


def learn(
    labels: SpectrumLabels,
    *,
    sizes: OptiMateSizes | None = None,
    start: SpectrumModel | None = None,
    settings: TrainingSettings | None = None,
    validation_share: float = VALIDATION_SHARE,
    progress: Progress | None = None,
    command: str = "",
) -> SpectrumModel:
    """A spectrum model of the labels' level.

    Parameters
    ----------
    labels : some of their formulas decide when to stop, and are not learned
    sizes : of a network that learns from nothing (direct learning)
    start : a model to start from instead: of another level (transfer) or the same (fine-tuning); it stays as it is
    settings : `settings_for` the number of labels if None
    validation_share : of the formulas that decide when to stop
    progress : as in :func:`models.training.train`
    command : what was typed, for the card

    Returns
    -------
    Its card's ``training`` holds the loss on those formulas, ``data`` all the labels.

    Raises
    ------
    SelectorError
        Labels of fewer than two formulas, or three crystals, or one is NaN.
    UsageError
        Neither or both of `sizes` and `start`.
    """
    if (sizes is None) == (start is None):
        raise UsageError("a model learns from nothing, with sizes, or from another model: give one of the two")
    s = settings or settings_for(len(labels), start is not None)
    training, validation = labels.split(validation_share, s.seed)
    if start is not None:
        network = copy.deepcopy(start.network)
    elif sizes is not None:
        network = draw_network(sizes, SPECTRUM_WIDTH, s.seed)
    history = train(network, training.graphs, training.target, (validation.graphs, validation.target), s, progress)
    card = {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "seed": s.seed,
        "command": command,
        "engine": labels.engine,
        "settings_hash": labels.settings_hash,
        "target": "Im(eps), trace / 3, 0-20 eV in 2001 points",
        "parent": None if start is None else start.model_id,
        "ancestors_saw": [] if start is None else sorted(seen_formulas(start).difference(labels.formulas)),
        "training": {
            "epochs": history.best_epoch + 1,
            "batch_size": s.batch_size,
            "learning_rate": s.learning_rate,
            "validation_loss": history.best,
        },
        "data": {
            "n": len(labels),
            "material_ids": list(labels.material_ids),
            "formulas": list(labels.formulas),
            "elements": sorted(set().union(*labels.elements)),
        },
    }
    return SpectrumModel(network, labels.level, card)


def seen_formulas(model: SpectrumModel) -> frozenset[str]:
    """Formulas that the model or one of those it came from has learned, as far as their cards say."""
    return frozenset(model.card.get("data", {}).get("formulas", ())) | frozenset(model.card.get("ancestors_saw", ()))


def agreement(model: SpectrumModel, labels: SpectrumLabels) -> Array:
    """SC[predicted; computed] of n labels, (n,): the computed spectrum divides."""
    predicted, computed = (a.double().numpy() for a in (apply(model.network, labels.graphs), labels.target))
    return np.array([similarity(p, c) for p, c in zip(predicted, computed, strict=True)])


def mean_error(model: SpectrumModel, labels: SpectrumLabels) -> Array:
    """Mean absolute error of n predicted spectra over the energies, (n,)."""
    return (apply(model.network, labels.graphs) - labels.target).abs().mean(dim=1).double().numpy()


def spectrum_metrics(model: SpectrumModel, labels: SpectrumLabels) -> dict[str, float | None]:
    """How well held-out spectra are met: :func:`summary` of their agreement, and their mean absolute error."""
    return summary(agreement(model, labels)) | {"mae": float(mean_error(model, labels).mean())}


def summary(sc: Array) -> dict[str, float | None]:
    """Median and mean of held-out SC (n,), and the bound that nine in ten of further draws exceed.

    The bound is split-conformal: the k-th smallest of n, k the integer part of (n + 1) / 10; with fewer than nine there
    is none, and it is minus infinity (null in a card).
    """
    k = int(0.1 * (len(sc) + 1))
    low = float(np.sort(sc)[k - 1]) if k else None
    return {"n": len(sc), "sc_median": float(np.median(sc)), "sc_mean": float(np.mean(sc)), "sc_low": low}
