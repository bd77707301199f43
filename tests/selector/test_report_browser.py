"""The report in a browser: figures drawn, tables sorted, the map looked at; nothing of a record is run."""

from __future__ import annotations

import dataclasses
import html
import json
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from fabricated import HOSTILE, N_COMPUTED, scattered, unpacked

from selector.optics import QUANTITIES, optics
from selector.report import (
    write_report,
)
from selector.report.page import formula_html, render_map, render_page
from selector.report.spectra_panel import thin_spectra


def dump_dom(path: Path, profile: Path) -> str:
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    assert chromium, "no chromium on this machine: install it, or leave the marker `chromium` out"
    options = "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking"
    options += (
        " --disable-component-update --disable-sync --virtual-time-budget=8000 --enable-logging=stderr --dump-dom"
    )
    command = [chromium, *options.split(), f"--user-data-dir={profile}", path.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    errors = [line for line in done.stderr.splitlines() if "CONSOLE" in line]
    assert not errors
    return done.stdout


@pytest.mark.chromium
def test_a_browser_draws_the_figures_and_runs_no_script_of_the_record(record, tmp_path):
    events = [*record.events, {"time": record.summary["updated"], "kind": "note", "message": HOSTILE}]
    decisions = [record.decisions[0] | {"formula": HOSTILE, "reason": HOSTILE}, *record.decisions[1:]]
    predictions = [record.predictions[0] | {"formula": HOSTILE}, *record.predictions[1:]]
    odd = dataclasses.replace(record, events=events, decisions=decisions, predictions=predictions)
    dom = dump_dom(write_report(odd, tmp_path)["html"], tmp_path / "profile")
    assert "<title>demo - theory level report</title>" in dom
    for name in ("distribution", "parity", "spectra", "burndown"):
        assert re.search(rf'id="plot-{name}"[^>]*js-plotly-plot|js-plotly-plot[^>]*id="plot-{name}"', dom)
    options = re.search(r'<select id="material".*?</select>', dom, re.DOTALL).group(0)
    assert options.count("<option") == N_COMPUTED
    assert "agm002763063" in html.unescape(options)
    # Two spectra, three stacked areas, the diagonal and three rounds: lines and points that only exist once drawn.
    assert dom.count('class="trace scatter') >= 9
    assert dom.count('class="trace bars"') >= 3


def said_by(record, script: str, folder: Path) -> dict:
    """What a script at the end of the record's page leaves behind when a browser has run it."""
    page = folder / "used.html"
    page.write_text(render_page(record).replace("</body>", script), encoding="utf-8")
    dom = dump_dom(page, folder / "profile")
    return json.loads(html.unescape(re.search(r'<pre id="said">(.*?)</pre>', dom).group(1)))


USER = """<script>
const visible = () => [...document.querySelectorAll("#decisions tbody tr")].filter((row) => !row.hidden);
const cells = (n) => visible().map((row) => row.cells[n].dataset.sort);
const head = [...document.querySelectorAll("#decisions th button")].find((b) => b.textContent === "SC computed");
head.click();
const ascending = cells(4);
head.click();
const descending = cells(4);
const search = document.getElementById("search");
search.value = "RPA timedout";
search.dispatchEvent(new Event("input"));
const found = cells(1);
document.getElementById("next").click();
const trace = document.getElementById("plot-spectra").data[1];
const said = { ascending, descending, found, shown: document.getElementById("shown").textContent,
  picked: document.getElementById("material").value, rpa: [...trace.y].slice(0, 50) };
document.body.append(Object.assign(document.createElement("pre"), { id: "said", textContent: JSON.stringify(said) }));
</script></body>"""


@pytest.mark.chromium
def test_a_user_sorts_filters_and_picks_a_spectrum(record, tmp_path):
    said = said_by(record, USER, tmp_path)
    computed = sorted(d["sc_computed"] for d in record.decisions if d["sc_computed"] is not None)
    unknown = [""] * (len(record.decisions) - N_COMPUTED)
    # Materials without a computed SC stay at the end whichever way the column is sorted.
    assert said["ascending"] == [f"{sc:.6g}" for sc in computed] + unknown
    assert said["descending"] == [f"{sc:.6g}" for sc in reversed(computed)] + unknown
    (failed,) = [d for d in record.decisions if d["status"] == "failed"]
    assert said["found"] == [failed["formula"]]
    assert said["shown"] == f"1 of {len(record.decisions)}"
    second = thin_spectra(record)[1]
    assert said["picked"] == second["material_id"]
    assert said["rpa"] == unpacked(second["rpa_im"])[:50].tolist()


CHOSEN = """<script>
const plot = document.getElementById("plot-spectra"), choice = document.getElementById("quantity");
const first = { fill: plot.data[1].fill, title: plot.layout.yaxis.title.text };
const said = { chosen: choice.value, first, shown: {} };
for (const key of [...choice.options].map((o) => o.value)) {
  choice.value = key;
  choice.dispatchEvent(new Event("change"));
  said.shown[key] = { curves: plot.data.map((trace) => [...trace.y]), energy: [...plot.data[0].x],
    fill: plot.data[1].fill, title: plot.layout.yaxis.title.text };
}
document.getElementById("next").click();
said.kept = [...plot.data[1].y];
document.body.append(Object.assign(document.createElement("pre"), { id: "said", textContent: JSON.stringify(said) }));
</script></body>"""


@pytest.mark.chromium
def test_a_user_chooses_a_quantity_and_sees_what_python_computes(record, tmp_path):
    said = said_by(record, CHOSEN, tmp_path)
    assert (said["chosen"], said["first"]) == ("im", {"fill": "tonexty", "title": "Im ε (trace / 3)"})
    assert list(said["shown"]) == ["im", "re", *QUANTITIES]
    assert {key for key, s in said["shown"].items() if s["fill"] == "tonexty"} == {"im"}
    assert len({s["title"] for s in said["shown"].values()}) == len(said["shown"])

    def by_python(thin, level):
        eps = unpacked(thin[f"{level}_re"]) + 1j * unpacked(thin[f"{level}_im"])
        energy = thin["start_ev"] + thin["step_ev"] * np.arange(len(eps))
        return energy, {"im": eps.imag, "re": eps.real, **dict(optics(energy, eps).items())}

    first, second, *_ = thin_spectra(record)
    for key, s in said["shown"].items():
        for level, curve in zip(("ipa", "rpa"), s["curves"], strict=True):
            energy, expected = by_python(first, level)
            np.testing.assert_allclose(s["energy"], energy, rtol=1e-12)
            np.testing.assert_allclose(curve, expected[key], rtol=1e-9, atol=1e-12, err_msg=key)
        # Half precision and a grid of 0.05 eV show what the record holds.
        whole = record.spectra[first["material_id"]]
        exact = optics(whole["energy_ev"], whole["rpa_re"] + 1j * whole["rpa_im"])
        full = {"im": whole["rpa_im"], "re": whole["rpa_re"], **dict(exact.items())}[key][::5]
        np.testing.assert_allclose(s["curves"][1], full, rtol=2e-3, atol=2e-3 * abs(full).max(), err_msg=key)
    # Another material keeps the quantity.
    np.testing.assert_allclose(said["kept"], by_python(second, "rpa")[1]["loss"], rtol=1e-9, atol=1e-12)


LOOKED_AT = """<script>
const plot = document.getElementById("plot-map"), side = document.getElementById("plot-map-spectra");
const text = (id) => document.getElementById(id).textContent;
const seen = () => ({ id: text("map-id"), formula: document.getElementById("map-formula").innerHTML, sc: text("map-sc"),
  source: text("map-source"), rpa: [...side.data[1].y].slice(0, 50), dash: side.data[0].line.dash,
  ring: [...plot.data.at(-1).x] });
const hover = (i) => plot.emit("plotly_hover", { points: [{ customdata: i }] });
const click = (i) => plot.emit("plotly_click", { points: [{ customdata: i }] });
const said = { first: seen() };
hover(PREDICTED);
said.predicted = seen();
hover(LACKING);
said.lacking = seen();
click(PREDICTED);
hover(0);
said.kept = seen();
click(PREDICTED);
hover(0);
said.released = seen();
document.body.append(Object.assign(document.createElement("pre"), { id: "said", textContent: JSON.stringify(said) }));
</script></body>"""


@pytest.mark.chromium
def test_a_user_looks_at_materials_on_the_map(record, tmp_path):
    drawn = scattered(record)
    lacking = max(range(len(drawn.points)), key=lambda i: drawn.points[i]["sc_pred"])
    predicted = next(i for i, p in enumerate(drawn.points) if p["sc_computed"] is None and i != lacking)
    script = LOOKED_AT.replace("PREDICTED", str(predicted)).replace("LACKING", str(lacking))
    page = tmp_path / "map.html"
    page.write_text(render_map(drawn, "halides", record).replace("</body>", script), encoding="utf-8")
    dom = dump_dom(page, tmp_path / "profile")
    said = json.loads(html.unescape(re.search(r'<pre id="said">(.*?)</pre>', dom).group(1)))
    lowest = min(drawn.points, key=lambda p: p["sc_pred"] if p["sc_computed"] is None else p["sc_computed"])
    assert (said["first"]["id"], said["first"]["dash"]) == (lowest["material_id"], "solid")
    assert said["first"]["formula"] == str(formula_html(lowest["formula"]))
    assert f"SC computed {lowest['sc_computed']:.3f}" in said["first"]["sc"]
    assert said["first"]["ring"] == [lowest["x"]]
    thin = next(s for s in thin_spectra(record) if s["material_id"] == lowest["material_id"])
    assert said["first"]["rpa"] == unpacked(thin["rpa_im"])[:50].tolist()
    p = drawn.points[predicted]
    assert (said["predicted"]["id"], said["predicted"]["dash"]) == (p["material_id"], "dash")
    assert "predicted from the structure" in said["predicted"]["source"]
    assert said["predicted"]["ring"] == [p["x"]]
    assert said["lacking"]["rpa"] == []
    assert said["lacking"]["source"] == "No spectrum of it is known."
    assert said["kept"]["id"] == p["material_id"]
    assert said["released"]["id"] == drawn.points[0]["material_id"]
