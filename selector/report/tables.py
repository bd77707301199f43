"""The decisions as a CSV file and as a table for the terminal."""

from __future__ import annotations

import csv
import io
import math
from numbers import Real
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from selector.files import write_text_atomically
from selector.report.record import DECISION_COLUMNS, CampaignRecord

_LEVEL_STYLE = {"rpa": "bold dark_orange", "ipa": "cyan"}


def is_number(x: Any) -> bool:
    """Whether ``x`` is a finite real number."""
    return isinstance(x, Real) and math.isfinite(x)


def format_sc(x: Any) -> str:
    """SC to three decimals; "-" where it is not known."""
    return f"{x:.3f}" if is_number(x) else "-"


def format_cpu_h(x: Any) -> str:
    """CPU-hours to three significant digits; "-" where they are not known."""
    if not is_number(x):
        return "-"
    return f"{x:,.0f}" if abs(x) >= 100 else f"{x:.3g}"


def write_decisions_csv(record: CampaignRecord, path: Path) -> None:
    """One row for every candidate under `DECISION_COLUMNS`; what is not known is empty.

    Raises
    ------
    UsageError
        The file cannot be written.
    """
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(DECISION_COLUMNS)
    for d in record.sorted_decisions():
        writer.writerow([_csv_cell(d[c]) for c in DECISION_COLUMNS])
    write_text_atomically(path, out.getvalue())


def _csv_cell(x: Any) -> str:
    if isinstance(x, Real) and not isinstance(x, bool):
        return f"{x:.6g}" if is_number(x) else ""
    return "" if x is None else str(x)


def decision_table(record: CampaignRecord, max_rows: int = 200) -> Table:
    """The decisions for a terminal of 100 columns, RPA first, then by predicted SC.

    Parameters
    ----------
    max_rows : int
        A longer table ends here; its caption says how many rows are in decisions.csv only.
    """
    rows = record.sorted_decisions()
    hidden = len(rows) - max_rows
    table = Table(
        title=Text(f"Decisions of {_printable(record.summary['name'])}"),
        caption=f"and {hidden:,} more: see decisions.csv" if hidden > 0 else None,
        box=SIMPLE_HEAD,
        pad_edge=False,
    )
    table.add_column("level")
    table.add_column("material", overflow="fold", max_width=24)
    table.add_column("SC predicted (90 %)", no_wrap=True)
    table.add_column("SC", justify="right", no_wrap=True)
    table.add_column("CPU-h", justify="right", no_wrap=True)
    table.add_column("reason", overflow="fold")
    for d in rows[:max_rows]:
        style = _LEVEL_STYLE.get(d["level"], "dim")
        interval = f"{format_sc(d['sc_pred'])} [{format_sc(d['sc_lo'])}, {format_sc(d['sc_hi'])}]"
        cost = format_cpu_h(d["cost_cpu_h"])
        if cost == "-" and is_number(d["cost_predicted_cpu_h"]):
            cost = f"~{format_cpu_h(d['cost_predicted_cpu_h'])}"
        level = d["level"] or d["status"]
        # Text, not str: a reason or a file name may hold square brackets, which rich would read as markup.
        table.add_row(
            Text(level, style=style),
            Text(_printable(f"{d['formula'] or '?'} {d['material_id']}")),
            Text(interval if is_number(d["sc_pred"]) else "-"),
            Text(format_sc(d["sc_computed"])),
            Text(cost),
            Text(_printable(d["reason"])),
        )
    return table


def _printable(text: Any) -> str:
    """Without control characters: a file name must not drive the terminal."""
    return "".join(c if c.isprintable() else " " for c in str(text or ""))
