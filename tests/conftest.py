"""Fixtures shared by the packages' tests: a database, real labels, and settings that keep runs repeatable."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from pymongo import MongoClient
from pymongo.database import Database

from selector import localdb

settings.register_profile(
    "repeatable", derandomize=True, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
settings.load_profile("repeatable")


@pytest.fixture(scope="session")
def mongo_uri(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A running database: the local one, or the MongoDB named by SELECTOR_TEST_MONGO_URI."""
    uri = os.environ.get("SELECTOR_TEST_MONGO_URI")
    if uri:
        yield uri
        return
    file = tmp_path_factory.mktemp("database") / "test.sqlite"
    yield localdb.ensure_running(file)
    localdb.stop(file)


@pytest.fixture
def database(mongo_uri: str) -> Iterator[Database[Any]]:
    """An empty database of its own for each test."""
    client: MongoClient[Any] = MongoClient(mongo_uri, serverSelectionTimeoutMS=5000)
    name = f"test_{uuid.uuid4().hex[:12]}"
    yield client[name]
    client.drop_database(name)
    client.close()


@pytest.fixture(scope="session")
def demo_crystals() -> Path:
    """The folder of the demo's 40 crystals."""
    return Path(__file__).parents[1] / "configs" / "demo"
