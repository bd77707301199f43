"use strict";
// The figures of the page, drawn and coloured for light or dark; other scripts find them in `report`.
const report = (() => {
  const payload = JSON.parse(document.getElementById("payload").textContent);
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const drawn = new Map();

  function inks(light) {
    return light
      ? { text: "#1d2430", line: "#6b7482", box: "#ffffff" }
      : { text: "#e3e7ed", line: "#7d8795", box: "#1c222b" };
  }

  function recolour(layout, ink) {
    const changes = { "font.color": ink.text, "hoverlabel.bgcolor": ink.box, "hoverlabel.font.color": ink.text,
      "modebar.bgcolor": "rgba(0,0,0,0)", "modebar.color": ink.line, "modebar.activecolor": ink.text };
    for (const key of Object.keys(layout).filter((k) => /^[xy]axis\d*$/.test(k))) {
      for (const part of ["linecolor", "tickcolor"]) changes[`${key}.${part}`] = ink.line;
    }
    return changes;
  }

  function paint(light = !dark.matches) {
    for (const plot of drawn.values()) Plotly.relayout(plot, recolour(plot.layout, inks(light)));
  }

  // Half-precision floats in base64, as spectra_panel.py packs them; null where there is no number.
  function numbers(packed) {
    const bytes = new DataView(Uint8Array.from(atob(packed), (c) => c.charCodeAt(0)).buffer);
    return Array.from({ length: bytes.byteLength / 2 }, (_, i) => {
      const bits = bytes.getUint16(2 * i, true);
      const [sign, exponent, fraction] = [bits >> 15 ? -1 : 1, (bits >> 10) & 31, bits & 1023];
      if (exponent === 31) return null;
      return sign * (exponent ? 2 ** (exponent - 25) * (1024 + fraction) : 2 ** -24 * fraction);
    });
  }

  for (const [name, figure] of Object.entries(payload.figures)) {
    const plot = document.getElementById(`plot-${name}`);
    Plotly.newPlot(plot, figure.data, figure.layout, {
      responsive: true,
      displaylogo: false,
      modeBarButtons: [["resetScale2d", "toImage"]],
      toImageButtonOptions: { format: "svg", filename: `${payload.name}-${name}` },
    });
    drawn.set(name, plot);
  }
  paint();
  dark.addEventListener("change", () => paint());
  addEventListener("beforeprint", () => {
    paint(true);
    for (const plot of drawn.values()) Plotly.Plots.resize(plot);
  });
  addEventListener("afterprint", () => paint());

  return { payload, drawn, numbers };
})();
