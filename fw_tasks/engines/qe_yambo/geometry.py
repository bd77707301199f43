"""What the protocol asks of a cell: meshes, inequivalent field directions, G-vectors that couple to a field."""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np
import spglib
from numpy.typing import NDArray
from pymatgen.core import Structure

from fw_tasks.engines.checks import SYMPREC_ANG

Array = NDArray[np.float64]
BOHR_ANG = 0.529177210903
SHIFT = np.array([1.0, 2.0, 3.0]) / 64.0
AXES = np.eye(3)


def even_mesh(cell: Structure, kppa: int) -> tuple[int, int, int]:
    """Even subdivisions nearest to ``kppa`` k-points times atoms, in proportion to the reciprocal lengths.

    Lengths are rounded first, so that equal axes keep equal subdivisions.
    """
    lengths = np.round(cell.lattice.reciprocal_lattice.abc, 4)
    per_length = (kppa / len(cell) / np.prod(lengths)) ** (1.0 / 3.0)
    a, b, c = (max(2, 2 * int(np.floor(per_length * x / 2.0 + 0.5))) for x in lengths)
    return a, b, c


def shifted_points(mesh: tuple[int, int, int]) -> Array:
    """The full grid i/n + (1, 2, 3)/64 in crystal coordinates, shape (n_k, 3): no two points are equivalent."""
    return np.array([np.array(i) / mesh for i in product(*(range(n) for n in mesh))]) + SHIFT


def operations(cell: Structure) -> tuple[NDArray[np.int_], Array, Array]:
    """Space group operations: (n, 3, 3) rotations in crystal and in Cartesian axes, (n, 3) crystal translations."""
    lattice: Any = (cell.lattice.matrix, cell.frac_coords, cell.atomic_numbers)
    found = spglib.get_symmetry(lattice, symprec=SYMPREC_ANG)
    if found is None:
        identity = np.eye(3, dtype=int)[None]
        return identity, identity.astype(float), np.zeros((1, 3))
    crystal, shift = found["rotations"], found["translations"]
    columns = cell.lattice.matrix.T
    return crystal, columns @ crystal @ np.linalg.inv(columns), shift


def field_directions(cell: Structure) -> list[list[int]]:
    """Cartesian axes 0, 1, 2 in groups along which every symmetric tensor of the crystal has equal diagonal elements.

    Two axes belong together if their dyads have the same average over the point group: that average is the
    orthogonal projection on the invariant tensors.
    """
    _, rotations, _ = operations(cell)
    turned = rotations @ AXES
    dyads = np.einsum("ria,rja->aij", turned, turned) / len(rotations)
    groups: list[list[int]] = []
    for axis in range(3):
        home = next((g for g in groups if np.allclose(dyads[g[0]], dyads[axis], atol=1e-6)), None)
        if home is None:
            groups.append([axis])
        else:
            home.append(axis)
    return groups


def coupling_vectors(cell: Structure, axis: int, n_g: int) -> int:
    """How many of the ``n_g`` shortest G-vectors may couple to a field along ``axis``, G = 0 included.

    The head-wing element of G transforms as a vector under the operations {R|t} that leave G alone, times the phase
    exp(i G t); it vanishes where the field's projection on that symmetry vanishes. In layered crystals the first
    shells are normal to the layers and couple to no field in the plane, so RPA equals IPA there however many there
    are.
    """
    crystal, rotations, shift = operations(cell)
    couples = 0
    for g in _shortest(cell, n_g):
        if not g.any():
            couples += 1
            continue
        keeps = np.all(g @ crystal == g, axis=1)
        phases = np.exp(2j * np.pi * shift[keeps] @ g)
        projected = np.tensordot(phases, rotations[keeps] @ AXES[axis], axes=1) / keeps.sum()
        couples += bool(np.linalg.norm(projected) > 1e-4)
    return couples


def _shortest(cell: Structure, n_g: int) -> NDArray[np.int_]:
    """The ``n_g`` shortest reciprocal lattice vectors and what else belongs to their last shell, as integers (n, 3)."""
    reciprocal = cell.lattice.reciprocal_lattice.matrix
    radius = (6.0 * np.pi**2 * (n_g + 2) / cell.volume) ** (1.0 / 3.0)
    while True:
        reach = np.ceil(radius * np.array(cell.lattice.abc) / (2.0 * np.pi)).astype(int)
        grid = np.array(list(product(*(range(-m, m + 1) for m in reach))))
        lengths = np.linalg.norm(grid @ reciprocal, axis=1)
        within = np.sort(lengths[lengths <= radius])
        if len(within) >= n_g:
            return grid[lengths <= within[n_g - 1] + 1e-5]
        radius *= 1.2
