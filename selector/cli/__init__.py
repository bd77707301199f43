"""The `selector` command: the composition root. Heavy libraries are imported by the commands that need them."""

from __future__ import annotations

import sys

import typer

from selector.cli import (
    campaigns,
    cluster,
    database,
    export,
    labels,
    maps,
    prediction,
    recover,
    replay,
    single,
    steering,
    training,
    worker,
)
from selector.errors import SelectorError

app = typer.Typer(
    name="selector",
    help="Choose which crystals deserve an RPA optical spectrum, within a budget of CPU-hours.",
    epilog="A campaign: selector init campaign.yaml; selector add CIFS/; selector plan; selector run; selector report.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
for module in (
    campaigns,
    cluster,
    steering,
    export,
    labels,
    maps,
    prediction,
    recover,
    replay,
    single,
    training,
    worker,
):
    for command in module.COMMANDS:
        # import is a keyword: its function is import_.
        app.command(command.__name__.rstrip("_"))(command)
app.add_typer(steering.budget, name="budget")
app.add_typer(database.app, name="db")


def main() -> None:
    """Run the command; a user's mistake is one line on standard error and an exit code, 2 for usage, 1 for a run."""
    from pymongo.errors import PyMongoError

    from selector.mongo_errors import explain

    try:
        app()
    except SelectorError as e:
        _fail(str(e), e.exit_code)
    except PyMongoError as e:
        _fail(explain(e), 1)
    except PermissionError as e:
        _fail(f"{e.filename}: permission denied; choose a folder you may write to", 1)
    except KeyboardInterrupt:
        _fail("stopped; what was recorded is kept, `selector run` goes on from there", 130)


def _fail(message: str, code: int) -> None:
    print(f"selector: error: {message}", file=sys.stderr)
    sys.exit(code)
