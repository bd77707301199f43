"""A campaign that loses nothing, whatever dies: ``python benchmarks/faults.py --seeds 20``.

For each seed a campaign with 242 recorded labels (engine `replay`, a second or so each), four workers and a budget
that is drawn runs while, in an order drawn by the seed, workers, the commands that started them, the fine-tuning task
and the database's server are killed (-9), all of it at once as in a power failure; while the server is frozen; its
connections are reset in the middle of messages; the small file system of the campaign is filled; and the clocks of
half of the processes jump (libfaketime). Odd seeds have their database behind an address, even ones on the campaign's
own disk. Printed: what was computed, lost, computed again, and by how much the budget was exceeded; exit code 1 unless
the last three are zero and each campaign ended by itself. Needs the right to mount a tmpfs, and Debian's package
faketime. Cancelled and timed-out jobs of SLURM: ``make test-slurm``.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fault_injection.story import plan_of, suffer

from models.labels import load_labels, read_manifest

MANIFEST = Path(__file__).parent / "manifests" / "2026-11-22-242.json"
"""What is replayed, whatever labels are added later: a file of campaigns may be gone on with."""
LABELS_A_ROUND = 120
COLUMNS = ("seed", "wall_s", "materials", "done", "skipped", "failed", "computations", "blind_looks", "looks")


def summary(stories: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The figures of all seeds together."""
    struck: Counter[str] = Counter()
    for story in stories:
        struck.update(story["struck"])
    return {
        "seeds": len(stories),
        "campaigns_as_they_should_be": sum(not story["wrong"] for story in stories),
        "faults": sum(struck.values()),
        "faults_by_kind": dict(sorted(struck.items())),
        "results": sum(story["results"] for story in stories),
        "results_lost": sum(len(story["lost"]) for story in stories),
        "computed_again_in_spite_of_a_result": sum(len(story["computed_again"]) for story in stories),
        "most_over_budget_cpu_ms": max(story["over_budget_ms"] for story in stories),
        "looks_at_the_account": sum(story["looks"] for story in stories),
        "computations_cut_short": sum(story["computations"] - story["results"] for story in stories),
        "wall_s": sum(story["wall_s"] for story in stories),
    }


def told_before(file: Path, options: dict[str, Any]) -> dict[int, dict[str, Any]]:
    """The stories that a file holds, by seed; `SystemExit` if they were told under other options."""
    if not file.exists():
        return {}
    held = json.loads(file.read_text(encoding="utf-8"))
    stories = held.pop("stories")
    if held != options:
        raise SystemExit(f"{file}: holds campaigns of {held}, not of {options}; name another file")
    return {story["seed"]: story for story in stories}


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=20, help="how many")
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    parser.add_argument("--labels", type=int, help="so many of the 242 labels, drawn (default: all)")
    parser.add_argument("--mean-s", type=float, default=1.0, help="seconds that a computation takes on average")
    parser.add_argument("--limit-s", type=float, default=1800.0, help="a campaign should have ended by then")
    parser.add_argument("--folder", type=Path, help="keep what the campaigns leave here")
    parser.add_argument("--json", type=Path, help="all figures of every seed; what it holds already is not run again")
    a = parser.parse_args(argv)
    labels, stories = load_labels(ids=read_manifest(MANIFEST)), []
    options = {"labels": a.labels or len(labels), "mean_s": a.mean_s, "limit_s": a.limit_s}
    known = told_before(a.json, options) if a.json else {}
    for seed in range(a.first, a.first + a.seeds):
        plan = plan_of(seed, labels, a.labels, a.mean_s)
        with tempfile.TemporaryDirectory(prefix="faults-") as scratch:
            folder = (a.folder or Path(scratch)) / f"seed-{seed}"
            rounds = max(1, round(len(plan.labels) / LABELS_A_ROUND))
            story = known.get(seed) or suffer(folder, plan, seed, rounds, a.limit_s)
        stories.append(story)
        known[seed] = story
        told = ", ".join(f"{name} {story[name]}" for name in COLUMNS)
        print(f"{told}, faults {sum(story['struck'].values())}: {story['wrong'] or 'as it should be'}", flush=True)
        if a.json:
            a.json.write_text(json.dumps({**options, "stories": list(known.values())}, indent=1), encoding="utf-8")
    total = summary(stories)
    print(json.dumps(total, indent=1))
    if total["campaigns_as_they_should_be"] < len(stories):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
