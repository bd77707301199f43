"""Input files of yambo: the response at one cutoff, for one field direction."""

from __future__ import annotations

from dataclasses import dataclass

from selector.spectra import ENERGY_EV


@dataclass(frozen=True)
class YamboJob:
    """One response function on 0-20 eV.

    Attributes
    ----------
    axis : 0, 1 or 2, the Cartesian direction of the field
    cutoff_mry : mRy, of the coupling G-vectors; 0 couples none
    n_bands : bands in the sum, from the first
    eta_ev : eV, broadening
    """

    axis: int
    cutoff_mry: int
    n_bands: int
    eta_ev: float

    @property
    def direction(self) -> tuple[int, int, int]:
        x, y, z = (int(self.axis == axis) for axis in range(3))
        return x, y, z

    @property
    def name(self) -> str:
        """The job's name, which its files carry."""
        return f"RPA_dir_{''.join(map(str, self.direction))}_sc_{self.cutoff_mry}"


def yambo_input(job: YamboJob) -> str:
    """Time-ordered Hartree response; everything left out is yambo's default."""
    return "\n".join(
        [
            "optics",
            "chi",
            "NLogCPUs= 1",
            'Chimod= "HARTREE"',
            f"NGsBlkXd= {job.cutoff_mry} mRy",
            *_block("QpntsRXd", "1 | 1 |"),
            *_block("BndsRnXd", f"1 | {job.n_bands} |"),
            *_block("EnRngeXd", f"{ENERGY_EV[0]:.6f} | {ENERGY_EV[-1]:.6f} | eV"),
            *_block("DmRngeXd", f"{job.eta_ev:.6f} | {job.eta_ev:.6f} | eV"),
            f"ETStpsXd= {len(ENERGY_EV)}",
            *_block("LongDrXd", " | ".join(f"{x:.6f}" for x in job.direction) + " |"),
            "",
        ]
    )


def _block(name: str, values: str) -> list[str]:
    return [f"% {name}", f" {values}", "%"]
