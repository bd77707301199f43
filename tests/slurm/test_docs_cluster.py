"""Every command of docs/cluster.md, in the page's order, in one shell, from an empty home to two finished campaigns.

What stands on the page for somebody's own (the repository's address, the database's, the engine, the crystals) is
replaced; `make venv` is done dry, and what it would build is put in its place: the tests run in it.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from local_slurm import PATH
from on_cluster import OnCluster
from pymongo import MongoClient

from models.labels import load_labels

pytestmark = pytest.mark.slurm

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "cluster.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```bash\n(.*?)```", PAGE, re.S)
REPOSITORY = "https://github.com/example/theory-level-selector.git"
DATABASE = "mongodb://me:secret@db.example.org:27017/?authSource=admin&tls=true"
MAKE = """\
#!/bin/sh
/usr/bin/make --directory="{root}" --dry-run "$@" > "$HOME/make.log" && ln -s "{environment}" .venv
"""


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """An account with nothing in it but git's settings, by which the repository's address leads to a small copy."""
    home, copy = tmp_path / "home", tmp_path / "repository"
    home.mkdir()
    shutil.copytree(ROOT / "configs", copy / "configs", ignore=shutil.ignore_patterns("demo"))
    (copy / "configs" / "demo").mkdir()
    for label in sorted(load_labels(), key=lambda label: label.cpu_s)[:4]:
        label.structure.to(str(copy / "configs" / "demo" / f"{label.material_id}.cif"))
    shutil.copy(ROOT / "Makefile", copy)
    git = ["git", "-c", "user.name=test", "-c", "user.email=test@example.org"]
    for command in (["init", "-q"], ["add", "."], ["commit", "-q", "-m", "a copy"]):
        subprocess.run([*git, *command], cwd=copy, check=True)
    (home / ".gitconfig").write_text(f'[url "{copy}"]\n\tinsteadOf = {REPOSITORY}\n', encoding="utf-8")
    (home / "bin").mkdir()
    make = home / "bin" / "make"
    make.write_text(MAKE.format(root=ROOT, environment=sys.prefix), encoding="utf-8")
    make.chmod(0o755)
    return home


def test_every_command_of_the_page(on_cluster: OnCluster, home: Path) -> None:
    replaced = {
        DATABASE: on_cluster.uri,
        "name: halides": f"name: {on_cluster.database}",
        "engine: {name: gpaw, preset: standard}": "engine: {name: replay}\npolicy: {threshold: 1.0}",
        "--max-jobs 40": "--max-jobs 4 --interval-s 1",
    }
    script = "set -e\n" + "".join(f"{block}\necho '== block {i} done'\n" for i, block in enumerate(BLOCKS))
    for written, meant in replaced.items():
        assert written in script
        script = script.replace(written, meant)
    env = {key: value for key, value in os.environ.items() if not key.startswith(("SELECTOR", "PYTEST", "COV"))}
    env |= {"HOME": str(home), "PATH": f"{home / 'bin'}:{PATH}", **{"SLURM_CONF": os.environ["SLURM_CONF"]}}
    done = subprocess.run(
        ["bash", "-c", script + "wait\n"], cwd=home, env=env, capture_output=True, text=True, timeout=900, check=False
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    said = re.split(r"== block \d+ done\n", done.stdout)
    assert len(said) == len(BLOCKS) + 1 >= 9
    # What the page promises: a script, a finished campaign, FireWorks' tools that find it, files of one's own.
    launched = next(i for i, block in enumerate(BLOCKS) if block.startswith("selector launch"))
    assert "#SBATCH --partition=main" in said[launched - 1]
    database = MongoClient(on_cluster.uri)[on_cluster.database]
    assert database.campaigns.find_one({"_id": "halides"})["state"] == "finished"
    statuses = {c["status"] for c in database.candidates.find({"campaign": "halides"})}
    assert statuses <= {"done", "skipped"}
    assert "done" in statuses
    queries = next(text for text, block in zip(said, BLOCKS, strict=False) if "lpad" in block)
    assert re.search(r"rpa", queries)
    assert "secret" not in done.stdout + done.stderr
    assert (home / ".selector-mongodb").stat().st_mode & 0o077 == 0
    assert (home / "halides" / "my_launchpad.yaml").stat().st_mode & 0o077 == 0
    status = subprocess.run(
        [sys.executable, "-m", "selector.cli", "status", "--json"],
        cwd=home / "offline", env=env, capture_output=True, text=True, timeout=120, check=True,
    )  # fmt: skip
    assert '"state": "finished"' in status.stdout
    subprocess.run([sys.executable, "-m", "selector.cli", "db", "stop"], cwd=home / "offline", env=env, check=True)


def test_the_page_has_its_blocks() -> None:
    """No command stands outside the blocks that are run, but for the name of one that is there."""
    assert len(BLOCKS) >= 8
    prose = re.sub(r"```.*?```", "", PAGE, flags=re.S)
    assert not re.findall(r"^(?:    |\$ )\S+", prose, re.M)
    commands = {tuple(words.split()[:2]) for words in re.findall(r"^\S+ \S+", "".join(BLOCKS), re.M)}
    assert {tuple(words.split()[:2]) for words in re.findall(r"`(selector [^\s`]+)", prose)} <= commands
