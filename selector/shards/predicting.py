"""The rows of a shard -> predictions, batch by batch; what is broken keeps its place and says why."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pymatgen.core import Structure

from selector.errors import SelectorError
from selector.predictions import to_documents
from selector.protocols import Prediction
from selector.shards.source import Row

Document = dict[str, Any]
Predict = Callable[[Sequence[Structure]], Prediction]
BATCH = 512
"""Crystals at once: the features of so many take some 100 MB at most."""


def predictions(
    rows: Iterable[Row], predict: Predict, scores: NDArray[np.float64], threshold: float
) -> Iterator[list[Document]]:
    """A document for each row, in batches and in order: `selector.shards.output.COLUMNS`, or index, name and reason."""
    stream = iter(rows)
    while batch := list(islice(stream, BATCH)):
        good = [row for row in batch if row.structure is not None]
        said = {d["index"]: d for d in _said(good, predict, scores, threshold)}
        yield [said.get(row.index) or _broken(row, str(row.reason), str(row.message)) for row in batch]


def _said(rows: Sequence[Row], predict: Predict, scores: NDArray[np.float64], threshold: float) -> list[Document]:
    """Predictions; where a batch is refused, the crystal that is at fault is found by halving."""
    structures = [row.structure for row in rows if row.structure is not None]
    if not structures:
        return []
    try:
        p = predict(structures)
        numbers = to_documents(p.mean, p.spread, np.empty((len(rows), 0)), scores, threshold)
    except (SelectorError, ValueError, LookupError, ArithmeticError) as e:
        if len(rows) == 1:
            return [_broken(rows[0], "no_prediction", f"{rows[0].material_id}: {' '.join(str(e).split())[:200]}")]
        half = len(rows) // 2
        return [d for part in (rows[:half], rows[half:]) for d in _said(part, predict, scores, threshold)]
    documents = []
    for row, structure, said, odd in zip(rows, structures, numbers, p.out_of_domain, strict=True):
        del said["latent"]
        about = {"index": row.index, "material_id": row.material_id, "nsites": len(structure)}
        about["formula"] = str(structure.composition.reduced_formula)
        documents.append({**about, **said, "out_of_domain": bool(odd)})
    return documents


def _broken(row: Row, reason: str, message: str) -> Document:
    return {"index": row.index, "material_id": row.material_id, "reason": reason, "message": message}
