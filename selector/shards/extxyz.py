"""Structures in an extended XYZ file: a frame each, found by byte offset, read without ASE.

Importing ASE's readers loads every plug-in it finds. Of a frame only cell, periodicity, elements, positions and name
are wanted: https://github.com/libAtoms/extxyz describes the format.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from pymatgen.core import Structure

from selector.errors import UsageError
from selector.shards.structures import ID_KEYS, from_arrays
from selector.structure_checks import StructureError

UNIT = "frame"
PAIR = re.compile(r"""([\w-]+)\s*=\s*("(?:[^"\\]|\\.)*"|'[^']*'|\{[^}]*\}|\[[^\]]*\]|\S+)""")
PLAIN = "species:S:1:pos:R:3"
TRUE = ("t", "true", "1")
Record = tuple[list[str], str | None]


def check(path: Path, wanted_id: str | None) -> None:
    """Nothing is known of an extxyz file before it is read; every frame may have keys of its own."""


def cut(path: Path, size: int) -> Iterator[dict[str, int]]:
    """Pieces of ``size`` frames or fewer: ``row`` (the first, from 0), ``n``, and ``at`` (its byte offset).

    Raises
    ------
    UsageError
        A frame does not begin with a number of atoms: nothing after it can be told apart.
    """
    row = begin = n = 0
    for at in _frames(path):
        if n == size:
            yield {"row": row, "n": n, "at": begin}
            row, n = row + n, 0
        if n == 0:
            begin = at
        n += 1
    if n:
        yield {"row": row, "n": n, "at": begin}


def _frames(path: Path) -> Iterator[int]:
    """The byte offset of each frame."""
    at = line = frame = 0
    with path.open("rb") as f:
        while head := f.readline():
            if head.strip():
                n_atoms = _count(head)
                if n_atoms is None:
                    raise UsageError(
                        f"{path}: frame {frame} (line {line + 1}) begins with {head[:30].decode(errors='replace')!r}, "
                        f"not with a number of atoms; correct that of frame {max(frame - 1, 0)}, or this line"
                    )
                yield at
                at += sum(map(len, islice(f, n_atoms + 1)))
                frame, line = frame + 1, line + n_atoms + 1
            at, line = at + len(head), line + 1


def _count(head: bytes) -> int | None:
    return int(head) if head.strip().isdigit() else None


def records(path: Path, piece: dict[str, Any], wanted_id: str | None) -> Iterator[Record]:
    """The frames of a piece as lines without the count; a frame that the file's end cuts off has fewer."""
    with path.open("rb") as f:
        f.seek(piece["at"])
        n = 0
        while n < piece["n"] and (head := f.readline()):
            if head.strip():
                n += 1
                n_atoms = _count(head)
                body = list(islice(f, (n_atoms or 0) + 1))
                lines = [line.decode("utf-8", errors="replace") for line in body]
                yield (lines if n_atoms is not None and len(lines) == n_atoms + 1 else []), wanted_id


def name(record: Record) -> Any:
    """The frame's name: the value of the key wanted, or of the first of `ID_KEYS`."""
    lines, wanted = record
    pairs = _pairs(lines[0]) if lines else {}
    if wanted is not None:
        if lines and wanted not in pairs:
            raise StructureError(
                "unreadable", f"no key '{wanted}' for its name; there are {', '.join(pairs) or 'none'}"
            )
        return pairs.get(wanted)
    return next((pairs[key] for key in ID_KEYS if key in pairs), None)


def structure(record: Record) -> Structure:
    """The frame's crystal.

    Raises
    ------
    StructureError
        The frame breaks off, is not periodic in three directions, or lacks cell, elements or positions.
    """
    lines, _ = record
    if not lines:
        raise StructureError("unreadable", "the frame breaks off; fetch or export the file again")
    pairs = _pairs(lines[0])
    if "Lattice" not in pairs:
        raise StructureError("implausible_cell", 'no Lattice="..." in its second line: not a crystal')
    if "pbc" in pairs and not all(flag.lower() in TRUE for flag in pairs["pbc"].split()):
        raise StructureError("implausible_cell", f"pbc is {pairs['pbc']}: not periodic in all three directions")
    column = _properties(pairs.get("Properties", PLAIN))
    rows = [line.split() for line in lines[1:]]
    elements = column.get("species", column.get("Z"))
    if elements is None or "pos" not in column or any(len(row) < column["pos"] + 3 for row in rows):
        raise StructureError("unreadable", "no species (or Z) and pos columns in its lines")
    at, kind = column["pos"], int if "species" not in column else str
    species = [kind(row[elements]) for row in rows]
    return from_arrays(pairs["Lattice"].split(), species, cartesian_ang=[row[at : at + 3] for row in rows])


def _pairs(comment: str) -> dict[str, str]:
    pairs = {}
    for key, value in PAIR.findall(comment):
        quoted = len(value) > 1 and value[0] + value[-1] in ('""', "''", "{}", "[]")
        pairs[key] = value[1:-1].replace('\\"', '"') if quoted else value
    return pairs


def _properties(text: str) -> dict[str, int]:
    """The first column of each property of ``name:type:width:name:type:width ...``."""
    parts, at, column = text.split(":"), 0, {}
    for label, width in zip(parts[::3], parts[2::3], strict=True):
        column[label] = at
        at += int(width)
    return column
