"""What light does in a crystal, from its macroscopic dielectric function.

Refractive index, extinction, absorption and reflectivity as in M. Fox, *Optical Properties of Solids* (2nd ed., 2010),
chapter 1; the energy loss function as in Nozieres and Pines, Phys. Rev. 113, 1254 (1959).

All five need Re(eps) and Im(eps). None of them follows from Im(eps) on 0-20 eV alone, which is what a network predicts:
the Kramers-Kronig integral for Re(eps) reaches beyond, and what lies there differs between crystals and levels.

None of the five is linear in eps, so those of the mean of eps (trace / 3) are not the mean of those along x, y and z. A
property along a direction is that of light polarised along it, exact where it is a principal axis; that of the mean
stands for a crystal without its anisotropy, which a powder has only where n hardly depends on direction.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import constants

Array = NDArray[np.float64]
# 2 / (hbar c) in 1 / (eV cm): absorption = this x photon energy x extinction.
_PER_EV_CM = 2.0 * constants.e / (constants.hbar * constants.c) / 100.0


@dataclass(frozen=True)
class Optics:
    """Optical properties on an energy grid; every array has the shape of the dielectric function.

    Attributes
    ----------
    n : refractive index, n >= 0
    k : extinction coefficient, k >= 0; (n + ik)^2 = eps
    absorption_per_cm : absorption coefficient 2 w k / c in 1/cm, of intensity; 0 at 0 eV
    reflectivity : |(n - 1 + ik) / (n + 1 + ik)|^2, share of the intensity, from vacuum at normal incidence
    loss : energy loss function -Im(1 / eps) for vanishing momentum; NaN where eps is 0
    """

    n: Array
    k: Array
    absorption_per_cm: Array
    reflectivity: Array
    loss: Array

    def items(self) -> list[tuple[str, Array]]:
        """(name, array), in the order of `QUANTITIES`."""
        return [(name, getattr(self, name)) for name in QUANTITIES]


QUANTITIES = tuple(field.name for field in fields(Optics))
ABOUT = {
    "n": "refractive index",
    "k": "extinction coefficient",
    "absorption_per_cm": "absorption coefficient of intensity, 1/cm",
    "reflectivity": "share of the intensity reflected at normal incidence from vacuum",
    "loss": "energy loss function -Im(1 / eps), vanishing momentum",
}


def optics(energy_ev: ArrayLike, eps: NDArray[np.complexfloating[Any, Any]]) -> Optics:
    """Optical properties from a complex dielectric function.

    Parameters
    ----------
    energy_ev : (n,) photon energies, eV
    eps : (..., n) complex, relative permittivity, Im(eps) > 0 where the crystal absorbs (time as exp(-i w t)): one row
        a field direction, or `Spectrum.mean`, trace / 3. A negative Im(eps), which a calculation leaves where nothing
        absorbs, is read as 0: a crystal at rest does not amplify light, and the root would jump to the other branch.

    Raises
    ------
    ValueError
        ``eps`` is real, its last axis is not that of ``energy_ev``, a number is not finite, or an energy is negative.
    """
    energy = np.asarray(energy_ev, dtype=np.float64)
    if not np.iscomplexobj(eps):
        raise ValueError("eps is real: optical properties need Re(eps) and Im(eps)")
    if energy.ndim != 1 or eps.shape[-1:] != energy.shape:
        raise ValueError(f"eps has shape {eps.shape}, energies {energy.shape}: the last axes differ")
    if not (np.isfinite(eps).all() and np.isfinite(energy).all() and (energy >= 0.0).all()):
        raise ValueError("eps or an energy is not finite, or an energy is negative")
    # Adding 0.0 makes a zero of -0.0, on whose side of the cut the root has k < 0.
    passive = eps.real.astype(np.float64) + 1j * (np.maximum(eps.imag.astype(np.float64), 0.0) + 0.0)
    index = np.sqrt(passive)
    inverse = np.divide(1.0, passive, out=np.full_like(passive, np.nan * 1j), where=passive != 0.0)
    return Optics(
        n=index.real,
        k=index.imag,
        absorption_per_cm=_PER_EV_CM * energy * index.imag,
        reflectivity=np.abs((index - 1.0) / (index + 1.0)) ** 2,
        loss=0.0 - inverse.imag,
    )
