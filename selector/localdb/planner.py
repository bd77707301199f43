"""Which documents a filter and a sort must look at: an index range where one helps, else all of them."""

import heapq
import itertools
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from bson import Regex

from selector.localdb.collection import Collection
from selector.localdb.indexes import Index
from selector.localdb.keys import ARRAY_TAG, MAX_TAG, MIN_TAG, NAN_TAG, NULL_TAG, OBJECT_TAG, descending, encode
from selector.localdb.matching import is_operators
from selector.localdb.paths import Path, SortFields

_ENOUGH = 1000
_MAX_RANGES = 2000
_ID: Path = ("_id",)


@dataclass
class Condition:
    """What a filter demands of one path, in codes of `keys.encode`."""

    equals: list[bytes] | None = None
    exact: bool = True
    bounds: list[tuple[str, bytes]] = field(default_factory=list)


@dataclass
class Plan:
    """Ranges of one index. `ordered`: they give the wanted order; `exact`: they give only matching documents."""

    index: Index
    ranges: list[tuple[bytes, bytes, int]]
    ordered: bool
    reverse: bool
    exact: bool

    def numbers(self, collection: Collection) -> Iterator[int]:
        """Document numbers, each once; in order if `ordered`, lazily."""
        streams = [
            ((key[skip:], number) for key, number in self.index.scan(collection.sql, low, high, self.reverse))
            for low, high, skip in self.ranges
        ]
        entries = heapq.merge(*streams, reverse=self.reverse) if self.ordered else itertools.chain(*streams)
        if not self.index.multikey and len(self.ranges) == 1:
            yield from (number for _, number in entries)
            return
        seen: set[int] = set()
        for _, number in entries:
            if number not in seen:
                seen.add(number)
                yield number

    def count(self, collection: Collection) -> int:
        """Number of matching documents; only if `exact`."""
        if self.index.multikey:
            return sum(1 for _ in self.numbers(collection))
        return sum(self.index.count(collection.sql, low, high) for low, high, _ in self.ranges)


def make_plan(collection: Collection, query: dict, sort: SortFields) -> Plan | None:
    """The best index plan; None if every document must be looked at."""
    conditions, complete = _conditions(query)
    if _ID in conditions and len(conditions[_ID].equals or ()) == 1:
        return _plan(collection.indexes["_id_"], conditions, complete, sort)
    plans = [_plan(index, conditions, complete, sort) for index in collection.indexes.values()]
    usable = [plan for plan in plans if plan is not None]
    if len(usable) < 2:
        return usable[0] if usable else None
    if sort and any(plan.ordered for plan in usable):
        # The order costs nothing with these; but a range of few documents is sorted faster than a long one is read.
        small = [p for p in usable if not p.ordered and _estimate(p, collection) < _ENOUGH // 10]
        usable = small or [plan for plan in usable if plan.ordered]
    return min(usable, key=lambda plan: _estimate(plan, collection))


def _estimate(plan: Plan, collection: Collection) -> int:
    total = 0
    for low, high, _ in plan.ranges:
        total += plan.index.count(collection.sql, low, high, _ENOUGH)
        if total >= _ENOUGH:
            break
    # Among equals, the longer key is the narrower one beyond the counted part.
    return total * 4 - len(plan.index.fields) + (2 if not plan.exact else 0)


def _conditions(query: dict) -> tuple[dict[Path, Condition], bool]:
    """Conditions by path, and whether they are all that the filter says."""
    found: dict[Path, Condition] = {}
    complete = True
    for key, condition in query.items():
        if key == "$and":
            for part in condition:
                inner, whole = _conditions(part)
                # Two demands on one path may be met by two elements of an array; keep the first, check the rest.
                complete = complete and whole and not set(inner) & set(found)
                found = {**inner, **found}
        elif key.startswith("$"):
            complete = complete and key == "$comment"
        else:
            path = tuple(key.split("."))
            if path in found:
                complete = False
            else:
                found[path] = _condition(condition)
    return found, complete


def _condition(condition: Any) -> Condition:
    if isinstance(condition, Regex):
        return Condition(exact=False)
    if not is_operators(condition):
        return _equality([condition], True)
    pure = len(condition) == 1
    wanted = [condition["$eq"]] if "$eq" in condition else condition.get("$in")
    if isinstance(wanted, list) and not any(isinstance(item, Regex) for item in wanted):
        return _equality(wanted, pure)
    bounds = [(n, encode(v)) for n, v in condition.items() if n in ("$gt", "$gte", "$lt", "$lte")]
    plain = [(n, code) for n, code in bounds if code[0] not in (MIN_TAG, MAX_TAG, NAN_TAG, NULL_TAG)]
    return Condition(exact=False, bounds=plain)


def _equality(values: list, pure: bool) -> Condition:
    codes = sorted({encode(value) for value in values})
    # Null also means missing, and whole arrays and documents have more ways to match: the documents decide.
    scalar = all(code[0] not in (NULL_TAG, ARRAY_TAG, OBJECT_TAG) for code in codes)
    return Condition(equals=codes, exact=pure and scalar)


def _plan(index: Index, conditions: dict[Path, Condition], complete: bool, sort: SortFields) -> Plan | None:
    if index.partial is not None:
        return None
    prefixes = [b""]
    used = 0
    exact = complete
    for path, direction in index.fields:
        condition = conditions.get(path)
        if condition is None or condition.equals is None or len(prefixes) * len(condition.equals) > _MAX_RANGES:
            break
        codes = condition.equals if direction > 0 else [descending(code) for code in condition.equals]
        prefixes = [prefix + code for prefix in prefixes for code in codes]
        exact = exact and condition.exact
        used += 1
    interval = None
    if used < len(index.fields):
        path, direction = index.fields[used]
        condition = conditions.get(path)
        if condition is not None and condition.bounds:
            interval = _interval(condition.bounds[:1] if index.multikey else condition.bounds, direction)
    ordered, reverse = _order(index, used, sort)
    if not used and interval is None and not (ordered and sort and not index.sparse):
        return None
    if index.sparse and any(code == bytes([NULL_TAG]) for c in conditions.values() for code in c.equals or []):
        return None
    exact = exact and used == len(conditions)
    low, high = interval or (b"", b"\xff")
    return Plan(index, [(p + low, p + high, len(p)) for p in prefixes], ordered, reverse, exact)


def _order(index: Index, used: int, sort: SortFields) -> tuple[bool, bool]:
    """Whether the index, after its `used` fixed fields, is in the wanted order, and whether it is read backwards."""
    rest = index.fields[used : used + len(sort)]
    if not sort:
        return False, False
    if index.multikey or [path for path, _ in rest] != [path for path, _ in sort]:
        return False, False
    agree = [a == b for (_, a), (_, b) in zip(rest, sort, strict=True)]
    return all(agree) or not any(agree), not any(agree)


def _interval(bounds: list[tuple[str, bytes]], direction: int) -> tuple[bytes, bytes]:
    """[low, high) in the index's own bytes for the bounds on one field, which stay within the bound's type."""
    tag = bounds[0][1][0]
    low, high = bytes([tag]), bytes([tag + 1])
    if direction < 0:
        low, high = bytes([255 - tag]), bytes([256 - tag])
    for name, code in bounds:
        if code[0] != tag:
            continue
        stored = code if direction > 0 else descending(code)
        upward = name.startswith("$gt") == (direction > 0)
        inclusive = name.endswith("e")
        if upward:
            low = max(low, stored if inclusive else stored + b"\xff")
        else:
            high = min(high, stored + b"\xff" if inclusive else stored)
    return low, high
