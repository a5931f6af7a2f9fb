"""Log lines about what may happen thousands of times: one a minute of each kind."""

import logging
import threading
import time
from collections.abc import Callable

LINE_INTERVAL = 60.0
"""Seconds from one line of a kind to the next one."""


class MinuteLog:
    """Any thread may call it. The kinds are few: each of them stays in memory."""

    def __init__(self, log: logging.Logger, clock: Callable[[], float] = time.monotonic) -> None:
        self._log = log
        self._clock = clock
        self._lock = threading.Lock()  # guards the two below
        self._next_line_at: dict[str, float] = {}
        self._unlogged: dict[str, int] = {}

    def warn(self, kind: str, text: str, *values: object) -> None:
        """Log a line, unless there was one of this kind within the last minute."""
        with self._lock:
            now = self._clock()
            if now < self._next_line_at.get(kind, now):
                self._unlogged[kind] = self._unlogged.get(kind, 0) + 1
                return
            self._next_line_at[kind] = now + LINE_INTERVAL
            more = self._unlogged.pop(kind, 0)
        since = f" ({more:,} more like this since the last line)" if more else ""
        self._log.warning(f"{text}%s", *values, since)
