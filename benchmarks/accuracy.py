"""How well SC is predicted from structure: ``python benchmarks/accuracy.py`` from the repository's root.

Cross-validation on a frozen manifest: 5 folds, 3 seeds, folds of whole groups, once by reduced formula and once by
prototype (space group, stoichiometry, groups of the periodic table; claims of generalisation quote this one). No row
sees a label of its test fold in any way, nor of a formula in it. `fresh labels` are those that nobody had seen when the
features of the default predictor were made: it learns from the earlier ones and is judged on these, once.

About two and a half hours of one core, nearly all of it the paper's network; ``--jobs`` spreads the folds over
processes, and ``--keep`` lets it be interrupted.
"""

from __future__ import annotations

import argparse
import json
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accuracy_figures import bootstrap_ratio, expected_coverage, figures
from accuracy_network import FROM_IPA, SCRATCH, Effort, PaperNetwork
from accuracy_rows import CHEAP, DEFAULT, SIMPLE, SPECTRUM, Row, cheap_rows, chgnet_embeddings, targets
from learning_curve import draw, learning_curve
from numpy.typing import NDArray
from processes import Submit, kept, name_of, workers

from models.grouping import prototype_groups
from models.labels import SHIPPED, Label, grouped_folds, load_labels, read_manifest

Array = NDArray[np.float64]
Fold = Callable[..., dict[str, tuple[Array, float]]]

HERE = Path(__file__).parent
MANIFEST = HERE / "manifests" / "2026-11-21-231.json"
SEEN = HERE / "manifests" / "2026-11-21-138.json"
"""The labels that were looked at while the features of the default predictors were made."""
NETWORK = (SCRATCH, FROM_IPA)
ROWS = (*CHEAP[:-2], *NETWORK, *CHEAP[-2:])
N_FOLDS, SEEDS = 5, (0, 1, 2)
PARTS = ("formula", "prototype", "fresh")
COLUMNS = ("mae", "mae_sd", "median", "rmse", "r2", "spearman", "recall", "precision", "coverage", "width", "fold_s")


def one_fold(
    rows: dict[str, Row], training: Sequence[Label], test: Sequence[Label], seed: int
) -> dict[str, tuple[Array, float]]:
    """What every row says of the test labels, (3, m), and its CPU seconds."""
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    out = {}
    for name, row in rows.items():
        start = time.process_time()
        said = row(training, test, seed)
        out[name] = (said, time.process_time() - start)
    return out


def kept_fold(path: Path, function: Fold, *args: Any) -> dict[str, tuple[Array, float]]:
    """What a fold's function returns, from a file if an earlier run has left it there."""
    said = kept(path, _as_lists, function, *args)
    return {name: (np.array(values), cpu_s) for name, (values, cpu_s) in said.items()}


def _as_lists(function: Fold, *args: Any) -> dict[str, tuple[list[Any], float]]:
    return {name: (values.tolist(), cpu_s) for name, (values, cpu_s) in function(*args).items()}


def keeping(submit: Submit, folder: Path) -> Submit:
    """The same, but each fold is kept in a file of ``folder``, whose name says who learned from what."""

    def submitted(
        function: Fold, rows: dict[str, Row], training: Sequence[Label], test: Sequence[Label], seed: int
    ) -> Callable[[], Any]:
        about = [sorted(rows), *([k.material_id for k in part] for part in (training, test)), seed]
        return submit(kept_fold, folder / name_of("fold", about), function, rows, training, test, seed)

    return submitted


def cross_validate(
    rows: dict[str, Row],
    labels: Sequence[Label],
    groups: Sequence[str],
    seeds: Sequence[int],
    n_folds: int,
    submit: Submit,
) -> tuple[dict[str, Array], dict[str, float]]:
    """Of each row: held-out predictions with intervals, (n_seeds, 3, n), and CPU seconds a fold."""
    said = {name: np.empty((len(seeds), 3, len(labels))) for name in rows}
    seconds: dict[str, list[float]] = {name: [] for name in rows}
    waiting = []
    for i, seed in enumerate(seeds):
        fold = grouped_folds(groups, n_folds, seed)
        for f in range(int(fold.max()) + 1):
            training, test = ([labels[k] for k in np.flatnonzero(part)] for part in (fold != f, fold == f))
            waiting.append((i, fold == f, submit(one_fold, rows, training, test, seed)))
    for i, held, result in waiting:
        for name, (values, cpu_s) in result().items():
            said[name][i][:, held] = values
            seconds[name].append(cpu_s)
    return said, {name: float(np.mean(s)) for name, s in seconds.items()}


def fresh_labels(rows: dict[str, Row], labels: Sequence[Label], seen: set[str], submit: Submit) -> dict[str, Any]:
    """Every row learns from the labels in `seen`, save those of a fresh formula, and is judged on the others."""
    test = [k for k in labels if k.material_id not in seen]
    formulas = {k.formula for k in test}
    training = [k for k in labels if k.material_id in seen and k.formula not in formulas]
    said = submit(one_fold, rows, training, test, 0)()
    table = {name: figures(values[None], targets(test)) | {"fold_s": cpu_s} for name, (values, cpu_s) in said.items()}
    return {"n_training": len(training), "n_test": len(test), "rows": table}


