"""The published database of the paper, in and out.

One JSON file per material: a pymatgen ``ComputedStructureEntry`` whose ``data`` holds both dielectric functions on
0-20 eV in 2001 points, as dicts of the diagonal components (github.com/magr4826/HT_RPA, README). A component that is
not there equals ``xx`` by symmetry; a metal holds NaN. The number of G-vectors was converged for each material and
direction, so that it is a fact about a label, not one of the settings by which kinds of labels are told apart.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pymatgen.core import Element, Lattice, Structure
from pymatgen.entries.computed_entries import ComputedStructureEntry

from models.labels import Label, reduced_formula
from selector.errors import UsageError
from selector.spectra import ENERGY_EV, Spectrum, settings_hash, similarity

ENGINE = "ht-rpa"
COMPONENTS = ("xx", "yy", "zz")
MIN_INDIRECT_GAP_EV = 0.5
MAX_DIRECT_GAP_EV = 10.0
G_CONVERGENCE = "raised by 2 Ry until SC of the last two is 0.9 or more, for each direction, up to 10 Ry"
SHARD_LABELS = 256
RYDBERG_EV = 13.605693

NO_RPA = "no RPA spectrum"
METAL = "a metal: its spectra are NaN"
SMALL_GAP = f"indirect gap under {MIN_INDIRECT_GAP_EV:g} eV"
LARGE_GAP = f"direct gap over {MAX_DIRECT_GAP_EV:g} eV"
UNREADABLE = "not a readable entry"
OTHER_GRID = f"not on 0-20 eV in {len(ENERGY_EV)} points"
DISORDERED = "disordered"
NO_ABSORPTION = "no absorption at IPA"


class _LeftOut(Exception):
    """An entry that makes no label; the message is the reason."""


@dataclass
class Imported:
    """Labels of a published database, and the files that made none: reason -> their names."""

    labels: list[Label] = field(default_factory=list)
    left_out: dict[str, list[str]] = field(default_factory=dict)


def is_database(folder: Path) -> bool:
    """Whether a folder looks like the published database: JSON files and no label shards."""
    return any(folder.glob("*.json")) and not any(folder.glob("shard-*.npz"))


def read_database(folder: Path, on_file: Callable[[], None] = lambda: None) -> Imported:
    """Labels of every material of a published database, sorted by material_id.

    Indirect gaps under 0.5 eV and direct gaps over 10 eV are left out, as the paper did.

    Parameters
    ----------
    folder : of JSON files
    on_file : called after each

    Raises
    ------
    UsageError
        The folder holds no JSON file.
    """
    files = sorted(folder.glob("*.json"))
    if not files:
        raise UsageError(f"{folder}: no JSON files: name the folder that holds the published database")
    out = Imported()
    for path in files:
        try:
            out.labels.append(_read(path))
        except _LeftOut as e:
            out.left_out.setdefault(str(e), []).append(path.name)
        on_file()
    out.labels.sort(key=lambda label: label.material_id)
    return out


def _read(path: Path) -> Label:
    try:
        entry = json.loads(path.read_text())
        data, parameters = entry["data"], entry["parameters"]
        if "rpa_epsI" not in data:
            raise _LeftOut(NO_RPA)
        if any(not isinstance(data[k], dict) for k in ("ipa_epsI", "ipa_epsR", "rpa_epsI", "rpa_epsR")):
            raise _LeftOut(METAL)
        indirect, direct = (float(data.get(f"ipa_{k}_gap", math.nan)) for k in ("indirect", "direct"))
        if not indirect >= MIN_INDIRECT_GAP_EV:
            raise _LeftOut(SMALL_GAP)
        if direct > MAX_DIRECT_GAP_EV:
            raise _LeftOut(LARGE_GAP)
        ipa, rpa = (_spectrum(data[f"{level}_epsR"], data[f"{level}_epsI"]) for level in ("ipa", "rpa"))
        structure, settings = _structure(entry["structure"]), _settings(parameters)
        facts = {"energy": entry.get("energy"), "ipa_direct_gap_ev": None if math.isnan(direct) else direct}
        facts |= {"rpa_g_mry": parameters.get("rpa_G"), "rpa_similarity": data.get("rpa_similarity")}
        return Label(
            material_id=str(data["mat_id"]),
            formula=reduced_formula(structure),
            structure=structure,
            sc=_sc(rpa.mean, ipa.mean),
            sc_xyz=(_sc(rpa.eps[0], ipa.eps[0]), _sc(rpa.eps[1], ipa.eps[1]), _sc(rpa.eps[2], ipa.eps[2])),
            ipa=ipa,
            rpa=rpa,
            engine=str(parameters.get("engine", ENGINE)),
            settings=settings,
            settings_hash=settings_hash(settings),
            split=str(data.get("split", "unknown")),
            cpu_s=float(data.get("cpu_s", math.nan)),
            gap_ev=indirect,
            details={k: _plain(v) for k, v in facts.items() if v is not None},
        )
    except (OSError, ValueError, KeyError, TypeError, IndexError, AttributeError) as e:
        raise _LeftOut(f"{UNREADABLE} ({type(e).__name__})") from e


def _settings(parameters: dict[str, Any]) -> dict[str, Any]:
    """What makes labels comparable; entries that this project exported carry theirs whole."""
    if "settings" in parameters:
        return dict(parameters["settings"])
    kppa, broadening = int(parameters["rpa_kppa"]), float(parameters["rpa_broad"])
    return {
        "name": ENGINE, "code": "yambo", "xc": "PBE", "kppa_response": kppa, "eta_ev": broadening,
        "ecut": G_CONVERGENCE,
    }  # fmt: skip


def _structure(raw: dict[str, Any]) -> Structure:
    # Built by hand: pymatgen's own reader makes objects of whatever class a file names.
    species = []
    for site in raw["sites"]:
        first, *others = site["species"]
        if others or float(first["occu"]) != 1.0:
            raise _LeftOut(DISORDERED)
        species.append(Element(first["element"]))
    return Structure(Lattice(raw["lattice"]["matrix"]), species, [site["abc"] for site in raw["sites"]])


def _array(value: Any) -> NDArray[np.float64]:
    """A list of numbers, or one as monty writes NumPy arrays."""
    return np.asarray(value["data"] if isinstance(value, dict) else value, dtype=float)


def _plain(value: Any) -> Any:
    return _array(value).tolist() if isinstance(value, dict) and "data" in value else value


def _spectrum(real: dict[str, Any], imaginary: dict[str, Any]) -> Spectrum:
    eps = []
    for component in COMPONENTS:
        key = component if component in imaginary else "xx"
        eps.append(_array(real[key]) + 1j * _array(imaginary[key]))
    if any(e.shape != ENERGY_EV.shape for e in eps):
        raise _LeftOut(OTHER_GRID)
    if not np.isfinite(eps).all():
        raise _LeftOut(METAL)
    # Through single precision, in which shards hold them: the same numbers before and after.
    return Spectrum(ENERGY_EV, np.array(eps).astype(np.complex64).astype(complex))


def _sc(rpa: NDArray[Any], ipa: NDArray[Any]) -> float:
    try:
        return similarity(rpa.imag.astype(float), ipa.imag.astype(float))
    except ValueError as e:
        raise _LeftOut(NO_ABSORPTION) from e


def write_shards(labels: Sequence[Label], folder: Path) -> list[Path]:
    """Write labels as shards that :func:`models.labels.load_labels` reads, 256 a file.

    Raises
    ------
    UsageError
        The folder holds shards already, or can't be written.
    """
    _empty(folder, "shard-*.npz")
    return [_write_shard(labels[k : k + SHARD_LABELS], folder) for k in range(0, len(labels), SHARD_LABELS)]


def _write_shard(labels: Sequence[Label], folder: Path) -> Path:
    meta = [
        {
            "mat_id": k.material_id, "formula": k.formula, "engine": k.engine, "settings": k.settings, "split": k.split,
            "cpu_s": k.cpu_s, "gap": k.gap_ev, "details": k.details,
            "structure": {
                "cell": k.structure.lattice.matrix.tolist(),
                "numbers": [int(z) for z in k.structure.atomic_numbers],
                "frac": k.structure.frac_coords.tolist(),
            },
        }
        for k in labels
    ]  # fmt: skip
    names = "\n".join(k.material_id for k in labels)
    path = folder / f"shard-{hashlib.sha256(names.encode()).hexdigest()[:10]}.npz"
    part = path.with_suffix(".part.npz")
    ipa, rpa = (
        np.concatenate([getattr(k, level).eps for k in labels], axis=1).astype(np.complex64) for level in ("ipa", "rpa")
    )
    start, omega = len(ENERGY_EV) * np.arange(len(labels) + 1), np.tile(ENERGY_EV, len(labels))
    np.savez_compressed(part, meta=json.dumps(meta), start=start, omega=omega, ipa=ipa, rpa=rpa)
    return part.replace(path)


def write_database(labels: Sequence[Label], folder: Path) -> None:
    """Write labels as the published database is laid out, one JSON file per material.

    Parameters
    ----------
    labels : of any engine; its name and settings go along, so that reading them gives the same kind of label
    folder : new, or without JSON files

    Raises
    ------
    UsageError
        The folder holds JSON files already, or can't be written.
    """
    _empty(folder, "*.json")
    for label in labels:
        data = {
            "mat_id": label.material_id,
            "ipa_indirect_gap": label.gap_ev,
            "ipa_direct_gap": label.details.get("ipa_direct_gap_ev", math.nan),
            "split": label.split,
            "cpu_s": label.cpu_s,
        }
        if "rpa_similarity" in label.details:
            data["rpa_similarity"] = label.details["rpa_similarity"]
        energy, parameters = float(label.details.get("energy", math.nan)), _parameters(label)
        entry = ComputedStructureEntry(label.structure, energy, parameters=parameters, entry_id=label.material_id)
        path = folder / f"{label.material_id}.json"
        part = path.with_suffix(".part")
        part.write_text(json.dumps(entry.as_dict() | {"data": data | dict(_components(label))}))
        part.replace(path)


def _parameters(label: Label) -> dict[str, Any]:
    s = label.settings
    cutoff_mry = [1000.0 * s["ecut_ev"] / RYDBERG_EV] * 3 if "ecut_ev" in s else label.details.get("rpa_g_mry")
    own = {} if label.engine == ENGINE else {"engine": label.engine, "settings": s}
    return {"rpa_kppa": s["kppa_response"], "rpa_G": cutoff_mry, "rpa_broad": s["eta_ev"], **own}


def _components(label: Label) -> Iterator[tuple[str, dict[str, dict[str, Any]]]]:
    """``ipa_epsI`` and so on; a component that equals xx at both levels is left out."""
    both = np.stack([label.ipa.eps, label.rpa.eps])
    kept = [k for k in range(3) if k == 0 or not np.array_equal(both[:, k], both[:, 0])]
    for level, eps in zip(("ipa", "rpa"), both, strict=True):
        yield f"{level}_epsR", {COMPONENTS[k]: _as_monty(eps[k].real) for k in kept}
        yield f"{level}_epsI", {COMPONENTS[k]: _as_monty(eps[k].imag) for k in kept}


def _as_monty(array: NDArray[np.float64]) -> dict[str, Any]:
    """What monty's encoder makes of an array; it would take a tenth of a second a label."""
    return {"@module": "numpy", "@class": "array", "dtype": str(array.dtype), "data": array.tolist()}


def _empty(folder: Path, pattern: str) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as e:
        raise UsageError(f"{folder} cannot be made ({e.strerror}): choose another folder") from e
    if any(folder.glob(pattern)):
        raise UsageError(f"{folder} holds {pattern} files already: choose a new folder")
