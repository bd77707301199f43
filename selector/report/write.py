"""The report's files."""

from __future__ import annotations

from pathlib import Path

from selector.files import write_text_atomically
from selector.report.record import CampaignRecord, MaterialMap
from selector.report.tables import write_decisions_csv


def write_report(record: CampaignRecord, folder: Path) -> dict[str, Path]:
    """Write ``decisions.csv`` and ``report.html`` into ``folder``, each atomically.

    Returns
    -------
    dict
        "decisions" and "html", the files' paths.

    Raises
    ------
    UsageError
        The folder cannot be made or written.
    """
    # plotly and jinja2 are only needed here; the command line shows tables without them.
    from selector.report.page import render_page

    paths = {"decisions": folder / "decisions.csv", "html": folder / "report.html"}
    write_decisions_csv(record, paths["decisions"])
    write_text_atomically(paths["html"], render_page(record))
    return paths


def write_map(drawn: MaterialMap, path: Path, name: str, record: CampaignRecord | None = None) -> None:
    """Write the map as a page of its own.

    Parameters
    ----------
    path : the HTML file
    name : the page's heading
    record : the campaign whose computed spectra are shown; None for crystals outside a campaign

    Raises
    ------
    UsageError
        The file cannot be written.
    """
    from selector.report.page import render_map

    write_text_atomically(path, render_map(drawn, name, record))
