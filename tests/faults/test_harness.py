"""The faults strike, and the witnesses see what is wrong."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from fault_injection.campaign import NAME, PLUGIN, faketime
from fault_injection.disk import SmallDisk
from fault_injection.faults import BEHIND_PROXY, EVERYWHERE, schedule
from fault_injection.proxy import Proxy
from fault_injection.verdict import Watch, computed_again, ledger_errors
from pymongo.database import Database

from models.labels import Label, load_labels
from selector.dispatching import job_key
from selector.ledger import Ledger


@pytest.fixture(scope="module")
def label() -> Label:
    return min(load_labels(), key=lambda label: label.cpu_s)


def test_a_schedule_is_the_seed_s_and_leaves_nothing_out() -> None:
    def told(seed: int, behind_proxy: bool) -> list[tuple[float, str, float]]:
        return [(gap_s, fault.name, fault.mended_after_s) for gap_s, fault in schedule(seed, 2, behind_proxy)]

    assert told(5, True) == told(5, True) != told(6, True)
    for behind_proxy, kinds in ((False, EVERYWHERE), (True, BEHIND_PROXY)):
        names = [name for _, name, _ in told(0, behind_proxy)]
        assert Counter(names) == {kind.__name__: 2 * n for kind, n in Counter(kinds).items()}


def test_connections_are_reset_and_refused_until_mended(tmp_path: Path) -> None:
    behind = socket.socket(socket.AF_UNIX)
    behind.bind(str(tmp_path / "s"))
    behind.listen()

    def echo() -> None:
        while True:
            try:
                connection, _ = behind.accept()
                connection.sendall(connection.recv(100))
            except OSError:
                return

    threading.Thread(target=echo, daemon=True).start()
    with Proxy(tmp_path / "s") as proxy:

        def connect() -> socket.socket:
            return socket.create_connection(("127.0.0.1", proxy.port), timeout=5.0)

        assert proxy.cut(refuse=True) == 0
        first = connect()
        first.sendall(b"ping")
        assert first.recv(100) == b"ping"
        assert proxy.cut(refuse=True) == 1
        with pytest.raises(ConnectionResetError):
            first.recv(100)
        with connect() as refused:
            # An end or a reset, but no answer.
            refused.settimeout(5.0)
            try:
                refused.sendall(b"ping")
                answer = refused.recv(100)
            except ConnectionError:
                answer = b""
            assert answer == b""
        proxy.cut(refuse=False)
        with connect() as again:
            again.sendall(b"ping")
            assert again.recv(100) == b"ping"
    first.close()
    behind.close()


@pytest.mark.slow  # needs the right to mount
def test_a_small_disk_is_filled_and_freed(tmp_path: Path) -> None:
    with SmallDisk(tmp_path / "disk", 2) as disk:
        disk.fill()
        with pytest.raises(OSError, match="No space left"):
            (disk.folder / "more").write_bytes(bytes(5000))
        disk.free()
        (disk.folder / "more").write_bytes(bytes(5000))
    assert not (tmp_path / "disk" / "more").exists()


@pytest.mark.slow  # needs libfaketime
def test_a_running_process_s_clock_jumps_and_it_sleeps_as_before(tmp_path: Path) -> None:
    (tmp_path / "clock").write_text("+0\n")
    # libfaketime counts its CACHE_DURATION in whole seconds that have to be exceeded: two seconds at most.
    program = (
        "import time, sys\n"
        "for _ in range(2):\n"
        "    before, start = time.time(), time.monotonic(); time.sleep(0.2)\n"
        "    print(time.time(), time.monotonic() - start, flush=True); sys.stdin.readline(); time.sleep(2.2)\n"
    )
    env = os.environ | {
        "LD_PRELOAD": faketime(),
        "PYTHONPATH": str(PLUGIN),
        "FAKETIME_TIMESTAMP_FILE": str(tmp_path / "clock"),
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        "FAKETIME_CACHE_DURATION": "1",
    }
    command = [sys.executable, "-c", program]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=env) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        first = process.stdout.readline().split()
        (tmp_path / "clock").write_text("+7200\n")
        process.stdin.write("\n")
        process.stdin.flush()
        second = process.stdout.readline().split()
        process.stdin.write("\n")
    assert 7200.0 < float(second[0]) - float(first[0]) < 7260.0
    for line in (first, second):
        assert 0.2 <= float(line[1]) < 5.0


def test_the_engine_s_log_tells_what_is_computed_again(
    tmp_path: Path, label: Label, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(PLUGIN))
    from logged_replay import LoggedReplay

    engine = LoggedReplay(log=str(tmp_path))
    workdirs = [tmp_path / "calculations" / label.material_id / f"rpa-{n}" for n in (1, 2)]
    for workdir in workdirs:
        workdir.mkdir(parents=True)
    engine.compute(label.material_id, label.structure, ["ipa", "rpa"], workdirs[0], None)
    calculation = engine.compute(label.material_id, label.structure, ["ipa", "rpa"], workdirs[0], None)
    assert computed_again(tmp_path) == []
    calculation.save(workdirs[0] / "calculation.npz")
    engine.compute(label.material_id, label.structure, ["ipa", "rpa"], workdirs[1], None)
    assert computed_again(tmp_path) == [f"{label.material_id} rpa-2"]
    lines = [json.loads(line) for line in (tmp_path / "computations.jsonl").read_text().splitlines()]
    assert [line["event"] for line in lines] == ["start", "end"] * 3


def campaign_of(database: Database[Any]) -> Any:
    """As much of a campaign as a look at its account needs."""

    @contextmanager
    def memory() -> Iterator[Database[Any]]:
        yield database

    return SimpleNamespace(memory=memory)


def test_a_watch_sees_an_overspent_account_and_a_label_that_went(database: Database[Any]) -> None:
    watch, campaign = Watch(), campaign_of(database)
    database.campaigns.insert_one({"_id": NAME, "ledger": Ledger.opening(1.0)})
    database.labels.insert_many([{"campaign": NAME, "material_id": m} for m in ("a", "b")])
    watch.look(campaign)
    assert (watch.looks, watch.over_ms, watch.unequal, watch.forgot) == (1, 0, 0, [])
    database.campaigns.update_one({}, {"$inc": {"ledger.spent_ms": 2_600_000, "ledger.reserved_ms": 1_000_042}})
    database.labels.delete_one({"material_id": "a"})
    watch.look(campaign)
    assert (watch.looks, watch.over_ms, watch.unequal, watch.forgot) == (2, 42, 1, ["a"])


def test_a_result_that_is_charged_twice_or_not_is_seen(database: Database[Any]) -> None:
    database.campaigns.insert_one({"_id": NAME, "ledger": Ledger.opening(1.0)})
    ledger = Ledger(database, NAME)
    about: dict[str, Any] = {"material_id": "a", "level": "rpa", "attempt": 1}
    result = ("a", "rpa-1", SimpleNamespace(wall_s=360.0))

    def wrong() -> list[str]:
        document = database.campaigns.find_one()
        assert document is not None
        return ledger_errors(document, list(database.ledger.find()), [result])

    key = job_key(NAME, "a", "rpa", 1)
    assert ledger.reserve(key, 0.2, **about)
    assert [w.split(":")[0] for w in wrong()] == ["still reserved", "a rpa-1 took 360000 ms and was charged 0"]
    ledger.settle(key, 0.1)
    assert wrong() == []
    ledger.book("again", 0.1, "rpa", **about)
    assert wrong() == ["a rpa-1 took 360000 ms and was charged 720000"]
    database.ledger.update_one({"_id": "again"}, {"$inc": {"charged_ms": 1}})
    assert "the history charges 720001 ms, the account has spent 720000" in wrong()
