"""The map: latent vectors laid out in the plane by UMAP, alike crystals close together.

McInnes, Healy and Melville, arXiv:1802.03426 (2018). umap-learn is an optional dependency (extra ``map``); importing it
and its first compilation take some twenty seconds of one core, so it is imported only here, inside the function.
"""

from __future__ import annotations

import warnings

import numpy as np
from numpy.typing import ArrayLike, NDArray

from selector.errors import SelectorError

N_NEIGHBOURS = 30
MIN_DISTANCE = 0.1
MIN_CRYSTALS = 4
MAX_CRYSTALS = 2000
"""Distances are computed between all pairs: some seconds for this many, and growing with the square."""


def lay_out(latent: ArrayLike, seed: int = 0) -> NDArray[np.float64]:
    """Coordinates of n crystals in the plane, shape (n, 2); the same for the same input.

    Only nearness means something: neither the axes nor their scale do.

    Parameters
    ----------
    latent : (n, d) latent vectors, 4 <= n <= 2000
    seed : of the layout

    Raises
    ------
    SelectorError
        umap-learn is not installed, there are too few different crystals or too many, or a vector is not finite.
    """
    x = np.asarray(latent, dtype=np.float64)
    if not np.isfinite(x).all():
        raise SelectorError("a latent vector is not finite; make the map with another model")
    different = len(np.unique(x, axis=0))
    if different < MIN_CRYSTALS:
        raise SelectorError(f"a map needs {MIN_CRYSTALS} different crystals or more, here are {different}")
    if len(x) > MAX_CRYSTALS:
        raise SelectorError(f"a map holds at most {MAX_CRYSTALS} crystals, here are {len(x)}; leave some out")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ImportWarning)
            from umap import UMAP
    except ImportError:
        raise SelectorError(
            "the map needs umap-learn, which is not installed; pip install 'theory-level-selector[map]'"
        ) from None
    # Begun from the principal components: unlike the spectral layout these exist for few points, too.
    umap = UMAP(
        n_neighbors=min(N_NEIGHBOURS, len(x) - 1), min_dist=MIN_DISTANCE, init="pca", random_state=seed, n_jobs=1
    )
    return np.asarray(umap.fit_transform(x), dtype=np.float64)
