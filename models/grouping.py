"""Which crystals are too alike to be learned from and judged by: groups for cross-validation.

Two groupings: by reduced formula, and by prototype (space group, stoichiometry, groups of the periodic table), in which
RbF3 and NaF3 stand together. Claims of generalisation quote the second.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import spglib
from pymatgen.core import Structure

from models.elements import element_table
from models.features import atomic_numbers
from selector.errors import SelectorError

SYMPREC_ANG = 1e-2


def prototype(structure: Structure) -> str:
    """Space group, and of each element its group in the periodic table with its share: "166 1x1 17x3" for RbF3.

    Parameters
    ----------
    structure : ordered crystal; its symmetry is sought to 0.01 angstrom

    Raises
    ------
    SelectorError
        The structure is disordered, or no space group is found.
    """
    numbers = atomic_numbers(structure)
    cell: Any = (structure.lattice.matrix, structure.frac_coords, numbers)
    found = spglib.get_symmetry_dataset(cell, symprec=SYMPREC_ANG)
    if found is None:
        raise SelectorError(f"{structure.formula}: no space group found: check its cell and for overlapping atoms")
    group = element_table().group
    shares = structure.composition.reduced_composition.items()
    return " ".join([str(found.number), *sorted(f"{group[element.Z]}x{n:g}" for element, n in shares)])


def joined(*keys: Sequence[str]) -> list[str]:
    """Group of each of n rows such that rows which share any key share the group, be it through others.

    Parameters
    ----------
    keys : sequences of n names each, such as formulas and prototypes

    Returns
    -------
    names of the groups, each the first key of its first row
    """
    parent = list(range(len(keys[0])))

    def root(i: int) -> int:
        while parent[i] != i:
            i = parent[i]
        return i

    for names in keys:
        first: dict[str, int] = {}
        for i, name in enumerate(names):
            a, b = sorted((root(first.setdefault(name, i)), root(i)))
            parent[b] = a
    return [keys[0][root(i)] for i in range(len(parent))]


def prototype_groups(structures: Sequence[Structure], formulas: Sequence[str]) -> list[str]:
    """Groups of n crystals that keep both a prototype and a formula (n names) on one side."""
    return joined(formulas, [prototype(s) for s in structures])
