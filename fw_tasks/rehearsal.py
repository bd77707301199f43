"""A campaign rehearsed on known labels: the campaign's own code, recorded costs, virtual time.

Everything but the calculations is what a real campaign does: its step, memory, ledger, choice, predictor and learning
gate. It starts from no weights: what is said of a crystal before anything was learned is the documented prior
(`selector.predictions`). A material's SC and cost are looked up nowhere but in its returned calculation.
"""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from fw_tasks.from_nothing import MemoryShelf, Prior
from fw_tasks.known_labels import KnownLabels
from models import checkpoints
from models.labels import Label
from selector.campaign import Campaign
from selector.candidates import Candidate
from selector.config import CampaignConfig, PolicyConfig, PredictorConfig
from selector.errors import SelectorError, UsageError
from selector.localdb.direct import Database
from selector.protocols import Predictor
from selector.replaying.figures import Outcome, Pool
from selector.replaying.virtual import VirtualLedger, VirtualWorkers, run
from selector.spectra import KnownSpectrum
from selector.store import Store

Array = NDArray[np.float64]

NAME, SOURCE = "replay", "known labels"
BASELINES = ("random", "cheapest")
"""They read no prediction, so that nothing is learned for them, and no dispatch of theirs is drawn by lot."""
SHARES = np.linspace(0.0, 1.0, 51)
_DRAWS = 0x5EED


@dataclass(frozen=True)
class Rehearsal:
    """One campaign to rehearse.

    Attributes
    ----------
    policy : name, as in a campaign's configuration
    seed : of the warm start, the resampling, and the campaign
    budget_fraction : of what all materials but those known at the start cost together
    threshold : SC below which RPA is wanted
    warm_start : so many materials, drawn at random, are known at the start: they are no candidates, and count nowhere
    n_workers : virtual workers
    in_rounds : synchronous rounds, for comparison
    resampled : reduced formulas are drawn with replacement, as many as there are, to see how far figures hang on the
        choice of materials; a formula drawn again brings copies under names of their own
    pretrained : weights that the line of models by structure alone starts from; from nothing if None
    ipa : "have": every candidate's IPA spectrum is at hand from the start, and the choice is made with it; or "skip"
    """

    policy: str = "value_per_cost"
    seed: int = 0
    budget_fraction: float = 0.3
    threshold: float = 0.75
    warm_start: int = 0
    n_workers: int = 8
    in_rounds: bool = False
    resampled: bool = False
    pretrained: Path | None = None
    ipa: Literal["skip", "have"] = "skip"

    @property
    def reads_ipa(self) -> bool:
        return self.ipa == "have"


@dataclass(frozen=True)
class Rehearsed:
    """What came of it.

    Attributes
    ----------
    outcome, oracle : of the policy, and of one who knows SC and cost, within the same budget
    budget_cpu_h : what could be spent
    returned : the materials that came back with RPA, in order
    curve, oracle_curve : error removed by the time that `SHARES` of the budget were spent
    n_accepted, n_refused : models by the learning gate's verdict, of the line that chooses
    unseen_mae : mean |error of SC| of each standing model that learned, first to last, on the formulas that the
        resampling left out; empty without resampling
    """

    outcome: Outcome
    oracle: Outcome
    budget_cpu_h: float
    returned: list[str]
    curve: Array
    oracle_curve: Array
    n_accepted: int
    n_refused: int
    unseen_mae: list[float]


def rehearse_all(
    labels: Sequence[Label], rehearsals: Iterable[Rehearsal], jobs: int = 1
) -> Iterator[tuple[Rehearsal, Rehearsed]]:
    """Each with what comes of it, ``jobs`` at a time in processes of their own. Errors as in :func:`rehearse`.

    Those of one campaign come one after the other: it is run once.
    """
    campaigns = one_campaign_each(rehearsals)
    if jobs == 1:
        known = KnownLabels(labels)
        for alike in campaigns:
            yield from zip(alike, _rehearse(known, alike), strict=True)
        return
    # Each process has a core: threads of its linear algebra would only stand in one another's way.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(jobs, spawn, initializer=_keep, initargs=(labels,)) as pool:
        for alike, rehearsed in zip(campaigns, pool.map(_rehearse_kept, campaigns), strict=True):
            yield from zip(alike, rehearsed, strict=True)


