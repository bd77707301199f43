"""The server as a process: started on demand by many at once, stopped, idle, killed, and fed with rubbish."""

import asyncio
import os
import resource
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import unquote

import bson
import pymongo
import pytest
from pymongo.errors import OperationFailure

from selector.errors import SelectorError, UsageError
from selector.localdb import ensure_running, runtime, status, stop
from selector.localdb.context import Context
from selector.localdb.lock import FileLock
from selector.localdb.server import Announcement, Server
from selector.localdb.storage import Storage
from selector.localdb.wire import OP_MSG, Request

_START = """
import sys
from pathlib import Path
from selector.localdb import ensure_running
print(ensure_running(Path(sys.argv[1])))
"""
_WRITE = """
import sys, pymongo
collection = pymongo.MongoClient(sys.argv[1]).t.c
for i in range(10**6):
    collection.insert_one({"_id": i, "pad": "x" * 500})
    print(i, flush=True)
"""


class Quiet(Announcement):
    """Keeps this process's standard output."""

    def say(self, line: str) -> None:
        assert line == "ready"


def socket_of(uri: str) -> str:
    return unquote(uri.removeprefix("mongodb://").rstrip("/"))


def test_many_processes_start_one_server(own_file: Path) -> None:
    command = [sys.executable, "-c", _START, str(own_file)]
    starters = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(4)]
    answers = {process.communicate(timeout=60)[0].strip() for process in starters}
    assert answers == {ensure_running(own_file)}
    known = status(own_file)
    assert known["running"] and known["uri"] in answers and known["size_bytes"] > 0
    assert Path(known["log"]).read_text().count("serving") == 1
    folder = Path(known["socket"]).parent
    assert folder.stat().st_mode & 0o777 == 0o700
    # Its own session: what ends this terminal's processes does not reach it.
    assert os.getsid(known["pid"]) != os.getsid(0)


def test_stop_and_start_again(own_file: Path) -> None:
    assert status(own_file) == {**status(own_file), "running": False, "exists": False, "pid": None, "uri": None}
    assert stop(own_file) is False
    with pymongo.MongoClient(ensure_running(own_file)) as client:
        client.t.c.insert_one({"_id": 1})
        assert stop(own_file) is True
        assert not status(own_file)["running"]
        ensure_running(own_file)
        assert client.t.c.find_one() == {"_id": 1}
    assert "Traceback" not in Path(status(own_file)["log"]).read_text()


