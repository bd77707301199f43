"""A crystal as a vector: what it is made of, how its atoms touch, and how its pairs are spread over distance.

Local fields matter most where polarisable units stand apart (ionic halides, molecular anions, layers) and least where
valence electrons overlap from bond to bond. The vector therefore holds, in two blocks,

* geometry: packing, valence electron density, coordination, bond polarity, anisotropy, anion-anion contacts;
* pairs: the distribution of distances in units of the sum of covalent radii, bare and weighted with elemental
  properties (an atomic-property-weighted radial distribution function, Fernandez et al., J. Phys. Chem. C 117, 14095
  (2013)).

What a crystal is made of enters through the elemental properties in both. Statistics of the composition alone
(`composition_features`) serve a baseline, and the predictor where they help it (`models.sc_regression`).

Every number is intensive and depends on distances only: a supercell, a rotation or another order of the atoms changes
nothing. No symmetry analysis enters.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pymatgen.core import Structure
from scipy.sparse import csr_array

from models.elements import element_table
from models.neighbours import Neighbours, atomic_numbers, find_neighbours
from selector.errors import SelectorError

Array = NDArray[np.float64]

CUTOFF_ANG = 6.0
# Two atoms touch up to 1.25 times the sum of covalent radii, with a soft edge; large cations touch each other, too.
BOND_RATIO, BOND_EDGE = 1.25, 0.05
# Bonds per atom below which a share of bonds fades to zero.
FEW = 1e-3
NO_CONTACT = 2.5
# Soft step between cations and anions; hydrogen (2.20) lies between.
ANION_ELECTRONEGATIVITY, ANION_EDGE = 2.4, 0.15
PAIR_CENTRES: Array = np.linspace(0.8, 2.2, 8)
PAIR_WIDTH = 0.17
PROPERTIES = ("electronegativity", "radius_ang", "ionisation_ev", "affinity_ev", "row", "valence")
WEIGHTS = ("one", "polar", "valence", "contrast")

COMPOSITION = (
    *(f"{p}_{s}" for p in PROPERTIES for s in ("mean", "std", "max", "min")),
    "share_h", *(f"share_group_{g}" for g in range(1, 19)), "share_p_row_2",
)  # fmt: skip
GEOMETRY = (
    "log_volume_per_atom", "log_volume_per_valence", "log_packing", "valence_electronegativity",
    "log_volume_per_anion_valence", "coordination_mean", "coordination_std", "coordination_min",
    "nearest_ratio_mean", "nearest_ratio_min", "nearest_ratio_max", "bond_polarity", "bond_homonuclear",
    "bond_cation_electronegativity", "log_bonds_per_volume", "log_bond_order", "anisotropy_bonds", "uniaxiality_bonds",
    "anisotropy_contacts", "anisotropy_site_mean", "anisotropy_site_max", "anion_nearest_ratio", "anion_bonds",
)  # fmt: skip
PAIRS = tuple(f"pairs_{w}_{mu:.1f}" for w in WEIGHTS for mu in PAIR_CENTRES)
NAMES = GEOMETRY + PAIRS
# Which block a feature belongs to: the predictor gives the blocks equal weight.
BLOCKS: NDArray[np.int64] = np.repeat([0, 1], [len(GEOMETRY), len(PAIRS)])
FEATURES_VERSION = 1
# Crystals described at once: enough to forget the cost of a call, few enough to stay in the cache.
BATCH = 64


def _step(x: Array) -> Array:
    return 0.5 * (1.0 + np.tanh(0.5 * x))


def composition_features(structures: Sequence[Structure]) -> Array:
    """Statistics of elemental properties and shares of groups, shape (n, len(COMPOSITION)): a baseline's input."""
    if not structures:
        return np.zeros((0, len(COMPOSITION)))
    t, numbers = element_table(), [atomic_numbers(structure) for structure in structures]
    z, n = np.concatenate(numbers), np.array([len(own) for own in numbers])
    crystal, start = np.repeat(np.arange(len(n)), n), np.concatenate([[0], np.cumsum(n)])
    atoms = _sums(start)
    columns = []
    for values in (getattr(t, p)[z] for p in PROPERTIES):
        mean = atoms @ values / n
        spread = np.sqrt(atoms @ (values - mean[crystal]) ** 2 / n)
        columns += [mean, spread, *(extreme.reduceat(values, start[:-1]) for extreme in (np.maximum, np.minimum))]
    hydrogen = z == 1
    column = 19 * crystal + np.where(hydrogen, 0, t.group[z])
    groups = np.bincount(column, minlength=19 * len(n)).reshape(-1, 19)[:, 1:] / n[:, None]
    p_row_2 = (t.row[z] == 2) & (t.group[z] >= 13)
    return np.column_stack([*columns, atoms @ hydrogen / n, groups, atoms @ p_row_2 / n])


def _anisotropy(tensors: Array) -> tuple[Array, Array]:
    """(largest - smallest, largest - middle) eigenvalue over the trace of (..., 3, 3) tensors; 0 for a zero tensor."""
    low, mid, high = np.moveaxis(np.linalg.eigvalsh(tensors), -1, 0)
    trace = low + mid + high + FEW
    return (high - low) / trace, (high - mid) / trace


