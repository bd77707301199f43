"""The benchmark behind the quoted speeds: both ways give the same, whatever they cost."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from collections import Counter
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from pymatgen.core import Lattice, Structure

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def throughput() -> ModuleType:
    return importlib.import_module("throughput")


@pytest.fixture(scope="module")
def pool(throughput) -> list[Structure]:
    return throughput.read_pool()


def test_the_pool_is_what_its_note_says(pool):
    assert len(pool) == 2931
    assert Counter(map(len, pool)).keys() == set(range(1, 7))
    assert {e.Z for s in pool for e in s.composition} <= set(range(1, 55))


@pytest.mark.filterwarnings("ignore:Issues encountered while parsing CIF")
def test_both_ways_read_the_same_crystals_and_give_the_same_outputs(throughput, pool):
    r = throughput.race(pool[::60])
    assert r["structures_that_differ"] == r["cifs_left_to_pymatgen"] == 0
    assert r["output_sd"] > 0.2 * r["mean_output"]
    assert r["largest_relative_difference"] < 1e-5
    assert all(ms > 0 for ms in r["ms"].values())
    paper, ours = (r["ms"][f"{who}: graph"] + r["ms"][f"{who}: network"] for who in ("paper", "ours"))
    assert r["structure_to_sc"] == pytest.approx(paper / ours)


def test_the_check_of_crystals_tells_them_apart(throughput):
    one = Structure(Lattice.cubic(4), ["Na", "Cl"], [[0, 0, 0], [0.5, 0.5, 0.5]])
    reordered = Structure(one.lattice, ["Cl", "Na"], [[0.5, 0.5, -0.5], [1, 0, -1e-9]])
    assert throughput.same(one, reordered)
    assert not throughput.same(one, Structure(one.lattice, ["Cl", "Na"], one.frac_coords))
    assert not throughput.same(one, Structure(one.lattice, one.species, one.frac_coords + np.array([[0], [0.001]])))
    assert not throughput.same(one, Structure(Lattice.cubic(4.001), one.species, one.frac_coords))


def test_libraries_agree_on_the_edges(throughput, pool):
    rows = throughput.compare_neighbour_lists([*pool[::100], Structure(Lattice.cubic(30), ["Mg"], [[0, 0, 0]])])
    assert len(rows) == 5
    for row in rows.values():
        assert row is None or row["crystals_that_differ"] == 0


def test_a_missing_edge_is_seen(throughput):
    pairs = np.array([0, 0, 1]), np.array([1, 1, 0]), np.array([2.0, 3.0, 2.0])
    order = np.array([2, 1, 0])
    assert np.array_equal(throughput.canonical(pairs), throughput.canonical(tuple(k[order] for k in pairs)))
    assert len(throughput.canonical(tuple(k[:2] for k in pairs))) == 2


def test_rates_of_a_device(throughput, pool):
    rates = throughput.device_rates(pool[:6], "cpu")
    assert rates["predicted_per_s"] > 0
    assert rates["trained_per_s"] > 0


@pytest.mark.slow
def test_it_prints_a_table_and_json(tmp_path):
    """In a process of its own: it binds itself to one core."""
    out = tmp_path / "figures.json"
    command = [sys.executable, "benchmarks/throughput.py", "--every", "600", "--out", str(out)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    figures = json.loads(done.stdout.splitlines()[-1])
    assert figures == json.loads(out.read_text())
    assert figures["n_structures"] == 5
    assert figures["machine"]["date"].startswith("20")
    for words in ("CPU ms a structure", "structure to SC", "CIF to SC", "neighbour list", "default predictor", "GPU"):
        assert words in done.stdout
