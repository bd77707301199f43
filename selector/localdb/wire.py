"""Frames of the MongoDB wire protocol: OP_MSG, and OP_QUERY for the first hello of a connection."""

import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import bson
from bson.errors import BSONError

from selector.localdb.collection import CODEC
from selector.localdb.failures import CommandError

HEADER_BYTES = 16
MAX_MESSAGE_BYTES = 48_000_000
OP_REPLY, OP_QUERY, OP_MSG = 1, 2004, 2013
_CHECKSUM, _MORE_TO_COME = 1, 2
_KNOWN_REQUIRED_FLAGS = _CHECKSUM | _MORE_TO_COME


class FrameError(Exception):
    """The bytes are no frame of the protocol: nothing after them can be trusted, so the connection ends."""


@dataclass(frozen=True)
class Request:
    """One command. `wants_reply` is False for unacknowledged writes."""

    number: int
    opcode: int
    command: dict
    wants_reply: bool = True

    def reply(self, document: Mapping[str, Any]) -> bytes:
        """The frame that answers this request with `document`."""
        data = bson.encode(document)
        if self.opcode == OP_QUERY:
            body, opcode = struct.pack("<iqii", 8, 0, 0, 1) + data, OP_REPLY
        else:
            body, opcode = b"\0\0\0\0\0" + data, OP_MSG
        return struct.pack("<iiii", HEADER_BYTES + len(body), 0, self.number, opcode) + body


def read_header(header: bytes) -> tuple[int, int, int]:
    """Length of the body that follows, request number, opcode."""
    length, number, _, opcode = struct.unpack("<iiii", header)
    if not HEADER_BYTES < length <= MAX_MESSAGE_BYTES:
        raise FrameError(f"a message of {length} bytes; allowed are {HEADER_BYTES + 1} to {MAX_MESSAGE_BYTES}")
    if opcode not in (OP_MSG, OP_QUERY):
        raise FrameError(f"opcode {opcode}; known are OP_MSG (2013) and OP_QUERY (2004)")
    return length - HEADER_BYTES, number, opcode


def read_request(number: int, opcode: int, body: bytes) -> Request:
    """The command in a message body.

    Raises
    ------
    FrameError
        The body's structure is broken.
    CommandError
        The structure holds, but a document in it is not valid BSON.
    """
    try:
        return _message(number, body) if opcode == OP_MSG else _query(number, body)
    except (struct.error, IndexError, ValueError) as error:
        if isinstance(error, BSONError):
            raise CommandError(f"invalid BSON in the request: {error}", 22) from error
        raise FrameError(f"a broken message body ({error})") from error
    except BSONError as error:
        raise CommandError(f"invalid BSON in the request: {error}", 22) from error


def _message(number: int, body: bytes) -> Request:
    flags = struct.unpack_from("<I", body)[0]
    if flags & 0xFFFF & ~_KNOWN_REQUIRED_FLAGS:
        raise FrameError(f"unknown message flags {flags:#x}")
    position, end = 4, len(body) - (4 if flags & _CHECKSUM else 0)
    command: dict | None = None
    sequences: dict[str, list[dict]] = {}
    while position < end:
        kind = body[position]
        position += 1
        size = struct.unpack_from("<i", body, position)[0]
        if size < 5 or position + size > end:
            raise FrameError(f"a section of {size} bytes in a message of {len(body)}")
        if kind == 0:
            if command is not None:
                raise FrameError("two command documents")
            command = bson.decode(body[position : position + size], CODEC)
        elif kind == 1:
            name_end = body.index(0, position + 4, position + size)
            name = body[position + 4 : name_end].decode()
            sequences[name] = bson.decode_all(body[name_end + 1 : position + size], CODEC)
        else:
            raise FrameError(f"a section of unknown kind {kind}")
        position += size
    if command is None:
        raise FrameError("no command document")
    if not command or "$db" not in command:
        raise CommandError("OP_MSG requests require a command and a $db argument", 40571)
    return Request(number, OP_MSG, {**command, **sequences}, not flags & _MORE_TO_COME)


def _query(number: int, body: bytes) -> Request:
    name_end = body.index(0, 4)
    namespace = body[4:name_end].decode()
    start = name_end + 9
    size = struct.unpack_from("<i", body, start)[0]
    command = bson.decode(body[start : start + size], CODEC)
    if not namespace.endswith(".$cmd") or not command:
        raise FrameError("an old query that is no command")
    return Request(number, OP_QUERY, {**command, "$db": namespace.removesuffix(".$cmd")})
