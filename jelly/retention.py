"""Retention: messages, idempotency keys, tokens, known addresses, reports, codes, invitations and
read pointers are dropped when they are too old.

A sweep does this in slices, each within a transaction of the store thread, so that no message waits
long for it. The time of a message is the sender's, so it says nothing here. But ids carry the time
at which the server stored it.

The store thread calls everything here; what takes a `Dao` runs inside its transaction.
"""

import time
from collections.abc import Callable
from typing import NamedTuple, Protocol

from jelly import conversations_dao, invitations, invite_dao, report_dao
from jelly.conversations_dao import ConversationKey
from jelly.dao import Dao
from jelly.tokens import Renewals

IDEMPOTENCY_DAYS = 7.0
"""Days for which a requestId is remembered. A client that repeats a message comes back with a
token, and a token is valid for as long."""
ADDRESS_DAYS = 90.0
"""Days for which it is remembered that a user has logged in from an address."""
REPORT_DAYS = 90.0
"""Days for which the operator can read a report."""
INVITATION_DAYS = 90.0
"""Days for which an invitation to a group waits for an answer."""
SWEEP_INTERVAL = 3600.0
"""Seconds from the end of a sweep until the next one."""
SWEEP_BATCH = 500
"""At most this many rows of each kind are looked at in one slice."""
SWEEP_USERS = 20
"""At most the devices of this many users are looked at in one slice."""
SWEEP_PAUSE = 0.02
"""Seconds between two slices."""
SWEEP_PAUSE_OF_OTHERS = 60.0
"""Seconds until a server that does not sweep looks whether it should."""
RETRY_DELAY = 1.0
"""Seconds until a sweep begins again after a transaction failed."""
DAY = 86400.0


class Swept(NamedTuple):
    """How far a sweep has come: the last of each kind that was looked at."""

    message: int = 0
    token: str = ""
    pointer: ConversationKey = ConversationKey("", False, "")
    invitation: tuple[str, str] = ("", "")
    user: str = ""
    """Of the devices."""


class Sweepable(Protocol):
    """What is swept, too (`devices.py`)."""

    def sweep(self, dao: Dao, after: str, now: int, limit: int) -> str | None:
        """Look at what the next `limit` users have; return the last one, None if there is none."""


class Retention:
    """Drops what is too old, one slice each time it is due."""

    def __init__(
        self, history_days: float, clock: Callable[[], float] = time.monotonic, wall: Callable[[], float] = time.time
    ) -> None:
        """`history_days`: how long messages can be read back; 0 keeps none after delivery. `wall`
        is the time by which things expire, in seconds since 1970 (`TrustedClock.now`).
        """
        self._days = history_days
        self._clock, self._wall = clock, wall
        self._interval = min(SWEEP_INTERVAL, max(1.0, history_days * DAY / 24)) if history_days else SWEEP_INTERVAL
        self.due_at = clock()
        """When the next slice is due, by the clock."""
        self.is_active = True
        """Whether this server sweeps. Of several nodes, one does."""
        self.devices: Sweepable | None = None
        """Set before the store starts, as the next one."""
        self.renewals: Renewals | None = None
        """The tokens of the sessions here, which are renewed instead."""
        # Of the sweep under way: how far it has come, and below which ids everything is too old.
        self._is_sweeping = False
        self._swept = Swept()
        self._history_end = self._requests_end = 0

    @property
    def keeps_history(self) -> bool:
        """Whether a message stays when all receivers have it."""
        return self._days > 0

    def on_failure(self) -> None:
        """A transaction has failed: begin the sweep again."""
        self._is_sweeping = False
        self.due_at = self._clock() + RETRY_DELAY

    def run_due(self, dao: Dao) -> None:
        """Drop the next slice, if it is due."""
        if self._clock() < self.due_at:
            return
        others_wait = self.renewals is not None and self.renewals.run(dao)
        if self.is_active:
            self._sweep(dao)
        else:
            self._is_sweeping = False
            self.due_at = self._clock() + SWEEP_PAUSE_OF_OTHERS
        if others_wait:
            self.due_at = min(self.due_at, self._clock() + SWEEP_PAUSE)
        elif self.renewals is not None:
            self.due_at = min(self.due_at, self._clock() + self.renewals.pause)

    def _sweep(self, dao: Dao) -> None:
        if not self._is_sweeping:
            self._begin(dao)
        swept, now = self._swept, self._wall()
        last = (
            dao.remove_old_messages(swept.message, self._history_end, SWEEP_BATCH),
            dao.remove_old_tokens(swept.token, _ms(now), SWEEP_BATCH),
            conversations_dao.remove_old_pointers(dao, swept.pointer, self._history_end, SWEEP_BATCH),
            invitations.remove_old(dao, swept.invitation, _ms(now - INVITATION_DAYS * DAY), SWEEP_BATCH),
            self.devices.sweep(dao, swept.user, _ms(now), SWEEP_USERS) if self.devices else None,
        )
        has_more = (
            dao.remove_old_requests(self._requests_end, SWEEP_BATCH),
            dao.remove_old_addresses(_ms(now - ADDRESS_DAYS * DAY), SWEEP_BATCH),
            report_dao.remove_old(dao, _ms(now - REPORT_DAYS * DAY), SWEEP_BATCH),
            invite_dao.remove_old(dao, _ms(now), SWEEP_BATCH),
        )
        if any(has_more) or any(each is not None for each in last):
            self._swept = Swept._make(old if new is None else new for new, old in zip(last, swept, strict=True))
            self.due_at = self._clock() + SWEEP_PAUSE
        else:
            self._is_sweeping = False
            self.due_at = self._clock() + self._interval

    def _begin(self, dao: Dao) -> None:
        now = self._wall()
        self._is_sweeping = True
        self._swept = Swept()
        self._requests_end = dao.id_at(now - IDEMPOTENCY_DAYS * DAY)
        self._history_end = dao.indexed_id() + 1  # what is not indexed stays
        if self.keeps_history:
            old = dao.id_at(now - self._days * DAY)
            self._history_end = min(old, self._history_end)


def _ms(seconds: float) -> int:
    return int(seconds * 1000)
