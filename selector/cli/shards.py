"""`selector predict --shards`: millions of structures, a shard at a time, by local processes or by rockets."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer
from rich.table import Table

from selector.cli.common import console, errors, print_json, progress
from selector.config import load_config
from selector.errors import UsageError

if TYPE_CHECKING:
    from selector.shards.output import Output, Plan, Summary, Totals

NAMED = 10
"""Broken structures that are named on standard error; the output holds the others."""
TOP_COLUMNS = ("index", "material_id", "formula", "sc_mean", "sc_lo", "sc_hi", "p_low", "value", "out_of_domain")


@dataclass(frozen=True)
class Wanted:
    """What was typed beside the source and the model."""

    out: Path | None
    into: str | None
    config_file: Path | None
    jobs: int | None
    size: int | None
    id_key: str | None
    top: int
    device: str
    as_json: bool

    def refuse_without_shards(self) -> None:
        """`UsageError` if something was typed that only --shards makes sense of."""
        if any(x is not None for x in (self.into, self.config_file, self.jobs, self.size, self.id_key)) or self.top:
            raise UsageError("--into, --config, --jobs, --shard-size, --id-key and --top go with --shards")


def predict_in_shards(paths: Sequence[Path], checkpoint: Path | None, threshold: float, wanted: Wanted) -> None:
    """Begin the run, or go on with it; print how far it is, and what stands out."""
    from fw_tasks import shard_work

    if (wanted.out is None) == (wanted.into is None):
        raise UsageError("--shards wants --out DIR for Parquet files, or --into NAME for a collection")
    if not 0.0 < threshold <= 1.0:
        raise UsageError(f"--threshold {threshold}: give an SC above 0, up to 1")
    out = wanted.out.resolve() if wanted.out else None
    inside = [path for path in paths if out is not None and path.is_dir() and out.is_relative_to(path.resolve())]
    if inside:
        raise UsageError(f"--out lies in {inside[0]}, which is read; choose a folder outside it")
    launchpad, database = None, shard_work.no_database
    if wanted.config_file is not None:
        from fw_tasks.database import launchpad_for

        launchpad = pad = launchpad_for(load_config(wanted.config_file))

        def database() -> Any:
            return pad.db

    described = {"collection": wanted.into} if wanted.into else {"folder": str(out)}
    output = shard_work.open_output(described, database)
    source = shard_work.find_source(paths, wanted.id_key, database)
    plan = shard_work.begin(output, source, checkpoint, threshold, wanted.size)
    before, started = output.totals(), time.monotonic()
    jobs = wanted.jobs if wanted.jobs is not None else (1 if launchpad is None else 0)
    try:
        peak_mb = _work(output, plan, launchpad, jobs, before, wanted)
    except KeyboardInterrupt:
        errors.print("selector: stopped; what is whole is kept, the same command goes on from there")
        raise typer.Exit(130) from None
    _report(output, plan, before, time.monotonic() - started, jobs, peak_mb, wanted)


def _work(output: Output, plan: Plan, launchpad: Any, jobs: int, before: Totals, wanted: Wanted) -> float | None:
    """Predict what is missing; the largest peak memory of a process where it is known."""
    from fw_tasks import shard_work

    peak_mb = None
    with progress("predicting") as bar:
        task = bar.add_task("", total=plan.n, completed=before.n)
        if launchpad is None and wanted.out is not None:
            for done in shard_work.predict_all(wanted.out, max(jobs, 1), wanted.device):
                bar.advance(task, done.n)
                peak_mb = max(peak_mb or 0.0, done.peak_mb)
        else:
            for there in _rockets(output, plan, launchpad, jobs, wanted):
                bar.update(task, completed=sum(plan.shards[k]["n"] for k in there))
    return peak_mb


def _rockets(output: Output, plan: Plan, launchpad: Any, jobs: int, wanted: Wanted) -> Iterator[set[int]]:
    from fw_tasks import shards

    assert wanted.config_file is not None
    config = load_config(wanted.config_file)
    shards.submit(launchpad, config.campaign, output, plan, wanted.device)
    if jobs:
        yield from shards.launch_all(wanted.config_file, config, launchpad, output, plan, jobs)


def _report(
    output: Output, plan: Plan, before: Totals, wall_s: float, jobs: int, peak_mb: float | None, wanted: Wanted
) -> None:
    now, summary = output.totals(), output.summary(NAMED)
    top = output.top(wanted.top) if wanted.top else []
    n_now = now.n - before.n
    figures = {
        "output": str(output),
        "model_id": plan.model_id,
        "structures": plan.n,
        "shards": len(plan.shards),
        "shards_done": now.shards,
        "predicted": now.n - now.broken,
        "broken": now.broken,
        "reasons": dict(summary.reasons),
        "predicted_this_time": n_now,
        "wall_s": wall_s,
        "structures_per_s": n_now / wall_s,
        "peak_mb_a_process": peak_mb,
    }
    if wanted.as_json:
        print_json(figures | ({"top": top} if wanted.top else {}))
        return
    _name_broken(summary, now, output)
    console.print(
        f"{now.n - now.broken:,} of {plan.n:,} structures predicted by {plan.model_id}, {now.broken:,} broken; "
        f"{now.shards} of {len(plan.shards)} shards in {output}",
        soft_wrap=True,
    )
    if n_now and jobs:
        memory = f", at most {peak_mb:.0f} MB a process" if peak_mb else ""
        console.print(
            f"This time {n_now:,} in {wall_s:.0f} s: {n_now / wall_s:,.0f} a second with {jobs} "
            f"process{'es' if jobs > 1 else ''}{memory}",
            soft_wrap=True,
        )
    if now.shards < len(plan.shards):
        console.print(
            f"{len(plan.shards) - now.shards} shards wait as fireworks of category 'predict': launch them with "
            f"--jobs N here, or with workers of this campaign anywhere; the same command tells how far it is",
            soft_wrap=True,
        )
    if top:
        table = Table(*TOP_COLUMNS)
        for row in top:
            table.add_row(*(f"{v:.3f}" if isinstance(v := row.get(c), float) else str(v) for c in TOP_COLUMNS))
        console.print(table)


def _name_broken(summary: Summary, now: Totals, output: Output) -> None:
    for message in summary.named:
        errors.print(f"selector: warning: {message}")
    if now.broken > len(summary.named):
        kinds = ", ".join(f"{reason} {n:,}" for reason, n in summary.reasons.most_common())
        errors.print(f"selector: warning: {now.broken:,} broken in all ({kinds}); each has its reason in {output}")
