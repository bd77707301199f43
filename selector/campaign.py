"""One step of the loop: settle what returned, learn, choose, dispatch.

The step may be called by rockets, by cron or by hand, concurrently: a lease lets one process through, and every change
is conditional on the state it expects, so that a repeated or interrupted step does no harm. FireWorks is reached
through `Dispatcher`, models through `Predictor`.
"""

from __future__ import annotations

import hashlib
import os
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from selector import calibration, choosing, learning, settling
from selector.candidates import Candidate, Rejection
from selector.choosing import Choice
from selector.config import CampaignConfig
from selector.policies import get_policy
from selector.protocols import CostEngine, Dispatcher, Job, ModelShelf
from selector.store import IN_FLIGHT, Document, Store, now


@dataclass(frozen=True)
class StepReport:
    """What one step did; ``busy`` if another process held the lease."""

    busy: bool = False
    settled: int = 0
    dispatched: int = 0
    learning: bool = False
    state: str = "running"


class Campaign:
    """A campaign: its memory, its engine, its models, and the way to FireWorks."""

    def __init__(
        self, store: Store, config: CampaignConfig, engine: CostEngine, dispatcher: Dispatcher, shelf: ModelShelf
    ) -> None:
        self.store = store
        self.config = config
        self.engine = engine
        self.dispatcher = dispatcher
        self.shelf = shelf
        self.policy = get_policy(config.policy.name)

    def add(self, candidates: Sequence[Candidate], rejections: Sequence[Rejection]) -> None:
        """Take candidates into the pool, note what was rejected, and predict."""
        self.store.add_candidates(candidates, [self.engine.estimate_cpu_h(c.structure) for c in candidates])
        self.store.add_rejections(rejections)
        for rejection in rejections:
            self.store.event("rejected", f"{rejection.material_id}: {rejection.message}")
        if candidates and self.store.campaign()["state"] == "finished":
            for document in self.store.candidates("skipped"):
                self.store.move(document["material_id"], ["skipped"], "pending")
            self.store.set_state("running", None)
        self.predict()

    def predict(self) -> None:
        """Predict every pending candidate that the standing model has not seen yet."""
        model = self.store.model()
        stale = [
            c for c in self.store.candidates("pending") if c.get("prediction", {}).get("model_id") != model["model_id"]
        ]
        if not stale:
            return
        predictor = self.shelf.load(model["file"])
        p = predictor.predict([Candidate.from_dict(c).structure for c in stale])
        lo, hi = calibration.interval(p.mean, p.spread, predictor.scores)
        p_low = calibration.p_low(p.mean, p.spread, predictor.scores, self.config.policy.threshold)
        self.store.set_predictions(
            {
                c["material_id"]: {
                    "sc_mean": float(p.mean[i]),
                    "sc_std": float(p.spread[i]),
                    "sc_lo": float(lo[i]),
                    "sc_hi": float(hi[i]),
                    "p_low": float(p_low[i]),
                    "out_of_domain": bool(p.out_of_domain[i]),
                    "model_id": model["model_id"],
                    "model_round": model["round"],
                }
                for i, c in enumerate(stale)
            }
        )

    def rank(self) -> list[Choice]:
        """The pending candidates in the order in which the policy would dispatch them now."""
        settled = self.store.candidates("done", "failed", "pending")
        costs = choosing.learn_costs(settled, self.engine.cost_log_sd)
        return choosing.rank(self.store.candidates("pending"), self.policy, costs, self.config)

    def plan(self) -> list[Choice]:
        """What would be dispatched from here until the budget is spent, if every cost came out as predicted."""
        self.predict()
        return choosing.plan(self.rank(), self.store.ledger.totals().available_cpu_h)

    def step(self) -> StepReport:
        """Settle, learn, choose, dispatch, once; if another process is at it, ask that one for another round."""
        report = StepReport(busy=True)
        while True:
            epoch = self._take_lease()
            if epoch is None:
                self.store.request_step()
                epoch = self._take_lease()
                if epoch is None:
                    return report
            try:
                self.store.clear_request()
                report = self._step()
            finally:
                self.store.drop_lease(epoch)
            if not self.store.step_requested():
                return report

    def _take_lease(self) -> int | None:
        """The lease, also where a process of this host died with it in its hands."""
        host, me = socket.gethostname(), os.getpid()
        holder, epoch = self.store.lease()
        if holder and holder.startswith(f"{host}:") and not _is_alive(int(holder.rpartition(":")[2])):
            self.store.drop_lease(epoch)
        return self.store.take_lease(f"{host}:{me}")

    def _step(self) -> StepReport:
        self.dispatcher.reap(self.config.campaign)
        self.store.ledger.reconcile()
        self._resume_reserved()
        settled = sum(self.settle(c) for c in self.store.candidates("running"))
        if self.store.campaign()["state"] == "finished":
            return StepReport(settled=settled, state="finished")
        self.predict()
        learning = self._learn_if_due(self.config.predictor.retrain_every)
        dispatched = self._dispatch()
        idle = not dispatched and not learning and not self.store.candidates(*IN_FLIGHT)
        if idle:
            # Nothing is out and nothing fits: learn from the last few results before giving up.
            learning = bool(self.store.candidates("pending")) and self._learn_if_due(1)
            if not learning:
                self._close()
        return StepReport(False, settled, dispatched, learning, self.store.campaign()["state"])

    def _dispatch(self) -> int:
        room = self.config.max_in_flight - len(self.store.candidates(*IN_FLIGHT))
        available = self.store.ledger.totals().available_cpu_h
        dispatched = 0
        for rank, choice in enumerate(self.rank() if room > 0 else [], start=1):
            if dispatched >= room or not choice.dispatch:
                break
            if choice.reserve_cpu_h <= available and self._reserve(choice, rank):
                available -= choice.reserve_cpu_h
                dispatched += 1
        return dispatched

    def _reserve(self, choice: Choice, rank: int) -> bool:
        """Claim the candidate, set its cost aside, hand it to FireWorks; False if it does not fit the budget."""
        c = choice.candidate
        material_id, attempt = c["material_id"], c["attempts"] + 1
        key = job_key(self.config.campaign, material_id, "rpa", attempt)
        decision = {
            **c["prediction"],
            "policy": self.policy.name,
            "rank": rank,
            "reason": choice.reason,
            "threshold": self.config.policy.threshold,
            "cost_predicted_cpu_h": choice.cost_cpu_h,
            "reserved_cpu_h": choice.reserve_cpu_h,
            "audit_probability": 0.0,
            "key": key,
            "level": "rpa",
            "attempt": attempt,
            "time": now(),
        }
        if not self.store.move(material_id, ["pending"], "reserved", decision=decision, attempts=attempt):
            return False
        about = {"material_id": material_id, "level": "rpa", "attempt": attempt}
        if not self.store.ledger.reserve(key, choice.reserve_cpu_h, **about):
            self.store.move(material_id, ["reserved"], "pending", key=key, attempts=attempt - 1)
            return False
        self._submit(self.store.candidate(material_id))
        return True

    def _submit(self, c: Document) -> None:
        decision = c["decision"]
        job = Job(
            campaign=self.config.campaign,
            key=decision["key"],
            material_id=c["material_id"],
            formula=c["formula"],
            structure=c["structure"],
            level=decision["level"],
            attempt=decision["attempt"],
            engine=self.config.engine.model_dump(),
            cores=self.config.cores_per_job,
            time_limit_s=decision["reserved_cpu_h"] * 3600 / self.config.cores_per_job,
            workdir=str(self.workdir(c)),
        )
        launch = self.dispatcher.submit(job)
        if self.store.move(c["material_id"], ["reserved"], "running", key=decision["key"], fw_id=launch):
            self.store.event(
                "dispatched",
                f"{c['formula']} ({c['material_id']}) to RPA: {decision['reason']}",
                material_id=c["material_id"],
                decision=decision,
                fw_id=launch,
            )

    def _resume_reserved(self) -> None:
        """Finish what a crash interrupted between claiming a candidate and submitting it."""
        for c in self.store.candidates("reserved"):
            if self.store.ledger.reserved(c["decision"]["key"]):
                self._submit(c)
            else:
                self.store.move(
                    c["material_id"], ["reserved"], "pending", key=c["decision"]["key"], attempts=c["attempts"] - 1
                )

    def workdir(self, c: Document) -> Path:
        decision = c["decision"]
        return self.config.folder / "calculations" / c["material_id"] / f"{decision['level']}-{decision['attempt']}"

    def settle(self, c: Document) -> bool:
        """Book what came of a running candidate, if anything has; whether it was booked by this call."""
        if c["status"] not in IN_FLIGHT:
            return False
        outcome = self.dispatcher.outcome(c["decision"]["key"], self.workdir(c))
        return outcome is not None and settling.book(self.store, c, outcome, self.config)

    def learn(self, key: str) -> str | None:
        """Fine-tune on all the campaign's labels; the new model's id, or None if ``key`` is no longer wanted."""
        return learning.learn(self.store, self.shelf, self.engine.settings_hash, key)

    def _learn_if_due(self, every: int) -> bool:
        """Send a fine-tuning job out once ``every`` results have come since the standing model; whether one is out."""
        out = self.store.campaign()["learning"]
        if out is not None and self.dispatcher.learning_is_out(out):
            return True
        if out is not None and self.store.fail_learning(out):
            self.store.event("learning failed", f"fine-tuning {out} ended without a model; the standing one stays")
        key = learning.due(self.store, self.engine.settings_hash, every)
        if key is None or not self.store.begin_learning(key):
            return False
        self.dispatcher.submit_learning(self.config.campaign, key)
        return True

    def _close(self) -> None:
        """Write down why each remaining candidate stays at IPA, and why the campaign ends."""
        available = self.store.ledger.totals().available_cpu_h
        choices = self.rank()
        over = sum(choice.dispatch for choice in choices)
        for choice in (c.over_budget(available) if c.dispatch else c for c in choices):
            c = choice.candidate
            decision = {
                **c["prediction"],
                "policy": self.policy.name,
                "reason": choice.reason,
                "threshold": self.config.policy.threshold,
                "cost_predicted_cpu_h": choice.cost_cpu_h,
                "audit_probability": 0.0,
                "level": "ipa",
                "time": now(),
            }
            self.store.move(c["material_id"], ["pending"], "skipped", decision=decision)
        if over:
            reason = f"budget: {available:.4f} CPU-h left, too little for any of {over} candidates still wanted at RPA"
        else:
            reason = f"pool: the policy '{self.policy.name}' wants no further candidate at RPA"
        self.store.set_state("finished", reason)
        self.store.event("finished", reason)


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def job_key(campaign: str, material_id: str, level: str, attempt: int) -> str:
    """The name of one attempt, the same whoever computes it."""
    return hashlib.sha256("\0".join([campaign, material_id, level, str(attempt)]).encode()).hexdigest()[:24]
