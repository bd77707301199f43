"use strict";
(() => {
  const { payload, drawn, numbers } = report;

  const select = document.getElementById("material");
  if (select) {
    const plot = drawn.get("spectra");
    const byId = new Map(payload.spectra.map((s) => [s.material_id, s]));
    for (const s of payload.spectra) {
      select.add(new Option(`${s.formula} · ${s.material_id} · SC ${s.sc?.toFixed(3) ?? "not recorded"}`, s.material_id));
    }
    const choice = document.getElementById("quantity");
    for (const [key, q] of Object.entries(quantities)) choice.add(new Option(q.name, key));
    const show = () => {
      const s = byId.get(select.value);
      const q = quantities[choice.value];
      const curves = ["ipa", "rpa"].map((level) => {
        const [re, im] = [numbers(s[`${level}_re`]), numbers(s[`${level}_im`])];
        return im.map((x, i) => (x === null || re[i] === null ? null : q.of(re[i], x, s.start_ev + i * s.step_ev)));
      });
      const energy = curves[0].map((_, i) => s.start_ev + i * s.step_ev);
      // Only between Im ε does the area mean something: SC.
      const fill = choice.value === "im" ? "tonexty" : "none";
      Plotly.restyle(plot, { x: [energy, energy], y: curves, fill: ["none", fill] });
      Plotly.relayout(plot, {
        "xaxis.range": [energy[0], energy[energy.length - 1]],
        "yaxis.autorange": true,
        "yaxis.title.text": q.title,
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
    choice.addEventListener("change", show);
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
