"""One norm-conserving PBE pseudopotential an element, found in a folder and recognised by its MD5 sum."""

from __future__ import annotations

import contextlib
import hashlib
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from pymatgen.core import Element

from fw_tasks.engines.base import MissingDataset
from fw_tasks.engines.qe_yambo.sg15 import MD5

FAMILIES = {"SG15-1.2": MD5}


@dataclass(frozen=True)
class Pseudopotential:
    """A UPF file.

    Attributes
    ----------
    element : chemical symbol
    path : the file
    z_valence : valence electrons of the neutral atom
    md5 : MD5 sum of the file, as pw.x prints it
    """

    element: str
    path: Path
    z_valence: float
    md5: str


def find_pseudopotentials(folder: Path | None, elements: Iterable[str], family: str) -> dict[str, Pseudopotential]:
    """The files of ``folder`` for ``elements``: Si.upf, Si_ONCV_PBE-1.2.upf, si.pbe.UPF and the like.

    Raises
    ------
    MissingDataset
        No folder, no file or several for an element, a file of another family, or not norm-conserving PBE.
    """
    if folder is None or not folder.is_dir():
        where = "is not set" if folder is None else f"{folder} is not a folder"
        raise MissingDataset(f"the pseudopotential folder {where}: set the engine's option pseudo_dir")
    return {element: _find(folder, element, family) for element in sorted(set(elements))}


def usable_elements(folder: Path | None, family: str) -> list[str]:
    """The elements that `find_pseudopotentials` finds a file for; `MissingDataset` where there is no folder."""
    find_pseudopotentials(folder, [], family)
    usable: list[str] = []
    for element in Element:
        with contextlib.suppress(MissingDataset):
            usable += find_pseudopotentials(folder, [element.symbol], family)
    return usable


def _find(folder: Path, element: str, family: str) -> Pseudopotential:
    name = re.compile(rf"{element}([._-].*)?\.upf", re.IGNORECASE)
    files = sorted(path for path in folder.iterdir() if name.fullmatch(path.name))
    if not files:
        raise MissingDataset(f"{folder} has no pseudopotential for {element} ({element}.upf or {element}_*.upf)")
    found = [_read(path, element) for path in files]
    known = FAMILIES.get(family)
    if known is not None:
        found = [p for p in found if p.md5 == known.get(element)]
        if not found:
            raise MissingDataset(
                f"{files[0]}: not the {family} pseudopotential of {element} (another MD5 sum): download it, or give "
                "the engine's setting pseudopotentials another name"
            )
    elif len(found) > 1:
        names = ", ".join(path.name for path in files)
        raise MissingDataset(f"{folder} has several pseudopotentials for {element} ({names}); leave one")
    return found[0]


def _read(path: Path, element: str) -> Pseudopotential:
    content = path.read_bytes()
    text = content.decode("utf-8", errors="replace")
    start = text.find("<PP_HEADER")
    header = text[start : text.find(">", start)] if start >= 0 else ""
    attributes = {key: value.strip() for key, value in re.findall(r'(\w+)\s*=\s*"([^"]*)"', header)}
    try:
        z_valence = float(attributes["z_valence"])
        kind, functional = attributes["pseudo_type"], attributes["functional"]
    except (KeyError, ValueError) as error:
        raise MissingDataset(f"{path}: not a UPF version 2 pseudopotential") from error
    if kind not in ("NC", "SL") or functional.split() not in (["PBE"], ["SLA", "PW", "PBX", "PBC"]):
        raise MissingDataset(f"{path}: a {kind} pseudopotential for {functional}; Yambo needs norm-conserving PBE")
    return Pseudopotential(element, path, z_valence, hashlib.md5(content, usedforsecurity=False).hexdigest())
