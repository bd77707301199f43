"""Processes on this machine that launch a campaign's rockets."""

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
from pymongo.errors import AutoReconnect

from fw_tasks.database import launchpad_for
from fw_tasks.lost import hold_lock, worker_name
from selector.config import CampaignConfig, load_config
from selector.errors import SelectorError


class LocalWorkers:
    """Processes on this machine that launch the campaign's rockets; a context manager that stops them at its end."""

    def __init__(self, config_file: Path, config: CampaignConfig, n: int) -> None:
        self._command = [sys.executable, "-m", "fw_tasks.workers", str(config_file.resolve())]
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
    work(load_config(Path(argv[1])))


if __name__ == "__main__":
    main(sys.argv)
