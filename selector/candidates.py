"""Candidates: crystals that were read, checked, and found to be unlike every other in the pool.

A file that cannot become a candidate becomes a `Rejection` with a reason; the rest of the batch goes on.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from pymatgen.analysis.structure_matcher import StructureMatcher
from pymatgen.core import Structure

from selector.errors import SelectorError
from selector.structure_checks import StructureError, check_structure
from selector.structure_files import find_structure_files, material_id, read_structure

__all__ = [
    "Candidate",
    "Rejection",
    "StructureError",
    "check_structure",
    "find_structure_files",
    "read_candidate",
    "read_candidates",
    "read_structure",
]


@dataclass(frozen=True)
class Candidate:
    """A crystal in the pool.

    Attributes
    ----------
    material_id : str
    structure : pymatgen Structure, ordered, elements only
    source : str, the file it came from
    """

    material_id: str
    structure: Structure
    source: str

    @cached_property
    def formula(self) -> str:
        """Reduced formula."""
        return str(self.structure.composition.reduced_formula)

    @property
    def nsites(self) -> int:
        return len(self.structure)

    @cached_property
    def elements(self) -> tuple[str, ...]:
        """Element symbols, sorted."""
        return tuple(sorted(el.symbol for el in self.structure.composition.elements))

    @cached_property
    def structure_hash(self) -> str:
        """Sixteen hex digits over the cell lengths and angles, and the elements and positions of the sites.

        Lengths (angstrom), angles (degrees) and fractional coordinates are rounded to four digits; the order of the
        sites and the cell's orientation do not count. It tells whether two inputs are the same cell, not the same
        crystal: another choice of cell or origin has another hash.
        """
        cell = np.round(self.structure.lattice.parameters, 4)
        frac = np.round(self.structure.frac_coords, 4) % 1.0 + 0.0
        sites = sorted([site.specie.Z, *map(float, x)] for site, x in zip(self.structure, frac, strict=True))
        return hashlib.sha256(json.dumps([cell.tolist(), sites]).encode()).hexdigest()[:16]

    def to_dict(self) -> dict[str, Any]:
        """JSON-able; ``structure`` is ``{lattice (3 x 3, angstrom), species (n symbols), frac (n x 3)}``."""
        return {
            "material_id": self.material_id,
            "source": self.source,
            "formula": self.formula,
            "nsites": self.nsites,
            "elements": list(self.elements),
            "structure_hash": self.structure_hash,
            "structure": {
                "lattice": self.structure.lattice.matrix.tolist(),
                "species": [site.specie.symbol for site in self.structure],
                "frac": self.structure.frac_coords.tolist(),
            },
        }

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Candidate:
        """The inverse of :meth:`to_dict`; what follows from the structure is not read but derived again."""
        s = data["structure"]
        return cls(data["material_id"], Structure(s["lattice"], s["species"], s["frac"]), data["source"])


@dataclass(frozen=True)
class Rejection:
    """A file that did not become a candidate.

    Attributes
    ----------
    material_id, source : str
    reason : str
        ``unsupported_format``, ``unreadable``, ``composition_mismatch``, ``unsupported_species``, ``charged``,
        ``no_atoms``, ``implausible_cell``, ``too_large``, ``disordered``, ``overlapping_atoms``, ``odd_electrons``,
        ``duplicate`` (the same crystal under another name), ``duplicate_id`` (another crystal under the same name),
        ``already_added`` (the same crystal under the same name), or what the engine's own check says, such as
        ``missing_dataset``.
    message : str
        One line: the file, what is wrong, what to do.
    """

    material_id: str
    source: str
    reason: str
    message: str


def read_candidate(path: Path | str, extra_check: Callable[[Structure], None] | None = None) -> Candidate:
    """Read and check one file; see :func:`read_candidates`.

    Raises
    ------
    StructureError
        One line that names the file.
    """
    path = Path(path)
    structure = read_structure(path)
    try:
        check_structure(structure)
        if extra_check is not None:
            extra_check(structure)
    except StructureError as error:
        raise StructureError(error.reason, f"{path}: {error}") from None
    except SelectorError as error:
        raise StructureError(_snake_case(type(error).__name__), f"{path}: {error}") from error
    return Candidate(material_id(path), structure, str(path))


def read_candidates(
    paths: Iterable[Path | str],
    known: Sequence[Candidate] = (),
    extra_check: Callable[[Structure], None] | None = None,
    on_file: Callable[[Path], None] | None = None,
) -> tuple[list[Candidate], list[Rejection]]:
    """Read, check and deduplicate structure files.

    Parameters
    ----------
    paths : files and folders
    known : candidates already in the pool; new ones must differ from them, too
    extra_check : the engine's own check; a `SelectorError` it raises rejects the material, its class name is the reason
    on_file : called after each file, for a progress bar

    Returns
    -------
    candidates, rejections : every file is in exactly one of the two lists, in the order of the files

    Raises
    ------
    UsageError
        A path does not exist, or a folder holds no structure file.
    """
    pool = _DistinctPool(known)
    candidates: list[Candidate] = []
    rejections: list[Rejection] = []
    for path in find_structure_files(paths):
        try:
            candidate = read_candidate(path, extra_check)
            pool.add(candidate)
            candidates.append(candidate)
        except StructureError as error:
            rejections.append(Rejection(material_id(path), str(path), error.reason, str(error)))
        if on_file is not None:
            on_file(path)
    return candidates, rejections


class _DistinctPool:
    """Candidates no two of which are the same crystal, by pymatgen's `StructureMatcher` with its default tolerances.

    It compares shapes (0.2 relative in lengths, 5 degrees, 0.3 of the mean atomic spacing), not volumes: one crystal
    relaxed by two functionals is one material. Only crystals of one reduced formula are compared, by reduced cells.
    """

    def __init__(self, known: Iterable[Candidate]) -> None:
        self._matcher = StructureMatcher()
        self._by_id: dict[str, Candidate] = {}
        self._by_formula: dict[str, list[Candidate]] = defaultdict(list)
        self._reduced: dict[str, Structure] = {}
        for candidate in known:
            self._keep(candidate)

    def add(self, new: Candidate) -> None:
        """Take a candidate in, or raise a `StructureError` that names the one it collides with."""
        namesake = self._by_id.get(new.material_id)
        if namesake is not None:
            if self._same_crystal(namesake, new):
                raise StructureError(
                    "already_added",
                    f"{new.source}: {new.material_id} is in already, from {namesake.source}; nothing to do",
                )
            raise StructureError(
                "duplicate_id",
                f"{new.source}: {new.material_id} is already the name of another crystal, from {namesake.source}; "
                "rename the file",
            )
        for old in self._by_formula[new.formula]:
            if self._same_crystal(old, new):
                raise StructureError(
                    "duplicate",
                    f"{new.source}: the same crystal as {old.material_id}, from {old.source}; remove one of the two",
                )
        self._keep(new)

    def _keep(self, candidate: Candidate) -> None:
        self._by_id[candidate.material_id] = candidate
        self._by_formula[candidate.formula].append(candidate)

    def _same_crystal(self, old: Candidate, new: Candidate) -> bool:
        if old.formula != new.formula:
            return False
        if old.structure_hash == new.structure_hash:
            return True
        a, b = self._reduce(old), self._reduce(new)
        return len(a) == len(b) and bool(self._matcher.fit(a, b, skip_structure_reduction=True))

    def _reduce(self, candidate: Candidate) -> Structure:
        key = candidate.structure_hash
        if key not in self._reduced:
            structure = candidate.structure
            try:
                self._reduced[key] = structure.get_reduced_structure().get_primitive_structure()
            except ValueError:  # pymatgen finds no Niggli cell of some extreme ones; the LLL cell always exists
                self._reduced[key] = structure.get_reduced_structure("LLL")
        return self._reduced[key]


def _snake_case(name: str) -> str:
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower()
