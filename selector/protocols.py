"""What a campaign hands out, what comes back, and what it asks of engines, models and FireWorks."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from pymatgen.core import Structure

from selector.spectra import Spectrum


@dataclass(frozen=True)
class Job:
    """A calculation to dispatch: all that a rocket needs, with no look at the campaign's database.

    With its ``decision`` it says, beside its result, whose that is and why it was computed; ``notices`` is the folder
    in which it tells that it has ended.
    """

    campaign: str
    key: str
    material_id: str
    formula: str
    structure: dict[str, Any]
    level: str
    attempt: int
    engine: dict[str, Any]
    cores: int
    time_limit_s: float
    workdir: str
    decision: dict[str, Any] = field(default_factory=dict)
    notices: str = ""


@dataclass(frozen=True)
class Result:
    """A calculation came back; ``calculation`` has spectra, engine, settings_hash, wall_s ..."""

    calculation: Any


@dataclass(frozen=True)
class Failure:
    """A calculation did not come back; ``wall_s`` is None where nobody knows how long it ran."""

    reason: str
    message: str
    wall_s: float | None
    retry: bool
    interrupted: bool = False


@dataclass(frozen=True)
class Returned:
    """An attempt that ended, by what lies on disk: ``job`` has fields of its `Job`; ``place`` is its folder."""

    job: Mapping[str, Any]
    place: str
    read: Callable[[], Result | Failure | None]


@dataclass(frozen=True)
class Loss:
    """Work that was lost and what was done about it, in words; ``material_id`` where it is one material's."""

    message: str
    material_id: str | None = None


class Prediction(Protocol):
    """SC[RPA; IPA] of n crystals: mean, spread (n,), latent vectors (n, d), whether each is unlike what was learned."""

    @property
    def mean(self) -> NDArray[np.float64]: ...
    @property
    def spread(self) -> NDArray[np.float64]: ...
    @property
    def latent(self) -> NDArray[np.float64]: ...
    @property
    def out_of_domain(self) -> NDArray[np.bool_]: ...


class Predictor(Protocol):
    """A trained model; ``scores`` are held-out |error| / spread, from which intervals are made.

    One that reads IPA spectra is given them beside the structures, always; any other never.

    ``held_out``: what models like it say of the labels it learned from, each having learned of other formulas alone;
    the labels it was given last stand at the end. None for a model that was read from a file.
    """

    @property
    def model_id(self) -> str: ...
    @property
    def scores(self) -> NDArray[np.float64]: ...
    @property
    def held_out(self) -> NDArray[np.float64] | None: ...
    @property
    def card(self) -> dict[str, Any]: ...
    def predict(self, structures: Sequence[Structure], spectra: Sequence[Spectrum] | None = None) -> Prediction: ...
    def fine_tune(
        self, structures: Sequence[Structure], sc: Sequence[float], *, spectra: Sequence[Spectrum] | None = None
    ) -> Any: ...


class ModelShelf(Protocol):
    """Where a campaign's models lie; files are named within its folder."""

    def load(self, file: str) -> Predictor: ...
    def save(self, predictor: Any) -> str: ...
    def train(
        self,
        structures: Sequence[Structure],
        sc: Sequence[float],
        engine: str,
        settings_hash: str,
        *,
        spectra: Sequence[Spectrum] | None = None,
    ) -> Predictor: ...


class CostEngine(Protocol):
    """What the campaign asks of an engine; ``level``: "rpa" is both levels together, "ipa" is IPA alone."""

    cost_log_sd: float

    @property
    def label_engine(self) -> str: ...
    @property
    def settings_hash(self) -> str: ...
    def check(self, structure: Structure) -> None: ...
    def estimate_cpu_h(self, structure: Structure, level: str = "rpa") -> float: ...


class Dispatcher(Protocol):
    """FireWorks, as the campaign sees it. Submitting is idempotent on the key.

    ``returned``: what ended, as far as files tell, and was not acknowledged yet, to a step with a lease of that epoch.
    """

    def submit(self, job: Job) -> int: ...
    def submit_learning(self, campaign: str, key: str) -> int: ...
    def outcome(self, key: str, workdir: Path) -> Result | Failure | None: ...
    def learning_is_out(self, key: str) -> bool: ...
    def reap(self, campaign: str) -> Sequence[Loss]: ...
    def returned(self, campaign: str, epoch: int) -> Iterable[Returned]: ...
    def acknowledge(self, key: str) -> None: ...
