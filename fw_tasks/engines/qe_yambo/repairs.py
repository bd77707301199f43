"""What to try when a run of pw.x fails for its numerics. A repaired result is as good: only the way there differs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import TypeVar

from fw_tasks.engines.qe_yambo.qe_input import PwJob
from fw_tasks.engines.qe_yambo.qe_output import TooFewBands

T = TypeVar("T")
MORE_BANDS = 2
BAND_ATTEMPTS = 4


def attempts(job: PwJob) -> Iterator[tuple[str | None, PwJob]]:
    """The job as it is, then with the repairs for one that does not converge, gentlest first; (what changed, job)."""
    yield None, job
    if job.calculation == "scf":
        yield "mixing 0.3", replace(job, mixing_beta=0.3)
        yield "mixing 0.2, conjugate gradients", replace(job, mixing_beta=0.2, solver="cg")
    else:
        yield "conjugate gradients", replace(job, solver="cg")


def with_enough_bands(job: PwJob, run: Callable[[PwJob], T]) -> T:
    """Run ``job``, with twice the bands each time it turns out to have too few."""
    for _ in range(BAND_ATTEMPTS - 1):
        try:
            return run(job)
        except TooFewBands:
            job = replace(job, n_bands=MORE_BANDS * job.n_bands)
    return run(job)
