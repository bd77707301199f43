"""The map of a pool: alike materials close together, coloured by SC, with the spectra of the one that is looked at."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import numpy as np
import plotly.graph_objects as go

from selector.report import figures, spectra_panel
from selector.report.record import MaterialMap
from selector.report.tables import format_sc, is_number

PREDICTED_STEP_EV = 0.1


def map_figures(drawn: MaterialMap) -> dict[str, go.Figure]:
    """The figures "map" and "map-spectra"; none where the map has no point."""
    return {"map": _scatter(drawn), "map-spectra": spectra_panel.spectra_frame(height=300)} if drawn.points else {}


def map_payload(drawn: MaterialMap, computed: Collection[str]) -> dict[str, Any]:
    """What the page shows of a point that is looked at.

    Parameters
    ----------
    computed : materials whose computed spectra the page holds already

    Returns
    -------
    dict
        ``points``, in the order of the figure's ``customdata``, and ``predicted``, spectra on a 0.1 eV grid of those
        that are not computed.
    """
    keys = ("material_id", "formula", "sc_pred", "sc_lo", "sc_hi", "sc_computed", "out_of_domain")
    return {
        "points": [{k: float(f"{v:.4g}") if isinstance(v := p[k], float) else v for k in keys} for p in drawn.points],
        "predicted": [
            {"material_id": k} | spectra_panel.thin_spectrum(s, PREDICTED_STEP_EV)
            for k, s in drawn.predicted_spectra.items()
            if k not in computed
        ],
    }


def _scatter(drawn: MaterialMap) -> go.Figure:
    """The points, computed ones marked; the last trace is the ring around the one that is looked at."""
    fig = go.Figure()
    kinds: dict[str, list[int]] = {"SC predicted": [], "predicted, out of domain": [], "SC computed": []}
    for i, p in enumerate(drawn.points):
        if is_number(p["sc_computed"]):
            kinds["SC computed"].append(i)
        elif is_number(p["sc_pred"]):
            kinds["predicted, out of domain" if p["out_of_domain"] else "SC predicted"].append(i)
    looks = (("circle", 8), ("triangle-up", 9), ("diamond", 12))
    for (name, members), (symbol, size) in zip(kinds.items(), looks, strict=True):
        if not members:
            continue
        points = [drawn.points[i] for i in members]
        # The legend's symbols are traces of their own: in grey, for the colour is SC.
        key = {"symbol": symbol, "size": size, "color": figures.GREY}
        fig.add_scatter(x=[None], y=[None], mode="markers", name=name, legendgroup=name, marker=key, hoverinfo="skip")
        fig.add_scatter(
            x=[p["x"] for p in points],
            y=[p["y"] for p in points],
            mode="markers",
            legendgroup=name,
            showlegend=False,
            marker={
                "color": [_sc(p) for p in points],
                "coloraxis": "coloraxis",
                "symbol": symbol,
                "size": size,
                "line": {"color": figures.GREY, "width": 1},
            },
            customdata=members,
            hovertext=[_hover(p) for p in points],
            hovertemplate="%{hovertext}<extra></extra>",
        )
    ring = {"symbol": "circle-open", "size": 20, "color": figures.VERMILLION, "line": {"width": 2.5}}
    fig.add_scatter(x=[], y=[], mode="markers", marker=ring, hoverinfo="skip", showlegend=False)
    figures.style(fig, 460)
    nameless = {"showticklabels": False, "ticks": "", "title": None, "scaleanchor": None}
    fig.update_xaxes(**nameless)
    fig.update_yaxes(**nameless | {"scaleanchor": "x"})
    # One odd material shall not take the contrast from all others: the scale ends where the outermost 2 % begin.
    low, high = np.quantile([_sc(p) for p in drawn.points if is_number(_sc(p))] or [0.0, 1.0], [0.02, 0.98])
    fig.update_layout(
        coloraxis={
            "cmin": low,
            "cmax": high,
            "colorscale": "Viridis",
            "colorbar": {"title": {"text": "SC"}, "thickness": 12, "outlinewidth": 0},
        },
        legend={"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0},
        margin={"l": 8, "r": 8, "t": 40, "b": 8},
        hovermode="closest",
    )
    return fig


def _sc(p: Mapping[str, Any]) -> Any:
    """The colour: SC as computed, else as predicted."""
    return p["sc_computed"] if is_number(p["sc_computed"]) else p["sc_pred"]


def _hover(p: dict[str, Any]) -> str:
    lines = [figures.full_name(p)]
    if is_number(p["sc_computed"]):
        lines.append(f"SC computed {format_sc(p['sc_computed'])}")
    if is_number(p["sc_pred"]):
        lines.append(f"SC predicted {format_sc(p['sc_pred'])} [{format_sc(p['sc_lo'])}, {format_sc(p['sc_hi'])}]")
    if p["out_of_domain"]:
        lines.append("unlike every crystal the model has learned from")
    return "<br>".join(lines)
