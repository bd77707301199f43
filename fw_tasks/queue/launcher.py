"""A campaign's rockets through SLURM: as many jobs in the queue as allowed, for as long as the campaign runs.

Each job is one calculation, reserved through FireWorks' own queue launcher, so that no job waits that has nothing to do
and each asks for the size of its own reservation. What is light (booking results, the campaign's step) is done here,
between submissions: it needs the database, and no queue.
"""

from __future__ import annotations

import contextlib
import shlex
import socket
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from fireworks import FWorker, LaunchPad
from fireworks.core import rocket
from fireworks.core.rocket_launcher import launch_rocket
from fireworks.queue.queue_launcher import launch_rocket_to_queue
from pymongo.uri_parser import parse_uri

from fw_tasks.queue import offline, slurm
from fw_tasks.queue.adapter import SlurmAdapter, refusal
from fw_tasks.queue.cluster import CATEGORIES, DEFAULT_TIME, WITHOUT_RESERVATION, Category, Cluster
from selector.config import CampaignConfig
from selector.errors import SelectorError, UsageError

LOOPBACK = ("localhost", "127.0.0.1", "::1")


@dataclass
class Round:
    """What one round did: jobs queued, light tasks done, states of the campaign's jobs; why nothing more was queued.

    ``n_shards`` are those that are still to be predicted by jobs.
    """

    submitted: list[str] = field(default_factory=list)
    n_light: int = 0
    n_shards: int = 0
    states: Counter[str] = field(default_factory=Counter)
    trouble: SelectorError | None = None


class QueueLauncher:
    """Rounds of a campaign on a cluster; ``categories`` are those it submits, at most ``max_jobs`` jobs at a time.

    Raises
    ------
    UsageError
        SLURM has no such partition, a category is not in the cluster file, or the nodes could not reach the database.
    """

    def __init__(
        self,
        config_file: Path,
        config: CampaignConfig,
        cluster: Cluster,
        max_jobs: int,
        categories: Sequence[Category] = (),
        offline: bool = False,
    ) -> None:
        self._config_file, self._config, self._cluster = config_file.resolve(), config, cluster
        self._max_jobs, self._offline = max_jobs, offline
        self._categories = _submitted(config, cluster, categories, offline)
        self._partitions = {category: cluster.partition(category) for category in self._categories}
        self._learner: subprocess.Popen[bytes] | None = None
        # FireWorks would tell every rocket's take-off on the terminal where the campaign's state is shown.
        rocket.ROCKET_STREAM_LOGLEVEL = "ERROR"
        self._folder = config.folder / "launches"
        if not offline:
            _refuse_unreachable(config, self._partitions)

    def scripts(self, launchpad: LaunchPad) -> dict[str, str]:
        """The script of the next job of each category, as it would be submitted now; none where nothing is ready."""
        found: dict[str, str] = {}
        for category in self._categories:
            query = self._fworker("", category).query | {"state": "READY"}
            firework = launchpad.fireworks.find_one(query, {"fw_id": 1, "spec._queueadapter": 1}, sort=[("fw_id", 1)])
            if firework is not None:
                size = firework["spec"].get("_queueadapter", {})
                found[category] = self.script(category, size, str(firework["fw_id"]))
        return found

    def script(self, category: Category, size: dict[str, Any], fw_id: str) -> str:
        """The script of a job of this size (`fw_tasks.queue.sizing`)."""
        adapter = self._adapter(category)
        adapter.update(size)
        adapter["rocket_launch"] += f" --fw_id {fw_id}"
        return str(adapter.get_script_str(str(self._folder / "DATE" / "job-TIME")))

    def round(self, launchpad: LaunchPad, name: str) -> Round:
        """Take over what offline jobs left, do what is light, fill the queue.

        Raises
        ------
        SelectorError
            `sbatch` refuses a job, and the campaign has none in the queue whose end could change that.
        """
        done = Round()
        if self._offline:
            offline.take_over(launchpad, self._config.campaign)
        done.n_light = self._do_light_tasks(launchpad, name)
        try:
            jobs = slurm.jobs_of(self._comment)
            done.states = Counter(job.state for job in jobs)
            for category in self._categories:
                while len(jobs) + len(done.submitted) < self._max_jobs:
                    job_id = self._submit(launchpad, name, category)
                    if job_id is None:
                        break
                    done.submitted.append(job_id)
        except slurm.QueueRefused as e:
            if not done.states and not done.submitted:
                raise
            done.trouble = e
        except slurm.QueueUnreachable as e:
            done.trouble = e
        self._learn_here(launchpad)
        if "predict" in self._categories:
            unfinished = {"state": {"$in": ["READY", "RESERVED", "RUNNING"]}}
            done.n_shards = launchpad.fireworks.count_documents(self._fworker("", "predict").query | unfinished)
        return done

    def close(self) -> None:
        """End what this launcher runs itself; queued jobs stay."""
        if self._learner is not None and self._learner.poll() is None:
            self._learner.terminate()
            self._learner.wait()

    @property
    def _comment(self) -> str:
        """By which the campaign's jobs are known in the queue."""
        return f"selector {self._config.campaign}"

    def _adapter(self, category: Category) -> SlurmAdapter:
        keys = self._cluster.keys(category)
        time = {"walltime": keys.pop("time", DEFAULT_TIME)} if category in WITHOUT_RESERVATION else {}
        module = "fw_tasks.queue.offline" if self._offline else "fw_tasks.workers"
        mode = "singleshot --offline" if self._offline else "singleshot"
        return SlurmAdapter(
            **{"no_requeue": True, "output": "slurm-%j.out", **time, **keys},
            comment=self._comment,
            rocket_launch=f"{shlex.join([self._cluster.python, '-m', module, str(self._config_file)])} {mode}",
            _startup_s=self._cluster.startup_s,
            _max_s=self._partitions[category].max_s,
        )

    def _fworker(self, name: str, category: str) -> FWorker:
        return FWorker(name=name, query={"spec.campaign": self._config.campaign, "spec._category": category})

    def _submit(self, launchpad: LaunchPad, name: str, category: Category) -> str | None:
        """Queue a job for the next firework of a category; its id, or None if none is ready.

        FireWorks reserves the firework, and hands it back when `sbatch` refuses.
        """
        # An offline launch keeps the name that it is reserved under; it must not seem to end with this process.
        fworker = self._fworker(f"offline {name}" if self._offline else name, category)
        if not launchpad.run_exists(fworker):
            return None
        folder = self._folder / f"{datetime.now():%Y-%m-%d}" / f"job-{datetime.now():%H%M%S-%f}"
        folder.mkdir(parents=True)
        adapter = self._adapter(category)
        job_id = launch_rocket_to_queue(
            launchpad, fworker, adapter, launcher_dir=str(folder), reserve=True, strm_lvl="CRITICAL"
        )
        if job_id:
            return str(job_id)
        if (error := refusal(folder)) is not None:
            raise error
        with contextlib.suppress(OSError):
            folder.rmdir()
        return None

    def _do_light_tasks(self, launchpad: LaunchPad, name: str) -> int:
        fworker, n = self._fworker(name, "light"), 0
        if not launchpad.run_exists(fworker):
            return 0
        folder = self._folder / "light"
        folder.mkdir(parents=True, exist_ok=True)
        with contextlib.chdir(folder):
            while launch_rocket(launchpad, fworker, strm_lvl="ERROR"):
                n += 1
        return n

    def _learn_here(self, launchpad: LaunchPad) -> None:
        """Fine-tune in a process beside this one, where the cluster has no category for it."""
        if "learn" in self._categories or (self._learner is not None and self._learner.poll() is None):
            return
        ready = launchpad.fireworks.find_one(
            {"spec.campaign": self._config.campaign, "spec._category": "learn", "state": "READY"}, {"fw_id": 1}
        )
        if ready is None:
            return
        folder = self._folder / "learn"
        folder.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, "-m", "fw_tasks.workers", str(self._config_file), "singleshot"]
        with (folder / "learn.log").open("ab") as log:
            self._learner = subprocess.Popen(
                [*command, "--fw_id", str(ready["fw_id"])], stdout=log, stderr=log, stdin=subprocess.DEVNULL, cwd=folder
            )


