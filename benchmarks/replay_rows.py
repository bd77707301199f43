"""Replays in a file, a JSON line each: a benchmark of hours can be interrupted, told again, and checked.

benchmarks/data/replays.jsonl.gz    those behind the README's figures
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import IO, Any

import numpy as np

from fw_tasks.rehearsal import Rehearsal, Rehearsed, rehearse_all
from models.labels import Label
from selector.replaying.figures import Outcome

Results = dict[Rehearsal, Rehearsed]
CURVES, DIGITS = ("curve", "oracle_curve"), 5


def _open(path: Path, mode: str) -> IO[Any]:
    return gzip.open(path, f"{mode}t") if path.suffix == ".gz" else path.open(mode)


def read(path: Path) -> Results:
    """The replays that a file holds; none if there is no such file."""
    results: Results = {}
    if not path.exists():
        return results
    with _open(path, "r") as file:
        for line in file:
            data = json.loads(line)
            said = data["rehearsed"]
            said |= {name: Outcome(**said[name]) for name in ("outcome", "oracle")}
            said |= {name: np.array(said[name]) for name in CURVES}
            results[Rehearsal(**data["rehearsal"])] = Rehearsed(**said)
    return results


def append(path: Path, rehearsal: Rehearsal, rehearsed: Rehearsed) -> None:
    """Keep one more; the curves, which are only drawn, in five digits."""
    said = asdict(rehearsed) | {name: np.round(getattr(rehearsed, name), DIGITS).tolist() for name in CURVES}
    with _open(path, "a") as file:
        file.write(json.dumps({"rehearsal": asdict(rehearsal), "rehearsed": said}) + "\n")


def that_differ(kept: Results, labels: Sequence[Label], n: int, jobs: int) -> list[Rehearsal]:
    """Of ``n`` kept replays, drawn at random, those that come out otherwise when they are repeated here.

    The same materials must come back in the same order. Another machine rounds otherwise in the last digit, which may
    turn a choice between two materials that are all but equal.
    """
    every = list(kept)
    drawn = [every[i] for i in np.random.default_rng().permutation(len(every))[:n]]
    again = dict(rehearse_all(labels, drawn, jobs))
    return [r for r in drawn if again[r].returned != kept[r].returned]
