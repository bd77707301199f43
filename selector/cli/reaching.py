"""A campaign whose commands stay while its database goes away and comes back."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

from selector.cli.common import errors
from selector.config import CampaignConfig

if TYPE_CHECKING:
    from selector.campaign import Campaign

T = TypeVar("T")
AT_REST = ("finished", "stopped")
RECONNECT_S = 2.0


def at_rest(campaign: Campaign, state: str) -> bool:
    """Whether a campaign in this state has nothing left to do: finished or stopped, with nothing in flight."""
    from selector.documents import IN_FLIGHT

    return state in AT_REST and not campaign.store.count(*IN_FLIGHT)


class Reached:
    """The campaign of a configuration, opened anew whenever its connection dropped.

    Its database may be away for long, as a MongoDB that is being moved. But an address that does not answer in the
    beginning is taken for a mistake; a local database, which has none, is started again.

    Raises
    ------
    pymongo.errors.AutoReconnect
        The address does not answer.
    """

    def __init__(self, config: CampaignConfig) -> None:
        self._config = config
        self._campaign: Campaign | None = None
        self._lost = False
        if config.database_uri() is None:
            self.insist(lambda _: None)
        else:
            self._campaign = self._open()

    def ask(self, question: Callable[[Campaign], T]) -> T | None:
        """What the campaign answers; None, after a moment, while its database is away."""
        from pymongo.errors import AutoReconnect

        try:
            self._campaign = self._campaign or self._open()
            answer = question(self._campaign)
        except AutoReconnect:
            if not self._lost:
                errors.print("selector: the database does not answer; connecting again until it does")
            self._campaign, self._lost = None, True
            time.sleep(RECONNECT_S)
            return None
        self._lost = False
        return answer

    def insist(self, question: Callable[[Campaign], T]) -> T:
        """What the campaign answers, however long it takes."""
        while (answer := self.ask(lambda campaign: (question(campaign),))) is None:
            pass
        return answer[0]

    def _open(self) -> Campaign:
        from fw_tasks.launch import open_campaign

        return open_campaign(self._config)
