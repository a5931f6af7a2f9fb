"""The time of day, and how far it is believed: a machine's clock may be wrong.

Two things depend on it, and neither can be undone. Ids of messages carry the time, and only grow:
after one that lies in the future all later ones do. And what is too old is deleted.

So the table meta remembers the last time that was certain. From there on the monotonic clock tells
how much time has passed at least. Ids are no evidence: a start with a wrong clock gives some, too.

The clock is trusted when it has gone like the monotonic one for an hour, and is at most a day ahead
of what is certain, and one more day for each day that the server has run since the clock was
trusted last. So a server that was off for three weeks trusts its clock after three weeks at most.
"""

import logging
import threading
import time
from collections.abc import Callable
from typing import NamedTuple

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
NOTE_INTERVAL = 600.0
"""Seconds from one time that the database remembers to the next."""
WARNING_INTERVAL = 3600.0
"""Seconds from one warning to the next."""


def stored_at(id: int) -> int | None:
    """When a message was stored: milliseconds since 1970, by the server's clock. None for an id of
    the time when ids did not carry it.
    """
    return id // IDS_PER_MS if id >= FIRST_DATED else None


class Times(NamedTuple):
    """What the table meta remembers of the clock, in milliseconds since 1970; 0: nothing."""

    certain_time: int = 0
    """This time is over."""
    trusted_time: int = 0
    """The certain time when the clock was trusted last, or when it jumped after that."""


UNKNOWN = Times()


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
        self._wall = wall or time.time
        self._monotonic = monotonic or time.monotonic
        self._is_trusted = is_trusted
        self._lock = threading.Lock()  # guards everything below
        now = self._monotonic()
        self._agrees = is_trusted
        self._agrees_since = now
        self._offset = self._wall() - now
        self._has_jumped = False  # far ahead, less than an hour ago
        self._certain, self._certain_at = 0.0, now  # this time was over at that moment of the monotonic clock
        self._is_proven = is_trusted  # whether other starts may rely on it
        self._trusted = 0.0  # see Times.trusted_time
        self._newest, self._newest_at = 0.0, now  # the time of the newest id at the start
        self._noted_at = -NOTE_INTERVAL
        self._warned_at = -WARNING_INTERVAL

    def start(self, newest_id: int, times: Times = UNKNOWN) -> None:
        """Take note of what the database remembers. A newest id of 1 means that it is new."""
        with self._lock:
            now = self._monotonic()
            if newest_id <= 1:  # there is nothing that a wrong clock could make old
                self._agrees = True
                self._certain, self._certain_at = self._wall(), now
                self._trusted = self._certain
                return
            if newest_id >= FIRST_DATED:
                self._newest, self._newest_at = newest_id / IDS_PER_MS / MS, now
            if times.certain_time:
                self._certain, self._certain_at = times.certain_time / MS, now
                self._trusted = times.trusted_time / MS
                self._is_proven = True
            known = self._certain or self._newest
            ahead = self._wall() - known
            if known and ahead > DAY and not self._is_trusted:
                log.warning(
                    "the clock is %.1f days ahead of the last use of the database: if it is wrong, set it right; "
                    "if it is right, nothing is wrong, but what is old stays up to %.1f days longer, unless you start "
                    "the server once with --trust-clock yes",
                    ahead / DAY,
                    ahead / DAY,
                )

    def id_now(self, next_id: int) -> tuple[int, bool]:
        """The id that carries the time, for a database that goes on at `next_id`; and whether ids
        up to it may be taken for times. They may not while they are counted.
        """
        with self._lock:
            wall, certain = self._look()
            wall_id, certain_id = int(wall * MS) * IDS_PER_MS, int(certain * MS) * IDS_PER_MS
            leap = wall_id - next_id
            is_far = next_id >= FIRST_DATED and leap > (DAY if self._has_jumped else LONGEST_LEAP) * MS * IDS_PER_MS
            if wall_id < MAX_ID and (self._is_trusted or not is_far):
                is_behind = next_id >= FIRST_DATED and leap < -DAY * MS * IDS_PER_MS
                return max(wall_id, certain_id), not is_behind
            if self._monotonic() >= self._warned_at + WARNING_INTERVAL:
                self._warned_at = self._monotonic()
                if leap > LONGEST_LEAP * MS * IDS_PER_MS:
                    what = "is more than a year ahead of the newest message, and is not believed"
                else:
                    what = "has jumped more than a day ahead, and is not believed for an hour"
                log.warning("the clock %s: set it right; if it is right, start the server with --trust-clock yes", what)
            return certain_id if certain_id < MAX_ID else 0, False

    def now(self) -> float:
        """The time by which things expire, in seconds since 1970: the clock's, or an earlier one
        that is certain.
        """
        with self._lock:
            wall, certain = self._look()
            return wall if self._agrees else min(wall, certain)

    def latest(self) -> float:
        """The time to note for what expires later, in seconds since 1970: the clock's, or a later
        one that is certain. So a clock that is behind makes nothing expire when it is set right.
        """
        with self._lock:
            return max(self._look())

    def times_to_note(self) -> Times | None:
        """What the database should remember from now on; None while it remembers enough."""
        now = self._monotonic()
        if now < self._noted_at + NOTE_INTERVAL:  # without the lock: a wrong guess is one transaction late
            return None
        with self._lock:
            _, certain = self._look()
            if not self._is_proven:
                return None
            self._noted_at = now
            return Times(int(certain * MS), int(self._trusted * MS))

    def _look(self) -> tuple[float, float]:
        """Compare the clocks. Returns the time of day, and the time that is certain (0: none)."""
        wall, now = self._wall(), self._monotonic()
        certain = self._certain + now - self._certain_at if self._certain else 0.0
        jump = wall - now - self._offset
        if abs(jump) > TOLERANCE:
            self._offset, self._agrees_since = wall - now, now
            self._agrees = self._is_trusted
            if not self._is_proven and wall < certain:
                self._certain, self._certain_at = wall, now
                certain = wall
            if abs(jump) > DAY:
                self._has_jumped = jump > 0
                self._trusted = certain  # from here on the new time has to prove itself
                self._noted_at = -NOTE_INTERVAL
        if now >= self._agrees_since + AGREEMENT:
            self._has_jumped = False
            self._agrees = self._agrees or self._is_near(wall, now, certain)
            self._is_proven = self._is_proven or self._agrees
        if self._agrees:
            self._certain, self._certain_at = wall, now
            self._trusted = certain = wall
        return wall, certain

    def _is_near(self, wall: float, now: float, certain: float) -> bool:
        """Whether the clock is near what is known. An earlier time makes nothing expire too soon,
        but a clock that begins in 1970 says nothing.
        """
        if certain:
            return -LONGEST_LEAP <= wall - certain <= DAY + certain - self._trusted
        since = now - self._newest_at  # as with the certain time: as much may it be ahead
        return not self._newest or -LONGEST_LEAP <= wall - (self._newest + since) <= DAY + since
