"""Replays in a file, a JSON line each: a benchmark of hours can be interrupted, told again, and checked."""

from __future__ import annotations

import gzip
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np

from fw_tasks.rehearsal import Rehearsal, Rehearsed, rehearse_all
from models.labels import Label
from selector.replaying.figures import Outcome

Results = dict[Rehearsal, Rehearsed]
CURVES, DIGITS = ("curve", "oracle_curve"), 5


def read(path: Path) -> Results:
    """The replays that a file holds; none if there is no such file."""
    if not path.exists():
        return {}
    text, results = path.read_bytes(), {}
    for line in (gzip.decompress(text) if path.suffix == ".gz" else text).splitlines():
        data = json.loads(line)
        said = data["rehearsed"]
        said |= {name: Outcome(**said[name]) for name in ("outcome", "oracle")}
        said |= {name: np.array(said[name]) for name in CURVES}
        results[Rehearsal(**data["rehearsal"])] = Rehearsed(**said)
    return results


def append(path: Path, rehearsal: Rehearsal, rehearsed: Rehearsed) -> None:
    """Keep one more, in one write; the curves, which are only drawn, in five digits."""
    said = asdict(rehearsed) | {name: np.round(getattr(rehearsed, name), DIGITS).tolist() for name in CURVES}
    line = (json.dumps({"rehearsal": asdict(rehearsal), "rehearsed": said}) + "\n").encode()
    with path.open("ab") as file:
        file.write(gzip.compress(line) if path.suffix == ".gz" else line)


def that_differ(kept: Results, labels: Sequence[Label], n: int, jobs: int) -> list[Rehearsal]:
    """Of ``n`` kept replays, drawn at random, those that come out otherwise when they are repeated here.

    The same materials must come back in the same order. Another machine rounds otherwise in the last digit, which may
    turn a choice between two materials that are all but equal.
    """
    every = list(kept)
    drawn = [every[i] for i in np.random.default_rng().permutation(len(every))[:n]]
    again = dict(rehearse_all(labels, drawn, jobs))
    return [r for r in drawn if again[r].returned != kept[r].returned]
