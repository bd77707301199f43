"""`selector predict --shards` as it is typed: it says how far it is, goes on where it was, and never mixes runs."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import ase
import ase.io
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from filelock import FileLock

from selector import localdb
from selector.shards.output import FolderOutput
from tests.conftest import Run

ROOT = Path(__file__).parents[2]


def crystals(path: Path, n: int) -> Path:
    """Rock salt, caesium chloride and zinc blende of seeded sizes; every 50th has two atoms in one place."""
    rng = np.random.default_rng(0)
    rows = []
    for k in range(n):
        second = rng.choice([0.25, 0.5]) if k % 50 != 49 else 0.0
        rows.append(
            {
                "material_id": f"m{k}",
                "lattice": np.diag(rng.uniform(4.5, 7.0, 3)).tolist(),
                "species": [str(rng.choice(["Mg", "Ca", "Sr"])), str(rng.choice(["O", "S", "Se"]))],
                "frac": [[0.0, 0.0, 0.0], [second] * 3],
            }
        )
    pq.write_table(pa.Table.from_pylist(rows), path, row_group_size=100)
    return path


def indices(folder: Path) -> list[int]:
    return [i for p in sorted(folder.glob("shard-*.parquet")) for i in pq.read_table(p)["index"].to_pylist()]


def test_a_file_becomes_a_folder_of_predictions(selector: Run, tmp_path: Path) -> None:
    file, out = crystals(tmp_path / "a.parquet", 120), tmp_path / "out"
    code, text, errors = selector("predict", "--shards", file, "--out", out, "--shard-size", 50, "--top", 3)
    assert code == 0
    assert "118 of 120 structures predicted by sc-" in text
    assert "2 broken; 3 of 3 shards in" in text
    assert "This time 120 in" in text
    assert f"selector: warning: {file}: row 49: " in errors
    assert indices(out) == list(range(120))
    best = FolderOutput(out).top(3)
    assert all(row["material_id"] in text for row in best)
    one = tmp_path / "one"
    code, text, _ = selector("predict", "--shards", file, "--out", one, "--json", "--top", 3)
    figures = json.loads(text)
    assert (figures["predicted"], figures["broken"], figures["reasons"]) == (118, 2, {"overlapping_atoms": 2})
    assert [row["index"] for row in figures["top"]] == [row["index"] for row in best]


def test_shards_say_what_a_plain_prediction_says(selector: Run, tmp_path: Path) -> None:
    crystals(tmp_path / "a.parquet", 3)
    row = pq.read_table(tmp_path / "a.parquet").to_pylist()[1]
    sites = [
        {"species": [{"element": e, "occu": 1}], "abc": x} for e, x in zip(row["species"], row["frac"], strict=True)
    ]
    (tmp_path / "m1.json").write_text(json.dumps({"lattice": {"matrix": row["lattice"]}, "sites": sites}))
    _, text, _ = selector("predict", tmp_path / "m1.json", "--json")
    (plain,) = json.loads(text)["predictions"]
    selector("predict", "--shards", tmp_path / "a.parquet", "--out", tmp_path / "out")
    said = pq.read_table(tmp_path / "out" / "shard-000000.parquet").to_pylist()[1]
    for name, value in plain.items():
        assert said[name] == (pytest.approx(value, abs=1e-12) if isinstance(value, float) else value)


def test_the_same_command_goes_on_and_another_is_refused(selector: Run, tmp_path: Path) -> None:
    file, out = crystals(tmp_path / "a.parquet", 30), tmp_path / "out"
    typed = ("predict", "--shards", file, "--out", out, "--shard-size", 10)
    assert selector(*typed)[0] == 0
    kept = out / "shard-000000.parquet"
    before = kept.stat().st_mtime_ns
    (out / "shard-000001.parquet").unlink()
    code, text, _ = selector(*typed, "--json")
    assert json.loads(text)["predicted_this_time"] == 10
    assert kept.stat().st_mtime_ns == before
    assert indices(out) == list(range(30))
    other = crystals(tmp_path / "b.parquet", 31)
    for change, said in (
        (["predict", "--shards", other, "--out", out], "another source"),
        ([*typed, "--threshold", 0.8], r"another threshold (0.75, here 0.8)"),
        ([*typed[:-1], 20], "another shard size (10, here 20)"),
    ):
        code, _, errors = selector(*change)
        assert code == 2
        assert f"{out} holds predictions of {said}" in errors
        assert "they are not mixed: choose another" in errors
    assert indices(out) == list(range(30))


def test_two_at_once_in_one_folder_are_refused(selector: Run, tmp_path: Path) -> None:
    file, out = crystals(tmp_path / "a.parquet", 2), tmp_path / "out"
    out.mkdir()
    with FileLock(out / "run.lock"):
        code, _, errors = selector("predict", "--shards", file, "--out", out)
    assert code == 2
    assert errors.strip() == f"selector: error: {out}: another process predicts into this folder; wait for it"
    assert selector("predict", "--shards", file, "--out", out)[0] == 0


@pytest.mark.slow
def test_ctrl_c_ends_it_in_one_line_and_at_once(tmp_path: Path) -> None:
    file, out = crystals(tmp_path / "a.parquet", 4000), tmp_path / "out"
    typed = command(file, "--out", out, "--jobs", 2, "--shard-size", 500)
    process = subprocess.Popen(typed, start_new_session=True, stderr=subprocess.PIPE, text=True)
    wait_for(out, 1, process)
    os.killpg(process.pid, signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert errors.strip() == "selector: stopped; what is whole is kept, the same command goes on from there"
    assert_alone(process.pid)


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        (["--shards", "a.parquet"], "--shards wants --out DIR for Parquet files, or --into NAME for a collection"),
        (["--shards", "a.parquet", "--out", "o", "--into", "c"], "--shards wants --out DIR"),
        (["--shards", "a.parquet", "--into", "c"], "a collection needs a database: name a campaign file"),
        (["--shards", "collection:x", "--out", "o"], "a collection needs a database: name a campaign file"),
        (["--shards", "a.parquet", "--out", "o", "--threshold", "1.5"], "--threshold 1.5: give an SC above 0, up to 1"),
        (["--shards", "a.parquet", "--out", "o", "--spectra", "s"], "leave out --ipa, --spectra, --spectrum-model"),
        (["--shards", ".", "--out", "o"], "--out lies in ., which is read"),
        (["--shards", "missing.extxyz", "--out", "o"], "missing.extxyz: no such file or folder"),
        (["a.parquet", "--top", "3"], "--id-key and --top go with --shards"),
        (
            ["--shards", "a.parquet", "--out", "o", "--id-key", "nr"],
            "no column 'nr' for the names; there are material_id",
        ),
        (["--shards", "a.parquet", "--out", "o", "-c", "unreachable.yaml"], "the database does not answer"),
    ],
)
def test_what_makes_no_sense_is_one_line(
    selector: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, typed: list[str], said: str
) -> None:
    monkeypatch.chdir(tmp_path)
    crystals(tmp_path / "a.parquet", 2)
    uri = "mongodb://127.0.0.1:9/?serverSelectionTimeoutMS=500"
    (tmp_path / "unreachable.yaml").write_text(f"campaign: c\nfolder: run\nbudget_cpu_h: 1\ndatabase:\n  uri: {uri}\n")
    code, _, errors = selector("predict", *typed)
    assert code in (1, 2)
    assert said in errors
    assert len(errors.strip().splitlines()) == 1
    assert not (tmp_path / "o").exists()


@pytest.mark.slow
def test_the_commands_of_the_documentation_run_as_they_stand(
    selector: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = (ROOT / "docs" / "prediction.md").read_text(encoding="utf-8")
    lines = [line for block in re.findall(r"```sh\n(.*?)```", text, re.S) for line in block.splitlines()]
    (script,) = re.findall(r"```python\n(.*?)```", text, re.S)
    monkeypatch.chdir(tmp_path)
    rows = pq.read_table(crystals(tmp_path / "candidates.parquet", 40)).to_pylist()
    atoms = [ase.Atoms(r["species"], cell=r["lattice"], scaled_positions=r["frac"], pbc=True) for r in rows]
    ase.io.write(tmp_path / "candidates.extxyz", atoms, format="extxyz")
    (tmp_path / "campaign.yaml").write_text("campaign: c\nfolder: run\nbudget_cpu_h: 1\n")
    try:
        for line in lines:
            code, _, errors = selector(*shlex.split(line, comments=True)[1:])
            assert code == 0, errors
    finally:
        localdb.stop(tmp_path / "run" / "database" / "selector.sqlite")
    assert indices(tmp_path / "predictions") == indices(tmp_path / "from-xyz") == list(range(40))
    said: dict[str, Any] = {}
    exec(script, said)
    best = FolderOutput(tmp_path / "predictions").top(40)
    assert [row["index"] for row in said["best"]] == [r["index"] for r in best if not r["out_of_domain"]][:20]


def command(*typed: Any) -> list[str]:
    return [sys.executable, "-m", "selector.cli", "predict", "--shards", *map(str, typed)]


def children(pid: int) -> list[int]:
    """Processes of its session but itself."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            session = int(stat.read_text().rsplit(")", 1)[1].split()[3])
        except (OSError, IndexError):
            continue
        if session == pid and int(stat.parent.name) != pid:
            found.append(int(stat.parent.name))
    return found


