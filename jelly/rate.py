"""The rate limit: how many messages a second a user may send."""

import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable

HOLD_SECONDS = 10.0
"""Seconds after a refusal until messages may overtake the one that was refused."""
MAX_HELD_IDS = 256
"""At most this many requestIds of refused messages are kept for a connection."""


class RateLimit:
    """A token bucket for each user: `rate` messages a second, and at most `burst` at once.

    A bucket is full again `burst / rate` seconds after its last use, and a full bucket need not be
    remembered. So only the buckets that were used since then are kept.
    """

    def __init__(self, rate: float, burst: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._rate, self._burst = float(rate), float(burst)
        self._until_full = burst / rate if rate else 0.0
        self._clock = clock
        self._lock = threading.Lock()  # guards _buckets
        # The allowance of each user in messages, and its time. The least recently used comes first.
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def try_acquire(self, user: str) -> bool:
        """Whether a user may send one more message now. If so, it is counted."""
        with self._lock:
            now = self._clock()
            while self._buckets and next(iter(self._buckets.values()))[1] <= now - self._until_full:
                self._buckets.popitem(last=False)
            allowance, at = self._buckets.get(user, (self._burst, now))
            allowance = min(self._burst, allowance + (now - at) * self._rate)
            is_taken = allowance >= 1
            self._buckets[user] = allowance - is_taken, now
            self._buckets.move_to_end(user)
            return is_taken

    def seconds_until_room(self, user: str) -> float:
        """Seconds until a user may send a second's worth of messages, or a whole burst if that is
        less.

        (Not only until the next message: a client that sends many would come back for each one.)
        """
        with self._lock:
            now = self._clock()
            allowance, at = self._buckets.get(user, (self._burst, now))
            wanted = max(1.0, min(self._rate, self._burst))
            return max(0.0, (wanted - allowance) / self._rate - (now - at))

    def __len__(self) -> int:
        return len(self._buckets)


class HeldBack:
    """The messages of a connection that were refused for the rate.

    A client sends many messages before it hears that one was refused. Those behind it would
    overtake it if the allowance came back meanwhile. So they are refused, too, until the client
    sends one of the refused messages again: then it has heard. (Or until HOLD_SECONDS have passed:
    a client need not send it again.)
    """

    __slots__ = ("_ids", "_until")

    def __init__(self) -> None:
        self._ids: deque[str] = deque(maxlen=MAX_HELD_IDS)
        self._until = 0.0

    def holds(self, request_id: str | None, now: float) -> bool:
        """Whether a message with this requestId must wait for those that were refused before."""
        return now < self._until and request_id not in self._ids

    def refused(self, request_id: str, now: float) -> None:
        """Note that a message was refused."""
        if not self.holds(request_id, now):
            self._until = now + HOLD_SECONDS
        self._ids.append(request_id)
