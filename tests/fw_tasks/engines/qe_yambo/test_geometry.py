"""Meshes, field directions, and which G-vectors couple."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pymatgen.core import Lattice, Structure

from fw_tasks.engines.checks import primitive_cell
from fw_tasks.engines.qe_yambo.geometry import coupling_vectors, even_mesh, field_directions, shifted_points


@given(st.floats(2.0, 12.0), st.floats(2.0, 12.0), st.floats(2.0, 12.0), st.integers(10, 5000))
def test_meshes_are_even_dense_enough_and_equal_along_equal_axes(a: float, b: float, c: float, kppa: int) -> None:
    cell = Structure(Lattice.orthorhombic(a, b, c), ["H", "H"], [[0, 0, 0], [0.5, 0.5, 0.5]])
    mesh = even_mesh(cell, kppa)
    assert all(n >= 2 and n % 2 == 0 for n in mesh)
    ideal = (kppa / 2 * a * b * c) ** (1 / 3) / np.array([a, b, c])
    assert all(abs(n - x) <= 1.0 + 1e-3 * x or n == 2 for n, x in zip(mesh, ideal, strict=True))
    square = Structure(Lattice.tetragonal(a, c), ["H"], [[0, 0, 0]])
    assert even_mesh(square, kppa)[0] == even_mesh(square, kppa)[1]


def test_meshes_of_the_paper(crystals: dict[str, Structure]) -> None:
    assert [even_mesh(primitive_cell(crystals[name]), 500) for name in ("Si", "LiF")] == [(6, 6, 6)] * 2
    assert even_mesh(primitive_cell(crystals["Si"]), 1500) == (10, 10, 10)


def test_shifted_points_are_those_recorded() -> None:
    points = shifted_points((6, 6, 6))
    assert points.shape == (216, 3)
    assert points[1] == pytest.approx([0.015625, 0.03125, 0.21354167], abs=1e-8)
    assert points[-1] == pytest.approx([1 / 64 + 5 / 6, 2 / 64 + 5 / 6, 3 / 64 + 5 / 6])


@pytest.mark.parametrize(
    ("lattice", "groups"),
    [
        (Lattice.cubic(4.0), [[0, 1, 2]]),
        (Lattice.tetragonal(4.0, 6.0), [[0, 1], [2]]),
        (Lattice.hexagonal(3.0, 7.0), [[0, 1], [2]]),
        (Lattice.orthorhombic(3.0, 4.0, 5.0), [[0], [1], [2]]),
        (Lattice.from_parameters(3.0, 4.0, 5.0, 80.0, 75.0, 95.0), [[0], [1], [2]]),
    ],
)
def test_field_directions(lattice: Lattice, groups: list[list[int]]) -> None:
    assert field_directions(Structure(lattice, ["Ar"], [[0, 0, 0]])) == groups


def test_layers_couple_to_fields_in_their_plane_late(crystals: dict[str, Structure]) -> None:
    """The first shells of layered BN are (00l): l odd is forbidden by the glide plane, l even couples along c only."""
    cell = primitive_cell(crystals["BN"])
    assert [coupling_vectors(cell, 0, n) for n in (1, 3, 5)] == [1, 1, 1]
    assert [coupling_vectors(cell, 2, n) for n in (1, 3, 5)] == [1, 1, 3]
    assert coupling_vectors(cell, 0, 40) > 10


def test_cubic_shells_couple(crystals: dict[str, Structure]) -> None:
    """Fields along x leave out the G-vectors normal to x on axes of symmetry, such as (0, 2, 0), and no others."""
    lif = primitive_cell(crystals["LiF"])
    assert [coupling_vectors(lif, axis, 9) for axis in range(3)] == [9, 9, 9]
    assert coupling_vectors(lif, 0, 15) == 9 + 2
