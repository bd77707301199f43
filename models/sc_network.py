"""The paper's network as an SC predictor, for when labels are many: members that each left one fold of formulas out.

Every label is held out by one member, whose error on it is honest; these errors make the intervals (CV+, Barber et al.,
Ann. Stat. 49, 486 (2021)). The prediction is the members' mean.
"""

from __future__ import annotations

import copy
import datetime
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from pymatgen.core import Structure

from models.graphs import Graphs, build_graphs
from models.hyperparameters import draw_network
from models.labelled_crystals import LabelledCrystals
from models.labels import grouped_folds
from models.optimate import OptiMate, OptiMateSizes
from models.sc_predictor import Prediction
from models.sc_regression import metrics
from models.spectrum_model import encoded_elements
from models.training import Progress, TrainingSettings, apply, pick_device, train
from selector.errors import SelectorError

Array = NDArray[np.float64]

KIND = "sc_network"
N_MEMBERS = 5
FIT = TrainingSettings(epochs=150, patience=30)
FINE_TUNE = TrainingSettings(epochs=15, learning_rate=3e-4)


class NetworkPredictor:
    """Predicts SC[RPA; IPA] from structures alone, by members of the paper's network. Immutable.

    Attributes
    ----------
    model_id : names the weights ("scnet-" and ten hex digits)
    scores : (n_labels,) held-out |error| / spread
    engine, settings_hash : of the labels
    card : JSON-able: data, metrics, date, seed, command, licence
    """

    def __init__(
        self, members: Sequence[OptiMate], labels: LabelledCrystals, held_out: Array, card: Mapping[str, Any]
    ) -> None:
        self.members, self._labels, self._held_out = tuple(m.eval() for m in members), labels, held_out
        self.spread = float(np.sqrt(np.mean((held_out - labels.sc) ** 2)))
        self.scores = np.abs(held_out - labels.sc) / self.spread
        self.card: dict[str, Any] = dict(card) | {"model_id": self._model_id()}

    @property
    def model_id(self) -> str:
        return str(self.card["model_id"])

    @property
    def engine(self) -> str:
        return str(self.card["engine"])

    @property
    def settings_hash(self) -> str:
        return str(self.card["settings_hash"])

    @classmethod
    def fit(
        cls,
        structures: Sequence[Structure],
        sc: Sequence[float] | Array,
        formulas: Sequence[str] | None = None,
        *,
        engine: str,
        settings_hash: str,
        material_ids: Sequence[str] | None = None,
        seed: int = 0,
        command: str = "",
        sizes: OptiMateSizes | None = None,
        settings: TrainingSettings = FIT,
        progress: Progress | None = None,
    ) -> NetworkPredictor:
        """Train from nothing; a tenth of what a member learns from decides when it stops.

        Parameters
        ----------
        structures, sc : n crystals and their SC[RPA; IPA]
        formulas : n reduced formulas; from the structures if None
        engine, settings_hash : of all the labels; two kinds are never mixed
        material_ids : n names, kept in the card
        seed : of folds, weights and batches
        command : what was typed to make it, for the card
        sizes : of the network; the published ones if None
        settings, progress : as in :func:`models.training.train`

        Raises
        ------
        SelectorError
            A label is NaN or above 1, an element has no input in the paper's network, or there are fewer than 5
            formulas.
        """
        labels = LabelledCrystals.of(structures, sc, formulas, material_ids, N_MEMBERS, seed)
        if len(set(labels.formulas)) < N_MEMBERS:
            raise SelectorError(
                f"{len(labels.sc)} labels of {len(set(labels.formulas))} formulas: "
                f"a predictor needs {N_MEMBERS} formulas or more"
            )
        members = [draw_network(sizes or OptiMateSizes(), 1, seed + k) for k in range(N_MEMBERS)]
        head = {"engine": engine, "settings_hash": settings_hash, "seed": seed, "command": command}
        return _train(members, labels, replace(settings, seed=seed), head | {"round": 0, "parent": None}, progress)

    def fine_tune(
        self,
        structures: Sequence[Structure],
        sc: Sequence[float] | Array,
        formulas: Sequence[str] | None = None,
        *,
        material_ids: Sequence[str] | None = None,
        settings_hash: str | None = None,
        settings: TrainingSettings = FINE_TUNE,
        progress: Progress | None = None,
    ) -> NetworkPredictor:
        """A new predictor, from these weights, that also knows these labels; every old one is replayed.

        Parameters as in :meth:`fit`; every epoch of `settings` is trained.

        Raises
        ------
        SelectorError
            No label, a label that is NaN or above 1, or another settings hash.
        """
        if settings_hash is not None and settings_hash != self.settings_hash:
            raise SelectorError(
                f"labels of settings {settings_hash} for a model of settings {self.settings_hash}: "
                "they are never mixed; train from nothing instead"
            )
        seed = int(self.card["seed"])
        new = LabelledCrystals.of(structures, sc, formulas, material_ids, N_MEMBERS, seed, self._labels)
        kept = {k: self.card[k] for k in ("engine", "settings_hash", "seed")}
        step = {"command": "fine_tune", "round": int(self.card["round"]) + 1, "parent": self.model_id}
        members = copy.deepcopy(self.members)
        return _train(
            members, self._labels.extended(new), replace(settings, seed=seed), kept | step, progress, stop_early=False
        )

    def predict(self, structures: Sequence[Structure], device: str = "auto") -> Prediction:
        """Predict SC of n crystals; an element without input in the paper's network gets the uninformed guess.

        Out of domain are elements that no label held, and atoms without a neighbour within the cutoff.

        Raises
        ------
        SelectorError
            A structure is disordered or empty.
        """
        seen = frozenset(e.symbol for s in self._labels.structures for e in s.composition.elements)
        elements = [frozenset(e.symbol for e in s.composition.elements) for s in structures]
        known = np.array([e <= encoded_elements() for e in elements], bool)
        mean = np.full(len(structures), np.median(self._labels.sc))
        width, heads = self.members[0].sizes.attention[-1]
        latent = np.zeros((len(structures), width * heads))
        graphs = build_graphs([s for s, k in zip(structures, known, strict=True) if k])
        for member in self.members:
            member.to(pick_device(device))
        mean[known] = np.mean([_sc(member, graphs) for member in self.members], axis=0)
        latent[known] = apply(self.members[0], graphs, self.members[0].embed).double().numpy()
        outside = np.array([not e <= seen for e in elements], bool)
        outside[known] |= graphs.isolated.numpy()
        spread = np.where(outside, np.hypot(self.spread, self._labels.sc.std()), self.spread)
        return Prediction(mean, spread, latent, outside)

    def _model_id(self) -> str:
        digest = hashlib.sha256()
        for array in self.to_arrays().values():
            digest.update(np.ascontiguousarray(array).tobytes())
        return f"scnet-{digest.hexdigest()[:10]}"

    def to_arrays(self) -> dict[str, NDArray[Any]]:
        """Everything but the card, for :mod:`models.checkpoints`."""
        weights = {
            f"member.{k}.{name}": value.detach().cpu().numpy()
            for k, member in enumerate(self.members)
            for name, value in member.state_dict().items()
        }
        return weights | self._labels.to_arrays() | {"held_out": self._held_out}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[Any]], card: Mapping[str, Any]) -> NetworkPredictor:
        """Rebuild what :meth:`to_arrays` and `card` hold.

        Raises
        ------
        SelectorError
            The arrays do not fit the sizes, or content and `model_id` disagree.
        """
        members = [OptiMate(OptiMateSizes.from_card(card["sizes"])) for _ in range(N_MEMBERS)]
        for k, member in enumerate(members):
            head = f"member.{k}."
            state = {n.removeprefix(head): torch.from_numpy(a) for n, a in arrays.items() if n.startswith(head)}
            try:
                member.load_state_dict(state)
            except RuntimeError as e:
                reason = str(e).splitlines()[0]
                raise SelectorError(f"its arrays do not fit its sizes ({reason}): fetch it again") from e
        labels = LabelledCrystals.from_arrays(arrays, card["data"])
        predictor = cls(members, labels, arrays["held_out"], card)
        if predictor.model_id != card["model_id"]:
            raise SelectorError(
                f"its content is {predictor.model_id}, its card says {card['model_id']}: fetch it again"
            )
        return predictor


