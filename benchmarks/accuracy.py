"""How well SC is predicted from structure: ``python benchmarks/accuracy.py`` from the repository's root.

Cross-validation on a frozen manifest: 10 folds, 3 seeds, folds grouped by reduced formula. Every choice a row makes
(length scales, ridge penalty, early stop) is made inside its training fold. A row is a function from training labels,
test labels and a seed to predictions; a new one is an entry in `ROWS`.
"""

from __future__ import annotations

import argparse
import json
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from pymatgen.core import Structure

from models.checkpoints import default_checkpoint, load
from models.features import composition_features
from models.graphs import build_graphs
from models.labels import SHIPPED, Label, grouped_folds, load_labels, read_manifest
from models.optimate import OptiMate
from models.sc_predictor import SCPredictor
from models.sc_regression import metrics
from models.training import TrainingSettings, apply, seeded, train

Array = NDArray[np.float64]
Row = Callable[[Sequence[Label], Sequence[Label], int], Array]

HERE = Path(__file__).parent
MANIFEST = HERE / "manifests" / "2026-11-21.json"
DEMO = HERE.parent / "configs" / "demo"
N_FOLDS, SEEDS = 10, (0, 1, 2)
PENALTIES = 10.0 ** np.arange(-1, 4)


def targets(labels: Sequence[Label]) -> Array:
    return np.array([label.sc for label in labels])


def guess_median(training: Sequence[Label], test: Sequence[Label], seed: int) -> Array:
    return np.full(len(test), np.median(targets(training)))


def ridge_composition(training: Sequence[Label], test: Sequence[Label], seed: int) -> Array:
    """Ridge regression on composition; its penalty by leave-one-out error in closed form."""
    x, xt = (composition_features([label.structure for label in part]) for part in (training, test))
    sd = x.std(axis=0)
    x, xt = ((a - x.mean(axis=0))[:, sd > 1e-8] / sd[sd > 1e-8] for a in (x, xt))
    y = targets(training)
    u, s, vt = np.linalg.svd(x, full_matrices=False)
    error = []
    for penalty in PENALTIES:
        hat = (u * (s**2 / (s**2 + penalty))) @ u.T + 1.0 / len(y)
        error.append(np.abs((y - hat @ y) / (1.0 - np.diag(hat))).mean())
    penalty = PENALTIES[int(np.argmin(error))]
    return y.mean() + xt @ (vt.T @ ((s / (s**2 + penalty)) * (u.T @ (y - y.mean()))))


def paper_network(training: Sequence[Label], test: Sequence[Label], seed: int) -> Array:
    """The paper's network at its published size, from scratch; a tenth of the training fold decides when to stop."""
    fold = grouped_folds([label.formula for label in training], 10, seed)
    parts = [[k for k, f in zip(training, fold == 0, strict=True) if f == held] for held in (False, True)]
    data = [
        (build_graphs([k.structure for k in p]), torch.tensor(targets(p), dtype=torch.float32)[:, None]) for p in parts
    ]
    with seeded(seed):
        network = OptiMate()
    train(network, *data[0], data[1], TrainingSettings(epochs=150, patience=30, seed=seed))
    return apply(network, build_graphs([k.structure for k in test]))[:, 0].double().numpy()


def default_predictor(training: Sequence[Label], test: Sequence[Label], seed: int) -> tuple[Array, SCPredictor]:
    kept = {"engine": training[0].engine, "settings_hash": training[0].settings_hash}
    predictor = SCPredictor.fit(
        [k.structure for k in training], targets(training), [k.formula for k in training], seed=seed, **kept
    )
    return predictor.predict([k.structure for k in test]).mean, predictor


@dataclass
class Result:
    """Held-out predictions of one row: (n_seeds, n) and seconds a fold."""

    predictions: Array
    fold_s: float


ROWS: dict[str, Row] = {
    "guess the median": guess_median,
    "ridge on composition": ridge_composition,
    "paper's network": paper_network,
    "default predictor": lambda a, b, s: default_predictor(a, b, s)[0],
}


def cross_validate(row: Row, labels: Sequence[Label], seeds: Sequence[int]) -> Result:
    """Every label predicted once a seed by a model that never saw its formula."""
    out, start = np.empty((len(seeds), len(labels))), time.perf_counter()
    folds = 0
    for i, seed in enumerate(seeds):
        fold = grouped_folds([k.formula for k in labels], N_FOLDS, seed)
        for f in range(int(fold.max()) + 1):
            training = [k for k, held in zip(labels, fold == f, strict=True) if not held]
            test = [k for k, held in zip(labels, fold == f, strict=True) if held]
            out[i, fold == f] = row(training, test, seed)
            folds += 1
    return Result(out, (time.perf_counter() - start) / folds)


