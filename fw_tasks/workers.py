"""Processes on this machine that launch a campaign's rockets, and the process that looks after them."""

from __future__ import annotations

import argparse
import itertools
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from fireworks import FWorker, LaunchPad
from fireworks.core.rocket_launcher import launch_rocket, rapidfire
from pymongo.errors import AutoReconnect

from fw_tasks.database import database_file, launchpad_for
from fw_tasks.heartbeat import beat
from fw_tasks.signs_of_life import hold_lock, worker_name
from fw_tasks.stopping import stopping
from selector.config import CampaignConfig, load_config
from selector.errors import SelectorError, UsageError
from selector.localdb.lock import read_lock

CATEGORIES = ("ipa", "rpa", "learn", "light", "predict")
QUICK_S, STRIKES = 10.0, 3
"""A worker that ends sooner than this, so many times in a row, is not started again."""
RECONNECT_S = 2.0
PARENT = "SELECTOR_WORKER_PARENT"


class LocalWorkers:
    """Processes on this machine that launch the campaign's rockets; a context manager that stops them at its end.

    Parameters
    ----------
    n : how many
    categories : what they launch (`CATEGORIES`); nothing: everything
    hand_back : whether they hand the running task back as soon as they are told to leave
    """

    def __init__(
        self, config_file: Path, config: CampaignConfig, n: int, categories: Sequence[str] = (), hand_back: bool = True
    ) -> None:
        self._command = [sys.executable, "-m", "fw_tasks.workers", str(config_file.resolve())]
        self._command += [word for category in categories for word in ("--category", category)]
        self._command += ["--hand-back"] if hand_back else []
        self._folder = config.folder / "launches"
        self._workers = [_Worker(self._folder / f"worker-{socket.gethostname()}-{i + 1}.log") for i in range(n)]
        self._leaving = False

    def __enter__(self) -> LocalWorkers:
        self._folder.mkdir(parents=True, exist_ok=True)
        for worker in self._workers:
            worker.start(self._command)
        return self

    def check(self) -> None:
        """Start again what died; `SelectorError` if every worker has ended for good though nobody asked it to."""
        if self._leaving:
            return
        for worker in self._workers:
            worker.look_after(self._command)
        if not any(worker.lives for worker in self._workers):
            words = self._workers[0].last_words()
            raise SelectorError(f"all local workers ended ({words}); see {self._folder}/worker-*.log")

    @property
    def alive(self) -> int:
        """How many are there."""
        return sum(worker.lives for worker in self._workers)

    def leave(self, *, hand_back: bool = False) -> None:
        """Ask every worker to leave after its running task, or (``hand_back``) at once."""
        self._leaving = True
        for worker in self._workers:
            worker.send(signal.SIGUSR1 if hand_back else signal.SIGTERM)

    def __exit__(self, kind: type[BaseException] | None, e: BaseException | None, trace: TracebackType | None) -> None:
        self.leave(hand_back=True)
        for worker in self._workers:
            worker.end(20.0)


@dataclass
class _Worker:
    """One process, started again when it dies; it writes into ``log``."""

    log: Path
    process: subprocess.Popen[bytes] | None = None
    started: float = 0.0
    strikes: int = 0
    given_up: bool = False

    def start(self, command: Sequence[str]) -> None:
        env = os.environ | {"OMP_NUM_THREADS": "1", PARENT: str(os.getpid())}
        self.started = time.monotonic()
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log, stdin=subprocess.DEVNULL, env=env)

    @property
    def lives(self) -> bool:
        return self.process is not None and self.process.poll() is None

    def look_after(self, command: Sequence[str]) -> None:
        """Start it again if it died, unless it said why it can't work, or dies over and over."""
        if self.process is None or self.lives or self.given_up:
            return
        self.strikes = self.strikes + 1 if time.monotonic() - self.started < QUICK_S else 0
        self.given_up = self.process.returncode in (0, UsageError.exit_code) or self.strikes >= STRIKES
        if not self.given_up:
            self.start(command)

    def send(self, number: int) -> None:
        if self.lives and self.process is not None:
            self.process.send_signal(number)

    def end(self, patience_s: float) -> None:
        if self.process is None:
            return
        try:
            self.process.wait(patience_s)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def last_words(self) -> str:
        lines = self.log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
        return lines[-1] if lines else "without a word"


