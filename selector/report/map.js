"use strict";
// The map: the material that is pointed at, or was clicked, stands beside it with both spectra.
(() => {
  const { payload, drawn, numbers } = report;
  const plot = drawn.get("map");
  if (!plot) return;
  const side = drawn.get("map-spectra");
  const points = payload.map.points;
  const computed = new Map(payload.spectra.map((s) => [s.material_id, s]));
  const predicted = new Map(payload.map.predicted.map((s) => [s.material_id, s]));
  const where = new Map();
  plot.data.forEach((trace) => trace.customdata?.forEach((index, i) => where.set(index, [trace.x[i], trace.y[i]])));
  const ring = plot.data.length - 1;
  const text = (id, content) => { document.getElementById(id).textContent = content; };
  const sc = (x) => x?.toFixed(3) ?? "-";
  let kept = null;
  let shown = null;

  function writeFormula(formula) {
    const parts = (formula || "?").split(/(?<=[A-Za-z)])(\d+(?:\.\d+)?)/);
    document.getElementById("map-formula").replaceChildren(
      ...parts.map((part, i) => (i % 2 ? Object.assign(document.createElement("sub"), { textContent: part }) : part)));
  }

  function source(p) {
    if (computed.has(p.material_id)) return "Both spectra as computed.";
    if (predicted.has(p.material_id)) return "Both spectra as predicted from the structure; neither is computed.";
    return p.sc_computed === null ? "No spectrum of it is known." : "Its spectra are computed but not in this page.";
  }

  function show(index) {
    if (index === shown) return;
    shown = index;
    const p = points[index];
    writeFormula(p.formula);
    text("map-id", p.material_id);
    const said = [];
    if (p.sc_computed !== null) said.push(`SC computed ${sc(p.sc_computed)}`);
    if (p.sc_pred !== null) said.push(`predicted ${sc(p.sc_pred)} [${sc(p.sc_lo)}, ${sc(p.sc_hi)}]`);
    if (p.out_of_domain) said.push("unlike every crystal the model has learned from");
    text("map-sc", said.join(" · "));
    text("map-source", source(p));
    const s = computed.get(p.material_id) ?? predicted.get(p.material_id) ?? { ipa_im: "", rpa_im: "" };
    const [ipa, rpa] = [numbers(s.ipa_im), numbers(s.rpa_im)];
    const energy = ipa.map((_, i) => s.start_ev + i * s.step_ev);
    const dash = computed.has(p.material_id) ? "solid" : "dash";
    Plotly.restyle(side, { x: [energy, energy], y: [ipa, rpa], "line.dash": dash });
    Plotly.relayout(side, { "xaxis.range": [0, 20], "yaxis.autorange": true });
    const [x, y] = where.get(index);
    Plotly.restyle(plot, { x: [[x]], y: [[y]] }, [ring]);
  }

  plot.on("plotly_hover", (event) => {
    if (kept === null) show(event.points[0].customdata);
  });
  plot.on("plotly_click", (event) => {
    const index = event.points[0].customdata;
    kept = kept === index ? null : index;
    show(index);
  });

  const value = (p) => p.sc_computed ?? p.sc_pred;
  show([...where.keys()].reduce((a, b) => (value(points[b]) < value(points[a]) ? b : a)));
})();
