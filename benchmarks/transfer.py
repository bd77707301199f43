"""What transfer from IPA saves in RPA labels: ``python benchmarks/transfer.py`` from the repository's root.

Five folds grouped by reduced formula, one seed each: the fold is tested, the rest is learned from. The IPA model learns
from the IPA spectra of all the rest, RPA labels are nested random subsets of it, or its small cells. Transfer starts
from the IPA model, direct learning from nothing. Each has three trials at every number of labels, judged on a fifth of
them that also stops the training: direct learning tries three published sizes, transfer three learning rates. Both are
scored by the median over the test fold of SC[predicted RPA; computed RPA] (the computed spectrum divides).

About an hour on one core; ``--jobs`` spreads the seeds over processes, and ``--keep`` lets it be interrupted. Each seed
has one thread, so that its sums, and with them the figures, do not depend on the number of cores.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from processes import kept, name_of, workers
from scipy.stats import t as student_t

from models.labels import SHIPPED, Label, grouped_folds, load_labels, read_manifest
from models.optimate import OptiMateSizes, read_sizes
from models.spectrum_learning import SpectrumLabels, agreement, learn, settings_for
from models.spectrum_model import SpectrumModel
from selector.spectra import similarity

Array = NDArray[np.float64]

HERE = Path(__file__).parent
MANIFEST = HERE / "manifests" / "2026-11-21-231.json"
SIZES = HERE.parent / "configs" / "optimate_sizes.yaml"
PICTURE = HERE.parent / "docs" / "images" / "transfer.png"
N_SEEDS = 5
LEVELS_N = (10, 30, 100, 300, 1000, 3000, 10000)
SMALL_CELLS = (3, 4)
IPA_SIZE = "ipa"
DIRECT_SIZES = ("ipa", "100", "300")
TRANSFER_RATES = (1e-4, 3e-4, 1e-3)
VALIDATION_SHARE = 0.2
# Grunert, Großmann and Runge, Nat. Commun. 16, 8142 (2025), Fig. 3: median SC of RPA spectra by number of labels, and
# of transfer from cells of at most so many atoms. Thousands of labels, other crystals, Yambo: beside ours, not against.
PAPER = {
    "n": [100, 300, 1000, 3000, 4610],
    "transfer": [0.835, 0.864, 0.882, 0.894, 0.894],
    "direct": [0.717, 0.755, 0.828, 0.875, 0.901],
    "small_cells": {2: 0.792, 3: 0.849, 4: 0.871, 5: 0.880, 6: 0.885},
    "ipa_taken_as_rpa": 0.690,
}


def subsets(labels: Sequence[Label], rows: NDArray[np.int64], seed: int) -> dict[str, NDArray[np.int64]]:
    """Nested random subsets of `rows` by number of labels, and those of small cells."""
    order = np.random.default_rng(seed).permutation(rows)
    levels = [n for n in LEVELS_N if n < len(rows)]
    out = {f"n = {n}": order[:n] for n in levels}
    if not levels or len(rows) > 1.2 * levels[-1]:
        out["n = all"] = order
    cells = {f"cells <= {k}": rows[[len(labels[i].structure) <= k for i in rows]] for k in SMALL_CELLS}
    return out | {name: chosen for name, chosen in cells.items() if len(chosen) >= 10}


def best_direct(rpa: SpectrumLabels, sizes: Sequence[OptiMateSizes], seed: int, epochs: int | None) -> SpectrumModel:
    """Direct learning with the size that does best on the validation part."""
    settings = settings_for(len(rpa), False, seed=seed, epochs=epochs)
    return _best([learn(rpa, sizes=s, settings=settings, validation_share=VALIDATION_SHARE) for s in sizes])


def best_transfer(rpa: SpectrumLabels, ipa_model: SpectrumModel, seed: int, epochs: int | None) -> SpectrumModel:
    """Transfer with the learning rate that does best on the validation part."""
    settings = settings_for(len(rpa), True, seed=seed, epochs=epochs)
    rates = [replace(settings, learning_rate=rate) for rate in TRANSFER_RATES]
    return _best([learn(rpa, start=ipa_model, settings=s, validation_share=VALIDATION_SHARE) for s in rates])


def _best(models: Sequence[SpectrumModel]) -> SpectrumModel:
    return min(models, key=lambda m: m.card["training"]["validation_loss"])


def one_seed(labels: Sequence[Label], fold: NDArray[np.int64], seed: int, epochs: int | None) -> dict[str, Any]:
    """Median SC over the test fold of both methods at every subset, and of the IPA spectra taken as RPA."""
    torch.set_num_threads(1)
    sizes = read_sizes(SIZES)
    ipa, rpa = (SpectrumLabels.of(labels, level) for level in ("ipa", "rpa"))
    test, rest = np.flatnonzero(fold == seed), np.flatnonzero(fold != seed)
    ipa_settings = settings_for(len(rest), False, seed=seed, epochs=epochs)
    ipa_model = learn(ipa.select(rest), sizes=sizes[IPA_SIZE], settings=ipa_settings)
    out: dict[str, Any] = {
        "IPA spectrum taken as RPA": float(np.median([_taken_as_rpa(labels[i]) for i in test])),
        "IPA model taken as RPA model": float(np.median(agreement(ipa_model, rpa.select(test)))),
        "subsets": {},
    }
    for name, rows in subsets(labels, rest, seed).items():
        part = rpa.select(rows)
        direct = best_direct(part, [sizes[s] for s in DIRECT_SIZES], seed, epochs)
        transfer = best_transfer(part, ipa_model, seed, epochs)
        out["subsets"][name] = {
            "n": len(rows),
            "direct": float(np.median(agreement(direct, rpa.select(test)))),
            "transfer": float(np.median(agreement(transfer, rpa.select(test)))),
            "direct_output_widths": list(direct.network.sizes.output),
            "transfer_learning_rate": transfer.card["training"]["learning_rate"],
        }
        print(f"seed {seed}, {name}: {out['subsets'][name]}", flush=True)
    return out


def _taken_as_rpa(label: Label) -> float:
    return similarity(label.ipa.mean.imag.astype(float), label.rpa.mean.imag.astype(float))


def interval(values: Array) -> tuple[float, float, float]:
    """Mean over seeds and its 95 % interval (Student's t)."""
    half = (
        student_t.ppf(0.975, len(values) - 1) * values.std(ddof=1) / np.sqrt(len(values)) if len(values) > 1 else np.nan
    )
    return float(values.mean()), float(values.mean() - half), float(values.mean() + half)


def summarise(seeds: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Means over seeds, with the paired difference at every subset that all of them have."""
    names = [n for n in seeds[0]["subsets"] if all(n in s["subsets"] for s in seeds)]
    rows = {}
    for name in names:
        n, direct, transfer = (np.array([s["subsets"][name][k] for s in seeds]) for k in ("n", "direct", "transfer"))
        rows[name] = {
            "n": float(n.mean()),
            "direct": interval(direct),
            "transfer": interval(transfer),
            "difference": interval(transfer - direct),
        }
    constants = ("IPA spectrum taken as RPA", "IPA model taken as RPA model")
    return {"rows": rows} | {k: interval(np.array([s[k] for s in seeds])) for k in constants}


def draw(figures: dict[str, Any], path: Path) -> None:
    """Median SC against the number of RPA labels, ours and the paper's."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(9.5, 4.0), sharey=True, width_ratios=[2, 1])
    colours = {"transfer": "#0072b2", "direct": "#d55e00"}
    rows = figures["rows"]
    for method, colour in colours.items():
        sized = [r for name, r in rows.items() if name.startswith("n = ")]
        mean, low, high = np.array([r[method] for r in sized]).T
        error = np.nan_to_num([mean - low, high - mean])
        left.errorbar(
            [r["n"] for r in sized], mean, error, color=colour, marker="o", capsize=3, label=f"{method}, here"
        )
        left.plot(PAPER["n"], PAPER[method], color=colour, ls=":", marker="s", mfc="none", label=f"{method}, the paper")
        cells = {int(name.split()[-1]): r for name, r in rows.items() if name.startswith("cells")}
        mean, low, high = np.array([r[method] for r in cells.values()]).T
        right.errorbar(list(cells), mean, np.nan_to_num([mean - low, high - mean]), color=colour, marker="o", capsize=3)
    paper_cells: Any = PAPER["small_cells"]
    right.plot(list(paper_cells), list(paper_cells.values()), color=colours["transfer"], ls=":", marker="s", mfc="none")
    for axis in (left, right):
        axis.axhline(
            figures["IPA spectrum taken as RPA"][0], color="0.4", ls="--", lw=1, label="IPA taken as RPA, here"
        )
        axis.axhline(PAPER["ipa_taken_as_rpa"], color="0.4", ls=":", lw=1, label="IPA taken as RPA, the paper")
    left.set(xscale="log", xlabel="RPA labels", ylabel="median SC[predicted; computed] of RPA spectra")
    right.set(xlabel="RPA labels of cells up to so many atoms")
    left.legend(fontsize=7, loc="lower right")
    figure.tight_layout()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)


def show(figures: dict[str, Any]) -> None:
    """The table."""
    print(f"{'RPA labels':14s}{'n':>6s}{'direct':>9s}{'transfer':>10s}  transfer - direct (95 %)")
    for name, r in figures["rows"].items():
        mean, low, high = r["difference"]
        scores = f"{r['direct'][0]:9.3f}{r['transfer'][0]:10.3f}"
        print(f"{name:14s}{r['n']:6.0f}{scores}  {mean:+.3f} ({low:+.3f} to {high:+.3f})")
    for name in ("IPA spectrum taken as RPA", "IPA model taken as RPA model"):
        print(f"{name}: {figures[name][0]:.3f}")
    print(f"the paper (Fig. 3): n {PAPER['n']}, transfer {PAPER['transfer']}, direct {PAPER['direct']},")
    print(f"  small cells {PAPER['small_cells']}, IPA taken as RPA {PAPER['ipa_taken_as_rpa']}")


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--labels", type=Path, default=SHIPPED)
    parser.add_argument("--manifest", type=Path, default=MANIFEST)
    parser.add_argument("--out", type=Path, help="write the figures as JSON, too")
    parser.add_argument("--picture", type=Path, default=PICTURE, help="where the curve is drawn")
    parser.add_argument("--seeds", type=int, default=N_SEEDS, choices=range(1, N_SEEDS + 1), help="so many of the five")
    parser.add_argument("--jobs", type=int, default=1, help="processes")
    parser.add_argument("--keep", type=Path, help="folder that keeps every seed; called again, it goes on from there")
    parser.add_argument("--epochs", type=int, help="at most so many; a few only show that it runs")
    a = parser.parse_args(argv)
    start = time.perf_counter()
    labels = load_labels(a.labels, read_manifest(a.manifest))
    fold = grouped_folds([k.formula for k in labels], N_SEEDS, 0)
    with workers(a.jobs) as run:
        waiting = []
        for seed in range(a.seeds):
            asked = (one_seed, labels, fold, seed, a.epochs)
            about = [[k.material_id for k in labels], seed, a.epochs]
            waiting.append(run(kept, a.keep / name_of("seed", about), *asked) if a.keep else run(*asked))
        seeds = [result() for result in waiting]
    figures = {"manifest": a.manifest.name, "n_labels": len(labels), **summarise(seeds), "paper": PAPER, "seeds": seeds}
    print(f"{len(labels)} labels ({a.manifest.name}), {len(seeds)} seeds, test folds by formula")
    show(figures)
    draw(figures, a.picture)
    figures["wall_s"] = time.perf_counter() - start
    print(f"{figures['wall_s']:.0f} s; picture in {a.picture}")
    print(json.dumps(figures))
    if a.out:
        a.out.write_text(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    main()
