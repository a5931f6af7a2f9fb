"""The time of day, and how far it is believed: a machine's clock may be wrong.

Two things depend on it, and neither can be undone. Ids of messages carry the time, and only grow:
after one that lies in the future all later ones do. And what is too old is deleted.

What is known for certain is the newest id in the database at the start: it was given in the past.
From there on the monotonic clock tells how much time has passed at least.
"""

import logging
import threading
import time
from collections.abc import Callable

log = logging.getLogger("jelly.clock")

IDS_PER_MS = 1024
"""How many ids there are for a millisecond. So id // IDS_PER_MS is when a message was stored, in
milliseconds since 1970."""
FIRST_DATED = 2**50
"""Ids from this one on carry the time (it stands for 2004). Smaller ones were counted from 1."""
MAX_ID = 2**53
"""All ids are smaller: the largest number that a double tells from its neighbours (2248)."""
MS = 1000
DAY = 86400.0
LONGEST_LEAP = 366 * DAY
"""Seconds that the clock may be ahead of the newest id. If it is more, new ids do not follow it."""
AGREEMENT = 3600.0
"""Seconds for which the clock must agree with the monotonic one until things expire by it."""
TOLERANCE = 5.0
"""Seconds by which the two may differ meanwhile."""
WARNING_INTERVAL = 3600.0
"""Seconds from one warning to the next."""


class TrustedClock:
    """The time for ids, and the time for what expires. Any thread may call any method."""

    def __init__(
        self,
        is_trusted: bool = False,
        wall: Callable[[], float] | None = None,
        monotonic: Callable[[], float] | None = None,
    ) -> None:
        """`is_trusted`: the operator says that the clock is right, whatever it says. `wall` and
        `monotonic` are the machine's clocks, in seconds.
        """
        self.wall = wall or time.time
        self._monotonic = monotonic or time.monotonic
        self._is_trusted = is_trusted
        self._lock = threading.Lock()  # guards everything below
        now = self._monotonic()
        self._agrees = is_trusted
        self._agrees_since = now
        self._offset = self.wall() - now
        self._certain, self._certain_at = 0.0, now  # this time was over at that moment of the monotonic clock
        self._warned_at = -WARNING_INTERVAL

    def start(self, newest_id: int) -> None:
        """Take note of the newest id in the database; 1 means that the database is new."""
        with self._lock:
            if newest_id <= 1:  # there is nothing that a wrong clock could make old
                self._agrees = True
                self._certain, self._certain_at = self.wall(), self._monotonic()
            if newest_id < FIRST_DATED:
                return
            self._certain, self._certain_at = newest_id / IDS_PER_MS / MS, self._monotonic()
            ahead = self.wall() - self._certain
            if ahead > DAY and not self._is_trusted:
                log.warning(
                    "the clock is %.1f days ahead of the last use of the database: if it is wrong, set it right; "
                    "if it is right, nothing is wrong, but what is old stays %.1f days longer, unless you start "
                    "the server with --trust-clock yes",
                    ahead / DAY,
                    ahead / DAY,
                )

    def believes(self, now_id: int, leap: int) -> bool:
        """Whether ids may leap to the one that carries the time of the clock."""
        with self._lock:
            is_far = now_id - leap >= FIRST_DATED and leap > LONGEST_LEAP * MS * IDS_PER_MS
            if now_id < MAX_ID and (self._is_trusted or not is_far):
                return True
            if self._monotonic() >= self._warned_at + WARNING_INTERVAL:
                self._warned_at = self._monotonic()
                log.warning(
                    "the clock is more than a year ahead of the newest message, and is not believed: set it right; "
                    "if it is right, start the server with --trust-clock yes"
                )
            return False

    def now(self) -> float:
        """The time by which things expire, in seconds since 1970: the clock's, or an earlier one
        that is certain.
        """
        with self._lock:
            wall, monotonic = self.wall(), self._monotonic()
            if abs(wall - monotonic - self._offset) > TOLERANCE:
                self._offset, self._agrees_since = wall - monotonic, monotonic
                self._agrees = False
            certain = self._certain + monotonic - self._certain_at
            if not self._agrees and monotonic >= self._agrees_since + AGREEMENT:
                self._agrees = not self._certain or abs(wall - certain) <= DAY
            if self._is_trusted:
                return wall
            if not self._agrees:
                return min(wall, certain) if self._certain else 0.0
            self._certain, self._certain_at = wall, monotonic
            return wall
