"""A real campaign in a folder: `selector run` and `selector worker` with two workers each, and its database.

What faults need of it: its processes, its disk, its sockets, its clocks. It starts a command again only where a fault
has killed it, as a user would; what ends unasked is noted.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any
from urllib.parse import quote

from pymongo import MongoClient
from pymongo.errors import PyMongoError

from fault_injection.disk import SmallDisk
from fault_injection.proxy import Proxy
from models.labels import Label
from selector import localdb
from selector.localdb.client import socket_of

NAME = "faults"
PLUGIN = Path(__file__).parent / "plugin"
FAKETIME = (
    "/usr/lib/x86_64-linux-gnu/faketime/libfaketimeMT.so.1",
    "/usr/lib/aarch64-linux-gnu/faketime/libfaketimeMT.so.1",
)
CLOCK_CHECKED_S = 1
"""libfaketime reads how far to shift the clock this often."""
NO_ANSWER, OPENING_S = "the database does not answer", 40.0
"""A command says so of an address, ten seconds after it has begun, which takes a while on a busy machine."""
MOUNT_MB, MOUNT_MB_A_LABEL = 64, 1.5
COMMANDS = {"run": ["run", "--config"], "worker": ["worker", "--until-done", "-n", "2"]}
"""The second one's processes have the clock that is shifted."""


@dataclass(frozen=True)
class Plan:
    """What a campaign computes, with how much, and where its memory lies.

    Attributes
    ----------
    labels : what is replayed
    budget : CPU-hours, as a multiple of what the labels cost when they were recorded
    mean_s : seconds that a computation takes here, on average
    behind_proxy : whether the database has an address, as a MongoDB has, and is started again by its administrator;
        else it lies on the campaign's disk and is started again by its clients
    """

    labels: Sequence[Label]
    budget: float
    mean_s: float = 1.5
    behind_proxy: bool = False

    @property
    def wall_s(self) -> float:
        """What the labels took when they were recorded."""
        return sum(recorded_s(label) for label in self.labels)

    def text(self, uri: str | None, log: Path) -> str:
        """The campaign's file; attempts without end, for the faults are not the materials'."""
        time_scale = self.mean_s * len(self.labels) / self.wall_s
        database = f"database: {{uri: '{uri}'}}\n" if uri else ""
        return (
            f"campaign: {NAME}\nfolder: run\nbudget_cpu_h: {self.budget * self.wall_s / 3600}\n{database}"
            f"engine: {{name: logged_replay, options: {{time_scale: {time_scale}, log: {log}}}}}\n"
            "policy: {threshold: 1.0, value_floor: 0}\npredictor: {retrain_every: 8}\n"
            "max_in_flight: 8\nmax_attempts: 1000\n"
        )


def recorded_s(label: Label) -> float:
    """Wall seconds of the recorded calculation."""
    return float(label.details.get("wall_s", label.cpu_s))


@dataclass
class Command:
    """One of the campaign's two commands."""

    name: str
    process: subprocess.Popen[bytes] | None = None
    started_s: float = 0.0
    awaits_restart: bool = False
    ends: list[str] = field(default_factory=list)
    """Exit codes and last words of those that ended with an error though no fault had killed them."""
    not_begun: int = 0
    """How many found nobody at the database's address when they were started, and said so."""


