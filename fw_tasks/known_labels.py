"""Known labels in the place of an engine: what a rehearsed campaign gets back, and what it expects to pay."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

from pymatgen.core import Structure

from fw_tasks.engines import gpaw_cost
from fw_tasks.engines.base import Calculation
from fw_tasks.engines.gpaw import check_datasets
from models.labels import Label
from selector.errors import UsageError


class KnownLabels:
    """`selector.protocols.CostEngine` over labels of one kind, and what the campaign gets back of each.

    Parameters
    ----------
    labels : each with its CPU seconds

    Raises
    ------
    UsageError
        Labels of two settings, of two crystals under one name, or without a cost.
    """

    cost_log_sd = gpaw_cost.COST_LOG_SD

    def __init__(self, labels: Sequence[Label]) -> None:
        kinds = {(label.engine, label.settings_hash) for label in labels}
        if len(kinds) != 1:
            raise UsageError(f"labels of {len(kinds)} different settings; replay labels of one kind")
        free = next((label for label in labels if not label.cpu_s > 0.0), None)
        if free is not None:
            raise UsageError(f"{free.material_id}: its label tells no CPU time; leave it out of the replay")
        ((self.label_engine, self.settings_hash),) = kinds
        self.labels = {label.material_id: label for label in labels}
        self._estimates: dict[int, float] = {}

    def check(self, structure: Structure) -> None:
        """Every known crystal has been computed: nothing to refuse."""

    def estimate_cpu_h(self, structure: Structure, level: str = "rpa") -> float:
        """What the engine's formula expects; the recorded cost is not looked at."""
        share = gpaw_cost.IPA_SHARE if level == "ipa" else 1.0
        return share * self._estimates[id(structure)]

    @cached_property
    def crystals(self) -> dict[str, Structure]:
        """material_id -> crystal, the same object at every call."""
        found = {name: label.structure for name, label in self.labels.items()}
        for name, s in found.items():
            check_datasets(s)
            self._estimates[id(s)] = gpaw_cost.estimate_cpu_s(s, self.labels[name].settings) / 3600
        return found

    @cached_property
    def calculations(self) -> dict[str, Calculation]:
        """material_id -> the recorded calculation, on one core."""
        return {
            name: Calculation(
                spectra={"ipa": label.ipa, "rpa": label.rpa},
                gap_ev=label.gap_ev,
                cpu_s=label.cpu_s,
                wall_s=label.cpu_s,
                engine=label.engine,
                version="recorded",
                settings=label.settings,
                settings_hash=label.settings_hash,
                details=label.details | {"replayed": True},
            )
            for name, label in self.labels.items()
        }
