"""Crystals the engine tests share; lengths in angstrom."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pymatgen.core import Lattice, Structure

REFERENCE: list[dict[str, Any]] = json.loads((Path(__file__).parent / "data" / "gpaw_reference.json").read_text())


def fcc(a_ang: float, species: list[str]) -> Structure:
    """One atom per lattice point, or rock salt from two."""
    half = a_ang / 2
    lattice = Lattice([[0, half, half], [half, 0, half], [half, half, 0]])
    return Structure(lattice, species, [[0.0] * 3, [0.5] * 3][: len(species)])


def reference(formula: str) -> tuple[Structure, dict[str, Any]]:
    """(structure, recorded results at `standard`) of one of the seven crystals."""
    record = next(r for r in REFERENCE if r["formula"] == formula)
    cell = record["structure"]
    return Structure(Lattice(cell["cell"]), cell["numbers"], cell["frac"]), record
