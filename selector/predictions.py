"""What is stored of a prediction: SC with its calibrated interval, what it is worth, and the latent vector."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from selector import calibration

Array = NDArray[np.float64]

PRIOR_SC, PRIOR_SPREAD = 0.8, 0.1
"""What is said of every crystal while there is no model: median and standard deviation of SC over 95 labels.

Every expected error is the same then, whatever these are, so that `value_per_cost` begins with the cheapest.
"""


def to_documents(
    mean: ArrayLike, spread: ArrayLike, latent: Array, scores: ArrayLike, threshold: float
) -> list[dict[str, Any]]:
    """n predictions as the store keeps them: numbers, and the latent vector as float32 bytes.

    Parameters
    ----------
    mean, spread, scores : as for :func:`selector.calibration.interval`
    latent : (n, d)
    threshold : SC below which RPA is wanted

    Raises
    ------
    SelectorError
        As :func:`selector.calibration.interval`.
    """
    lo, hi = calibration.interval(mean, spread, scores)
    columns = {
        "sc_mean": mean,
        "sc_std": spread,
        "sc_lo": lo,
        "sc_hi": hi,
        "p_low": calibration.p_low(mean, spread, scores, threshold),
        "value": calibration.expected_error(mean, spread, scores, threshold),
    }
    rows = zip(*(np.asarray(column, dtype=float).tolist() for column in columns.values()), strict=True)
    vectors = np.asarray(latent, dtype="<f4")
    return [dict(zip(columns, row, strict=True), latent=v.tobytes()) for row, v in zip(rows, vectors, strict=True)]


def prior(threshold: float) -> dict[str, Any]:
    """The prediction of any crystal while there is no model: no held-out scores, no latent vector."""
    (said,) = to_documents([PRIOR_SC], [PRIOR_SPREAD], np.empty((1, 0)), [], threshold)
    return said | {"out_of_domain": False, "model_id": None, "model_round": None, "calibration": "prior"}


def latent_vectors(documents: Sequence[dict[str, Any]], d: int | None = None) -> Array:
    """Latent vectors (n, d) of n predictions of one model; ``d`` is needed only where there may be none.

    Raises
    ------
    ValueError
        They differ in length, which those of one model do not.
    """
    data = [p["latent"] for p in documents]
    if len({len(x) for x in data}) > 1:
        raise ValueError("latent vectors of different lengths in one pool")
    d = len(data[0]) // 4 if data else d or 0
    return np.frombuffer(b"".join(data), dtype="<f4").reshape(len(data), d).astype(np.float64)
