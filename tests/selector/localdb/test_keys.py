"""The sortable code orders and equates values as MongoDB's documentation says."""

import math
from datetime import datetime
from decimal import Decimal

from bson import Binary, Decimal128, Int64, MaxKey, MinKey, ObjectId, Regex, Timestamp
from hypothesis import example, given, settings
from hypothesis import strategies as st

from selector.localdb.keys import descending, encode, equal

# "Comparison/Sort Order" of the MongoDB manual, one value a type.
TYPE_ORDER = [
    MinKey(),
    None,
    5,
    "text",
    {"a": 1},
    [1],
    Binary(b"x"),
    ObjectId("0" * 24),
    False,
    datetime(2026, 1, 1),
    Timestamp(1, 1),
    Regex("a"),
    MaxKey(),
]

integers = st.integers(-(2**63), 2**63 - 1)
floats = st.floats(allow_nan=False)
decimals = st.decimals(min_value=-(10**27), max_value=10**27, allow_nan=False, places=6)
numbers = st.one_of(integers, floats, decimals)


def bson_number(x: int | float | Decimal) -> object:
    return Decimal128(x) if isinstance(x, Decimal) else x


def test_types_sort_in_the_documented_order() -> None:
    codes = [encode(value) for value in TYPE_ORDER]
    assert codes == sorted(codes)
    assert len(set(codes)) == len(codes)


@given(numbers, numbers)
@example(2**53, 2**53 + 1)
@example(2**53 + 1, float(2**53))
@example(2**63 - 1, float(2**63))
@example(0.0, -0.0)
@example(0.1, Decimal("0.1"))
def test_numbers_compare_by_exact_value_whatever_their_type(a: int | float | Decimal, b: int | float | Decimal) -> None:
    assert (encode(bson_number(a)) < encode(bson_number(b))) == (a < b)
    assert (encode(bson_number(a)) == encode(bson_number(b))) == (a == b)


@given(st.text(), st.text())
@example("a", "a\0")
@example("a\0b", "a")
def test_text_sorts_by_its_utf8_bytes(a: str, b: str) -> None:
    assert (encode(a) < encode(b)) == (a.encode() < b.encode())


values = st.recursive(
    st.one_of(st.none(), st.booleans(), integers, floats, st.text(max_size=5), st.binary(max_size=4)),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text("ab", min_size=1), inner, max_size=3)),
    max_leaves=6,
)


@settings(max_examples=200)
@given(values, values)
def test_no_code_is_the_beginning_of_another(a: object, b: object) -> None:
    one, two = encode(a), encode(b)
    assert one == two or not two.startswith(one)


@given(values, values)
def test_descending_reverses_the_order(a: object, b: object) -> None:
    assert (encode(a) < encode(b)) == (descending(encode(a)) > descending(encode(b)))


def test_equality_across_types() -> None:
    assert equal(1, 1.0) and equal(Int64(1), Decimal128("1.0"))
    assert not equal(1, True) and not equal(0, False) and not equal("1", 1)
    assert not equal({"a": 1, "b": 2}, {"b": 2, "a": 1})
    assert equal(math.nan, Decimal128("NaN"))
    assert encode(math.nan) < encode(-math.inf)
    assert not equal(Binary(b"x", 0), Binary(b"x", 128))


def test_decimals_beyond_the_range_of_a_double_keep_their_order() -> None:
    ordered = [
        -math.inf,
        "-2E+400",
        "-1E+400",
        -1e308,
        "-1E-400",
        0,
        "1E-400",
        "2E-400",
        5e-324,
        1e308,
        "1E+400",
        math.inf,
    ]
    codes = [encode(Decimal128(x) if isinstance(x, str) else x) for x in ordered]
    assert codes == sorted(set(codes))