def _train(
    members: Sequence[OptiMate],
    labels: LabelledCrystals,
    settings: TrainingSettings,
    head: dict[str, Any],
    progress: Progress | None,
    stop_early: bool = True,
) -> NetworkPredictor:
    """Each member on all folds but its own."""
    graphs, target = build_graphs(labels.structures), torch.from_numpy(labels.sc).float()[:, None]
    names, held_out = np.asarray(labels.formulas), np.empty(len(labels.sc))
    for k, member in enumerate(members):
        rows = np.flatnonzero(labels.fold != k)
        stop = grouped_folds(names[rows].tolist(), 10, settings.seed) == 0 if stop_early else np.zeros(len(rows), bool)
        learned, judged = (torch.from_numpy(rows[part]) for part in (~stop, stop))
        validation = (graphs.select(judged), target[judged]) if stop_early else None
        train(member, graphs.select(learned), target[learned], validation, settings, progress)
        own = np.flatnonzero(labels.fold == k)
        held_out[own] = _sc(member, graphs.select(torch.from_numpy(own)))
    card = head | {
        "kind": KIND,
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "target": "SC[RPA; IPA], traces / 3, Im(eps) on 0-20 eV",
        "method": f"the paper's graph attention network, {N_MEMBERS} members, each without one fold of formulas",
        "sizes": members[0].sizes.to_card(),
        "data": {"n": len(names), "material_ids": list(labels.material_ids), "formulas": list(labels.formulas)},
        "metrics": metrics(labels.sc, held_out, labels.formulas),
    }
    return NetworkPredictor(members, labels, held_out, card)


def _sc(member: OptiMate, graphs: Graphs) -> Array:
    return apply(member, graphs)[:, 0].double().numpy()
