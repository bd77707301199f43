"""Shared by the tests of models: the labels that ship, and two crystals made by hand."""

from __future__ import annotations

from pathlib import Path

import pytest
from pymatgen.core import Lattice, Structure

from models.labels import Label, load_labels, read_manifest
from models.sc_predictor import SCPredictor
from tests.crystals import face_centred

ROOT = Path(__file__).parents[2]
MANIFEST = ROOT / "benchmarks" / "manifests" / "2026-11-21.json"


@pytest.fixture(scope="session")
def labels() -> list[Label]:
    """The labels of the frozen manifest, however many more ship by now."""
    return load_labels(ids=read_manifest(MANIFEST))


@pytest.fixture(scope="session")
def predictor(labels: list[Label]) -> SCPredictor:
    """A predictor trained on the first 60 of them, which takes a moment."""
    part = labels[:60]
    return SCPredictor.fit(
        [k.structure for k in part],
        [k.sc for k in part],
        engine="gpaw",
        settings_hash=part[0].settings_hash,
        material_ids=[k.material_id for k in part],
    )


@pytest.fixture
def rocksalt() -> Structure:
    return face_centred("rocksalt", 4.2, "Mg", "O")


@pytest.fixture
def lone_atom() -> Structure:
    """One atom with no neighbour within any cutoff used here."""
    return Structure(Lattice.cubic(15.0), ["Mg"], [[0, 0, 0]])
