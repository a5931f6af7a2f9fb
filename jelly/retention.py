"""Retention: messages, idempotency keys, tokens, known addresses, reports, codes, invitations and
read pointers are dropped when they are too old.

A sweep does this in slices, each within a transaction of the store thread, so that no message waits
long for it. The time of a message is the sender's, so it says nothing here. But ids carry the time
at which the server stored it.

The store thread calls everything here; what takes a `Dao` runs inside its transaction.
"""

import time
from collections.abc import Callable

from jelly import conversations_dao, invitations, invite_dao, report_dao
from jelly.conversations_dao import ConversationKey
from jelly.dao import Dao

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
SWEEP_PAUSE = 0.02
"""Seconds between two slices."""
SWEEP_PAUSE_OF_OTHERS = 60.0
"""Seconds until a server that does not sweep looks whether it should."""
RETRY_DELAY = 1.0
"""Seconds until a sweep begins again after a transaction failed."""
DAY = 86400.0
FIRST_POINTER = ConversationKey("", False, "")
FIRST_INVITATION = ("", "")


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
        # Of the sweep under way: how far it has come, and below which ids everything is too old.
        self._is_sweeping = False
        self._swept_id, self._swept_token, self._swept_pointer = 0, "", FIRST_POINTER
        self._swept_invitation = FIRST_INVITATION
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
        if self.is_active:
            self._sweep(dao)
        else:
            self._is_sweeping = False
            self.due_at = self._clock() + SWEEP_PAUSE_OF_OTHERS

    def _sweep(self, dao: Dao) -> None:
        if not self._is_sweeping:
            self._begin(dao)
        message = dao.remove_old_messages(self._swept_id, self._history_end, SWEEP_BATCH)
        has_requests = dao.remove_old_requests(self._requests_end, SWEEP_BATCH)
        token = dao.remove_old_tokens(self._swept_token, int(self._wall() * 1000), SWEEP_BATCH)
        has_addresses = dao.remove_old_addresses(int((self._wall() - ADDRESS_DAYS * DAY) * 1000), SWEEP_BATCH)
        has_reports = report_dao.remove_old(dao, int((self._wall() - REPORT_DAYS * DAY) * 1000), SWEEP_BATCH)
        pointer = conversations_dao.remove_old_pointers(dao, self._swept_pointer, self._history_end, SWEEP_BATCH)
        invitation = invitations.remove_old(
            dao, self._swept_invitation, int((self._wall() - INVITATION_DAYS * DAY) * 1000), SWEEP_BATCH
        )
        last = message, token, pointer, invitation
        has_invites = invite_dao.remove_old(dao, int(self._wall() * 1000), SWEEP_BATCH)
        has_others = has_addresses or has_reports or has_invites
        if any(each is not None for each in last) or has_requests or has_others:
            self._swept_pointer = pointer or self._swept_pointer
            self._swept_invitation = invitation or self._swept_invitation
            self._swept_id = self._swept_id if message is None else message
            self._swept_token = token or self._swept_token
            self.due_at = self._clock() + SWEEP_PAUSE
        else:
            self._is_sweeping = False
            self.due_at = self._clock() + self._interval

    def _begin(self, dao: Dao) -> None:
        now = self._wall()
        self._is_sweeping = True
        self._swept_id, self._swept_token, self._swept_pointer = 0, "", FIRST_POINTER
        self._swept_invitation = FIRST_INVITATION
        self._requests_end = dao.id_at(now - IDEMPOTENCY_DAYS * DAY)
        self._history_end = dao.indexed_id() + 1  # what is not indexed stays
        if self.keeps_history:
            old = dao.id_at(now - self._days * DAY)
            self._history_end = min(old, self._history_end)
