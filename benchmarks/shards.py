"""Sharded prediction of a million candidates, killed in the middle: ``python benchmarks/shards.py``.

Candidates are made from ``data/pool.json.gz``, one by one and from the seed alone: a crystal is drawn; each of its
elements but hydrogen is replaced, with probability 1/2, by another of its group that the pool knows (which keeps the
number of electrons even); if their atomic radii say that they need more room, the cell grows as much; its lengths are
scaled by a factor from 1.0 to 1.1; its atoms are displaced by 0.02 angstrom (normal, each direction). One in
``BROKEN_EVERY`` has three atoms in one place. Then ``selector predict --shards`` runs with local processes (or, with
``--rockets``, as fireworks of a local database), every process of it is killed (-9) when 40 % of the shards are there,
and the same command goes on. Printed: rates, peak memory of each process, and whether each candidate was predicted
exactly once.
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import resource
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pymatgen.core import Element

from selector import localdb

POOL = Path(__file__).parent / "data" / "pool.json.gz"
BROKEN_EVERY = 5000
ROW_GROUP = 10_000
KILL_AT = 0.4
LIMIT_MB = 2000.0
SCHEMA = pa.schema(
    [
        ("material_id", pa.string()),
        ("lattice", pa.list_(pa.list_(pa.float64()))),
        ("species", pa.list_(pa.int64())),
        ("frac", pa.list_(pa.list_(pa.float64()))),
    ]
)
CONFIG = "campaign: shards\nfolder: run\nbudget_cpu_h: 1\n"


def candidates(n: int, seed: int) -> Iterator[dict[str, Any]]:
    """``n`` candidates by the recipe above."""
    pool = json.loads(gzip.decompress(POOL.read_bytes()))
    rng = np.random.default_rng(seed)
    known = sorted({z for record in pool for z in record["numbers"]})
    group = {z: Element.from_Z(z).group for z in known}
    relatives = {z: [y for y in known if group[y] == group[z] and 1 not in (y, z)] or [z] for z in known}
    radius = {z: float(Element.from_Z(z).atomic_radius or 1.5) for z in known}
    for i in range(n):
        record = pool[rng.integers(len(pool))]
        swap = {z: int(rng.choice(relatives[z])) if rng.random() < 0.5 else z for z in sorted(set(record["numbers"]))}
        species = [swap[z] for z in record["numbers"]]
        room = [sum(radius[z] ** 3 for z in numbers) for numbers in (species, record["numbers"])]
        cell = np.array(record["cell"]) * max(room[0] / room[1], 1.0) ** (1 / 3) * rng.uniform(1.0, 1.1)
        frac = np.array(record["frac"]) + rng.normal(0.0, 0.02, (len(species), 3)) @ np.linalg.inv(cell)
        if i % BROKEN_EVERY == BROKEN_EVERY - 1:
            species, frac = [*species, species[0], species[0]], np.vstack([frac, frac[0], frac[0]])
        yield {"material_id": f"s{i:08d}", "lattice": cell.tolist(), "species": species, "frac": frac.tolist()}


def write_candidates(path: Path, n: int, seed: int) -> None:
    """A Parquet file of them, in row groups of `ROW_GROUP`."""
    part, waiting = path.with_suffix(".part"), []
    with pq.ParquetWriter(part, SCHEMA) as writer:
        for candidate in candidates(n, seed):
            waiting.append(candidate)
            if len(waiting) == ROW_GROUP:
                writer.write_table(pa.Table.from_pylist(waiting, schema=SCHEMA))
                waiting = []
        if waiting:
            writer.write_table(pa.Table.from_pylist(waiting, schema=SCHEMA))
    part.rename(path)


class Watched:
    """The command with all its processes; their peak memory by process id, read from /proc as they live."""

    def __init__(self, command: Sequence[str]) -> None:
        self.peak_mb: dict[int, float] = {}
        self.process = subprocess.Popen(
            command, start_new_session=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )

    def look(self) -> None:
        """Peak memory so far of each process of the session."""
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                session = int((folder / "stat").read_text().rsplit(")", 1)[1].split()[3])
                lines = (folder / "status").read_text().splitlines() if session == self.process.pid else []
            except (OSError, ValueError, IndexError):
                continue  # it has ended meanwhile
            for line in lines:
                if line.startswith("VmHWM:"):
                    self.peak_mb[int(folder.name)] = int(line.split()[1]) / 1e3

    def kill(self) -> None:
        """Every process of the session, at once, as when a machine fails."""
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.communicate()


def run_until(watched: Watched, out: Path, n_shards: int | None) -> float:
    """Wait until so many shards are there, or until the command ends; the seconds since the first look."""
    started = time.monotonic()
    while watched.process.poll() is None and (n_shards is None or len(list(out.glob("shard-*.parquet"))) < n_shards):
        watched.look()
        time.sleep(0.2)
    return time.monotonic() - started


def exactly_once(out: Path, n: int) -> dict[str, Any]:
    """How many indices are missing or doubled in the output, and how many rows hold no prediction."""
    counts, broken = np.zeros(n, dtype=np.int64), 0
    for path in sorted(out.glob("shard-*.parquet")):
        table = pq.read_table(path, columns=["index", "sc_mean", "reason"])
        np.add.at(counts, table["index"].to_numpy(), 1)
        broken += table["sc_mean"].null_count
    return {"missing": int((counts == 0).sum()), "doubled": int((counts > 1).sum()), "broken": broken}


def measure(folder: Path, n: int, jobs: int, shard_size: int, seed: int, rockets: bool) -> dict[str, Any]:
    """The whole story in a folder; its figures."""
    source, out = folder / "candidates.parquet", folder / "predictions"
    if not source.exists():
        write_candidates(source, n, seed)
    command = [sys.executable, "-m", "selector.cli", "predict", "--shards", str(source), "--out", str(out)]
    command += ["--jobs", str(jobs), "--shard-size", str(shard_size), "--json"]
    if rockets:
        (folder / "campaign.yaml").write_text(CONFIG)
        command += ["--config", str(folder / "campaign.yaml")]
    n_shards = -(-n // shard_size)
    first = Watched(command)
    wall_1_s = run_until(first, out, max(1, round(KILL_AT * n_shards)))
    if first.process.poll() is not None:
        raise SystemExit(f"it ended before it could be killed: {first.process.communicate()[1]}")
    first.kill()
    whole = {path.name: path.stat().st_mtime_ns for path in out.glob("shard-*.parquet")}
    used_s = resource.getrusage(resource.RUSAGE_CHILDREN)
    second = Watched(command)
    wall_2_s = run_until(second, out, None)
    text, complaints = second.process.communicate()
    if rockets:
        localdb.stop(folder / "run" / "database" / "selector.sqlite")
    if second.process.returncode:
        raise SystemExit(f"the second run failed: {complaints}")
    report, now_s = json.loads(text), resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu_s = now_s.ru_utime + now_s.ru_stime - used_s.ru_utime - used_s.ru_stime
    peaks = [round(mb) for watched in (first, second) for mb in watched.peak_mb.values()]
    return {
        "n": n,
        "shards": n_shards,
        "jobs": jobs,
        "rockets": rockets,
        "killed_at_shards": len(whole),
        "kept_as_they_were": all((out / name).stat().st_mtime_ns == t for name, t in whole.items()),
        "wall_s": [round(wall_1_s, 1), round(wall_2_s, 1)],
        "predicted_after_the_kill": report["predicted_this_time"],
        "structures_per_s": round(report["structures_per_s"], 1),
        "cpu_ms_a_structure": round(1e3 * cpu_s / max(report["predicted_this_time"], 1), 2),
        "peak_mb_of_each_process": sorted(peaks, reverse=True),
        "broken_on_purpose": n // BROKEN_EVERY,
        **exactly_once(out, n),
    }


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--n", type=int, default=1_000_000, help="candidates")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="local processes")
    parser.add_argument("--shard-size", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--rockets", action="store_true", help="as fireworks of a local database")
    parser.add_argument("--quick", action="store_true", help="10,000 candidates in shards of 500")
    parser.add_argument("--folder", type=Path, help="keep candidates and predictions here")
    a = parser.parse_args(argv)
    n, size = (10_000, 500) if a.quick else (a.n, a.shard_size)
    with tempfile.TemporaryDirectory() as scratch:
        folder = a.folder or Path(scratch)
        folder.mkdir(parents=True, exist_ok=True)
        figures = measure(folder, n, a.jobs, size, a.seed, a.rockets)
    print(json.dumps(figures, indent=1))
    good = figures["missing"] == figures["doubled"] == 0 and figures["kept_as_they_were"]
    # A displaced atom may by chance be refused, too.
    good = good and figures["broken"] >= figures["broken_on_purpose"]
    good = good and max(figures["peak_mb_of_each_process"]) < LIMIT_MB
    print("each candidate exactly once, every process below 2 GB" if good else "NOT AS IT SHOULD BE")
    if not good:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