def one_campaign_each(rehearsals: Iterable[Rehearsal]) -> list[list[Rehearsal]]:
    """Those of one campaign together: to a policy that reads no prediction a threshold is only what it is judged by."""
    found: dict[Rehearsal, list[Rehearsal]] = {}
    for rehearsal in dict.fromkeys(rehearsals):
        campaign = replace(rehearsal, threshold=1.0) if rehearsal.policy in BASELINES else rehearsal
        found.setdefault(campaign, []).append(rehearsal)
    return list(found.values())


_kept: list[KnownLabels] = []


def _keep(labels: Sequence[Label]) -> None:
    _kept.append(KnownLabels(labels))


def _rehearse_kept(alike: Sequence[Rehearsal]) -> list[Rehearsed]:
    return _rehearse(_kept[0], alike)


def rehearse(known: KnownLabels, rehearsal: Rehearsal) -> Rehearsed:
    """Run one campaign on known labels.

    Raises
    ------
    UsageError
        There is no such policy, or too few materials are left.
    SelectorError
        No material lies below the threshold, or the weights to start from have learned from one of these formulas.
    """
    return _rehearse(known, [rehearsal])[0]


def _rehearse(known: KnownLabels, alike: Sequence[Rehearsal]) -> list[Rehearsed]:
    """What comes of one campaign, for each rehearsal of it."""
    rehearsal = alike[0]
    drawn = _draw(known, rehearsal)
    pools = [_pool(known, drawn, r.threshold) for r in alike]
    budget_cpu_h = rehearsal.budget_fraction * float(pools[0].cpu_h.sum())
    config = _config(rehearsal, budget_cpu_h, len(drawn.pool))
    database: Any = Database()
    store, shelf = Store(database, NAME), MemoryShelf()
    lines = (False, True) if rehearsal.reads_ipa else (False,)
    store.ledger = VirtualLedger(database, NAME, len(lines))
    store.create(config.public(), budget_cpu_h, known.label_engine, known.settings_hash, **config.account())
    for reads_ipa in lines:
        _begin(store, shelf, _first_predictor(known, drawn, rehearsal, reads_ipa), reads_ipa)
    workers = VirtualWorkers(
        {name: known.calculations[original] for name, original in drawn.pool.items()}, rehearsal.n_workers
    )
    campaign = Campaign(store, config, known, workers, shelf)
    ipa = {name: _at_hand(known, original) for name, original in drawn.pool.items()} if rehearsal.reads_ipa else {}
    campaign.add([Candidate(name, known.crystals[k], SOURCE) for name, k in drawn.pool.items()], [], ipa)
    returns = run(campaign, workers, in_rounds=rehearsal.in_rounds)
    models = store.models(accepted=None, reads_ipa=rehearsal.reads_ipa)[1:]
    accepted = [m for m in models if m["accepted"]]
    unseen_mae = _unseen_mae(known, drawn, [shelf.load(m["file"]) for m in accepted], rehearsal.reads_ipa)
    return [
        Rehearsed(
            outcome=pool.outcome(returns),
            oracle=pool.oracle(budget_cpu_h),
            budget_cpu_h=budget_cpu_h,
            returned=[r.material_id for r in returns if r.has_result],
            curve=pool.curve(returns, SHARES * budget_cpu_h),
            oracle_curve=pool.curve(pool.oracle_returns(), SHARES * budget_cpu_h),
            n_accepted=len(accepted),
            n_refused=len(models) - len(accepted),
            unseen_mae=unseen_mae,
        )
        for pool in pools
    ]


@dataclass(frozen=True)
class _Draw:
    """Who plays which part: names in the pool -> the material, those known at the start, those left out."""

    pool: dict[str, str]
    warm: list[str]
    unseen: list[str]


