"""The command that predicts: SC from structures, or from structures and IPA spectra; and spectra if asked."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from selector.candidates import Candidate, StructureError, find_structure_files, read_candidate
from selector.cli.common import AsJson, Device, console, errors, print_json, progress
from selector.cli.ipa_spectra import KnownSpectrum, read_ipa_spectra
from selector.cli.shards import Wanted, predict_in_shards
from selector.cli.spectra import columns, load_models, write_spectra
from selector.errors import UsageError
from selector.files import make_writable, write_text_atomically

COLUMNS = ("material_id", "formula", "sc_mean", "sc_std", "sc_lo", "sc_hi", "p_low", "out_of_domain")


def predict(
    paths: Annotated[
        list[Path],
        typer.Argument(
            metavar="PATH...",
            help="CIF, POSCAR or JSON files, or folders of them; with --shards Parquet or extxyz, or collection:NAME.",
        ),
    ],
    out: Annotated[
        Path | None,
        typer.Option(help="CSV file to write; without it a table is printed. With --shards a folder of Parquet files."),
    ] = None,
    checkpoint: Annotated[Path | None, typer.Option(help="Weights to use (default: those that ship).")] = None,
    threshold: Annotated[float, typer.Option(help="SC below which RPA is wanted: p_low is its probability.")] = 0.75,
    ipa: Annotated[
        Path | None,
        typer.Option(help="Folder of IPA spectra (files of `selector compute`), read beside the structures."),
    ] = None,
    spectra: Annotated[
        Path | None, typer.Option(help="Also predict IPA and RPA spectra, into this folder: MATERIAL.csv each.")
    ] = None,
    spectrum_model: Annotated[
        list[Path] | None, typer.Option(help="Spectrum models to use, one a level (default: those that ship).")
    ] = None,
    shards: Annotated[
        bool,
        typer.Option("--shards", help="Millions of structures: a shard at a time; stopped, it resumes where it was."),
    ] = False,
    into: Annotated[
        str | None, typer.Option(metavar="NAME", help="With --shards: a collection for the predictions, not a folder.")
    ] = None,
    config_file: Annotated[
        Path | None,
        typer.Option(
            "--config", "-c", help="With --shards: the shards become fireworks in the database of this campaign file."
        ),
    ] = None,
    jobs: Annotated[
        int | None,
        typer.Option(min=0, help="With --shards: local processes (default: 1; with --config 0, other workers do it)."),
    ] = None,
    shard_size: Annotated[
        int | None, typer.Option(min=1, help="With --shards: structures a shard (default: 10000).")
    ] = None,
    id_key: Annotated[
        str | None, typer.Option(help="With --shards: column or key of the names (default: material_id, mat_id, ...).")
    ] = None,
    top: Annotated[
        int, typer.Option(min=0, metavar="K", help="With --shards: print the K of largest expected local-field effect.")
    ] = 0,
    device: Device = "auto",
    as_json: AsJson = False,
) -> None:
    """Predict SC[RPA; IPA] of crystals. With 90 % intervals; files that cannot be read are named and left out."""
    wanted = Wanted(out, into, config_file, jobs, shard_size, id_key, top, device, as_json)
    if shards:
        _in_shards(paths, checkpoint, threshold, wanted, ipa or spectra or spectrum_model)
        return
    wanted.refuse_without_shards()
    _check_options(out, spectra, spectrum_model)
    predictor = _load_predictor(checkpoint, ipa)
    models = load_models(spectrum_model or []) if spectra is not None else []
    known = None if ipa is None else read_ipa_spectra(ipa)
    candidates, n_failed = _read(paths)
    if known is not None and ipa is not None:
        n_read = len(candidates)
        candidates = _with_spectra(candidates, known, ipa)
        n_failed += n_read - len(candidates)
    rows = _predict_sc(predictor, candidates, known, threshold, device)
    if spectra is not None and candidates:
        for row, more in zip(rows, write_spectra(candidates, models, spectra, device), strict=True):
            row.update(more)
    header = [*COLUMNS, *columns(models)]
    if out is not None:
        _write_csv(out, header, rows)
    if as_json:
        print_json({"model_id": predictor.model_id, "predictions": rows})
    elif out is None:
        table = Table(*header)
        for row in rows:
            table.add_row(*(f"{v:.3f}" if isinstance(v, float) else "" if v is None else str(v) for v in row.values()))
        console.print(table)
    else:
        console.print(f"{len(rows)} predictions by {predictor.model_id} in {out}", soft_wrap=True)
    if spectra is not None and not as_json:
        console.print(f"Spectra by {' and '.join(m.model_id for m in models)} in {spectra}", soft_wrap=True)
    if n_failed:
        raise typer.Exit(1)


def _in_shards(paths: Sequence[Path], checkpoint: Path | None, threshold: float, wanted: Wanted, spectra: Any) -> None:
    if spectra:
        raise UsageError("--shards predicts SC from structures alone: leave out --ipa, --spectra, --spectrum-model")
    predict_in_shards(paths, checkpoint, threshold, wanted)


def _check_options(out: Path | None, spectra: Path | None, spectrum_model: Sequence[Path] | None) -> None:
    if spectrum_model and spectra is None:
        raise UsageError("--spectrum-model goes with --spectra DIR, the folder for what it predicts")
    if out is not None:
        make_writable(out.resolve().parent)


def _read(paths: Sequence[Path]) -> tuple[list[Candidate], int]:
    """Candidates, and how many files made none."""
    candidates, n_failed = [], 0
    files = find_structure_files(paths)
    with progress("reading crystals") as bar:
        for path in bar.track(files):
            try:
                candidates.append(read_candidate(path))
            except StructureError as e:
                n_failed += 1
                errors.print(f"selector: error: {e}")
    return candidates, n_failed


def _load_predictor(checkpoint: Path | None, ipa: Path | None) -> Any:
    """The weights named, or those that ship: they read spectra if there are some, and not otherwise."""
    from models import checkpoints

    reader = checkpoints.SPECTRUM_PREDICTOR_KIND
    if checkpoint is None:
        name = checkpoints.DEFAULT_NAME if ipa is None else checkpoints.SPECTRUM_PREDICTOR_NAME
        return checkpoints.load(checkpoints.shipped(name), (*checkpoints.SC_KINDS, reader))
    predictor = checkpoints.load(checkpoint, (*checkpoints.SC_KINDS, reader))
    if predictor.card["kind"] == reader and ipa is None:
        raise UsageError(f"{checkpoint}: reads IPA spectra beside structures: name their folder with --ipa")
    if predictor.card["kind"] != reader and ipa is not None:
        raise UsageError(f"{checkpoint}: reads no IPA spectra: leave out --ipa, or choose another checkpoint")
    return predictor


def _with_spectra(candidates: Sequence[Candidate], known: Mapping[str, KnownSpectrum], folder: Path) -> list[Candidate]:
    """Those whose spectrum is known; the others are named on standard error."""
    for c in candidates:
        if c.material_id not in known:
            errors.print(
                f"selector: error: {c.source}: no IPA spectrum of {c.material_id} in {folder}: compute it with "
                "`selector compute`"
            )
    return [c for c in candidates if c.material_id in known]


def _predict_sc(
    predictor: Any,
    candidates: Sequence[Candidate],
    known: Mapping[str, KnownSpectrum] | None,
    threshold: float,
    device: str,
) -> list[dict[str, Any]]:
    from selector import calibration

    if not candidates:
        return []
    more: dict[str, Any] = {"device": device} if predictor.card["kind"] == "sc_network" else {}
    if known is not None:
        used = [known[c.material_id] for c in candidates]
        more["spectra"] = [k.spectrum for k in used]
        _compare_settings(used, predictor)
    p = predictor.predict([c.structure for c in candidates], **more)
    lo, hi = calibration.interval(p.mean, p.spread, predictor.scores)
    low = calibration.p_low(p.mean, p.spread, predictor.scores, threshold)
    rows = []
    for i, c in enumerate(candidates):
        numbers = (float(a[i]) for a in (p.mean, p.spread, lo, hi, low))
        outside = bool(p.out_of_domain[i])
        rows.append(dict(zip(COLUMNS, (c.material_id, c.formula, *numbers, outside), strict=True)))
        if outside:
            errors.print(f"selector: warning: {c.material_id}: unlike every crystal the model has learned from")
    return rows


def _compare_settings(used: Sequence[KnownSpectrum], predictor: Any) -> None:
    """Say how many spectra come from other settings than those the model learned from."""
    other = [k for k in used if k.settings_hash != predictor.settings_hash]
    if other:
        errors.print(
            f"selector: warning: {len(other)} of {len(used)} IPA spectra are of other settings than the model's "
            f"({predictor.settings_hash}), {other[0].file.name} for one: its intervals do not hold for them"
        )


def _write_csv(path: Path, header: Sequence[str], rows: Sequence[dict[str, Any]]) -> None:
    text = io.StringIO()
    writer = csv.DictWriter(text, header, lineterminator="\n")
    writer.writeheader()
    writer.writerows({k: f"{v:.6f}" if isinstance(v, float) else v for k, v in row.items()} for row in rows)
    write_text_atomically(path, text.getvalue())


COMMANDS = (predict,)
