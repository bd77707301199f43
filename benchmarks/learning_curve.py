"""Labels against error: the learning curve of `benchmarks/accuracy.py`.

The test folds stay whole; of each training fold a row sees a random part, every part within the next larger one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from accuracy_rows import Row, targets

from models.labels import Label, grouped_folds

SIZES = (20, 40, 80, 120, 160)
COLOURS = ("#777777", "#e69f00", "#56b4e9", "#009e73", "#0072b2", "#d55e00")


def learning_curve(
    rows: dict[str, Row],
    labels: Sequence[Label],
    groups: Sequence[str],
    seeds: Sequence[int],
    n_folds: int,
    submit: Callable[..., Callable[[], Any]],
    one_fold: Callable[..., Any],
) -> dict[str, Any]:
    """Mean absolute error of each row by number of labels, and its deviation over seeds.

    Parameters
    ----------
    rows : by name
    labels, groups : n labels, and by what they are kept together
    seeds, n_folds : of the folds, and of the draws
    submit : runs a function, as `processes.workers` has it
    one_fold : `accuracy.one_fold`

    Returns
    -------
    ``n`` (k,) numbers of labels, ``mae`` and ``mae_sd`` by row (k,)
    """
    waiting = []
    for i, seed in enumerate(seeds):
        fold = grouped_folds(groups, n_folds, seed)
        for f in range(int(fold.max()) + 1):
            test = [labels[k] for k in np.flatnonzero(fold == f)]
            order = np.random.default_rng([seed, f]).permutation(np.flatnonzero(fold != f))
            for n in [*(n for n in SIZES if n < 0.95 * len(order)), len(order)]:
                size = n if n in SIZES else 0
                training = [labels[k] for k in order[:n]]
                waiting.append((i, size, n, targets(test), submit(one_fold, rows, training, test, seed)))
    errors: dict[tuple[str, int, int], list[np.ndarray]] = {}
    counts: dict[int, list[int]] = {}
    for i, size, n, sc, result in waiting:
        counts.setdefault(size, []).append(n)
        for name, (said, _) in result().items():
            errors.setdefault((name, size, i), []).append(np.abs(said[0] - sc))
    sizes = sorted(counts, key=lambda size: np.mean(counts[size]))
    by_seed = {
        name: np.array([[np.concatenate(errors[name, size, i]).mean() for i in range(len(seeds))] for size in sizes])
        for name in rows
    }
    return {
        "n": [float(np.mean(counts[size])) for size in sizes],
        "mae": {name: e.mean(axis=1).tolist() for name, e in by_seed.items()},
        "mae_sd": {name: e.std(axis=1).tolist() for name, e in by_seed.items()},
    }


def draw(curve: dict[str, Any], stem: Path) -> None:
    """Write STEM.png and STEM.svg."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    plt.rcParams["svg.hashsalt"] = "learning curve"  # the same file from the same figures
    figure, axes = plt.subplots(figsize=(6.4, 4.0), layout="constrained")
    for colour, (name, mae) in zip(COLOURS, curve["mae"].items(), strict=False):
        mean, sd = np.array(mae), np.array(curve["mae_sd"][name])
        axes.plot(curve["n"], mean, marker="o", ms=4, color=colour, label=name)
        axes.fill_between(curve["n"], mean - sd, mean + sd, color=colour, alpha=0.15, linewidth=0)
    axes.set(xlabel="labels to learn from", ylabel="mean absolute error of SC", ylim=(0, None))
    axes.grid(alpha=0.3)
    axes.legend(frameon=False, fontsize=8)
    stem.parent.mkdir(parents=True, exist_ok=True)
    for suffix, metadata in (("png", {}), ("svg", {"Date": None})):
        figure.savefig(f"{stem}.{suffix}", dpi=150, metadata=metadata)
    plt.close(figure)
