"""What choosing is worth: policies replayed on the shipped labels, beside random, cheapest and an oracle.

    python benchmarks/replay.py                  # all of it: 2,750 replays, five hours of one core
    python benchmarks/replay.py --quick          # a look at it: 16 replays
    python benchmarks/replay.py --out FILE       # keep every replay there; called again, it goes on from there
    python benchmarks/replay.py --out benchmarks/data/replays.jsonl.gz              # goes on from those that ship
    python benchmarks/replay.py --out benchmarks/data/replays.jsonl.gz --check 8    # repeats some of them, and compares

Each replay is a whole campaign (`fw_tasks.rehearsal`) on a frozen manifest, its reduced formulas drawn anew with
replacement, with 30 % of what all candidates cost and 8 virtual workers. An interval holds 95 % of the replays: it says
how far a figure hangs on the choice of materials, of the labels known at the start, and of what is drawn by lot.
The formulas that a replay did not draw are the fold that no learning gate sees.

A formula that is drawn twice brings copies, and once one is known the other is easy to predict: one more table repeats
the main figures without copies, on all materials once, and shows the other policies. The last shows what the choice
gains where the IPA spectra of all candidates are at hand.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import replay_rows
from replay_rows import Results

from fw_tasks.rehearsal import SHARES, Rehearsal, Rehearsed, rehearse_all
from models.labels import load_labels, read_manifest
from selector.replaying.figures import Figure, Outcome
from selector.replaying.plot import draw

MANIFEST = Path(__file__).parent / "manifests" / "2026-11-21-231.json"
DEFAULT, BASELINES, OTHERS = "value_per_cost", ("cheapest", "random"), ("threshold", "uncertainty")
SETTINGS = ((20, 0.75), (0, 0.75), (20, 0.70), (0, 0.70))
"""Labels known at the start, and the threshold."""
N_REPLAYS, N_ROUNDS, N_WHOLE, N_IPA = 200, 50, 50, 50


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a few replays, to see that it works")
    parser.add_argument("--replays", type=int, default=N_REPLAYS, help="replays of each policy and setting")
    parser.add_argument("--settings", type=int, default=len(SETTINGS), help="only the first so many of them")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="replays at a time")
    parser.add_argument("--out", type=Path, help="JSON lines, one a replay; what stands there is not repeated")
    parser.add_argument("--check", type=int, metavar="N", help="repeat N of the replays in --out, drawn at random")
    parser.add_argument("--plot", type=Path, help="error removed against budget spent, at the first setting")
    a = parser.parse_args()
    if a.check:
        check(a.out, a.check, a.jobs)
        return
    n = 2 if a.quick else a.replays
    settings = SETTINGS[: 1 if a.quick else a.settings]
    policies, of_whole = (DEFAULT, *BASELINES), (DEFAULT, *(() if a.quick else OTHERS), *BASELINES)
    wanted = [
        *(row for setting in settings for policy in policies for row in rehearsals(policy, *setting, n)),
        *in_rounds(min(n, N_ROUNDS)),
        *(row for policy in of_whole for row in on_all(policy, min(n, N_WHOLE))),
        *with_ipa(min(n, N_IPA)),
    ]
    results = run(wanted, a.jobs, a.out)
    for warm_start, threshold in settings:
        print_policies(results, policies, warm_start, threshold, n)
        print_models(results, warm_start, threshold, n)
    print_rounds(results, min(n, N_ROUNDS))
    print_whole(results, of_whole, min(n, N_WHOLE))
    print_ipa(results, min(n, N_IPA))
    if a.plot:
        curves = {p: [results[r].curve for r in rehearsals(p, *settings[0], n)] for p in policies}
        curves["oracle"] = [results[r].oracle_curve for r in rehearsals(DEFAULT, *settings[0], n)]
        draw(SHARES, curves, a.plot, f"SC < {settings[0][1]:g}, {settings[0][0]} labels known at the start")


# -- what is replayed -------------------------------------------------------------------------------------------------


def rehearsals(policy: str, warm_start: int, threshold: float, n: int) -> list[Rehearsal]:
    return [Rehearsal(policy, seed, threshold=threshold, warm_start=warm_start, resampled=True) for seed in range(n)]


def in_rounds(n: int) -> list[Rehearsal]:
    """The default at the first setting, in synchronous rounds."""
    return [replace(r, in_rounds=True) for r in rehearsals(DEFAULT, *SETTINGS[0], n)]


def on_all(policy: str, n: int) -> list[Rehearsal]:
    """At the first setting, on all materials once: only the start and the lots differ."""
    return [replace(r, resampled=False) for r in rehearsals(policy, *SETTINGS[0], n)]


def with_ipa(n: int) -> list[Rehearsal]:
    """The default at the first setting, every candidate's IPA spectrum at hand."""
    return [replace(r, ipa="have") for r in rehearsals(DEFAULT, *SETTINGS[0], n)]


def run(wanted: Sequence[Rehearsal], jobs: int, out: Path | None) -> Results:
    """Every replay once; those that stand in ``out`` are read from there."""
    results = replay_rows.read(out) if out else {}
    # Seed by seed: what an interrupted run has done can be told with fewer `--replays`.
    left = sorted((r for r in dict.fromkeys(wanted) if r not in results), key=lambda r: r.seed)
    labels = load_labels(ids=read_manifest(MANIFEST))
    for k, (rehearsal, rehearsed) in enumerate(rehearse_all(labels, left, jobs), start=1):
        results[rehearsal] = rehearsed
        if out:
            replay_rows.append(out, rehearsal, rehearsed)
        if k % 50 == 0:
            print(f"  {k} of {len(left)} replays", file=sys.stderr, flush=True)
    return results


