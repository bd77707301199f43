"""The campaign's events as they come, each once, however long its history is."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from selector.store import Store

OVERLAP_S = 60.0
"""An event may be seen after later ones: it is written a moment after its time, by machines whose clocks differ."""


class Feed:
    """What has happened since ``time`` (ISO), asked for again and again."""

    def __init__(self, time: str) -> None:
        self._start = self._from = datetime.fromisoformat(time)
        self._seen: set[Any] = set()

    def new(self, store: Store) -> list[dict[str, Any]]:
        """The events that were not returned before, by time; only the last minute's are read twice."""
        found = store.events_since(self._from.isoformat())
        new = [event for event in found if event["_id"] not in self._seen]
        if new:
            latest = datetime.fromisoformat(found[-1]["time"]) - timedelta(seconds=OVERLAP_S)
            self._from = max(self._start, self._from, latest)
        self._seen = {event["_id"] for event in found if datetime.fromisoformat(event["time"]) >= self._from}
        return new
