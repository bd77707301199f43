"""The script of a queue job, and what is said of keys that SLURM would not take."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fw_tasks.queue import template
from selector.errors import UsageError

ROCKET = {"rocket_launch": "true"}


def options(script: str) -> list[str]:
    return [line.removeprefix("#SBATCH --") for line in script.splitlines() if line.startswith("#SBATCH")]


@given(
    st.sampled_from(sorted(set(template.OPTIONS) - set(template.REFUSED))),
    st.booleans(),
    st.sampled_from(["closest", "4G", "a&b", "x y", 'it"s', "#1"]),
)
def test_every_option_passes_however_it_is_written(option: str, dashes: bool, value: str) -> None:
    key = option if dashes else option.replace("-", "_")
    said = options(template.script(template.checked({key: value}, "file") | ROCKET, "/launch", 60.0))
    assert len(said) == 1
    name, _, text = said[0].partition("=")
    shown = subprocess.run(["sh", "-c", f"printf %s {text}"], capture_output=True, text=True, check=False).stdout
    assert name == option
    assert value in (text, shown)


def test_gpu_bind_passes() -> None:
    script = template.script(template.checked({"gpu-bind": "closest"}, "file") | ROCKET, "/launch", 60.0)
    assert options(script) == ["gpu-bind=closest"]


def test_options_without_a_value() -> None:
    values = template.checked({"exclusive": True, "contiguous": False, "nice": 0}, "file") | ROCKET
    assert options(template.script(values, "/launch", 60.0)) == ["exclusive", "nice=0"]


@pytest.mark.parametrize(
    ("key", "nearest"),
    [
        ("partiton", "partition"),
        ("gpu_bnd", "gpu-bind"),
        ("mem_per_cpus", "mem-per-cpu"),
        ("acount", "account"),
        ("pre_rockt", "pre_rocket"),
        ("walltme", "walltime"),
        ("Qos", "qos"),
    ],
)
def test_a_misspelt_key_is_named_with_the_nearest(key: str, nearest: str) -> None:
    with pytest.raises(UsageError, match=rf"^cluster.yaml: unknown key '{key}'; did you mean '{nearest}'\?"):
        template.checked({key: "x"}, "cluster.yaml")


def test_fireworks_own_names_are_understood() -> None:
    assert template.checked({"queue": "main", "exclude_nodes": "n1", "license": "a"}, "file") == {
        "partition": "main", "exclude": "n1", "licenses": "a",
    }  # fmt: skip


@pytest.mark.parametrize("key", ["array", "wrap", "chdir", "comment", "job-name", "job_name", "requeue", "clusters"])
def test_what_is_not_the_users_to_set(key: str) -> None:
    with pytest.raises(UsageError, match=rf"key '{key}' is not yours to set: "):
        template.checked({key: "x"}, "file")


@pytest.mark.parametrize("value", [["a"], {"a": 1}, None, "main\n#SBATCH --account=other"])
def test_a_value_is_one_word(value: object) -> None:
    with pytest.raises(UsageError, match="key 'partition' takes one word"):
        template.checked({"partition": value}, "file")


def test_the_script_runs_in_the_launch_folder_and_ends_as_the_rocket_does(tmp_path: Path) -> None:
    folder = tmp_path / "a folder"
    folder.mkdir()
    values = {
        "rocket_launch": "sh -c 'pwd; echo $MODULE $SLURM_JOB_END_TIME; exit 3'",
        "pre_rocket": "export MODULE=loaded$$",
        "post_rocket": "echo after\n",
    }
    script = template.script(values, str(folder), 60.0)
    done = subprocess.run(["bash", "-c", script, "job"], capture_output=True, text=True, check=False)
    first, second, third = done.stdout.splitlines()
    assert (first, third, done.returncode) == (str(folder), "after", 3)
    assert second.startswith("loaded")
    assert "$$" not in second


def test_a_signal_reaches_the_rocket_and_is_waited_for(tmp_path: Path) -> None:
    rocket = "trap 'sleep 0.3; echo ended; exit 5' TERM; echo started; while :; do sleep 0.05; done"
    script = template.script({"rocket_launch": f'bash -c "{rocket}"'}, str(tmp_path), 60.0)
    job = subprocess.Popen(["bash", "-c", script], stdout=subprocess.PIPE, text=True)
    assert job.stdout is not None
    assert job.stdout.readline() == "started\n"
    job.terminate()
    assert (job.communicate(timeout=10)[0], job.returncode) == ("ended\n", 5)
