"""Crystal structures from files: CIF, POSCAR and JSON, and nothing of a file lost without a word.

Reading is stricter than pymatgen's, which drops sites whose element it cannot tell, guesses elements from labels, and
names the atoms of an old POSCAR H, He, Li. Here each of these is an error.
"""

from __future__ import annotations

import itertools
import json
import os
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from pymatgen.core import Element, Lattice, Structure
from pymatgen.io.cif import CifParser

from selector.errors import UsageError
from selector.plain_cif import read_plain_cif
from selector.structure_checks import StructureError

FORMATS = "CIF (.cif), POSCAR (POSCAR, CONTCAR, .vasp) and JSON (.json)"
VASP_NAMES = ("POSCAR", "CONTCAR")


def material_id(path: Path) -> str:
    """The file's stem, or the folder's name where the stem is POSCAR or CONTCAR (they would all be called the same)."""
    return path.resolve().parent.name if path.stem in VASP_NAMES else path.stem


def is_structure_file(path: Path) -> bool:
    """Whether the name is one that :func:`read_structure` reads."""
    return path.name in VASP_NAMES or path.suffix.lower() in (".cif", ".vasp", ".json")


def find_structure_files(paths: Iterable[Path | str]) -> list[Path]:
    """The structure files among files and folders, each once.

    Folders are searched in depth, in sorted order; hidden files and folders, links to folders, and files of other types
    are passed over. A file named directly is kept whatever its type, so that reading it says what is wrong with it.

    Raises
    ------
    UsageError
        A path does not exist, or a folder holds no structure file.
    """
    found: dict[Path, Path] = {}
    for path in map(Path, paths):
        if not path.exists():
            raise UsageError(f"{path}: no such file or folder")
        files = _files_below(path) if path.is_dir() else [path]
        if not files:
            raise UsageError(f"{path}: no structure file in this folder; what is read is {FORMATS}")
        for file in files:
            found.setdefault(file.resolve(), file)
    return list(found.values())


def _files_below(folder: Path) -> list[Path]:
    files: list[Path] = []
    for top, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        files += [Path(top) / name for name in names if not name.startswith(".")]
    return sorted(filter(is_structure_file, files))


def read_structure(path: Path | str) -> Structure:
    """Read one crystal; oxidation states, spins and other site properties are stripped.

    The cell and the sites are those of the file, whether or not they make sense as a crystal to compute:
    :func:`selector.structure_checks.check_structure` says that.

    Parameters
    ----------
    path : file
        CIF with exactly one structure; POSCAR with element symbols; JSON of a pymatgen ``Structure``, or of
        anything that holds one under ``structure``, such as a ``ComputedStructureEntry``.

    Raises
    ------
    StructureError
        One line that names the file, what is wrong, and what to do.
    """
    path = Path(path)
    if not is_structure_file(path):
        raise StructureError("unsupported_format", f"{path}: not a known structure file; what is read is {FORMATS}")
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        raise StructureError("unreadable", f"{path}: cannot be read ({error.strerror})") from None
    if not text.strip():
        raise StructureError("unreadable", f"{path}: the file is empty; fetch or export it again")
    form = {".cif": "cif", ".json": "json"}.get(path.suffix.lower(), "poscar")
    try:
        return parse_structure(text, form)
    except StructureError as error:
        raise StructureError(error.reason, f"{path}: {error}") from None


def parse_structure(text: str, form: str) -> Structure:
    """Read one crystal from text; otherwise as :func:`read_structure`, whose errors name the file as well.

    Parameters
    ----------
    text : what such a file holds
    form : "cif", "json" or "poscar"

    Raises
    ------
    StructureError
        One line: what is wrong, what to do.
    """
    parse = {"cif": _from_cif, "json": _from_json, "poscar": _from_poscar}[form]
    try:
        with warnings.catch_warnings():
            # What matters among pymatgen's warnings is checked by name below; the rest would only clutter a batch.
            warnings.simplefilter("ignore")
            structure = parse(text)
            if not (np.isfinite(structure.lattice.matrix).all() and np.isfinite(structure.frac_coords).all()):
                raise StructureError("unreadable", "a cell vector or position is not a finite number; correct the file")
            return _bare(structure)
    except StructureError:
        raise
    except Exception as error:  # a parser may fail in any way on a broken file
        why = f"{type(error).__name__}: {' '.join(str(error).split())[:120]}"
        raise StructureError("unreadable", f"not a valid structure ({why}); check or re-export it") from None


