"""A database for every test: on the local server always, on a real MongoDB too if SELECTOR_TEST_MONGO_URI names one."""

import os
import uuid
from collections.abc import Iterator
from pathlib import Path

import pymongo
import pytest
from pymongo.database import Database

from selector.localdb import ensure_running, stop

_MONGO = os.environ.get("SELECTOR_TEST_MONGO_URI")
_SERVERS = ["local", *([pytest.param("mongo", marks=pytest.mark.mongo)] if _MONGO else [])]


def pytest_configure(config: pytest.Config) -> None:
    # To find a task by its short name, FireWorks imports its whole package, its tests and their marker included.
    config.addinivalue_line("markers", "mongodb: used by FireWorks' own tests")


@pytest.fixture(scope="session")
def local_uri(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """One local server for all tests that do no harm to it."""
    database_file = tmp_path_factory.mktemp("localdb") / "test.db"
    yield ensure_running(database_file)
    stop(database_file)


@pytest.fixture(scope="session", params=_SERVERS)
def client(request: pytest.FixtureRequest) -> Iterator[pymongo.MongoClient]:
    uri = request.getfixturevalue("local_uri") if request.param == "local" else _MONGO
    with pymongo.MongoClient(uri, serverSelectionTimeoutMS=10_000) as connected:
        yield connected


@pytest.fixture
def database(client: pymongo.MongoClient) -> Iterator[Database]:
    """An empty database, removed afterwards."""
    name = f"test_{uuid.uuid4().hex[:12]}"
    yield client[name]
    client.drop_database(name)


@pytest.fixture
def own_file(tmp_path: Path) -> Iterator[Path]:
    """A database file whose server a test may treat badly; stopped afterwards."""
    database_file = tmp_path / "own.db"
    yield database_file
    stop(database_file)
