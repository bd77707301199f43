"""The local database behind the door of a MongoDB: users, rights and read-only mode, with MongoDB's error codes.

It listens on TCP, checks SCRAM-SHA-256 as a server does, and hands what it allows to a local database.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import hmac
import os
import secrets
import socket
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote

import bson

from selector.localdb.wire import HEADER_BYTES, OP_MSG, Request, read_header, read_request

ACTIONS = {
    "find": {"find"},
    "count": {"find"},
    "distinct": {"find"},
    "aggregate": {"find"},
    "getMore": {"find"},
    "insert": {"insert"},
    "update": {"update"},
    "delete": {"remove"},
    "findAndModify": {"find", "update"},
    "createIndexes": {"createIndex"},
    "listIndexes": {"listIndexes"},
    "listCollections": {"listCollections"},
    "dropIndexes": {"dropIndex"},
    "dropDatabase": {"dropDatabase"},
}
"""What a command needs (https://www.mongodb.com/docs/manual/reference/privilege-actions/)."""
FREE = {"hello", "isMaster", "ismaster", "ping", "buildInfo", "endSessions", "killCursors", "saslStart", "saslContinue"}
WRITES = {"insert", "update", "delete", "findAndModify", "createIndexes", "dropIndexes"}
ROUNDS = 4096


@dataclass
class Mongod:
    """One user on one authentication database; ``allowed``: the actions of its role, None for all of them."""

    upstream: str
    user: str = "selector"
    password: str = "p@ss/w:rd?%"
    auth_db: str = "admin"
    allowed: set[str] | None = None
    read_only: bool = False
    commands: list[dict[str, Any]] = field(default_factory=list)
    connections: int = 0

    def __post_init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        self._listener.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                self.connections += 1
                threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        session = _Session(self)
        with client, socket.socket(socket.AF_UNIX) as upstream, contextlib.suppress(OSError, EOFError):
            upstream.connect(unquote(self.upstream.removeprefix("mongodb://").rstrip("/")))
            while True:
                header = _exactly(client, HEADER_BYTES)
                length, number, opcode = read_header(header)
                body = _exactly(client, length)
                request = read_request(number, opcode, body)
                reply = session.answer(request.command)
                if reply is None:
                    upstream.sendall(header + body)
                    length = int.from_bytes((head := _exactly(upstream, HEADER_BYTES))[:4], "little")
                    client.sendall(head + _exactly(upstream, length - HEADER_BYTES))
                else:
                    if "hello" in reply:
                        upstream.sendall(Request(number, OP_MSG, {}).reply(reply["hello"]))
                        length = int.from_bytes(_exactly(upstream, HEADER_BYTES)[:4], "little")
                        said = bson.decode(_exactly(upstream, length - HEADER_BYTES)[5:])
                        reply = said | {"saslSupportedMechs": ["SCRAM-SHA-256"]}
                    client.sendall(request.reply(reply))


@dataclass
class _Session:
    server: Mongod
    authenticated: bool = False
    _scram: dict[str, Any] = field(default_factory=dict)

    def answer(self, command: Mapping[str, Any]) -> dict[str, Any] | None:
        """The door's own reply, or None if the command may pass."""
        name, server = next(iter(command)), self.server
        if name in ("hello", "isMaster", "ismaster"):
            kept = {k: v for k, v in command.items() if k not in ("saslSupportedMechs", "speculativeAuthenticate")}
            return {"hello": {"hello": 1, **{k: v for k, v in kept.items() if k != name}}}
        server.commands.append(dict(command))
        if name in ("saslStart", "saslContinue"):
            return self._start(command) if name == "saslStart" else self._finish(command)
        return None if name in FREE else self._refusal(name, command)

    def _refusal(self, name: str, command: Mapping[str, Any]) -> dict[str, Any] | None:
        if not self.authenticated:
            return failure(13, "Unauthorized", f"command {name} requires authentication")
        if self.server.read_only and name in WRITES:
            return failure(10107, "NotWritablePrimary", "not primary")
        if self.server.allowed is not None and not ACTIONS[name] <= self.server.allowed:
            said = f'{{ {name}: "{command[name]}", lsid: {{ ... }}, $db: "{command["$db"]}" }}'
            return failure(13, "Unauthorized", f"not authorized on {command['$db']} to execute command {said}")
        return None

    def _start(self, command: Mapping[str, Any]) -> dict[str, Any]:
        first = bytes(command["payload"]).decode().split(",", 2)[2]
        said = dict(part.split("=", 1) for part in first.split(","))
        salt, nonce = os.urandom(16), said["r"] + secrets.token_hex(8)
        reply = f"r={nonce},s={base64.b64encode(salt).decode()},i={ROUNDS}"
        self._scram = {"salt": salt, "messages": f"{first},{reply}", "user": said["n"], "db": command["$db"]}
        return {"conversationId": 1, "done": False, "payload": reply.encode(), "ok": 1.0}

    def _finish(self, command: Mapping[str, Any]) -> dict[str, Any]:
        final, _, proof = bytes(command["payload"]).decode().rpartition(",p=")
        server, said = self.server, self._scram
        salted = hashlib.pbkdf2_hmac("sha256", server.password.encode(), said["salt"], ROUNDS)
        key = hmac.digest(salted, b"Client Key", "sha256")
        message = f"{said['messages']},{final}".encode()
        signature = hmac.digest(hashlib.sha256(key).digest(), message, "sha256")
        expected = bytes(a ^ b for a, b in zip(key, signature, strict=True))
        known = (said["user"], said["db"]) == (server.user, server.auth_db)
        if not known or not hmac.compare_digest(expected, base64.b64decode(proof)):
            return failure(18, "AuthenticationFailed", "Authentication failed.")
        self.authenticated = True
        verifier = hmac.digest(hmac.digest(salted, b"Server Key", "sha256"), message, "sha256")
        payload = b"v=" + base64.b64encode(verifier)
        return {"conversationId": 1, "done": True, "payload": payload, "ok": 1.0}


def failure(code: int, name: str, message: str) -> dict[str, Any]:
    return {"ok": 0.0, "errmsg": message, "code": code, "codeName": name}


def _exactly(connection: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        piece = connection.recv(size - len(data))
        if not piece:
            raise EOFError
        data += piece
    return data