def test_no_acknowledged_write_is_lost_by_kill_9(own_file: Path) -> None:
    uri = ensure_running(own_file)
    writer = subprocess.Popen(
        [sys.executable, "-c", _WRITE, uri + "?retryWrites=false"],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert writer.stdout is not None
    acknowledged = [int(writer.stdout.readline()) for _ in range(200)]
    os.kill(status(own_file)["pid"], signal.SIGKILL)
    acknowledged += [int(line) for line in writer.communicate(timeout=60)[0].split()]
    with pymongo.MongoClient(ensure_running(own_file)) as client:
        found = {row["_id"] for row in client.t.c.find({}, {"_id": 1})}
    assert set(acknowledged) <= found
    assert len(found) <= len(acknowledged) + 1


@pytest.mark.parametrize("times", [1, 3])
def test_one_that_is_killed_while_it_starts_is_started_again(
    own_file: Path, monkeypatch: pytest.MonkeyPatch, times: int
) -> None:
    started: list[int] = []
    popen = subprocess.Popen

    def killed_at_first(*arguments: object, **options: object) -> object:
        process = popen(*arguments, **options)
        started.append(process.pid)
        if len(started) <= times:
            process.kill()
        return process

    monkeypatch.setattr(subprocess, "Popen", killed_at_first)
    if times == 3:
        with pytest.raises(SelectorError, match="its server did not start"):
            ensure_running(own_file)
    ensure_running(own_file)
    assert status(own_file)["pid"] == started[-1]
    assert len(started) == times + 1


def test_it_stops_by_itself_when_idle_but_not_under_a_client(own_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SELECTOR_DB_IDLE_S", "0.4")
    with pymongo.MongoClient(ensure_running(own_file)) as client:
        client.admin.command("ping")
        time.sleep(1.0)
        assert status(own_file)["running"]
    deadline = time.monotonic() + 10
    while status(own_file)["running"] and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not status(own_file)["running"]
    assert not own_file.with_name(own_file.name + "-wal").exists()


def test_it_stops_when_its_socket_is_removed(own_file: Path) -> None:
    Path(socket_of(ensure_running(own_file))).unlink()
    deadline = time.monotonic() + 10
    while status(own_file)["running"] and time.monotonic() < deadline:
        time.sleep(0.05)
    with pymongo.MongoClient(ensure_running(own_file)) as client:
        assert client.admin.command("ping")["ok"]


def test_counters_and_claims_by_several_clients_at_once(own_file: Path) -> None:
    uri = ensure_running(own_file)
    with pymongo.MongoClient(uri) as client:
        client.t.n.insert_one({"_id": 1, "v": 0})
        client.t.q.insert_many([{"_id": i, "s": "READY", "p": i % 5} for i in range(200)])
        client.t.q.create_index([("s", 1), ("p", -1)])

    def work(_: int) -> list[int]:
        claimed = []
        with pymongo.MongoClient(uri) as own:
            while found := own.t.q.find_one_and_update({"s": "READY"}, {"$set": {"s": "RUN"}}, sort=[("p", -1)]):
                claimed.append(found["_id"])
                own.t.n.update_one({"_id": 1}, {"$inc": {"v": 1}})
        return claimed

    with ThreadPoolExecutor(4) as pool:
        claims = [number for claimed in pool.map(work, range(4)) for number in claimed]
    assert sorted(claims) == list(range(200))
    with pymongo.MongoClient(uri) as client:
        assert (client.t.n.find_one() or {})["v"] == 200


PING = bson.encode({"ping": 1, "$db": "admin"})


def frame(body: bytes, opcode: int = 2013, length: int | None = None) -> bytes:
    return struct.pack("<iiii", 16 + len(body) if length is None else length, 7, 0, opcode) + body


BROKEN = {
    "negative length": frame(b"", length=-5),
    "length of a header alone": frame(b"", length=16),
    "giant length": frame(b"", length=2**31 - 1),
    "unknown opcode": frame(b"\0" * 8, opcode=1234),
    "unknown flags": frame(struct.pack("<I", 1 << 3) + b"\0" + PING),
    "no sections": frame(b"\0\0\0\0"),
    "unknown section": frame(b"\0\0\0\0\x09" + PING),
    "two commands": frame(b"\0\0\0\0\0" + PING + b"\0" + PING),
    "section beyond the end": frame(b"\0\0\0\0\0" + struct.pack("<i", 9999) + b"\0" * 20),
    "unterminated sequence name": frame(b"\0\0\0\0\x01" + struct.pack("<i", 10) + b"abcdef"),
    "short body": frame(b"\0"),
    "old query that is no command": frame(b"\0\0\0\0t.c\0" + b"\0" * 8 + PING, opcode=2004),
    "noise": os.urandom(64),
}
ANSWERED = {
    "bad BSON": frame(b"\0\0\0\0\0" + PING[:-1] + b"\x07"),
    "empty command": frame(b"\0\0\0\0\0" + bson.encode({})),
    "no $db": frame(b"\0\0\0\0\0" + bson.encode({"ping": 1})),
    "bad text": frame(b"\0\0\0\0\0" + bson.encode({"ping": 1, "$db": "aaaa"}).replace(b"aaaa", b"\xff\xfe\xfd\xfc")),
}


def exchange(path: str, data: bytes) -> bytes:
    """What the server sends back before it closes or falls silent."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(10)
        connection.connect(path)
        connection.sendall(data)
        connection.shutdown(socket.SHUT_WR)
        answer = b""
        try:
            while piece := connection.recv(65536):
                answer += piece
        except ConnectionResetError:
            return answer
        return answer


@pytest.mark.parametrize("data", BROKEN.values(), ids=BROKEN.keys())
def test_a_broken_frame_ends_its_connection_only(local_uri: str, data: bytes) -> None:
    assert exchange(socket_of(local_uri), data) == b""
    with pymongo.MongoClient(local_uri) as client:
        assert client.admin.command("ping")["ok"]


@pytest.mark.parametrize("data", ANSWERED.values(), ids=ANSWERED.keys())
def test_a_bad_command_in_a_good_frame_is_answered(local_uri: str, data: bytes) -> None:
    answer = exchange(socket_of(local_uri), data)
    reply = bson.decode(answer[21:])
    assert reply["ok"] == 0 and reply["errmsg"]


def test_a_client_that_dies_in_mid_message_changes_nothing(local_uri: str) -> None:
    command = bson.encode({"insert": "half", "$db": "dying", "documents": [{"_id": i} for i in range(100)]})
    whole = frame(b"\0\0\0\0\0" + command)
    for cut in (3, 16, 17, len(whole) // 2, len(whole) - 1):
        assert exchange(socket_of(local_uri), whole[:cut]) == b""
    with pymongo.MongoClient(local_uri) as client:
        assert client.dying.half.count_documents({}) == 0
        assert exchange(socket_of(local_uri), whole) != b""
        assert client.dying.half.count_documents({}) == 100


def test_a_restart_takes_the_same_socket_whatever_the_environment(
    own_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    uri = ensure_running(own_file)
    stop(own_file)
    session = Path(tempfile.mkdtemp())
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(session))
    assert ensure_running(own_file) == uri
    # A new database goes to the folder of the session.
    try:
        assert str(session) in unquote(ensure_running(tmp_path / "new.db"))
    finally:
        stop(tmp_path / "new.db")
    # The old folder is gone, or somebody opened it to others: not used again.
    stop(own_file)
    Path(socket_of(uri)).parent.chmod(0o755)
    assert str(session) in unquote(ensure_running(own_file))


def test_a_file_locked_by_another_server(own_file: Path, tmp_path: Path) -> None:
    with (
        FileLock(own_file, tmp_path / "nobody.sock"),
        pytest.raises(SelectorError, match=r"own\.db: locked by another server"),
    ):
        ensure_running(own_file)
    assert not status(own_file)["running"]
    ensure_running(own_file)


def test_a_damaged_file_is_refused_and_kept(own_file: Path) -> None:
    with pymongo.MongoClient(ensure_running(own_file)) as client:
        client.t.c.insert_many([{"_id": i, "pad": "x" * 3000} for i in range(200)])
    stop(own_file)
    whole = own_file.read_bytes()
    own_file.write_bytes(whole[:30_000] + os.urandom(200_000) + whole[230_000:])
    with pytest.raises(SelectorError, match=r"own\.db: the file is damaged .*restore it"):
        ensure_running(own_file)
    own_file.write_bytes(whole)
    with pymongo.MongoClient(ensure_running(own_file)) as client:
        assert client.t.c.count_documents({}) == 200


def test_places_where_a_database_cannot_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "text.db").write_text("no database at all, but long enough to be looked at as one\n" * 50)
    with pytest.raises(SelectorError, match=r"text\.db: not a database file"):
        ensure_running(tmp_path / "text.db")
    with pytest.raises(UsageError, match="no such folder"):
        ensure_running(tmp_path / "none" / "x.db")
    with pytest.raises(UsageError, match="is a folder"):
        ensure_running(tmp_path)
    monkeypatch.setenv("TMPDIR", str(tmp_path / ("long" * 30)))
    monkeypatch.delenv("XDG_RUNTIME_DIR", raising=False)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / ("long" * 30)))
    with pytest.raises(SelectorError, match="longer than 107 bytes; set TMPDIR"):
        ensure_running(tmp_path / "x.db")


def test_when_files_cannot_grow_writes_fail_and_nothing_acknowledged_is_lost(own_file: Path) -> None:
    uri = ensure_running(own_file)
    pid = status(own_file)["pid"]
    with pymongo.MongoClient(uri) as client:
        collection = client.t.c
        collection.create_index("k", unique=True)
        unlimited = resource.prlimit(pid, resource.RLIMIT_FSIZE)
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (400_000, unlimited[1]))
        acknowledged = 0
        with pytest.raises(OperationFailure, match=r"not stored: .*free some space") as failure:
            for i in range(1000):
                collection.insert_one({"_id": i, "k": i, "pad": "x" * 2000})
                acknowledged += 1
        assert failure.value.code == 14031 and 0 < acknowledged < 1000
        assert collection.count_documents({}) == acknowledged
        resource.prlimit(pid, resource.RLIMIT_FSIZE, unlimited)
        collection.insert_one({"_id": "after", "k": "after"})
        os.kill(pid, signal.SIGKILL)
        ensure_running(own_file)
        assert [row["_id"] for row in collection.find()] == [*range(acknowledged), "after"]


def test_a_wrong_idle_time_is_named(own_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SELECTOR_DB_IDLE_S", "soon")
    with pytest.raises(SelectorError, match="SELECTOR_DB_IDLE_S=soon: not a positive number"):
        ensure_running(own_file)


def test_a_network_file_system_is_named_and_another_path_suggested(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mounts = tmp_path / "mountinfo"
    mounts.write_text(
        "22 1 8:1 / / rw - ext4 /dev/sda1 rw\n"
        f"23 22 0:5 / {tmp_path} rw,relatime shared:1 - nfs4 server:/export rw\n"
        f"24 23 8:2 / {tmp_path}/with\\040space rw - xfs /dev/sdb1 rw\n"
    )
    assert runtime.file_system(tmp_path, mounts) == "nfs4"
    assert runtime.file_system(tmp_path / "with space" / "deep", mounts) == "xfs"
    assert runtime.file_system(Path("/"), mounts) == "ext4"
    monkeypatch.setattr(runtime, "_MOUNTS", mounts)
    monkeypatch.setenv("XDG_STATE_HOME", "/var/lib/state")
    with pytest.raises(
        UsageError, match=r"x\.db: on a network file system \(nfs4\).*use /var/lib/state/selector/x\.db"
    ):
        ensure_running(tmp_path / "x.db")


def test_told_to_stop_it_answers_nothing_more(own_file: Path) -> None:
    """A sign of life from a dying server would lead clients to it, who repeat what they were at but once."""

    async def asked_after_the_end(context: Context, path: Path) -> bytes:
        server = Server(context, path, 60.0)
        serving = asyncio.create_task(server.serve(Quiet()))
        while not path.exists():
            await asyncio.sleep(0.01)
        reader, writer = await asyncio.open_unix_connection(path)
        ping = Request(1, OP_MSG, {}).reply({"ping": 1, "$db": "admin"})
        writer.write(ping)
        assert await reader.read(4096)
        server.leave()
        writer.write(ping)
        answer = await reader.read(4096)
        await serving
        return answer

    storage = Storage(own_file)
    with tempfile.TemporaryDirectory() as folder:
        assert asyncio.run(asked_after_the_end(Context(storage), Path(folder) / "s.sock")) == b""
    storage.close()
