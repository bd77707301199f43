"""The rows of `benchmarks/accuracy.py` that cost next to nothing: baselines, and the predictors that ship.

A row is a function from training labels, test labels and a seed to (3, m): predictions and the ends of 90 % intervals,
NaN for a row that has none. Whatever it chooses, it chooses inside its training labels.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from models.features import composition_features
from models.labels import Label
from models.sc_predictor import SCPredictor
from models.sc_regression import log_gap
from selector.calibration import interval

Array = NDArray[np.float64]
Row = Callable[[Sequence[Label], Sequence[Label], int], Array]
Describe = Callable[[Sequence[Label]], Array]

GUESS, DEFAULT, SPECTRUM = "guess the median", "default predictor", "with the IPA spectrum"
SIMPLE = ("ridge on composition", "extra trees on composition", "ridge on CHGNet and composition")
CHEAP = (GUESS, *SIMPLE, DEFAULT, SPECTRUM)
PENALTIES = 10.0 ** np.arange(-1, 5)
N_TREES = 300


def targets(labels: Sequence[Label]) -> Array:
    return np.array([label.sc for label in labels])


def bare(mean: Array) -> Array:
    """Predictions (m,) without intervals."""
    return np.stack([mean, np.full_like(mean, np.nan), np.full_like(mean, np.nan)])


def guess_median(training: Sequence[Label], test: Sequence[Label], seed: int) -> Array:
    return bare(np.full(len(test), np.median(targets(training))))


def composition(labels: Sequence[Label]) -> Array:
    return composition_features([label.structure for label in labels])


def with_embeddings(labels: Sequence[Label], embeddings: Mapping[str, Array]) -> Array:
    return np.hstack([np.array([embeddings[label.material_id] for label in labels]), composition(labels)])


def ridge(training: Sequence[Label], test: Sequence[Label], seed: int, describe: Describe = composition) -> Array:
    """Ridge regression of SC or of log(1 - SC); target and penalty by the leave-one-out error, in closed form."""
    x, xt, sc = describe(training), describe(test), targets(training)
    centre, sd = x.mean(axis=0), x.std(axis=0)
    x, xt = ((a - centre)[:, sd > 1e-8] / sd[sd > 1e-8] for a in (x, xt))
    u, s, vt = np.linalg.svd(x, full_matrices=False)
    best, chosen = np.inf, np.empty(0)
    for y, back in ((sc, lambda y: y), (log_gap(sc), lambda y: 1.0 - np.exp(y))):
        for penalty in PENALTIES:
            hat = (u * (s**2 / (s**2 + penalty))) @ u.T + 1.0 / len(y)
            left_out = y - (y - hat @ y) / (1.0 - np.diag(hat))
            error = np.abs(back(left_out) - sc).mean()
            if error < best:
                best = error
                chosen = back(y.mean() + xt @ (vt.T @ ((s / (s**2 + penalty)) * (u.T @ (y - y.mean())))))
    return bare(chosen)


def extra_trees(training: Sequence[Label], test: Sequence[Label], seed: int) -> Array:
    from sklearn.ensemble import ExtraTreesRegressor

    trees = ExtraTreesRegressor(N_TREES, max_features=0.5, random_state=seed)
    return bare(trees.fit(composition(training), targets(training)).predict(composition(test)))


def shipped_method(training: Sequence[Label], test: Sequence[Label], seed: int, spectra: bool = False) -> Array:
    """The whole procedure behind the weights that ship: recipe, kernel and intervals from the training labels alone."""
    known, asked = ([k.ipa for k in part] if spectra else None for part in (training, test))
    predictor = SCPredictor.fit(
        [k.structure for k in training],
        targets(training),
        [k.formula for k in training],
        spectra=known,
        engine=training[0].engine,
        settings_hash=training[0].settings_hash,
        seed=seed,
    )
    said = predictor.predict([k.structure for k in test], asked)
    return np.stack([said.mean, *interval(said.mean, said.spread, predictor.scores)])


def cheap_rows(embeddings: Mapping[str, Array]) -> dict[str, Row]:
    """All rows of this module by name.

    Parameters
    ----------
    embeddings : vector of each material id that will be asked for; may be empty if that row is not run
    """
    functions: tuple[Row, ...] = (
        guess_median,
        ridge,
        extra_trees,
        partial(ridge, describe=partial(with_embeddings, embeddings=embeddings)),
        shipped_method,
        partial(shipped_method, spectra=True),
    )
    return dict(zip(CHEAP, functions, strict=True))


def chgnet_embeddings(labels: Sequence[Label], cache: Path | None = None) -> dict[str, Array]:
    """CHGNet's crystal feature, then mean, deviation and maximum of its atom features, by material id: (256,) each.

    CHGNet: Deng et al., Nat. Mach. Intell. 5, 1031 (2023); its weights come with the PyPI package. It was trained on
    energies, forces, stresses and magnetic moments, never on spectra.

    Parameters
    ----------
    labels : of the crystals to embed
    cache : npz that is read and added to
    """
    known: dict[str, Array] = {}
    if cache is not None and cache.is_file():
        with np.load(cache, allow_pickle=False) as stored:
            known = {k: stored[k] for k in stored.files}
    missing = [label for label in labels if label.material_id not in known]
    if missing:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            from chgnet.model import CHGNet

            model = CHGNet.load(use_device="cpu", verbose=False)
        for label in missing:
            out = model.predict_structure(label.structure, task="e", return_crystal_feas=True, return_atom_feas=True)
            atoms = out["atom_fea"]
            parts = [out["crystal_fea"], atoms.mean(axis=0), atoms.std(axis=0), atoms.max(axis=0)]
            known[label.material_id] = np.concatenate(parts).astype(float)
        if cache is not None:
            np.savez_compressed(cache, **known)
    return {label.material_id: known[label.material_id] for label in labels}
