"""A fast reader for plain CIFs: those that every reader must understand the same way.

Gemmi splits the text into its items; from these the crystal is built as pymatgen's `CifParser` builds it, site by site
and with its tolerances, in a twentieth of the time. Whatever is out of the ordinary (disorder, oxidation states,
magnetism, sites that fall together, symmetry without operations, a formula that does not fit, any syntax error) is
left to the slow reader, which knows what to say about it.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import gemmi
import numpy as np
from numpy.typing import NDArray
from pymatgen.core import Composition, Element, Lattice, Structure
from pymatgen.core.operations import SymmOp

Array = NDArray[np.float64]

CELL = tuple(f"_cell_{k}" for k in ("length_a", "length_b", "length_c", "angle_alpha", "angle_beta", "angle_gamma"))
OPERATIONS = ("_symmetry_equiv_pos_as_xyz", "_space_group_symop_operation_xyz")
FORMULAS = ("_chemical_formula_sum", "_chemical_formula_structural")
SITE = "_atom_site_"
COORDINATES = tuple(f"{SITE}fract_{x}" for x in "xyz")
# Columns of the table of sites that change nothing, beside symbol, label, coordinates and occupancy.
IDLE = {
    f"{SITE}{name}"
    for name in (
        "symmetry_multiplicity", "site_symmetry_multiplicity", "Wyckoff_symbol", "Wyckoff_label", "adp_type",
        "thermal_displace_type", "U_iso_or_equiv", "B_iso_or_equiv", "calc_flag", "refinement_flags",
        "site_symmetry_order",
    )
}  # fmt: skip
# What begins so speaks of magnetism or oxidation states.
UNUSUAL = ("_space_group_magn", "_space_group_symop_magn", "_atom_site_moment", "_atom_type_oxidation_number")
# pymatgen's: a coordinate this near (in relative terms) to 1/3 or 2/3 is meant to be that; fractional positions this
# near are the same; a cell thinner than this, in angstrom, is none; ratios of the formula may differ by so much.
THIRDS, NEAR_THIRD, SAME_SITE, THINNEST, FORMULA_RATIO = (1 / 3, 2 / 3), 1e-4, 1e-4, 0.01, 0.01
MOST_IMAGES = 1000

_SYMBOL = re.compile(r"([A-Z][a-z]?)\d*")
_FORMULA = re.compile(r"\s*(?:[A-Z][a-z]?(?:\d+(?:\.\d+)?)?\s*)+")
_FORMULA_PART = re.compile(r"([A-Z][a-z]?)(\d+(?:\.\d+)?)?")


class _NotPlain(Exception):
    pass


def read_plain_cif(text: str) -> Structure | None:
    """The crystal of a CIF, or None where pymatgen's reader should look at it.

    Parameters
    ----------
    text : the whole file

    Returns
    -------
    The structure that ``CifParser.from_str(text).parse_structures(primitive=False)[0]`` gives: the same lattice, and
    the same species and fractional coordinates in the same order. Site labels are not kept.
    """
    try:
        block = gemmi.cif.read_string(text).sole_block()
        return _structure(block)
    except (_NotPlain, ValueError, RuntimeError, IndexError):  # but for the first, gemmi's
        return None


def _structure(block: gemmi.cif.Block) -> Structure:
    values: dict[str, str] = {}
    columns: dict[str, list[str]] = {}
    items: list[Any] = list(block)
    for item in items:
        if item.pair is not None:
            values[item.pair[0]] = item.pair[1]
        elif item.loop is not None:
            width, cells = item.loop.width(), item.loop.values
            columns |= {tag: cells[k::width] for k, tag in enumerate(item.loop.tags)}
        else:
            raise _NotPlain
    if any(tag.startswith(UNUSUAL) for tag in (*values, *columns)) or any(tag.startswith(SITE) for tag in values):
        raise _NotPlain

    lattice = Lattice.from_parameters(*_numbers([values.get(tag, "?") for tag in CELL]).tolist())
    if not np.abs(np.linalg.det(lattice.matrix)) * min(lattice.abc) > THINNEST * math.prod(lattice.abc):
        raise _NotPlain
    symbols = _symbols(columns)
    if any(len(columns.get(tag, ())) != len(symbols) for tag in COORDINATES):
        raise _NotPlain
    listed = _numbers([text for tag in COORDINATES for text in columns[tag]]).reshape(3, -1).T
    for third in THIRDS:
        listed = np.where(np.abs(listed / third - 1) <= NEAR_THIRD, third, listed)
    owner, positions = _expanded(listed, _operations(columns))
    species = [symbols[k] for k in owner]
    _check_formula(values, species)
    # The order of pymatgen: by electronegativity, then by symbol, then as listed.
    order = sorted(range(len(species)), key=lambda k: (_electronegativity()[species[k]], species[k]))
    return Structure(lattice, [_composition(species[k]) for k in order], positions[order])


def _numbers(texts: Sequence[str]) -> Array:
    """(n,) numbers, standard uncertainties in brackets cut off."""
    numbers = np.array([gemmi.cif.as_number(text) for text in texts])
    if not np.isfinite(numbers).all():
        raise _NotPlain
    return numbers


def _symbols(columns: dict[str, list[str]]) -> list[str]:
    """Element of each listed site, all of them fully occupied."""
    typed, label, occupancy = (f"{SITE}{name}" for name in ("type_symbol", "label", "occupancy"))
    known = {typed, label, occupancy, *COORDINATES, *IDLE}
    if label not in columns or any(tag.startswith(SITE) and tag not in known for tag in columns):
        raise _NotPlain
    if not (_numbers(columns.get(occupancy, ["1"])) == 1.0).all():
        raise _NotPlain
    names = columns.get(typed, columns[label])
    found = [_SYMBOL.fullmatch(name) for name in names]
    symbols = [match[1] if match else "" for match in found]
    if not _electronegativity().keys() >= set(symbols) or (typed in columns and symbols != names):
        raise _NotPlain
    return symbols


def _operations(columns: dict[str, list[str]]) -> tuple[Array, Array]:
    """Rotations (m, 3, 3) and translations (m, 3) of the listed symmetry operations."""
    listed = next((columns[tag] for tag in OPERATIONS if tag in columns), None)
    if not listed:
        raise _NotPlain
    operations = [_operation(gemmi.cif.as_string(text)) for text in listed]
    return np.array([r for r, _ in operations]), np.array([t for _, t in operations])


@lru_cache(maxsize=4096)
def _operation(xyz: str) -> tuple[Array, Array]:
    if not re.fullmatch(r"[-+xyzXYZ0-9./, ]+", xyz) or xyz.count(",") != 2:
        raise _NotPlain
    operation = SymmOp.from_xyz_str(xyz)
    return operation.rotation_matrix, operation.translation_vector


def _expanded(listed: Array, operations: tuple[Array, Array]) -> tuple[NDArray[np.int64], Array]:
    """Every site of the cell: from which listed one it comes (n,), and its position (n, 3) in [0, 1]."""
    rotation, translation = operations
    owner = np.repeat(np.arange(len(listed)), len(rotation))
    if len(owner) > MOST_IMAGES:
        raise _NotPlain
    images = (rotation @ listed[:, None, :, None])[..., 0].reshape(-1, 3) + np.tile(translation, (len(listed), 1))
    images -= np.floor(images)
    step = images[:, None] - images
    apart: Array = np.abs(step - np.rint(step)).max(axis=-1)
    near = apart < SAME_SITE
    if np.count_nonzero(near) == len(images):
        return owner, images
    first = near.argmax(axis=1)
    # Nearness that is no equivalence makes it a matter of order which image stays; listed sites must stay apart.
    if not (near == near[first]).all() or (owner[first] != owner).any():
        raise _NotPlain
    kept = first == np.arange(len(first))
    return owner[kept], images[kept]


def _check_formula(values: dict[str, str], species: list[str]) -> None:
    """The formula that the CIF states, if any, must be that of its sites up to a factor."""
    stated = next((values[tag] for tag in FORMULAS if tag in values), None)
    if stated is None:
        return
    formula = gemmi.cif.as_string(stated)
    if not _FORMULA.fullmatch(formula):
        raise _NotPlain
    amounts: dict[str, float] = {}
    for symbol, amount in _FORMULA_PART.findall(formula):
        amounts[symbol] = amounts.get(symbol, 0.0) + float(amount or 1)
    if set(amounts) != set(species) or not all(amounts.values()):
        raise _NotPlain
    ratios = [species.count(symbol) / amount for symbol, amount in amounts.items()]
    if max(ratios) - min(ratios) >= FORMULA_RATIO:
        raise _NotPlain


@lru_cache(maxsize=1)
def _electronegativity() -> dict[str, float]:
    """Of the elements for which pymatgen, which sorts sites by it, has one; isotopes are no elements here."""
    values = ((e.symbol, e.data.get("X")) for e in map(Element.from_Z, range(1, 119)))
    return {symbol: x for symbol, x in values if isinstance(x, int | float)}


@lru_cache(maxsize=256)
def _composition(symbol: str) -> Composition:
    return Composition({symbol: 1.0})
