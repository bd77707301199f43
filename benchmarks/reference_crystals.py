"""Seven reference crystals by GPAW, the table of docs/engines.md: ``python benchmarks/reference_crystals.py``."""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path

from pymatgen.core import Structure

from fw_tasks.engines.gpaw import GPAWEngine
from fw_tasks.engines.gpaw_settings import PRESETS

REFERENCE = Path(__file__).parents[1] / "tests" / "fw_tasks" / "engines" / "data" / "gpaw_reference.json"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--preset", choices=PRESETS, default="standard")
    preset = parser.parse_args().preset
    print(f"{preset:8}      SC  ref. SC   n_g  eps IPA  eps RPA  gap eV   CPU s")
    for reference in json.loads(REFERENCE.read_text(encoding="utf-8")):
        s = reference["structure"]
        structure = Structure(s["cell"], s["numbers"], s["frac"])
        with tempfile.TemporaryDirectory() as folder:
            c = GPAWEngine(preset).compute(reference["formula"], structure, ("ipa", "rpa"), Path(folder), None)
        ipa, rpa = (c.spectra[level].mean[0].real for level in ("ipa", "rpa"))
        print(
            f"{reference['formula']:8}  {c.sc:.4f}   {reference['sc']:.4f}  {c.details['n_g']:4d}"
            f"  {ipa:7.3f}  {rpa:7.3f}  {c.gap_ev:6.3f}  {c.cpu_s:6.1f}",
            flush=True,
        )


if __name__ == "__main__":
    main()
