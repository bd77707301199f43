"""Crystals with their SC, as a model that learns from structures keeps them to replay them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pymatgen.core import Lattice, Structure

from models.spectrum_model import check_elements
from models.training_rows import UNNAMED, checked

Array = NDArray[np.float64]


@dataclass(frozen=True)
class LabelledCrystals:
    """What the members learned from; enough to replay it.

    Attributes
    ----------
    structures : n crystals
    sc : (n,)
    formulas, material_ids : n names each
    fold : (n,) int, the member that never saw this label; the same for a formula for good
    """

    structures: tuple[Structure, ...]
    sc: Array
    formulas: tuple[str, ...]
    material_ids: tuple[str, ...]
    fold: NDArray[np.int64]

    @classmethod
    def of(
        cls,
        structures: Sequence[Structure],
        sc: Sequence[float] | Array,
        formulas: Sequence[str] | None,
        material_ids: Sequence[str] | None,
        n_folds: int,
        seed: int,
        known: LabelledCrystals | None = None,
    ) -> LabelledCrystals:
        """Check labels, and draw a fold for each formula; those that are `known` keep theirs.

        Raises
        ------
        SelectorError
            A label is NaN or above 1, or an element has no input in the paper's network.
        """
        target, names, ids = checked(structures, sc, formulas, material_ids)
        check_elements(structures, [i if i != UNNAMED else f for i, f in zip(ids, names, strict=True)])
        folds = {} if known is None else dict(zip(known.formulas, known.fold.tolist(), strict=True))
        new = sorted(set(names) - folds.keys())
        order = np.random.default_rng(seed).permutation(len(new))
        folds |= {new[k]: i % n_folds for i, k in enumerate(order)}
        return cls(tuple(structures), target, names, ids, np.array([folds[f] for f in names]))

    def extended(self, new: LabelledCrystals) -> LabelledCrystals:
        """Both together; a new label of a material replaces its old one."""
        again = set(new.material_ids) - {UNNAMED}
        kept = [k for k, i in enumerate(self.material_ids) if i not in again]
        return LabelledCrystals(
            tuple(self.structures[k] for k in kept) + new.structures,
            np.concatenate([self.sc[kept], new.sc]),
            tuple(self.formulas[k] for k in kept) + new.formulas,
            tuple(self.material_ids[k] for k in kept) + new.material_ids,
            np.concatenate([self.fold[kept], new.fold]),
        )

    def to_arrays(self) -> dict[str, NDArray[Any]]:
        """Crystals and labels as flat arrays; the names go into the card."""
        sizes = [len(s) for s in self.structures]
        return {
            "atoms": np.cumsum([0, *sizes]),
            "numbers": np.concatenate([s.atomic_numbers for s in self.structures]).astype(np.int64),
            "frac": np.concatenate([s.frac_coords for s in self.structures]),
            "cell": np.stack([s.lattice.matrix for s in self.structures]),
            "sc": self.sc,
            "fold": self.fold,
        }

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[Any]], data: Mapping[str, Any]) -> LabelledCrystals:
        """What :meth:`to_arrays` and the card's `data` hold."""
        at = [slice(a, b) for a, b in pairwise(arrays["atoms"])]
        structures = tuple(
            Structure(Lattice(cell), arrays["numbers"][k].tolist(), arrays["frac"][k])
            for cell, k in zip(arrays["cell"], at, strict=True)
        )
        return cls(structures, arrays["sc"], tuple(data["formulas"]), tuple(data["material_ids"]), arrays["fold"])
