"""What a predictor was trained on: checked labels with their crystals as vectors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from pymatgen.core import Structure

from models.description import describe
from models.elements import N_ELEMENTS
from models.labels import reduced_formula
from models.neighbours import atomic_numbers
from selector.errors import SelectorError
from selector.spectra import Spectrum

Array = NDArray[np.float64]
UNNAMED = "unnamed"


def checked(
    structures: Sequence[Structure],
    sc: Sequence[float] | Array,
    formulas: Sequence[str] | None,
    material_ids: Sequence[str] | None,
) -> tuple[Array, tuple[str, ...], tuple[str, ...]]:
    """SC, reduced formula and id of n labels; formulas are the structures' and ids `UNNAMED` where they are None.

    Raises
    ------
    SelectorError
        Not one of each for every structure, or an SC that is NaN or above 1.
    """
    target = np.asarray(sc, dtype=float)
    names = tuple(formulas) if formulas is not None else tuple(reduced_formula(s) for s in structures)
    ids = tuple(material_ids) if material_ids is not None else (UNNAMED,) * len(structures)
    if not len(structures) or {target.shape, (len(names),), (len(ids),)} != {(len(structures),)}:
        raise SelectorError(
            f"{len(structures)} structures, {target.size} SC, {len(names)} formulas, {len(ids)} ids: "
            "a label needs one of each"
        )
    bad = ~(np.isfinite(target) & (target <= 1.0))
    if bad.any():
        k = int(np.argmax(bad))
        raise SelectorError(f"{ids[k]} ({names[k]}): SC is {target[k]}, not a number up to 1: leave this label out")
    return target, names, ids


@dataclass(frozen=True)
class TrainingRows:
    """What a predictor was trained on; enough to train it again with more.

    Attributes
    ----------
    blocks : names of the blocks that describe a crystal
    features : (n, width of all blocks) float32
    sc : (n,)
    formulas, material_ids : n names each
    seen : (119,) bool, elements that occur, by atomic number
    """

    blocks: tuple[str, ...]
    features: NDArray[np.float32]
    sc: Array
    formulas: tuple[str, ...]
    material_ids: tuple[str, ...]
    seen: NDArray[np.bool_]

    @classmethod
    def of(
        cls,
        structures: Sequence[Structure],
        sc: Sequence[float] | Array,
        formulas: Sequence[str] | None,
        material_ids: Sequence[str] | None,
        spectra: Sequence[Spectrum] | None,
        blocks: tuple[str, ...],
    ) -> TrainingRows:
        """Check labels and describe their crystals."""
        target, names, ids = checked(structures, sc, formulas, material_ids)
        seen = np.zeros(N_ELEMENTS + 1, dtype=bool)
        for s in structures:
            seen[atomic_numbers(s)] = True
        return cls(blocks, describe(structures, spectra, blocks).astype(np.float32), target, names, ids, seen)

    def extended(self, new: TrainingRows) -> TrainingRows:
        """Both together; a new label of a material replaces its old one."""
        again = {i for i in new.material_ids if i != UNNAMED}
        keep = np.array([i not in again for i in self.material_ids])
        return TrainingRows(
            self.blocks,
            np.concatenate([self.features[keep], new.features]),
            np.concatenate([self.sc[keep], new.sc]),
            tuple(f for f, k in zip(self.formulas, keep, strict=True) if k) + new.formulas,
            tuple(i for i, k in zip(self.material_ids, keep, strict=True) if k) + new.material_ids,
            self.seen | new.seen,
        )
