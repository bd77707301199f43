"""Reading, checking and deduplicating structure files, the 40 demo crystals among them."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pymatgen.analysis.structure_matcher import StructureMatcher
from pymatgen.core import Lattice, Species, Structure

from fw_tasks.engines.base import MissingDataset
from selector.candidates import Candidate, check_structure, read_candidate, read_candidates
from selector.errors import SelectorError, UsageError
from selector.structure_checks import StructureError
from selector.structure_files import find_structure_files, material_id, read_structure

DEMO = Path(__file__).parents[2] / "configs" / "demo"

Site = tuple[str, str, float | str, float | str, float | str, float]
CS: Site = ("Cs", "Cs1", 0, 0, 0, 1)
CL: Site = ("Cl", "Cl1", 0.5, 0.5, 0.5, 1)


def cif(*sites: Site, cell: tuple[float, ...] = (4.1, 4.1, 4.1, 90, 90, 90), head: str = "", typed: bool = True) -> str:
    """A CIF with these sites (symbol, label, x, y, z, occupancy) and, but for ``head``, no word about symmetry."""
    names = ["length_a", "length_b", "length_c", "angle_alpha", "angle_beta", "angle_gamma"]
    columns = ["type_symbol"] * typed + ["label", "fract_x", "fract_y", "fract_z", "occupancy"]
    return "\n".join(
        ["data_test", *(f"_cell_{name} {value}" for name, value in zip(names, cell, strict=True)), head, "loop_"]
        + [f"_atom_site_{column}" for column in columns]
        + [" ".join(map(str, site if typed else site[1:])) for site in sites]
        + [""]
    )


def crystal(species: list[str], frac: Sequence[Sequence[float]] | np.ndarray, a_ang: float = 4.1) -> Structure:
    return Structure(Lattice.cubic(a_ang), species, frac)


def rock_salt() -> Structure:
    corners = np.array([[0, 0, 0], [0.5, 0.5, 0], [0.5, 0, 0.5], [0, 0.5, 0.5]])
    return crystal(["Na"] * 4 + ["Cl"] * 4, [*corners, *(corners + 0.5)], 5.64)


def reasons(path: Path, **kwargs: object) -> dict[str, str]:
    """material_id -> reason of what was rejected."""
    return {r.material_id: r.reason for r in read_candidates([path], **kwargs)[1]}  # type: ignore[arg-type]


# -- the demo ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def demo() -> list[Candidate]:
    candidates, rejections = read_candidates([DEMO])
    assert not rejections
    return candidates


def test_the_demo_is_forty_distinct_small_closed_shell_crystals(demo: list[Candidate]) -> None:
    """What configs/demo/README.md says of them."""
    assert len(demo) == 40
    assert len({c.formula for c in demo}) == 39
    assert [c.formula for c in demo].count("KCl") == 2
    assert {2, 6} <= {c.nsites for c in demo} <= set(range(2, 7))
    volumes = [c.structure.volume for c in demo]
    assert (min(volumes), max(volumes)) == (pytest.approx(23.5, abs=0.05), pytest.approx(65.1, abs=0.05))
    electrons = [sum(site.specie.Z for site in c.structure) for c in demo]
    assert (min(electrons), max(electrons)) == (10, 78)
    assert len(set().union(*(c.elements for c in demo))) == 23


def test_the_demo_read_twice_is_the_same(demo: list[Candidate]) -> None:
    again, _ = read_candidates([DEMO])
    assert [c.to_dict() for c in again] == [c.to_dict() for c in demo]
    assert len({c.structure_hash for c in demo}) == 40


# -- formats ----------------------------------------------------------------------------------------------------------


def test_all_formats_give_the_same_crystal(tmp_path: Path) -> None:
    s = rock_salt()
    s.to(str(tmp_path / "nacl.cif"))
    s.to(str(tmp_path / "symmetric.cif"), symprec=0.01)
    s.to(str(tmp_path / "nacl.vasp"), fmt="poscar")
    (tmp_path / "folder").mkdir()
    s.to(str(tmp_path / "folder" / "POSCAR"), fmt="poscar")
    (tmp_path / "structure.json").write_text(json.dumps(s.as_dict()))
    (tmp_path / "entry.json").write_text(json.dumps({"energy": -1.0, "structure": s.as_dict(), "entry_id": "x"}))
    for path in find_structure_files([tmp_path]):
        assert StructureMatcher(scale=False, ltol=1e-4, stol=1e-4).fit(read_structure(path), s), path


def test_ids_are_stems_or_for_poscars_the_folder(tmp_path: Path) -> None:
    assert material_id(tmp_path / "mp-149.cif") == "mp-149"
    assert material_id(tmp_path / "Si.relaxed.vasp") == "Si.relaxed"
    assert material_id(tmp_path / "silicon" / "POSCAR") == "silicon"
    assert material_id(tmp_path / "silicon" / "CONTCAR.vasp") == "silicon"


def test_oxidation_states_spins_and_properties_are_stripped(tmp_path: Path) -> None:
    s = crystal([Species("Mn", 2, spin=5), Species("O", -2)], [[0, 0, 0], [0.5, 0.5, 0.5]])
    s.add_site_property("magmom", [5.0, 0.0])
    (tmp_path / "mno.json").write_text(json.dumps(s.as_dict()))
    read = read_structure(tmp_path / "mno.json")
    assert [str(site.specie) for site in read] == ["Mn", "O"]
    assert not read.site_properties
    (tmp_path / "lih.cif").write_text(cif(("Li1+", "Li1", 0, 0, 0, 1), ("H1-", "H1", 0.5, 0.5, 0.5, 1)))
    assert [str(site.specie) for site in read_structure(tmp_path / "lih.cif")] == ["Li", "H"]


def test_oxidation_states_that_do_not_add_up_are_no_charge(tmp_path: Path) -> None:
    s = crystal([Species("Fe", 3), Species("O", -2)], [[0, 0, 0], [0.5, 0.5, 0.5]])
    (tmp_path / "feo.json").write_text(json.dumps(s.as_dict()))
    assert read_structure(tmp_path / "feo.json").charge == 0


def test_one_element_in_two_oxidation_states_on_a_full_site_is_ordered(tmp_path: Path) -> None:
    s = crystal(["Si"], [[0, 0, 0]])
    s.replace(0, {Species("Si", 4): 0.5, Species("Si", 2): 0.5})
    (tmp_path / "si.json").write_text(json.dumps(s.as_dict()))
    assert read_structure(tmp_path / "si.json").is_ordered


def test_space_groups_are_expanded_from_symbol_or_number(tmp_path: Path) -> None:
    sites = (("Na", "Na1", 0, 0, 0, 1), ("Cl", "Cl1", 0.5, 0.5, 0.5, 1))
    for head in ("_symmetry_space_group_name_H-M 'F m -3 m'", "_space_group_IT_number 225"):
        (tmp_path / "x.cif").write_text(cif(*sites, cell=(5.64, 5.64, 5.64, 90, 90, 90), head=head))
        assert len(read_structure(tmp_path / "x.cif")) == 8


@pytest.mark.parametrize("formula", ["?", ".", "'Cs Cl'", "'Cs4 Cl4'"])
def test_the_formula_of_a_cif_may_be_unknown_or_a_multiple(formula: str, tmp_path: Path) -> None:
    (tmp_path / "x.cif").write_text(cif(CS, CL, head=f"_chemical_formula_sum {formula}"))
    assert read_structure(tmp_path / "x.cif").composition.formula == "Cs1 Cl1"


def test_a_cif_may_begin_with_a_block_about_the_article(tmp_path: Path) -> None:
    (tmp_path / "x.cif").write_text("data_global\n_journal_name_full 'J. Chem.'\n" + cif(CS, CL))
    assert read_structure(tmp_path / "x.cif").composition.reduced_formula == "CsCl"


# -- bad files --------------------------------------------------------------------------------------------------------

POSCAR_WITHOUT_ELEMENTS = "MgO\n1.0\n4 0 0\n0 4 0\n0 0 4\n1 1\nDirect\n0 0 0\n0.5 0.5 0.5\n"
GOOD_CIF = cif(CS, CL)

BAD_FILES = {
    "empty.cif": ("", "unreadable", "empty"),
    "blank.vasp": (" \n\n", "unreadable", "empty"),
    "words.cif": ("hello world\n", "unreadable", "no atoms"),
    "binary.cif": ("\x00\x01\x7f\ufffd" * 50, "unreadable", "no atoms"),
    "truncated.cif": (GOOD_CIF[: GOOD_CIF.index("Cs1")], "unreadable", "breaks off|no atoms|not a valid"),
    "headonly.cif": (GOOD_CIF[: GOOD_CIF.index("Cs Cs1")], "unreadable", "breaks off"),
    "two.cif": (GOOD_CIF + GOOD_CIF.replace("data_test", "data_more"), "unreadable", "2 structures"),
    "question.cif": (cif(CS, ("Cl", "Cl1", "?", 0.5, 0.5, 1)), "unreadable", "not a valid"),
    "nan.cif": (cif(CS, ("Cl", "Cl1", "nan", 0.5, 0.5, 1)), "unreadable", "not a valid|not a finite"),
    "group.cif": (cif(CS, CL, head="_symmetry_space_group_name_H-M 'Q 7'"), "unreadable", "space group"),
    "nohydrogen.cif": (cif(CS, CL, head="_chemical_formula_sum 'Cs Cl H4'"), "composition_mismatch", "formula"),
    "fewer.cif": (cif(CS, CL, head="_chemical_formula_sum 'Cs Cl3'"), "composition_mismatch", "Cs1 Cl1"),
    "disordered.cif": (
        cif(CS, ("Cl", "Cl1", 0.5, 0.5, 0.5, 0.5), ("Br", "Br1", 0.5, 0.5, 0.5, 0.5)),
        "disordered",
        "Br:0.5, Cl:0.5",
    ),
    "vacancy.cif": (cif(CS, ("Cl", "Cl1", 0.5, 0.5, 0.5, 0.9)), "disordered", "Cl:0.9"),
    "same_place.cif": (cif(CS, CL, ("Cl", "Cl2", 0.5, 0.5, 0.5, 1)), "overlapping_atoms", "same position"),
    "merged.cif": (cif(CS, CL, ("Cl", "Cl2", 0.50005, 0.5, 0.5, 1)), "overlapping_atoms", "same position"),
    "close.cif": (cif(CS, CL, ("Cl", "Cl2", 0.51, 0.5, 0.5, 1)), "overlapping_atoms", "Cl and Cl are 0.041 A apart"),
    "image.cif": (cif(CS, CL, ("Cs", "Cs2", 0.99, 0, 0, 1)), "overlapping_atoms", "Cs and Cs are 0.041 A"),
    "few_digits.cif": (
        cif(
            ("B", "B1", 0.333, 0.667, 0, 1),
            ("N", "N1", 0.667, 0.333, 0, 1),
            cell=(2.5, 2.5, 4, 90, 90, 120),
            head="_space_group_IT_number 187",
        ),
        "overlapping_atoms",
        "more digits",
    ),
    "odd.cif": (cif(CS), "odd_electrons", "55 electrons"),
    "dropped.cif": (cif(CS, CL, ("?", "Q1", 0.2, 0.2, 0.2, 1)), "unsupported_species", "site '[?]'"),
    "dummy.cif": (cif(CS, CL, ("Xx", "Q1", 0.2, 0.2, 0.2, 1)), "unsupported_species", "site 'Xx'"),
    "calpha.cif": (cif(("", "CA1", 0, 0, 0, 1), typed=False), "unsupported_species", "type_symbol"),
    "water.cif": (cif(("", "Wat1", 0, 0, 0, 1), typed=False), "unsupported_species", "type_symbol"),
    "deuterium.cif": (
        cif(("Li", "Li1", 0, 0, 0, 1), ("D", "D1", 0.5, 0.5, 0.5, 1)),
        "unsupported_species",
        "write H instead",
    ),
    "zero.cif": (cif(CS, CL, cell=(0, 4, 4, 90, 90, 90)), "implausible_cell", "no volume"),
    "planar.cif": (cif(CS, CL, cell=(4, 4, 4, 90, 90, 180)), "implausible_cell", "no volume"),
    "flat.cif": (cif(CS, CL, cell=(4, 4, 0.3, 90, 90, 90)), "implausible_cell", "flat"),
    "dense.cif": (cif(("H", "H1", 0, 0, 0, 1), ("H", "H2", 0.5, 0.5, 0.5, 1), cell=(0.8,) * 3 + (90,) * 3),
                  "implausible_cell", "angstrom"),
    "picometre.cif": (cif(CS, CL, cell=(410, 410, 410, 90, 90, 90)), "implausible_cell", "angstrom"),
    "nameless.vasp": (POSCAR_WITHOUT_ELEMENTS, "unreadable", "names no elements"),
    "broken.vasp": ("x\n", "unreadable", "not a valid"),
    "broken.json": ("{", "unreadable", "not a valid"),
    "list.json": ("[1]", "unreadable", "no pymatgen Structure"),
    "other.json": ('{"a": 1}', "unreadable", "no pymatgen Structure"),
    "hollow.json": ('{"lattice": {}, "sites": [{}]}', "unreadable", "not a valid"),
    "noatoms.json": (
        json.dumps(Structure(Lattice.cubic(4), [], []).as_dict()), "no_atoms", "no atoms"
    ),
    "charged.json": (json.dumps({**crystal(["Si"], [[0, 0, 0]]).as_dict(), "charge": 1}), "charged", "net charge of 1"),
    "dummy.json": (json.dumps(crystal(["Xa"], [[0, 0, 0]]).as_dict()), "unsupported_species", "'Xa'"),
    "large.json": (
        json.dumps((crystal(["Mg"], [[0, 0, 0]], 3.0) * (11, 10, 10)).as_dict()), "too_large", "1100 atoms"
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", sorted(BAD_FILES))
def test_a_bad_file_is_rejected_in_one_line_and_the_rest_goes_on(name: str, tmp_path: Path) -> None:
    text, reason, says = BAD_FILES[name]
    (tmp_path / name).write_text(text, encoding="utf-8")
    (tmp_path / "zzz_good.cif").write_text(GOOD_CIF)
    candidates, (rejection,) = read_candidates([tmp_path])
    assert [c.material_id for c in candidates] == ["zzz_good"]
    assert (rejection.material_id, rejection.reason) == (Path(name).stem, reason)
    assert rejection.source == str(tmp_path / name)
    assert rejection.message.startswith(f"{tmp_path / name}: ")
    assert "\n" not in rejection.message
    with pytest.raises(StructureError, match=says) as error:
        read_candidate(tmp_path / name)
    assert str(error.value) == rejection.message
    assert error.value.exit_code == 2


def test_a_poscar_of_the_old_kind_may_name_elements_behind_the_positions(tmp_path: Path) -> None:
    (tmp_path / "mgo.vasp").write_text(POSCAR_WITHOUT_ELEMENTS.replace("0 0 0\n0.5 0.5 0.5", "0 0 0 Mg\n0.5 0.5 0.5 O"))
    assert read_structure(tmp_path / "mgo.vasp").composition.reduced_formula == "MgO"


def test_an_unsupported_file_named_directly_is_rejected(tmp_path: Path) -> None:
    (tmp_path / "x.xyz").write_text("1\n\nH 0 0 0\n")
    (tmp_path / "good.cif").write_text(GOOD_CIF)
    candidates, rejections = read_candidates([tmp_path / "x.xyz", tmp_path / "good.cif"])
    assert [r.reason for r in rejections] == ["unsupported_format"]
    assert len(candidates) == 1


def test_a_folder_named_like_a_file_is_unreadable_not_fatal(tmp_path: Path) -> None:
    (tmp_path / "x.cif").mkdir()
    with pytest.raises(StructureError, match="cannot be read"):
        read_structure(tmp_path / "x.cif")


def test_nothing_of_pymatgen_reaches_stderr(tmp_path: Path) -> None:
    for name, (text, _, _) in BAD_FILES.items():
        (tmp_path / name).write_text(text, encoding="utf-8")
    code = f"from selector.candidates import read_candidates; print(len(read_candidates([{str(tmp_path)!r}])[1]))"
    done = subprocess.run(
        [sys.executable, "-W", "always", "-c", code], capture_output=True, text=True, check=True, cwd=DEMO.parents[1]
    )
    assert done.stdout.split()[-1] == str(len(BAD_FILES))
    assert str(tmp_path) not in done.stderr
    assert not [line for line in done.stderr.splitlines() if "pymatgen" in line and "Deprecat" not in line]


# -- checks on structures ---------------------------------------------------------------------------------------------


def test_an_atom_too_near_its_own_image_is_caught_by_the_shape_of_the_cell() -> None:
    """c - a is 0.45 A long, so the a-b planes are no further apart; with 0.52 A the skewed cell passes."""
    with pytest.raises(StructureError, match="flat") as error:
        check_structure(Structure([[10, 0, 0], [0, 10, 0], [10, 0, 0.45]], ["Si"], [[0, 0, 0]]))
    assert error.value.reason == "implausible_cell"
    check_structure(Structure([[10, 0, 0], [0, 10, 0], [10, 0, 0.52]], ["Si"], [[0, 0, 0]]))


def test_hydrogen_molecules_do_not_overlap() -> None:
    check_structure(Structure(Lattice.cubic(3.0), ["H", "H"], [[0, 0, 0], [0.74 / 3, 0, 0]]))


# -- finding files ----------------------------------------------------------------------------------------------------


def test_folders_are_searched_in_depth_sorted_and_without_hidden_files(tmp_path: Path) -> None:
    for name in ("b.cif", "a/c.CIF", "a/POSCAR", "a/readme.txt", ".hidden.cif", ".git/x.cif", "a/.y/z.cif", "d.vasp"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("x")
    found = [str(p.relative_to(tmp_path)) for p in find_structure_files([tmp_path])]
    assert found == ["a/POSCAR", "a/c.CIF", "b.cif", "d.vasp"]


def test_a_file_given_twice_is_read_once(tmp_path: Path) -> None:
    (tmp_path / "a.cif").write_text(GOOD_CIF)
    assert find_structure_files([tmp_path / "a.cif", tmp_path, tmp_path / "." / "a.cif"]) == [tmp_path / "a.cif"]


def test_a_missing_path_is_a_usage_error(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="nowhere: no such file or folder"):
        read_candidates([tmp_path / "nowhere"])


def test_a_folder_without_structures_is_a_usage_error(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("x")
    with pytest.raises(UsageError, match="no structure file in this folder"):
        read_candidates([tmp_path])


# -- duplicates -------------------------------------------------------------------------------------------------------


def write(path: Path, structure: Structure) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(structure.as_dict()))
    return path


def test_the_same_crystal_in_another_cell_and_volume_is_a_duplicate_by_name(tmp_path: Path) -> None:
    first = write(tmp_path / "a.json", rock_salt())
    primitive = rock_salt().get_primitive_structure()
    primitive.scale_lattice(primitive.volume * 1.05)
    primitive.translate_sites([0, 1], [0.2, 0.3, 0.4])
    write(tmp_path / "b.json", primitive)
    write(tmp_path / "c.json", crystal(["Na", "Cl"], [[0, 0, 0], [0.5, 0.5, 0.5]], 3.4))  # the CsCl type
    candidates, (rejection,) = read_candidates([tmp_path])
    assert [c.material_id for c in candidates] == ["a", "c"]
    assert (rejection.material_id, rejection.reason) == ("b", "duplicate")
    assert f"the same crystal as a, from {first}" in rejection.message


def test_known_candidates_count(tmp_path: Path) -> None:
    known = [Candidate("old", rock_salt(), "elsewhere.cif")]
    write(tmp_path / "new.json", rock_salt().get_primitive_structure())
    candidates, (rejection,) = read_candidates([tmp_path], known)
    assert not candidates
    assert rejection.reason == "duplicate"
    assert "same crystal as old, from elsewhere.cif" in rejection.message


def test_adding_the_same_files_again_says_so(tmp_path: Path) -> None:
    write(tmp_path / "a.json", rock_salt())
    known, _ = read_candidates([tmp_path])
    assert reasons(tmp_path, known=known) == {"a": "already_added"}


def test_two_crystals_of_one_name_are_told_apart(tmp_path: Path) -> None:
    write(tmp_path / "1" / "x.json", rock_salt())
    write(tmp_path / "2" / "x.json", crystal(["Mg", "O"], [[0, 0, 0], [0.5, 0.5, 0.5]]))
    candidates, (rejection,) = read_candidates([tmp_path])
    assert [c.formula for c in candidates] == ["NaCl"]
    assert rejection.reason == "duplicate_id"
    assert "rename the file" in rejection.message


def test_a_rejected_crystal_does_not_make_its_twin_a_duplicate(tmp_path: Path) -> None:
    write(tmp_path / "a.json", rock_salt())
    write(tmp_path / "b.json", rock_salt())
    calls: list[str] = []

    def fail_first(structure: Structure) -> None:
        calls.append(structure.formula)
        if len(calls) == 1:
            raise SelectorError("not now")

    candidates, rejections = read_candidates([tmp_path], extra_check=fail_first)
    assert [c.material_id for c in candidates] == ["b"]
    assert [r.reason for r in rejections] == ["selector_error"]


def test_a_cell_that_cannot_be_niggli_reduced_is_still_compared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original: Callable[..., Structure] = Structure.get_reduced_structure

    def no_niggli(self: Structure, reduction_algo: str = "niggli") -> Structure:
        if reduction_algo == "niggli":
            raise ValueError("can't find niggli")
        return original(self, reduction_algo)

    monkeypatch.setattr(Structure, "get_reduced_structure", no_niggli)
    write(tmp_path / "a.json", rock_salt())
    shifted = rock_salt()
    shifted.translate_sites(range(8), [0.1, 0.2, 0.3])
    write(tmp_path / "b.json", shifted)
    assert reasons(tmp_path) == {"b": "duplicate"}


# -- the engine's own check and the progress bar ----------------------------------------------------------------------


def test_the_engine_s_check_rejects_by_the_name_of_its_error(tmp_path: Path) -> None:
    def check(structure: Structure) -> None:
        if "Cl" in structure.symbol_set:
            raise MissingDataset("no dataset for Cl; take another engine")

    write(tmp_path / "a.json", rock_salt())
    write(tmp_path / "b.json", crystal(["Mg", "O"], [[0, 0, 0], [0.5, 0.5, 0.5]]))
    candidates, (rejection,) = read_candidates([tmp_path], extra_check=check)
    assert [c.material_id for c in candidates] == ["b"]
    assert rejection.reason == "missing_dataset"
    assert rejection.message == f"{tmp_path / 'a.json'}: no dataset for Cl; take another engine"


def test_progress_is_told_of_every_file(tmp_path: Path) -> None:
    write(tmp_path / "a.json", rock_salt())
    (tmp_path / "b.cif").write_text("")
    seen: list[str] = []
    read_candidates([tmp_path], on_file=lambda path: seen.append(path.name))
    assert seen == ["a.json", "b.cif"]


# -- the Candidate ----------------------------------------------------------------------------------------------------


def test_a_candidate_survives_json(demo: list[Candidate]) -> None:
    for candidate in demo[:10]:
        data = json.loads(json.dumps(candidate.to_dict()))
        assert set(data["structure"]) == {"lattice", "species", "frac"}
        back = Candidate.from_dict(data)
        assert back == candidate
        assert back.to_dict() == data
        np.testing.assert_array_equal(back.structure.frac_coords, candidate.structure.frac_coords)


def test_what_a_candidate_knows_of_itself() -> None:
    c = Candidate("x", rock_salt(), "x.cif")
    assert (c.formula, c.nsites, c.elements) == ("NaCl", 8, ("Cl", "Na"))


@given(st.permutations(range(8)), st.integers(-2, 2), st.floats(0.0, 6.28))
def test_structure_hash_ignores_order_lattice_translations_and_orientation(
    order: list[int], shift: int, angle: float
) -> None:
    s = rock_salt()
    c, d = np.cos(angle), np.sin(angle)
    rotated = s.lattice.matrix @ np.array([[c, -d, 0], [d, c, 0], [0, 0, 1]])
    other = Structure(rotated, [s[i].specie for i in order], s.frac_coords[order] + shift)
    assert Candidate("a", s, "a").structure_hash == Candidate("b", other, "b").structure_hash


@pytest.mark.parametrize("change", ["lattice", "position", "species"])
def test_structure_hash_sees_every_change(change: str) -> None:
    s, t = rock_salt(), rock_salt()
    if change == "lattice":
        t.scale_lattice(t.volume * 1.001)
    elif change == "position":
        t.translate_sites([0], [0.001, 0, 0])
    else:
        t.replace(0, "K")
    assert Candidate("a", s, "a").structure_hash != Candidate("a", t, "a").structure_hash
