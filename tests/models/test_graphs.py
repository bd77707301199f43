from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pymatgen.core import Lattice, Structure

from models.graphs import CUTOFF_ANG, Graphs, build_graphs


def random_crystal(seed: int) -> Structure:
    rng = np.random.default_rng(seed)
    n = int(rng.integers(1, 5))
    lattice = Lattice.from_parameters(*rng.uniform(2.5, 6, 3), *rng.uniform(60, 120, 3))
    while lattice.volume < 10:  # skewed flat: brute force over images would never end
        lattice = Lattice.from_parameters(*rng.uniform(2.5, 6, 3), *rng.uniform(75, 105, 3))
    return Structure(lattice, rng.choice(["Na", "Cl", "O", "H"], n), rng.uniform(0, 1, (n, 3)))


def brute_force(structure: Structure) -> list[tuple[int, int, float]]:
    """(atom, neighbour, distance) of every pair within the cutoff, by trying every image that can matter."""
    heights = 1 / np.linalg.norm(np.linalg.inv(structure.lattice.matrix), axis=0)
    reach = [int(np.ceil(CUTOFF_ANG / h)) + 1 for h in heights]
    found = []
    for image in itertools.product(*(range(-r, r + 1) for r in reach)):
        for i, j in itertools.product(range(len(structure)), repeat=2):
            step = structure.frac_coords[j] + image - structure.frac_coords[i]
            d = float(np.linalg.norm(step @ structure.lattice.matrix))
            if 1e-8 < d <= CUTOFF_ANG:
                found.append((i, j, d))
    return found


def edges(graphs: Graphs) -> list[tuple[int, int, float]]:
    neighbour, centre = graphs.edge_index.tolist()
    return list(zip(centre, neighbour, graphs.distance_ang.tolist(), strict=True))


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10**6))
def test_edges_are_those_of_brute_force(seed):
    crystal = random_crystal(seed)
    expected, got = sorted(brute_force(crystal)), sorted(edges(build_graphs([crystal])))
    assert [e[:2] for e in expected] == [e[:2] for e in got]
    assert sorted(e[2] for e in expected) == pytest.approx(sorted(e[2] for e in got), abs=1e-5)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10**6))
def test_distances_survive_rotation_permutation_and_supercells(seed):
    crystal = random_crystal(seed)
    rng = np.random.default_rng(seed)
    q, _ = np.linalg.qr(rng.normal(size=(3, 3)))
    turned = Structure(Lattice(crystal.lattice.matrix @ q), crystal.species, crystal.frac_coords)
    shuffled = Structure.from_sites([crystal[int(i)] for i in rng.permutation(len(crystal))])
    d = np.sort(build_graphs([crystal]).distance_ang)
    assert np.sort(build_graphs([turned]).distance_ang) == pytest.approx(d, abs=1e-4)
    assert np.sort(build_graphs([shuffled]).distance_ang) == pytest.approx(d, abs=1e-5)
    doubled = np.sort(build_graphs([crystal * (1, 2, 1)]).distance_ang)
    assert doubled == pytest.approx(np.repeat(d, 2), abs=1e-4)


def test_a_batch_is_its_members_side_by_side(labels):
    crystals = [k.structure for k in labels[:6]]
    batch = build_graphs(crystals)
    assert len(batch) == 6
    for k, crystal in enumerate(crystals):
        one, part = build_graphs([crystal]), batch.select(torch.tensor([k]))
        for name in Graphs.__dataclass_fields__:
            assert torch.equal(getattr(one, name), getattr(part, name))
    assert batch.crystal.bincount().tolist() == [len(s) for s in crystals]
    assert torch.equal(batch.crystal[batch.edge_index[0]], batch.crystal[batch.edge_index[1]])


def test_select_takes_any_order(labels, lone_atom):
    crystals = [labels[0].structure, lone_atom, labels[1].structure]
    picked = build_graphs(crystals).select(torch.tensor([2, 1, 0]))
    again = build_graphs(crystals[::-1])
    for name in Graphs.__dataclass_fields__:
        assert torch.equal(getattr(picked, name), getattr(again, name))


def test_an_atom_alone_has_a_node_and_no_edge(lone_atom):
    graphs = build_graphs([lone_atom])
    assert graphs.numbers.tolist() == [12]
    assert graphs.edge_index.shape == (2, 0)


def test_an_empty_batch():
    assert len(build_graphs([])) == 0
