"""From a configuration to a LaunchPad: FireWorks' collections and the campaign's own in one database."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any
from weakref import WeakValueDictionary

from fireworks import LaunchPad
from pymongo.errors import ConfigurationError, InvalidURI, OperationFailure

from fw_tasks.workflows import index_keys
from selector.config import CampaignConfig
from selector.errors import SelectorError, UsageError
from selector.files import make_writable
from selector.localdb.revival import keep_running
from selector.mongo_address import options as options_of
from selector.mongo_address import public_address
from selector.mongo_errors import explain, what_is_wrong_with

CONNECT_TIMEOUT_MS = 10_000
LOCAL = {"heartbeatFrequencyMS": 500}
"""ms; whoever finds a local server dead starts it again, and until then operations fail."""
_open: WeakValueDictionary[tuple[int, str, str], LaunchPad] = WeakValueDictionary()
"""The connections of this process, by process (a fork makes its own), URI and database."""


def database_file(config: CampaignConfig) -> Path:
    """Where a campaign without a MongoDB keeps its memory."""
    return config.folder / "database" / "selector.sqlite"


def connect(config: CampaignConfig) -> LaunchPad:
    """The campaign's database as a LaunchPad: FireWorks' collections lie beside the campaign's own.

    A process has one connection to a database, which all who ask for it share for as long as one of them holds it.

    Raises
    ------
    UsageError
        ``database.uri`` is no MongoDB URI, or asks for less than a campaign needs.
    SelectorError
        The database refuses user or password.
    pymongo.errors.AutoReconnect
        It does not answer within ten seconds.
    """
    uri, more = config.database_uri(), {}
    if uri is None:
        make_writable(database_file(config).parent)
        uri, more = keep_running(database_file(config)), LOCAL
    mine = (os.getpid(), uri, config.database.name)
    launchpad = _open.get(mine)
    if launchpad is None:
        launchpad = _open[mine] = _launchpad(uri, config.database.name, more)
    return launchpad


def _launchpad(uri: str, name: str, more: dict[str, Any]) -> LaunchPad:
    options = options_of(uri, CONNECT_TIMEOUT_MS) | {"tz_aware": False} | more
    try:
        launchpad = LaunchPad(
            host=uri, uri_mode=True, name=name, logdir=None, strm_lvl="ERROR", mongoclient_kwargs=options
        )
    except (InvalidURI, ConfigurationError, ValueError) as e:
        raise UsageError(what_is_wrong_with(uri, e)) from None
    # FireWorks writes a LaunchPad's host into files and messages; by now it is connected.
    launchpad.host = public_address(uri)
    try:
        launchpad.connection.admin.command("ping")
    except OperationFailure as e:
        raise SelectorError(explain(e, launchpad.host)) from None
    return launchpad


def launchpad_for(config: CampaignConfig) -> LaunchPad:
    """The campaign's LaunchPad. A database that holds none yet gets one; one that does keeps every workflow it has."""
    launchpad = connect(config)
    if launchpad.fw_id_assigner.find_one() is None:
        launchpad.fw_id_assigner.update_one(
            {"_id": -1}, {"$setOnInsert": {"next_fw_id": 1, "next_launch_id": 1}}, upsert=True
        )
        launchpad.tuneup()
    index_keys(launchpad)
    return launchpad
