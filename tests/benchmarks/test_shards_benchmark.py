"""The benchmark of sharded prediction: its candidates are what its recipe says, and its own checks can fail."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from types import ModuleType

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from selector.shards.structures import from_arrays
from selector.structure_checks import StructureError, check_structure

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def shards() -> Iterator[ModuleType]:
    spec = importlib.util.spec_from_file_location("shards_benchmark", ROOT / "benchmarks" / "shards.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    yield module


def test_candidates_are_plausible_repeatable_and_broken_where_it_says(
    shards: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shards, "BROKEN_EVERY", 100)
    made = list(shards.candidates(300, 0))
    assert made[:5] == list(islice(shards.candidates(300, 0), 5)) != list(islice(shards.candidates(300, 1), 5))
    assert len({str(c["lattice"]) for c in made}) == 300
    broken = []
    for k, c in enumerate(made):
        try:
            check_structure(from_arrays(c["lattice"], c["species"], frac=c["frac"]))
        except StructureError as e:
            assert e.reason == "overlapping_atoms"
            broken.append(k)
    assert broken == [99, 199, 299]


def test_what_is_missing_or_doubled_is_seen(shards: ModuleType, tmp_path: Path) -> None:
    rows = [{"index": k, "sc_mean": 0.5 if k else None, "reason": None} for k in (0, 1, 1, 3)]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "shard-000000.parquet")
    assert shards.exactly_once(tmp_path, 4) == {"missing": 1, "doubled": 1, "broken": 1}
