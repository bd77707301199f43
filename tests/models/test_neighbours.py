from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pymatgen.core import DummySpecies, Lattice, Structure

from models.neighbours import atomic_numbers, find_neighbours
from selector.errors import SelectorError


def random_crystal(seed: int) -> Structure:
    rng = np.random.default_rng(seed)
    n = int(rng.integers(1, 6))
    lattice = Lattice.from_parameters(*rng.uniform(3, 9, 3), *rng.uniform(70, 110, 3))
    return Structure(lattice, rng.choice(["Na", "Cl", "Fe"], n), rng.uniform(-1, 2, (n, 3)))


@settings(max_examples=25, deadline=None)
@given(seeds=st.lists(st.integers(0, 10**6), max_size=5), cutoff=st.floats(2.0, 7.0))
def test_pairs_are_those_that_pymatgen_lists(seeds, cutoff):
    """The same call underneath, so pair for pair; what is tested is the book-keeping of the batch."""
    crystals = [random_crystal(seed) for seed in seeds]
    pairs = find_neighbours(crystals, cutoff)
    assert len(pairs) == len(crystals)
    assert pairs.atom_start[-1] == sum(map(len, crystals))
    for k, crystal in enumerate(crystals):
        part, first = slice(*pairs.pair_start[k : k + 2]), pairs.atom_start[k]
        centre, neighbour, image, distance = crystal.get_neighbor_list(cutoff)
        assert np.array_equal(pairs.centre[part], centre + first)
        assert np.array_equal(pairs.neighbour[part], neighbour + first)
        assert np.array_equal(pairs.image[part], image)
        assert pairs.distance_ang[part] == pytest.approx(distance, abs=1e-12)
        assert np.array_equal(pairs.crystal[first : pairs.atom_start[k + 1]], [k] * len(crystal))
    assert np.linalg.norm(pairs.vector_ang, axis=1) == pytest.approx(pairs.distance_ang, abs=1e-9)


def test_every_pair_stands_in_both_directions(labels):
    pairs = find_neighbours([k.structure for k in labels[:20]], 5.0)
    there = np.lexsort([*pairs.vector_ang.round(5).T, pairs.neighbour, pairs.centre])
    back = np.lexsort([*(-pairs.vector_ang).round(5).T, pairs.centre, pairs.neighbour])
    assert np.array_equal(pairs.centre[there], pairs.neighbour[back])
    assert np.array_equal(pairs.neighbour[there], pairs.centre[back])


def test_what_has_no_pairs_is_refused_by_name(rocksalt):
    bad = {
        "two atoms stand in one place": Structure(Lattice.cubic(4), ["Li", "F"], [[0.1, 0, 0], [1.1, 0, 0]]),
        "a coordinate is not finite": Structure(Lattice.cubic(4), ["Li", "F"], [[0, 0, 0], [np.nan, 0, 0]]),
        "no volume": Structure(Lattice([[4, 0, 0], [8, 0, 0], [0, 0, 4]]), ["Li", "F"], [[0, 0, 0], [0.5, 0, 0]]),
    }
    for why, crystal in bad.items():
        with pytest.raises(SelectorError, match=f"Li1 F1: .*{why}"):
            find_neighbours([rocksalt, crystal, rocksalt], 5.0)


def test_atomic_numbers_are_those_of_elements():
    cell = Lattice.cubic(4)
    assert atomic_numbers(Structure(cell, ["Na+", "Cl-"], [[0, 0, 0], [0.5, 0.5, 0.5]])).tolist() == [11, 17]
    with pytest.raises(SelectorError, match="no element"):
        atomic_numbers(Structure(cell, [DummySpecies("X")], [[0, 0, 0]]))
    with pytest.raises(SelectorError, match="disordered"):
        atomic_numbers(Structure(cell, [{"Na": 0.5, "K": 0.5}], [[0, 0, 0]]))
    with pytest.raises(SelectorError, match="no atoms"):
        atomic_numbers(Structure(cell, [], []))
