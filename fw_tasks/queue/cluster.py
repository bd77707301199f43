"""A cluster file: what a campaign's jobs ask of SLURM, by category (configs/clusters/ has commented examples)."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any, Literal, cast, get_args

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from fw_tasks.queue import slurm, template
from fw_tasks.queue.slurm import seconds
from selector.errors import UsageError

Category = Literal["ipa", "rpa", "learn", "predict"]
CATEGORIES: tuple[Category, ...] = get_args(Category)
"""What may be a queue job; light tasks (booking, the campaign's step) are done by the launcher itself."""
WITHOUT_RESERVATION: tuple[Category, ...] = ("learn", "predict")
"""They read the database; their walltime is the cluster file's."""
DEFAULT_TIME = "1:00:00"


class Cluster(BaseModel):
    """Keys of `sbatch` for every job and by category; how long a job takes from its start to its calculation's.

    Attributes
    ----------
    startup_s : s, from a job's start to that of its calculation: modules, Python's imports on a busy file system
    python : Python on the nodes, with this package; this process' own by default
    every, categories : keys for all jobs; more, or others, by category
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    startup_s: float = Field(300.0, ge=0.0, allow_inf_nan=False)
    python: str = sys.executable
    every: dict[str, Any] = Field(default_factory=dict)
    categories: dict[Category, dict[str, Any]] = Field(min_length=1)

    def keys(self, category: Category) -> dict[str, Any]:
        """The keys of a category's jobs, as FireWorks' adapters take them."""
        return {**self.every, **self.categories[category]}

    def partition(self, category: Category) -> slurm.Partition:
        """Where a category's jobs run.

        Raises
        ------
        UsageError
            SLURM has no such partition here.
        """
        known = slurm.partitions()
        named = self.keys(category).get("partition")
        names = [str(named)] if named else [p for p, default in known.items() if default.is_default]
        if not names:
            raise UsageError(f"category '{category}': no partition is named and SLURM has no default; add 'partition'")
        found = [known.get(name) for name in names[0].split(",")]
        if None in found:
            missing = names[0].split(",")[found.index(None)]
            raise UsageError(
                f"category '{category}': SLURM has no partition '{missing}' here; it has {', '.join(sorted(known))}"
            )
        return slurm.together(cast(list[slurm.Partition], found))


def load_cluster(path: Path) -> Cluster:
    """Read a cluster file.

    Raises
    ------
    UsageError
        It is missing or not YAML, or has a key that neither this program nor SLURM knows; the message names both.
    """
    try:
        data = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UsageError(f"{path}: no such file; name a cluster file (configs/clusters/ has examples)") from None
    except (OSError, UnicodeDecodeError) as e:
        raise UsageError(f"{path}: cannot be read ({e.__class__.__name__}); give a readable YAML file") from None
    except yaml.YAMLError as e:
        mark = getattr(e, "problem_mark", None)
        where = f", line {mark.line + 1}" if mark else ""
        raise UsageError(f"{path}{where}: not valid YAML; see configs/clusters/") from None
    try:
        cluster = Cluster.model_validate(data)
    except ValidationError as e:
        raise UsageError(f"{path}: {'; '.join(_explain(error) for error in e.errors())}") from None
    every = template.checked(cluster.every, f"{path}: every")
    categories: dict[Category, dict[str, Any]] = {}
    for category, keys in cluster.categories.items():
        where = f"{path}: categories.{category}"
        categories[category] = template.checked(keys, where)
        _check_time(category, {**every, **categories[category]}, where)
    return cluster.model_copy(update={"every": every, "categories": categories})


def _check_time(category: Category, keys: dict[str, Any], where: str) -> None:
    if category in WITHOUT_RESERVATION:
        time = keys.get("time", DEFAULT_TIME)
        if not isinstance(time, str):
            # YAML reads 1:00:00 as the number 3600, which SLURM would take for minutes.
            raise UsageError(f"{where}: key 'time': write it with days, as 0-01:00:00, or in quotes")
        try:
            seconds(time)
        except UsageError as e:
            raise UsageError(f"{where}: {e}") from None
        return
    for key in ("time", "ntasks", "nodes", "cpus_per_task"):
        if key in keys:
            raise UsageError(
                f"{where}: key '{key}' is taken from each job's reservation and the campaign's cores_per_job; remove it"
            )


def _explain(error: Any) -> str:
    key = ".".join(str(part) for part in error["loc"] if part != "[key]")
    known = ", ".join(Cluster.model_fields)
    if error["type"] == "extra_forbidden":
        return f"unknown key '{key}'; a cluster file has {known}, and options of sbatch under 'every' and 'categories'"
    if error["type"] == "missing":
        return f"key '{key}' is missing; name the categories of jobs that this cluster takes: {', '.join(CATEGORIES)}"
    if error["type"] == "literal_error":
        return f"'{key}' is no category of jobs; choose of {', '.join(CATEGORIES)}"
    if error["type"] == "model_type":
        return f"not a mapping of keys to values; a cluster file has {known}"
    return f"key '{key}': {error['msg'][:1].lower()}{error['msg'][1:]}, not {error['input']!r}"
