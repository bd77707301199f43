"""The ladder of response cutoffs and its stop rule.

The paper stops where successive cutoffs agree to SC >= 0.9, which Si fulfils at 2000 mRy (0.907 against IPA, 0.888 at
4000) and layered BN with no local fields at all. Here SC[RPA; IPA] must stand still over two steps in which more
G-vectors couple to the field.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

from fw_tasks.engines.base import NotConverged

STEADY_STEPS = 2


@dataclass(frozen=True)
class Rung:
    """RPA at one cutoff, along one field direction.

    Attributes
    ----------
    cutoff_mry : mRy, as asked
    n_g : G-vectors in the response, the cutoff's closed shell included
    n_coupling : those of them that may couple to the field
    sc : SC[RPA; IPA] along this direction
    """

    cutoff_mry: int
    n_g: int
    n_coupling: int
    sc: float


def stands_still(rungs: Sequence[Rung], tolerance: float) -> bool:
    """Whether SC moved by less than ``tolerance`` in each of the last two steps in which more G-vectors couple."""
    latest: dict[int, float] = {}
    for rung in rungs:
        latest[rung.n_coupling] = rung.sc
    values = list(latest.values())
    steps = [abs(b - a) for a, b in pairwise(values)]
    return len(steps) >= STEADY_STEPS and max(steps[-STEADY_STEPS:]) < tolerance


def climb(
    cutoffs_mry: Sequence[int], run: Callable[[int], Rung], tolerance: float, *, to_the_end: bool = False
) -> list[Rung]:
    """Run rung after rung until SC stands still, or every rung where ``to_the_end``.

    Raises
    ------
    NotConverged
        SC still moves at the last cutoff; the message has its last two values.
    """
    rungs: list[Rung] = []
    for cutoff_mry in cutoffs_mry:
        rungs.append(run(cutoff_mry))
        if not to_the_end and stands_still(rungs, tolerance):
            return rungs
    if to_the_end:
        return rungs
    last = " then ".join(f"{r.sc:.4f} ({r.n_coupling} of {r.n_g} G-vectors couple)" for r in rungs[-2:])
    raise NotConverged(
        f"SC against IPA moves by more than {tolerance:g} over {STEADY_STEPS} steps up to {cutoffs_mry[-1]} mRy: "
        f"{last}; add cutoffs to the setting g_cutoffs_mry"
    )
