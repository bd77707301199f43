"""What a structure must be before anything is computed on it: ordered, plausible, with an even number of electrons.

No check here depends on SC or on an engine; an engine adds its own.
"""

from __future__ import annotations

import numpy as np
from pymatgen.core import DummySpecies, Element, Structure

from selector.errors import UsageError

MIN_DISTANCE_ANG = 0.5  # H2, the shortest bond there is, has 0.74
MIN_SPACING_ANG = 0.5  # between lattice planes; a flatter cell is a broken or hopelessly skewed one
VOLUME_PER_ATOM_ANG3 = (1.0, 500.0)  # outside: a wrong unit of length, or nearly all vacuum
MAX_SITES = 1000


class StructureError(UsageError):
    """A structure cannot be used; the message is one line.

    Attributes
    ----------
    reason : str
        A code in snake_case, e.g. ``unreadable``, ``disordered``, ``overlapping_atoms``, ``odd_electrons``.
    """

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


def check_structure(structure: Structure) -> None:
    """Refuse what no engine can compute as a closed-shell crystal.

    Raises
    ------
    StructureError
        With a reason (see :class:`selector.candidates.Rejection`) and one line that says what to do. It names no file.
    """
    _check_cell(structure)
    _check_species(structure)
    _check_distances(structure)
    n_electrons = sum(site.specie.Z for site in structure)
    if n_electrons % 2:
        raise StructureError(
            "odd_electrons",
            f"{n_electrons} electrons in {structure.composition.formula}: an odd number has no closed shell; "
            "check the composition, or give the cell in which the electrons pair",
        )


def _check_cell(structure: Structure) -> None:
    n = len(structure)
    if n == 0:
        raise StructureError("no_atoms", "the structure has no atoms; check the file")
    if n > MAX_SITES:
        raise StructureError("too_large", f"{n} atoms; at most {MAX_SITES} are accepted: give the primitive cell")
    lattice = structure.lattice
    spacing_ang = 1.0 / np.linalg.norm(lattice.inv_matrix, axis=0) if lattice.volume > 1e-6 else np.zeros(3)
    if spacing_ang.min() < MIN_SPACING_ANG:
        raise StructureError(
            "implausible_cell", f"the cell is flat ({lattice.volume:.3g} A^3); correct its vectors, or Niggli-reduce it"
        )
    low, high = VOLUME_PER_ATOM_ANG3
    if not low <= lattice.volume / n <= high:
        raise StructureError(
            "implausible_cell",
            f"{lattice.volume / n:.3g} A^3 per atom, outside {low:g}-{high:g}; check that lengths are in angstrom",
        )


def _check_species(structure: Structure) -> None:
    for element in structure.composition.elements:
        if isinstance(element, DummySpecies):
            raise StructureError("unsupported_species", f"'{element.symbol}' is no chemical element; name the real one")
        if isinstance(element, Element) and element.name != element.symbol:
            raise StructureError(
                "unsupported_species",
                f"isotope {element.name}: write {element.symbol} instead, the electronic structure is the same",
            )
    if not structure.is_ordered:
        site = next(site for site in structure if not site.is_ordered)
        raise StructureError(
            "disordered", f"partly or jointly occupied site ({site.species_string}); give an ordered supercell instead"
        )


def _check_distances(structure: Structure) -> None:
    """Distances between sites and to periodic images, an atom's own images included."""
    i, j, _, distance_ang = structure.get_neighbor_list(MIN_DISTANCE_ANG, exclude_self=True)
    if len(distance_ang):
        k = int(np.argmin(distance_ang))
        pair = " and ".join(structure[int(x)].specie.symbol for x in (i[k], j[k]))
        raise StructureError(
            "overlapping_atoms",
            f"{pair} are {distance_ang[k]:.3f} A apart (less than {MIN_DISTANCE_ANG} A); "
            "remove the duplicate atom, or give special positions more digits",
        )
