"""The tokens that the database holds: how long they are valid, and how many a user has.

A token is made in `passwords.py`. When one is issued or revoked, the services decide.

A token that is used is renewed: when its user comes back with it, and while its session lives, at
most once a day. But a token that was stolen must end some time: so only for so many days after the
password was given.
"""

import math
import time
from collections import deque
from collections.abc import Callable, Iterable
from typing import Protocol

from jelly import account_dao
from jelly.dao import Dao
from jelly.sessions import Device
from jelly.trusted_clock import TrustedClock

RENEWAL_INTERVAL = 86_400.0
"""Seconds until a token is renewed again; a seventh of the time for which it is valid, if that is
less."""
ROUND_PAUSE = 3600.0
"""Seconds from one look at all sessions to the next; fewer if tokens are valid for less."""
MOST_AT_ONCE = 200
"""At most this many tokens are renewed in one transaction."""
MAX_TOKENS = 32
"""At most this many tokens of one user are valid; a new one replaces the oldest."""


class Tokens:
    """Valid tokens, by their hashes."""

    def __init__(self, seconds: float, clock: TrustedClock, most_seconds: float = 0.0) -> None:
        """A token expires `seconds` after it was stored or renewed, by the time of `clock`, and at
        most `most_seconds` after the password was given.
        """
        self._seconds, self._most_seconds = seconds, most_seconds
        self._clock = clock
        self.interval = min(RENEWAL_INTERVAL, seconds / 7)
        """Seconds until a token is renewed again."""

    def store(self, dao: Dao, token_hash: str, device: Device, network: str) -> None:
        """Make a token valid for a user on a device, who logs in from a network. Call it within a
        transaction.
        """
        now = self._clock.latest()
        expires, created = _ms(now + self._seconds), _ms(now)
        dao.add_token(token_hash, device.user, expires, self._expiry_now(), MAX_TOKENS, created, network, device.name)

    def renew(self, dao: Dao, token_hashes: Iterable[str]) -> None:
        """Let valid tokens expire later, except those that were just renewed. Call it within a
        transaction.
        """
        expires = _ms(self._clock.latest() + self._seconds)
        for token_hash in token_hashes:
            account_dao.renew_token(
                dao, token_hash, self._expiry_now(), expires, _ms(self._most_seconds), _ms(self.interval)
            )

    def owner(self, dao: Dao, token_hash: str) -> Device | None:
        """Return the user whom a token logs in, and on which device; None if it is not valid, or no
        longer.
        """
        owner = dao.token_owner(token_hash, self._expiry_now())
        return None if owner is None else Device(*owner)

    def _expiry_now(self) -> int:
        return _ms(self._clock.now())


class WithToken(Protocol):
    """A session, as far as its token is concerned."""

    token_hash: str
    """Empty until somebody has logged in."""


class Renewals:
    """Renews the tokens of the sessions that live, a few in each transaction.

    Only turns of the store call it, and the services set it up before that.
    """

    def __init__(
        self, tokens: Tokens, sessions: Iterable[WithToken], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._tokens, self._sessions, self._clock = tokens, sessions, clock
        self._renewed_at: dict[str, float] = {}  # by the clock: of the tokens of sessions that lived a round ago
        self._due: deque[str] = deque()
        self._round_at = -math.inf
        self.pause = min(ROUND_PAUSE, tokens.interval)
        """Seconds from one look at all sessions to the next."""

    def run(self, dao: Dao) -> bool:
        """Renew some tokens, if it is time. Return whether others wait."""
        now = self._clock()
        if not self._due and now >= self._round_at:
            self._begin_round(now)
        slice = [self._due.popleft() for _ in range(min(len(self._due), MOST_AT_ONCE))]
        self._tokens.renew(dao, slice)  # if the transaction fails: the next time, which is soon enough
        return bool(self._due)

    def _begin_round(self, now: float) -> None:
        """Find the tokens to renew. Those that are seen first are new, or were renewed just now."""
        before, self._renewed_at = self._renewed_at, {}
        for token_hash in [session.token_hash for session in self._sessions if session.token_hash]:
            renewed_at = before.get(token_hash, now)
            if now - renewed_at >= self._tokens.interval:
                self._due.append(token_hash)
                renewed_at = now
            self._renewed_at[token_hash] = renewed_at
        self._round_at = now + self.pause


def _ms(seconds: float) -> int:
    return int(seconds * 1000)