def _sums(start: NDArray[np.int64]) -> Any:
    """Sums over consecutive parts, from where each begins, as a sparse matrix: `_sums(start) @ values`."""
    return csr_array((np.ones(start[-1]), np.arange(start[-1]), start), shape=(len(start) - 1, start[-1]))


def _described(at: Neighbours) -> Array:
    """Both blocks of n crystals, shape (n, len(NAMES))."""
    t, n, crystal = element_table(), np.diff(at.atom_start), at.crystal
    i, j, d = at.centre, at.neighbour, at.distance_ang
    atoms, pairs = _sums(at.atom_start), _sums(at.pair_start)  # of each crystal
    around = csr_array((np.ones(len(d)), (i, np.arange(len(d)))), shape=(len(crystal), len(d)))  # pairs of each atom

    chi, r, valence = t.electronegativity[at.numbers], t.radius_ang[at.numbers], t.valence[at.numbers]
    volume, electrons = np.abs(np.linalg.det(at.cell_ang)), atoms @ valence
    ratio = d / (r[i] + r[j])
    bond = _step((BOND_RATIO - ratio) / BOND_EDGE)
    bonds = pairs @ bond / n + FEW
    contact = np.exp(-1.5 * ratio**2)
    coordination, nearest = around @ bond, np.full(len(crystal), NO_CONTACT)
    np.minimum.at(nearest, i, ratio)

    def smallest(values: Array) -> Array:
        return np.minimum.reduceat(values, at.atom_start[:-1])

    def spread(values: Array) -> Array:
        return np.sqrt(atoms @ (values - (atoms @ values / n)[crystal]) ** 2 / n)

    direction = at.vector_ang / d[:, None]
    outer = (direction[:, :, None] * direction[:, None, :]).reshape(-1, 9)
    sites = around @ (contact[:, None] * outer)
    tensors = np.stack([pairs @ (bond[:, None] * outer), atoms @ sites]) / n[:, None]
    (bond_aniso, contact_aniso), (bond_uni, _) = _anisotropy(tensors.reshape(2, -1, 3, 3))
    site_aniso, _ = _anisotropy(sites.reshape(-1, 3, 3))

    anion = _step((chi - ANION_ELECTRONEGATIVITY) / ANION_EDGE)
    anion_pair = anion[i] * anion[j]
    anion_nearest = np.full(len(crystal), NO_CONTACT)
    np.minimum.at(anion_nearest, i, np.where(anion_pair > 0.05, ratio, NO_CONTACT))
    anion_valence = atoms @ (valence * _step((chi - 1.9) / 0.2)) + 1e-3 * electrons
    geometry = [
        np.log(volume / n), np.log(volume / electrons), np.log(4 / 3 * np.pi * (atoms @ r**3) / volume),
        atoms @ (valence * chi) / electrons, np.log(volume / anion_valence), atoms @ coordination / n,
        spread(coordination), smallest(coordination), atoms @ nearest / n, smallest(nearest), -smallest(-nearest),
        pairs @ (bond * np.abs(chi[i] - chi[j])) / n / bonds,
        pairs @ (bond * (at.numbers[i] == at.numbers[j])) / n / bonds,
        pairs @ (bond * np.minimum(chi[i], chi[j])) / n / bonds, np.log(bonds) - np.log(volume / n),
        np.log(pairs @ np.exp((r[i] + r[j] - d) / 0.37) / n + FEW), bond_aniso, bond_uni, contact_aniso,
        atoms @ site_aniso / n, -smallest(-site_aniso), smallest(anion_nearest), pairs @ (anion_pair * bond) / n,
    ]  # fmt: skip
    basis = np.exp(-0.5 * ((ratio[:, None] - PAIR_CENTRES) / PAIR_WIDTH) ** 2)
    weights = [None, (chi[i] - 2) * (chi[j] - 2), valence[i] * valence[j] / 16, np.abs(chi[i] - chi[j])]
    blocks = [pairs @ (basis if w is None else w[:, None] * basis) / n[:, None] for w in weights]
    return np.column_stack([*geometry, *blocks])


def features(structures: Sequence[Structure]) -> Array:
    """Vectors of n crystals, shape (n, len(NAMES)), in the order of `NAMES`.

    Parameters
    ----------
    structures : ordered crystals; lengths in angstrom

    Raises
    ------
    SelectorError
        A structure has no finite description, or one of those that :func:`models.neighbours.find_neighbours` names.
    """
    rows = np.zeros((len(structures), len(NAMES)))
    for k in range(0, len(structures), BATCH):
        rows[k : k + BATCH] = _described(find_neighbours(structures[k : k + BATCH], CUTOFF_ANG))
    bad = ~np.isfinite(rows).all(axis=1)
    if bad.any():
        name = structures[int(np.argmax(bad))].formula
        raise SelectorError(f"{name}: no finite description: check its cell")
    return rows


def crystal_features(structure: Structure) -> Array:
    """One crystal's vector, shape (len(NAMES),). Errors as in :func:`features`."""
    return features([structure])[0]