def _draw(known: KnownLabels, rehearsal: Rehearsal) -> _Draw:
    rng = np.random.default_rng([_DRAWS, rehearsal.seed])
    by_formula: dict[str, list[str]] = {}
    for name, label in known.labels.items():
        by_formula.setdefault(label.formula, []).append(name)
    formulas = sorted(by_formula)
    picked = [formulas[i] for i in rng.integers(len(formulas), size=len(formulas))] if rehearsal.resampled else formulas
    names: dict[str, str] = {}
    for formula in picked:
        for material_id in by_formula[formula]:
            k = sum(original == material_id for original in names.values())
            names[f"{material_id}-copy{k}" if k else material_id] = material_id
    distinct = sorted(set(names.values()))
    if rehearsal.warm_start >= len(distinct):
        raise UsageError(f"--warm-start {rehearsal.warm_start} leaves none of {len(distinct)} materials to choose from")
    # What is known at the start is known of its copies too: they go with it.
    warm = [distinct[i] for i in rng.permutation(len(distinct))[: rehearsal.warm_start]]
    pool = {name: original for name, original in names.items() if original not in warm}
    unseen = [name for formula in sorted(set(formulas) - set(picked)) for name in by_formula[formula]]
    return _Draw(pool, warm, unseen)


def _pool(known: KnownLabels, drawn: _Draw, threshold: float) -> Pool:
    labels = [known.labels[original] for original in drawn.pool.values()]
    sc, cpu_h = np.array([x.sc for x in labels]), np.array([x.cpu_s for x in labels]) / 3600
    return Pool(list(drawn.pool), sc, cpu_h, threshold)


def _config(rehearsal: Rehearsal, budget_cpu_h: float, n_materials: int) -> CampaignConfig:
    lots, predictor = {}, PredictorConfig()
    if rehearsal.policy in BASELINES:
        lots, predictor = {"random_share": 0.0}, PredictorConfig(retrain_every=n_materials + 1)
    return CampaignConfig(
        campaign=NAME,
        folder=Path(NAME),
        budget_cpu_h=budget_cpu_h,
        policy=PolicyConfig(name=rehearsal.policy, threshold=rehearsal.threshold, **lots),
        predictor=predictor,
        audit_fraction=0.0,
        max_in_flight=rehearsal.n_workers,
        seed=rehearsal.seed,
        ipa=rehearsal.ipa,
    )


def _first_predictor(known: KnownLabels, drawn: _Draw, rehearsal: Rehearsal, reads_ipa: bool) -> Any:
    warm = [known.labels[name] for name in drawn.warm]
    first: Any = Prior(known.label_engine, known.settings_hash, reads_ipa, learns=rehearsal.policy not in BASELINES)
    if rehearsal.pretrained is not None and not reads_ipa:
        first = checkpoints.load(rehearsal.pretrained)
        refuse_if_known(first.card, {label.formula for label in known.labels.values()}, rehearsal.pretrained)
    beside = {"spectra": [x.ipa for x in warm]} if reads_ipa else {}
    return first.fine_tune([x.structure for x in warm], [x.sc for x in warm], **beside) if warm else first


def _at_hand(known: KnownLabels, material_id: str) -> KnownSpectrum:
    return KnownSpectrum(known.labels[material_id].ipa, Path(SOURCE), known.settings_hash)


def refuse_if_known(card: Mapping[str, Any], formulas: Collection[str], source: Path) -> None:
    """Refuse weights that have learned from what is to be replayed.

    Raises
    ------
    SelectorError
        The card lists one of the formulas, or does not tell what the weights learned from.
    """
    listed = card.get("data", {}).get("formulas")
    if listed is None:
        raise SelectorError(f"{source}: its card lists no formulas, so it may know these labels; use --pretrained none")
    both = sorted(set(listed) & set(formulas))
    if both:
        raise SelectorError(
            f"{source}: has learned from {both[0]} ({len(both)} of the replayed formulas); use --pretrained none"
        )


def _begin(store: Store, shelf: MemoryShelf, first: Any, reads_ipa: bool) -> None:
    store.add_model(
        first.model_id,
        round=0,
        parent=None,
        file=shelf.save(first),
        engine=first.engine,
        settings_hash=first.settings_hash,
        n_new_labels=0,
        metrics=first.card.get("metrics", {}),
        **({"reads_ipa": True} if reads_ipa else {}),
    )


def _unseen_mae(known: KnownLabels, drawn: _Draw, models: Sequence[Predictor], reads_ipa: bool) -> list[float]:
    if not drawn.unseen:
        return []
    labels = [known.labels[name] for name in drawn.unseen]
    crystals, sc = [known.crystals[name] for name in drawn.unseen], np.array([label.sc for label in labels])
    beside = {"spectra": [label.ipa for label in labels]} if reads_ipa else {}
    return [float(np.abs(model.predict(crystals, **beside).mean - sc).mean()) for model in models]