def _submitted(
    config: CampaignConfig, cluster: Cluster, wanted: Sequence[Category], offline: bool
) -> tuple[Category, ...]:
    """The categories to submit: the wanted ones, else all that the cluster file has and the campaign needs."""
    needed: tuple[Category, ...] = ("ipa", "rpa") if config.ipa == "compute" else ("rpa",)
    for category in wanted or needed:
        if category not in cluster.categories:
            raise UsageError(
                f"the cluster file has no category '{category}', which this campaign's jobs are of; add it under "
                "'categories' (it may be empty: {})"
            )
    chosen = tuple(c for c in CATEGORIES if c in (wanted or cluster.categories))
    return tuple(c for c in chosen if not (offline and c in WITHOUT_RESERVATION))


def _refuse_unreachable(config: CampaignConfig, partitions: dict[Category, slurm.Partition]) -> None:
    """Nodes other than this one cannot reach a database that answers here alone."""
    here = {socket.gethostname(), socket.gethostname().split(".")[0]}
    others = sorted(frozenset[str]().union(*(p.hosts for p in partitions.values())) - here)
    if not others:
        return
    uri = config.database_uri()
    if uri is None:
        raise UsageError(
            f"jobs may run on {_some(others)}, which cannot reach this machine's local database: name a MongoDB in "
            "database.uri (docs/cluster.md), or launch with --offline"
        )
    if uri.startswith("mongodb://") and all(_is_here(host) for host, _ in parse_uri(uri)["nodelist"]):
        raise UsageError(
            f"jobs may run on {_some(others)}, and database.uri names this machine by a name that is theirs, too: "
            "write the database's host as the nodes know it, or launch with --offline"
        )


def _is_here(host: str) -> bool:
    """Whether a host of a URI is the machine that reads it: by name, or by a socket of the file system."""
    return host in LOOPBACK or host.startswith("/")


def _some(hosts: Sequence[str]) -> str:
    return ", ".join(hosts[:3]) + (f" and {len(hosts) - 3} more hosts" if len(hosts) > 3 else "")
