"""The report's figures, as plotly figures without a page around them.

Colours are Okabe and Ito's (2008), told apart under the common colour-vision deficiencies; backgrounds are transparent,
so that the page decides between light and dark.
"""

from __future__ import annotations

from html import escape
from itertools import cycle, islice
from typing import Any

import numpy as np
import plotly.graph_objects as go
from numpy.typing import NDArray
from plotly.subplots import make_subplots

from selector.report.record import CampaignRecord, utc
from selector.report.tables import format_cpu_h, format_sc, is_number

BLUE, ORANGE, GREEN, VERMILLION, SKY, PURPLE = "#0072B2", "#E69F00", "#009E73", "#D55E00", "#56B4E9", "#CC79A7"
GREY = "#8a8f98"
_MAX_LEDGER_POINTS = 2000
_MAX_NAMES = 8
_AXIS = {
    "showline": True,
    "mirror": True,
    "ticks": "outside",
    "ticklen": 4,
    "zeroline": False,
    "showgrid": False,
    "title": {"font": {"size": 13}, "standoff": 8},
}


def style(fig: go.Figure, height: int) -> go.Figure:
    """The look that all figures of the report share."""
    fig.update_layout(
        template="none",
        height=height,
        margin={"l": 62, "r": 16, "t": 16, "b": 52},
        font={"family": "system-ui, 'Segoe UI', 'DejaVu Sans', sans-serif", "size": 13},
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
        legend={"bgcolor": "rgba(0,0,0,0)", "font": {"size": 12}, "traceorder": "normal"},
        hoverlabel={"align": "left", "font": {"size": 12}},
    )
    fig.update_xaxes(**_AXIS)
    fig.update_yaxes(**_AXIS)
    return fig


def full_name(row: dict[str, Any]) -> str:
    """Formula and id for a hover text; plotly would read HTML tags in it."""
    return f"<b>{escape(str(row['formula'] or '?'))}</b> {escape(str(row['material_id']))}"


