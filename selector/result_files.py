"""The results of a campaign as files for other programs: Parquet, JSON, HDF5.

Every format holds the same table, a row a material under `selector.results.COLUMNS`, and the same spectra. Each writer
is a context manager that takes the table once and the spectra one by one; its files appear when it ends well.
"""

from __future__ import annotations

import importlib
import json
import os
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from selector.errors import SelectorError, UsageError
from selector.files import make_writable
from selector.results import COLUMNS, NUMBER, TEXT, TRUTH, TYPES, WHOLE, EndSpectrum

EXTRA = "theory-level-selector[export]"
ABOUT_COLUMNS = {
    "sc_pred": "SC[RPA; IPA] predicted; the second argument divides",
    "sc_computed": "SC[RPA; IPA] computed on Im(eps), trace / 3, 0-20 eV",
    "cost_cpu_h": "CPU-hours charged",
    "sc_expected": "SC[predicted; computed] of the predicted RPA spectrum: its median over held-out labels",
    "sc_expected_low": "the same, exceeded by nine in ten",
}
UNKNOWN_WHOLE = -1
_ROW_GROUP = 64


class Writer(Protocol):
    """Writes a campaign's results in one format."""

    paths: dict[str, Path]

    def __enter__(self) -> Self: ...

    def __exit__(self, kind: type[BaseException] | None, error: Any, trace: TracebackType | None) -> None: ...

    def table(self, rows: Sequence[dict[str, Any]]) -> None: ...

    def spectrum(self, spectrum: EndSpectrum) -> None: ...


def writer(form: str, folder: Path, campaign: str) -> Writer:
    """The writer of a format ("parquet", "json" or "hdf5"), into ``folder``.

    Raises
    ------
    SelectorError
        The library that the format needs is not installed.
    UsageError
        The folder cannot be made or written, or there is no such format.
    """
    if form not in WRITERS:
        raise UsageError(f"format {form!r}: choose {', '.join(WRITERS)}")
    return WRITERS[form](folder, campaign)


def _library(name: str, form: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError:
        package = name.split(".", maxsplit=1)[0]
        raise SelectorError(f"{form} files need {package}, which is not installed: pip install '{EXTRA}'") from None


class _Files(ABC):
    """Files that get their names when everything is written, or leave nothing behind."""

    names: tuple[str, ...]

    def __init__(self, folder: Path, campaign: str) -> None:
        make_writable(folder)
        self.campaign = campaign
        self.paths = {name: folder / name for name in self.names}
        self.parts = {name: folder / f"{name}.{os.getpid()}.part" for name in self.names}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: Any, trace: TracebackType | None) -> None:
        self._close()
        for name, part in self.parts.items():
            if kind is None:
                part.replace(self.paths[name])
            else:
                part.unlink(missing_ok=True)

    @abstractmethod
    def _close(self) -> None:
        """Close what is open."""

    def _about(self) -> dict[str, str]:
        return {"campaign": self.campaign, "energy": "eV", "eps": "relative permittivity", **ABOUT_COLUMNS}


class JsonFiles(_Files):
    """``materials.json``: campaign, about, materials; ``spectra.jsonl``: one spectrum a line."""

    names = ("materials.json", "spectra.jsonl")

    def __init__(self, folder: Path, campaign: str) -> None:
        super().__init__(folder, campaign)
        self._spectra = self.parts["spectra.jsonl"].open("w", encoding="utf-8")

    def table(self, rows: Sequence[dict[str, Any]]) -> None:
        data = {"campaign": self.campaign, "about": self._about(), "materials": [_finite(row) for row in rows]}
        text = json.dumps(data, ensure_ascii=False, indent=1, allow_nan=False)
        self.parts["materials.json"].write_text(text, encoding="utf-8")

    def spectrum(self, spectrum: EndSpectrum) -> None:
        s = spectrum
        line = {**_names(s), "energy_ev": _numbers(s.energy_ev), "eps_im": [_numbers(row) for row in s.eps_im]}
        line["eps_re"] = None if s.eps_re is None else [_numbers(row) for row in s.eps_re]
        self._spectra.write(json.dumps(line, ensure_ascii=False, allow_nan=False) + "\n")

    def _close(self) -> None:
        self._spectra.close()


