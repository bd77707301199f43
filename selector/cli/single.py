"""Commands that need no campaign: compute, doctor."""

from __future__ import annotations

import json
import shutil
import tempfile
from pathlib import Path
from typing import Annotated, Any

import typer
import yaml
from rich.table import Table

from selector.cli import diagnosis
from selector.cli.common import AsJson, console, errors, print_json
from selector.config import load_config
from selector.errors import SelectorError, UsageError
from selector.files import make_writable, write_text_atomically


def compute(
    path: Annotated[Path, typer.Argument(metavar="PATH", help="A CIF, POSCAR or JSON file.")],
    out: Annotated[Path, typer.Option(help="JSON file for SC, gap, costs, settings, both spectra and their optics.")],
    engine: Annotated[str, typer.Option(help="The engine: gpaw, qe_yambo, or replay for known labels.")] = "gpaw",
    preset: Annotated[str | None, typer.Option(help="Its settings: smoke, standard or tight.")] = None,
    option: Annotated[
        list[str] | None, typer.Option(metavar="KEY=VALUE", help="An option of the engine, as in a campaign's file.")
    ] = None,
    time_limit_s: Annotated[
        float | None, typer.Option(min=1.0, help="Stop the calculation after these wall seconds.")
    ] = None,
) -> None:
    """Compute IPA and RPA spectra of one crystal."""
    from fw_tasks.engines import get_engine
    from fw_tasks.engines.as_json import calculation_to_json
    from fw_tasks.engines.base import EngineError
    from selector.candidates import read_candidate

    program = get_engine(engine, preset, **_options(option or []))
    candidate = read_candidate(path)
    if out.is_dir():
        raise UsageError(f"--out {out}: a folder; name the file to write")
    make_writable(out.resolve().parent)
    try:
        program.check(candidate.structure)
        workdir = _work_folder()
        with errors.status(f"computing {candidate.formula}"):
            calculation = program.compute(
                candidate.material_id, candidate.structure, ["ipa", "rpa"], workdir, time_limit_s
            )
    except EngineError as e:
        raise SelectorError(f"{path}: {e.reason}: {e}; {e.remedy}") from None
    document = calculation_to_json(candidate.material_id, candidate.formula, calculation)
    try:
        write_text_atomically(out, json.dumps(document))
    except UsageError as e:
        raise UsageError(f"{e}; what was computed is kept in {workdir}") from None
    shutil.rmtree(workdir)
    console.print(
        f"{candidate.formula} ({candidate.material_id}): SC[RPA; IPA] = {document['sc']:.4f}, "
        f"gap {calculation.gap_ev:.2f} eV, {calculation.cpu_s:.1f} CPU-s; written to {out}",
        soft_wrap=True,
    )


def _work_folder() -> Path:
    try:
        return Path(tempfile.mkdtemp(prefix="selector-"))
    except OSError as e:
        raise SelectorError(f"no temporary folder can be written ({e.strerror}); set TMPDIR to one that can") from None


def _options(said: list[str]) -> dict[str, Any]:
    """KEY=VALUE, the value as YAML reads it."""
    options = {}
    for one in said:
        key, equals, value = one.partition("=")
        try:
            options[key] = yaml.safe_load(value)
        except yaml.YAMLError:
            equals = ""
        if not (key and equals):
            raise UsageError(f"--option {one}: give KEY=VALUE, such as pseudo_dir=/data/sg15")
    return options


def doctor(
    config_file: Annotated[
        Path | None,
        typer.Option("--config", "-c", help="Also check this campaign's database.", envvar="SELECTOR_CONFIG"),
    ] = None,
    campaign_file: Annotated[
        Path | None, typer.Option("--campaign", help="Also look for lost work of the campaign of this YAML file.")
    ] = None,
    repair: Annotated[
        bool, typer.Option("--repair", help="With --campaign: put it right now, as a step would; dispatch nothing.")
    ] = False,
    lost_after_h: Annotated[
        float | None,
        typer.Option(min=0.0, help="With --campaign: hours without a heartbeat that count (default: the campaign's)."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Say what is installed and what is missing. Also which database answers, and how to get what is missing."""
    if campaign_file is None and (repair or lost_after_h is not None):
        raise UsageError("--repair and --lost-after-h need --campaign FILE")
    asked = campaign_file or config_file
    findings = diagnosis.examine(load_config(asked) if asked else None)
    if campaign_file is not None:
        findings += diagnosis.lost_work(load_config(campaign_file), lost_after_h, repair)
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


COMMANDS = (compute, doctor)
