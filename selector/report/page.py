"""The HTML pages, report and map: each one file that needs no network and no server."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import plotly.graph_objects as go
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape
from plotly.offline import get_plotlyjs

from selector.report import figures, spectra_panel
from selector.report.material_map import map_figures, map_payload
from selector.report.record import CampaignRecord, MaterialMap, utc
from selector.report.tables import format_cpu_h, format_sc, is_number

_FOLDER = Path(__file__).parent
MAX_ROWS = 2000
MAX_EVENTS = 300


def render_page(record: CampaignRecord) -> str:
    """The report's HTML. Every text of the record is escaped; scripts and styles are inline."""
    drawn = {
        "distribution": figures.sc_distribution(record),
        "parity": figures.parity(record),
        "burndown": figures.burn_down(record),
        "spectra": spectra_panel.spectra_frame() if record.spectra else None,
        **(map_figures(record.map) if record.map else {}),
    }
    spectra = spectra_panel.thin_spectra(record)
    with_spectra = {s["material_id"] for s in spectra}
    payload = {
        "figures": _plain(drawn),
        "spectra": spectra,
        "map": map_payload(record.map, with_spectra) if record.map else None,
        "name": str(record.summary["name"]),
    }
    rows = record.sorted_decisions()
    return _render(
        "page.html.j2",
        ("plots.js", "map.js", "optics.js", "page.js"),
        payload,
        summary=record.summary,
        tally=_tally(record),
        drawn={name: fig is not None for name, fig in drawn.items()},
        rows=rows[:MAX_ROWS],
        n_rows=len(rows),
        scale=_interval_scale(rows),
        with_spectra=with_spectra,
        n_spectra=len(record.spectra),
        models=record.models,
        standing=next((m for m in reversed(record.models) if m["accepted"] and not m.get("reads_ipa")), None),
        events=record.events[-MAX_EVENTS:],
        n_events=len(record.events),
        map=record.map,
    )


def render_map(drawn: MaterialMap, name: str, record: CampaignRecord | None = None) -> str:
    """The map alone, as a page.

    Parameters
    ----------
    name : what is shown, for the heading
    record : the campaign whose computed spectra are shown; None for crystals outside a campaign
    """
    spectra = spectra_panel.thin_spectra(record) if record else []
    payload = {
        "figures": _plain(map_figures(drawn)),
        "spectra": spectra,
        "map": map_payload(drawn, {s["material_id"] for s in spectra}),
        "name": name,
    }
    return _render("map.html.j2", ("plots.js", "map.js"), payload, name=name, map=drawn)


def _plain(drawn: Mapping[str, go.Figure | None]) -> dict[str, Any]:
    return {name: json.loads(fig.to_json()) for name, fig in drawn.items() if fig is not None}


def _render(template: str, scripts: Sequence[str], payload: dict[str, Any], **content: Any) -> str:
    def inline(file: str) -> Markup:
        return Markup((_FOLDER / file).read_text(encoding="utf-8"))

    return (
        _environment()
        .get_template(template)
        .render(
            payload=payload,
            plotly_js=Markup(get_plotlyjs()),
            scripts=[inline(file) for file in scripts],
            page_css=inline("page.css"),
            version=version("theory-level-selector"),
            **content,
        )
    )


def _environment() -> Environment:
    env = Environment(
        loader=FileSystemLoader(_FOLDER),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    env.filters |= {"sc": format_sc, "cpu_h": format_cpu_h, "formula": formula_html, "utc": _utc_text, "raw": _raw}
    env.filters["chosen_by"] = _chosen_by
    # tojson escapes <, > and & so that no text of the record can end the script element.
    env.policies["json.dumps_kwargs"] = {"separators": (",", ":"), "allow_nan": False}
    return env


def formula_html(formula: Any) -> Markup:
    """A chemical formula with its numbers as subscripts; any other text only escaped."""
    text = str(formula or "")
    if not re.fullmatch(r"[A-Za-z0-9.()]+", text):
        return escape(text)
    return Markup(re.sub(r"(?<=[A-Za-z)])(\d+(?:\.\d+)?)", r"<sub>\1</sub>", text))


def _utc_text(time: Any) -> str:
    return utc(time).isoformat(" ", "seconds") + " UTC" if time else "-"


def _raw(x: Any) -> str:
    """A number for sorting; what is not known sorts last."""
    return f"{x:.6g}" if is_number(x) else ""


def _chosen_by(d: Mapping[str, Any]) -> str:
    """By hand, by lot (with which probability), or by which policy a material was chosen, or passed over."""
    if d["by_hand"]:
        return f"hand: {d['by_hand']}"
    if d["purpose"] == "audit":
        return f"audit, with probability {d['audit_probability']:.3g}"
    if d["random_draw"]:
        return f"lot, with probability {d['audit_probability']:.3g}"
    return str(d["policy"] or "")


def _tally(record: CampaignRecord) -> dict[str, int | None]:
    computed = [d["sc_computed"] for d in record.decisions if is_number(d["sc_computed"])]
    statuses = [d["status"] for d in record.decisions]
    threshold = record.summary["threshold"]
    return {
        "computed": len(computed),
        "below": sum(sc < threshold for sc in computed) if is_number(threshold) else None,
        "ipa": sum(d["level"] == "ipa" for d in record.decisions),
        "running": statuses.count("running"),
        "failed": statuses.count("failed"),
        "rejected": statuses.count("rejected"),
    }


def _interval_scale(rows: list[dict[str, Any]]) -> tuple[float, float]:
    """The SC range that the table's interval bars share."""
    ends = [d[k] for d in rows for k in ("sc_lo", "sc_hi", "sc_pred", "sc_computed") if is_number(d[k])]
    return (min(ends), max(1.0, *ends)) if ends else (0.0, 1.0)
