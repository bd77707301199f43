"""A campaign in rehearsal: FireWorks, models and engine in memory, so that a test says what becomes of each job."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from pymatgen.core import Lattice, Structure
from pymongo.database import Database

from selector.campaign import Campaign
from selector.candidates import Candidate
from selector.config import CampaignConfig
from selector.ledger import check
from selector.protocols import Failure, Job, Result
from selector.spectra import ENERGY_EV, Spectrum
from selector.store import Store

HASH = "0123456789ab"


@dataclass(frozen=True)
class Computed:
    """A calculation whose RPA absorption is ``sc`` times its IPA absorption, so that SC[RPA; IPA] = sc.

    The IPA absorption is ``sc`` times the energy in eV, so that a `Table` which reads spectra reads it there.
    """

    sc: float
    wall_s: float = 36.0
    engine: str = "gpaw"
    version: str = "0"
    settings_hash: str = HASH
    settings: dict[str, Any] = field(default_factory=dict)
    details: dict[str, Any] = field(default_factory=dict)
    gap_ev: float = 2.0
    cpu_s: float = 30.0

    @property
    def spectra(self) -> dict[str, Spectrum]:
        ipa = ipa_spectrum(self.sc)
        return {"ipa": ipa, "rpa": Spectrum(ENERGY_EV, self.sc * ipa.eps)}


class ComputedIpa(Computed):
    """IPA alone."""

    @property
    def spectra(self) -> dict[str, Spectrum]:
        return {"ipa": ipa_spectrum(self.sc)}


def ipa_spectrum(sc: float) -> Spectrum:
    return Spectrum(ENERGY_EV, np.tile(sc * 1j * ENERGY_EV, (3, 1)))


def computed(job: Job, sc: float, wall_s: float = 36.0) -> Computed:
    """What a job brings home: IPA alone, or both levels."""
    return (ComputedIpa if job.level == "ipa" else Computed)(sc, wall_s)


@dataclass
class Rehearsal:
    """A dispatcher in memory: jobs wait until a test says what became of them."""

    jobs: dict[str, Job] = field(default_factory=dict)
    outcomes: dict[str, Result | Failure] = field(default_factory=dict)
    learning: list[str] = field(default_factory=list)
    lost_learning: set[str] = field(default_factory=set)
    crash: bool = False

    def submit(self, job: Job) -> int:
        if self.crash:
            raise ConnectionError("the launcher died")
        self.jobs.setdefault(job.key, job)
        return list(self.jobs).index(job.key) + 1

    def submit_learning(self, campaign: str, key: str) -> int:
        self.learning.append(key)
        return 1000 + len(self.learning)

    def outcome(self, key: str, workdir: Path) -> Result | Failure | None:
        if key not in self.jobs:
            return Failure("Vanished", "there is no such workflow", None, retry=False)
        return self.outcomes.get(key)

    def learning_is_out(self, key: str) -> bool:
        return key in self.learning and key not in self.lost_learning

    def reap(self, campaign: str) -> tuple[()]:
        return ()

    def returned(self, campaign: str, epoch: int) -> list[Any]:
        return []

    def acknowledge(self, key: str) -> None:
        return None

    def waiting(self) -> list[Job]:
        return [job for key, job in self.jobs.items() if key not in self.outcomes]


@dataclass
class Guess:
    mean: np.ndarray
    spread: np.ndarray
    latent: np.ndarray
    out_of_domain: np.ndarray


@dataclass
class Table:
    """A predictor that reads SC from the cell's length, or from the IPA spectrum; each fine-tuning names it anew."""

    model_id: str = "m0"
    reads_ipa: bool = False
    settings_hash: str = HASH
    seen: int = 0
    card: dict[str, Any] = field(default_factory=lambda: {"metrics": {"oof_mae": 0.05}})
    scores: np.ndarray = field(default_factory=lambda: np.linspace(0.05, 2.0, 40))
    foreign: set[str] = field(default_factory=set)
    held_out: np.ndarray | None = None

    def predict(self, structures: Sequence[Structure], spectra: Sequence[Spectrum] | None = None) -> Guess:
        assert (spectra is not None) == self.reads_ipa
        mean = np.array([s.lattice.a / 10 for s in structures])
        if spectra is not None:
            mean = np.array([s.eps.imag[0, -1] / ENERGY_EV[-1] for s in spectra], dtype=float)
        outside = [bool(self.foreign & {e.symbol for e in s.elements}) for s in structures]
        return Guess(mean, np.full(len(mean), 0.05), mean[:, None], np.array(outside, bool))

    def fine_tune(
        self, structures: Sequence[Structure], sc: Sequence[float], *, spectra: Sequence[Spectrum] | None = None
    ) -> Table:
        said = self.predict(structures, spectra).mean
        return Table(f"{self.model_id[0]}{len(sc)}", self.reads_ipa, seen=len(sc), held_out=said)


