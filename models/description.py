"""Blocks of numbers that describe a crystal, side by side in one row: which blocks a predictor holds is its own affair.

`geometry` and `pairs` are those of `models.features`; `composition` is the baseline's statistics; `density` that of
`models.densities`; `spectrum`, for a predictor that reads IPA spectra, that of `models.spectrum_features`. The last few
thousand crystals' rows are kept in memory, for whoever learns asks for the same ones again and again.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from pymatgen.core import Structure

from models.densities import DENSITY, density_features
from models.features import COMPOSITION, GEOMETRY, NO_CONTACT, PAIRS, composition_features, features
from models.neighbours import atomic_numbers
from models.spectrum_features import SPECTRUM, spectrum_features
from selector.errors import SelectorError
from selector.spectra import Spectrum

Array = NDArray[np.float64]

NAMES = {"geometry": GEOMETRY, "pairs": PAIRS, "composition": COMPOSITION, "density": DENSITY, "spectrum": SPECTRUM}
STRUCTURE = ("geometry", "pairs", "composition", "density")
STRUCTURE_AND_SPECTRUM = (*STRUCTURE, "spectrum")
KEPT = 4096
_kept: dict[bytes, Array] = {}


def describe(structures: Sequence[Structure], spectra: Sequence[Spectrum] | None, blocks: Sequence[str]) -> Array:
    """The blocks of n crystals, shape (n, width of all blocks).

    Parameters
    ----------
    structures : ordered crystals
    spectra : their n IPA spectra; None where no block needs them
    blocks : keys of `NAMES`, in the order of the columns

    Raises
    ------
    SelectorError
        A crystal or a spectrum can't be described, or spectra are missing or not wanted.
    """
    if ("spectrum" in blocks) != (spectra is not None):
        what = "reads the IPA spectrum beside the structure: give spectra" if spectra is None else "reads no spectra"
        raise SelectorError(f"this predictor {what}, or choose another")
    edges = np.cumsum([len(NAMES[block]) for block in STRUCTURE])[:-1]
    made = dict(zip(STRUCTURE, np.split(_from_structures(structures), edges, axis=1), strict=True))
    if spectra is not None:
        made["spectrum"] = spectrum_features(structures, spectra)
    return np.hstack([made[block] for block in blocks])


def isolated(rows: Array) -> NDArray[np.bool_]:
    """(n,) bool: whether the crystal of a description that begins with `geometry` has an atom that nothing touches."""
    alone: NDArray[np.bool_] = rows[:, GEOMETRY.index("nearest_ratio_max")] >= NO_CONTACT
    return alone


def owners(blocks: Sequence[str]) -> NDArray[np.int64]:
    """To which of the blocks each column belongs, shape (d,)."""
    return np.repeat(np.arange(len(blocks)), [len(NAMES[block]) for block in blocks])


def _from_structures(structures: Sequence[Structure]) -> Array:
    """The blocks of `STRUCTURE` side by side, one row a crystal."""
    keys = [s.lattice.matrix.tobytes() + s.frac_coords.tobytes() + atomic_numbers(s).tobytes() for s in structures]
    rows = {key: _kept[key] for key in keys if key in _kept}
    new = {key: s for key, s in zip(keys, structures, strict=True) if key not in rows}
    crystals = list(new.values())
    made = np.hstack([features(crystals), composition_features(crystals), density_features(crystals)])
    rows.update(zip(new, made, strict=True))
    _kept.update(zip(new, made, strict=True))
    for key in list(_kept)[: max(len(_kept) - KEPT, 0)]:
        del _kept[key]
    return np.array([rows[key] for key in keys]).reshape(len(keys), made.shape[1])