class ParquetFiles(_Files):
    """``materials.parquet`` and ``spectra.parquet``, in float32 as the spectra are stored."""

    names = ("materials.parquet", "spectra.parquet")

    def __init__(self, folder: Path, campaign: str) -> None:
        self._arrow, self._parquet = _library("pyarrow", "Parquet"), _library("pyarrow.parquet", "Parquet")
        super().__init__(folder, campaign)
        pa = self._arrow
        kinds = {TEXT: pa.string(), NUMBER: pa.float64(), WHOLE: pa.int64(), TRUTH: pa.bool_()}
        self._columns = pa.schema([(name, kinds[TYPES[name]]) for name in COLUMNS], metadata=self._about())
        numbers = pa.list_(pa.float32())
        arrays = [("energy_ev", numbers), ("eps_im", pa.list_(numbers)), ("eps_re", pa.list_(numbers))]
        texts = [(name, pa.string()) for name in ("material_id", "level", "origin", "source")]
        self._lines = pa.schema([*texts, ("components", pa.list_(pa.string())), *arrays], metadata=self._about())
        self._spectra = self._parquet.ParquetWriter(self.parts["spectra.parquet"], self._lines)
        self._waiting: list[dict[str, Any]] = []

    def table(self, rows: Sequence[dict[str, Any]]) -> None:
        table = self._arrow.Table.from_pylist([_finite(row) for row in rows], schema=self._columns)
        self._parquet.write_table(table, self.parts["materials.parquet"])

    def spectrum(self, spectrum: EndSpectrum) -> None:
        s = spectrum
        arrays = {
            "energy_ev": s.energy_ev,
            "eps_im": list(s.eps_im),
            "eps_re": None if s.eps_re is None else list(s.eps_re),
        }
        self._waiting.append(_names(s) | arrays)
        if len(self._waiting) == _ROW_GROUP:
            self._flush()

    def _flush(self) -> None:
        if self._waiting:
            self._spectra.write_table(self._arrow.Table.from_pylist(self._waiting, schema=self._lines))
            self._waiting = []

    def _close(self) -> None:
        self._flush()
        self._spectra.close()


class Hdf5Files(_Files):
    """``campaign.h5``: /materials/COLUMN, (n,) each, and /spectra/MATERIAL/LEVEL with energy_ev, eps_im, eps_re.

    What is not known is an empty text, NaN, or -1. A predicted spectrum lies under LEVEL_predicted.
    """

    names = ("campaign.h5",)

    def __init__(self, folder: Path, campaign: str) -> None:
        self._h5 = _library("h5py", "HDF5")
        super().__init__(folder, campaign)
        self._file = self._h5.File(self.parts["campaign.h5"], "w")
        self._file.attrs.update(self._about())
        self._file.create_group("spectra")

    def table(self, rows: Sequence[dict[str, Any]]) -> None:
        group = self._file.create_group("materials")
        for name in COLUMNS:
            values = [row[name] for row in rows]
            if TYPES[name] == TEXT:
                texts = ["" if x is None else str(x) for x in values]
                group.create_dataset(name, data=texts, dtype=self._h5.string_dtype())
            elif TYPES[name] == NUMBER:
                group.create_dataset(name, data=np.array([np.nan if x is None else x for x in values], dtype=float))
            else:
                whole = [UNKNOWN_WHOLE if x is None else int(x) for x in values]
                group.create_dataset(name, data=np.array(whole, dtype=np.int64))

    def spectrum(self, spectrum: EndSpectrum) -> None:
        s = spectrum
        level = f"{s.level}_predicted" if s.origin == "predicted" else s.level
        group = self._file["spectra"].require_group(s.material_id).create_group(level)
        group.attrs.update({"origin": s.origin, "source": s.source, "components": list(s.components)})
        for name, array in (("energy_ev", s.energy_ev), ("eps_im", s.eps_im), ("eps_re", s.eps_re)):
            if array is not None:
                group.create_dataset(name, data=np.asarray(array, dtype=np.float32), compression="gzip", shuffle=True)

    def _close(self) -> None:
        self._file.close()


WRITERS: dict[str, type[JsonFiles] | type[ParquetFiles] | type[Hdf5Files]] = {
    "json": JsonFiles,
    "parquet": ParquetFiles,
    "hdf5": Hdf5Files,
}


def _names(s: EndSpectrum) -> dict[str, Any]:
    return {
        **{name: getattr(s, name) for name in ("material_id", "level", "origin", "source")},
        "components": list(s.components),
    }


def _finite(row: dict[str, Any]) -> dict[str, Any]:
    """A number that is not finite is not known."""
    return {k: None if isinstance(v, float) and not np.isfinite(v) else v for k, v in row.items()}


def _numbers(array: NDArray[Any]) -> list[float]:
    """Nine digits, which name a float32 exactly."""
    return [float(f"{x:.9g}") for x in array.tolist()]
