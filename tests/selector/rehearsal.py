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
    """A calculation whose RPA absorption is ``sc`` times its IPA absorption, so that SC[RPA; IPA] = sc."""

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
        ipa = np.tile(1j * ENERGY_EV, (3, 1))
        return {"ipa": Spectrum(ENERGY_EV, ipa), "rpa": Spectrum(ENERGY_EV, self.sc * ipa)}


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
        return self.outcomes.get(key)

    def learning_is_out(self, key: str) -> bool:
        return key in self.learning and key not in self.lost_learning

    def reap(self, campaign: str) -> int:
        return 0

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
    """A predictor that reads SC from the cell's length; each fine-tuning shifts it."""

    model_id: str = "m0"
    settings_hash: str = HASH
    seen: int = 0
    card: dict[str, Any] = field(default_factory=lambda: {"metrics": {"oof_mae": 0.05}})
    scores: np.ndarray = field(default_factory=lambda: np.linspace(0.05, 2.0, 40))
    foreign: set[str] = field(default_factory=set)
    held_out: np.ndarray | None = None

    def predict(self, structures: Sequence[Structure]) -> Guess:
        mean = np.array([s.lattice.a / 10 for s in structures])
        outside = [bool(self.foreign & {e.symbol for e in s.elements}) for s in structures]
        return Guess(mean, np.full(len(mean), 0.05), mean[:, None], np.array(outside, bool))

    def fine_tune(self, structures: Sequence[Structure], sc: Sequence[float]) -> Table:
        return Table(f"m{len(sc)}", seen=len(sc), held_out=self.predict(structures).mean)


@dataclass
class Drawer:
    models: dict[str, Table] = field(default_factory=lambda: {"m0": Table()})

    def load(self, file: str) -> Table:
        return self.models[file]

    def save(self, predictor: Table) -> str:
        self.models[predictor.model_id] = predictor
        return predictor.model_id

    def train(self, structures: Sequence[Structure], sc: Sequence[float], engine: str, settings_hash: str) -> Table:
        said = Table().predict(structures).mean
        return Table(f"own{len(sc)}", settings_hash=settings_hash, seen=len(sc), held_out=said)


@dataclass
class Meter:
    cost_log_sd: float = 0.2
    label_engine: str = "gpaw"
    settings_hash: str = HASH

    def check(self, structure: Structure) -> None:
        return None

    def estimate_cpu_h(self, structure: Structure) -> float:
        return 0.01


def crystal(name: str, sc: float, elements: Sequence[str] = ("Mg", "O")) -> Candidate:
    """A caesium-chloride cell whose length tells `Table` what to predict."""
    structure = Structure(Lattice.cubic(10 * sc), list(elements), [[0, 0, 0], [0.5, 0.5, 0.5]])
    return Candidate(name, structure, f"{name}.cif")


def begin(database: Database[Any], tmp_path: Path, weights: str = HASH, **changes: Any) -> tuple[Campaign, Rehearsal]:
    """A campaign whose weights learned from labels of settings ``weights``."""
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
    store.add_model(
        "m0", round=0, parent=None, file="m0", engine="gpaw", settings_hash=weights, n_new_labels=0, metrics={}
    )
    return Campaign(store, config, Meter(), dispatcher, Drawer()), dispatcher


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