class Campaign:
    """The campaign with its processes; a context manager that leaves none behind.

    Attributes
    ----------
    folder : holds ``campaign.yaml``, ``run`` (the small disk), ``log`` and the commands' output
    """

    def __init__(self, folder: Path, plan: Plan) -> None:
        self.folder, self.plan = folder.resolve(), plan
        self.file = self.folder / "campaign.yaml"
        self.log = self.folder / "log"
        self.disk = SmallDisk(self.folder / "run", round(MOUNT_MB + MOUNT_MB_A_LABEL * len(plan.labels)))
        home = self.folder / "elsewhere" if plan.behind_proxy else self.folder / "run" / "database"
        self.database_file = home / "selector.sqlite"
        self.commands = {name: Command(name) for name in COMMANDS}
        self.proxy: Proxy | None = None
        self._clock = self.folder / "clock"
        self._exit = contextlib.ExitStack()

    def __enter__(self) -> Campaign:
        with contextlib.ExitStack() as stack:
            self.log.mkdir(parents=True)
            stack.callback(self._end)
            stack.enter_context(self.disk)
            stack.callback(self._keep_logs)
            stack.callback(self._end)
            _install_plugin(self.folder / "plugin")
            uri = None
            if self.plan.behind_proxy:
                self.database_file.parent.mkdir()
                self.proxy = stack.enter_context(Proxy(self.start_database()))
                uri = f"mongodb://127.0.0.1:{self.proxy.port}"
            self.file.write_text(self.plan.text(uri, self.log), encoding="utf-8")
            self.shift_clock("+0")
            for label in self.plan.labels:
                cif = self.folder / "cifs" / f"{label.material_id}.cif"
                cif.parent.mkdir(exist_ok=True)
                label.structure.to(str(cif))
            self._selector("init", self.file)
            self._selector("add", self.folder / "cifs", "--config", self.file)
            for command in self.commands.values():
                self.start(command)
            self._exit = stack.pop_all()
        return self

    def __exit__(self, kind: type[BaseException] | None, e: BaseException | None, trace: TracebackType | None) -> None:
        self._exit.close()

    # -- its commands --------------------------------------------------------------------------------------------------

    def start(self, command: Command) -> None:
        """Start one of the two commands, or start it again."""
        arguments = [sys.executable, "-m", "selector.cli", *COMMANDS[command.name], str(self.file)]
        arguments += ["--workers", "2"] if command.name == "run" else []
        env = self._environment(shifted=command.name == "worker")
        with (self.folder / f"{command.name}.log").open("ab") as out:
            command.process = subprocess.Popen(arguments, stdout=out, stderr=out, stdin=subprocess.DEVNULL, env=env)
        command.started_s, command.awaits_restart = time.monotonic(), False

    def look_after(self) -> bool:
        """Note what ended, and start it again if that was an error; whether both have ended well."""
        for command in self.commands.values():
            if command.awaits_restart or command.process is None or (code := command.process.poll()) is None:
                continue
            if code != 0:
                said = self._last_words(command.name)
                if self.plan.behind_proxy and NO_ANSWER in said and time.monotonic() - command.started_s < OPENING_S:
                    command.not_begun += 1
                else:
                    command.ends.append(f"exit code {code}: {said}")
                time.sleep(1.0)
                self.start(command)
        processes = [command.process for command in self.commands.values() if not command.awaits_restart]
        return len(processes) == len(self.commands) and all(p is not None and p.poll() == 0 for p in processes)

    def _last_words(self, name: str) -> str:
        text = (self.folder / f"{name}.log").read_text(encoding="utf-8", errors="replace")
        return next((line for line in reversed(text.splitlines()) if line.strip()), "without a word")

    # -- its processes -------------------------------------------------------------------------------------------------

    def workers(self) -> list[int]:
        """Process ids of living workers."""
        return [pid for pid, words in self._processes() if "fw_tasks.workers" in words]

    def database(self) -> int | None:
        """The database server's process id; None while there is none."""
        return next((pid for pid, words in self._processes() if "selector.localdb.server" in words), None)

    def everything(self) -> list[int]:
        """All of the campaign's processes."""
        return [pid for pid, _ in self._processes()]

    def _processes(self) -> Iterator[tuple[int, list[str]]]:
        for place in Path("/proc").glob("[0-9]*/cmdline"):
            try:
                words = place.read_bytes().decode(errors="replace").split("\0")
            except OSError:
                continue  # it has ended meanwhile
            # They alone were given a path in this campaign's folder.
            if any(word.startswith(f"{self.folder}/") for word in words) and "python" in words[0]:
                yield int(place.parent.name), words

    # -- its database, its clocks --------------------------------------------------------------------------------------

    def start_database(self) -> Path:
        """Start the database's server, as its administrator would; its socket."""
        localdb.ensure_running(self.database_file)
        found = socket_of(self.database_file)
        assert found is not None
        return found

    @contextlib.contextmanager
    def memory(self) -> Iterator[Any]:
        """The campaign's database, past the proxy; raises what pymongo raises while it is away."""
        path = socket_of(self.database_file)
        if path is None:
            raise PyMongoError("there is no database yet")
        uri = f"mongodb://{quote(str(path), safe='')}/"
        with MongoClient[Any](uri, serverSelectionTimeoutMS=1000, socketTimeoutMS=5000) as client:
            yield client["selector"]

    def shift_clock(self, by: str) -> None:
        """Shift the clock of the processes of `selector worker`, also of those that run, as libfaketime writes it."""
        part = self._clock.with_suffix(".part")
        part.write_text(f"{by}\n", encoding="utf-8")
        part.replace(self._clock)

    def _environment(self, shifted: bool = False) -> dict[str, str]:
        paths = [str(self.folder / "plugin"), str(PLUGIN), os.environ.get("PYTHONPATH", "")]
        env = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, paths)), "OMP_NUM_THREADS": "1"}
        if shifted:
            # The monotonic clock stays: no machine's goes backwards.
            env |= {"LD_PRELOAD": faketime(), "FAKETIME_TIMESTAMP_FILE": str(self._clock)}
            env |= {"FAKETIME_DONT_FAKE_MONOTONIC": "1", "FAKETIME_CACHE_DURATION": str(CLOCK_CHECKED_S)}
        return env

    def _selector(self, *arguments: object) -> None:
        command = [sys.executable, "-m", "selector.cli", *map(str, arguments)]
        done = subprocess.run(command, capture_output=True, text=True, env=self._environment(), check=False)
        if done.returncode:
            raise RuntimeError(f"selector {arguments[0]}: {done.stderr}")

    def _keep_logs(self) -> None:
        """Copy what workers and database wrote from the small disk, which goes."""
        for file in (*self.disk.folder.glob("launches/worker-*.log"), *self.disk.folder.glob("database/*.log")):
            shutil.copy(file, self.log / file.name)

    def _end(self) -> None:
        """End whatever of it still lives."""
        for command in self.commands.values():
            if command.process is not None and command.process.poll() is None:
                command.process.kill()
                command.process.wait()
        for pid in self.everything():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def faketime() -> str:
    """libfaketime, for LD_PRELOAD; `FileNotFoundError` if it is not installed."""
    found = next((file for file in FAKETIME if Path(file).exists()), None)
    if found is None:
        raise FileNotFoundError("libfaketime is not installed: apt-get install faketime")
    return found


def computations(log: Path) -> list[dict[str, Any]]:
    """The lines of the engine's own log, but for one that is being written."""
    file = log / "computations.jsonl"
    text = file.read_text() if file.exists() else ""
    return [json.loads(line) for line in text[: text.rfind("\n") + 1].splitlines()]


def _install_plugin(folder: Path) -> None:
    """What an installed package tells Python of its entry points."""
    info = folder / "logged_replay-1.dist-info"
    shutil.rmtree(info, ignore_errors=True)
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: logged-replay\nVersion: 1\n")
    entry = "[theory_level_selector.engines]\nlogged_replay = logged_replay:LoggedReplay\n"
    (info / "entry_points.txt").write_text(entry)
