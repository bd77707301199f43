"""What the commands share: where the campaign is, and how results are printed."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

ConfigFile = Annotated[
    Path,
    typer.Option("--config", "-c", help="The campaign's YAML file.", envvar="SELECTOR_CONFIG", show_default=True),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object instead of text.")]
Device = Annotated[str, typer.Option("--device", help="Where a network runs: auto, cpu or cuda.")]
DEFAULT_CONFIG = Path("campaign.yaml")

WIDE = 120
"""Columns where nobody looks at a terminal: log files and pipes."""
console = Console() if sys.stdout.isatty() else Console(width=WIDE)
errors = Console(stderr=True, soft_wrap=True, highlight=False, markup=False)


def print_json(data: Any) -> None:
    """One JSON object on standard output; numbers that are not finite become null."""
    json.dump(_plain(data), sys.stdout, indent=1, ensure_ascii=False, allow_nan=False)
    sys.stdout.write("\n")


def progress(description: str) -> Progress:
    """A progress bar on standard error, gone when it is done."""
    columns = (TextColumn(description), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    return Progress(*columns, console=Console(stderr=True), transient=True)


def _plain(data: Any) -> Any:
    if isinstance(data, dict):
        return {str(k): _plain(v) for k, v in data.items()}
    if isinstance(data, (list, tuple)):
        return [_plain(v) for v in data]
    if isinstance(data, float):
        return data if data - data == 0.0 else None
    return data if isinstance(data, (str, int, bool)) or data is None else str(data)
