"""A crystal as a vector: what it is made of, how its atoms touch, and how its pairs are spread over distance.

Local fields matter most where polarisable units stand apart (ionic halides, molecular anions, layers) and least where
valence electrons overlap from bond to bond. The vector therefore holds, in two blocks,

* geometry: packing, valence electron density, coordination, bond polarity, anisotropy, anion-anion contacts;
* pairs: the distribution of distances in units of the sum of covalent radii, bare and weighted with elemental
  properties (an atomic-property-weighted radial distribution function, Fernandez et al., J. Phys. Chem. C 117, 14095
  (2013)).

What a crystal is made of enters through the elemental properties in both. Statistics of the composition alone
(`composition_features`) serve a baseline; beside the two blocks they made the predictor worse.

Every number is intensive and depends on distances only: a supercell, a rotation or another order of the atoms changes
nothing. No symmetry analysis enters.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from pymatgen.core import Structure

from models.elements import element_table
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


def _step(x: Array) -> Array:
    return 0.5 * (1.0 + np.tanh(0.5 * x))


def atomic_numbers(structure: Structure) -> NDArray[np.int64]:
    """Atomic numbers, shape (n_atoms,).

    Raises
    ------
    SelectorError
        A site is disordered or holds no element.
    """
    try:
        numbers = np.array([site.specie.Z for site in structure], dtype=np.int64)
    except AttributeError:
        raise SelectorError(f"{structure.formula}: disordered sites: order the structure first") from None
    if not len(numbers):
        raise SelectorError("a structure has no atoms")
    return numbers


def composition_features(structures: Sequence[Structure]) -> Array:
    """Statistics of elemental properties and shares of groups, shape (n, len(COMPOSITION)): a baseline's input."""
    t = element_table()
    rows = []
    for structure in structures:
        z = atomic_numbers(structure)
        stats = [f(getattr(t, p)[z]) for p in PROPERTIES for f in (np.mean, np.std, np.max, np.min)]
        hydrogen = z == 1
        groups = np.bincount(t.group[z[~hydrogen]], minlength=19)[1:19] / len(z)
        rows.append([*stats, hydrogen.mean(), *groups, ((t.row[z] == 2) & (t.group[z] >= 13)).mean()])
    return np.array(rows, dtype=float).reshape(len(structures), len(COMPOSITION))


def _anisotropy(tensors: Array) -> tuple[Array, Array]:
    """(largest - smallest, largest - middle) eigenvalue over the trace of (..., 3, 3) tensors; 0 for a zero tensor."""
    low, mid, high = np.moveaxis(np.linalg.eigvalsh(tensors), -1, 0)
    trace = low + mid + high + FEW
    return (high - low) / trace, (high - mid) / trace


def geometry_features(structure: Structure, numbers: NDArray[np.int64]) -> tuple[Array, Array]:
    """The geometry and pair blocks, shapes (len(GEOMETRY),) and (len(PAIRS),)."""
    t, n = element_table(), len(numbers)
    chi, r, valence = t.electronegativity[numbers], t.radius_ang[numbers], t.valence[numbers]
    volume = structure.volume
    i, j, image, d = structure.get_neighbor_list(CUTOFF_ANG)
    direction = (structure.frac_coords[j] + image - structure.frac_coords[i]) @ structure.lattice.matrix / d[:, None]
    ratio = d / (r[i] + r[j])
    bond = _step((BOND_RATIO - ratio) / BOND_EDGE)
    bonds = bond.sum() / n + FEW
    contact = np.exp(-1.5 * ratio**2)
    coordination = np.bincount(i, bond, n)
    nearest = np.full(n, NO_CONTACT)
    np.minimum.at(nearest, i, ratio)

    outer: Array = direction[:, :, None] * direction[:, None, :]
    by_site = [np.bincount(i, contact * o, n).astype(float) for o in outer.reshape(-1, 9).T]
    sites: Array = np.stack(by_site, axis=-1).reshape(n, 3, 3)
    (bond_aniso, contact_aniso), (bond_uni, _) = _anisotropy(
        np.stack([np.tensordot(bond, outer, 1), np.tensordot(contact, outer, 1)]) / n
    )
    site_aniso, _ = _anisotropy(sites)

    anion = _step((chi - ANION_ELECTRONEGATIVITY) / ANION_EDGE)
    anion_pair = anion[i] * anion[j]
    anion_ratio = ratio[anion_pair > 0.05]
    anion_valence = (valence * _step((chi - 1.9) / 0.2)).sum() + 1e-3 * valence.sum()
    geometry = np.array(
        [
            np.log(volume / n), np.log(volume / valence.sum()), np.log(4 / 3 * np.pi * (r**3).sum() / volume),
            (valence * chi).sum() / valence.sum(), np.log(volume / anion_valence), coordination.mean(),
            coordination.std(), coordination.min(), nearest.mean(), nearest.min(), nearest.max(),
            (bond * np.abs(chi[i] - chi[j])).sum() / n / bonds, (bond * (numbers[i] == numbers[j])).sum() / n / bonds,
            (bond * np.minimum(chi[i], chi[j])).sum() / n / bonds, np.log(bonds) - np.log(volume / n),
            np.log(np.exp((r[i] + r[j] - d) / 0.37).sum() / n + FEW), bond_aniso, bond_uni, contact_aniso,
            site_aniso.mean(), site_aniso.max(), min(anion_ratio.min(initial=NO_CONTACT), NO_CONTACT),
            (anion_pair * bond).sum() / n,
        ]
    )  # fmt: skip
    basis = np.exp(-0.5 * ((ratio[:, None] - PAIR_CENTRES) / PAIR_WIDTH) ** 2)
    weights = np.stack(
        [np.ones_like(d), (chi[i] - 2) * (chi[j] - 2), valence[i] * valence[j] / 16, np.abs(chi[i] - chi[j])]
    )
    return geometry, (weights @ basis / n).ravel()


def crystal_features(structure: Structure) -> Array:
    """One crystal's vector, shape (len(NAMES),), in the order of `NAMES`.

    Parameters
    ----------
    structure : ordered crystal; lengths in angstrom
    """
    vector = np.concatenate(geometry_features(structure, atomic_numbers(structure)))
    if not np.isfinite(vector).all():
        raise SelectorError(f"{structure.formula}: no finite description: check its cell and for overlapping atoms")
    return vector


def features(structures: Sequence[Structure]) -> Array:
    """Vectors of many crystals, shape (n, len(NAMES))."""
    return np.array([crystal_features(s) for s in structures]).reshape(len(structures), len(NAMES))
