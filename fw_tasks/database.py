"""From a configuration to a LaunchPad: FireWorks' collections and the campaign's own in one database."""

from __future__ import annotations

from pathlib import Path

from fireworks import LaunchPad
from pymongo.errors import ConfigurationError, InvalidURI

from fw_tasks.workflows import index_keys
from selector.config import CampaignConfig
from selector.errors import UsageError
from selector.files import make_writable
from selector.localdb.revival import keep_running

CONNECT_TIMEOUT_MS = 10_000


def database_file(config: CampaignConfig) -> Path:
    """Where a campaign without a MongoDB keeps its memory."""
    return config.folder / "database" / "selector.sqlite"


def connect(config: CampaignConfig) -> LaunchPad:
    """The campaign's database as a LaunchPad: FireWorks' collections lie beside the campaign's own.

    Raises
    ------
    UsageError
        ``database.uri`` is no MongoDB URI.
    """
    uri = config.database_uri()
    if uri is None:
        make_writable(database_file(config).parent)
        uri = keep_running(database_file(config))
    try:
        return LaunchPad(
            host=uri,
            uri_mode=True,
            name=config.database.name,
            logdir=None,
            strm_lvl="ERROR",
            mongoclient_kwargs={"serverSelectionTimeoutMS": CONNECT_TIMEOUT_MS, "tz_aware": False},
        )
    except (InvalidURI, ConfigurationError, ValueError) as e:
        raise UsageError(
            f"database.uri: not a MongoDB URI ({str(e).split(chr(10))[0]}); see configs/campaign.yaml"
        ) from None


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
