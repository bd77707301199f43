"use strict";
(() => {
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

  const select = document.getElementById("material");
  if (select) {
    const plot = drawn.get("spectra");
    const byId = new Map(payload.spectra.map((s) => [s.material_id, s]));
    for (const s of payload.spectra) {
      select.add(new Option(`${s.formula} · ${s.material_id} · SC ${s.sc?.toFixed(3) ?? "not recorded"}`, s.material_id));
    }
    const show = () => {
      const s = byId.get(select.value);
      const energy = s.ipa.map((_, i) => s.start_ev + i * s.step_ev);
      Plotly.restyle(plot, { x: [energy, energy], y: [s.ipa, s.rpa] });
      Plotly.relayout(plot, {
        "xaxis.range": [energy[0], energy[energy.length - 1]],
        "yaxis.autorange": true,
      });
      document.getElementById("picked").textContent = `${select.selectedIndex + 1} of ${select.length}, lowest SC first`;
    };
    const pick = (id) => {
      if (!byId.has(id)) return;
      select.value = id;
      show();
      plot.scrollIntoView({ block: "center" });
    };
    const move = (step) => {
      select.selectedIndex = (select.selectedIndex + step + select.length) % select.length;
      show();
    };
    select.addEventListener("change", show);
    document.getElementById("previous").addEventListener("click", () => move(-1));
    document.getElementById("next").addEventListener("click", () => move(1));
    document.getElementById("decisions").addEventListener("click", (event) => {
      const link = event.target.closest("a[data-material]");
      if (!link) return;
      event.preventDefault();
      pick(link.dataset.material);
    });
    drawn.get("parity")?.on("plotly_click", (event) => pick(event.points[0].customdata));
    show();
  }

  const body = document.querySelector("#decisions tbody");
  const rows = [...body.rows];
  const texts = rows.map((row) => row.textContent.toLowerCase());
  const search = document.getElementById("search");
  search.addEventListener("input", () => {
    const words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
    let shown = 0;
    rows.forEach((row, i) => {
      row.hidden = !words.every((word) => texts[i].includes(word));
      shown += !row.hidden;
    });
    document.getElementById("shown").textContent = `${shown} of ${rows.length}`;
  });

  const value = (row, column) => row.cells[column].dataset.sort ?? row.cells[column].textContent.trim();
  const heads = [...document.querySelectorAll("#decisions th")];
  heads.forEach((head, column) => {
    head.querySelector("button")?.addEventListener("click", () => {
      const down = head.getAttribute("aria-sort") === "ascending";
      heads.forEach((h) => h.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", down ? "descending" : "ascending");
      const compare = (a, b) => {
        const [x, y] = [value(a, column), value(b, column)];
        if (x === "" || y === "") return (x === "") - (y === "");
        const order = head.classList.contains("number") ? x - y : x.localeCompare(y, "en", { numeric: true });
        return down ? -order : order;
      };
      body.append(...[...rows].sort(compare));
    });
  });
})();
