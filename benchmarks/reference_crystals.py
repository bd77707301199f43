"""Seven reference crystals by ``selector compute``: the table of docs/engines.md.

SC stands beside that of the same settings run independently of this code, and, where there is one, of a recorded run of
Quantum ESPRESSO + Yambo with as many G-vectors (``benchmarks/qe_yambo_golden.py``; cells 1 % larger).
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from pymatgen.core import Structure

from fw_tasks.engines.gpaw_settings import PRESETS

TESTS = Path(__file__).parents[1] / "tests"
REFERENCE = TESTS / "fw_tasks" / "engines" / "data" / "gpaw_reference.json"
GOLDEN = TESTS / "data" / "golden_qe_yambo" / "SUMMARY.json"
SELECTOR = Path(sys.executable).with_name("selector")


def compute(reference: dict[str, Any], preset: str) -> dict[str, Any]:
    """The document that ``selector compute`` writes."""
    s = reference["structure"]
    with tempfile.TemporaryDirectory() as folder:
        crystal, out = Path(folder) / f"{reference['formula']}.json", Path(folder) / "out.json"
        Structure(s["cell"], s["numbers"], s["frac"]).to(str(crystal))
        command = [SELECTOR, "compute", crystal, "--engine", "gpaw", "--preset", preset, "--out", out]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        document: dict[str, Any] = json.loads(out.read_text(encoding="utf-8"))
    return document


def yambo(formula: str, n_g: int) -> float | None:
    """SC[RPA; IPA] of the recorded run with as many G-vectors, field along x."""
    rows = json.loads(GOLDEN.read_text(encoding="utf-8")).items()
    return next((r["SC_vs_IPA"] for name, r in rows if name.startswith(f"{formula}/") and r["nG"] == n_g), None)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--preset", choices=PRESETS, default="standard")
    preset = parser.parse_args().preset
    print("| crystal | G-vectors | SC | reference | difference | Yambo, same G-vectors | difference | CPU s |")
    print("|---|---|---|---|---|---|---|---|")
    for reference in json.loads(REFERENCE.read_text(encoding="utf-8")):
        found = compute(reference, preset)
        formula, n_g, sc, expected = reference["formula"], found["n_g"], found["sc"], reference["sc"]
        golden = yambo(formula, n_g)
        recorded = " | " if golden is None else f"{golden:.4f} | {abs(sc - golden):.4f}"
        print(
            f"| {formula} | {n_g} | {sc:.4f} | {expected:.4f} | {abs(sc - expected):.4f} | {recorded} "
            f"| {found['cpu_s']:.1f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
