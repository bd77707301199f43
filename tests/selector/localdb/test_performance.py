"""The figures a campaign needs, with 50,000 documents of 1 KB. Times are the best of a few: other programs run too."""

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pymongo
import pytest
from pymongo.collection import Collection

from selector.localdb import ensure_running, status, stop

_NUMBER = 50_000
_STATES = ["READY", "COMPLETED", "FIZZLED", "RUNNING"]


@pytest.fixture(scope="module")
def database_file(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    path = tmp_path_factory.mktemp("performance") / "p.db"
    yield path
    stop(path)


@pytest.fixture(scope="module")
def filled(database_file: Path) -> Iterator[tuple[Collection, float]]:
    """The collection and the seconds its documents took."""
    with pymongo.MongoClient(ensure_running(database_file)) as client:
        collection = client.perf.c
        collection.create_index("fw_id", unique=True)
        collection.create_index("state")
        collection.create_index([("g", 1), ("val", -1)])
        begun = time.perf_counter()
        for start in range(0, _NUMBER, 1000):
            collection.insert_many(
                [
                    {
                        "fw_id": i,
                        "state": _STATES[i % 4],
                        "g": i % 97,
                        "val": (i * 7919) % 1000 / 1000,
                        "pad": "x" * 880,
                    }
                    for i in range(start, start + 1000)
                ]
            )
        yield collection, time.perf_counter() - begun


def best_s(act: Callable[[int], object], repeats: int) -> float:
    times = []
    for i in range(repeats):
        begun = time.perf_counter()
        act(i)
        times.append(time.perf_counter() - begun)
    return min(times)


@pytest.mark.slow
@pytest.mark.timed
def test_50_000_documents(filled: tuple[Collection, float], database_file: Path) -> None:
    collection, insert_s = filled
    find_s = best_s(lambda i: collection.find_one({"fw_id": i * 997 % _NUMBER}), 50)
    count_s = best_s(lambda i: collection.count_documents({"state": _STATES[i % 4]}), 5)
    range_s = best_s(lambda i: list(collection.find({"g": i}).sort("val", -1).limit(100)), 5)
    group = [{"$group": {"_id": "$state", "n": {"$sum": 1}, "m": {"$max": "$val"}, "a": {"$avg": "$val"}}}]
    group_s = best_s(lambda _: list(collection.aggregate(group)), 2)
    scan_s = best_s(lambda _: collection.count_documents({"pad": "none"}), 2)
    claim_s = best_s(lambda _: collection.find_one_and_update({"state": "READY"}, {"$set": {"state": "RESERVED"}}), 20)
    known = status(database_file)
    memory = next(
        line for line in Path(f"/proc/{known['pid']}/status").read_text().splitlines() if line.startswith("VmHWM")
    )
    print(f"insert {insert_s:.1f} s, find {find_s * 1e3:.2f} ms, count {count_s * 1e3:.1f} ms, $group {group_s:.2f} s")
    print(f"range and sort {range_s * 1e3:.1f} ms, scan {scan_s:.2f} s, claim {claim_s * 1e3:.2f} ms")
    print(f"{memory}, file {known['size_bytes'] / 1e6:.0f} MB")
    assert len(list(collection.aggregate(group))) == 5
    assert insert_s < 20
    assert find_s < 1e-3
    assert count_s < 50e-3
    assert group_s < 3
