"""The command that tries policies on known labels."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from selector.cli.common import console, print_json, progress
from selector.cli.labels import LabelFolder, read_labels
from selector.errors import UsageError
from selector.files import make_writable, write_text_atomically

if TYPE_CHECKING:
    from fw_tasks.rehearsal import Rehearsal, Rehearsed


class Ipa(StrEnum):
    """Whether IPA spectra are at hand."""

    skip = "skip"
    have = "have"


DEFAULT_POLICY = "value_per_cost"
ORACLE = "oracle"


def replay(
    labels: LabelFolder = None,
    manifest: Annotated[Path | None, typer.Option(help="JSON list of the material ids to use (default: all).")] = None,
    policy: Annotated[
        list[str] | None,
        typer.Option(help="Policy to try; several times for several. random, cheapest and an oracle stand beside."),
    ] = None,
    budget_fraction: Annotated[
        float, typer.Option(help="Budget, as a share of what all candidates cost together.")
    ] = 0.3,
    threshold: Annotated[float, typer.Option(help="SC[RPA; IPA] below which RPA is wanted.")] = 0.75,
    seeds: Annotated[int, typer.Option(min=1, help="So many replays of each policy.")] = 5,
    warm_start: Annotated[
        int, typer.Option(min=0, help="So many random materials are known at the start, and count nowhere.")
    ] = 0,
    resample: Annotated[
        bool, typer.Option("--resample", help="Draw the formulas anew for each seed, with replacement (bootstrap).")
    ] = False,
    workers: Annotated[int, typer.Option(min=1, help="Virtual workers.")] = 8,
    pretrained: Annotated[
        str, typer.Option(metavar="none|PATH", help="Weights to start from; they must know none of the formulas.")
    ] = "none",
    ipa: Annotated[
        Ipa, typer.Option(help="have: the IPA spectra of all are at hand, and choices are made with them; or skip.")
    ] = Ipa.skip,
    jobs: Annotated[
        int | None, typer.Option(min=1, help="Replays at a time (default: the cores of this machine).")
    ] = None,
    plot: Annotated[Path | None, typer.Option(help="Error removed against budget spent: .png, .svg or .pdf.")] = None,
    as_json: Annotated[
        str | None, typer.Option("--json", metavar="FILE|-", help="Write one JSON object there; - prints it.")
    ] = None,
) -> None:
    """Try policies on known labels, in virtual time. Nothing is computed; no label is seen before it is back."""
    _check(budget_fraction, threshold, plot, as_json)
    if ipa is Ipa.have and pretrained != "none":
        raise UsageError("--ipa have begins with no weights; leave out --pretrained, or --ipa have")
    tried = list(dict.fromkeys([*(policy or [DEFAULT_POLICY]), "cheapest", "random"]))
    _check_policies(tried)
    from fw_tasks.rehearsal import Rehearsal, rehearse_all

    weights = None if pretrained == "none" else Path(pretrained)
    setting = Rehearsal(
        "", 0, budget_fraction, threshold, warm_start, workers, resampled=resample, pretrained=weights, ipa=ipa.value
    )
    wanted = [replace(setting, policy=name, seed=seed) for name in tried for seed in range(seeds)]
    known, done = read_labels(labels, manifest), {}
    with progress("replaying") as bar:
        task = bar.add_task("", total=len(wanted))
        for rehearsal, rehearsed in rehearse_all(known, wanted, min(jobs or os.cpu_count() or 1, len(wanted))):
            done[rehearsal] = rehearsed
            bar.advance(task)
    by_policy = {name: [done[r] for r in wanted if r.policy == name] for name in tried}
    result = _result(setting, len(known), seeds, by_policy)
    if plot is not None:
        _draw(plot, by_policy, result)
    if as_json == "-":
        print_json(result)
        return
    if as_json is not None:
        _write_json(Path(as_json), result)
    console.print(_table(result))
    for path in filter(None, (as_json, plot)):
        console.print(f"Written: {path}", soft_wrap=True)


def _check(budget_fraction: float, threshold: float, plot: Path | None, as_json: str | None) -> None:
    from selector.replaying.plot import check_suffix

    for name, value in (("--budget-fraction", budget_fraction), ("--threshold", threshold)):
        if not 0.0 < value <= 1.0:
            raise UsageError(f"{name} {value:g} is not above 0 and at most 1; choose such a number")
    if plot is not None:
        check_suffix(plot)
    for path in (plot, None if as_json in (None, "-") else Path(str(as_json))):
        if path is not None:
            make_writable(path.resolve().parent)


def _check_policies(names: Sequence[str]) -> None:
    from selector.config import PolicyConfig
    from selector.policies import get_policy

    for name in names:
        get_policy(PolicyConfig(name=name))


def _result(rehearsal: Rehearsal, n_labels: int, seeds: int, by_policy: dict[str, list[Rehearsed]]) -> dict[str, Any]:
    from selector.replaying.figures import figures

    outcomes = {name: [r.outcome for r in replays] for name, replays in by_policy.items()}
    # The oracle's outcome is the same beside every policy: seeds draw the same materials for all.
    outcomes[ORACLE] = [r.oracle for r in next(iter(by_policy.values()))]
    rows = []
    for name, of_policy in outcomes.items():
        replays = by_policy.get(name, [])
        models = {"accepted": sum(r.n_accepted for r in replays), "refused": sum(r.n_refused for r in replays)}
        found = {key: vars(figure) for key, figure in figures(of_policy).items()}
        rows.append({"policy": name, **found, "models": models})
    return {
        "labels": n_labels,
        "seeds": seeds,
        "budget_fraction": rehearsal.budget_fraction,
        "threshold": rehearsal.threshold,
        "warm_start": rehearsal.warm_start,
        "workers": rehearsal.n_workers,
        "resampled": rehearsal.resampled,
        "ipa": rehearsal.ipa,
        "policies": rows,
    }


def _table(result: dict[str, Any]) -> Table:
    known = "labels, IPA spectra at hand" if result["ipa"] == "have" else "labels"
    title = (
        f"{result['labels']} {known}, {100 * result['budget_fraction']:g} % of the cost, "
        f"SC < {result['threshold']:g}, {result['warm_start']} known at the start: "
        f"mean (95 % of {result['seeds']} replays)"
    )
    table = Table("policy", "error removed", "recall", "CPU-h", title=title)
    for row in result["policies"]:
        cells = (row[key] for key in ("error_removed", "recall", "cost_cpu_h"))
        table.add_row(row["policy"], *(f"{c['mean']:.3f} ({c['lo']:.3f} to {c['hi']:.3f})" for c in cells))
    return table


def _draw(path: Path, by_policy: dict[str, list[Rehearsed]], result: dict[str, Any]) -> None:
    from fw_tasks.rehearsal import SHARES
    from selector.replaying.plot import draw

    curves = {name: [r.curve for r in replays] for name, replays in by_policy.items()}
    curves[ORACLE] = [r.oracle_curve for r in next(iter(by_policy.values()))]
    draw(SHARES, curves, path, f"SC < {result['threshold']:g}, {result['warm_start']} labels known at the start")


def _write_json(path: Path, result: dict[str, Any]) -> None:
    import json

    write_text_atomically(path, json.dumps(result, indent=1, allow_nan=False) + "\n")


COMMANDS = (replay,)
