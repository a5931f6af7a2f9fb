"""The log of an outage: while the database is away, thousands of requests a second may fail."""

import logging
import threading
import time
from collections.abc import Callable

log = logging.getLogger("jelly.database")

LINE_INTERVAL = 60.0
"""Seconds from one line about an outage to the next one."""
QUIET_SECONDS = 10.0
"""Seconds without a failure after which the next failure begins a new outage."""
RECOVERY_SECONDS = 1.0
"""Seconds without a failure after which the database works again: it may fail for some threads
only.
"""
MAX_REASONS = 4
"""At most this many different reasons of one outage are told as soon as they come."""
NEVER_YET = float("-inf")


class OutageLog:
    """Logs a line when the database begins to fail, one a minute meanwhile, one when it works
    again; and one when it fails for another reason than before.

    Any thread may call any method.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()  # guards everything below
        self._next_line_at = NEVER_YET
        self._failed_at = NEVER_YET
        self._failures = 0  # since the last line
        self._reasons: set[str] = set()  # that were told of this outage
        self.is_open = False
        """Whether a line said that the database failed, and none said since then that it works
        again.
        """

    def failed(self, error: Exception) -> None:
        """Note a failure of the database."""
        with self._lock:
            now = self._clock()
            is_new = now > self._failed_at + QUIET_SECONDS
            if is_new:
                self._reasons.clear()
            is_other = len(self._reasons) < MAX_REASONS and str(error) not in self._reasons
            self._failed_at = now
            self._failures += 1
            if now < self._next_line_at and not is_new and not is_other:
                return
            self._reasons.add(str(error))
            failures, self._failures = self._failures, 0
            self._next_line_at = now + LINE_INTERVAL
            self.is_open = True
        since = f" ({failures:,} failures since the last line)" if failures > 1 else ""
        log.error("the database failed: %s%s", error, since)

    def worked(self) -> None:
        """Note that a transaction was committed. An outage is over if nothing has failed lately."""
        with self._lock:
            now = self._clock()
            if not self.is_open or now < self._failed_at + RECOVERY_SECONDS:
                return
            self.is_open = False
            # The next failure is not told at once: a database that fails now and then would fill
            # the log.
            self._next_line_at = min(self._next_line_at, now + QUIET_SECONDS)
        log.info("the database works again")
