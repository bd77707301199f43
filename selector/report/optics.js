"use strict";
// What the spectra panel can show of a complex dielectric function; `selector/optics.py` tells the formulas' sources.
const quantities = (() => {
  const HC_EV_CM = 1.239841984332e-4;

  // sqrt(re + i im) as n + i k without cancellation; a negative im is noise where nothing absorbs.
  function index(re, im) {
    const size = Math.hypot(re, Math.max(im, 0));
    if (re >= 0) {
      const n = Math.sqrt((size + re) / 2);
      return [n, n && Math.max(im, 0) / (2 * n)];
    }
    const k = Math.sqrt((size - re) / 2);
    return [Math.max(im, 0) / (2 * k), k];
  }

  function reflectivity(n, k) {
    return ((n - 1) ** 2 + k ** 2) / ((n + 1) ** 2 + k ** 2);
  }

  return {
    im: { name: "Im ε", title: "Im ε (trace / 3)", of: (re, im) => im },
    re: { name: "Re ε", title: "Re ε (trace / 3)", of: (re) => re },
    n: { name: "Refractive index", title: "Refractive index n", of: (re, im) => index(re, im)[0] },
    k: { name: "Extinction", title: "Extinction coefficient k", of: (re, im) => index(re, im)[1] },
    absorption_per_cm: { name: "Absorption", title: "Absorption coefficient (1/cm)",
      of: (re, im, energy) => (4 * Math.PI * energy * index(re, im)[1]) / HC_EV_CM },
    reflectivity: { name: "Reflectivity", title: "Reflectivity, normal incidence", of: (re, im) => reflectivity(...index(re, im)) },
    loss: { name: "Energy loss", title: "Energy loss −Im(1 / ε)",
      of: (re, im) => (re || im ? Math.max(im, 0) / (re ** 2 + Math.max(im, 0) ** 2) : null) },
  };
})();
