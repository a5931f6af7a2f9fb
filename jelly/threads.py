"""Threads that the server cannot do without: acceptor, store, flusher and watchdog."""

import logging
import threading
import time
from collections.abc import Callable

from jelly.errors import log_failure

log = logging.getLogger("jelly.threads")

MAX_FAILURES = 3
"""At most this many exceptions end a run of a vital thread within FAILURE_WINDOW; the next one ends
the thread."""
FAILURE_WINDOW = 60.0
"""Seconds until an exception is forgotten."""


class VitalThread(threading.Thread):
    """A thread that runs a loop for as long as the server runs.

    An exception in the loop is a bug. It gets a line in the log, and the loop begins again: so one
    bug does not stop a server with thousands of users. A loop that fails again and again is given
    up. However the thread ends, it calls `on_end`.
    """

    def __init__(self, loop: Callable[[], None], name: str) -> None:
        super().__init__(name=name, daemon=True)
        self._loop = loop
        self.on_end: Callable[[VitalThread], None] = lambda _: None
        """Called on this thread when it ends. Set it before `start`."""

    def run(self) -> None:
        failed_at: list[float] = []
        try:
            while len(failed_at) <= MAX_FAILURES:
                try:
                    self._loop()
                    return
                except Exception as error:  # noqa: BLE001 - a bug; without this thread everybody would wait for ever
                    log_failure(log, error)
                    now = time.monotonic()
                    failed_at = [*(at for at in failed_at if at > now - FAILURE_WINDOW), now]
        except BaseException as error:  # noqa: BLE001 - SystemExit, say: it would end the thread without a word
            log_failure(log, error)
        finally:
            self.on_end(self)
