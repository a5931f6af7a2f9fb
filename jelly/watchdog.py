"""The watchdog: one thread that closes connections whose time is up, and calls back at a later time.

It looks at all connections once a second, compares times, and holds no lock while it does. `check` can
be called with any time, so a test needs no clock.
"""

import logging
import threading
import time
from collections.abc import Callable, Iterable

from jelly.connection import Connection
from jelly.timers import NEVER, TimerHeap

log = logging.getLogger("jelly.watchdog")

TICK = 0.25
"""Seconds between looking at what is to be called later."""
CHECK = 1.0
"""Seconds between looking at the connections; a server with a short silence looks more often, up to each tick."""
FIRST_WORD = 10.0
"""Seconds in which a new connection must say something, and a frame that has begun must be whole."""
STALLED = 30.0
"""Seconds for which a client may take nothing of what waits for it."""
LINGER = 3.0
"""Seconds that a client has to close, once the server has said its last word."""


class Watchdog:
    """`silence`: seconds after which a connection from which nothing was read is closed."""

    def __init__(self, connections: Iterable[Connection], silence: float) -> None:
        self._connections = connections
        self._silence = silence
        self._check_at = 0.0
        self._condition = threading.Condition()  # guards the three below
        self._timers = TimerHeap()
        self._stopping = False
        self._is_draining = False
        self._thread = threading.Thread(target=self._run, name="jelly-watchdog", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """End the thread; calls that are not due yet are dropped."""
        with self._condition:
            self._stopping = True
            self._condition.notify()
        if self._thread.is_alive():
            self._thread.join()

    def call_later(self, seconds: float, function: Callable[[], None]) -> None:
        """Call a function on the watchdog's thread, in so many seconds or a little later."""
        with self._condition:
            self._timers.call_at(time.monotonic() + seconds, function)

    def run_calls_now(self) -> None:
        """From now on nothing is called later, but at once."""
        with self._condition:
            self._is_draining = True
            self._condition.notify()

    def check(self, now: float) -> None:
        """Close the connections whose time is up at this monotonic time."""
        for connection in tuple(self._connections):
            reason = self._reason_to_close(connection, now)
            if reason:
                log.debug("%s: closed: %s", connection.address, reason)
                connection.send_queue.close()

    def _check_if_due(self) -> None:
        now = time.monotonic()
        if now >= self._check_at:
            self._check_at = now + min(CHECK, self._silence / 30)
            self.check(now)

    def _reason_to_close(self, connection: Connection, now: float) -> str:
        send_queue, session = connection.send_queue, connection.session
        if send_queue.finished_at is not None and now >= send_queue.finished_at + LINGER:
            return "the client did not close after the last answer"
        if send_queue.closing_frame_at is not None and now >= send_queue.closing_frame_at + LINGER:
            return "the client did not take the last word"
        if not connection.has_spoken and now >= connection.opened_at + FIRST_WORD:
            return "not a word after connecting"
        if connection.incomplete_since is not None and now >= connection.incomplete_since + FIRST_WORD:
            return "a frame that does not end"
        if send_queue.stalled_since is not None and now >= send_queue.stalled_since + STALLED:
            return "the client takes nothing"
        # The original client sends no heartbeats after a RECONNECT: then TCP's keepalive watches it.
        is_exempt = session.resumed and not session.is_modern and not session.has_heartbeat
        if not is_exempt and not connection.is_paused and now >= connection.last_read_at + self._silence:
            return "no heartbeat"
        return ""

    def _run(self) -> None:
        while True:
            with self._condition:
                if not self._stopping:
                    self._condition.wait(TICK)
                if self._stopping:
                    return
                functions = self._timers.pop_due(NEVER if self._is_draining else time.monotonic())
            for function in (*functions, self._check_if_due):
                try:
                    function()
                except Exception as error:  # noqa: BLE001 - a bug; but without the watchdog dead connections would stay for ever
                    log.error("the watchdog failed: %s: %s", type(error).__name__, error)
