"""Amounts of CPU time: CPU-hours outside, whole CPU-milliseconds inside, so that sums are exact."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping

from selector.errors import SelectorError

MS_PER_CPU_H = 3_600_000
MOST_MS = 2**53
OTHER_STAGE = "other"
"""What a charge holds beyond its named stages."""
_PLAIN_NAME = re.compile(r"[A-Za-z0-9_-]+")


def to_ms(cpu_h: float, what: str, *, zero: bool = True) -> int:
    """Whole CPU-milliseconds; at least one where ``zero`` is not allowed.

    Raises
    ------
    SelectorError
        The amount is negative, not finite, no number, more than 2.5e9 CPU-hours, or a zero that is not allowed; the
        message begins with ``what``.
    """
    try:
        amount = float(cpu_h)
    except (TypeError, ValueError, OverflowError):
        amount = math.nan
    ms = amount * MS_PER_CPU_H
    if not (0.0 <= ms <= MOST_MS) or (amount == 0.0 and not zero):
        kind = "a number from 0" if zero else "a positive number"
        raise SelectorError(
            f"{what}: {cpu_h!r} CPU-hours cannot be booked; give {kind} of at most {MOST_MS / MS_PER_CPU_H:.1e}"
        )
    return round(ms) if zero else max(1, round(ms))


def split_ms(charged_ms: int, stages: Mapping[str, float] | None) -> dict[str, int]:
    """A charge by stage: what each took (CPU-hours), scaled down where they took more than is charged.

    The parts sum to ``charged_ms``; what the stages leave of it is ``other``.

    Raises
    ------
    SelectorError
        A stage's name is not plain (letters, digits, hyphens, underscores), or an amount is negative or not finite.
    """
    took: dict[str, int] = {}
    for stage, cpu_h in (stages or {}).items():
        plain_name(stage, "stage")
        took[stage] = to_ms(cpu_h, f"stage '{stage}'")
    whole, parts, until = max(charged_ms, sum(took.values())), {}, 0
    for stage, ms in took.items():
        # Differences of rounded sums: the parts of a scaled charge still sum to it.
        parts[stage] = (until + ms) * charged_ms // whole - until * charged_ms // whole if whole else 0
        until += ms
    parts[OTHER_STAGE] = parts.get(OTHER_STAGE, 0) + charged_ms - sum(parts.values())
    return {stage: ms for stage, ms in parts.items() if ms}


def plain_name(name: str, what: str) -> str:
    """``name``, if it can be the name of a field in any MongoDB; `SelectorError` if not."""
    if not _PLAIN_NAME.fullmatch(name):
        raise SelectorError(f"{what} {name!r}: use letters, digits, hyphens and underscores only")
    return name
