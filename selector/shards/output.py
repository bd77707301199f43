"""What a run of shards is, and where its predictions go: a Parquet file a shard, or a collection."""

from __future__ import annotations

import contextlib
import hashlib
import os
import socket
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

from bson import json_util

from selector.errors import SelectorError, UsageError
from selector.files import make_writable, write_text_atomically
from selector.shards.parquet import library

Document = dict[str, Any]
Put = Callable[[Sequence[Document]], None]

ABOUT = {
    "index": "of the structure, counted from 0 through the source",
    "sc_mean": "SC[RPA; IPA] predicted; the second argument divides",
    "sc_lo": "lower end of the 90 % interval",
    "p_low": "P(SC < threshold)",
    "value": "expected local-field effect that counts: E[(1 - SC) 1(SC < threshold)]",
    "reason": "why there is no prediction; null where there is one",
}


@dataclass(frozen=True)
class Plan:
    """A run: which structures, by which model, in which shards.

    Attributes
    ----------
    source : as `selector.shards.source.Source.describe`
    model_id, checkpoint : the predictor; None for the weights that ship
    threshold : SC below which RPA is wanted
    shard_size : rows asked for
    shards : as `selector.shards.source.Source.shards`
    """

    source: Document
    model_id: str
    checkpoint: str | None
    threshold: float
    shard_size: int
    shards: list[Document]

    @property
    def n(self) -> int:
        """Structures in all."""
        return sum(shard["n"] for shard in self.shards)

    @property
    def run_id(self) -> str:
        """Eight hex digits: the same source, model, threshold and shards have the same."""
        meaning = [self.source["identity"], self.model_id, self.threshold, self.shard_size]
        return hashlib.sha256(json_util.dumps(meaning, sort_keys=True).encode()).hexdigest()[:8]

    def to_dict(self) -> Document:
        return asdict(self)


@dataclass(frozen=True)
class Totals:
    """Shards that are whole, and of these the structures, and those without a prediction."""

    shards: int
    n: int
    broken: int


@dataclass(frozen=True)
class Summary:
    """What was broken: how many for each reason, and the messages of the first few."""

    reasons: Counter[str]
    named: list[str]


class Output(Protocol):
    """Where the predictions of one run go."""

    def describe(self) -> Document: ...
    def plan(self) -> Plan | None: ...
    def begin(self, plan: Plan) -> None:
        """Take a plan; one that is there already is replaced (its files may have moved)."""

    def done(self) -> set[int]:
        """The shards that are whole."""

    def shard(self, k: int) -> AbstractContextManager[Put]:
        """Takes the rows of a shard, batch by batch; whole at the end, or not there."""

    def totals(self) -> Totals: ...
    def summary(self, n_named: int) -> Summary: ...
    def top(self, k: int) -> list[Document]:
        """The k rows of largest ``value``."""


class FolderOutput:
    """A folder: ``run.json`` (the plan), and ``shard-000000.parquet`` and so on as they come."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder.resolve()
        self._arrow = library()
        pa = self._arrow
        kinds = {pa.string(): ("material_id", "formula", "reason", "message"), pa.bool_(): ("out_of_domain",)}
        numbers = ("sc_mean", "sc_std", "sc_lo", "sc_hi", "p_low", "value")
        kinds |= {pa.int64(): ("index",), pa.int32(): ("nsites",), pa.float64(): numbers}
        kind_of = {name: kind for kind, names in kinds.items() for name in names}
        self._schema = pa.schema([(name, kind_of[name]) for name in COLUMNS])

    def __str__(self) -> str:
        return str(self.folder)

    def describe(self) -> Document:
        return {"folder": str(self.folder)}

    def plan(self) -> Plan | None:
        file = self.folder / "run.json"
        try:
            return Plan(**json_util.loads(file.read_text(encoding="utf-8")))
        except FileNotFoundError:
            return None
        except (OSError, ValueError, TypeError) as e:
            raise SelectorError(f"{file}: not the plan of a run ({e.__class__.__name__}); choose another folder") from e

    def begin(self, plan: Plan) -> None:
        make_writable(self.folder)
        if self.plan() is None and any(self.folder.glob("*.parquet")):
            raise UsageError(f"{self.folder} holds other Parquet files; choose another folder")
        write_text_atomically(self.folder / "run.json", json_util.dumps(plan.to_dict()))

    def done(self) -> set[int]:
        return {int(path.stem.removeprefix("shard-")) for path in self.folder.glob("shard-*.parquet")}

    def _file(self, k: int) -> Path:
        return self.folder / f"shard-{k:06d}.parquet"

    @contextmanager
    def shard(self, k: int) -> Iterator[Put]:
        """A file that gets its name when it is whole and on the disk.

        Raises
        ------
        SelectorError
            It can't be written.
        """
        file, plan = self._file(k), self.plan()
        part = file.with_name(f"{file.name}.{socket.gethostname()}.{os.getpid()}.part")
        about = ABOUT | ({} if plan is None else {"model_id": plan.model_id, "threshold": str(plan.threshold)})
        try:
            with part.open("wb") as f:
                with self._arrow.parquet.ParquetWriter(f, self._schema.with_metadata(about)) as writer:
                    yield lambda rows: writer.write_batch(
                        self._arrow.RecordBatch.from_pylist(list(rows), schema=self._schema)
                    )
                f.flush()
                os.fsync(f.fileno())
            part.replace(file)
        except OSError as e:
            raise SelectorError(f"{file} cannot be written ({e.strerror}); what is whole is kept: make room") from e
        finally:
            # Those that processes left who were killed at this shard go, too.
            for stale in self.folder.glob(f"{file.name}.*.part") if file.exists() else [part]:
                with contextlib.suppress(OSError):
                    stale.unlink()

    def totals(self) -> Totals:
        done, n, broken = self.done(), 0, 0
        for k in done:
            reasons = self._read(k, ["reason"])
            n, broken = n + len(reasons), broken + len(reasons) - reasons["reason"].null_count
        return Totals(len(done), n, broken)

    def summary(self, n_named: int) -> Summary:
        reasons: Counter[str] = Counter()
        named: list[str] = []
        for k in sorted(self.done()):
            bad = self._read(k, ["reason", "message"]).drop_null()
            reasons.update(bad["reason"].to_pylist())
            named += bad["message"].to_pylist()[: n_named - len(named)]
        return Summary(reasons, named)

    def top(self, k: int) -> list[Document]:
        best = self._schema.empty_table()
        for shard in sorted(self.done()):
            rows = self._read(shard, COLUMNS)
            rows = rows.filter(rows["value"].is_valid()).sort_by([("value", "descending"), ("index", "ascending")])
            best = self._arrow.concat_tables([best, rows.slice(0, k).replace_schema_metadata()])
            best = best.sort_by([("value", "descending"), ("index", "ascending")]).slice(0, k)
        return [{name: x for name, x in row.items() if x is not None} for row in best.to_pylist()]

    def _read(self, k: int, columns: Sequence[str]) -> Any:
        try:
            return self._arrow.parquet.read_table(self._file(k), columns=list(columns), partitioning=None)
        except (self._arrow.ArrowException, OSError) as e:
            raise SelectorError(f"{self._file(k)}: damaged ({e.__class__.__name__}); remove it and run again") from e


COLUMNS = (
    "index", "material_id", "formula", "nsites", "sc_mean", "sc_std", "sc_lo", "sc_hi", "p_low", "value",
    "out_of_domain", "reason", "message",
)  # fmt: skip
