"""Rows -> predictions -> outputs: each in its place, a shard whole or not there, runs never mixed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from pymatgen.core import Lattice, Structure
from pymongo.database import Database

from selector import calibration
from selector.errors import SelectorError, UsageError
from selector.shards import predicting
from selector.shards.collection import CollectionOutput
from selector.shards.output import COLUMNS, FolderOutput, Output, Plan
from selector.shards.predicting import predictions
from selector.shards.source import Row

SCORES = np.linspace(0.1, 2.0, 40)
PLAN = Plan({"kind": "parquet", "identity": {"contents": [[10, "aa"]]}}, "sc-1", None, 0.75, 2, [{"first": 0, "n": 2}])


@dataclass
class Said:
    mean: NDArray[np.float64]
    spread: NDArray[np.float64]
    latent: NDArray[np.float64]
    out_of_domain: NDArray[np.bool_]


def predict(structures: Sequence[Structure]) -> Said:
    """SC falls with the cell; a batch with a cell above 9 angstrom is refused whole, as real predictors do."""
    a = np.array([s.lattice.a for s in structures])
    if (a > 9).any():
        raise SelectorError(f"a cell of {a.max():g} angstrom")
    return Said(1 - a / 10, np.full(len(a), 0.1), np.zeros((len(a), 3)), a > 8)


def crystal(a: float) -> Structure:
    return Structure(Lattice.cubic(a), ["Mg", "O"], [[0, 0, 0], [0.5, 0.5, 0.5]])


def rows_of(cells: Sequence[float | None]) -> list[Row]:
    """None for a broken row."""
    return [
        Row(k, f"m{k}", None, "unreadable", "no") if a is None else Row(k, f"m{k}", crystal(a))
        for k, a in enumerate(cells)
    ]


@given(st.lists(st.one_of(st.none(), st.floats(3, 12)), max_size=40), st.integers(1, 7))
def test_every_row_keeps_its_place_and_one_at_fault_harms_no_other(cells: list[float | None], batch: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(predicting, "BATCH", batch)
        said = [d for part in predictions(rows_of(cells), predict, SCORES, 0.75) for d in part]
    assert [d["index"] for d in said] == list(range(len(cells)))
    for a, d in zip(cells, said, strict=True):
        if a is None:
            assert (d["reason"], d["message"]) == ("unreadable", "no")
        elif a > 9:
            assert d["reason"] == "no_prediction"
            assert "a cell of" in d["message"]
        else:
            lo, hi = calibration.interval([1 - a / 10], [0.1], SCORES)
            assert d["sc_mean"] == pytest.approx(1 - a / 10)
            assert (d["sc_lo"], d["sc_hi"]) == pytest.approx((lo[0], hi[0]))
            assert d["p_low"] == pytest.approx(calibration.p_low([1 - a / 10], [0.1], SCORES, 0.75)[0])
            assert d["value"] == pytest.approx(calibration.expected_error([1 - a / 10], [0.1], SCORES, 0.75)[0])
            assert (d["formula"], d["nsites"], d["out_of_domain"]) == ("MgO", 2, a > 8)
            assert d.keys() <= set(COLUMNS)


def test_a_fault_of_the_machine_is_no_fault_of_the_crystals() -> None:
    def out_of_memory(structures: Sequence[Structure]) -> Said:
        raise RuntimeError("CUDA out of memory")

    with pytest.raises(RuntimeError):
        list(predictions(rows_of([4.0]), out_of_memory, SCORES, 0.75))


@pytest.fixture(params=["folder", "collection"])
def output(request: pytest.FixtureRequest, tmp_path: Path, database: Database[Any]) -> Output:
    made: Output = (
        FolderOutput(tmp_path / "out") if request.param == "folder" else CollectionOutput(database, "predictions")
    )
    return made


def write(output: Output, k: int, rows: list[Row]) -> None:
    with output.shard(k) as put:
        for said in predictions(rows, predict, SCORES, 0.75):
            put(said)


def test_what_is_put_is_counted_named_and_ranked(output: Output) -> None:
    output.begin(PLAN)
    assert output.plan() == PLAN
    assert output.totals().shards == 0
    rows = rows_of([4.0, None, 7.0, 12.0, 5.0])
    write(output, 0, rows[:2])
    write(output, 2, rows[2:])
    assert output.done() == {0, 2}
    totals, summary = output.totals(), output.summary(1)
    assert (totals.shards, totals.n, totals.broken) == (2, 5, 2)
    assert summary.reasons == {"unreadable": 1, "no_prediction": 1}
    assert summary.named == ["no"]
    top = output.top(2)
    assert [row["material_id"] for row in top] == ["m2", "m4"]
    assert top[0]["value"] > top[1]["value"]
    assert "reason" not in top[0]
    assert len(output.top(10)) == 3


def test_a_shard_that_was_cut_short_is_not_there_and_written_again_it_is_there_once(output: Output) -> None:
    output.begin(PLAN)
    rows = rows_of([4.0, 5.0])
    with pytest.raises(RuntimeError), output.shard(0) as put:
        for said in predictions(rows[:1], predict, SCORES, 0.75):
            put(said)
        raise RuntimeError("the machine fails")
    assert output.done() == set()
    assert output.totals().n == 0
    write(output, 0, rows)
    write(output, 0, rows)
    assert output.totals().n == 2
    assert [row["index"] for row in output.top(10)] == [1, 0]


def test_a_folder_holds_nothing_but_the_plan_and_whole_shards(tmp_path: Path) -> None:
    output = FolderOutput(tmp_path / "out")
    output.begin(PLAN)
    (tmp_path / "out" / "shard-000000.parquet.elsewhere.17.part").write_text("of a process that was killed")
    write(output, 0, rows_of([4.0, None]))
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["run.json", "shard-000000.parquet"]
    table = pq.read_table(tmp_path / "out" / "shard-000000.parquet")
    assert tuple(table.column_names) == COLUMNS
    assert table.schema.metadata[b"model_id"] == b"sc-1"
    assert table["sc_mean"].to_pylist() == [pytest.approx(0.6), None]


def test_what_holds_other_things_is_refused(tmp_path: Path, database: Database[Any]) -> None:
    database["mine"].insert_one({"a": 1})
    with pytest.raises(UsageError, match="collection 'mine' holds other documents; name another with --into"):
        CollectionOutput(database, "mine").begin(PLAN)
    (tmp_path / "other.parquet").write_text("")
    with pytest.raises(UsageError, match="holds other Parquet files; choose another folder"):
        FolderOutput(tmp_path).begin(PLAN)
    (tmp_path / "run.json").write_text("{")
    with pytest.raises(SelectorError, match=r"run\.json: not the plan of a run"):
        FolderOutput(tmp_path).plan()


def test_a_damaged_shard_is_named(tmp_path: Path) -> None:
    output = FolderOutput(tmp_path)
    output.begin(PLAN)
    (tmp_path / "shard-000000.parquet").write_text("no")
    with pytest.raises(SelectorError, match=r"shard-000000\.parquet: damaged \(\w+\); remove it and run again"):
        output.totals()


def test_runs_are_told_apart_by_what_they_mean() -> None:
    moved = replace(PLAN, source={**PLAN.source, "files": ["elsewhere"]}, checkpoint="elsewhere")
    assert moved.run_id == PLAN.run_id
    others = [{"model_id": "sc-2"}, {"threshold": 0.8}, {"shard_size": 3}, {"source": {"identity": {}}}]
    assert len({PLAN.run_id, *(replace(PLAN, **change).run_id for change in others)}) == 5
