"""`selector map`, and the map in the report: where crystals, models and the page meet."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import typer

from selector.cli.common import DEFAULT_CONFIG, AsJson, ConfigFile, console, errors, print_json, progress
from selector.config import load_config
from selector.errors import SelectorError
from selector.files import make_writable

if TYPE_CHECKING:
    from pymatgen.core import Structure

    from selector.campaign import Campaign
    from selector.protocols import Predictor
    from selector.report import CampaignRecord, MaterialMap

SAMPLE_SEED = 0


def map(
    paths: Annotated[
        list[Path] | None,
        typer.Argument(metavar="[PATH...]", help="CIF, POSCAR or JSON files, or folders of them; else the campaign's."),
    ] = None,
    config_file: ConfigFile = DEFAULT_CONFIG,
    out: Annotated[
        Path | None, typer.Option(help="HTML file to write (default: map.html here, or in the campaign's report/).")
    ] = None,
    checkpoint: Annotated[
        Path | None, typer.Option(help="Weights to use for PATH... (default: those that ship).")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Draw a map of crystals, alike ones close together. One page, coloured by SC; a campaign's own without PATH."""
    from selector.report import write_map

    if paths:
        out = out or Path("map.html")
        make_writable(out.resolve().parent)
        drawn, failed, record = *_of_files(paths, checkpoint), None
        name = paths[0].resolve().name if len(paths) == 1 else f"{len(drawn.points)} crystals"
    else:
        from fw_tasks.launch import open_campaign
        from selector.chronicle import compile_record

        campaign = open_campaign(load_config(config_file))
        record, failed, name = compile_record(campaign.store), 0, campaign.config.campaign
        out = out or campaign.config.folder / "report" / "map.html"
        drawn = of_campaign(campaign, record)
    write_map(drawn, out, name, record)
    if as_json:
        print_json({"file": out, "model_id": drawn.model_id, "note": drawn.note, "points": drawn.points})
    else:
        console.print(f"Map of {len(drawn.points)} crystals by {drawn.model_id}: {out}", soft_wrap=True)
        if drawn.note:
            console.print(drawn.note, soft_wrap=True)
    if failed:
        raise typer.Exit(1)


def of_campaign(campaign: Campaign, record: CampaignRecord) -> MaterialMap:
    """All candidates by the standing model's latent vectors, each with the prediction that its decision rests on.

    Raises
    ------
    SelectorError
        As :func:`models.map.lay_out`.
    """
    from selector.candidates import Candidate

    predictor = campaign.shelf.load(campaign.store.model()["file"])
    documents = [c for c in campaign.store.candidates() if c["status"] != "rejected"]
    structures = {c["material_id"]: Candidate.from_dict(c).structure for c in documents}
    rows = [d for d in record.decisions if d["status"] != "rejected"]
    return _draw(rows, structures, predictor, set(record.spectra))


def with_map(campaign: Campaign, record: CampaignRecord) -> CampaignRecord:
    """The record with its map; without one, and a line that says why, where none can be drawn."""
    from selector.report import MaterialMap

    try:
        return replace(record, map=of_campaign(campaign, record))
    except SelectorError as e:
        errors.print(f"selector: warning: the report has no map: {e}")
        return replace(record, map=MaterialMap([], campaign.store.model()["model_id"], note=str(e)))


def _of_files(paths: list[Path], checkpoint: Path | None) -> tuple[MaterialMap, int]:
    """The crystals in these files, and how many files could not be used."""
    from models import checkpoints
    from selector import calibration
    from selector.candidates import find_structure_files, read_candidates

    predictor = checkpoints.load(checkpoint or checkpoints.default_checkpoint())
    with progress("reading crystals") as bar:
        task = bar.add_task("", total=len(find_structure_files(paths)))
        candidates, rejected = read_candidates(paths, on_file=lambda _: bar.advance(task))
    for r in rejected:
        errors.print(f"selector: error: {r.message}")
    structures = {c.material_id: c.structure for c in candidates}
    p = predictor.predict(list(structures.values()))
    lo, hi = calibration.interval(p.mean, p.spread, predictor.scores)
    rows = [
        {
            "material_id": c.material_id,
            "formula": c.formula,
            "sc_pred": float(p.mean[i]),
            "sc_lo": float(lo[i]),
            "sc_hi": float(hi[i]),
            "sc_computed": None,
            "out_of_domain": bool(p.out_of_domain[i]),
        }
        for i, c in enumerate(candidates)
    ]
    return _draw(rows, structures, predictor, set()), len(rejected)


def _draw(
    rows: list[dict[str, Any]], structures: Mapping[str, Structure], predictor: Predictor, computed: set[str]
) -> MaterialMap:
    """Lay materials out; where there are too many, all with a computed SC and a random draw of the others."""
    from models.map import MAX_CRYSTALS, lay_out
    from selector.report import MaterialMap

    lot = np.random.default_rng(SAMPLE_SEED).permutation(len(rows))
    order = sorted(range(len(rows)), key=lambda i: (rows[i]["sc_computed"] is None, lot[i]))
    kept = [rows[i] for i in sorted(order[:MAX_CRYSTALS])]
    note = f"{len(kept)} of {len(rows)} materials are drawn: what is computed and a random draw of the rest"
    with errors.status("laying out the map"):
        place = lay_out(predictor.predict([structures[r["material_id"]] for r in kept]).latent)
        keys = ("material_id", "formula", "sc_pred", "sc_lo", "sc_hi", "sc_computed", "out_of_domain")
        points = [
            {k: r[k] for k in keys} | {"x": float(x), "y": float(y)} for r, (x, y) in zip(kept, place, strict=True)
        ]
        unknown = {r["material_id"]: structures[r["material_id"]] for r in kept if r["material_id"] not in computed}
        spectra = _predicted_spectra(unknown)
    return MaterialMap(points, predictor.model_id, spectra, note if len(kept) < len(rows) else None)


def _predicted_spectra(structures: Mapping[str, Structure]) -> dict[str, dict[str, Any]]:
    """Both spectra by the shipped spectrum models, of those crystals that they have learned to tell."""
    from selector.cli.spectra import load_models
    from selector.spectra import ENERGY_EV

    try:
        models = {m.level: m for m in load_models([])}
    except SelectorError as e:
        errors.print(f"selector: warning: the map shows no predicted spectra: {e}")
        return {}
    outside = np.any([m.out_of_domain(list(structures.values())) for m in models.values()], axis=0)
    inside = {k: s for (k, s), out in zip(structures.items(), outside, strict=True) if not out}
    if not inside:
        return {}
    im = {level: m.predict(list(inside.values())) for level, m in models.items()}
    return {
        k: {"energy_ev": ENERGY_EV, "ipa_im": ipa, "rpa_im": rpa}
        for k, ipa, rpa in zip(inside, im["ipa"], im["rpa"], strict=True)
    }


COMMANDS = (map,)
