"""The panel of IPA and RPA spectra: its axes, and the spectra as the page holds them.

Curves travel as half-precision floats in base64, which keep a value to 2^-11 of itself in half the characters of a
decimal number. What follows from Re and Im(eps), the page works out itself (``optics.js``).
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Mapping
from typing import Any

import numpy as np
import plotly.graph_objects as go
from numpy.typing import ArrayLike

from selector.report.figures import BLUE, VERMILLION, style
from selector.report.record import CampaignRecord
from selector.report.tables import is_number

STEP_EV = 0.05
MAX_SPECTRA = 500
_CURVES = ("ipa_im", "ipa_re", "rpa_im", "rpa_re")


def spectra_frame(height: int = 390) -> go.Figure:
    """Axes and style of the spectra; the page fills in the material that is picked, and the quantity."""
    fig = go.Figure()
    fig.add_scatter(x=[], y=[], name="IPA", line={"color": BLUE, "width": 2})
    fig.add_scatter(
        x=[], y=[], name="RPA (with local fields)", line={"color": VERMILLION, "width": 2},
        fill="tonexty", fillcolor="rgba(138,143,152,0.22)",
    )  # fmt: skip
    style(fig, height)
    fig.update_traces(mode="lines", hovertemplate="%{y:.3g}<extra>%{fullData.name}</extra>")
    fig.update_layout(
        hovermode="x unified", legend={"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0}, margin_t=40
    )
    fig.update_xaxes(title_text="Energy (eV)", hoverformat=".2f")
    fig.update_yaxes(title_text="Im ε (trace / 3)", rangemode="tozero", exponentformat="power", automargin=True)
    return fig


def thin_spectra(record: CampaignRecord) -> list[dict[str, Any]]:
    """The `MAX_SPECTRA` computed materials of lowest SC, their spectra on a 0.05 eV grid.

    Returns
    -------
    list of dict
        material_id, formula, sc, and `thin_spectrum`, the lowest SC first.
    """
    known = {material_id: s["sc"] if is_number(s["sc"]) else np.inf for material_id, s in record.spectra.items()}
    thin = []
    for material_id in sorted(known, key=lambda m: known[m])[:MAX_SPECTRA]:
        s, sc = record.spectra[material_id], known[material_id]
        about = {"material_id": material_id, "formula": s["formula"]}
        thin.append(about | {"sc": float(f"{sc:.4g}") if np.isfinite(sc) else None} | thin_spectrum(s, STEP_EV))
    return thin


def thin_spectrum(spectrum: Mapping[str, Any], step_ev: float) -> dict[str, Any]:
    """A spectrum on a coarser grid.

    Parameters
    ----------
    spectrum : energy_ev, ipa_im, rpa_im, and ipa_re, rpa_re where they are known: (n,) each

    Returns
    -------
    dict
        start_ev, step_ev, and each of the curves by its name, packed by `half_floats`.
    """
    energy = np.asarray(spectrum["energy_ev"], dtype=np.float64)
    grid = np.arange(energy[0], energy[-1] + 1e-6, step_ev)
    return {"start_ev": round(float(grid[0]), 6), "step_ev": step_ev} | {
        k: half_floats(np.interp(grid, energy, spectrum[k])) for k in _CURVES if k in spectrum
    }


def half_floats(curve: ArrayLike) -> str:
    """Little-endian half-precision floats in base64; beyond 65504 they are infinite, and the page shows a gap."""
    with np.errstate(over="ignore"):
        return b64encode(np.asarray(curve).astype("<f2").tobytes()).decode("ascii")
