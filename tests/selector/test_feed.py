"""The events of `selector run`: each once, late ones too, and none read again but those of the last minute."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from pymongo.database import Database

from selector.cli.feed import OVERLAP_S, Feed
from selector.store import Store

NOON = datetime(2026, 11, 21, 12, tzinfo=UTC)


def at(seconds: float) -> str:
    return (NOON + timedelta(seconds=seconds)).isoformat()


class Events:
    """A store of events in memory, which counts what is read."""

    def __init__(self) -> None:
        self.written: list[dict[str, Any]] = []
        self.n_read = 0

    def write(self, seconds: float) -> None:
        self.written.append({"_id": len(self.written), "time": at(seconds)})

    def events_since(self, time: str) -> list[dict[str, Any]]:
        found = sorted((e for e in self.written if e["time"] >= time), key=lambda e: e["time"])
        self.n_read += len(found)
        return found


@given(
    st.lists(st.lists(st.floats(0.0, OVERLAP_S - 1.0), max_size=5), max_size=12),
    st.lists(st.floats(0.0, 300.0), min_size=12, max_size=12),
)
def test_each_event_comes_once_even_if_it_is_written_after_later_ones(
    late_by: list[list[float]], pauses: list[float]
) -> None:
    events, clock = Events(), 0.0
    events.write(-1.0)  # before the run: not told
    feed, told = Feed(at(0.0)), list[int]()
    for pause, delays in zip(pauses, late_by, strict=False):
        clock += pause
        for delay in delays:
            events.write(max(0.0, clock - delay))
        told += [e["_id"] for e in feed.new(events)]  # type: ignore[arg-type]
    assert sorted(told) == list(range(1, len(events.written)))


def test_a_quiet_tick_reads_what_happened_in_the_last_minute_and_nothing_else() -> None:
    events = Events()
    for i in range(1000):
        events.write(float(i))
    feed = Feed(at(0.0))
    assert len(feed.new(events)) == 1000  # type: ignore[arg-type]
    events.n_read = 0
    assert feed.new(events) == []  # type: ignore[arg-type]
    assert events.n_read == OVERLAP_S + 1


def test_a_long_history_costs_nothing(database: Database[Any]) -> None:
    """Twenty thousand events before: the documents that a tick reads are those since its run began."""
    store = Store(database, "c")
    store.create_indexes()
    old = [{"campaign": "c", "time": at(i - 1e5), "kind": "recorded", "message": "x"} for i in range(20_000)]
    for first in range(0, len(old), 5000):
        database["events"].insert_many(old[first : first + 5000])
    start = datetime.now(UTC)
    feed = Feed(start.isoformat())
    store.event("dispatched", "a")
    assert [e["message"] for e in feed.new(store)] == ["a"]
    seconds = []
    for _ in range(5):
        begun = datetime.now(UTC)
        assert feed.new(store) == []
        seconds.append((datetime.now(UTC) - begun).total_seconds())
    assert min(seconds) < 0.05
    begun = datetime.now(UTC)
    assert len(store.events()) == 20_001
    assert (datetime.now(UTC) - begun).total_seconds() > 5 * min(seconds)
