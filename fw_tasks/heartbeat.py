"""The heartbeat of a rocket: a word to the LaunchPad every few minutes that it is still at it.

FireWorks' own comes once an hour, ends for good when the database is away at that moment, and keeps a process that is
told to leave from leaving.
"""

from __future__ import annotations

import logging
import threading
from functools import partial

from fireworks import LaunchPad
from fireworks.core import rocket
from pymongo.errors import PyMongoError

HEARTBEAT_S = 300.0
BEATS = 4
"""So many heartbeats at least fit into the time after which a run counts as lost."""
log = logging.getLogger(__name__)


def beat(lost_after_s: float) -> float:
    """Let the rockets of this process have this heartbeat, of so many seconds (returned): well within the limit."""
    every_s = min(HEARTBEAT_S, lost_after_s / BEATS)
    rocket.start_ping_launch = partial(_start, every_s=every_s)
    return every_s


def _start(launchpad: LaunchPad, launch_id: int, every_s: float) -> threading.Event:
    """What FireWorks calls as a rocket takes off; it sets the event when the rocket has landed."""
    landed = threading.Event()
    pilot = threading.current_thread()

    def ping() -> None:
        while not landed.wait(every_s) and pilot.is_alive():
            try:
                rocket.do_ping(launchpad, launch_id)
            except (PyMongoError, OSError, ValueError) as e:
                log.warning("launch %s: no heartbeat this time (%s)", launch_id, type(e).__name__)

    threading.Thread(target=ping, daemon=True).start()
    return landed
