"""A write whose reply was lost is sent again by the driver and takes effect once."""

import os
import signal
import socket
import subprocess
import sys
import threading
import time
import uuid
from pathlib import Path

import bson
import pymongo
import pytest
from pymongo.errors import AutoReconnect

from selector.localdb import ensure_running, status, stop
from selector.localdb.revival import keep_running
from selector.localdb.wire import HEADER_BYTES, OP_MSG, Request, read_header

_ADDER = """
import sys, pymongo
numbers = pymongo.MongoClient(sys.argv[1]).test.numbers
for i in range(int(sys.argv[2])):
    numbers.find_one_and_update({"_id": "sum"}, {"$inc": {"n": 1}}, upsert=True)
    numbers.insert_one({"i": i})
    print(i, flush=True)
"""


class Line:
    """A bare connection: pymongo puts sessions of its own into commands."""

    def __init__(self, database_file: Path) -> None:
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.connect(status(database_file)["socket"])

    def send(self, command: dict, session: bson.Binary, number: int) -> dict:
        """The server's reply to the `number`-th write of a session."""
        numbered = {**command, "lsid": {"id": session}, "txnNumber": bson.Int64(number), "$db": "test"}
        self._socket.sendall(Request(1, OP_MSG, {}).reply(numbered))
        length, _, _ = read_header(self._socket.recv(HEADER_BYTES))
        return bson.decode(self._socket.recv(length)[5:])


@pytest.fixture
def line(own_file: Path) -> Line:
    ensure_running(own_file)
    return Line(own_file)


@pytest.fixture
def session() -> bson.Binary:
    return bson.Binary.from_uuid(uuid.uuid4())


def test_the_same_number_takes_effect_once(line: Line, session: bson.Binary) -> None:
    insert = {"insert": "c", "documents": [{"_id": 1, "n": 0}]}
    assert line.send(insert, session, 1)["n"] == line.send(insert, session, 1)["n"] == 1
    modify = {"findAndModify": "c", "query": {"_id": 1}, "update": {"$inc": {"n": 1}}, "new": True}
    assert line.send(modify, session, 2)["value"] == line.send(modify, session, 2)["value"] == {"_id": 1, "n": 1}
    # Another session's number 2 is another write, and so is the next number.
    assert line.send(modify, bson.Binary.from_uuid(uuid.uuid4()), 2)["value"]["n"] == 2
    assert line.send(modify, session, 3)["value"]["n"] == 3
    late = line.send(modify, session, 2)
    assert late["ok"] == 0 and late["code"] == 225
    assert line.send(modify, session, 4)["value"]["n"] == 4


def test_errors_within_a_batch_come_back_too(line: Line, session: bson.Binary) -> None:
    insert = {"insert": "c", "documents": [{"_id": 1}, {"_id": 1}]}
    first, second = (line.send(insert, session, 1) for _ in range(2))
    assert first == second and first["n"] == 1 and first["writeErrors"][0]["code"] == 11000


def test_replies_outlive_the_server_until_their_session_ends(own_file: Path, session: bson.Binary) -> None:
    update = {"update": "c", "updates": [{"q": {"_id": 1}, "u": {"$inc": {"n": 1}}, "upsert": True}]}
    for _ in range(2):
        ensure_running(own_file)
        assert Line(own_file).send(update, session, 7)["upserted"] == [{"index": 0, "_id": 1}]
        os.kill(status(own_file)["pid"], signal.SIGKILL)
    with pymongo.MongoClient(ensure_running(own_file)) as client:
        assert client.test.c.find_one() == {"_id": 1, "n": 1}
        client.admin.command({"endSessions": [{"id": session}]})
        assert "upserted" not in Line(own_file).send(update, session, 7)
        assert client.test.c.find_one() == {"_id": 1, "n": 2}


def test_a_client_rides_over_three_killed_servers(own_file: Path) -> None:
    """Nothing but pymongo's own retries in the client; this process starts the server again."""
    command = [sys.executable, "-c", _ADDER, ensure_running(own_file), "400"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as adder:
        assert adder.stdout is not None
        for line in adder.stdout:
            if int(line) in (50, 150, 250):
                os.kill(status(own_file)["pid"], signal.SIGKILL)
                ensure_running(own_file)
    assert adder.returncode == 0
    with pymongo.MongoClient(ensure_running(own_file)) as client:
        assert client.test.numbers.find_one({"_id": "sum"})["n"] == 400
        assert client.test.numbers.count_documents({"i": {"$exists": True}}) == 400


def test_keep_running_starts_a_killed_server_again(own_file: Path) -> None:
    with pymongo.MongoClient(keep_running(own_file)) as client:
        for i in range(5):
            client.test.c.insert_one({"_id": i})
            if i % 2:
                os.kill(status(own_file)["pid"], signal.SIGKILL)
        assert client.test.c.count_documents({}) == 5


def test_a_removed_database_is_not_made_anew(own_file: Path) -> None:
    with pymongo.MongoClient(keep_running(own_file), serverSelectionTimeoutMS=1500) as client:
        client.test.c.insert_one({})
        stop(own_file)
        for file in own_file.parent.glob(own_file.name + "*"):
            file.unlink()
        with pytest.raises(AutoReconnect):
            client.test.c.find_one()
    assert not own_file.exists()


def test_a_server_stopped_while_clients_write_loses_nothing(own_file: Path) -> None:
    """`selector db stop` in mid-campaign: the server ends after its command, the clients' next one starts it again."""
    stopping = threading.Event()
    written, stops = [0], [0]

    def keep_stopping() -> None:
        seen = 0
        while not stopping.wait(0.5):
            # Drivers repeat a write once: the next stop waits until the last one was got over.
            if written[0] > seen:
                seen = written[0]
                stop(own_file)
                stops[0] += 1

    with pymongo.MongoClient(keep_running(own_file)) as client:
        thread = threading.Thread(target=keep_stopping)
        thread.start()
        try:
            begun = time.monotonic()
            while stops[0] < 5 and time.monotonic() - begun < 60:
                client.test.c.insert_one({"_id": written[0]})
                written[0] += 1
        finally:
            stopping.set()
            thread.join()
        assert client.test.c.count_documents({}) == written[0]
        assert stops[0] >= 5
