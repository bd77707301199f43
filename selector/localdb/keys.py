"""BSON values as byte strings that sort, and are equal, as MongoDB compares the values.

One encoding serves equality, ranges, sorting, grouping and the index tables, so they can't disagree. Every encoding
is prefix-free and starts with a type tag between 0x05 and 0xf0; hence codes of several fields can be concatenated, and
``prefix + b"\\xff"`` is above everything that starts with ``prefix``.
"""

import math
import struct
import sys
from collections.abc import Callable
from datetime import datetime, timedelta
from decimal import Context, Decimal
from typing import Any

from bson import Binary, Code, DBRef, Decimal128, Int64, MaxKey, MinKey, ObjectId, Regex, Timestamp
from bson.datetime_ms import DatetimeMS

from selector.localdb.failures import unsupported

MISSING: Any = type("Missing", (), {"__repr__": lambda self: "MISSING"})()

MIN_TAG, EMPTY_ARRAY_TAG, NULL_TAG, NAN_TAG, NUMBER_TAG, STRING_TAG = 0x05, 0x08, 0x10, 0x1F, 0x20, 0x30
OBJECT_TAG, ARRAY_TAG, BINARY_TAG, OBJECT_ID_TAG, BOOL_TAG, DATE_TAG = 0x40, 0x50, 0x60, 0x70, 0x80, 0x90
TIMESTAMP_TAG, REGEX_TAG, CODE_TAG, SCOPED_CODE_TAG, MAX_TAG = 0xA0, 0xB0, 0xC0, 0xC1, 0xF0

NULL = bytes([NULL_TAG])
EMPTY_ARRAY = bytes([EMPTY_ARRAY_TAG])
_EPOCH = datetime(1970, 1, 1)
_MILLISECOND = timedelta(milliseconds=1)
_COMPLEMENT = bytes(255 - i for i in range(256))
_WIDE = Context(prec=50)
_LARGEST = sys.float_info.max
_SAFE_INT = 2**53


def encode(value: Any) -> bytes:
    """The sortable code of one BSON value; a missing value counts as null."""
    encoder = _ENCODERS.get(type(value))
    if encoder is None:
        encoder = next((e for kind, e in _ENCODERS.items() if isinstance(value, kind)), None)
        if encoder is None:
            raise unsupported(f"comparing a value of type {type(value).__name__}")
    return encoder(value)


def equal(a: Any, b: Any) -> bool:
    """MongoDB's equality: 1 == 1.0, 1 != true, documents are equal only with their fields in the same order."""
    return encode(a) == encode(b)


def descending(code: bytes) -> bytes:
    """The code that sorts the other way round."""
    return code.translate(_COMPLEMENT)


def _double(x: float) -> bytes:
    bits = int.from_bytes(struct.pack(">d", x + 0.0))
    bits = bits ^ 0xFFFFFFFFFFFFFFFF if bits >> 63 else bits | 1 << 63
    return bits.to_bytes(8)


def _float(x: float) -> bytes:
    return bytes([NAN_TAG]) if math.isnan(x) else b"\x20" + _double(x) + b"\x02"


def _int(x: int) -> bytes:
    if -_SAFE_INT <= x <= _SAFE_INT:
        return b"\x20" + _double(float(x)) + b"\x02"
    return b"\x20" + _exact(Decimal(x))


def _decimal(x: Decimal128) -> bytes:
    number = x.to_decimal()
    if number.is_nan():
        return bytes([NAN_TAG])
    return b"\x20" + (_double(float(number)) + b"\x02" if number.is_infinite() else _exact(number))


def _exact(number: Decimal) -> bytes:
    """A double near the number, the side of it the number lies on, and if it is not that double, its digits."""
    nearest = max(-_LARGEST, min(_LARGEST, float(number)))
    if number == Decimal(nearest):
        return _double(nearest) + b"\x02"
    sign, digits, exponent = number.normalize(_WIDE).as_tuple()
    assert isinstance(exponent, int)
    size = struct.pack(">H", exponent + len(digits) + 0x8000) + bytes(digit + 1 for digit in digits) + b"\0"
    side = b"\x03" if number > Decimal(nearest) else b"\x01"
    return _double(nearest) + side + (descending(size) if sign else size)


def _text(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass").replace(b"\0", b"\0\xff") + b"\0"


def _object(document: dict) -> bytes:
    parts = [b"\x40"]
    for name, value in document.items():
        code = encode(value)
        parts.append(b"\x01" + code[:1] + _text(name) + code)
    return b"".join(parts) + b"\0"


def _binary(data: bytes) -> bytes:
    return b"\x60" + struct.pack(">IB", len(data), getattr(data, "subtype", 0)) + data


def _signed(tag: int, number: int) -> bytes:
    return bytes([tag]) + (number + 2**63).to_bytes(8)


def _scoped(code: Code) -> bytes:
    if code.scope is None:
        return bytes([CODE_TAG]) + _text(str(code))
    return bytes([SCOPED_CODE_TAG]) + _text(str(code)) + _object(dict(code.scope))


# bool before int, and the special text and bytes before str and bytes: subclasses are looked up in this order.
_ENCODERS: dict[type, Callable[[Any], bytes]] = {
    type(MISSING): lambda _: NULL,
    type(None): lambda _: NULL,
    bool: lambda x: b"\x80\x01" if x else b"\x80\x00",
    int: _int,
    Int64: _int,
    float: _float,
    Decimal128: _decimal,
    Code: _scoped,
    str: lambda x: b"\x30" + _text(x),
    dict: _object,
    list: lambda x: b"\x50" + b"".join(map(encode, x)) + b"\0",
    Binary: _binary,
    bytes: _binary,
    ObjectId: lambda x: b"\x70" + x.binary,
    datetime: lambda x: _signed(DATE_TAG, (x.replace(tzinfo=None) - _EPOCH) // _MILLISECOND),
    DatetimeMS: lambda x: _signed(DATE_TAG, int(x)),
    Timestamp: lambda x: bytes([TIMESTAMP_TAG]) + struct.pack(">II", x.time, x.inc),
    Regex: lambda x: bytes([REGEX_TAG]) + _text(str(x.pattern)) + _text(str(x.flags)),
    DBRef: lambda x: _object(dict(x.as_doc())),
    MinKey: lambda _: bytes([MIN_TAG]),
    MaxKey: lambda _: bytes([MAX_TAG]),
}
