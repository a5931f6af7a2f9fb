"""Who is typing: how often a client says it. No socket, no thread."""

import time
from collections.abc import Callable

FEATURE = "typing"
INTERVAL = 3.0
"""Seconds from one notice to the next one. The server drops what comes sooner."""


class TypingPace:
    """Decides whether to say now that the user is typing. Two threads that ask at once may both be
    told yes: then the server drops one.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._next_at = float("-inf")

    def is_due(self) -> bool:
        """Whether enough time has passed since this was last true."""
        now = self._clock()
        if now < self._next_at:
            return False
        self._next_at = now + INTERVAL
        return True
