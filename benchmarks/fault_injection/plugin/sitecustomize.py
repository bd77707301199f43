"""Sleep by `select` where libfaketime is loaded: it spoils the `clock_nanosleep` that `time.sleep` is made of.

libfaketime 0.9.10 takes the monotonic deadline of the call for a time of the clock that it shifts: EINVAL, or hours.
"""

import os
import select
import time

if "libfaketime" in os.environ.get("LD_PRELOAD", ""):

    def _sleep(seconds: float) -> None:
        select.select([], [], [], seconds)

    time.sleep = _sleep
