"""The labelled data: shards of computed spectra -> `Label`, frozen lists of labels, folds grouped by formula.

A shard (``shard-<hash>.npz``) holds n labels on the engine's own energies, one after another: ``omega`` [sum of n_i]
in eV, ``ipa`` and ``rpa`` complex [3, sum of n_i] (field along x, y, z), ``start`` int [n + 1], and ``meta``, a JSON
list of n records. A record that names its ``engine`` holds that engine's settings as they are; one that names none
comes from GPAW, its settings under short names. Shards are added all the time; a figure that is quoted names a
manifest (`read_manifest`), never "all labels".
"""

from __future__ import annotations

import json
import math
import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pymatgen.core import Composition, Lattice, Structure

from selector.errors import SelectorError, UsageError
from selector.spectra import ENERGY_EV, Spectrum, settings_hash, similarity

SHIPPED = Path(__file__).parent / "data" / "alexandria_gpaw"
ENGINE = "gpaw"
# What the shards call it -> what an engine calls it: units in the names.
RAW_SETTINGS = {
    "pw": "pw_ev",
    "kppa_scf": "kppa_scf",
    "kppa": "kppa_response",
    "emax": "emax_c_ev",
    "ecut": "ecut_ev",
    "eta": "eta_ev",
    "domega0": "domega0_ev",
}
# Facts about a calculation that are kept beside the label where the shard has them.
DETAIL_KEYS = (
    "energy", "gap_response", "electrons", "nbands", "npw", "n_k", "n_g", "ecut_used", "eps0", "cpu_stage_s", "wall_s",
    "source",
)  # fmt: skip


@dataclass(frozen=True)
class Label:
    """A computed pair of spectra and its SC.

    Attributes
    ----------
    material_id : str
    formula : reduced formula, as pymatgen writes it
    structure : the crystal as it stands in its source; the engine computed its standardised primitive cell, to
        whose axes `sc_xyz` and the field directions of the spectra refer
    sc : SC[RPA; IPA] of the traces / 3 on 0-20 eV
    sc_xyz : the same for the field along x, y, z
    ipa, rpa : spectra on the grid of 2001 points
    engine, settings, settings_hash : what produced it
    split : "train" or "validation", the paper's own; "unknown" where the source doesn't say
    cpu_s : CPU seconds of both levels together; NaN where the source doesn't say
    gap_ev : gap on the ground-state mesh; on the response's where the ground state held no empty band
    details : other facts of the calculation
    """

    material_id: str
    formula: str
    structure: Structure
    sc: float
    sc_xyz: tuple[float, float, float]
    ipa: Spectrum
    rpa: Spectrum
    engine: str
    settings: dict[str, Any]
    settings_hash: str
    split: str
    cpu_s: float
    gap_ev: float
    details: dict[str, Any]


def reduced_formula(structure: Structure) -> str:
    """Reduced formula, the name under which labels are grouped."""
    return structure.composition.reduced_formula


def canonical_settings(raw: Mapping[str, Any]) -> dict[str, Any]:
    """A shard's settings under the engine's key names, with units."""
    # Every shard was computed with PBE and, at the response, whole shells of G-vectors; both go unsaid in it.
    out: dict[str, Any] = {"name": raw["name"], "xc": raw.get("xc", "PBE")}
    out |= {canonical: raw[key] for key, canonical in RAW_SETTINGS.items()}
    out["closed_shell"] = bool(raw.get("closed_shell", True))
    unknown = set(raw) - set(RAW_SETTINGS) - {"name", "xc", "closed_shell"}
    if unknown:
        raise KeyError(f"unknown setting {sorted(unknown)[0]}")
    return out


def load_labels(
    folder: Path = SHIPPED, ids: Sequence[str] | None = None, *, settings_hash: str | None = None
) -> list[Label]:
    """Labels of every shard in a folder, each material once, sorted by material_id.

    Parameters
    ----------
    folder : where ``shard-*.npz`` lie
    ids : only these materials, and all of them; every material if None
    settings_hash : demand one kind of label: those returned must all carry this hash

    Raises
    ------
    UsageError
        No shard in the folder, or an id without a label.
    SelectorError
        A shard is corrupt, a label holds NaN, or a label carries another settings hash.
    """
    shards = sorted(folder.glob("shard-*.npz"))
    if not shards:
        raise UsageError(f"{folder}: no shard-*.npz here: name a folder of label shards")
    wanted = None if ids is None else set(ids)
    labels: dict[str, Label] = {}
    for shard in shards:
        for label in _read_shard(shard, wanted):
            labels.setdefault(label.material_id, label)
    if wanted is not None and wanted - labels.keys():
        lost = sorted(wanted - labels.keys())
        raise UsageError(f"{folder}: no label of {lost[0]} ({len(lost)} of {len(wanted)} ids missing): add its shard")
    out = [labels[k] for k in sorted(labels)]
    if settings_hash is not None:
        for label in out:
            if label.settings_hash != settings_hash:
                raise SelectorError(
                    f"{label.material_id}: label of settings {label.settings_hash}, {settings_hash} asked for: "
                    "labels of different settings are never mixed"
                )
    return out


