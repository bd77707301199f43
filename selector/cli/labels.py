"""Labels from files: import, and what the commands that learn read."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from selector.cli.common import AsJson, console, errors, print_json, progress
from selector.errors import UsageError
from selector.files import make_writable

if TYPE_CHECKING:
    from models.ht_rpa import Imported
    from models.labels import Label

LabelFolder = Annotated[
    Path | None,
    typer.Option("--labels", help="Folder of label shards, or of the paper's published database (default: shipped)."),
]


def read_labels(folder: Path | None, manifest: Path | None = None) -> list[Label]:
    """Labels of one kind: shards, or the published database itself; the shipped ones if no folder is named."""
    from models import ht_rpa
    from models.labels import SHIPPED, load_labels, read_manifest

    ids = None if manifest is None else read_manifest(manifest)
    folder = folder or SHIPPED
    if not folder.is_dir():
        raise UsageError(f"{folder}: no such folder: name one of label shards")
    if ht_rpa.is_database(folder):
        wanted = None if ids is None else set(ids)
        labels = [k for k in _read_database(folder).labels if wanted is None or k.material_id in wanted]
    else:
        labels = load_labels(folder, ids)
    kinds = sorted({f"{k.settings_hash} ({k.engine})" for k in labels})
    if len(kinds) > 1:
        raise UsageError(
            f"{folder}: labels of {len(kinds)} kinds, {', '.join(kinds)}: they are never mixed: "
            "name those of one kind with --manifest"
        )
    return labels


def _read_database(folder: Path) -> Imported:
    """The published database; says on standard error what was left out, and why."""
    from models import ht_rpa

    with progress("reading the database") as bar:
        task = bar.add_task("", total=len(list(folder.glob("*.json"))))
        found = ht_rpa.read_database(folder, lambda: bar.advance(task))
    for reason, names in sorted(found.left_out.items()):
        errors.print(f"selector: left out: {len(names)}: {reason} ({names[0]}{' ...' if len(names) > 1 else ''})")
    if not found.labels:
        raise UsageError(f"{folder}: none of its materials makes a label: see the reasons above")
    return found


def import_(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="The paper's published database: JSON files.")],
    out: Annotated[Path, typer.Option(help="New folder for the label shards.")],
    as_json: AsJson = False,
) -> None:
    """Turn the paper's published database into labels. Gaps under 0.5 eV and over 10 eV are left out, as it did."""
    from models import ht_rpa

    if not folder.is_dir():
        raise UsageError(f"{folder}: no such folder: name the one that holds the database's JSON files")
    make_writable(out)
    found = _read_database(folder)
    shards = ht_rpa.write_shards(found.labels, out)
    if as_json:
        print_json({"labels": len(found.labels), "shards": [s.name for s in shards], "left_out": found.left_out})
        return
    n = sum(map(len, found.left_out.values()))
    console.print(f"{len(found.labels)} labels in {out}, {n} materials left out.", soft_wrap=True)
    console.print(f"Next: selector train --labels {out} --network optimate --out MODEL", soft_wrap=True)


COMMANDS = (import_,)
