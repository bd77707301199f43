"""selector recover: results that lie on disk and that the database does not know."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Annotated

import typer

from selector.cli.common import DEFAULT_CONFIG, AsJson, ConfigFile, console, errors, print_json
from selector.config import load_config
from selector.errors import UsageError

SAID = {
    "taken": "results were taken",
    "failed": "failures were counted",
    "known": "were known",
    "waiting": "are booked by the next step",
    "refused": "were refused",
}


def recover(
    folder: Annotated[
        Path | None,
        typer.Argument(metavar="DIR", help="Where the results lie, at any depth (default: the campaign's own folder)."),
    ] = None,
    config_file: ConfigFile = DEFAULT_CONFIG,
    as_json: AsJson = False,
) -> None:
    """Take in results that the database does not know. After a restored backup, or from a copy of a campaign's folder.

    Each is taken once, its cost is booked once, and nothing is dispatched. What is of another campaign, of other
    settings, or cannot be read is named and left where it is; the exit code is 1 then.
    """
    from fw_tasks.launch import open_campaign
    from fw_tasks.recovery import bring_home, search

    config = load_config(config_file)
    if folder is not None and not folder.is_dir():
        raise UsageError(f"{folder}: no such folder; name one that holds results")
    campaign = open_campaign(config)
    refused = bring_home(folder or config.folder, campaign.store, config)
    search(config.folder, config.campaign)
    said = campaign.recover()
    if as_json:
        print_json({"busy": said is None, **{k: (said or Counter())[k] for k in SAID}, "not_taken": refused})
    else:
        for why in refused:
            errors.print(f"selector: not taken: {why}")
        if said is None:
            console.print("Another process is at the step; it was asked to take them in.")
        else:
            console.print(
                "; ".join(f"{said[k]} {words}" for k, words in SAID.items() if said[k]) or "Nothing is there."
            )
    if refused or (said and said["refused"]):
        raise typer.Exit(1)


COMMANDS = (recover,)