def check(out: Path | None, n: int, jobs: int) -> None:
    """Exit with 1 unless ``n`` of the replays that ``out`` holds come out as they did."""
    kept = replay_rows.read(out) if out else {}
    if not kept:
        raise SystemExit("--check repeats what --out FILE holds; name a file of replays")
    differ = replay_rows.that_differ(kept, load_labels(ids=read_manifest(MANIFEST)), n, jobs)
    for rehearsal in differ:
        print(f"otherwise than in {out}: {rehearsal}")
    print(f"{min(n, len(kept)) - len(differ)} of {min(n, len(kept))} replays came out as they did")
    if differ:
        raise SystemExit(1)


# -- what comes of it -------------------------------------------------------------------------------------------------


def said(values: Iterable[float], form: str = ".3f") -> str:
    f = Figure.of(list(values))
    return f"{f.mean:{form}} ({f.lo:{form}} to {f.hi:{form}})"


def print_policies(results: Results, policies: Sequence[str], warm_start: int, threshold: float, n: int) -> None:
    print(f"\n## SC < {threshold:g}, {warm_start} labels known at the start, 30 % of the cost, {n} replays\n")
    _print_table({p: [results[r] for r in rehearsals(p, warm_start, threshold, n)] for p in policies})


def _print_table(by_policy: dict[str, list[Rehearsed]]) -> None:
    """Mean and 95 % interval of each policy; of differences, replay by replay."""
    print("| policy | error removed | of the oracle's | recall | CPU-h |\n|---|---|---|---|---|")
    for policy, replays in by_policy.items():
        of_oracle = said(r.outcome.error_removed / r.oracle.error_removed for r in replays)
        print(f"| {policy} | {_row([r.outcome for r in replays], of_oracle)} |")
    default = by_policy[DEFAULT]
    print(f"| oracle | {_row([r.oracle for r in default], '1')} |")
    for policy, replays in by_policy.items():
        if policy != DEFAULT:
            removed = ([r.outcome.error_removed for r in of_policy] for of_policy in (default, replays))
            gain = np.subtract(*removed)
            above = f"above zero in {100 * np.mean(gain > 0):.0f} % of the replays"
            print(f"\n{DEFAULT} minus {policy}: {said(gain, '+.3f')}, {above}")


def _row(outcomes: Sequence[Outcome], of_oracle: str) -> str:
    def column(value: Callable[[Outcome], float]) -> str:
        return said(value(o) for o in outcomes)

    cells = (column(lambda o: o.error_removed), of_oracle, column(lambda o: o.recall), column(lambda o: o.cost_cpu_h))
    return " | ".join(cells)


def print_models(results: Results, warm_start: int, threshold: float, n: int) -> None:
    """What the learning gate made of the default's models, and their error where no gate looks."""
    replays = [results[r] for r in rehearsals(DEFAULT, warm_start, threshold, n)]
    accepted, refused = sum(r.n_accepted for r in replays), sum(r.n_refused for r in replays)
    share = said((r.n_accepted / max(r.n_accepted + r.n_refused, 1) for r in replays), ".2f")
    print(f"\nmodel updates: {accepted} accepted, {refused} refused; share accepted {share}")
    learned = [r.unseen_mae for r in replays if len(r.unseen_mae) > 1]
    first, last = [e[0] for e in learned], [e[-1] for e in learned]
    fell = np.mean(np.array(last) < np.array(first))
    print(
        f"error on formulas that no gate sees: first model {said(first, '.4f')}, last {said(last, '.4f')}; "
        f"last minus first {said(np.subtract(last, first), '+.4f')}, below zero in {100 * fell:.0f} % of the replays"
    )


def print_rounds(results: Results, n: int) -> None:
    pairs = [(results[r], results[replace(r, in_rounds=False)]) for r in in_rounds(n)]
    print(f"\n## Without a barrier, against synchronous rounds: 8 workers, the same budget, {n} replays\n")
    gain = said((rounds.outcome.wall_h / free.outcome.wall_h for rounds, free in pairs), ".2f")
    print(f"wall-clock time in rounds / without a barrier: {gain}")
    for name, column in (("in rounds", 0), ("without", 1)):
        outcomes = [pair[column].outcome for pair in pairs]
        print(
            f"{name}: error removed {said(o.error_removed for o in outcomes)}, {said(o.cost_cpu_h for o in outcomes)} "
            f"CPU-h, {said((60 * o.wall_h for o in outcomes), '.1f')} virtual minutes"
        )


def print_whole(results: Results, policies: Sequence[str], n: int) -> None:
    print(f"\n## Without copies: all materials once, SC < 0.75, 20 labels known at the start, {n} replays\n")
    _print_table({p: [results[r] for r in on_all(p, n)] for p in policies})


def print_ipa(results: Results, n: int) -> None:
    print(f"\n## IPA spectra at hand: SC < 0.75, 20 labels known at the start, {n} replays\n")
    without = [results[r] for r in rehearsals(DEFAULT, *SETTINGS[0], n)]
    _print_table({DEFAULT: [results[r] for r in with_ipa(n)], f"{DEFAULT} by structure alone": without})


if __name__ == "__main__":
    main()
