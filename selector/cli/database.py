"""The commands of the local database: db start, stop, status."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from selector import localdb
from selector.cli.common import DEFAULT_CONFIG, AsJson, ConfigFile, console, print_json
from selector.config import load_config
from selector.errors import UsageError
from selector.localdb import dump

app = typer.Typer(
    help="Start, stop, export the local database. It serves campaigns that name no MongoDB.", no_args_is_help=True
)


def _file(config_file: Path) -> Path:
    from fw_tasks.database import database_file

    config = load_config(config_file)
    if config.database_uri():
        raise UsageError(f"{config_file}: database.uri names a MongoDB; `selector db` is for the local database only")
    return database_file(config)


@app.command()
def start(config_file: ConfigFile = DEFAULT_CONFIG) -> None:
    """Start the local database and print its URI; other commands start it by themselves."""
    console.print(localdb.ensure_running(_file(config_file)), soft_wrap=True)


@app.command()
def stop(config_file: ConfigFile = DEFAULT_CONFIG) -> None:
    """Stop the local database; its data stay in the campaign's folder."""
    stopped = localdb.stop(_file(config_file))
    console.print("stopped" if stopped else "it was not running")


@app.command()
def status(config_file: ConfigFile = DEFAULT_CONFIG, as_json: AsJson = False) -> None:
    """Say whether the local database runs, where, and how large it is."""
    data = localdb.status(_file(config_file))
    if as_json:
        print_json(data)
        return
    for key, value in data.items():
        console.print(f"{key}: {value}", soft_wrap=True)


@app.command("export")
def export_(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="An empty or new folder.")],
    config_file: ConfigFile = DEFAULT_CONFIG,
) -> None:
    """Write the whole database as BSON, in mongodump's layout: mongorestore moves it to a real MongoDB."""
    _tell("written to", dump.export_database(_database(config_file), folder), folder)


@app.command("import")
def import_(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="A folder of BSON files, as mongodump writes them.")],
    config_file: ConfigFile = DEFAULT_CONFIG,
) -> None:
    """Read such a folder into the campaign's database, local or not."""
    _tell("read from", dump.import_database(_database(config_file), folder), folder)


def _database(config_file: Path) -> Any:
    from fw_tasks.database import connect

    return connect(load_config(config_file)).db


def _tell(done: str, counts: dict[str, int], folder: Path) -> None:
    console.print(f"{sum(counts.values())} documents of {len(counts)} collections {done} {folder}", soft_wrap=True)
