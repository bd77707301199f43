"""The default SC predictors, with honest held-out scores: from structures alone, or from structures and IPA spectra.

A Gaussian process on a description of the crystal (`models.description`) learns ``log(1 - SC)``, in which the error of
a prediction is about the same everywhere, and returns the median (which it calls mean: the number a decision uses) and
a spread in units of SC. The spread is turned into an interval by the scores: |error| / spread of predictions for
formulas that the model had not seen.
"""

from __future__ import annotations

import datetime
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pymatgen.core import Structure
from scipy.spatial.distance import cdist

from models.description import STRUCTURE, STRUCTURE_AND_SPECTRUM, describe, isolated, owners
from models.features import FEATURES_VERSION
from models.gaussian_process import GaussianProcess
from models.neighbours import atomic_numbers
from models.sc_regression import (
    FIRST_CLIP,
    FIRST_RECIPE,
    Regression,
    Scaler,
    cross_validate,
    estimate,
    log_gap,
    metrics,
)
from models.training_rows import TrainingRows
from selector.errors import SelectorError
from selector.spectra import Spectrum

Array = NDArray[np.float64]

KIND = "sc_predictor"
SPECTRUM_KIND = "sc_spectrum_predictor"
# A file that names neither blocks nor recipe was written before there was a choice.
FIRST_BLOCKS = ("geometry", "pairs")
N_FOLDS = 10
MIN_FORMULAS = 5
LICENCE = (
    "MIT (weights); labels computed from Alexandria structures, CC-BY 4.0 "
    "(Schmidt et al., Adv. Mater. 35, 2210788, 2023)"
)


@dataclass(frozen=True)
class Prediction:
    """What a predictor says of n crystals.

    Attributes
    ----------
    mean : (n,) predicted SC[RPA; IPA]
    spread : (n,) its standard deviation as the model sees it; an interval needs the predictor's `scores`
    latent : (n, d) position in the space in which the kernel measures likeness
    out_of_domain : (n,) bool; an element unseen in training, an atom that nothing touches, or unlike every training
        crystal. The spread is then that of an uninformed guess
    """

    mean: Array
    spread: Array
    latent: Array
    out_of_domain: NDArray[np.bool_]