def interval_check(labels: Sequence[Label], seeds: Sequence[int], coverage: float = 0.9) -> dict[str, float]:
    """Coverage and mean width of the default's intervals on test folds, from scores made inside the training folds."""
    hits, widths = [], []
    for seed in seeds:
        fold = grouped_folds([k.formula for k in labels], N_FOLDS, seed)
        for f in range(int(fold.max()) + 1):
            test = [k for k, held in zip(labels, fold == f, strict=True) if held]
            _, predictor = default_predictor([k for k, h in zip(labels, fold == f, strict=True) if not h], test, seed)
            said = predictor.predict([k.structure for k in test])
            m = len(predictor.scores)
            quantile = np.sort(predictor.scores)[min(m, int(np.ceil(coverage * (m + 1)))) - 1]
            hits.append(np.abs(targets(test) - said.mean) <= quantile * said.spread)
            widths.append(2 * quantile * said.spread)
    return {"coverage": float(np.concatenate(hits).mean()), "width": float(np.concatenate(widths).mean())}


def summary(result: Result, labels: Sequence[Label]) -> dict[str, float]:
    """Means over seeds, and the spread of the MAE over them."""
    formulas, y = [k.formula for k in labels], targets(labels)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a constant guess has no rank correlation
        each = [metrics(y, p, formulas) for p in result.predictions]
    out = {k: float(np.mean([m[f"oof_{k}"] for m in each])) for k in ("mae", "median", "rmse", "spearman")}
    return out | {"mae_sd": float(np.std([m["oof_mae"] for m in each])), "fold_s": result.fold_s}


def bootstrap_ratio(a: Array, b: Array, formulas: Sequence[str], draws: int = 4000) -> tuple[float, float, float]:
    """MAE of a over MAE of b, (n,) errors each, with its 95 % interval from resampled formulas."""
    names = sorted(set(formulas))
    member = np.array([names.index(f) for f in formulas])
    sums = np.stack([np.bincount(member, e) for e in (a, b)])
    drawn = np.random.default_rng(0).integers(0, len(names), (draws, len(names)))
    top, bottom = sums[:, drawn].sum(axis=-1)
    low, high = np.quantile(top / bottom, [0.025, 0.975])
    return float(a.sum() / b.sum()), float(low), float(high)


def demo_predictions(folder: Path = DEMO) -> list[tuple[str, str, float, float]]:
    """(material_id, formula, mean, spread) of the demo's candidates by the shipped weights, lowest SC first."""
    files = sorted(folder.glob("*.cif"))
    structures = [Structure.from_file(f) for f in files]
    said = load(default_checkpoint()).predict(structures)
    rows = [
        (f.stem, s.reduced_formula, float(m), float(d))
        for f, s, m, d in zip(files, structures, said.mean, said.spread, strict=True)
    ]
    return sorted(rows, key=lambda r: r[2])


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--labels", type=Path, default=SHIPPED)
    parser.add_argument("--manifest", type=Path, default=MANIFEST)
    parser.add_argument("--rows", nargs="*", choices=ROWS, default=list(ROWS), help="all by default")
    parser.add_argument("--out", type=Path, help="write the figures as JSON, too")
    parser.add_argument(
        "--demo", action="store_true", help="also predict the demo's candidates with the shipped weights"
    )
    a = parser.parse_args(argv)
    warnings.simplefilter("ignore")
    start = time.perf_counter()
    labels = load_labels(a.labels, read_manifest(a.manifest))
    formulas, y = [k.formula for k in labels], targets(labels)
    results = {name: cross_validate(ROWS[name], labels, SEEDS) for name in a.rows}
    figures: dict[str, object] = {
        "manifest": a.manifest.name, "n_labels": len(labels), "n_formulas": len(set(formulas)), "folds": N_FOLDS,
        "seeds": SEEDS, "rows": {name: summary(r, labels) for name, r in results.items()},
    }  # fmt: skip
    print(
        f"{len(labels)} labels, {len(set(formulas))} formulas ({a.manifest.name}), "
        f"{N_FOLDS} folds by formula, {len(SEEDS)} seeds"
    )
    print(f"{'':34s}{'MAE':>7s}{'+-':>7s}{'median':>8s}{'RMSE':>7s}{'Spearm.':>9s}{'s/fold':>8s}")
    for name, result in results.items():
        s = summary(result, labels)
        print(
            f"{name:34s}{s['mae']:7.4f}{s['mae_sd']:7.4f}{s['median']:8.4f}{s['rmse']:7.4f}{s['spearman']:9.2f}{s['fold_s']:8.2f}"
        )
    if "default predictor" in results:
        error = {name: np.abs(r.predictions - y).mean(axis=0) for name, r in results.items()}
        for name in results:
            if name != "default predictor":
                ratio = bootstrap_ratio(error["default predictor"], error[name], formulas)
                figures[f"ratio to {name}"] = ratio
                print(f"default / {name}: {ratio[0]:.3f} ({ratio[1]:.3f} to {ratio[2]:.3f})")
        figures["interval"] = interval = interval_check(labels, SEEDS)
        print(f"90 % intervals of the default: coverage {interval['coverage']:.3f}, mean width {interval['width']:.3f}")
    if a.demo:
        rows = demo_predictions()
        figures["demo"] = rows
        for row in rows:
            print(f"{row[0]}  {row[1]:10s} {row[2]:6.3f} +- {row[3]:.3f}")
        print(", ".join(f"{sum(r[2] < t for r in rows)} of {len(rows)} under {t}" for t in (0.75, 0.80)))
    figures["wall_s"] = time.perf_counter() - start
    print(f"{figures['wall_s']:.0f} s")
    print(json.dumps(figures))
    if a.out:
        a.out.write_text(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    main()
