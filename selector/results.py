"""What each material of a campaign ends with: its row, and its spectra one at a time."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from selector.chronicle import decision_rows
from selector.report.record import DECISION_COLUMNS
from selector.store import Store

COMPUTED, GIVEN, PREDICTED, ABSENT = "computed", "given", "predicted", "absent"
ENDING_COLUMNS = ("ipa", "rpa", "gap_ev", "sc_expected", "sc_expected_low", "spectrum_model_id")
COLUMNS = (*DECISION_COLUMNS, *ENDING_COLUMNS)
TEXT, NUMBER, WHOLE, TRUTH = "text", "number", "whole", "truth"
TYPES = dict.fromkeys(COLUMNS, TEXT) | {
    **dict.fromkeys(("sc_pred", "sc_lo", "sc_hi", "sc_computed", "p_low", "audit_probability"), NUMBER),
    **dict.fromkeys(("cost_predicted_cpu_h", "cost_cpu_h", "gap_ev", "sc_expected", "sc_expected_low"), NUMBER),
    **dict.fromkeys(("attempt", "fw_id"), WHOLE),
    **dict.fromkeys(("out_of_domain", "random_draw"), TRUTH),
}
DIRECTIONS, TRACE = ("xx", "yy", "zz"), ("trace/3",)


@dataclass(frozen=True)
class EndSpectrum:
    """A spectrum that a material ends with.

    Attributes
    ----------
    level : "ipa" or "rpa"
    origin : "computed", "given" or "predicted"
    energy_ev : (n,) in eV
    eps_im : (k, n) Im(eps) along ``components``
    eps_re : the same of Re(eps); None where a model predicted Im(eps) alone
    components : "xx", "yy", "zz", or "trace/3"
    source : engine and settings hash, or the model's id
    """

    material_id: str
    level: str
    origin: str
    energy_ev: NDArray[Any]
    eps_im: NDArray[Any]
    eps_re: NDArray[Any] | None
    components: tuple[str, ...]
    source: str


def recorded(store: Store) -> Iterator[EndSpectrum]:
    """Every spectrum that was computed, or else given, float32 as it is stored, one at a time by material and level."""
    kept = ((about["material_id"], about["level"], about.get("origin", COMPUTED)) for about in store.spectra_kept())
    computed = {(material_id, level) for material_id, level, origin in kept if origin == COMPUTED}
    for about, spectrum in store.recorded_spectra():
        if about.get("origin") == GIVEN and (about["material_id"], about["level"]) in computed:
            continue
        yield EndSpectrum(
            material_id=about["material_id"],
            level=about["level"],
            origin=about.get("origin", COMPUTED),
            energy_ev=spectrum.energy_ev.astype(np.float32),
            eps_im=spectrum.eps.imag.astype(np.float32),
            eps_re=spectrum.eps.real.astype(np.float32),
            components=DIRECTIONS,
            source=f"{about['engine']} {about['settings_hash']}",
        )


def endings(store: Store) -> list[dict[str, Any]]:
    """A row for every candidate, by id, under `COLUMNS`; what is not known is None.

    ``ipa`` and ``rpa`` say where each spectrum comes from ("computed", "given", "absent"). ``sc_expected``,
    ``sc_expected_low`` and ``spectrum_model_id`` are for a predicted RPA spectrum: SC[predicted; computed] to expect,
    the bound that nine in ten exceed, and whose it is.
    """
    origin: dict[str, dict[str, str]] = {}
    gaps: dict[str, float] = {}
    for about in store.spectra_kept():
        levels, said = origin.setdefault(about["material_id"], {}), about.get("origin", COMPUTED)
        if said == COMPUTED or about["level"] not in levels:
            levels[about["level"]] = said
        if about.get("gap_ev") is not None:
            gaps[about["material_id"]] = about["gap_ev"]
    return [
        dict.fromkeys(COLUMNS)
        | row
        | {
            **{level: origin.get(row["material_id"], {}).get(level, ABSENT) for level in ("ipa", "rpa")},
            "gap_ev": gaps.get(row["material_id"]),
        }
        for row in decision_rows(store)
    ]
