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
from selector.optics import ABOUT, QUANTITIES, optics
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


def writer(form: str, folder: Path, campaign: str, with_optics: bool = False) -> Writer:
    """The writer of a format ("parquet", "json" or "hdf5"), into ``folder``.

    Parameters
    ----------
    with_optics : beside each spectrum its optical properties (`selector.optics.QUANTITIES`), shaped as ``eps_im``; they
        are not known where Re(eps) is not

    Raises
    ------
    SelectorError
        The library that the format needs is not installed.
    UsageError
        The folder cannot be made or written, or there is no such format.
    """
    if form not in WRITERS:
        raise UsageError(f"format {form!r}: choose {', '.join(WRITERS)}")
    return WRITERS[form](folder, campaign, with_optics)


def _library(name: str, form: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError:
        package = name.split(".", maxsplit=1)[0]
        raise SelectorError(f"{form} files need {package}, which is not installed: pip install '{EXTRA}'") from None


class _Files(ABC):
    """Files that get their names when everything is written, or leave nothing behind."""

    names: tuple[str, ...]

    def __init__(self, folder: Path, campaign: str, with_optics: bool) -> None:
        make_writable(folder)
        self.campaign = campaign
        self.optics = QUANTITIES if with_optics else ()
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
        about = {"campaign": self.campaign, "energy": "eV", "eps": "relative permittivity", **ABOUT_COLUMNS}
        return about | {name: ABOUT[name] for name in self.optics}

    def _arrays(self, s: EndSpectrum) -> dict[str, NDArray[Any] | None]:
        """energy_ev (n,), and (k, n) each: eps_im, eps_re, optical properties; None where Re(eps) is not known."""
        arrays: dict[str, NDArray[Any] | None] = {"energy_ev": s.energy_ev, "eps_im": s.eps_im, "eps_re": s.eps_re}
        if not self.optics or s.eps_re is None:
            return arrays | dict.fromkeys(self.optics)
        return arrays | {k: v.astype(np.float32) for k, v in optics(s.energy_ev, s.eps_re + 1j * s.eps_im).items()}


class JsonFiles(_Files):
    """``materials.json``: campaign, about, materials; ``spectra.jsonl``: one spectrum a line."""

    names = ("materials.json", "spectra.jsonl")

    def __init__(self, folder: Path, campaign: str, with_optics: bool) -> None:
        super().__init__(folder, campaign, with_optics)
        self._spectra = self.parts["spectra.jsonl"].open("w", encoding="utf-8")

    def table(self, rows: Sequence[dict[str, Any]]) -> None:
        data = {"campaign": self.campaign, "about": self._about(), "materials": [_finite(row) for row in rows]}
        text = json.dumps(data, ensure_ascii=False, indent=1, allow_nan=False)
        self.parts["materials.json"].write_text(text, encoding="utf-8")

    def spectrum(self, spectrum: EndSpectrum) -> None:
        arrays = {k: None if array is None else _numbers(array) for k, array in self._arrays(spectrum).items()}
        self._spectra.write(json.dumps(_names(spectrum) | arrays, ensure_ascii=False, allow_nan=False) + "\n")

    def _close(self) -> None:
        self._spectra.close()


class ParquetFiles(_Files):
    """``materials.parquet`` and ``spectra.parquet``, in float32 as the spectra are stored."""

    names = ("materials.parquet", "spectra.parquet")

    def __init__(self, folder: Path, campaign: str, with_optics: bool) -> None:
        self._arrow, self._parquet = _library("pyarrow", "Parquet"), _library("pyarrow.parquet", "Parquet")
        super().__init__(folder, campaign, with_optics)
        pa = self._arrow
        kinds = {TEXT: pa.string(), NUMBER: pa.float64(), WHOLE: pa.int64(), TRUTH: pa.bool_()}
        self._columns = pa.schema([(name, kinds[TYPES[name]]) for name in COLUMNS], metadata=self._about())
        numbers = pa.list_(pa.float32())
        arrays = [("energy_ev", numbers), *((k, pa.list_(numbers)) for k in ("eps_im", "eps_re", *self.optics))]
        texts = [(name, pa.string()) for name in ("material_id", "level", "origin", "source")]
        self._lines = pa.schema([*texts, ("components", pa.list_(pa.string())), *arrays], metadata=self._about())
        self._spectra = self._parquet.ParquetWriter(self.parts["spectra.parquet"], self._lines)
        self._waiting: list[dict[str, Any]] = []

    def table(self, rows: Sequence[dict[str, Any]]) -> None:
        table = self._arrow.Table.from_pylist([_finite(row) for row in rows], schema=self._columns)
        self._parquet.write_table(table, self.parts["materials.parquet"])

    def spectrum(self, spectrum: EndSpectrum) -> None:
        arrays = {k: None if array is None else list(array) for k, array in self._arrays(spectrum).items()}
        self._waiting.append(_names(spectrum) | arrays)
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

    Optical properties, where asked for, lie beside them. What is not known is an empty text, NaN, -1, or no array.
    A predicted spectrum lies under LEVEL_predicted.
    """

    names = ("campaign.h5",)

    def __init__(self, folder: Path, campaign: str, with_optics: bool) -> None:
        self._h5 = _library("h5py", "HDF5")
        super().__init__(folder, campaign, with_optics)
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
        for name, array in self._arrays(s).items():
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


def _numbers(array: NDArray[Any]) -> list[Any]:
    """Nine digits, which name a float32 exactly, row by row; null where it is not a number."""
    if array.ndim > 1:
        return [_numbers(row) for row in array]
    return [float(f"{x:.9g}") if np.isfinite(x) else None for x in array.tolist()]
