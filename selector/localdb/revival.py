"""A server that died under its clients is started again: by any process that asked for it with `keep_running`."""

import contextlib
from pathlib import Path

from pymongo import monitoring

from selector.errors import SelectorError
from selector.localdb.client import ensure_running, socket_of

_watched: set[Path] = set()


def keep_running(database_file: Path) -> str:
    """The pymongo URI of the database's server, which clients made from now on start again whenever it is gone.

    pymongo then repeats the operation that it was at: reads, and writes by their number (`selector.localdb.retries`). A
    database whose file was removed is not made anew.

    Raises
    ------
    UsageError, SelectorError
        As `selector.localdb.ensure_running`.
    """
    uri = ensure_running(database_file)
    path = Path(database_file).expanduser().resolve()
    if path not in _watched:
        _watched.add(path)
        monitoring.register(_Reviver(path))
    return uri


class _Reviver(monitoring.ServerHeartbeatListener):
    """Starts the server as soon as pymongo's own monitor finds it gone."""

    def __init__(self, database_file: Path) -> None:
        self._path = database_file

    def started(self, event: monitoring.ServerHeartbeatStartedEvent) -> None:
        pass

    def succeeded(self, event: monitoring.ServerHeartbeatSucceededEvent) -> None:
        pass

    def failed(self, event: monitoring.ServerHeartbeatFailedEvent) -> None:
        if self._path.exists() and event.connection_id[0] == str(socket_of(self._path)):
            # What keeps it from starting, the operation that waits for it will say.
            with contextlib.suppress(SelectorError):
                ensure_running(self._path)