def sc_distribution(record: CampaignRecord) -> go.Figure | None:
    """Predicted SC of the whole pool above, computed SC below, the threshold as a line; None where there is neither."""
    predicted = [d for d in record.decisions if is_number(d["sc_pred"])]
    computed = [d for d in record.decisions if is_number(d["sc_computed"])]
    if not predicted and not computed:
        return None
    values = [d["sc_pred"] for d in predicted] + [d["sc_computed"] for d in computed]
    width = 0.05 if len(predicted) < 300 else 0.02
    edges = width * np.arange(np.floor(min(values) / width), np.ceil(max(1.0, *values) / width - 1e-9) + 1)
    fig = make_subplots(rows=2, cols=1, shared_xaxes=True, vertical_spacing=0.05, row_heights=[0.58, 0.42])
    panels = (
        (1, "predicted, at IPA", [d for d in predicted if d["level"] != "rpa"], "sc_pred", SKY),
        (1, "predicted, sent to RPA", [d for d in predicted if d["level"] == "rpa"], "sc_pred", ORANGE),
        (2, "computed", computed, "sc_computed", BLUE),
    )
    for row, label, rows, key, colour in panels:
        counts, hover = _bins(rows, key, edges)
        fig.add_bar(
            x=edges[:-1] + width / 2,
            y=counts,
            width=width * 0.92,
            name=label,
            marker={"color": colour, "line": {"width": 0}},
            hovertext=hover,
            hovertemplate=f"%{{hovertext}}<extra>{label}</extra>",
            row=row,
            col=1,
        )
    style(fig, 460)
    if is_number(threshold := record.summary["threshold"]):
        fig.add_vline(x=threshold, line={"color": VERMILLION, "width": 1.5, "dash": "dash"})
        fig.add_annotation(
            x=threshold, y=1, yref="paper", yanchor="top", xanchor="right", xshift=-4, showarrow=False,
            text=f"threshold {threshold:g}", font={"color": VERMILLION, "size": 12},
        )  # fmt: skip
    fig.update_layout(barmode="stack", legend={"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0}, margin_t=40)
    fig.update_xaxes(range=[edges[0], edges[-1]])
    fig.update_xaxes(title_text="SC[RPA; IPA]", row=2, col=1)
    fig.update_yaxes(title_text="Materials", rangemode="tozero")
    for row, rows, key in ((1, predicted, "sc_pred"), (2, computed, "sc_computed")):
        highest = int(np.histogram([d[key] for d in rows], edges)[0].max(initial=1))
        if highest <= 5:
            # Left to itself, plotly marks halves and prints them as whole numbers.
            fig.update_yaxes(dtick=1, row=row, col=1)
    return fig


def _bins(rows: list[dict[str, Any]], key: str, edges: NDArray[np.float64]) -> tuple[NDArray[np.int64], list[str]]:
    """Materials in each bin, and a hover text that names the first few."""
    index = np.clip(np.digitize([d[key] for d in rows], edges) - 1, 0, len(edges) - 2)
    counts = np.bincount(index, minlength=len(edges) - 1)
    names: list[list[str]] = [[] for _ in counts]
    for i, d in sorted(zip(index, rows, strict=True), key=lambda pair: pair[1][key]):
        if len(names[i]) < _MAX_NAMES:
            names[i].append(f"{full_name(d)}  {format_sc(d[key])}")
    hover = []
    for lo, hi, n, shown in zip(edges[:-1], edges[1:], counts, names, strict=True):
        more = [f"and {n - len(shown)} more"] if n > len(shown) else []
        hover.append("<br>".join([f"SC {lo:.2f} to {hi:.2f}: {n}", *shown, *more]))
    return counts, hover


def parity(record: CampaignRecord) -> go.Figure | None:
    """Predicted against computed SC with 90 % intervals, by training round; None where nothing is computed."""
    points = [p for p in record.predictions if is_number(p["sc_computed"]) and is_number(p["sc_pred"])]
    if not points:
        return None
    rounds = sorted({p["model_round"] for p in points})
    ends = [p[k] for p in points for k in ("sc_pred", "sc_lo", "sc_hi", "sc_computed") if is_number(p[k])]
    low, high = min(ends) - 0.03, max(1.0, *ends) + 0.02
    fig = go.Figure()
    fig.add_scatter(
        x=[low, high], y=[low, high], mode="lines", line={"color": GREY, "width": 1}, hoverinfo="skip", showlegend=False
    )
    looks = zip(
        cycle([BLUE, ORANGE, GREEN, PURPLE, VERMILLION, SKY]),
        cycle(["circle", "square", "diamond", "triangle-up", "x"]),
        strict=False,
    )
    for r, (colour, symbol) in zip(rounds, islice(looks, len(rounds)), strict=True):
        rows = [p for p in points if p["model_round"] == r]
        mae = np.mean([abs(p["sc_pred"] - p["sc_computed"]) for p in rows])
        fig.add_scatter(
            x=[p["sc_computed"] for p in rows],
            y=[p["sc_pred"] for p in rows],
            error_y={
                "type": "data",
                "array": [p["sc_hi"] - p["sc_pred"] if is_number(p["sc_hi"]) else 0.0 for p in rows],
                "arrayminus": [p["sc_pred"] - p["sc_lo"] if is_number(p["sc_lo"]) else 0.0 for p in rows],
                "thickness": 1,
                "width": 0,
            },
            mode="markers",
            marker={"color": colour, "symbol": symbol, "size": 8, "line": {"color": "white", "width": 0.6}},
            name=f"round {r}{' (shipped weights)' if r == 0 else ''}: MAE {mae:.3f}, n = {len(rows)}",
            customdata=[p["material_id"] for p in rows],
            hovertext=[_parity_hover(p) for p in rows],
            hovertemplate="%{hovertext}<extra></extra>",
        )
    style(fig, 460)
    if is_number(threshold := record.summary["threshold"]):
        fig.add_vline(x=threshold, line={"color": VERMILLION, "width": 1, "dash": "dash"})
        fig.add_hline(y=threshold, line={"color": VERMILLION, "width": 1, "dash": "dash"})
    square = {"range": [low, high], "dtick": 0.2 if high - low > 0.6 else 0.1, "constrain": "domain"}
    fig.update_xaxes(title_text="SC computed", **square)
    fig.update_yaxes(title_text="SC predicted at dispatch", scaleanchor="x", **square)
    fig.update_layout(legend={"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0}, margin_t=40)
    return fig


def _parity_hover(p: dict[str, Any]) -> str:
    return (
        f"{full_name(p)}<br>computed {format_sc(p['sc_computed'])}"
        f"<br>predicted {format_sc(p['sc_pred'])} [{format_sc(p['sc_lo'])}, {format_sc(p['sc_hi'])}]"
        f"<br>model {escape(str(p['model_id']))}"
    )


def burn_down(record: CampaignRecord) -> go.Figure | None:
    """CPU-hours spent, reserved and left against time, stacked up to the budget; None where the ledger is empty."""
    if not record.ledger:
        return None
    entries = record.ledger
    if len(entries) > _MAX_LEDGER_POINTS:
        entries = [entries[i] for i in np.linspace(0, len(entries) - 1, _MAX_LEDGER_POINTS).astype(int)]
    budget = record.summary["budget_cpu_h"]
    opening = {"time": record.summary["created"], "spent_cpu_h": 0.0, "reserved_cpu_h": 0.0}
    closing = {**entries[-1], "time": max(record.summary["updated"], entries[-1]["time"], key=utc)}
    steps = [opening, *entries, closing]
    texts = ["created", *map(_ledger_hover, entries), "now"]
    time = [utc(s["time"]).isoformat(" ", "milliseconds") for s in steps]
    spent = np.array([s["spent_cpu_h"] for s in steps])
    reserved = np.array([s["reserved_cpu_h"] for s in steps])
    fig = go.Figure()
    for label, y, colour, fill in (
        ("spent", spent, BLUE, "rgba(0,114,178,0.55)"),
        ("reserved", reserved, ORANGE, "rgba(230,159,0,0.35)"),
        ("left", budget - spent - reserved, GREY, "rgba(138,143,152,0.08)"),
    ):
        fig.add_scatter(
            x=time,
            y=y,
            name=label,
            stackgroup="cpu_h",
            fillcolor=fill,
            line={"color": colour, "width": 1.5 if label == "spent" else 0.8, "shape": "hv"},
            hovertext=texts if label == "spent" else None,
            hovertemplate="%{y:.3g}" + ("  (%{hovertext})" if label == "spent" else "") + f"<extra>{label}</extra>",
        )
    style(fig, 320)
    fig.add_hline(y=budget, line={"color": VERMILLION, "width": 1.5, "dash": "dash"})
    fig.add_annotation(
        x=0, xref="paper", y=budget, xanchor="left", yanchor="bottom", xshift=4, showarrow=False,
        text=f"budget {format_cpu_h(budget)} CPU-h", font={"color": VERMILLION, "size": 12},
    )  # fmt: skip
    fig.update_layout(
        hovermode="x unified", legend={"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0}, margin_t=40
    )
    fig.update_xaxes(title_text="Time (UTC)", type="date")
    fig.update_yaxes(title_text="CPU-hours", range=[0, 1.12 * budget])
    return fig


def _ledger_hover(entry: dict[str, Any]) -> str:
    what = entry["material_id"] or entry.get("purpose")
    return f"{escape(str(entry['event']))} {format_cpu_h(entry['cpu_h'])} for {escape(str(what))}"
