"""The tokens that the database holds: how long they are valid, and how many a user has.

A token is made in `passwords.py`. When one is issued or revoked, the services decide.
"""

from jelly.dao import Dao
from jelly.sessions import Device
from jelly.trusted_clock import TrustedClock

MAX_TOKENS = 32
"""At most this many tokens of one user are valid; a new one replaces the oldest."""


class Tokens:
    """Valid tokens, by their hashes."""

    def __init__(self, seconds: float, clock: TrustedClock) -> None:
        """A token expires `seconds` after it was stored, by the time of `clock`."""
        self._seconds = seconds
        self._clock = clock

    def store(self, dao: Dao, token_hash: str, device: Device, network: str) -> None:
        """Make a token valid for a user on a device, who logs in from a network. Call it within a
        transaction.
        """
        now = self._clock.latest()
        expires = int((now + self._seconds) * 1000)
        created = int(now * 1000)
        dao.add_token(token_hash, device.user, expires, self._expiry_now(), MAX_TOKENS, created, network, device.name)

    def owner(self, dao: Dao, token_hash: str) -> Device | None:
        """Return the user whom a token logs in, and on which device; None if it is not valid, or no
        longer.
        """
        owner = dao.token_owner(token_hash, self._expiry_now())
        return None if owner is None else Device(*owner)

    def _expiry_now(self) -> int:
        return int(self._clock.now() * 1000)