def assert_alone(pid: int) -> None:
    """Soon nothing of its session is left."""
    deadline = time.monotonic() + 30
    while children(pid):
        assert time.monotonic() < deadline
        time.sleep(0.2)


def wait_for(folder: Path, n_shards: int, process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 300
    while len(list(folder.glob("shard-*.parquet"))) < n_shards:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.mark.slow
@pytest.mark.parametrize("rockets", [False, True])
def test_killed_in_the_middle_it_resumes_where_it_was(tmp_path: Path, rockets: bool) -> None:
    """Of rockets first one worker, then everything; the next command ends it. Each structure once, none twice."""
    n, size = 6000, 250
    file, out, config = crystals(tmp_path / "a.parquet", n), tmp_path / "out", tmp_path / "campaign.yaml"
    typed = command(file, "--out", out, "--jobs", 2, "--shard-size", size, "--json")
    if rockets:
        config.write_text("campaign: c\nfolder: run\nbudget_cpu_h: 1\n")
        typed += ["--config", str(config)]

    def start() -> subprocess.Popen[str]:
        return subprocess.Popen(
            typed, start_new_session=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )

    try:
        first = start()
        wait_for(out, 2, first)
        if rockets:
            # The others go on, and what it held is handed out again in time.
            os.kill(next(p for p in children(first.pid) if launches(p)), signal.SIGKILL)
        wait_for(out, 6, first)
        os.killpg(first.pid, signal.SIGKILL)
        first.communicate()
        kept = {p.name: p.stat().st_mtime_ns for p in out.glob("shard-*.parquet")}
        assert len(kept) < n // size
        second = start()
        text, errors = second.communicate(timeout=500)
        assert second.returncode == 0, errors
    finally:
        if rockets:
            localdb.stop(tmp_path / "run" / "database" / "selector.sqlite")
    figures = json.loads(text)
    assert figures["predicted_this_time"] <= n - len(kept) * size
    assert (figures["predicted"], figures["broken"]) == (n - n // 50, n // 50)
    assert all((out / name).stat().st_mtime_ns == t for name, t in kept.items())
    assert indices(out) == list(range(n))
    assert [p.name for p in out.iterdir() if p.name.endswith(".part")] == []


def launches(pid: int) -> bool:
    """Whether this is a process that predicts, not multiprocessing's resource tracker or the local database."""
    words = Path(f"/proc/{pid}/cmdline").read_text()
    return "spawn_main" in words or "fw_tasks.workers" in words


@pytest.mark.slow
def test_a_killed_process_is_said_and_nothing_is_left_running(tmp_path: Path) -> None:
    file, out = crystals(tmp_path / "a.parquet", 4000), tmp_path / "out"
    process = subprocess.Popen(
        command(file, "--out", out, "--jobs", 2, "--shard-size", 250),
        start_new_session=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    wait_for(out, 1, process)
    os.kill(next(p for p in children(process.pid) if launches(p)), signal.SIGKILL)
    _, errors = process.communicate(timeout=200)
    assert process.returncode == 1
    assert "selector: error: a process died (killed, or out of memory?); what is whole is kept" in errors
    # The same where the command itself is killed alone: its processes end with it.
    process = subprocess.Popen(
        command(file, "--out", out, "--jobs", 2, "--shard-size", 250),
        start_new_session=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    wait_for(out, len(list(out.glob("shard-*.parquet"))) + 1, process)
    process.kill()
    process.wait()
    assert_alone(process.pid)
