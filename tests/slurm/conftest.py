"""A SLURM on this machine, and campaigns whose database is behind a URI."""

from __future__ import annotations

import os
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from pymongo import MongoClient

sys.path.insert(0, str(Path(__file__).parent))
from local_slurm import LocalSlurm
from on_cluster import OnCluster


@pytest.fixture(scope="session")
def slurm() -> Iterator[LocalSlurm]:
    """Two slots; this process' own SLURM commands go there, too."""
    with LocalSlurm(slots=2) as slurm:
        before = {name: os.environ.get(name) for name in slurm.environment}
        os.environ.update(slurm.environment)
        yield slurm
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


@pytest.fixture
def on_cluster(slurm: LocalSlurm, mongo_uri: str, tmp_path: Path) -> Iterator[OnCluster]:
    name = f"test_{uuid.uuid4().hex[:12]}"
    yield OnCluster(tmp_path, mongo_uri, name, slurm)
    MongoClient(mongo_uri).drop_database(name)
