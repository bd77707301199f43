"""Structures from Parquet, extxyz, collections: every row once, in order, whatever the shards; broken ones named."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import ase
import ase.io
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from bson import ObjectId
from hypothesis import given
from hypothesis import strategies as st
from pymatgen.core import Lattice, Structure
from pymongo.database import Database

from selector.errors import SelectorError, UsageError
from selector.shards.collection import CollectionSource
from selector.shards.source import FileSource, Row, Source

ROOT = Path(__file__).parents[3]
POOL = [
    Structure(Lattice(r["cell"]), r["numbers"], r["frac"])
    for r in json.loads(gzip.decompress((ROOT / "benchmarks/data/pool.json.gz").read_bytes()))[::300]
]
N = len(POOL)


def own(s: Structure, k: int) -> dict[str, Any]:
    return {
        "mat_id": f"m{k}",
        "lattice": s.lattice.matrix.tolist(),
        "species": [site.specie.symbol for site in s],
        "frac": s.frac_coords.tolist(),
    }


def lematerial(s: Structure, k: int) -> dict[str, Any]:
    return {
        "immutable_id": f"m{k}",
        "lattice_vectors": s.lattice.matrix.tolist(),
        "species_at_sites": [site.specie.symbol for site in s],
        "cartesian_site_positions": s.cart_coords.tolist(),
    }


def as_text(s: Structure, k: int) -> dict[str, Any]:
    return {"id": f"m{k}", "structure": json.dumps(s.as_dict())}


def as_cif(s: Structure, k: int) -> dict[str, Any]:
    return {"material_id": f"m{k}", "cif": s.to(fmt="cif")}


def write_parquet(path: Path, rows: list[dict[str, Any]], group: int = 4) -> Path:
    pq.write_table(pa.Table.from_pylist(rows), path, row_group_size=group)
    return path


def write_extxyz(path: Path, structures: list[Structure] = POOL) -> Path:
    atoms = [
        ase.Atoms([x.specie.Z for x in s], cell=s.lattice.matrix, positions=s.cart_coords, pbc=True) for s in structures
    ]
    for k, a in enumerate(atoms):
        a.info["mat_id"] = f"m{k}"
        a.info["note"] = 'with "quotes" and = signs'
        a.arrays["forces"] = np.zeros((len(a), 3))
    ase.io.write(path, atoms, format="extxyz")
    return path


def read(source: Source, size: int) -> list[Row]:
    return [row for shard in source.shards(size) for row in source.rows(shard)]


def check_whole(rows: list[Row], tolerance: float = 1e-6) -> None:
    """Every crystal of the pool once, in order, under its name."""
    assert [(r.index, r.material_id, r.message) for r in rows] == [(k, f"m{k}", None) for k in range(N)]
    for row, s in zip(rows, POOL, strict=True):
        assert row.structure is not None
        assert row.structure.composition == s.composition
        assert np.allclose(row.structure.lattice.matrix, s.lattice.matrix, atol=tolerance)
        assert np.allclose(row.structure.cart_coords, s.cart_coords, atol=tolerance)


@pytest.mark.parametrize("form", [own, lematerial, as_text])
@pytest.mark.parametrize(("size", "group"), [(1, 4), (3, 4), (4, 4), (5, 2), (100, 3)])
def test_every_row_of_a_parquet_file_is_read_once(tmp_path: Path, form: Any, size: int, group: int) -> None:
    file = write_parquet(tmp_path / "a.parquet", [form(s, k) for k, s in enumerate(POOL)], group)
    check_whole(read(FileSource.find([file], None), size))


def test_cif_columns_are_read(tmp_path: Path) -> None:
    rows = read(FileSource.find([write_parquet(tmp_path / "a.parquet", [as_cif(POOL[0], 0)])], None), 10)
    assert rows[0].structure is not None
    assert rows[0].structure.composition == POOL[0].composition


def test_files_of_a_folder_are_counted_through(tmp_path: Path) -> None:
    rows = [own(s, k) for k, s in enumerate(POOL)]
    write_parquet(tmp_path / "b.parquet", rows[4:])
    write_parquet(tmp_path / "a.parquet", rows[:4])
    check_whole(read(FileSource.find([tmp_path, tmp_path / "a.parquet"], None), 3))


@given(size=st.integers(1, N + 3))
def test_every_frame_of_an_extxyz_file_is_read_once(tmp_path_factory: pytest.TempPathFactory, size: int) -> None:
    """As ASE writes it; positions have 8 decimals there."""
    file = write_extxyz(tmp_path_factory.mktemp("x") / "a.extxyz")
    check_whole(read(FileSource.find([file], None), size), tolerance=1e-7)


def test_a_broken_frame_is_named_by_number_and_the_others_go_on(tmp_path: Path) -> None:
    file = write_extxyz(tmp_path / "a.extxyz")
    frames = file.read_text().split("Properties=")
    frames[3] = frames[3].replace("forces:R:3", "forces:R:3", 1).replace("\n", "\nXx", 1)
    text = "Properties=".join(frames)
    last = text.rstrip("\n").rsplit("\n", 1)[0]  # the file's end is cut off
    file.write_text(last + "\n")
    rows = read(FileSource.find([file], None), 4)
    assert [r.index for r in rows] == list(range(N))
    assert [r.index for r in rows if r.structure is None] == [2, N - 1]
    assert f"{file}: frame 2:" in str(rows[2].message)
    assert rows[-1].message == f"{file}: frame {N - 1}: the frame breaks off; fetch or export the file again"


@pytest.mark.parametrize(
    ("second", "said"),
    [
        ("Properties=species:S:1:pos:R:3", 'no Lattice="..."'),
        ('Lattice="4 0 0 0 4 0 0 0 4" pbc="T T F"', "not periodic in all three directions"),
        ('Lattice="4 0 0 0 4 0 0 0 nan"', "not a finite number"),
        ('Lattice="4 0 0 0 4 0"', "rows of three"),
        ('Lattice="4 0 0 0 4 0 0 0 0"', "no volume"),
        ('Lattice="4 0 0 0 4 0 0 0 4" Properties=pos:R:3', "no species (or Z) and pos columns"),
        ('Lattice="4 0 0 0 4 0 0 0 4" Properties=species:S:1:pos:R:3:forces:R', "not a valid structure"),
    ],
)
def test_what_is_wrong_with_a_frame_is_said(tmp_path: Path, second: str, said: str) -> None:
    file = tmp_path / "a.xyz"
    file.write_text(f"2\n{second}\nMg 0 0 0\nO 2 2 2\n")
    (row,) = read(FileSource.find([file], None), 10)
    assert row.structure is None
    assert row.message is not None
    assert row.message.startswith(f"{file}: frame 0: ")
    assert said in row.message


def test_a_frame_that_does_not_begin_with_a_count_is_said_before_anything_is_predicted(tmp_path: Path) -> None:
    file = write_extxyz(tmp_path / "a.extxyz", POOL[:3])
    first = len(POOL[0]) + 2
    lines = file.read_text().splitlines()
    lines[first - 1 : first] = []  # an atom of frame 0 is missing
    file.write_text("\n".join(lines) + "\n")
    with pytest.raises(UsageError, match=rf"frame 1 \(line {first + 1}\) begins with .* correct that of frame 0"):
        FileSource.find([file], None).shards(10)


def test_a_broken_row_is_named_and_the_others_go_on(tmp_path: Path) -> None:
    rows = [own(s, k) for k, s in enumerate(POOL)]
    rows[1]["species"] = ["Qq"] * len(rows[1]["species"])
    rows[2]["frac"] = rows[2]["frac"][:-1]
    rows[3]["lattice"] = None
    rows[4] |= {"species": ["Na", "Na"], "frac": [[0.0, 0, 0], [0.0, 0, 0]]}
    rows[5]["mat_id"] = None
    found = read(FileSource.find([write_parquet(tmp_path / "a.parquet", rows)], None), 4)
    assert [r.reason for r in found[:6]] == [
        None, "unsupported_species", "unreadable", "unreadable", "overlapping_atoms", None,
    ]  # fmt: skip
    assert found[5].material_id == "a-5"
    assert str(found[4].message).startswith(f"{tmp_path / 'a.parquet'}: row 4: Na and Na are 0.000 A apart")


def test_missing_columns_are_named_with_those_present(tmp_path: Path) -> None:
    file = write_parquet(tmp_path / "a.parquet", [{"formula": "NaCl", "energy": 1.0}])
    with pytest.raises(UsageError, match=r"a\.parquet: no structure among its columns \(formula, energy\)"):
        FileSource.find([file], None)
    file = write_parquet(tmp_path / "b.parquet", [own(POOL[0], 0)])
    with pytest.raises(UsageError, match=r"b\.parquet: no column 'name' for the names; there are mat_id, lattice"):
        FileSource.find([file], "name")


def test_what_is_no_source_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.parquet").write_text("no")
    with pytest.raises(UsageError, match="not a Parquet file"):
        FileSource.find([tmp_path / "a.parquet"], None)
    with pytest.raises(UsageError, match="no such file"):
        FileSource.find([tmp_path / "b.parquet"], None)
    (tmp_path / "c.cif").write_text("no")
    with pytest.raises(UsageError, match=r"c\.cif: --shards reads \.parquet"):
        FileSource.find([tmp_path / "c.cif"], None)
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError, match="no Parquet or extxyz file in this folder"):
        FileSource.find([tmp_path / "empty"], None)


def test_a_file_that_changes_is_seen_and_one_that_moves_is_the_same(tmp_path: Path) -> None:
    file = write_parquet(tmp_path / "a.parquet", [own(s, k) for k, s in enumerate(POOL)])
    source = FileSource.find([file], None)
    shards = source.shards(4)
    moved = tmp_path / "b.parquet"
    file.rename(moved)
    assert FileSource.find([moved], None).describe()["identity"] == source.describe()["identity"]
    with pytest.raises(SelectorError, match="missing, or changed since the run began"):
        list(source.rows(shards[0]))
    write_parquet(file, [own(s, k) for k, s in enumerate(POOL[:-1])])
    assert FileSource.find([file], None).describe()["identity"] != source.describe()["identity"]


@pytest.mark.parametrize("size", [1, 3, 100])
def test_every_document_of_a_collection_is_read_once(database: Database[Any], size: int) -> None:
    """In the forms of a campaign's candidates, of pymatgen, and of text; by _id, whatever that is."""
    forms = (lambda s, k: {"mat_id": f"m{k}", "structure": own(s, k)}, own, as_text)
    ids = [*range(4), *(f"x{k}" for k in range(3)), *sorted(ObjectId() for _ in range(N - 7))]
    database["pool"].insert_many([{"_id": ids[k], **forms[k % 3](s, k)} for k, s in enumerate(POOL)])
    source = CollectionSource.find(database, "pool", None)
    check_whole(read(source, size))


def test_a_collection_that_changed_is_another_source(database: Database[Any]) -> None:
    database["pool"].insert_many([own(s, k) for k, s in enumerate(POOL)])
    source = CollectionSource.find(database, "pool", None)
    shards = source.shards(100)
    database["pool"].delete_one({"mat_id": "m3"})
    with pytest.raises(SelectorError, match=f"collection 'pool': {N - 1} rows where {N} were when the run began"):
        list(source.rows(shards[0]))
    assert CollectionSource.find(database, "pool", None).describe()["identity"] != source.describe()["identity"]


def test_a_collection_without_structures_is_refused(database: Database[Any]) -> None:
    with pytest.raises(UsageError, match="collection 'pool' is empty or not there"):
        CollectionSource.find(database, "pool", None)
    database["pool"].insert_one({"formula": "NaCl"})
    with pytest.raises(UsageError, match=r"collection 'pool': no structure among its columns \(_id, formula\)"):
        CollectionSource.find(database, "pool", None)
