"""What a person may change of a campaign while it goes on; each change is an event."""

from __future__ import annotations

from datetime import datetime

from selector.config import CHANGEABLE, CampaignConfig
from selector.errors import UsageError
from selector.store import Store


class Steering:
    """The part of a campaign that obeys by hand."""

    store: Store
    config: CampaignConfig

    def stop(self, why: str = "stopped by hand") -> None:
        """Dispatch nothing more until `resume`; what is in flight comes home and is booked.

        Raises
        ------
        UsageError
            The campaign is stopped or finished already.
        """
        for state in ("running", "auditing"):
            reason = self.store.campaign()["stop_reason"]
            if self.store.set_state("stopped", why, [state], stopped_from=state, closed_for=reason):
                self.store.event("stopped", why)
                return
        raise UsageError(f"campaign '{self.store.name}' is {self._state()} already; there is nothing to stop")

    def resume(self) -> None:
        """Go on with a stopped campaign where it was, or with a finished one with all that was left at IPA.

        Raises
        ------
        UsageError
            The campaign is going on.
        """
        state = self._state()
        if state not in ("stopped", "finished"):
            raise UsageError(f"campaign '{self.store.name}' is {state}; only a stopped or finished one is resumed")
        campaign = self.store.campaign()
        after = campaign.get("stopped_from", "running") if state == "stopped" else "running"
        if state == "finished":
            self.store.reopen()
        reason = campaign.get("closed_for") if after == "auditing" else None
        if self.store.set_state(after, reason, [state]):
            self.store.event("resumed", f"{after} again")

    def add_budget(self, cpu_h: float) -> None:
        """Enlarge the budget, the audit's share of it too; `SelectorError` if ``cpu_h`` is no positive number."""
        self.store.ledger.add_budget(cpu_h)
        self.store.event("budget", f"{cpu_h:g} CPU-h added; {self.store.ledger.totals().budget_cpu_h:g} in all")

    def set_deadline(self, deadline: datetime | None) -> None:
        """Dispatch nothing after this time; None: no deadline. `UsageError` if its time zone is not said."""
        if deadline is not None and deadline.tzinfo is None:
            raise UsageError(f"deadline {deadline}: name its time zone, such as {deadline}+00:00")
        self.store.set_config(deadline=deadline.isoformat() if deadline else None)
        self.config = self.config.model_copy(update={"deadline": deadline})
        self.store.event("changed", f"deadline: {deadline.isoformat() if deadline else 'none'}")

    def set_max_in_flight(self, n: int) -> None:
        """Keep so many calculations going; `UsageError` if that is none."""
        if n < 1:
            raise UsageError(f"max_in_flight {n}: give 1 or more; `selector stop` stops a campaign")
        self.store.set_config(max_in_flight=n)
        self.config = self.config.model_copy(update={"max_in_flight": n})
        self.store.event("changed", f"max_in_flight: {n}")

    def follow(self, given: CampaignConfig) -> None:
        """Take over what was changed in the campaign's file, of that which may change, since it was read last."""
        said = {key: given.public()[key] for key in CHANGEABLE}
        campaign = self.store.campaign()
        before = campaign.get("given", {key: campaign["config"].get(key) for key in CHANGEABLE})
        if said == before:
            return
        if said["deadline"] != before["deadline"]:
            self.set_deadline(given.deadline)
        if said["max_in_flight"] != before["max_in_flight"]:
            self.set_max_in_flight(given.max_in_flight)
        if said["lost_after_h"] != (before.get("lost_after_h") or self.config.lost_after_h):
            self.store.set_config(lost_after_h=given.lost_after_h)
            self.store.event("changed", f"lost_after_h: {given.lost_after_h:g}")
        self.store.note_given(said)

    def pin(self, material_id: str, on: bool = True) -> None:
        """Dispatch this pending material before all others (or no longer); that lifts a veto.

        Raises
        ------
        UsageError, SelectorError
            The material is not pending, or not in the campaign.
        """
        self._mark(material_id, "pinned" if on else "unpinned", pinned=on, vetoed=False)

    def veto(self, material_id: str, on: bool = True) -> None:
        """Never dispatch this pending material (or no longer refuse to); that lifts a pin. Raises as `pin`."""
        self._mark(material_id, "vetoed" if on else "veto lifted", vetoed=on, pinned=False)

    def _mark(self, material_id: str, word: str, **fields: bool) -> None:
        c = self.store.candidate(material_id)
        if not self.store.mark(material_id, ["pending"], **fields):
            raise UsageError(
                f"material '{material_id}' is {c['status']}, not pending; only what is undecided can change"
            )
        self.store.event(word, f"{c['formula']} ({material_id}): {word} by hand", material_id=material_id)

    def _state(self) -> str:
        state: str = self.store.campaign()["state"]
        return state
