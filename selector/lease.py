"""The step's lease: one process at a time, and one that wakes up late writes nothing.

The lease stands in the campaign's document. It ends with its holder's word, or by the database's clock, and each holder
has a higher *epoch* than the last. Every write of a step depends on it:

- On the campaign's document, a write matches ``lease.epoch``: after a takeover it matches nothing.
- On candidates, other documents, a write matches an ``epoch`` that is not above the step's own, and leaves its own
  there. Before it, the holder *announces* in the campaign's document which candidates it is about to write
  (``lease.writes``: ids, or "all" that are pending). The next holder stamps these with its own epoch before anything
  else. What a late holder still has under way was announced, so it meets a higher epoch; what it begins must be
  announced, and can't be.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Collection
from datetime import datetime, timedelta
from typing import Any, Literal

from pymongo import ReturnDocument
from pymongo.database import Database

LEASE_S = 120.0
RELEASED: dict[str, Any] = {"lease.owner": None, "lease.expires": datetime(1970, 1, 1), "lease.writes": []}
Writes = Collection[str] | Literal["all"]


class LeaseLost(Exception):
    """Another process holds the lease by now; this one has to stop where it is."""


class Lease:
    """The lease of one campaign."""

    def __init__(self, db: Database[Any], campaign: str) -> None:
        self._admin = db.client.admin
        self._campaigns = db["campaigns"]
        self._campaign = campaign

    @staticmethod
    def opening() -> dict[str, Any]:
        """The lease as it stands in a new campaign's document."""
        return {"owner": None, "epoch": 0, "expires": RELEASED["lease.expires"], "writes": []}

    def take(self, owner: str | None = None) -> int | None:
        """The lease's epoch, or None while another holds it; that of a dead process of this host is taken over."""
        host = socket.gethostname()
        holder, epoch = self.holder()
        if holder and holder.startswith(f"{host}:") and not _is_alive(int(holder.rpartition(":")[2])):
            self._change(epoch, {"lease.expires": RELEASED["lease.expires"]})
        clock = self._clock()
        document = self._campaigns.find_one_and_update(
            {"_id": self._campaign, "lease.expires": {"$lt": clock}},
            {
                "$set": {"lease.owner": owner or f"{host}:{os.getpid()}", "lease.expires": _after(clock)},
                "$inc": {"lease.epoch": 1},
            },
            projection={"lease.epoch": 1},
            return_document=ReturnDocument.AFTER,
        )
        return document["lease"]["epoch"] if document else None

    def holder(self) -> tuple[str | None, int]:
        """Who holds it, if anybody does, and its epoch."""
        lease = self._read()
        return lease["owner"], lease["epoch"]

    def inherited(self) -> Writes:
        """What a holder before had announced and not finished."""
        writes: Writes = self._read().get("writes", [])
        return writes

    def renew(self, epoch: int) -> None:
        """Hold it for another while; `LeaseLost` if another has it."""
        if not self._change(epoch, {"lease.expires": _after(self._clock())}):
            raise LeaseLost

    def announce(self, epoch: int, writes: Writes) -> None:
        """Tell which candidates are written next (none: all are written), and renew; `LeaseLost` as for `renew`."""
        said = writes if writes == "all" else list(writes)
        if not self._change(epoch, {"lease.writes": said, "lease.expires": _after(self._clock())}):
            raise LeaseLost

    def drop(self, epoch: int, *, clean: bool = True) -> None:
        """Give it back; not ``clean``: what was announced may not have been written, and the next holder looks."""
        self._change(epoch, {k: v for k, v in RELEASED.items() if clean or k != "lease.writes"})

    def _change(self, epoch: int, fields: dict[str, Any]) -> bool:
        query = {"_id": self._campaign, "lease.epoch": epoch}
        return self._campaigns.update_one(query, {"$set": fields}).matched_count == 1

    def _read(self) -> dict[str, Any]:
        document = self._campaigns.find_one({"_id": self._campaign}, {"lease": 1})
        return document["lease"] if document else self.opening()

    def _clock(self) -> datetime:
        clock: datetime = self._admin.command("hello")["localTime"]
        return clock


def _after(clock: datetime) -> datetime:
    return clock + timedelta(seconds=LEASE_S)


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
