"""The memory for answers that wait until their clients take them: one account for all connections.

Each send queue bounds what waits for one client. Many clients that ask and do not read could fill
the memory all the same. So the send queues enter here what waits in them. When that is too much,
memory is *short*:

- a lane whose own earlier answers wait is not served until the client has taken them;
- pages are smaller, so that each client that reads gets its next one;
- a list without pages, which may take up to 1 MiB, waits until there is room for it (`reserve`);
- the watchdog closes clients that take their answers too slowly, so that nobody keeps the memory.

No thread waits for any of this.
"""

import logging
import threading
import time
from collections import OrderedDict
from collections.abc import Callable

log = logging.getLogger("jelly.answers")

DEFAULT_LIMIT = 24 * 1024 * 1024
"""Bytes of answers that may wait in all send queues, unless the operator sets another limit."""
REPORT_INTERVAL = 60.0
"""Seconds until the log says again that memory is short."""

Call = Callable[[], None]


class AnswerMemory:
    """How many bytes of answers wait, in all send queues together. Any thread may call anything.

    The caller may hold the lock of a send queue. So what is to be called then is returned, and the
    caller calls it without that lock.
    """

    def __init__(self, limit: int = DEFAULT_LIMIT) -> None:
        self._limit = limit
        self._lock = threading.Lock()  # guards everything below
        self._used = 0
        self._waiting: OrderedDict[object, tuple[int, Call]] = OrderedDict()
        self._reported_at = float("-inf")

    @property
    def used(self) -> int:
        """Bytes that wait or are reserved now."""
        return self._used

    @property
    def is_short(self) -> bool:
        """Whether too much waits. (A hint, read without the lock: a late look costs one answer.)"""
        return self._used >= self._limit or bool(self._waiting)

    def change(self, by: int) -> list[Call]:
        """Note that so many bytes more wait (or fewer, if negative). Returns what to call."""
        calls: list[Call] = []
        with self._lock:
            self._used += by
            while self._waiting:
                size, function = next(iter(self._waiting.values()))
                if not self._fits(size):
                    break
                self._waiting.popitem(last=False)
                self._used += size
                calls.append(function)
            if by > 0 and self._is_worth_a_line():
                calls.append(self._report)
        return calls

    def reserve(self, owner: object, size: int, function: Call) -> bool:
        """Reserve so many bytes, and return True; or call a function once they are reserved.

        The owner that has waited longest gets them first. Give them back with `change(-size)`. Do
        not call this while you hold a lock.
        """
        with self._lock:
            if not self._waiting and self._fits(size):
                self._used += size
                return True
            self._waiting[owner] = size, function
            is_worth_a_line = self._is_worth_a_line()
        if is_worth_a_line:
            self._report()
        return False

    def stop_waiting(self, owner: object) -> bool:
        """Forget that an owner waits for memory; return whether it did."""
        with self._lock:
            return self._waiting.pop(owner, None) is not None

    def _is_worth_a_line(self) -> bool:
        """With the lock held: whether memory is short, and the log has not said so lately."""
        now = time.monotonic()
        if not self.is_short or now < self._reported_at + REPORT_INTERVAL:
            return False
        self._reported_at = now
        return True

    def _fits(self, size: int) -> bool:
        return self._used + size <= self._limit

    def _report(self) -> None:
        log.warning(
            "%d MiB of answers wait for clients that do not take them: pages are short now, and long lists wait",
            self._limit // (1024 * 1024),
        )
