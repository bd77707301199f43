"""The commands that need no campaign: predict, compute, doctor."""

from __future__ import annotations

import csv
import io
import json
import shutil
import tempfile
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from selector.cli import diagnosis
from selector.cli.common import AsJson, console, errors, print_json, progress
from selector.config import load_config
from selector.errors import SelectorError
from selector.files import make_writable, write_text_atomically

PREDICT_COLUMNS = ("material_id", "formula", "sc_mean", "sc_std", "sc_lo", "sc_hi")


def predict(
    paths: Annotated[
        list[Path], typer.Argument(metavar="PATH...", help="CIF, POSCAR or JSON files, or folders of them.")
    ],
    out: Annotated[Path | None, typer.Option(help="CSV file to write; without it a table is printed.")] = None,
    checkpoint: Annotated[Path | None, typer.Option(help="Weights to use (default: those that ship).")] = None,
    as_json: AsJson = False,
) -> None:
    """Predict SC[RPA; IPA] of crystals. With 90 % intervals; files that cannot be read are named and left out."""
    from models import checkpoints
    from selector import calibration
    from selector.candidates import StructureError, find_structure_files, read_candidate

    if out is not None:
        make_writable(out.resolve().parent)
    predictor = checkpoints.load(checkpoint or checkpoints.default_checkpoint())
    candidates, failed = [], 0
    files = find_structure_files(paths)
    with progress("reading crystals") as bar:
        for path in bar.track(files):
            try:
                candidates.append(read_candidate(path))
            except StructureError as e:
                failed += 1
                errors.print(f"selector: error: {e}")
    rows = []
    if candidates:
        p = predictor.predict([c.structure for c in candidates])
        lo, hi = calibration.interval(p.mean, p.spread, predictor.scores)
        for i, c in enumerate(candidates):
            numbers = (float(p.mean[i]), float(p.spread[i]), float(lo[i]), float(hi[i]))
            rows.append(dict(zip(PREDICT_COLUMNS, (c.material_id, c.formula, *numbers), strict=True)))
            if p.out_of_domain[i]:
                errors.print(f"selector: warning: {c.material_id}: unlike every crystal the model has learned from")
    if out is not None:
        text = io.StringIO()
        writer = csv.DictWriter(text, PREDICT_COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows({k: f"{v:.6f}" if isinstance(v, float) else v for k, v in row.items()} for row in rows)
        write_text_atomically(out, text.getvalue())
    if as_json:
        print_json({"model_id": predictor.model_id, "predictions": rows})
    elif out is None:
        table = Table(*PREDICT_COLUMNS)
        for row in rows:
            table.add_row(*(f"{v:.3f}" if isinstance(v, float) else str(v) for v in row.values()))
        console.print(table)
    else:
        console.print(f"{len(rows)} predictions by {predictor.model_id} in {out}", soft_wrap=True)
    if failed:
        raise typer.Exit(1)


def compute(
    path: Annotated[Path, typer.Argument(metavar="PATH", help="A CIF, POSCAR or JSON file.")],
    out: Annotated[Path, typer.Option(help="JSON file for SC, static limits, gap, costs, settings and both spectra.")],
    engine: Annotated[str, typer.Option(help="The engine: gpaw, or replay for known labels.")] = "gpaw",
    preset: Annotated[str | None, typer.Option(help="Its settings: smoke, standard or tight.")] = None,
    time_limit_s: Annotated[
        float | None, typer.Option(min=1.0, help="Stop the calculation after these wall seconds.")
    ] = None,
) -> None:
    """Compute IPA and RPA spectra of one crystal."""
    from fw_tasks.engines import get_engine
    from fw_tasks.engines.as_json import calculation_to_json
    from fw_tasks.engines.base import EngineError
    from selector.candidates import read_candidate

    program = get_engine(engine, preset)
    candidate = read_candidate(path)
    make_writable(out.resolve().parent)
    try:
        program.check(candidate.structure)
        workdir = Path(tempfile.mkdtemp(prefix="selector-"))
        with errors.status(f"computing {candidate.formula}"):
            calculation = program.compute(
                candidate.material_id, candidate.structure, ["ipa", "rpa"], workdir, time_limit_s
            )
    except EngineError as e:
        raise SelectorError(f"{path}: {e.reason}: {e}; {e.remedy}") from None
    shutil.rmtree(workdir)
    document = calculation_to_json(candidate.material_id, candidate.formula, calculation)
    write_text_atomically(out, json.dumps(document))
    console.print(
        f"{candidate.formula} ({candidate.material_id}): SC[RPA; IPA] = {document['sc']:.4f}, "
        f"gap {calculation.gap_ev:.2f} eV, {calculation.cpu_s:.1f} CPU-s; written to {out}",
        soft_wrap=True,
    )


def doctor(
    config_file: Annotated[
        Path | None,
        typer.Option("--config", "-c", help="Also check this campaign's database.", envvar="SELECTOR_CONFIG"),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Say what is installed and what is missing. Also which database answers, and how to get what is missing."""
    findings = diagnosis.examine(load_config(config_file) if config_file else None)
    if as_json:
        print_json({"ok": all(f.ok or f.optional for f in findings), "findings": [vars(f) for f in findings]})
    else:
        table = Table("", "what", "found", "what to do", box=None)
        for f in findings:
            mark = "ok" if f.ok else "--" if f.optional else "!!"
            table.add_row(mark, f.what, f.found, "" if f.ok else f.remedy)
        console.print(table)
    if not all(f.ok or f.optional for f in findings):
        raise typer.Exit(1)


COMMANDS = (predict, compute, doctor)
