"""A campaign's files in a folder, its database behind a URI, its jobs in a SLURM of this machine."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from local_slurm import LocalSlurm

from fw_tasks.launch import open_campaign
from selector.campaign import Campaign
from selector.config import load_config

SELECTOR = [sys.executable, "-m", "selector.cli"]


@dataclass
class OnCluster:
    """A campaign's files in a folder, its database elsewhere."""

    folder: Path
    uri: str
    database: str
    slurm: LocalSlurm

    def write(self, campaign: str, cluster: str) -> None:
        (self.folder / "campaign.yaml").write_text(
            f"folder: run\ndatabase: {{uri: '{self.uri}', name: {self.database}}}\n{campaign}", encoding="utf-8"
        )
        (self.folder / "cluster.yaml").write_text(cluster, encoding="utf-8")

    def selector(self, *arguments: object, check: bool = True) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [*SELECTOR, *map(str, arguments)], cwd=self.folder, capture_output=True, text=True, timeout=300, check=False
        )
        assert not check or done.returncode == 0, done.stderr
        return done

    def launch(self, *arguments: object) -> subprocess.Popen[str]:
        """`selector launch`, in the background."""
        command = ["launch", "campaign.yaml", "--cluster", "cluster.yaml", "--interval-s", "1", *map(str, arguments)]
        with (self.folder / "launch.log").open("ab") as log:
            return subprocess.Popen([*SELECTOR, *command], cwd=self.folder, stdout=log, stderr=log, text=True)

    def said(self) -> str:
        return (self.folder / "launch.log").read_text(encoding="utf-8")

    def campaign(self) -> Campaign:
        return open_campaign(load_config(self.folder / "campaign.yaml"))

    def jobs(self, state: str) -> dict[str, str]:
        """Job ids -> names, of jobs in this state."""
        rows = self.slurm.run("squeue", "-h", "-t", state, "-o", "%i %j").splitlines()
        return dict(row.split(maxsplit=1) for row in rows)


def until(happens: Callable[[], Any], limit_s: float, process: subprocess.Popen[str] | None = None) -> Any:
    """What ``happens`` returns once that is true."""
    end = time.monotonic() + limit_s
    while time.monotonic() < end:
        if found := happens():
            return found
        assert process is None or process.poll() is None, "the launcher ended"
        time.sleep(0.2)
    raise AssertionError(f"did not happen within {limit_s:g} s")
