"""How many messages a second a user may send."""

import threading
import time
from collections import OrderedDict
from collections.abc import Callable


class RateLimit:
    """A token bucket for each user: `rate` messages a second, and a second's worth at once.

    Who has sent nothing for a second has the whole allowance again, which need not be remembered. So it remembers
    only those who have sent, or tried to send, something within the last second.
    """

    def __init__(self, rate: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._rate = float(rate)
        self._clock = clock
        self._lock = threading.Lock()  # guards _buckets
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()  # how many messages, as of when

    def try_acquire(self, user: str) -> bool:
        """Whether this user may send one more message now; if so, it counts."""
        with self._lock:
            now = self._clock()
            while self._buckets and next(iter(self._buckets.values()))[1] <= now - 1.0:
                self._buckets.popitem(last=False)
            allowance, at = self._buckets.get(user, (self._rate, now))
            allowance = min(self._rate, allowance + (now - at) * self._rate)
            is_taken = allowance >= 1
            self._buckets[user] = allowance - is_taken, now
            self._buckets.move_to_end(user)  # the one who tried longest ago stands first
            return is_taken

    def __len__(self) -> int:
        return len(self._buckets)