def compared(said: dict[str, Array], sc: Array, groups: Sequence[str], subject: str) -> dict[str, Any]:
    """Paired ratios of the subject's MAE to every other row's, with 95 % intervals over groups; the best simple row."""
    error = {name: np.abs(values[:, 0] - sc).mean(axis=0) for name, values in said.items()}
    ratios = {name: bootstrap_ratio(error[subject], e, groups) for name, e in error.items() if name != subject}
    simple = [name for name in SIMPLE if name in error]
    best = min(simple, key=lambda name: error[name].mean()) if simple else None
    return {"ratios": ratios, "best simple row": best}


def show(title: str, rows: dict[str, dict[str, float]]) -> None:
    print(f"\n{title}")
    print(" " * 34 + "".join(f"{c:>{max(8, len(c) + 1)}s}" for c in COLUMNS))
    for name, values in rows.items():
        cells = [f"{values[c]:.3f}" if np.isfinite(values[c]) else "" for c in COLUMNS]
        for k, c in enumerate(COLUMNS):
            if c in ("mae", "mae_sd"):
                cells[k] = f"{values[c]:.4f}"
        print(f"{name:34s}" + "".join(f"{cell:>{max(8, len(c) + 1)}s}" for cell, c in zip(cells, COLUMNS, strict=True)))


def show_comparison(table: dict[str, dict[str, float]], ratios: dict[str, Any], n: int) -> None:
    for subject, found in ratios.items():
        for name, (ratio, low, high) in found["ratios"].items():
            note = "  <- the best simple row" if name == found["best simple row"] else ""
            print(f"MAE of {subject} / {name}: {ratio:.3f} (95 %: {low:.3f} to {high:.3f}){note}")
        low, high = expected_coverage(n)
        print(f"coverage of {subject}: {table[subject]['coverage']:.3f}; honest ones lie in {low:.3f} to {high:.3f}")


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--labels", type=Path, default=SHIPPED)
    parser.add_argument("--manifest", type=Path, default=MANIFEST)
    parser.add_argument("--rows", nargs="*", choices=ROWS, default=list(ROWS), help="all by default")
    parser.add_argument("--parts", nargs="*", choices=PARTS, default=list(PARTS), help="all by default")
    parser.add_argument("--jobs", type=int, default=1, help="processes")
    parser.add_argument("--embeddings", type=Path, help="npz that keeps CHGNet's embeddings from run to run")
    parser.add_argument("--keep", type=Path, help="folder that keeps every fold; called again, it goes on from there")
    parser.add_argument("--out", type=Path, help="write the figures as JSON, too")
    parser.add_argument("--curve", type=Path, help="draw the learning curve to STEM.png and STEM.svg")
    parser.add_argument("--quick", action="store_true", help="3 folds, 1 seed, 2 epochs: whether it runs, no figures")
    a = parser.parse_args(argv)
    warnings.simplefilter("ignore")
    start = time.perf_counter()
    seeds, n_folds = (SEEDS[:1], 3) if a.quick else (SEEDS, N_FOLDS)
    labels = load_labels(a.labels, read_manifest(a.manifest))
    sc, formulas = targets(labels), [k.formula for k in labels]
    embeddings = chgnet_embeddings(labels, a.embeddings) if SIMPLE[2] in a.rows else {}
    every = cheap_rows(embeddings) | PaperNetwork(Effort().quick() if a.quick else Effort()).rows()
    rows = {name: every[name] for name in ROWS if name in a.rows}
    groupings = {"formula": formulas, "prototype": prototype_groups([k.structure for k in labels], formulas)}
    groupings = {name: groups for name, groups in groupings.items() if name in a.parts}
    subjects = [name for name in (DEFAULT, SPECTRUM) if name in rows]
    record: dict[str, Any] = {
        "manifest": a.manifest.name, "n_labels": len(labels), "folds": n_folds, "seeds": seeds, "quick": a.quick,
    }  # fmt: skip
    if a.quick:
        print("--quick: these are not the figures that are quoted")
    with workers(a.jobs) as run:
        submit = keeping(run, a.keep) if a.keep else run
        for name, groups in groupings.items():
            said, seconds = cross_validate(rows, labels, groups, seeds, n_folds, submit)
            table = {row: figures(values, sc) | {"fold_s": seconds[row]} for row, values in said.items()}
            ratios = {subject: compared(said, sc, groups, subject) for subject in subjects}
            n_groups = len(set(groups))
            record[name] = {"n_groups": n_groups, "rows": table, "compared": ratios}
            show(f"{len(labels)} labels, {n_folds} folds by {name} ({n_groups} groups), {len(seeds)} seeds", table)
            show_comparison(table, ratios, len(labels))
        if "fresh" in a.parts:
            fresh = fresh_labels(rows, labels, set(read_manifest(SEEN)), submit)
            record["fresh labels"] = fresh
            show(f"fresh labels: {fresh['n_training']} earlier ones, judged on {fresh['n_test']}", fresh["rows"])
        if a.curve:
            cheap = {name: row for name, row in rows.items() if name in CHEAP}
            curve = learning_curve(cheap, labels, formulas, seeds, n_folds, submit, one_fold)
            record["learning curve"] = curve
            draw(curve, a.curve)
            for name, points in curve["mae"].items():
                print(f"{name:34s}" + "".join(f"{n:6.0f}: {m:.4f}" for n, m in zip(curve["n"], points, strict=True)))
    record["wall_s"] = time.perf_counter() - start
    print(f"\n{record['wall_s']:.0f} s")
    if a.out:
        a.out.parent.mkdir(parents=True, exist_ok=True)
        a.out.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
