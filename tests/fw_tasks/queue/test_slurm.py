"""What SLURM's programs answer, as this package takes it."""

from __future__ import annotations

import pytest
from programs import Programs

from fw_tasks.queue import slurm
from selector.errors import UsageError

DOWN = "slurm_load_jobs error: Unable to contact slurm controller (connect failure)\n"


def test_states_of_jobs(programs: Programs) -> None:
    programs.say("squeue", "17 RUNNING\n18 PENDING\n9 TIMEOUT\n")
    states = slurm.job_states(["17", "18", "9", "5"])
    assert states == {"17": "RUNNING", "18": "PENDING", "9": "TIMEOUT"}
    assert [slurm.lives(states.get(job)) for job in ("17", "18", "9", "5")] == [True, True, False, False]
    assert "17,18,5,9" in programs.calls("squeue")[0]


def test_a_single_job_that_is_gone(programs: Programs) -> None:
    programs.say("squeue", err="slurm_load_jobs error: Invalid job id specified\n", rc=1)
    assert slurm.job_states(["5"]) == {}


def test_no_job_asks_nothing(programs: Programs) -> None:
    programs.say("squeue")
    assert slurm.job_states([]) == {}
    assert programs.calls("squeue") == []


def test_thousands_are_asked_for_in_batches(programs: Programs) -> None:
    programs.say("squeue")
    slurm.job_states(str(i) for i in range(1200))
    assert len(programs.calls("squeue")) == 3


@pytest.mark.parametrize(("err", "rc"), [(DOWN, 1), ("squeue: error: something unheard of\n", 1)])
def test_where_nothing_is_known_nothing_is_concluded(programs: Programs, err: str, rc: int) -> None:
    programs.say("squeue", err=err, rc=rc)
    with pytest.raises(slurm.QueueUnreachable):
        slurm.job_states(["5"])


def test_without_squeue_nothing_is_concluded(programs: Programs) -> None:
    with pytest.raises(slurm.QueueUnreachable, match="squeue is not on PATH"):
        slurm.job_states(["5"])


def test_a_controller_that_hangs(programs: Programs, monkeypatch: pytest.MonkeyPatch) -> None:
    programs.say("squeue")
    (programs.folder / "squeue").write_text("#!/bin/sh\nexec /bin/sleep 20\n", encoding="utf-8")
    monkeypatch.setattr(slurm, "COMMAND_TIMEOUT_S", 0.2)
    with pytest.raises(slurm.QueueUnreachable, match="did not answer within"):
        slurm.job_states(["5"])


@pytest.mark.parametrize(
    ("err", "kind", "said"),
    [
        (
            "sbatch: error: invalid partition specified: nope\n"
            "sbatch: error: Batch job submission failed: Invalid partition name specified\n",
            slurm.QueueRefused,
            "sbatch: invalid partition specified: nope; Batch job submission failed: Invalid partition name specified",
        ),
        ("sbatch: error: Slurm temporarily unable to accept job, sleeping and retrying\n", slurm.QueueUnreachable, ""),
        ("", slurm.QueueRefused, "sbatch: it gave no reason"),
    ],
)
def test_complaints_are_one_line(err: str, kind: type[Exception], said: str) -> None:
    error = slurm.complaint("sbatch", err)
    assert type(error) is kind
    assert "\n" not in str(error)
    assert str(error) == said or not said


def test_only_the_campaigns_own_jobs_count(programs: Programs) -> None:
    programs.say(
        "squeue",
        "1|RUNNING|None|selector halides\n2|PENDING|Resources|selector halides\n3|PENDING|None|selector other\n"
        "4|RUNNING|None|(null)\n5|COMPLETED|None|selector halides\n",
    )
    assert [(j.job_id, j.state, j.reason) for j in slurm.jobs_of("selector halides")] == [
        ("1", "RUNNING", "None"), ("2", "PENDING", "Resources"),
    ]  # fmt: skip


def test_usage_errors_stay_usage_errors() -> None:
    with pytest.raises(UsageError):
        slurm.ask("no-such-program-of-slurm")