@dataclass
class Drawer:
    models: dict[str, Table] = field(default_factory=lambda: {"m0": Table(), "i0": Table("i0", reads_ipa=True)})

    def load(self, file: str) -> Table:
        return self.models[file]

    def save(self, predictor: Table) -> str:
        self.models[predictor.model_id] = predictor
        return predictor.model_id

    def train(
        self,
        structures: Sequence[Structure],
        sc: Sequence[float],
        engine: str,
        settings_hash: str,
        *,
        spectra: Sequence[Spectrum] | None = None,
    ) -> Table:
        reads_ipa, name = spectra is not None, "own" if spectra is None else "own-ipa"
        said = Table(reads_ipa=reads_ipa).predict(structures, spectra).mean
        return Table(f"{name}{len(sc)}", reads_ipa, settings_hash=settings_hash, seen=len(sc), held_out=said)


@dataclass
class Meter:
    cost_log_sd: float = 0.2
    label_engine: str = "gpaw"
    settings_hash: str = HASH

    def check(self, structure: Structure) -> None:
        return None

    def estimate_cpu_h(self, structure: Structure, level: str = "rpa") -> float:
        return 0.01 if level == "rpa" else 0.002


def crystal(name: str, sc: float, elements: Sequence[str] = ("Mg", "O")) -> Candidate:
    """A caesium-chloride cell whose length tells `Table` what to predict."""
    structure = Structure(Lattice.cubic(10 * sc), list(elements), [[0, 0, 0], [0.5, 0.5, 0.5]])
    return Candidate(name, structure, f"{name}.cif")


def begin(database: Database[Any], tmp_path: Path, weights: str = HASH, **changes: Any) -> tuple[Campaign, Rehearsal]:
    """A campaign whose weights learned from labels of settings ``weights``; some of them read IPA, if it does."""
    plain = {"policy": {"name": "threshold", "random_share": 0.0}, "audit_fraction": 0.0}
    config = CampaignConfig.model_validate(
        {
            "campaign": "c",
            "folder": tmp_path,
            "budget_cpu_h": 1.0,
            "predictor": {"retrain_every": 2},
            **plain,
            **changes,
        }
    )
    store, dispatcher = Store(database, "c"), Rehearsal()
    store.create(config.public(), config.budget_cpu_h, "gpaw", HASH, **config.account())
    first_models(store, config, weights)
    return Campaign(store, config, Meter(), dispatcher, Drawer()), dispatcher


def first_models(store: Store, config: CampaignConfig, weights: str = HASH) -> None:
    """The weights that a campaign starts from."""
    about = {"round": 0, "parent": None, "engine": "gpaw", "settings_hash": weights, "n_new_labels": 0, "metrics": {}}
    store.add_model("m0", file="m0", **about)
    if config.ipa != "skip":
        store.add_model("i0", file="i0", reads_ipa=True, **about)


def remembered(database: Database[Any]) -> dict[str, Any]:
    """All that the campaign remembers, but for the lease and when it was last touched."""
    found = {name: list(database[name].find({}).sort("_id", 1)) for name in sorted(database.list_collection_names())}
    for campaign in found["campaigns"]:
        for key in ("lease", "step_requested"):
            campaign.pop(key, None)
    for candidate in found.get("candidates", []):
        candidate["estimate_cpu_h"] = str(candidate["estimate_cpu_h"])  # NaN is not equal to itself
    return found


def check_promises(campaign: Campaign, dispatcher: Rehearsal) -> None:
    """Invariants 2, 3 and 5 of docs/architecture.md."""
    account = campaign.store.campaign()["ledger"]
    check(campaign.store.campaign())
    running = campaign.store.candidates("reserved", "running")
    assert len(running) <= campaign.config.max_in_flight
    assert {c["decision"]["key"] for c in running} == set(account["open"])
    for c in campaign.store.candidates():
        attempts = [j for j in dispatcher.jobs.values() if j.material_id == c["material_id"]]
        assert len(attempts) == len({j.key for j in attempts}) <= c.get("attempts", 0)
        assert c.get("failures", 0) <= campaign.config.max_attempts
        if c["status"] != "pending":
            assert c.get("decision", {}).get("reason") or c["status"] == "rejected"
