"""The rate limit: how many messages a second a user may send."""

import threading
import time
from collections import OrderedDict
from collections.abc import Callable


class RateLimit:
    """A token bucket for each user: `rate` messages a second, and at most `rate` at once.

    A bucket is full again one second after its last use, and a full bucket need not be remembered.
    So only the buckets of the last second are kept.
    """

    def __init__(self, rate: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._rate = float(rate)
        self._clock = clock
        self._lock = threading.Lock()  # guards _buckets
        # The allowance of each user in messages, and its time. The least recently used comes first.
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def try_acquire(self, user: str) -> bool:
        """Whether a user may send one more message now. If so, it is counted."""
        with self._lock:
            now = self._clock()
            while self._buckets and next(iter(self._buckets.values()))[1] <= now - 1.0:
                self._buckets.popitem(last=False)
            allowance, at = self._buckets.get(user, (self._rate, now))
            allowance = min(self._rate, allowance + (now - at) * self._rate)
            is_taken = allowance >= 1
            self._buckets[user] = allowance - is_taken, now
            self._buckets.move_to_end(user)
            return is_taken

    def __len__(self) -> int:
        return len(self._buckets)
