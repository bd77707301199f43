"""How SC from the GPAW engine depends on its settings, and what the cutoff ladder costs: tables of ``docs/engines.md``.

``python benchmarks/engine.py [ladder cutoffs meshes plane-waves cells] [--preset P] [--crystals Si LiF ...]`` computes
the parts named, all of them by default. The ladder of one response function is compared with separate calculations, at
2, 4, 6 and 8 Ry each rounded up to a closed shell; its cost, with one calculation at 8 Ry that looks at no smaller one.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pymatgen.core import Structure

from fw_tasks.engines import gpaw_worker
from fw_tasks.engines.base import Calculation
from fw_tasks.engines.checks import primitive_cell
from fw_tasks.engines.gpaw import GPAWEngine
from fw_tasks.engines.gpaw_settings import PRESETS
from models.labels import load_labels
from selector.spectra import ENERGY_EV, similarity

REFERENCE = Path(__file__).parents[1] / "tests" / "fw_tasks" / "engines" / "data" / "gpaw_reference.json"
RYDBERG_EV = 13.605693
LADDER_RY = (2, 4, 6, 8)
CUTOFFS_EV = (27.2, 54.4, 81.6, 100.0, 125.0, 150.0)
KPPA = (60, 100, 300, 600)
PW_EV = (250.0, 300.0, 350.0, 450.0)
SKEWED_DEGREES = 40.0
# The worker, asked for its largest cutoff only.
LARGEST_ALONE = f"""
import sys
sys.path.insert(0, {str(Path(gpaw_worker.__file__).parent)!r})
import gpaw_worker
every = gpaw_worker.closed_shells
gpaw_worker.closed_shells = lambda energy_ev: [every(energy_ev)[0], every(energy_ev)[-1]]
sys.exit(gpaw_worker.main(sys.argv[1:]))
"""


def compute(structure: Structure, preset: str, settings: dict[str, Any] | None = None, **options: Any) -> Calculation:
    """Both levels, in a folder that is gone afterwards."""
    with tempfile.TemporaryDirectory() as folder:
        engine = GPAWEngine(preset, settings=settings, **options)
        return engine.compute("benchmark", structure, ("ipa", "rpa"), Path(folder), None)


def sc_at(calculation: Calculation, n_g: int) -> float:
    return float(next(rung["sc"] for rung in calculation.details["ladder"] if rung["n_g"] == n_g))


def response_s(calculation: Calculation) -> float:
    return float(calculation.details["cpu_stage_s"]["response"])


def ladder(crystals: dict[str, Structure], preset: str) -> None:
    """The rungs of one chi0 against separate calculations, and their cost over the largest alone."""
    print("| crystal | cutoff, Ry | G-vectors | SC, ladder | SC, separate | difference | CPU s, separate |")
    print("|---|---|---|---|---|---|---|")
    costs = []
    for name, structure in crystals.items():
        once = compute(structure, preset, ladder_to_ev=LADDER_RY[-1] * RYDBERG_EV)
        separate_s = 0.0
        for cutoff_ry in LADDER_RY:
            alone = compute(structure, preset, {"ecut_ev": cutoff_ry * RYDBERG_EV})
            separate_s += alone.cpu_s
            n_g, sc = alone.details["n_g"], sc_at(once, alone.details["n_g"])
            print(
                f"| {name} | {cutoff_ry} | {n_g} | {sc:.5f} | {alone.sc:.5f} | {abs(sc - alone.sc):.1e} "
                f"| {alone.cpu_s:.1f} |",
                flush=True,
            )
        with tempfile.NamedTemporaryFile("w", suffix=".py") as script:
            script.write(LARGEST_ALONE)
            script.flush()
            largest = compute(structure, preset, {"ecut_ev": LADDER_RY[-1] * RYDBERG_EV}, worker=script.name)
        costs.append((name, once, largest, separate_s))
    print(
        "\n| crystal | rungs | CPU s, every closed shell | 8 Ry alone | ratio | of the response | four separate runs |"
    )
    print("|---|---|---|---|---|---|---|")
    for name, once, largest, separate_s in costs:
        print(
            f"| {name} | {len(once.details['ladder'])} | {once.cpu_s:.1f} | {largest.cpu_s:.1f} "
            f"| {once.cpu_s / largest.cpu_s:.2f} | {response_s(once) / response_s(largest):.2f} | {separate_s:.1f} |"
        )


def cutoffs(crystals: dict[str, Structure], preset: str) -> None:
    """SC by response cutoff: G-vectors below it, and with the shell that it cuts completed."""
    print("| crystal | cutoff, eV | SC, below it (G-vectors) | SC, closed shell (G-vectors) |")
    print("|---|---|---|---|")
    for name, structure in crystals.items():
        rungs = compute(structure, preset, ladder_to_ev=CUTOFFS_EV[-1]).details["ladder"]
        for cutoff_ev in CUTOFFS_EV:
            below = [r for r in rungs if r["cutoff_ev"] - gpaw_worker.SHELL_WIDTH_EV <= cutoff_ev][-1]
            above = next(r for r in rungs if r["cutoff_ev"] - gpaw_worker.SHELL_WIDTH_EV >= cutoff_ev)
            print(
                f"| {name} | {cutoff_ev:g} | {below['sc']:.4f} ({below['n_g']}) | {above['sc']:.4f} ({above['n_g']}) |",
                flush=True,
            )


def change_of_spectrum(calculation: Calculation, best: Calculation) -> float:
    """Integral of the difference of Im(eps) at IPA, over that of the best calculation, on 0-20 eV."""
    ipa, reference = (c.spectra["ipa"].on_grid(ENERGY_EV).mean.imag for c in (calculation, best))
    return 1.0 - similarity(ipa, reference)


def by_setting(key: str, values: tuple[float, ...]) -> Callable[[dict[str, Structure], str], None]:
    """A part that varies one setting, and measures the spectra against those of the last value."""

    def part(crystals: dict[str, Structure], preset: str) -> None:
        print(f"| crystal | {key} | k-points (reduced) | SC | change of the IPA spectrum | CPU s |")
        print("|---|---|---|---|---|---|")
        for name, structure in crystals.items():
            found = [compute(structure, preset, {key: value}) for value in values]
            for value, c in zip(values, found, strict=True):
                print(
                    f"| {name} | {value:g} | {c.details['n_k']} | {c.sc:.4f} "
                    f"| {change_of_spectrum(c, found[-1]):.3f} | {c.cpu_s:.1f} |",
                    flush=True,
                )

    return part


def cells(crystals: dict[str, Structure], preset: str) -> None:
    """The cheapest labels with a skewed cell, standardised and Niggli-reduced."""
    labels = [k for k in load_labels() if min(primitive_cell(k.structure).lattice.angles) < SKEWED_DEGREES]
    print(f"{len(labels)} of {len(load_labels())} shipped labels have an angle below {SKEWED_DEGREES:g} degrees\n")
    print("| label | formula | SC, standard cell | SC, Niggli-reduced | change of the IPA spectrum | CPU s, both |")
    print("|---|---|---|---|---|---|")
    for label in sorted(labels, key=lambda k: k.cpu_s)[: len(crystals)]:
        standard = compute(label.structure, preset)
        reduced = compute(label.structure, preset, {"cell": "niggli"})
        print(
            f"| {label.material_id} | {label.formula} | {standard.sc:.4f} | {reduced.sc:.4f} "
            f"| {change_of_spectrum(reduced, standard):.3f} | {standard.cpu_s:.1f}, {reduced.cpu_s:.1f} |",
            flush=True,
        )


PARTS: dict[str, Callable[[dict[str, Structure], str], None]] = {
    "ladder": ladder,
    "cutoffs": cutoffs,
    "meshes": by_setting("kppa_response", KPPA),
    "plane-waves": by_setting("pw_ev", PW_EV),
    "cells": cells,
}


def main() -> None:
    known = {
        r["formula"]: Structure(r["structure"]["cell"], r["structure"]["numbers"], r["structure"]["frac"])
        for r in json.loads(REFERENCE.read_text(encoding="utf-8"))
    }
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("parts", nargs="*", default=list(PARTS), help=", ".join(PARTS))
    parser.add_argument("--preset", choices=PRESETS, default="smoke")
    parser.add_argument("--crystals", nargs="+", choices=known, default=["Si", "LiF", "MgO"])
    args = parser.parse_args()
    if unknown := set(args.parts) - PARTS.keys():
        parser.error(f"no part {unknown.pop()!r}: choose from {', '.join(PARTS)}")
    for name in args.parts:
        print(f"\n{name}, preset {args.preset}\n")
        PARTS[name]({formula: known[formula] for formula in args.crystals}, args.preset)


if __name__ == "__main__":
    main()
