from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pymatgen.core import Lattice, Structure

from models.elements import element_table
from models.features import (
    BLOCKS,
    COMPOSITION,
    FEATURES_VERSION,
    GEOMETRY,
    NAMES,
    composition_features,
    crystal_features,
    features,
)
from selector.errors import SelectorError

STORED = Path(__file__).parents[1] / "data" / "features_v1.npz"


def test_the_periodic_table_has_no_gap():
    table = element_table()
    for name in table.__dataclass_fields__:
        column = getattr(table, name)
        assert column.shape == (119,)
        assert np.isfinite(column[1:]).all()
    assert table.electronegativity[9] == pytest.approx(3.98)
    assert table.radius_ang[[6, 55]] == pytest.approx([0.76, 2.44])
    assert table.valence[[1, 2, 6, 9, 20, 26, 58]].tolist() == [1, 2, 4, 7, 2, 8, 3]
    # Superheavy elements take their homologue's value: oganesson radon's.
    assert table.radius_ang[118] == table.radius_ang[86]
    assert (table.row[[1, 3, 57, 71, 92, 118]] == [1, 2, 6, 6, 7, 7]).all()


def some_crystal(seed: int) -> Structure:
    """Two to five atoms of random elements in a skewed cell, none on top of another."""
    rng = np.random.default_rng(seed)
    n = int(rng.integers(2, 6))
    lattice = Lattice.from_parameters(*rng.uniform(4, 6, 3), *rng.uniform(70, 110, 3))
    corners = np.array([[0, 0, 0], [0.5, 0.5, 0], [0.5, 0, 0.5], [0, 0.5, 0.5], [0.5, 0.5, 0.5]])
    species = rng.choice(["Na", "Cl", "O", "Si", "H", "Ca", "F"], n)
    return Structure(lattice, species, corners[:n] + rng.uniform(-0.05, 0.05, (n, 3)))


def rotated(structure: Structure, seed: int) -> Structure:
    q, _ = np.linalg.qr(np.random.default_rng(seed).normal(size=(3, 3)))
    return Structure(Lattice(structure.lattice.matrix @ q), structure.species, structure.frac_coords)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10**6))
def test_features_do_not_depend_on_the_description_of_the_crystal(seed):
    crystal = some_crystal(seed)
    x = crystal_features(crystal)
    order = np.random.default_rng(seed).permutation(len(crystal))
    same = [
        crystal * (2, 1, 1),
        crystal * [[1, 1, 0], [0, 1, 0], [0, 0, 2]],
        rotated(crystal, seed),
        Structure.from_sites([crystal[int(i)] for i in order]),
        crystal.copy().translate_sites(range(len(crystal)), [0.3, 0.1, 0.7]),
    ]
    for other in same:
        # The neighbour list drops or keeps a pair at the cutoff's very edge by rounding; its weight is under 1e-6.
        assert crystal_features(other) == pytest.approx(x, abs=1e-5)


def test_names_and_blocks_fit(labels):
    x = features([k.structure for k in labels])
    assert x.shape == (len(labels), len(NAMES)) == (len(labels), len(BLOCKS))
    assert np.isfinite(x).all()
    assert features([]).shape == (0, len(NAMES))
    assert composition_features([k.structure for k in labels]).shape == (len(labels), len(COMPOSITION))


def test_a_crystal_s_features_are_the_same_in_any_company(labels, lone_atom):
    crystals = [lone_atom, *(k.structure for k in labels[:70]), lone_atom]
    together = features(crystals)
    for k in (0, 1, 5, 63, 64, 70, 71):
        assert together[k] == pytest.approx(features([crystals[k]])[0], rel=1e-9, abs=1e-12)


def test_features_of_this_version_stay_what_they_were(labels):
    """Those of the release that introduced version 1, to rounding: weights trained on them must go on to fit."""
    assert FEATURES_VERSION == 1
    with np.load(STORED) as stored:
        crystals = {k.material_id: k.structure for k in labels}
        got = features([crystals[i] for i in stored["material_id"].tolist()])
        assert got == pytest.approx(stored["features"], rel=1e-9, abs=1e-11)


def test_what_the_features_say_of_rocksalt(rocksalt):
    x = dict(zip(NAMES, crystal_features(rocksalt), strict=True))
    assert np.exp(x["log_volume_per_atom"]) == pytest.approx(4.2**3 / 8)
    # Oxygen touches six magnesium; magnesium, being large, its twelve like neighbours as well.
    assert x["coordination_min"] == pytest.approx(6.0, abs=0.1)
    assert x["coordination_mean"] == pytest.approx((6 + 6 + 12) / 2, abs=0.5)
    assert x["nearest_ratio_mean"] == pytest.approx(2.1 / (1.41 + 0.66), rel=1e-3)
    assert x["bond_homonuclear"] == pytest.approx(0.5, abs=0.02)
    assert x["bond_polarity"] == pytest.approx(0.5 * (3.44 - 1.31), abs=0.05)
    # A cubic crystal has no preferred direction.
    assert abs(x["anisotropy_bonds"]) < 1e-6
    assert abs(x["anisotropy_site_max"]) < 1e-6


def test_anion_pairs_and_direction_show_in_rbf3(labels):
    rbf3 = next(k for k in labels if k.formula == "RbF3")
    kcl = next(k for k in labels if k.formula == "KCl")
    x, y = (dict(zip(NAMES, crystal_features(k.structure), strict=True)) for k in (rbf3, kcl))
    # F3 units: 1.72 angstrom between fluorine atoms, where chlorine keeps 4.4 from chlorine.
    assert x["anion_nearest_ratio"] == pytest.approx(1.72 / 1.14, abs=0.01)
    assert y["anion_nearest_ratio"] > 1.8
    assert x["anisotropy_site_max"] > 0.4
    assert y["anisotropy_site_max"] < 1e-3


def test_composition_features_are_shares_and_statistics(rocksalt):
    x = dict(zip(COMPOSITION, composition_features([rocksalt])[0], strict=True))
    assert x["share_group_2"] == x["share_group_16"] == 0.5
    assert x["share_p_row_2"] == 0.5  # oxygen, not magnesium
    assert x["electronegativity_mean"] == pytest.approx((1.31 + 3.44) / 2)
    assert x["share_h"] == 0.0


def test_an_atom_without_neighbours_is_finite(lone_atom):
    x = crystal_features(lone_atom)
    assert np.isfinite(x).all()
    assert x[GEOMETRY.index("coordination_mean")] == 0.0


def test_disorder_and_emptiness_are_errors():
    alloy = Structure(Lattice.cubic(4), [{"Na": 0.5, "K": 0.5}], [[0, 0, 0]])
    with pytest.raises(SelectorError, match="disordered"):
        crystal_features(alloy)
    with pytest.raises(SelectorError, match="no atoms"):
        crystal_features(Structure(Lattice.cubic(4), [], []))
