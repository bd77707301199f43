"""What `selector doctor` looks at."""

from __future__ import annotations

import os
import platform
import shutil
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version

from selector.config import CampaignConfig
from selector.errors import SelectorError

REQUIRED = ("torch", "torch-geometric", "pymatgen", "fireworks", "pymongo", "numpy", "scipy", "ase", "spglib")
OPTIONAL = {
    "gpaw": "the GPAW engine: pip install 'theory-level-selector[gpaw]' (the README tells how it is built)",
    "umap-learn": "the map: pip install 'theory-level-selector[map]'",
    "pyarrow": "selector export --format parquet: pip install 'theory-level-selector[export]'",
    "h5py": "selector export --format hdf5: pip install 'theory-level-selector[export]'",
}
PROGRAMS = {
    "pw.x": "Quantum ESPRESSO: on a cluster load its module",
    "yambo": "Yambo: on a cluster load its module",
    "sbatch": "SLURM: only needed to launch rockets through a queue",
}


@dataclass(frozen=True)
class Finding:
    """One line of the doctor's report."""

    what: str
    ok: bool
    found: str
    remedy: str = ""
    optional: bool = False


def examine(config: CampaignConfig | None) -> list[Finding]:
    """Libraries, programs, devices, shipped weights, and the campaign's database if one is named."""
    findings = [Finding("python", True, platform.python_version())]
    findings += [_library(name, f"pip install {name}", optional=False) for name in REQUIRED]
    findings += [_library(name, remedy, optional=True) for name, remedy in OPTIONAL.items()]
    for name, remedy in PROGRAMS.items():
        place = shutil.which(name)
        findings.append(Finding(name, place is not None, place or "not on PATH", remedy, optional=True))
    findings += [_device(), _weights()]
    if config is not None:
        findings.append(_database(config))
        findings.append(_folder(config))
    return findings


def _library(name: str, remedy: str, optional: bool) -> Finding:
    try:
        return Finding(name, True, version(name))
    except PackageNotFoundError:
        return Finding(name, False, "not installed", remedy, optional)


def _device() -> Finding:
    import torch

    gpu = torch.cuda.is_available()
    found = torch.cuda.get_device_name(0) if gpu else "none"
    return Finding("GPU", gpu, found, "not needed; a CUDA device makes training faster", optional=True)


def _weights() -> Finding:
    from models import checkpoints

    try:
        return Finding("shipped weights", True, checkpoints.load(checkpoints.default_checkpoint()).model_id)
    except SelectorError as e:
        return Finding("shipped weights", False, "unusable", str(e))


def _database(config: CampaignConfig) -> Finding:
    from pymongo.errors import PyMongoError

    from fw_tasks.database import launchpad_for

    kind = "MongoDB" if config.database_uri() else "local database"
    try:
        answer = launchpad_for(config).db.client.admin.command("buildInfo")
        return Finding(kind, True, f"answers, version {answer.get('version')}")
    except (PyMongoError, SelectorError) as e:
        return Finding(kind, False, "does not answer", str(e).split(", Timeout:")[0].split("\n")[0])


def _folder(config: CampaignConfig) -> Finding:
    writable = os.access(next(p for p in (config.folder, *config.folder.parents) if p.exists()), os.W_OK)
    return Finding("campaign folder", writable, str(config.folder), "choose a folder you may write to")
