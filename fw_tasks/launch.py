"""From a configuration to a LaunchPad, a campaign, and local rockets."""

from __future__ import annotations

import itertools
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from types import FrameType
from typing import Any

from fireworks import FWorker, LaunchPad
from fireworks.core.rocket_launcher import rapidfire
from pymatgen.core import Structure
from pymongo.errors import AutoReconnect, ConfigurationError, InvalidURI

from fw_tasks.engines import get_engine
from fw_tasks.engines.base import EngineError, ProgramMissing
from fw_tasks.lost import hold_lock, worker_name
from fw_tasks.shelf import Shelf
from fw_tasks.workflows import FireWorksDispatcher, index_keys
from models.sc_predictor import SCPredictor
from selector.campaign import Campaign
from selector.config import CHANGEABLE, CampaignConfig
from selector.errors import SelectorError, UsageError
from selector.files import make_writable
from selector.localdb.revival import keep_running
from selector.protocols import CostEngine
from selector.store import Store

CONNECT_TIMEOUT_MS = 10_000


def database_file(config: CampaignConfig) -> Path:
    """Where a campaign without a MongoDB keeps its memory."""
    return config.folder / "database" / "selector.sqlite"


def connect(config: CampaignConfig) -> LaunchPad:
    """The campaign's database as a LaunchPad: FireWorks' collections lie beside the campaign's own.

    Raises
    ------
    UsageError
        ``database.uri`` is no MongoDB URI.
    """
    uri = config.database_uri()
    if uri is None:
        make_writable(database_file(config).parent)
        uri = keep_running(database_file(config))
    try:
        return LaunchPad(
            host=uri,
            uri_mode=True,
            name=config.database.name,
            logdir=None,
            strm_lvl="ERROR",
            mongoclient_kwargs={"serverSelectionTimeoutMS": CONNECT_TIMEOUT_MS, "tz_aware": False},
        )
    except (InvalidURI, ConfigurationError, ValueError) as e:
        raise UsageError(
            f"database.uri: not a MongoDB URI ({str(e).split(chr(10))[0]}); see configs/campaign.yaml"
        ) from None


def launchpad_for(config: CampaignConfig) -> LaunchPad:
    """The campaign's LaunchPad. A database that holds none yet gets one; one that does keeps every workflow it has."""
    launchpad = connect(config)
    if launchpad.fw_id_assigner.find_one() is None:
        launchpad.fw_id_assigner.update_one(
            {"_id": -1}, {"$setOnInsert": {"next_fw_id": 1, "next_launch_id": 1}}, upsert=True
        )
        launchpad.tuneup()
    index_keys(launchpad)
    return launchpad


def create_campaign(config: CampaignConfig, launchpad: LaunchPad) -> Campaign:
    """Write a new campaign, with the weights it starts from as its first model."""
    store = Store(launchpad.db, config.campaign)
    if store.exists():
        raise UsageError(f"campaign '{config.campaign}' exists already in this database; choose another name")
    shelf = Shelf(config.folder / "models")
    engine = get_engine(config.engine.name, config.engine.preset, **config.engine.options)
    first: list[tuple[SCPredictor, str, dict[str, Any]]] = [(*shelf.adopt(config.predictor.checkpoint), {})]
    if config.ipa != "skip":
        first.append((*shelf.adopt(config.predictor.ipa_checkpoint, reads_ipa=True), {"reads_ipa": True}))
    store.create(config.public(), config.budget_cpu_h, engine.label_engine, engine.settings_hash, **config.account())
    for predictor, file, line in first:
        store.add_model(
            predictor.model_id,
            round=0,
            parent=None,
            file=file,
            engine=predictor.engine,
            settings_hash=predictor.settings_hash,
            n_new_labels=0,
            metrics=predictor.card.get("metrics", {}),
            **line,
        )
    models = " and ".join(predictor.model_id for predictor, _, _ in first)
    store.event("created", f"campaign '{config.campaign}' with {config.budget_cpu_h:g} CPU-h, model {models}")
    return campaign_on(launchpad, config.campaign)


def campaign_on(launchpad: LaunchPad, name: str) -> Campaign:
    """An existing campaign, with the configuration that the database holds."""
    store = Store(launchpad.db, name)
    config = CampaignConfig.model_validate(store.campaign()["config"])
    engine = get_engine(config.engine.name, config.engine.preset, **config.engine.options)
    dispatcher = FireWorksDispatcher(launchpad, config.folder, engine)
    return Campaign(store, config, engine, dispatcher, Shelf(config.folder / "models"))


