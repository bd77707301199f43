"""Looks: bounds on what is left at IPA that may stop a campaign before its budget is spent.

Where ``stop.bound`` is set and the model expects to have reached it, the set S of all that has no result yet is marked,
and members drawn at random from it go before everything else; the policy goes on beside them. Once they are back, the
bound of `selector.audit` holds for S, with the error of the k-th look, ``0.05 / (k (k + 1))``. What is left of S since,
fewer by what was found below the threshold, is bounded with it: that may end the campaign. What joins the pool
after a look is no part of S, so that a look says nothing of it, and another is needed.
"""

from __future__ import annotations

from dataclasses import dataclass

from selector import audit
from selector.audit_pot import affordable_draws
from selector.choosing import Pending
from selector.closing import outcome_of, stated
from selector.config import CampaignConfig
from selector.documents import IN_FLIGHT, Document, now
from selector.store import Store

EXPECTED = 0.5
"""A look is worth its cost once the model expects at most this share of the bound."""


@dataclass(frozen=True)
class Look:
    """A look whose draws are not all back.

    Attributes
    ----------
    number : k, from 1
    mark : what its members bear
    n_members : N, size of S
    drawn : material_ids, drawn from S
    """

    number: int
    mark: str
    n_members: int
    drawn: list[str]

    @property
    def probability(self) -> float:
        """With which each member was drawn."""
        return len(self.drawn) / self.n_members

    @property
    def reason(self) -> str:
        return f"drawn for look {self.number}: {len(self.drawn)} of the {self.n_members} materials without a result"


def standing(store: Store) -> Look | None:
    """The look whose bound is not known yet."""
    looks = store.campaign().get("looks") or [{"bound": True}]
    if looks[-1]["bound"] is not None:
        return None
    return Look(len(looks), *(looks[-1][k] for k in ("mark", "n_members", "drawn")))


def begin(store: Store, pending: Pending, config: CampaignConfig, available_cpu_h: float) -> None:
    """Draw a look if one is due: none stands, it can be paid, and the model expects it to reach the target."""
    target, campaign = config.stop.bound, store.campaign()
    if target is None or not len(pending.pool) or standing(store) is not None:
        return
    expected = float(pending.pool.p_low.mean())
    looks = campaign.get("looks", [])
    if expected > EXPECTED * target or not _is_time(store, looks, campaign["settings_hash"]):
        return
    k, n_all = len(looks) + 1, len(pending.pool) + store.count(*IN_FLIGHT)
    alpha = audit.alpha_of_look(k)
    first = audit.audit_size(n_all, target, alpha) or 0
    n = _size(n_all, target, alpha, round(first * expected), config.max_in_flight)
    if n is None or n > affordable_draws(pending.reserve_cpu_h, available_cpu_h):
        return
    mark = now()
    members = store.mark_look(mark)
    drawn = audit.draw(members, min(n, len(members)), config.seed, k)
    look = {
        "mark": mark,
        "n_members": len(members),
        "drawn": drawn,
        "n_labels": store.n_labels(campaign["settings_hash"]),
        "threshold": config.policy.threshold,
        "model_id": campaign["model_id"],
        "bound": None,
    }
    if members and store.add_look(look):
        store.event("look", f"look {k}: {len(drawn)} of the {len(members)} materials without a result are drawn")


def conclude(store: Store, pending: Pending, config: CampaignConfig, available_cpu_h: float) -> None:
    """State the bound of the standing look once its draws are back; what can't be paid or run counts as below."""
    look = standing(store)
    if look is None:
        return
    payable = {
        m for m, cpu_h in zip(pending.pool.material_id.tolist(), pending.reserve_cpu_h, strict=True)
        if cpu_h <= available_cpu_h
    }  # fmt: skip
    if any(c["status"] in IN_FLIGHT or c["material_id"] in payable for c in store.some(look.drawn)):
        return
    threshold = config.policy.threshold
    outcome = outcome_of(store, look.drawn, threshold)
    said = stated(audit.audit_bound(look.n_members, outcome, look=look.number), threshold)
    if store.end_look(look.mark, said):
        store.event("look", said["sentence"])


def reached(store: Store, config: CampaignConfig) -> str | None:
    """The reason to stop that the last look gives, if it does."""
    looks = store.campaign().get("looks", [])
    if config.stop.bound is None or not looks or looks[-1]["bound"] is None:
        return None
    look, threshold = looks[-1], config.policy.threshold
    n_left, n_found, n_others = store.count_look(look["mark"], threshold)
    n_low = min(n_left, max(0, look["bound"]["n_low"] - n_found))
    if n_others or not n_left or n_low > config.stop.bound * n_left:
        return None
    return (
        f"bound: at most {n_low} of the {n_left} materials without a result have SC below {threshold:g} "
        f"(look {len(looks)}, 95 % over all looks)"
    )


def _size(n_all: int, target: float, alpha: float, hits: int, beside: int) -> int | None:
    """The smallest draw that, with so many hits, reaches the target for what is left of S without the members drawn.

    ``beside`` more are dispatched meanwhile. None: no draw is enough.
    """
    n = audit.audit_size(n_all, target, alpha, hits)
    while n is not None and audit.upper_bound(n_all, n, hits, alpha) - hits > target * (n_all - n - beside):
        n = n + 1 if n < n_all - beside else None
    return n


def _is_time(store: Store, looks: list[Document], settings_hash: str) -> bool:
    """Whether as many results have come since the last look began as it drew, and as many again."""
    since = store.n_labels(settings_hash) - (looks[-1]["n_labels"] if looks else 0)
    return not looks or since >= 2 * len(looks[-1]["drawn"])