def work(config: CampaignConfig, categories: Sequence[str] = (), *, hand_back: bool = False) -> None:
    """Launch this campaign's rockets until told to stop, or until the process that started this one ends.

    Raises
    ------
    UsageError
        The campaign's local database is another host's.
    """
    refuse_elsewhere(config)
    stopping.listen(hand_back=hand_back, supervised=PARENT in os.environ)
    beat(config.lost_after_h * 3600)
    for connection in itertools.count():
        name = worker_name(connection)
        try:
            with hold_lock(config.folder, name) as lock:
                fworker = FWorker(name, list(categories), {"spec.campaign": config.campaign})
                _launch_rockets(launchpad_for(config), fworker, config.folder / "launches")
                # Nothing runs under this name any more.
                Path(lock.lock_file).unlink(missing_ok=True)
                return
        except AutoReconnect as e:
            # A local database is started again; a MongoDB may come back.
            print(f"the database does not answer ({e}); connecting again", file=sys.stderr, flush=True)
            stopping.asked.wait(RECONNECT_S)
            if not _is_wanted():
                return


def _launch_rockets(launchpad: LaunchPad, fworker: FWorker, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    while _is_wanted():
        if launchpad.run_exists(fworker):
            rapidfire(launchpad, fworker, m_dir=str(folder), nlaunches=1, max_loops=1, sleep_time=1, strm_lvl="ERROR")
        else:
            stopping.asked.wait(0.3)
    if stopping.hands_back:
        _hand_learning_out_again(launchpad, fworker.name)


def _is_wanted() -> bool:
    """Whether nobody asked this process to leave, and the one that started it, if one waits for it, is there still."""
    parent = os.environ.get(PARENT)
    return not stopping.asked.is_set() and (parent is None or os.getppid() == int(parent))


def launch_one(config: CampaignConfig, fw_id: int) -> bool:
    """Launch one firework's rocket in the present folder, as a queue job does; whether it was there to be launched.

    On SIGTERM, from `scancel` or at the job's walltime, its task is handed back.
    """
    refuse_elsewhere(config)
    stopping.listen(hand_back=True)
    beat(config.lost_after_h * 3600)
    name = worker_name()
    with hold_lock(config.folder, name) as lock:
        launchpad = launchpad_for(config)
        fworker = FWorker(name, query={"spec.campaign": config.campaign})
        launched = bool(launch_rocket(launchpad, fworker, fw_id, strm_lvl="ERROR"))
        if stopping.hands_back:
            _hand_learning_out_again(launchpad, name)
        Path(lock.lock_file).unlink(missing_ok=True)
    return launched


def _hand_learning_out_again(launchpad: LaunchPad, name: str) -> None:
    """A fine-tuning that this worker handed back has not failed: another may take it."""
    launches = launchpad.launches.find({"fworker.name": name, "state": "FIZZLED"}, {"fw_id": 1})
    ids = [launch["fw_id"] for launch in launches]
    query = {"fw_id": {"$in": ids}, "state": "FIZZLED", "spec._category": "learn"}
    for firework in launchpad.fireworks.find(query, {"fw_id": 1}):
        launchpad.rerun_fw(firework["fw_id"])


def refuse_elsewhere(config: CampaignConfig) -> None:
    """`UsageError` if the campaign's memory is a local database and its server runs on another host."""
    if config.database_uri() is not None:
        return
    home, here = read_lock(database_file(config)).get("host"), socket.gethostname()
    if home not in (None, here):
        raise UsageError(
            f"campaign '{config.campaign}' keeps its memory in a local database on {home}, which {here} can't reach; "
            "name a MongoDB in database.uri, or use `selector launch --offline` there (if this machine has merely "
            "changed its name: selector db stop, selector db start)"
        )


def main(argv: Sequence[str]) -> int:
    """``python -m fw_tasks.workers CAMPAIGN.yaml [singleshot --fw_id N]``: a worker, or one rocket of a queue job."""
    parser = argparse.ArgumentParser(prog="fw_tasks.workers")
    parser.add_argument("config", type=Path)
    parser.add_argument("mode", nargs="?", choices=["rapidfire", "singleshot"], default="rapidfire")
    parser.add_argument("--fw_id", type=int, help="with singleshot: the firework to launch")
    parser.add_argument("--category", action="append", default=[], choices=CATEGORIES)
    parser.add_argument("--hand-back", action="store_true")
    said = parser.parse_args(argv)
    try:
        if said.mode == "rapidfire":
            work(load_config(said.config), said.category, hand_back=said.hand_back)
        elif not launch_one(load_config(said.config), said.fw_id):
            print(f"firework {said.fw_id} is not there to be launched; nothing was done", file=sys.stderr)
    except SelectorError as e:
        print(f"selector: error: {e}", file=sys.stderr)
        return e.exit_code
    except AutoReconnect as e:
        print(f"selector: error: the database does not answer ({str(e).split(', Timeout:')[0]})", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