class SCPredictor:
    """Predicts SC[RPA; IPA], from structures alone or, if fitted with spectra, from structures and IPA spectra.

    Immutable: :meth:`fine_tune` returns another. :func:`models.checkpoints.load` reads one from a file.

    Attributes
    ----------
    model_id : names the content ("sc-" and ten hex digits): training rows, scores, engine, settings, ancestry
    scores : (n_labels,) held-out |error| / spread, formula-grouped folds
    held_out : (n_labels,) SC as predicted in those folds, the labels it was given last at the end; None for one that
        was read from a file
    engine, settings_hash : of the labels
    card : JSON-able: data, metrics, date, seed, command, licence
    """

    def __init__(
        self,
        rows: TrainingRows,
        learned: Regression,
        scores: Array,
        card: Mapping[str, Any],
        held_out: Array | None = None,
    ) -> None:
        self._rows, self._learned, self.scores, self.held_out = rows, learned, scores, held_out
        self.card = dict(card) | {"model_id": _model_id(rows, scores, card)}

    @property
    def model_id(self) -> str:
        return str(self.card["model_id"])

    @property
    def engine(self) -> str:
        return str(self.card["engine"])

    @property
    def settings_hash(self) -> str:
        return str(self.card["settings_hash"])

    @property
    def reads_spectra(self) -> bool:
        """Whether it takes IPA spectra beside structures."""
        return "spectrum" in self._rows.blocks

    @classmethod
    def fit(
        cls,
        structures: Sequence[Structure],
        sc: Sequence[float] | Array,
        formulas: Sequence[str] | None = None,
        *,
        engine: str,
        settings_hash: str,
        spectra: Sequence[Spectrum] | None = None,
        material_ids: Sequence[str] | None = None,
        seed: int = 0,
        command: str = "",
    ) -> SCPredictor:
        """Train from nothing.

        Parameters
        ----------
        structures, sc : n crystals and their SC[RPA; IPA]
        formulas : n reduced formulas, by which folds are grouped; from the structures if None
        engine, settings_hash : of all the labels; two kinds are never mixed
        spectra : n IPA spectra, 0-20 eV; with them the predictor will want them of every crystal
        material_ids : n names, kept in the card
        seed : of the folds
        command : what was typed to make it, for the card

        Raises
        ------
        SelectorError
            A label is NaN or above 1, a crystal or spectrum can't be described, or there are fewer than 5 formulas.
        """
        blocks = STRUCTURE if spectra is None else STRUCTURE_AND_SPECTRUM
        rows = TrainingRows.of(structures, sc, formulas, material_ids, spectra, blocks)
        head = {"engine": engine, "settings_hash": settings_hash, "seed": seed, "command": command}
        return _train(rows, head | {"round": 0, "parent": None})

    def fine_tune(
        self,
        structures: Sequence[Structure],
        sc: Sequence[float] | Array,
        formulas: Sequence[str] | None = None,
        *,
        spectra: Sequence[Spectrum] | None = None,
        material_ids: Sequence[str] | None = None,
        settings_hash: str | None = None,
    ) -> SCPredictor:
        """A new predictor that also knows these labels; every old one is replayed, the scores are made anew.

        Parameters
        ----------
        structures, sc, formulas, spectra, material_ids : as in :meth:`fit`; one label is enough
        settings_hash : of the new labels, if known: refused unless it is the old ones'

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
        rows = self._rows.extended(TrainingRows.of(structures, sc, formulas, material_ids, spectra, self._rows.blocks))
        kept = {k: self.card[k] for k in ("engine", "settings_hash", "seed")}
        step = {"command": "fine_tune", "round": int(self.card["round"]) + 1, "parent": self.model_id}
        return _train(rows, kept | step)

    def predict(self, structures: Sequence[Structure], spectra: Sequence[Spectrum] | None = None) -> Prediction:
        """Predict SC of n crystals; deterministic.

        Parameters
        ----------
        structures : n ordered crystals
        spectra : their IPA spectra, for a predictor that reads them, and only for such

        Raises
        ------
        SelectorError
            A structure is disordered, empty, or has no finite description; or spectra are missing or not wanted.
        """
        x = describe(structures, spectra, self._rows.blocks)
        z, process = self._learned.scaler(x), self._learned.process
        foreign = np.array([not self._rows.seen[atomic_numbers(s)].all() for s in structures], dtype=bool)
        outside = foreign | isolated(x) | (cdist(z, process.rows).min(axis=1, initial=np.inf) > self._reach)
        mean, spread = self._learned.predict(x, np.where(outside, process.prior_sd, 0.0))
        return Prediction(mean, spread, z, outside)

    @cached_property
    def _reach(self) -> float:
        """The farthest that any training crystal lies from its nearest neighbour of another formula."""
        names, rows = np.asarray(self._rows.formulas), self._learned.process.rows
        distance = cdist(rows, rows)
        distance[names[:, None] == names] = np.inf
        return float(distance.min(axis=1).max())

    def to_arrays(self) -> dict[str, NDArray[Any]]:
        """Everything but the card, for :mod:`models.checkpoints`."""
        p = self._learned.process
        return {
            "features": self._rows.features,
            "sc": self._rows.sc,
            "seen": self._rows.seen.astype(np.uint8),
            "scores": self.scores,
            "process": np.array([p.length, p.noise, p.mean, p.scale]),
        }

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[Any]], card: Mapping[str, Any]) -> SCPredictor:
        """Rebuild what :meth:`to_arrays` and `card` hold.

        Raises
        ------
        SelectorError
            The features are another release's, or content and `model_id` disagree.
        """
        data, described = card["data"], card["features"]
        blocks = tuple(described.get("blocks", FIRST_BLOCKS))
        if (described["version"], described["n"]) != (FEATURES_VERSION, len(owners(blocks))):
            raise SelectorError(f"made with features {described}: not this release's: train it again")
        rows = TrainingRows(
            blocks, arrays["features"], arrays["sc"], tuple(data["formulas"]), tuple(data["material_ids"]),
            arrays["seen"].astype(bool),
        )  # fmt: skip
        x, recipe = rows.features.astype(float), card.get("recipe", FIRST_RECIPE)
        length, noise, mean, scale = (float(v) for v in arrays["process"])
        scaler = Scaler.fit(x, blocks, recipe, card.get("clip", FIRST_CLIP))
        target = log_gap(rows.sc) - estimate(x, blocks)
        process = GaussianProcess(scaler(x), target, length, noise, mean, scale)
        predictor = cls(rows, Regression(blocks, recipe, scaler, process), arrays["scores"], card)
        if predictor.model_id != card["model_id"]:
            raise SelectorError(
                f"its content is {predictor.model_id}, its card says {card['model_id']}: fetch it again"
            )
        return predictor


def _model_id(rows: TrainingRows, scores: Array, card: Mapping[str, Any]) -> str:
    meaning = {k: card[k] for k in ("engine", "settings_hash", "round", "parent", "seed", "features")}
    digest = hashlib.sha256(json.dumps([meaning, rows.formulas, rows.material_ids], sort_keys=True).encode())
    # Rounded, so that the last bits of another machine's arithmetic give the same name.
    for array, decimals in ((rows.features, 3), (rows.sc, 6), (scores, 3)):
        digest.update((np.round(array.astype(float), decimals) + 0.0).tobytes())
    return f"sc-{digest.hexdigest()[:10]}"


def _train(rows: TrainingRows, head: dict[str, Any]) -> SCPredictor:
    n_formulas = len(set(rows.formulas))
    if n_formulas < MIN_FORMULAS:
        raise SelectorError(
            f"{len(rows.sc)} labels of {n_formulas} formulas: a predictor needs {MIN_FORMULAS} formulas or more"
        )
    x = rows.features.astype(float)
    mean, spread = cross_validate(x, rows.blocks, rows.sc, rows.formulas, N_FOLDS, int(head["seed"]))
    learned = Regression.fit(x, rows.blocks, rows.sc, rows.formulas)
    process = learned.process
    card = head | {
        "kind": SPECTRUM_KIND if "spectrum" in rows.blocks else KIND,
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "licence": LICENCE,
        "target": "SC[RPA; IPA], traces / 3, Im(eps) on 0-20 eV",
        "method": "Gaussian process, Matern-3/2, log(1 - SC)",
        "features": {"version": FEATURES_VERSION, "n": x.shape[1], "blocks": list(rows.blocks)},
        "recipe": learned.recipe,
        "clip": learned.scaler.clip,
        "process": {k: getattr(process, k) for k in ("length", "noise", "mean", "scale")},
        "data": {"n": len(rows.sc), "material_ids": list(rows.material_ids), "formulas": list(rows.formulas)},
        "metrics": metrics(rows.sc, mean, rows.formulas),
    }
    return SCPredictor(rows, learned, np.abs(rows.sc - mean) / spread, card, mean)