def _from_cif(text: str) -> Structure:
    plain = read_plain_cif(text)
    if plain is not None:
        return plain
    try:
        parser = CifParser.from_str(text)
    except Exception:  # a loop without rows ends in a ZeroDivisionError, and so on
        raise StructureError("unreadable", "the CIF breaks off or is malformed; fetch or export it again") from None
    blocks = [block for block in parser.as_dict().values() if "_atom_site_fract_x" in block]
    if len(blocks) != 1:
        found = "no atoms with fractional coordinates" if not blocks else f"{len(blocks)} structures"
        raise StructureError("unreadable", f"the CIF holds {found}; it must hold exactly one structure")
    _check_cif_symbols(blocks[0])
    try:
        structure = parser.parse_structures(primitive=False, on_error="ignore")[0]
    except ValueError:
        raise _why_no_structure(parser.warnings) from None
    _check_cif_is_whole(parser, blocks[0], structure)
    return structure


def _why_no_structure(complaints: list[str]) -> StructureError:
    last = complaints[-1].splitlines()[-1] if complaints else "no structure could be built"
    if "exceeded tolerance" in last:
        # pymatgen adds up the occupancies of sites that fall on one another and refuses a sum above one.
        return StructureError(
            "overlapping_atoms",
            "two sites fall on the same position, or an occupancy is above 1; "
            "list each symmetry-distinct atom once, or every atom without symmetry operations",
        )
    if "Singular matrix" in last or "thickness" in last:
        return StructureError("implausible_cell", "the cell has no volume; correct its lengths and angles")
    return StructureError("unreadable", f"not a valid CIF ({last}); check or re-export it")


def _check_cif_symbols(block: dict[str, Any]) -> None:
    """Refuse the site names that pymatgen would drop (``?``, ``OH``) or take for something else (``Wat1``, ``CA1``)."""
    key = "_atom_site_type_symbol" if "_atom_site_type_symbol" in block else "_atom_site_label"
    for name in block[key]:
        letters = "".join(itertools.takewhile(str.isalpha, name))
        # A label goes on after the symbol in many ways (Si1, O_2, C1A), but "CA1" could be carbon or calcium.
        if not Element.is_valid_symbol(letters.title() if key == "_atom_site_type_symbol" else letters):
            raise StructureError(
                "unsupported_species",
                f"the site '{name}' is no chemical element; write its symbol in _atom_site_type_symbol",
            )


def _check_cif_is_whole(parser: CifParser, block: dict[str, Any], structure: Structure) -> None:
    """Refuse a CIF whose space group was not understood, or whose atoms do not add up to its own formula."""
    if any("Defaulting to P1" in warning for warning in parser.warnings) and any(
        key.startswith(("_symmetry_", "_space_group_")) and value not in ("?", ".") for key, value in block.items()
    ):
        raise StructureError(
            "unreadable", "the CIF's space group is not understood; export it with symmetry operations, or in P1"
        )
    if any(key in block for key in ("_chemical_formula_sum", "_chemical_formula_structural")):
        mismatch = parser.check(structure)
        # A formula given as "?" or in words says nothing against the sites.
        if mismatch is not None and not mismatch.startswith("Cannot determine"):
            raise StructureError(
                "composition_mismatch",
                f"the sites give {structure.composition.formula}, which is not the CIF's own formula; "
                "atoms (often hydrogen) or symmetry operations are missing",
            )


def _from_poscar(text: str) -> Structure:
    # pymatgen's VASP package loads ASE, which loads every plug-in it finds, GPAW's too: not for a CIF.
    from pymatgen.io.vasp.inputs import BadPoscarWarning, Poscar

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        structure = Poscar.from_str(text).structure
    if any(issubclass(w.category, BadPoscarWarning) and "cannot be determined" in str(w.message) for w in caught):
        raise StructureError("unreadable", "the POSCAR names no elements; write their symbols above the atom counts")
    return structure


def _from_json(text: str) -> Structure:
    data = json.loads(text)
    if isinstance(data, dict) and "structure" in data:
        data = data["structure"]
    if not (isinstance(data, dict) and {"lattice", "sites"} <= data.keys()):
        raise StructureError(
            "unreadable", "no pymatgen Structure in this JSON (keys 'lattice' and 'sites', or 'structure' holding them)"
        )
    if not data["sites"]:
        raise StructureError("no_atoms", "the structure has no atoms; check the file")
    structure = Structure.from_dict(data)
    # pymatgen writes the sum of the oxidation states as the charge; only a charge beyond that was meant as one.
    states = [x * (getattr(el, "oxi_state", None) or 0.0) for site in structure for el, x in site.species.items()]
    charge = data.get("charge") or 0.0
    if charge and abs(charge - sum(states)) > 1e-6:
        raise StructureError("charged", f"the cell has a net charge of {charge:g}; only neutral cells are computed")
    return structure


def _bare(structure: Structure) -> Structure:
    """Elements on a fully periodic lattice, without oxidation states, spins, labels or site properties."""
    species: list[dict[Any, float]] = []
    for site in structure:
        species.append({})
        for specie, occupancy in site.species.items():
            element = getattr(specie, "element", specie)  # a dummy species has none and stays what it is
            species[-1][element] = species[-1].get(element, 0.0) + occupancy
    return Structure(Lattice(structure.lattice.matrix), species, structure.frac_coords)
