"""Structures in a Parquet file: a row each. Read in batches, whatever the size of its row groups."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pymatgen.core import Structure

from selector.errors import SelectorError, UsageError
from selector.shards.structures import FORMS, form_of, id_key

UNIT = "row"
BATCH = 1024
Record = tuple[dict[str, Any], tuple[str, ...], str | None]


def library() -> Any:
    """pyarrow, with its `parquet`.

    Raises
    ------
    SelectorError
        It is not installed.
    """
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise SelectorError(
            "Parquet files need pyarrow, which is not installed: pip install 'theory-level-selector[export]'"
        ) from None
    return pyarrow


def _open(path: Path) -> Any:
    arrow = library()
    try:
        # A buffer makes it read a column piece by piece; without, the whole row group's is held.
        return arrow.parquet.ParquetFile(path, buffer_size=1 << 20)
    except (arrow.ArrowException, OSError) as e:
        raise UsageError(f"{path}: not a Parquet file ({' '.join(str(e).split())[:80]})") from None


def check(path: Path, wanted_id: str | None) -> None:
    """Refuse a file without a structure's columns, or without the column of names that is wanted."""
    with _open(path) as file:
        _columns(path, file, wanted_id)


def _columns(path: Path, file: Any, wanted_id: str | None) -> tuple[tuple[str, ...], str | None]:
    try:
        return form_of(file.schema_arrow.names), id_key(file.schema_arrow.names, wanted_id)
    except UsageError as e:
        raise UsageError(f"{path}: {e}") from None


def cut(path: Path, size: int) -> Iterator[dict[str, int]]:
    """Pieces of ``size`` rows or fewer: ``row`` (the first, within the file) and ``n``."""
    with _open(path) as file:
        total = file.metadata.num_rows
    for row in range(0, total, size):
        yield {"row": row, "n": min(size, total - row)}


def records(path: Path, piece: dict[str, Any], wanted_id: str | None) -> Iterator[Record]:
    """The rows of a piece, each with the columns that hold structure and name.

    Raises
    ------
    SelectorError
        The file is damaged where they lie.
    """
    arrow, begin, end = library(), piece["row"], piece["row"] + piece["n"]
    with _open(path) as file:
        form, name = _columns(path, file, wanted_id)
        groups, at = _groups(file.metadata, begin, end)
        try:
            for batch in file.iter_batches(
                BATCH, row_groups=groups, columns=[*form, *([name] if name else [])], use_threads=False
            ):
                low, high = max(begin - at, 0), min(end - at, len(batch))
                at += len(batch)
                if low < high:
                    yield from ((row, form, name) for row in batch.slice(low, high - low).to_pylist())
                if at >= end:
                    return
        except (arrow.ArrowException, OSError) as e:
            why = " ".join(str(e).split())[:80]
            raise SelectorError(f"{path}: rows {begin} to {end - 1} cannot be read ({why}); fetch it again") from None


def _groups(metadata: Any, begin: int, end: int) -> tuple[list[int], int]:
    """The row groups that hold rows ``begin`` to ``end``, and the row at which the first of them starts."""
    groups: list[int] = []
    start = at = 0
    for k in range(metadata.num_row_groups):
        n = metadata.row_group(k).num_rows
        if at < end and at + n > begin:
            if not groups:
                start = at
            groups.append(k)
        at += n
    return groups, start


def name(record: Record) -> Any:
    """The row's name, if the file has names."""
    row, _, key = record
    return row[key] if key else None


def structure(record: Record) -> Structure:
    """The row's crystal."""
    row, form, _ = record
    return FORMS[form](row)
