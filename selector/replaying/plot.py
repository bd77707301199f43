"""Error removed against budget spent, as a picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike

from selector.errors import UsageError

SUFFIXES = (".png", ".svg", ".pdf")
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#e69f00", "#56b4e9", "#cc79a7", "#777777")


def check_suffix(path: Path) -> None:
    """`UsageError` if no picture can be written under that name."""
    if path.suffix not in SUFFIXES:
        raise UsageError(f"{path}: unknown kind of picture; name one that ends in {', '.join(SUFFIXES)}")


def draw(spent: ArrayLike, curves: Mapping[str, Sequence[ArrayLike]], path: Path, title: str = "") -> None:
    """Write a picture: the mean of each policy's curves, with a band that holds 95 % of them.

    Parameters
    ----------
    spent : (k,) share of the budget
    curves : policy -> n curves (k,), the share of the error removed
    path : .png, .svg or .pdf

    Raises
    ------
    UsageError
        Another suffix.
    """
    from matplotlib.figure import Figure

    check_suffix(path)
    figure = Figure(figsize=(6.4, 4.2), layout="constrained")
    axes = figure.subplots()
    for i, (policy, of_policy) in enumerate(curves.items()):
        y = np.asarray(of_policy, dtype=float)
        colour = "black" if policy == "oracle" else COLOURS[i % len(COLOURS)]
        axes.plot(spent, y.mean(axis=0), color=colour, ls=":" if policy == "oracle" else "-", label=policy)
        if len(y) > 1:
            lo, hi = np.quantile(y, [0.025, 0.975], axis=0)
            axes.fill_between(np.asarray(spent, dtype=float), lo, hi, color=colour, alpha=0.1, linewidth=0)
    axes.set(xlabel="share of the budget spent", ylabel="share of the spectral error removed", xlim=(0, 1), ylim=(0, 1))
    axes.set_title(title, fontsize=9)
    axes.grid(alpha=0.3)
    axes.legend(frameon=False, fontsize=8)
    metadata = {"Date": None} if path.suffix == ".svg" else {}
    figure.savefig(path, dpi=150, metadata=metadata)
