"""A run of shards: begin it, predict one shard of it, or all of them with processes of this machine."""

from __future__ import annotations

import multiprocessing
import os
import resource
import signal
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from pymatgen.core import Structure
from pymongo.database import Database

from models import checkpoints
from selector.errors import SelectorError, UsageError
from selector.protocols import Prediction
from selector.shards.collection import CollectionOutput, CollectionSource
from selector.shards.output import FolderOutput, Output, Plan
from selector.shards.predicting import predictions
from selector.shards.source import COLLECTION, FileSource, Source

GetDatabase = Callable[[], Database[Any]]
DEFAULT_SIZE = 10_000


@dataclass(frozen=True)
class Done:
    """A shard that was predicted: its number, structures, those broken, seconds, and the process's peak memory."""

    shard: int
    n: int
    broken: int
    wall_s: float
    process: int
    peak_mb: float


def no_database() -> Database[Any]:
    """What there is without a campaign file."""
    raise UsageError("a collection needs a database: name a campaign file that has one with --config")


def find_source(paths: Sequence[Path], id_key: str | None, database: GetDatabase = no_database) -> Source:
    """Files and folders, or one ``collection:NAME``. Errors as of `FileSource.find` and `CollectionSource.find`."""
    names = [str(path) for path in paths]
    if not any(name.startswith(COLLECTION) for name in names):
        return FileSource.find(paths, id_key)
    if len(names) > 1:
        raise UsageError(f"{names[0]} and others: --shards reads one collection, or files, at a time")
    return CollectionSource.find(database(), names[0].removeprefix(COLLECTION), id_key)


def open_source(described: dict[str, Any], database: GetDatabase = no_database) -> Source:
    """The source of a plan."""
    if described["kind"] == "collection":
        return CollectionSource(database(), described)
    return FileSource(described["kind"], described["files"], described["id_key"])


def open_output(described: dict[str, Any], database: GetDatabase = no_database) -> Output:
    """The folder or collection that an output describes itself as."""
    if "collection" in described:
        return CollectionOutput(database(), described["collection"])
    return FolderOutput(Path(described["folder"]))


def begin(output: Output, source: Source, checkpoint: Path | None, threshold: float, size: int | None) -> Plan:
    """The plan of a new run, or that of the one that the output holds, which must be of the same source and model.

    Parameters
    ----------
    size : structures a shard; None for that of the run under way, or 10,000

    Raises
    ------
    UsageError
        The output belongs to another source, model, threshold or shard size, or the source is empty.
    """
    file = None if checkpoint is None else str(checkpoint.resolve())
    model_id, described, old = _predictor(file).model_id, source.describe(), output.plan()
    if old is None:
        size = size or DEFAULT_SIZE
        plan = Plan(described, model_id, file, threshold, size, source.shards(size))
        if not plan.n:
            raise UsageError("no structures in what was named")
    else:
        # Identities are compared, not descriptions: files may have moved meanwhile.
        pairs = (
            ("another source", old.source["identity"], described["identity"]),
            ("another model", old.model_id, model_id),
            ("another threshold", old.threshold, threshold),
            ("another shard size", old.shard_size, size or old.shard_size),
        )
        for what, there, here in pairs:
            if there != here:
                values = "" if isinstance(there, dict) else f" ({there}, here {here})"
                raise UsageError(f"{output} holds predictions of {what}{values}; they are not mixed: choose another")
        plan = replace(old, source=described, checkpoint=file)
    if old != plan:
        output.begin(plan)
    return plan


@lru_cache(maxsize=1)
def _predictor(checkpoint: str | None) -> Any:
    return checkpoints.load(Path(checkpoint) if checkpoint else checkpoints.default_checkpoint())


def predict_shard(output: Output, k: int, device: str, database: GetDatabase = no_database) -> Done | None:
    """Predict shard k into the output; None if it is there already.

    Raises
    ------
    SelectorError
        The source changed, the model is another than planned, or the output can't be written.
    """
    started, plan = time.monotonic(), _plan(output)
    if k in output.done() or k >= len(plan.shards):
        return None
    predictor = _predictor(plan.checkpoint)
    if predictor.model_id != plan.model_id:
        raise SelectorError(
            f"{plan.checkpoint or 'the weights that ship'}: {predictor.model_id}, where the run began with "
            f"{plan.model_id}; put that one back, or begin another run"
        )
    more = {"device": device} if predictor.card["kind"] == "sc_network" else {}

    def predict(structures: Sequence[Structure]) -> Prediction:
        return predictor.predict(structures, **more)

    n = broken = 0
    with output.shard(k) as put, warnings.catch_warnings():
        # pymatgen orders a formula by electronegativity; that argon has none is no news to anybody.
        warnings.filterwarnings("ignore", message="No Pauling electronegativity")
        rows = open_source(plan.source, database).rows(plan.shards[k])
        for said in predictions(rows, predict, predictor.scores, plan.threshold):
            put(said)
            n, broken = n + len(said), broken + sum("reason" in d for d in said)
    return Done(k, n, broken, time.monotonic() - started, os.getpid(), peak_mb())


def _plan(output: Output) -> Plan:
    plan = output.plan()
    if plan is None:
        raise SelectorError(f"{output}: its run is gone; begin it again")
    return plan


def peak_mb() -> float:
    """Peak memory of this process so far, megabytes."""
    per_mb = 1e6 if sys.platform == "darwin" else 1e3
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / per_mb


# -- processes of this machine, without a database -------------------------------------------------------------------


def predict_all(folder: Path, jobs: int, device: str) -> Iterator[Done]:
    """Predict every shard that is not in the folder yet, with ``jobs`` processes, and tell of each as it is done.

    Raises
    ------
    SelectorError
        A shard fails, a process dies, or another run is at work in this folder. What is whole stays.
    """
    output = FolderOutput(folder)
    lock = FileLock(output.folder / "run.lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise UsageError(f"{output}: another process predicts into this folder; wait for it") from None
    with lock:
        waiting = sorted(set(range(len(_plan(output).shards))) - output.done())
        if jobs == 1:
            yield from (done for k in waiting if (done := predict_shard(output, k, device)))
            return
        # A process a core: the threads of a linear algebra library would only get into each other's way.
        os.environ.setdefault("OMP_NUM_THREADS", "1")
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(jobs, mp_context=context, initializer=_follow_parent) as pool:
            futures = [pool.submit(_predict_in_folder, str(output.folder), k, device) for k in waiting]
            try:
                for future in as_completed(futures):
                    if done := future.result():
                        yield done
            except BrokenProcessPool:
                raise SelectorError(
                    "a process died (killed, or out of memory?); what is whole is kept, the same command goes on"
                ) from None
            finally:
                pool.shutdown(wait=False, cancel_futures=True)


def _predict_in_folder(folder: str, k: int, device: str) -> Done | None:
    return predict_shard(FolderOutput(Path(folder)), k, device)


def _follow_parent() -> None:
    """A process of a pool whose owner is killed would wait for its next task for ever; on Ctrl-C it just ends."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    parent = multiprocessing.parent_process()

    def watch() -> None:
        if parent is not None:
            parent.join()
            os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