def open_campaign(config: CampaignConfig) -> Campaign:
    """The campaign of a configuration file, in its database.

    Raises
    ------
    UsageError
        The file was changed after `selector init` in something else than the database's address or what may change
        (`selector.config.CHANGEABLE`), which is taken over.
    """
    campaign = campaign_on(launchpad_for(config), config.campaign)
    campaign.store.create_indexes()
    stored, given = campaign.config.public(), config.public()
    changed = [key for key in given if stored.get(key) != given[key] and key not in CHANGEABLE]
    if changed:
        raise UsageError(
            f"campaign '{config.campaign}': key '{changed[0]}' differs from what `selector init` recorded "
            f"({stored.get(changed[0])!r}); set it back, or begin a campaign of another name"
        )
    campaign.follow(config)
    return campaign


def suitable(engine: CostEngine, structure: Structure) -> None:
    """The engine's own check of a candidate, on whatever machine the pool is filled: its program need not be here."""
    try:
        engine.check(structure)
    except ProgramMissing:
        pass
    except EngineError as e:
        raise type(e)(f"{e}; {e.remedy}") from None


# -- local rockets ----------------------------------------------------------------------------------------------------


class LocalWorkers:
    """Processes on this machine that launch the campaign's rockets; a context manager that stops them at its end."""

    def __init__(self, config_file: Path, config: CampaignConfig, n: int) -> None:
        self._command = [sys.executable, "-m", "fw_tasks.launch", str(config_file.resolve())]
        self._folder = config.folder / "launches"
        self._n = n
        self._workers: list[subprocess.Popen[bytes]] = []

    def __enter__(self) -> LocalWorkers:
        self._folder.mkdir(parents=True, exist_ok=True)
        env = os.environ | {"OMP_NUM_THREADS": "1", "SELECTOR_WORKER_PARENT": str(os.getpid())}
        for i in range(self._n):
            with (self._folder / f"worker-{i + 1}.log").open("ab") as log:
                self._workers.append(
                    subprocess.Popen(self._command, stdout=log, stderr=log, stdin=subprocess.DEVNULL, env=env)
                )
        return self

    def check(self) -> None:
        """`SelectorError` if every worker has ended though nobody asked it to."""
        if all(worker.poll() is not None for worker in self._workers):
            raise SelectorError(f"all local workers ended; their last words are in {self._folder}/worker-*.log")

    def __exit__(self, *exc: object) -> None:
        for worker in self._workers:
            if worker.poll() is None:
                worker.terminate()
        for worker in self._workers:
            try:
                worker.wait(timeout=20)
            except subprocess.TimeoutExpired:
                worker.kill()
                worker.wait()


def work(config: CampaignConfig) -> None:
    """Launch this campaign's rockets until told to stop, or until the process that started this one ends."""
    stop = threading.Event()

    def on_signal(signum: int, frame: FrameType | None) -> None:
        # A running calculation ends as 'Interrupted': its task writes that down and its process is stopped.
        stop.set()
        raise SystemExit(0)

    signal.signal(signal.SIGTERM, on_signal)
    signal.signal(signal.SIGINT, on_signal)
    for connection in itertools.count():
        name = worker_name(connection)
        try:
            with hold_lock(config.folder, name):
                fworker = FWorker(name=name, query={"spec.campaign": config.campaign})
                _launch_rockets(launchpad_for(config), fworker, config.folder / "launches", stop)
                return
        except AutoReconnect as e:
            # A local database is started again; a MongoDB may come back.
            print(f"the database does not answer ({e}); connecting again", file=sys.stderr, flush=True)
            if stop.wait(2.0):
                return


def _launch_rockets(launchpad: LaunchPad, fworker: FWorker, folder: Path, stop: threading.Event) -> None:
    parent = os.environ.get("SELECTOR_WORKER_PARENT")
    while not stop.is_set() and (parent is None or os.getppid() == int(parent)):
        if launchpad.run_exists(fworker):
            rapidfire(launchpad, fworker, m_dir=str(folder), nlaunches=1, max_loops=1, sleep_time=1, strm_lvl="ERROR")
        else:
            stop.wait(0.3)


def main(argv: list[str]) -> Any:
    from selector.config import load_config

    work(load_config(Path(argv[1])))


if __name__ == "__main__":
    main(sys.argv)
