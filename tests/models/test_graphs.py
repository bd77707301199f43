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
    """(atom, neighbour, distance) of every edge, as often as it counts."""
    neighbour, centre = graphs.edge_index.tolist()
    found = zip(centre, neighbour, graphs.distance_ang.tolist(), strict=True)
    return [edge for edge, m in zip(found, graphs.multiplicity.tolist(), strict=True) for _ in range(int(m))]


def lengths(graphs: Graphs) -> np.ndarray:
    return np.sort([d for _, _, d in edges(graphs)])


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10**6))
def test_edges_are_those_of_brute_force(seed):
    crystal = random_crystal(seed)
    expected, got = sorted(brute_force(crystal)), sorted(edges(build_graphs([crystal])))
    assert [e[:2] for e in expected] == [e[:2] for e in got]
    # Edges whose lengths differ by less than 1e-4 share their mean.
    assert sorted(e[2] for e in expected) == pytest.approx(sorted(e[2] for e in got), abs=1e-4)


def test_equal_edges_are_one_that_counts_for_all(rocksalt):
    graphs = build_graphs([rocksalt])
    # Within 5 angstrom of a 4.2 angstrom rocksalt: 6 others at a/2, 12 alike at a/sqrt(2), 8 others at a sqrt(3)/2,
    # 6 alike at a, 24 others at a sqrt(5)/2.
    assert float(graphs.multiplicity.sum()) == 8 * (6 + 12 + 8 + 6 + 24)
    shells, count = np.unique(lengths(graphs).round(3), return_counts=True)
    assert shells == pytest.approx(4.2 * np.sqrt([0.25, 0.5, 0.75, 1.0, 1.25]), abs=1e-3)
    assert count.tolist() == [8 * 6, 8 * 12, 8 * 8, 8 * 6, 8 * 24]
    assert len(graphs.distance_ang) < graphs.multiplicity.sum() / 2
    triples = torch.stack([*graphs.edge_index, (graphs.distance_ang * 1e3).round().long()])
    assert torch.unique(triples, dim=1).shape == triples.shape


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10**6))
def test_distances_survive_rotation_permutation_and_supercells(seed):
    crystal = random_crystal(seed)
    rng = np.random.default_rng(seed)
    q, _ = np.linalg.qr(rng.normal(size=(3, 3)))
    turned = Structure(Lattice(crystal.lattice.matrix @ q), crystal.species, crystal.frac_coords)
    shuffled = Structure.from_sites([crystal[int(i)] for i in rng.permutation(len(crystal))])
    d = lengths(build_graphs([crystal]))
    assert lengths(build_graphs([turned])) == pytest.approx(d, abs=1e-4)
    assert lengths(build_graphs([shuffled])) == pytest.approx(d, abs=1e-4)
    assert lengths(build_graphs([crystal * (1, 2, 1)])) == pytest.approx(np.repeat(d, 2), abs=1e-4)


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
    graphs = build_graphs([])
    assert len(graphs) == 0
    assert graphs.edge_index.shape == (2, 0)


def test_five_hundred_atoms_beside_one():
    """The large cell, shaken, against its own pairs counted by minimum images: it is wider than twice the cutoff."""
    rng = np.random.default_rng(5)
    grid = np.stack(np.meshgrid(*[np.arange(8)] * 3), axis=-1).reshape(-1, 3)[:500] / 8
    large = Structure(Lattice.cubic(20), ["Si"] * 500, grid + rng.normal(0, 0.01, (500, 3)))
    small = Structure(Lattice.cubic(3), ["Fe"], [[0, 0, 0]])
    graphs = build_graphs([small, large])
    assert graphs.atom_start.tolist() == [0, 1, 501]
    step = large.frac_coords[:, None] - large.frac_coords[None]
    d = 20 * np.linalg.norm(step - step.round(), axis=-1)
    expected = np.sort(d[(d > 0) & (d <= CUTOFF_ANG)])
    assert lengths(graphs.select(torch.tensor([1]))) == pytest.approx(expected, abs=1e-4)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_a_batch_on_the_gpu_is_the_same(labels):
    graphs = build_graphs([k.structure for k in labels[:6]])
    rows = torch.tensor([4, 0, 5])
    there, here = graphs.to("cuda").select(rows.to("cuda")), graphs.select(rows)
    for name in Graphs.__dataclass_fields__:
        assert torch.equal(getattr(there, name).cpu(), getattr(here, name))
