"""What `selector doctor` looks at."""

from __future__ import annotations

import os
import platform
import shutil
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import cast

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
    """Libraries, programs, devices, shipped weights; of a campaign also its database and its engine's programs."""
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
        if config.engine.name == "qe_yambo":
            findings += _qe_yambo(config)
    return findings


def lost_work(config: CampaignConfig, lost_after_h: float | None, repair: bool) -> list[Finding]:
    """What of the campaign's work was lost, and stands in its ledger for nothing; put right if that is asked for.

    Raises
    ------
    SelectorError
        It is to be put right, and another process is at the campaign's step.
    """
    from fw_tasks.database import launchpad_for
    from fw_tasks.engines import get_engine
    from fw_tasks.launch import open_campaign
    from fw_tasks.lost import find_lost
    from fw_tasks.workflows import FireWorksDispatcher
    from selector.dispatching import orphans

    campaign, launchpad = open_campaign(config), launchpad_for(config)
    lost_after_s = (campaign.config.lost_after_h if lost_after_h is None else lost_after_h) * 3600
    lost = list(find_lost(launchpad, config.campaign, config.folder, lost_after_s, ask_queue_s=0.0))
    orphaned = orphans(campaign.store)
    if repair:
        engine = get_engine(config.engine.name, config.engine.preset, **config.engine.options)
        campaign.dispatcher = FireWorksDispatcher(launchpad, config.folder, engine, lost_after_s, ask_queue_s=0.0)
        if campaign.recover() is None:
            raise SelectorError(f"campaign '{config.campaign}': another process is at its step; try again in a moment")
    remedy = "the next step puts it right; --repair does so now"
    done = "; put right" if repair else ""
    findings = [Finding(f"lost: {one.kind}", repair, f"{one.name}: {one.why}{done}", remedy) for one in lost]
    findings += [Finding("lost: ledger", repair, f"reserved for nothing: {key}{done}", remedy) for key in orphaned]
    return findings or [Finding("lost work", True, "none")]


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
    from selector.mongo_errors import explain

    kind = "MongoDB" if config.database_uri() else "local database"
    try:
        answer = launchpad_for(config).db.client.admin.command("buildInfo")
        return Finding(kind, True, f"answers, version {answer.get('version')}")
    except PyMongoError as e:
        return Finding(kind, False, "does not answer", explain(e))
    except SelectorError as e:
        return Finding(kind, False, "does not answer", str(e))


def _folder(config: CampaignConfig) -> Finding:
    writable = os.access(next(p for p in (config.folder, *config.folder.parents) if p.exists()), os.W_OK)
    return Finding("campaign folder", writable, str(config.folder), "choose a folder you may write to")


def _qe_yambo(config: CampaignConfig) -> list[Finding]:
    """The campaign's commands, behind its module loads, and its pseudopotentials."""
    from fw_tasks.engines import get_engine
    from fw_tasks.engines.base import EngineError
    from fw_tasks.engines.qe_yambo import QEYamboEngine
    from fw_tasks.engines.qe_yambo.pseudopotentials import usable_elements

    engine = cast(QEYamboEngine, get_engine("qe_yambo", config.engine.preset, **config.engine.options))
    findings = []
    for program in ("pw", "p2y", "yambo"):
        what = f"the engine's {program}"
        try:
            engine.programs.check([program])
            findings.append(Finding(what, True, getattr(engine.programs, program)))
        except EngineError as e:
            findings.append(Finding(what, False, "not found", str(e)))
    try:
        family = str(engine.settings["pseudopotentials"])
        n = len(usable_elements(engine.pseudo_dir, family))
        remedy = f"put {family} files there (docs/engines.md), or name another folder by the option pseudo_dir"
        findings.append(Finding("pseudopotentials", n > 0, f"{engine.pseudo_dir}, elements: {n}", remedy))
    except EngineError as e:
        findings.append(Finding("pseudopotentials", False, "no folder", str(e)))
    return findings
