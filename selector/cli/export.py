"""`selector export`: a campaign's results, or labels, as files for other programs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import typer

from selector.cli.common import DEFAULT_CONFIG, AsJson, ConfigFile, Device, console, errors, print_json, progress
from selector.cli.labels import LabelFolder, read_labels
from selector.config import load_config
from selector.errors import UsageError
from selector.files import make_writable

if TYPE_CHECKING:
    from models.spectrum_model import SpectrumModel
    from selector.results import EndSpectrum
    from selector.store import Store

BATCH = 64


class Format(StrEnum):
    """What `selector export` writes."""

    JSON = "json"
    PARQUET = "parquet"
    HDF5 = "hdf5"
    HT_RPA = "ht-rpa"


def export(
    out: Annotated[Path, typer.Argument(metavar="DIR", help="Folder for the files.")],
    form: Annotated[
        Format,
        typer.Option(
            "--format", help="Of a campaign: json, parquet, hdf5. Of labels: ht-rpa, as the paper's database."
        ),
    ] = Format.JSON,
    config_file: ConfigFile = DEFAULT_CONFIG,
    predicted: Annotated[
        bool, typer.Option("--predicted", help="Also predict the RPA spectra of materials without a computed one.")
    ] = False,
    spectrum_model: Annotated[
        Path | None, typer.Option(help="Spectrum model of level rpa for --predicted (default: the one that ships).")
    ] = None,
    optics: Annotated[
        bool,
        typer.Option(
            "--optics",
            help="Also refractive index, extinction, absorption, reflectivity, loss; not of predicted spectra, "
            "which are Im(eps) alone.",
        ),
    ] = False,
    labels: LabelFolder = None,
    device: Device = "auto",
    as_json: AsJson = False,
) -> None:
    """Write what each material ends with, for other programs. A table and the spectra; or labels, with ht-rpa."""
    if labels is not None and form is not Format.HT_RPA:
        raise UsageError("--labels goes with --format ht-rpa; the other formats are of a campaign")
    if form is Format.HT_RPA:
        if predicted or optics or spectrum_model is not None:
            raise UsageError("--predicted, --spectrum-model, --optics are for a campaign: choose json, parquet or hdf5")
        _export_labels(out, labels, as_json)
        return
    if spectrum_model is not None and not predicted:
        raise UsageError("--spectrum-model goes with --predicted")
    _export_campaign(out, form, config_file, predicted, spectrum_model, optics, device, as_json)


def _export_labels(out: Path, labels: Path | None, as_json: bool) -> None:
    from models import ht_rpa

    known = read_labels(labels)
    make_writable(out)
    ht_rpa.write_database(known, out)
    if as_json:
        print_json({"labels": len(known), "folder": out})
        return
    console.print(f"{len(known)} labels in {out}.", soft_wrap=True)


def _export_campaign(
    out: Path,
    form: Format,
    config_file: Path,
    predicted: bool,
    spectrum_model: Path | None,
    optics: bool,
    device: str,
    as_json: bool,
) -> None:
    from fw_tasks.launch import open_campaign
    from selector import results
    from selector.result_files import writer

    campaign = open_campaign(load_config(config_file))
    model = _rpa_model(spectrum_model) if predicted else None
    rows, n_spectra, n_without = results.endings(campaign.store), 0, 0
    with writer(form, out, campaign.config.campaign, optics) as files, progress("writing spectra") as bar:
        task = bar.add_task("", total=None)
        for spectrum in results.recorded(campaign.store):
            files.spectrum(spectrum)
            n_spectra += 1
            bar.update(task, completed=n_spectra)
        for spectrum in _predict(campaign.store, rows, model, device) if model else ():
            files.spectrum(spectrum)
            n_spectra += 1
            n_without += spectrum.eps_re is None
            bar.update(task, completed=n_spectra)
        # The table comes last: it says which spectra there are.
        files.table(rows)
    if optics and n_without:
        errors.print(
            f"selector: warning: {n_without} predicted spectra have no optical properties: a model predicts Im(eps) "
            "alone, and Re(eps) does not follow from 0-20 eV"
        )
    if as_json:
        print_json({"materials": len(rows), "spectra": n_spectra, "files": list(files.paths.values())})
        return
    written = ", ".join(str(path) for path in files.paths.values())
    console.print(f"{len(rows)} materials and {n_spectra} spectra in {written}.", soft_wrap=True)


def _rpa_model(path: Path | None) -> SpectrumModel:
    from selector.cli.spectra import load_models

    models = [m for m in load_models([path] if path else []) if m.level == "rpa"]
    if not models:
        raise UsageError(f"{path}: a spectrum model of level ipa; give one of level rpa")
    return models[0]


def _predict(store: Store, rows: Sequence[dict[str, Any]], model: SpectrumModel, device: str) -> Iterator[EndSpectrum]:
    """Im(eps) at RPA of every material without a computed one; its row learns of it.

    A crystal with an element that the network has no input for is left out, and one that is unlike the model's gets no
    expected SC; the first of either is named on standard error.
    """
    from models.spectrum_model import foreign_elements
    from selector import results
    from selector.candidates import Candidate
    from selector.spectra import ENERGY_EV

    by_id = {row["material_id"]: row for row in rows if row["status"] != "rejected" and row["rpa"] == results.ABSENT}
    metrics = model.card.get("metrics", {})
    foreign, unlike = [], []
    for ids in _batches(sorted(by_id)):
        candidates = [Candidate.from_dict(c) for c in store.whole(ids)]
        usable = [c for c in candidates if not foreign_elements(c.structure)]
        foreign += sorted({c.material_id for c in candidates} - {c.material_id for c in usable})
        structures = [c.structure for c in usable]
        if not structures:
            continue
        odd_ones = model.out_of_domain(structures)
        for c, im, odd in zip(usable, model.predict(structures, device), odd_ones, strict=True):
            row = by_id[c.material_id]
            row |= {"rpa": results.PREDICTED, "spectrum_model_id": model.model_id}
            if odd:
                unlike.append(c.material_id)
            else:
                row |= {"sc_expected": metrics.get("sc_median"), "sc_expected_low": metrics.get("sc_low")}
            yield results.EndSpectrum(
                material_id=c.material_id,
                level="rpa",
                origin=results.PREDICTED,
                energy_ev=ENERGY_EV.astype(np.float32),
                eps_im=im[None].astype(np.float32),
                eps_re=None,
                components=results.TRACE,
                source=model.model_id,
            )
    for names, what in (
        (foreign, "no spectrum is predicted: the network has no input for an element"),
        (unlike, "no expected SC: unlike what the spectrum model has learned from; don't trust the spectrum"),
    ):
        if names:
            errors.print(f"selector: warning: {len(names)} materials ({', '.join(names[:3])} ...): {what}")


def _batches(ids: Sequence[str]) -> Iterator[Sequence[str]]:
    for i in range(0, len(ids), BATCH):
        yield ids[i : i + BATCH]


COMMANDS = (export,)
