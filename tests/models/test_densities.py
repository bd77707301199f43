"""The variance of a model density: against its sum over reciprocal space, and what must not change it."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from pymatgen.core import Lattice, Structure

from models.densities import CUTOFF_ANG, DENSITY, density_features, relative_variance
from models.neighbours import find_neighbours
from tests.crystals import face_centred

SALT = face_centred("rocksalt", 5.64, "Na", "Cl")
LAYERS = Structure(
    Lattice.hexagonal(3.2, 5.5), ["Cd", "I", "I"], [[0, 0, 0], [1 / 3, 2 / 3, 0.25], [2 / 3, 1 / 3, 0.75]]
)


def in_reciprocal_space(structure: Structure, electrons: np.ndarray, width_ang: float) -> float:
    """Sum over G != 0 of |S(G)|^2 exp(-G^2 w^2) / S(0)^2: Parseval for Gaussians of standard deviation w."""
    waves = np.array([hkl for hkl in itertools.product(range(-9, 10), repeat=3) if any(hkl)])
    g = waves @ structure.lattice.reciprocal_lattice.matrix
    factor = np.exp(2j * np.pi * structure.frac_coords @ waves.T).T @ electrons
    weight = np.exp(-(g**2).sum(axis=1) * width_ang**2)
    return float((np.abs(factor) ** 2 * weight).sum() / electrons.sum() ** 2)


@pytest.mark.parametrize("structure", [SALT, LAYERS], ids=["NaCl", "CdI2"])
@pytest.mark.parametrize("width_ang", [0.6, 0.9])
def test_it_is_the_sum_over_reciprocal_space(structure: Structure, width_ang: float) -> None:
    electrons = np.array([2.0, 7.0, 7.0, 1.0, 3.0, 5.0, 4.0, 6.0])[: len(structure)]
    found = relative_variance(find_neighbours([structure], CUTOFF_ANG), electrons, width_ang)
    # beyond the cutoff the widest overlap is exp(-(7 / 1.8)^2) = 3e-7 of one atom's own
    assert found[0] == pytest.approx(in_reciprocal_space(structure, electrons, width_ang), rel=1e-3)


def test_a_supercell_and_a_rotation_change_nothing_and_a_batch_is_its_crystals() -> None:
    rotated = LAYERS.copy()
    turn = np.linalg.qr(np.random.default_rng(0).normal(size=(3, 3)))[0]
    rotated = Structure(LAYERS.lattice.matrix @ turn, LAYERS.species, LAYERS.frac_coords)
    rows = density_features([LAYERS, LAYERS * (2, 1, 1), rotated, SALT])
    assert rows.shape == (4, len(DENSITY))
    np.testing.assert_allclose(rows[1], rows[0], atol=1e-6)
    np.testing.assert_allclose(rows[2], rows[0], atol=1e-6)
    np.testing.assert_allclose(density_features([SALT])[0], rows[3], atol=1e-12)


def test_what_stands_apart_varies_more() -> None:
    dense, loose = (Structure(Lattice.cubic(a), ["Ar"], [[0, 0, 0]]) for a in (3.0, 6.0))
    assert (density_features([loose]) > density_features([dense])).all()


def test_nothing_to_describe_is_an_empty_table() -> None:
    assert density_features([]).shape == (0, len(DENSITY))
