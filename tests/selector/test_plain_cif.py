"""The fast CIF reader against pymatgen's: the same crystal, or none."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pymatgen.core import Lattice, Structure
from pymatgen.io.cif import CifParser, CifWriter
from pymatgen.symmetry.groups import SpaceGroup

from selector.plain_cif import read_plain_cif

DEMO = Path(__file__).parents[2] / "configs" / "demo"


def by_pymatgen(text: str) -> Structure:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return CifParser.from_str(text).parse_structures(primitive=False)[0]


def agree(text: str) -> None:
    """Both readers give the same lattice and the same sites in the same order."""
    fast, slow = read_plain_cif(text), by_pymatgen(text)
    assert fast is not None
    assert fast.species == slow.species
    assert np.array_equal(fast.lattice.matrix, slow.lattice.matrix)
    assert fast.frac_coords == pytest.approx(slow.frac_coords, abs=1e-14)
    assert fast == slow


def cell_of(group: SpaceGroup, rng: np.random.Generator) -> Lattice:
    a, b, c = rng.uniform(4, 9, 3)
    return {
        "triclinic": lambda: Lattice.from_parameters(a, b, c, *rng.uniform(75, 105, 3)),
        "monoclinic": lambda: Lattice.monoclinic(a, b, c, rng.uniform(91, 115)),
        "orthorhombic": lambda: Lattice.orthorhombic(a, b, c),
        "tetragonal": lambda: Lattice.tetragonal(a, c),
        "trigonal": lambda: Lattice.hexagonal(a, c),
        "hexagonal": lambda: Lattice.hexagonal(a, c),
        "cubic": lambda: Lattice.cubic(a),
    }[group.crystal_system]()


@pytest.mark.slow
@settings(max_examples=12)
@given(number=st.integers(1, 230), seed=st.integers(0, 10**6))
def test_symmetric_crystals_are_pymatgen_s(number, seed):
    """Space group operations as the CIF lists them, special positions among the sites."""
    rng, group = np.random.default_rng(seed), SpaceGroup.from_int_number(number)
    if group.crystal_system == "trigonal" and group.symbol.startswith("R"):
        group = SpaceGroup.from_int_number(number, hexagonal=True)
    lattice = cell_of(group, rng)
    special = rng.choice([0, 0.25, 1 / 3, 0.5, 2 / 3, 0.75, 0.1234], 3)
    sites = [special, rng.uniform(0, 1, 3)]
    lines = ["data_x", *(f"_cell_length_{k} {v:.6f}" for k, v in zip("abc", lattice.abc, strict=True))]
    lines += [f"_cell_angle_{k} {v:.6f}" for k, v in zip(("alpha", "beta", "gamma"), lattice.angles, strict=True)]
    lines += ["loop_", "_symmetry_equiv_pos_as_xyz", *(f"'{op.as_xyz_str()}'" for op in group.symmetry_ops)]
    lines += ["loop_", "_atom_site_label", *(f"_atom_site_fract_{x}" for x in "xyz")]
    for k, x in enumerate(sites):
        lines.append(f"{('Cs', 'O')[k]}{k} " + " ".join(f"{v:.5f}" for v in x))
    text = "\n".join(lines)
    fast = read_plain_cif(text)
    if fast is not None:  # sites that nearly coincide are left to pymatgen
        agree(text)
    elif len(group.symmetry_ops) < 60:
        with warnings.catch_warnings(record=True), pytest.raises(ValueError):
            by_pymatgen(text)


@settings(max_examples=30)
@given(seed=st.integers(0, 10**6), symprec=st.sampled_from([None, 0.01]))
def test_what_pymatgen_writes_is_read_the_same(seed, symprec):
    rng = np.random.default_rng(seed)
    lattice = Lattice.from_parameters(*rng.uniform(5, 9, 3), *rng.uniform(70, 110, 3))
    grid = rng.choice([0, 1 / 3, 0.5, 2 / 3, 0.25, 0.1], (int(rng.integers(1, 9)), 3))
    positions = np.unique(grid + rng.choice([0, 0, 1e-3]), axis=0)
    agree(
        str(CifWriter(Structure(lattice, rng.choice(["Na", "Cl", "Fe"], len(positions)), positions), symprec=symprec))
    )


def test_the_demo_s_crystals_are_read_the_same():
    files = sorted(DEMO.glob("*.cif"))
    for file in files:
        agree(file.read_text())
    for file in files[::8]:
        agree(str(CifWriter(by_pymatgen(file.read_text()), symprec=0.01)))


ROCKSALT = """data_NaCl
_chemical_formula_sum 'Na4 Cl4'
_cell_length_a 5.64(2)
_cell_length_b 5.64(2)
_cell_length_c 5.64(2)
_cell_angle_alpha 90
_cell_angle_beta 90.
_cell_angle_gamma 90.0
loop_
_space_group_symop_operation_xyz
x,y,z
'x, y+1/2, z+1/2'
"x+1/2, y, z+1/2"
X+1/2,Y+1/2,z
loop_
_atom_site_label
_atom_site_type_symbol
_atom_site_Wyckoff_symbol
_atom_site_fract_x
_atom_site_fract_y
_atom_site_fract_z
_atom_site_occupancy
_atom_site_U_iso_or_equiv
Cl1 Cl b 0.5 .5(1) 0.50000(3) 1.0 ?
Na1 Na a 0 0 -0 1 0.01(2) # a comment
"""


def test_a_cif_from_elsewhere():
    agree(ROCKSALT)
    crystal = read_plain_cif(ROCKSALT)
    assert [e.symbol for e in crystal.species] == ["Na"] * 4 + ["Cl"] * 4
    agree(ROCKSALT.replace("_chemical_formula_sum 'Na4 Cl4'", "_chemical_formula_sum 'Cl Na'"))
    agree(ROCKSALT.replace("0 0 -0", "0.33335 0.66664 -0.25"))  # thirds of few digits are meant as thirds


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("Na a 0 0 -0 1 ", "Na a 0 0 -0 0.9 "),
        ("Na a 0 0 -0 1 ", "Na a 0 0 -0 . "),
        ("Na1 Na a", "Na1 Na+ a"),
        ("Na1 Na a", "Na1 D a"),
        ("Na1 Na a", "Na1 He a"),
        ("Na1 Na a", "Na1 Wat a"),
        ("0 0 -0", "? ? ?"),
        ("0 0 -0", "0.5 0.5 0.50005"),  # falls on the other site
        ("0 0 -0", "0.5 0 0"),  # falls on an image of it
        ("_atom_site_U_iso_or_equiv", "_atom_site_attached_hydrogens"),
        ("_atom_site_U_iso_or_equiv", "_atom_site_disorder_group"),
        ("'Na4 Cl4'", "'Na4 Cl5'"),
        ("'Na4 Cl4'", "'Na4 Cl4 H'"),
        ("'Na4 Cl4'", "'table salt'"),
        ("x,y,z\n", "x,y,w\n"),
        ("_space_group_symop_operation_xyz", "_some_other_loop"),
        ("_cell_angle_beta 90.", "_cell_angle_beta 180."),
        ("_cell_angle_beta 90.", "_cell_angle_beta ?"),
        ("_cell_angle_beta 90.", ""),
        ("_cell_length_c 5.64(2)", "_cell_length_c 0.005"),
        ("_cell_length_c 5.64(2)", "_cell_length_c 5.64\n_cell_length_c 5.64"),
        ("data_NaCl", "data_NaCl\n_atom_site_moment_label x"),
        ("data_NaCl", "data_NaCl\nloop_\n_atom_type_symbol\n_atom_type_oxidation_number\nNa 1\nCl -1"),
        ("data_NaCl", "data_other\n_a b\ndata_NaCl"),
        ("data_NaCl", ""),
        (" 0.01(2) # a comment", ""),
    ],
)
def test_the_unusual_is_left_to_pymatgen(old, new):
    assert old in ROCKSALT
    assert read_plain_cif(ROCKSALT.replace(old, new)) is None


def test_no_text_upsets_it():
    for text in ("", "\x00", "data_", "# only a comment", "data_x\n_cell_length_a 3", "loop_", ROCKSALT[:300]):
        assert read_plain_cif(text) is None
