"""The local database: real pymongo and FireWorks without a MongoDB server (docs/localdb.md)."""

from selector.localdb.client import ensure_running, status, stop

__all__ = ["ensure_running", "status", "stop"]
