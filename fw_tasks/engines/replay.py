"""Known labels in place of calculations: tests and rehearsals of a campaign with real spectra and real costs.

A replayed result is the recorded one: its ``engine``, settings and hash are those of the label (they say what kind of
quantity it is), and ``details["replayed"]`` says that nothing was computed. The engine's own ``name`` is "replay".
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from pymatgen.core import Structure

from fw_tasks.engines import base, gpaw_cost
from fw_tasks.engines.base import Calculation, EngineError, TimedOut
from fw_tasks.engines.checks import check_closed_shell
from fw_tasks.engines.gpaw import check_datasets
from models.labels import SHIPPED, Label, load_labels
from selector.errors import UsageError

N_STAGES = 3
"""The stages that labels tell the time of: ground state, bands, response."""


class UnknownMaterial(EngineError):
    """No label is known for this material_id."""

    remedy = "replay only what has been computed before"


class ReplayEngine:
    """Recorded labels, looked up by material_id.

    Parameters
    ----------
    preset : must be None or "standard", the preset of the shipped labels
    labels : folder of label shards; the shipped ones if None
    time_scale : each calculation sleeps its recorded wall seconds times this
    failures : material_id -> name of the `EngineError` to raise instead, to rehearse failures
    """

    name = "replay"
    cost_log_sd = gpaw_cost.COST_LOG_SD

    def __init__(
        self,
        preset: str | None = None,
        *,
        labels: str | Path | None = None,
        time_scale: float = 0.0,
        failures: Mapping[str, str] | None = None,
    ) -> None:
        if preset not in (None, "standard"):
            raise UsageError(f"replay has no preset {preset!r}: choose one of standard")
        if time_scale < 0.0:
            raise UsageError(f"replay: time_scale {time_scale:g} is negative: give 0 or more")
        self.failures = {key: _error_class(error) for key, error in (failures or {}).items()}
        self.time_scale = time_scale
        known = _labels_of(Path(labels).resolve() if labels else SHIPPED)
        kinds = {label.settings_hash for label in known}
        if len(kinds) > 1:
            raise UsageError(f"{labels}: labels of {len(kinds)} different settings: replay takes a folder of one kind")
        self._labels: dict[str, Label] = {label.material_id: label for label in known}
        self._settings, self._hash, self.label_engine = known[0].settings, known[0].settings_hash, known[0].engine

    @property
    def settings(self) -> dict[str, Any]:
        return dict(self._settings)

    @property
    def settings_hash(self) -> str:
        return self._hash

    def check(self, structure: Structure) -> None:
        """Refuse what the engine behind the labels would refuse (`MissingDataset`, `OddElectrons`)."""
        check_datasets(structure)
        check_closed_shell(structure)

    def estimate_cpu_h(self, structure: Structure, level: str = "rpa") -> float:
        """What GPAW would be expected to cost; the recorded cost is not looked at."""
        check_datasets(structure)
        return gpaw_cost.estimate_cpu_s(structure, self._settings, level) / 3600.0

    def compute(
        self, material_id: str, structure: Structure, levels: Sequence[str], workdir: Path, time_limit_s: float | None
    ) -> Calculation:
        """The recorded calculation; `TimedOut` when its recorded wall time exceeds the limit.

        Neither ``structure`` nor ``workdir`` is used: a label is known by its material_id. IPA alone takes what its
        stages took, of the response `gpaw_cost.HEAD_SHARE`.
        """
        label = self._labels.get(material_id)
        if label is None:
            raise UnknownMaterial(f"{material_id}: no label to replay")
        stages_s, share = _stages(label, levels)
        wall_s = share * float(label.details.get("wall_s", label.cpu_s))
        spent_s = wall_s if time_limit_s is None else min(wall_s, time_limit_s)
        time.sleep(spent_s * self.time_scale)
        if material_id in self.failures:
            raise self.failures[material_id](f"{material_id}: rehearsed failure", spent_s)
        if spent_s < wall_s:
            raise TimedOut(f"{material_id}: took {wall_s:.0f} s when it was recorded, over the limit", spent_s)
        return Calculation(
            spectra={level: getattr(label, level) for level in levels},
            gap_ev=label.gap_ev,
            cpu_s=share * label.cpu_s,
            wall_s=wall_s,
            engine=label.engine,
            version="recorded",
            settings=label.settings,
            settings_hash=label.settings_hash,
            details=label.details | stages_s | {"replayed": True},
        )

    def collect(self, workdir: Path) -> Calculation | None:
        """None: a replayed calculation leaves nothing behind."""
        return None


def _labels_of(folder: Path) -> tuple[Label, ...]:
    """The folder's labels, which a worker reads once: each of its tasks makes an engine."""
    shards = sorted(folder.glob("shard-*.npz"))
    return _read(folder, tuple((shard.name, shard.stat().st_size, shard.stat().st_mtime_ns) for shard in shards))


@lru_cache(maxsize=2)
def _read(folder: Path, shards: tuple[tuple[str, int, int], ...]) -> tuple[Label, ...]:
    return tuple(load_labels(folder))


def _stages(label: Label, levels: Sequence[str]) -> tuple[dict[str, list[float]], float]:
    """CPU seconds per stage of these levels, where the label tells them, and their share of the label's."""
    told = label.details.get("cpu_stage_s", [])
    if "rpa" in levels:
        return {}, 1.0
    if len(told) != N_STAGES:
        return {}, gpaw_cost.IPA_SHARE
    *before, response_s = (float(s) for s in told)
    alone = [*before, gpaw_cost.HEAD_SHARE * response_s]
    return {"cpu_stage_s": alone}, sum(alone) / sum((*before, response_s))


def _error_class(name: str) -> type[EngineError]:
    cls = getattr(base, name, None)
    if not (isinstance(cls, type) and issubclass(cls, EngineError)):
        raise UsageError(f"replay: failures: {name!r} is no engine error: name one such as NotConverged or TimedOut")
    return cls
