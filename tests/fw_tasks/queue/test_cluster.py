"""Cluster files: the shipped examples, and mistakes in one's own."""

from __future__ import annotations

from pathlib import Path

import pytest
from programs import Programs

from fw_tasks.queue import slurm
from fw_tasks.queue.cluster import load_cluster
from selector.errors import UsageError

EXAMPLES = sorted((Path(__file__).parents[3] / "configs" / "clusters").glob("*.yaml"))
NODES = "main*|n1|1-00:00:00\nmain*|n2|1-00:00:00\ngpu|g1|2:00:00\n"


def write(folder: Path, text: str) -> Path:
    file = folder / "cluster.yaml"
    file.write_text(text, encoding="utf-8")
    return file


@pytest.mark.parametrize("file", EXAMPLES, ids=lambda file: file.stem)
def test_the_examples_are_read(file: Path) -> None:
    cluster = load_cluster(file)
    assert "rpa" in cluster.categories
    assert all("-" not in key for category in cluster.categories for key in cluster.keys(category))


def test_a_category_overrides_what_is_for_every_job(tmp_path: Path) -> None:
    file = write(tmp_path, "every: {partition: main, mem-per-cpu: 2G}\ncategories: {ipa: {}, rpa: {mem-per-cpu: 8G}}\n")
    cluster = load_cluster(file)
    assert cluster.keys("ipa") == {"partition": "main", "mem_per_cpu": "2G"}
    assert cluster.keys("rpa") == {"partition": "main", "mem_per_cpu": "8G"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("categories: {rpa: {partion: main}}", r"categories.rpa: unknown key 'partion'; did you mean 'partition'"),
        ("every: {gpubind: closest}\ncategories: {rpa: {}}", r"every: unknown key 'gpubind'; did you mean 'gpu-bind'"),
        ("categories: {rpa: {time: 1:00:00}}", r"categories.rpa: key 'time' is taken from each job's reservation"),
        ("every: {ntasks: 4}\ncategories: {rpa: {}}", r"key 'ntasks' is taken from"),
        ("categories: {learn: {time: soon}}", r"'soon': not a SLURM time"),
        ("categories: {learn: {time: 1:00:00}}", r"categories.learn: key 'time': write it with days"),
        ("categories: {bse: {}}", r"'categories.bse' is no category of jobs; choose of ipa, rpa, learn, predict"),
        ("categories: {}", r"key 'categories'"),
        ("startup_s: 5", r"key 'categories' is missing; name the categories"),
        ("startup: 5\ncategories: {rpa: {}}", r"unknown key 'startup'; a cluster file has startup_s"),
        ("startup_s: -5\ncategories: {rpa: {}}", r"key 'startup_s': .* not -5"),
        ("- rpa", r"not a mapping"),
        ("every: {\n", r"line 2: not valid YAML"),
    ],
)
def test_mistakes_are_named(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(UsageError, match=rf"cluster.yaml.*{message}") as e:
        load_cluster(write(tmp_path, text))
    assert "\n" not in str(e.value)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no such file"):
        load_cluster(tmp_path / "cluster.yaml")


@pytest.mark.parametrize(
    ("partition", "hosts", "max_s"),
    [
        ("gpu", {"g1"}, 7200.0),
        ("main", {"n1", "n2"}, 86400.0),
        ("", {"n1", "n2"}, 86400.0),
        ("main,gpu", {"n1", "n2", "g1"}, 7200.0),
    ],
)
def test_where_jobs_run(tmp_path: Path, programs: Programs, partition: str, hosts: set[str], max_s: float) -> None:
    programs.say("sinfo", NODES)
    cluster = load_cluster(
        write(tmp_path, f"categories: {{rpa: {{{f'partition: {partition!r}' if partition else ''}}}}}")
    )
    found = cluster.partition("rpa")
    assert (found.hosts, found.max_s) == (hosts, max_s)


def test_a_partition_that_slurm_does_not_have(tmp_path: Path, programs: Programs) -> None:
    programs.say("sinfo", NODES)
    cluster = load_cluster(write(tmp_path, "categories: {rpa: {partition: 'main,big'}}"))
    with pytest.raises(UsageError, match="category 'rpa': SLURM has no partition 'big' here; it has gpu, main"):
        cluster.partition("rpa")
    programs.say("sinfo", NODES.replace("*", ""))
    with pytest.raises(UsageError, match="no partition is named and SLURM has no default"):
        load_cluster(write(tmp_path, "categories: {rpa: {}}")).partition("rpa")


def test_no_slurm_here(tmp_path: Path, programs: Programs) -> None:
    with pytest.raises(UsageError, match="sinfo is not on PATH; run this where SLURM's commands are"):
        slurm.partitions()
