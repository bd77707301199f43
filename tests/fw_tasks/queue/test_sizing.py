"""The size of a queue job, and times as SLURM writes them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fw_tasks.queue.sizing import queue_size
from fw_tasks.queue.slurm import seconds, slurm_time
from fw_tasks.tasks import CLAIM_GRACE_S
from selector.errors import UsageError


@given(st.floats(0.0, 60 * 86400.0))
def test_a_time_is_never_shorter_and_less_than_a_minute_longer(wanted_s: float) -> None:
    assert wanted_s - 1e-6 <= seconds(slurm_time(wanted_s)) < max(60.0, wanted_s + 60.0) + 1e-6


@pytest.mark.parametrize(
    ("time", "expected_s"),
    [
        ("90", 5400),
        (90, 5400),
        ("1:30", 90),
        ("2:00:00", 7200),
        ("1-12", 129600),
        ("1-12:30", 131400),
        ("1-0:0:5", 86405),
    ],
)
def test_times_are_read_as_slurm_reads_them(time: str | int, expected_s: float) -> None:
    # sbatch(1), --time: "minutes", "minutes:seconds", "hours:minutes:seconds", "days-hours" and so on.
    assert seconds(time) == expected_s


@pytest.mark.parametrize("time", ["", "soon", "1:2:3:4", "-1", "1d"])
def test_what_is_no_time(time: str) -> None:
    with pytest.raises(UsageError, match="not a SLURM time"):
        seconds(time)


def test_a_job_has_the_time_that_its_reservation_pays_for() -> None:
    reserved_cpu_h, cores = 6.0, 4
    size = queue_size("Si3N4", "mp/988 a", "rpa", cores, reserved_cpu_h * 3600 / cores)
    assert seconds(size["walltime"]) == 1.5 * 3600 + CLAIM_GRACE_S
    assert (size["nodes"], size["ntasks"], size["cpus_per_task"]) == (1, 4, 1)
    assert size["job_name"] == "Si3N4-rpa-mp_988_a"
