"""Campaigns whose processes are killed in the middle (tests/faults has more)."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from selector import localdb
from tests.conftest import Run


def begin_slowly(selector: Run, folder: Path, time_scale: float) -> list[str]:
    """Begin the campaign with calculations that take their time, and retries enough; the command that runs it."""
    config = folder / "campaign.yaml"
    text = config.read_text(encoding="utf-8").replace("budget_cpu_h: 0.4", "budget_cpu_h: 3.0\nmax_attempts: 20")
    options = f"{{name: replay, options: {{time_scale: {time_scale}}}}}"
    config.write_text(text.replace("{name: replay}", options), encoding="utf-8")
    selector("init", config)
    selector("add", folder / "cifs", "--config", config)
    return [sys.executable, "-m", "selector.cli", "run", "--config", str(config), "--workers", "2"]


def _results(folder: Path) -> dict[str, float]:
    return {str(p): p.stat().st_mtime for p in (folder / "run" / "calculations").glob("*/*/calculation.npz")}


@pytest.mark.parametrize(
    ("whom", "delays_s"),
    [
        pytest.param("everyone", (4.0, 6.5), marks=pytest.mark.slow),
        pytest.param("the run alone", (4.0, 6.5), marks=pytest.mark.slow),
        pytest.param("everyone", (2.2, 2.7, 3.1, 3.4, 3.8, 4.1, 4.4, 4.9, 5.5, 6.3), marks=pytest.mark.slow),
    ],
)
def test_killed_and_started_again_it_loses_nothing_and_repeats_nothing(
    selector: Run, folder: Path, whom: str, delays_s: tuple[float, ...]
) -> None:
    config = folder / "campaign.yaml"
    command = begin_slowly(selector, folder, time_scale=0.03)
    recorded: dict[str, float] = {}
    for delay_s in delays_s:
        run = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
        time.sleep(delay_s)
        if whom == "everyone":
            os.killpg(run.pid, signal.SIGKILL)
        else:
            run.kill()
        run.wait()
        now = _results(folder)
        assert recorded.items() <= now.items()
        recorded = now
    code, _, err = selector("run", "--config", config, "--workers", 2)
    assert code == 0, err
    final = _results(folder)
    assert recorded.items() <= final.items()
    materials = [Path(file).parts[-3] for file in final]
    assert len(materials) == len(set(materials))
    status = json.loads(selector("status", "--config", config, "--json")[1])
    assert status["state"] == "finished"
    assert status["counts"]["done"] == len(materials) >= 4
    assert status["spent_cpu_h"] <= status["budget_cpu_h"]
    assert status["reserved_cpu_h"] == 0.0


@pytest.mark.slow
def test_a_database_killed_in_the_middle_is_started_again(selector: Run, folder: Path) -> None:
    config = folder / "campaign.yaml"
    command = begin_slowly(selector, folder, time_scale=0.05)
    run = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    file = folder / "run" / "database" / "selector.sqlite"
    for delay_s in (5.0, 4.0):
        time.sleep(delay_s)
        # On a busy machine it may take a while to be up again.
        while (pid := localdb.status(file)["pid"]) is None and run.poll() is None:
            time.sleep(0.2)
        if pid is not None:
            os.kill(pid, signal.SIGKILL)
    _, err = run.communicate(timeout=240)
    assert run.returncode == 0, err
    status = json.loads(selector("status", "--config", config, "--json")[1])
    assert status["state"] == "finished"
    materials = [Path(name).parts[-3] for name in _results(folder)]
    assert len(materials) == len(set(materials)) == status["counts"]["done"]
    assert status["reserved_cpu_h"] == 0.0
