"""What becomes of candidates as a campaign meets them: ``python benchmarks/candidates.py --out FILE``.

Crystals drawn from ``data/pool.json.gz`` with a fixed seed go the way of a campaign's candidates: the checks of
structures, the engine's own check, the calculation, the checks of its spectra. What comes back is an accepted label or
a named refusal. FILE has one JSON line a crystal; started again, it goes on with those that are missing, and prints the
table of docs/engines.md when all are there.
"""

from __future__ import annotations

import argparse
import gzip
import json
import random
import resource
import sys
import tempfile
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any

from pymatgen.core import Lattice, Structure

from fw_tasks.engines.base import EngineError
from fw_tasks.engines.gpaw import GPAWEngine
from fw_tasks.engines.gpaw_settings import PRESETS
from models.labels import load_labels
from selector.structure_checks import StructureError, check_structure

POOL = Path(__file__).parent / "data" / "pool.json.gz"
LEVELS = ("ipa", "rpa")


def drawn(count: int, seed: int, volume_ang3: float) -> list[dict[str, Any]]:
    """``count`` records of the pool with cells up to ``volume_ang3``, drawn without replacement."""
    pool = json.loads(gzip.decompress(POOL.read_bytes()))
    small = sorted((r for r in pool if r["volume"] <= volume_ang3), key=lambda r: r["mat_id"])
    return random.Random(seed).sample(small, count)


def outcome(record: dict[str, Any], preset: str, limit_s: float) -> dict[str, Any]:
    """One crystal's line: SC and gap of an accepted label, or the refusal's name and message; CPU seconds of either."""
    structure = Structure(Lattice(record["cell"]), record["numbers"], record["frac"])
    engine, before_s = GPAWEngine(preset), children_cpu_s()
    found: dict[str, Any] = {"sc": None, "gap_ev": None, "repairs": [], "refusal": None, "message": None}
    try:
        check_structure(structure)
        with tempfile.TemporaryDirectory() as folder:
            c = engine.compute(record["mat_id"], structure, LEVELS, Path(folder), limit_s)
        found |= {"sc": c.sc, "gap_ev": c.gap_ev, "repairs": c.details["repairs"], "settings": c.settings["name"]}
    except (StructureError, EngineError) as error:
        found |= {"refusal": error.reason, "message": str(error)}
    known = {key: record[key] for key in ("mat_id", "formula", "volume", "gap")}
    cost = {"cpu_s": children_cpu_s() - before_s, "estimated_cpu_s": 3600 * engine.estimate_cpu_h(structure)}
    return known | found | cost


def children_cpu_s() -> float:
    """CPU seconds of the calculations that this process has waited for."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def table(rows: list[dict[str, Any]]) -> None:
    """Every crystal, and how many were accepted, refused and repaired."""
    standard = {label.material_id: label.sc for label in load_labels()}
    print("| id | formula | volume, A^3 | gap, eV (Alexandria) | outcome | shipped label | repairs | CPU s |")
    print("|---|---|---|---|---|---|---|---|")
    for r in rows:
        said = f"`{r['refusal']}`: {r['message']}" if r["refusal"] else f"{r['sc']:.4f}"
        gap = "" if r["gap_ev"] is None else f"{r['gap_ev']:.2f} "
        known = f"{standard[r['mat_id']]:.4f}" if r["mat_id"] in standard else ""
        print(
            f"| {r['mat_id']} | {r['formula']} | {r['volume']:.1f} | {gap}({r['gap']:.2f}) | {said} | {known} "
            f"| {'; '.join(r['repairs'])} | {r['cpu_s']:.0f} |"
        )
    refused, repaired = ([r for r in rows if r[key]] for key in ("refusal", "repairs"))
    cpu_s, estimated_s = (sum(r[key] for r in rows) for key in ("cpu_s", "estimated_cpu_s"))
    counts = f"{len(rows) - len(refused)} labels ({len(repaired)} repaired), {len(refused)} refused"
    print(f"\n{len(rows)} candidates: {counts}; {cpu_s:.0f} CPU s, {cpu_s / estimated_s:.2f} times the estimate")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="JSON lines, one a crystal")
    parser.add_argument("--preset", choices=PRESETS, default="smoke")
    parser.add_argument("--count", type=int, default=60)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--volume-ang3", type=float, default=120.0)
    parser.add_argument("--limit-s", type=float, default=1800.0, help="wall seconds a crystal")
    parser.add_argument("--jobs", type=int, default=1)
    args = parser.parse_args()
    asked = drawn(args.count, args.seed, args.volume_ang3)
    lines = args.out.read_text().splitlines() if args.out.exists() else []
    done = {row["mat_id"]: row for row in map(json.loads, lines)}
    with args.out.open("a") as out, ProcessPoolExecutor(args.jobs) as pool:
        waiting = [pool.submit(outcome, r, args.preset, args.limit_s) for r in asked if r["mat_id"] not in done]
        for future in as_completed(waiting):
            row = future.result()
            done[row["mat_id"]] = row
            print(json.dumps(row), file=out, flush=True)
            print(f"{len(done)} of {len(asked)}: {row['formula']}", file=sys.stderr)
    table([done[r["mat_id"]] for r in asked])


if __name__ == "__main__":
    main()
