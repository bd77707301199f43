"""One step of the loop: settle what returned, learn, choose, dispatch; and what a person may change meanwhile.

The step may be called by rockets, by cron or by hand, concurrently: a lease lets one process through, and every change
is conditional on it and on the state it expects, so that a repeated, interrupted or belated step does no harm.
FireWorks is reached through `Dispatcher`, models through `Predictor`.

A campaign is ``running``; ``stopped`` by hand, until it is resumed; ``auditing`` once it has closed; then ``finished``.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from selector import (
    budgeting,
    choosing,
    closing,
    dispatching,
    learning,
    looks,
    lots,
    predicting,
    returned,
    settling,
    stages,
)
from selector.candidates import Candidate, Rejection
from selector.choosing import Choice, Pending
from selector.config import CHANGEABLE, CampaignConfig
from selector.costs import CostModel
from selector.dispatching import job_key
from selector.documents import IN_FLIGHT, Document
from selector.lease import LeaseLost
from selector.policies import get_policy
from selector.protocols import CostEngine, Dispatcher, ModelShelf
from selector.spectra import KnownSpectrum
from selector.steering import Steering
from selector.store import Store

__all__ = ["Campaign", "StepReport", "job_key"]


@dataclass(frozen=True)
class StepReport:
    """What one step did; ``busy`` if another process held the lease."""

    busy: bool = False
    settled: int = 0
    dispatched: int = 0
    learning: bool = False
    state: str = "running"


class Campaign(Steering):
    """A campaign: its memory, its engine, its models, and the way to FireWorks."""

    def __init__(
        self, store: Store, config: CampaignConfig, engine: CostEngine, dispatcher: Dispatcher, shelf: ModelShelf
    ) -> None:
        self.store = store
        self.config = config
        self.engine = engine
        self.dispatcher = dispatcher
        self.shelf = shelf
        self.policy = get_policy(config.policy)

    def add(
        self,
        candidates: Sequence[Candidate],
        rejections: Sequence[Rejection],
        ipa: Mapping[str, KnownSpectrum] | None = None,
    ) -> None:
        """Take candidates into the pool, note what was rejected, and predict; a finished campaign goes on.

        ``ipa``: IPA spectra that are known already, of these candidates or of earlier ones, by material_id.
        """
        estimates = [self.engine.estimate_cpu_h(c.structure) for c in candidates]
        stages.give(self.store, self.config, ipa or {})
        more = stages.opening(self.config, self.engine, candidates, ipa or {})
        self.store.add_candidates(candidates, estimates, more)
        self.store.add_rejections(rejections)
        for rejection in rejections:
            self.store.event("rejected", f"{rejection.material_id}: {rejection.message}")
        if candidates and self.store.campaign()["state"] == "finished":
            self.resume()
        self.predict()

    def predict(self) -> None:
        """Predict every pending candidate whose prediction is not the standing model's, calibrated as things stand."""
        predicting.predict(self.store, self.shelf, self.config.policy.threshold)

    def plan(self) -> list[Choice]:
        """What would be dispatched from here until the budget is spent, if every cost came out as predicted."""
        self.predict()
        return choosing.plan(self.rank(), self.store.ledger.totals().available_cpu_h)

    def rank(self) -> list[Choice]:
        """The pending candidates in the order in which the policy would dispatch them now."""
        return choosing.rank(self.pool(self.store), self.policy, self.config)

    def pool(self, store: Store) -> Pending:
        """The pending candidates as choosing sees them."""
        ipa_costs = self.costs("ipa") if self.config.ipa == "compute" else None
        return dispatching.pool(store, self.costs(), self.config, ipa_costs)

    def costs(self, level: str = "rpa") -> CostModel:
        """What a calculation at this level costs, after what was settled so far."""
        return budgeting.learn_costs(self.store.settled(level), self.engine.cost_log_sd, level)

    def settle(self, c: Document) -> bool:
        """Book what came of a running candidate, if anything has; whether it was booked by this call."""
        return settling.settle(self.store, c, self.dispatcher, self.config)

    def workdir(self, c: Document) -> Path:
        return dispatching.workdir(self.config, c["material_id"], c["decision"])

    def learn(self, key: str) -> str | None:
        """Fine-tune on all the campaign's labels; the new model's id, or None if ``key`` is no longer wanted."""
        return learning.learn(self.store, self.shelf, self.engine.settings_hash, key)

    # -- the step ----------------------------------------------------------------------------------------------------

    def step(self) -> StepReport:
        """Settle, learn, choose, dispatch, once; if another process is at it, ask that one for another round."""
        report = StepReport(busy=True)
        while True:
            epoch = self.store.lease.take()
            if epoch is None:
                self.store.request_step()
                epoch = self.store.lease.take()
                if epoch is None:
                    return report
            whole = False
            try:
                self.store.clear_request()
                self._read_changes()
                report = self._step(self.store.under(epoch))
                whole = True
            except LeaseLost:
                # This one was late. What it left half done is the next one's to undo, so there has to be a next one.
                continue
            finally:
                self.store.lease.drop(epoch, clean=whole)
            if not self.store.step_requested():
                return report

    def _read_changes(self) -> None:
        """Take over what was changed of the configuration meanwhile."""
        stored = CampaignConfig.model_validate(self.store.campaign()["config"])
        self.config = self.config.model_copy(update={key: getattr(stored, key) for key in CHANGEABLE})

    def recover(self) -> Counter[str] | None:
        """Book what lies in the campaign's folder and was not booked; nothing is dispatched.

        Returns
        -------
        How many were "taken", "failed", "known" ... (`selector.returned`); None if another process is at a step, which
        is asked to do it.
        """
        epoch = self.store.lease.take()
        if epoch is None:
            self.store.request_step()
            return None
        whole = False
        try:
            _, said = self._settle(self.store.under(epoch))
            whole = True
        finally:
            self.store.lease.drop(epoch, clean=whole)
        if self.store.step_requested():
            self.step()
        return said

    def _settle(self, store: Store) -> tuple[int, Counter[str]]:
        """Put right what was left half done, and book what came back; how many, and what came of files nobody knew."""
        store.inherit()
        for loss in self.dispatcher.reap(self.config.campaign):
            about = {} if loss.material_id is None else {"material_id": loss.material_id}
            store.event("lost", loss.message, **about)
        store.ledger.reconcile()
        dispatching.resume(store, self.config, self.dispatcher)
        settled = sum(
            settling.settle(store, c, self.dispatcher, self.config) for c in store.without_structure(*IN_FLIGHT)
        )
        settled += sum(settling.settle_strays(store, c, self.dispatcher, self.config) for c in store.awaited())
        said = returned.take_in(store, self.dispatcher, self.config, self.engine)
        return settled + said[returned.TAKEN], said

    def _step(self, store: Store) -> StepReport:
        settled, _ = self._settle(store)
        dispatched, is_learning = 0, False
        match store.campaign()["state"]:
            case "running":
                dispatched, is_learning = self._go_on(store)
            case "auditing":
                dispatched = self._audit(store)
        return StepReport(False, settled, dispatched, is_learning, store.campaign()["state"])

    def _go_on(self, store: Store) -> tuple[int, bool]:
        predicting.predict(store, self.shelf, self.config.policy.threshold)
        pending = self.pool(store)
        available, in_flight = store.ledger.totals().available_cpu_h, store.count(*IN_FLIGHT)
        looks.conclude(store, pending, self.config, available)
        rule = closing.stop_rule(pending, self.config) or looks.reached(store, self.config)
        is_learning = rule is None and self._learn_if_due(store, self.config.predictor.retrain_every)
        choices: list[Choice] = []
        dispatched, room = 0, self.config.max_in_flight - in_flight
        if rule is None and room > 0:
            looks.begin(store, pending, self.config, available)
            n_before, look = store.campaign()["n_dispatched"], looks.standing(store)
            choices = lots.choose(pending, self.policy, self.config, available, room, n_before, look)
            dispatched = dispatching.dispatch(store, choices, self.config, self.dispatcher, self.policy.name)
        if dispatched or is_learning or in_flight:
            return dispatched, is_learning
        if any(dispatching.payable(store, c) for c in choices):
            # They could be paid: somebody changed something in between.
            store.request_step()
        elif rule is None and len(pending.documents) > 0 and self._learn_if_due(store, 1):
            # Nothing is out and nothing fits: learn from the last few results before giving up.
            return 0, True
        else:
            closing.begin(store, pending, self.policy, self.config, rule)
            if store.campaign()["state"] == "auditing":
                dispatched = self._audit(store)
        return dispatched, False

    def _audit(self, store: Store) -> int:
        costs = self.costs()
        if not store.campaign()["audit"]["frozen"]:
            pending = self.pool(store)
            closing.freeze(store, pending, costs, self.policy, self.config)
        in_flight = store.count(*IN_FLIGHT)
        choices = closing.to_audit(store, costs, self.config)
        affordable = [c for c in choices if store.ledger.why_not(c.reserve_cpu_h, "audit") is None]
        room = max(0, self.config.max_in_flight - in_flight)
        dispatched = dispatching.dispatch(
            store, affordable[:room], self.config, self.dispatcher, self.policy.name, purpose="audit"
        )
        if not dispatched and not in_flight:
            if affordable:
                store.request_step()
            elif closing.conclude(store) and store.count("pending"):
                # Something was added while the audit went on.
                self.resume()
                store.request_step()
        return dispatched

    def _learn_if_due(self, store: Store, every: int) -> bool:
        """Send a fine-tuning job out once ``every`` results have come since the last; whether one is out."""
        out = store.campaign()["learning"]
        if out is not None and self.dispatcher.learning_is_out(out):
            return True
        if out is not None and store.fail_learning(out):
            store.event("learning failed", f"fine-tuning {out} ended without a model; the standing one stays")
        key = learning.due(store, self.engine.settings_hash, every)
        if key is None or not store.begin_learning(key):
            return False
        self.dispatcher.submit_learning(self.config.campaign, key)
        return True
