"""The recorded ladders of QE 6.7 + Yambo 5.2.4, read as the engine reads them, and where each stop rule would end them.

``python benchmarks/qe_yambo_golden.py`` prints the table of ``docs/engines.md``; it runs no program.
"""

from __future__ import annotations

import json
import tempfile
import zipfile
from pathlib import Path

from pymatgen.core import Lattice, Structure

from fw_tasks.engines.checks import primitive_cell
from fw_tasks.engines.qe_yambo.geometry import coupling_vectors
from fw_tasks.engines.qe_yambo.ladder import Rung, stands_still
from fw_tasks.engines.qe_yambo.yambo_input import YamboJob
from fw_tasks.engines.qe_yambo.yambo_output import Response, read_response
from selector.spectra import similarity

GOLDEN = Path(__file__).parents[1] / "tests" / "data" / "golden_qe_yambo"
PAPER_RULE = 0.9
TOLERANCE = 0.01
CRYSTALS = {
    "Si": (Structure.from_spacegroup("Fd-3m", Lattice.cubic(5.468), ["Si"], [[0] * 3]), 20, (0, 2000, 4000)),
    "LiF": (
        Structure.from_spacegroup("Fm-3m", Lattice.cubic(4.064), ["Li", "F"], [[0] * 3, [0.5] * 3]),
        10,
        (0, 2000, 4000, 6000, 8000),
    ),
}


def recorded(name: str, job: YamboJob, folder: Path) -> Response:
    with zipfile.ZipFile(GOLDEN / f"{name}.zip") as archive:
        for file in (f"o-{job.name}.eps_q1_inv_rpa_dyson", f"l-{job.name}_optics_chi"):
            (folder / file).write_bytes(archive.read(f"{name}/{file}"))
    return read_response(folder, job)


def main() -> None:
    summary = json.loads((GOLDEN / "SUMMARY.json").read_text())
    print("| crystal | asked, mRy | G-vectors (coupling) | SC against IPA | recorded | SC against the rung before |")
    print("|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as temporary:
        for name, (structure, bands, cutoffs) in CRYSTALS.items():
            cell, rungs, before = primitive_cell(structure), list[Rung](), None
            ends: dict[str, int] = {}
            for cutoff_mry in cutoffs:
                response = recorded(name, YamboJob(0, cutoff_mry, bands, 0.3), Path(temporary))
                coupling = coupling_vectors(cell, 0, response.n_g)
                sc = similarity(response.rpa.imag, response.ipa.imag)
                rungs.append(Rung(cutoff_mry, response.n_g, coupling, sc))
                step = None if before is None else similarity(response.rpa.imag, before.rpa.imag)
                if step is not None and step >= PAPER_RULE:
                    ends.setdefault("the paper's rule", cutoff_mry)
                if stands_still(rungs, TOLERANCE):
                    ends.setdefault("this engine's", cutoff_mry)
                known = summary.get(f"{name}/100/{cutoff_mry}", {}).get("SC_vs_IPA")
                print(
                    f"| {name} | {cutoff_mry} | {response.n_g} ({coupling}) | {sc:.4f} | "
                    f"{'' if known is None else f'{known:.4f}'} | {'' if step is None else f'{step:.4f}'} |"
                )
                before = response
            for rule in ("the paper's rule", "this engine's"):
                where = f"at {ends[rule]} mRy" if rule in ends else "not within the recorded rungs"
                print(f"{name}: {rule} ends {where}")


if __name__ == "__main__":
    main()
