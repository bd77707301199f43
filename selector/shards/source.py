"""Where the structures come from: files (Parquet, extxyz) or a collection, cut into shards, read as a stream."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from pymatgen.core import Structure

from selector.errors import SelectorError, UsageError
from selector.shards import extxyz, parquet
from selector.structure_checks import StructureError, check_structure

Document = dict[str, Any]
Shard = dict[str, Any]
"""``first`` (index of its first row, through the whole source), ``n`` (rows), and where the source finds them."""

COLLECTION = "collection:"
FORMATS = {"parquet": parquet, "extxyz": extxyz}
SUFFIXES = {".parquet": "parquet", ".pq": "parquet", ".extxyz": "extxyz", ".xyz": "extxyz"}


@dataclass(frozen=True)
class Row:
    """One structure of a source, or why it is none.

    Attributes
    ----------
    index : counted from 0 through the whole source
    material_id : the source's own name for it, or FILE-ROW
    structure : None if it is broken
    reason, message : None, or what is wrong, as in `selector.candidates.Rejection`
    """

    index: int
    material_id: str
    structure: Structure | None
    reason: str | None = None
    message: str | None = None


class Source(Protocol):
    """Structures in a fixed order."""

    def describe(self) -> Document:
        """Plain data from which it can be opened again; under ``identity`` what tells two sources apart."""

    def shards(self, size: int) -> list[Shard]:
        """Cut into pieces of ``size`` rows or fewer, in order."""

    def rows(self, shard: Shard) -> Iterator[Row]:
        """The rows of one shard, broken ones too.

        Raises
        ------
        SelectorError
            It is not what it was when it was cut.
        """


class FileSource:
    """Files of one format. Their content makes the identity, not their names: they may be moved."""

    def __init__(self, form: str, files: Sequence[Document], id_key: str | None) -> None:
        self._form, self._files, self._id_key = form, list(files), id_key

    @classmethod
    def find(cls, paths: Sequence[Path], id_key: str | None) -> FileSource:
        """The files named, and those of folders, sorted.

        Raises
        ------
        UsageError
            A path is missing or of no known format, formats are mixed, or there is none.
        """
        found: list[Path] = []
        for path in paths:
            if not path.exists():
                raise UsageError(f"{path}: no such file or folder")
            inside = sorted(p for p in path.rglob("*") if p.suffix.lower() in SUFFIXES) if path.is_dir() else [path]
            if not inside:
                raise UsageError(f"{path}: no Parquet or extxyz file in this folder")
            found += inside
        found = list({path.resolve(): path for path in found}.values())
        forms = {SUFFIXES.get(path.suffix.lower()) for path in found}
        if None in forms:
            odd = next(path for path in found if path.suffix.lower() not in SUFFIXES)
            raise UsageError(f"{odd}: --shards reads {', '.join(SUFFIXES)} and {COLLECTION}NAME, not this")
        if len(forms) > 1:
            raise UsageError("Parquet and extxyz together: predict one after the other, each into an output of its own")
        form = str(forms.pop())
        for path in found:
            FORMATS[form].check(path, id_key)
        return cls(form, [_facts(path) for path in found], id_key)

    def describe(self) -> Document:
        contents = [[file["bytes"], file["sha256"]] for file in self._files]
        identity = {"kind": self._form, "id_key": self._id_key, "contents": contents}
        return {"kind": self._form, "files": self._files, "id_key": self._id_key, "identity": identity}

    def shards(self, size: int) -> list[Shard]:
        cut: list[Shard] = []
        first = 0
        for k, file in enumerate(self._files):
            for piece in FORMATS[self._form].cut(Path(file["path"]), size):
                cut.append({"first": first, "file": k, **piece})
                first += piece["n"]
        return cut

    def rows(self, shard: Shard) -> Iterator[Row]:
        form, file = FORMATS[self._form], self._files[shard["file"]]
        path = Path(file["path"])
        if not path.is_file() or path.stat().st_size != file["bytes"]:
            raise SelectorError(f"{path}: missing, or changed since the run began; put it back, or begin another run")
        n = 0
        for n, record in enumerate(form.records(path, shard, self._id_key), 1):
            row = shard["row"] + n - 1
            place = f"{path}: {form.UNIT} {row}"
            yield read_row(shard["first"] + n - 1, f"{path.stem}-{row}", place, record, form.name, form.structure)
        check_count(n, shard, str(path))


def check_count(n: int, shard: Shard, name: str) -> None:
    """Refuse a source of which a shard holds more or fewer rows than were counted."""
    if n != shard["n"]:
        raise SelectorError(f"{name}: {n} rows where {shard['n']} were when the run began; begin another run")


def _facts(path: Path) -> Document:
    try:
        with path.open("rb") as f:
            digest = hashlib.file_digest(f, "sha256").hexdigest()
    except OSError as e:
        raise UsageError(f"{path}: cannot be read ({e.strerror})") from None
    return {"path": str(path.resolve()), "bytes": path.stat().st_size, "sha256": digest}


def read_row(
    index: int,
    name: str,
    place: str,
    record: Any,
    name_of: Callable[[Any], Any],
    structure_of: Callable[[Any], Structure],
) -> Row:
    """The row of a record; whatever is wrong with it is said in the row, with its place."""
    try:
        name = str(name_of(record) or name)
        structure = structure_of(record)
        check_structure(structure)
    except StructureError as e:
        return Row(index, name, None, e.reason, f"{place}: {e}")
    except SelectorError as e:
        return Row(index, name, None, "unreadable", f"{place}: {e}")
    except Exception as e:  # a record may be broken in any way
        why = f"{type(e).__name__}: {' '.join(str(e).split())[:120]}"
        return Row(index, name, None, "unreadable", f"{place}: not a valid structure ({why})")
    return Row(index, name, structure)