def _read_shard(path: Path, wanted: set[str] | None) -> Iterator[Label]:
    try:
        with np.load(path, allow_pickle=False) as z:
            meta = json.loads(str(z["meta"]))
            start, omega = z["start"], z["omega"].astype(float)
            levels = {k: z[k] for k in ("ipa", "rpa")}
        n = int(start[-1])
        if len(start) != len(meta) + 1 or len(omega) != n or any(a.shape != (3, n) for a in levels.values()):
            raise ValueError("its arrays do not fit together")
    except (OSError, ValueError, KeyError, EOFError, IndexError, zipfile.BadZipFile, zlib.error) as e:
        raise SelectorError(f"{path}: not a readable label shard ({e}): fetch it again or remove it") from e
    for k, record in enumerate(meta):
        if wanted is None or record.get("mat_id") in wanted:
            part = slice(start[k], start[k + 1])
            yield _label(path, record, omega[part], {name: a[:, part] for name, a in levels.items()})


def _label(
    path: Path, record: dict[str, Any], omega_ev: NDArray[np.float64], eps: dict[str, NDArray[np.complex64]]
) -> Label:
    """One record; the SC is recomputed from the spectra, so that it can't disagree with them."""
    name = record.get("mat_id", "a record without mat_id")
    finite = np.isfinite(omega_ev).all() and all(np.isfinite(a).all() for a in eps.values())
    if not finite or not all(math.isfinite(v) for v in (record.get("sc", 0.0), *record.get("sc_xyz", ()))):
        raise SelectorError(f"{path}: {name}: the label holds NaN: remove it from the shard")
    try:
        s = record["structure"]
        structure = Structure(Lattice(s["cell"]), s["numbers"], s["frac"])
        ipa, rpa = (Spectrum(omega_ev, eps[level].astype(complex)).on_grid(ENERGY_EV) for level in ("ipa", "rpa"))
        x, y, z = (similarity(rpa.eps[k].imag.astype(float), ipa.eps[k].imag.astype(float)) for k in range(3))
        settings = dict(record["settings"]) if "engine" in record else canonical_settings(record["settings"])
        return Label(
            material_id=record["mat_id"],
            formula=Composition(record["formula"]).reduced_formula,
            structure=structure,
            sc=similarity(rpa.mean.imag.astype(float), ipa.mean.imag.astype(float)),
            sc_xyz=(x, y, z),
            ipa=ipa,
            rpa=rpa,
            engine=record.get("engine", ENGINE),
            settings=settings,
            settings_hash=settings_hash(settings),
            split=record["split"],
            cpu_s=float(record["cpu_s"]),
            gap_ev=float(record.get("gap_response", math.nan) if math.isnan(record["gap"]) else record["gap"]),
            details={k: record[k] for k in DETAIL_KEYS if k in record} | record.get("details", {}),
        )
    except (KeyError, ValueError, TypeError) as e:
        raise SelectorError(f"{path}: {name}: not a complete label ({e}): fetch the shard again") from e


def read_manifest(path: Path) -> list[str]:
    """The material ids of a frozen list of labels: a JSON list of strings, each once."""
    try:
        ids = json.loads(path.read_text())
    except (OSError, ValueError) as e:
        raise UsageError(f"{path}: not a readable manifest ({e})") from e
    if not (isinstance(ids, list) and ids and all(isinstance(i, str) for i in ids)):
        raise UsageError(f"{path}: a manifest is a JSON list of material ids")
    if len(set(ids)) != len(ids):
        raise UsageError(f"{path}: a material id stands in it twice")
    return ids


def grouped_folds(groups: Sequence[str], n_folds: int, seed: int) -> NDArray[np.int64]:
    """Fold of each row, shape (n,): rows of one group share a fold, folds hold equally many groups give or take one.

    The same groups and seed give the same folds, in whatever order the rows come.

    Parameters
    ----------
    groups : name of each row's group, its reduced formula as a rule
    n_folds : at least 2; no more than there are groups are used
    seed : of the shuffle
    """
    names = sorted(set(groups))
    if n_folds < 2 or len(names) < 2:
        raise UsageError(f"{len(names)} groups in {n_folds} folds: cross-validation needs two of each")
    order = np.random.default_rng(seed).permutation(len(names))
    fold = {names[k]: i % min(n_folds, len(names)) for i, k in enumerate(order)}
    return np.array([fold[g] for g in groups])
