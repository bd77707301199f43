"""A record of a table or a collection -> a crystal: which columns hold it, and how."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
from pymatgen.core import Lattice, Structure

from selector.errors import UsageError
from selector.structure_checks import StructureError
from selector.structure_files import parse_structure

Record = Mapping[str, Any]

ID_KEYS = ("material_id", "mat_id", "immutable_id", "id")
"""Where a record's name is looked for unless one is given: the first of these that is there."""


def _text(record: Record, key: str, form: str) -> Structure:
    value = record[key]
    if not isinstance(value, str):
        raise StructureError("unreadable", f"'{key}' holds {type(value).__name__}, not text; export it again")
    return parse_structure(value, form)


def _own(record: Record) -> Structure:
    """``lattice`` (3 x 3 or 9, angstrom), ``species`` (n symbols or atomic numbers), ``frac`` (n x 3)."""
    return from_arrays(record["lattice"], record["species"], frac=record["frac"])


def _lematerial(record: Record) -> Structure:
    """The columns of LeMaterial's data sets; lengths in angstrom."""
    positions = record["cartesian_site_positions"]
    return from_arrays(record["lattice_vectors"], record["species_at_sites"], cartesian_ang=positions)


def _whole(record: Record) -> Structure:
    """``structure``: a pymatgen ``Structure``, as text or as a nested record, or what `_own` reads."""
    held = record["structure"]
    if isinstance(held, str):
        held = json.loads(held)
    if isinstance(held, Mapping) and {"lattice", "species", "frac"} <= held.keys():
        return _own(held)
    return parse_structure(json.dumps(held), "json")


FORMS: dict[tuple[str, ...], Callable[[Record], Structure]] = {
    ("lattice", "species", "frac"): _own,
    ("lattice_vectors", "species_at_sites", "cartesian_site_positions"): _lematerial,
    ("structure",): _whole,
    ("cif",): lambda record: _text(record, "cif", "cif"),
}


def form_of(columns: Iterable[str]) -> tuple[str, ...]:
    """The columns, among these, that hold the crystal: the first of `FORMS` that is there.

    Raises
    ------
    UsageError
        There is none; the columns present are named.
    """
    present = list(columns)
    for needed in FORMS:
        if set(needed) <= set(present):
            return needed
    wanted = "; or ".join(", ".join(needed) for needed in FORMS)
    raise UsageError(f"no structure among its columns ({', '.join(present[:20]) or 'none'}); what is read is {wanted}")


def structure_of(record: Record) -> Structure:
    """The crystal of a record whose form is not known beforehand.

    Raises
    ------
    StructureError
        It can't be read.
    UsageError
        It holds none.
    """
    return FORMS[form_of(record)](record)


def id_key(columns: Iterable[str], wanted: str | None) -> str | None:
    """The column of the names, or None where there is none.

    Raises
    ------
    UsageError
        The one wanted is not there.
    """
    present = list(columns)
    if wanted is not None and wanted not in present:
        raise UsageError(f"no column '{wanted}' for the names; there are {', '.join(present[:20])}")
    return wanted or next((key for key in ID_KEYS if key in present), None)


def from_arrays(lattice: Any, species: Any, frac: Any = None, cartesian_ang: Any = None) -> Structure:
    """A crystal from plain numbers.

    Parameters
    ----------
    lattice : (3, 3) or (9,), one vector after another, angstrom
    species : (n,) symbols or atomic numbers
    frac, cartesian_ang : (n, 3), one of the two

    Raises
    ------
    StructureError
        Shapes do not fit, a number is not finite, or a species is no element.
    """
    cartesian = frac is None
    try:
        cell = np.asarray(lattice, dtype=float).reshape(3, 3)
        where = np.asarray(cartesian_ang if cartesian else frac, dtype=float).reshape(-1, 3)
        names = [] if species is None else list(species)
    except (TypeError, ValueError) as e:
        raise StructureError("unreadable", f"cell or positions are not numbers in rows of three ({e})") from None
    if len(names) != len(where):
        raise StructureError("unreadable", f"{len(names)} species for {len(where)} positions")
    if not (np.isfinite(cell).all() and np.isfinite(where).all()):
        raise StructureError("unreadable", "a cell vector or position is not a finite number")
    if abs(np.linalg.det(cell)) < 1e-6:
        raise StructureError("implausible_cell", "the cell has no volume; correct its vectors")
    try:
        return Structure(Lattice(cell), names, where, coords_are_cartesian=cartesian)
    except (ValueError, TypeError, KeyError) as e:
        raise StructureError(
            "unsupported_species", f"{' '.join(str(e).split())[:80]}; name chemical elements"
        ) from None
