"""The watchdog: one thread that closes connections whose time is up, and calls functions later.

It looks at all connections once a second, compares times, and holds no lock while it does. `check`
takes the time from its caller, so a test needs no clock.
"""

import logging
import threading
import time
from collections.abc import Callable, Iterable

from jelly import tcp
from jelly.connection import Connection
from jelly.errors import log_failure
from jelly.proxy_protocol import HEADER_TIMEOUT, IS_LATE
from jelly.send_queue import SendQueue
from jelly.threads import VitalThread
from jelly.timers import NEVER, TimerHeap

log = logging.getLogger("jelly.watchdog")

TICK = 0.25
"""Seconds until the watchdog looks at its timers again."""
CHECK_INTERVAL = 1.0
"""Seconds until it looks at the connections again; fewer if `silence` is short."""
FIRST_FRAME_TIMEOUT = 10.0
"""Seconds until a new client must have sent something, and a frame must be complete."""
LOGIN_TIMEOUT = 30.0
"""Seconds until a LOGIN, REGISTER or RECONNECT must have been read whole; its answer may take
longer."""
TYPING_TIMEOUT = 300.0
"""Seconds that a client has for it which sends nothing but heartbeats, while there is room: the
original client connects first, and then its user types the password."""
WRITE_TIMEOUT = 30.0
"""Seconds until a client must take some of the bytes that wait for it."""
SHORT_WRITE_TIMEOUT = 10.0
"""The same for answers while memory for answers is short. And then all that is being written must
be taken within WRITE_TIMEOUT: else a byte now and then would keep the memory for ever."""
CLOSE_TIMEOUT = 3.0
"""Seconds until a client must have closed its end, after the last answer or a closing frame."""
LAST_ANSWERS_TIMEOUT = 60.0
"""Seconds until a client must have taken all that waits for it when no more requests are served."""
LATENESS = 1.0
"""At most this many seconds a look at the connections may be late. A later one means that the other
threads were late, too: the process was stopped, or its machine."""
LATENESS_TO_LOG = 5.0
"""At most this many seconds a look may be late without a line in the log."""


class Watchdog:
    """`silence`: seconds until a connection from which nothing was read is closed. `beyond_half`
    says which of the clients that only send heartbeats must make room for others.
    """

    def __init__(
        self,
        connections: Iterable[Connection],
        silence: float,
        beyond_half: Callable[[Iterable[Connection]], Iterable[Connection]] = lambda _: (),
    ) -> None:
        self._connections = connections
        self._silence = silence
        self._beyond_half = beyond_half
        self._check_at: float | None = None
        self._condition = threading.Condition()  # guards the three below
        self._timers = TimerHeap()
        self._stopping = False
        self._is_draining = False
        self.thread = VitalThread(self._run, "jelly-watchdog")

    def start(self) -> None:
        self.thread.start()

    def stop(self) -> None:
        """End the thread; calls that are not due yet are dropped."""
        with self._condition:
            self._stopping = True
            self._condition.notify()
        if self.thread.is_alive():
            self.thread.join()

    def call_later(self, seconds: float, function: Callable[[], None]) -> None:
        """Call a function on the watchdog's thread, after some seconds or up to a tick later."""
        with self._condition:
            self._timers.call_at(time.monotonic() + seconds, function)

    def run_calls_now(self) -> None:
        """From now on call each function at once, before its time comes."""
        with self._condition:
            self._is_draining = True
            self._condition.notify()

    def check(self, now: float) -> None:
        """Close the connections whose time is up at a monotonic time."""
        typing: list[Connection] = []
        for connection in self._connections:  # a snapshot: readers come and go meanwhile
            try:
                reason = self._reason_to_close(connection, now)
                if reason == IS_LATE:
                    connection.turn_away(reason)
                elif reason:
                    log.debug("%s: closed: %s", connection.address, reason)
                    connection.send_queue.close()
                elif connection.awaits_login and now >= connection.opened_at + LOGIN_TIMEOUT:
                    typing.append(connection)
            except Exception as error:  # noqa: BLE001 - a bug with one connection; the others have deadlines, too
                log_failure(log, error)
        for connection in self._beyond_half(typing):
            log.debug("%s: closed: others need the place more", connection.address)
            connection.send_queue.close()

    def _check_if_due(self, now: float | None = None) -> None:
        now = time.monotonic() if now is None else now
        lateness = 0.0 if self._check_at is None else now - self._check_at
        if lateness > LATENESS:
            # Readers and the flusher have still to notice what the clients did meanwhile, and TCP
            # may have to repeat it. So no connection is closed for as long as this look was late.
            grace = min(lateness, self._silence)
            if lateness > LATENESS_TO_LOG:
                log.warning("the server stood still for %.1f s: closing no connection for %.1f s", lateness, grace)
            self._check_at = now + grace
        elif lateness >= 0:
            self._check_at = now + min(CHECK_INTERVAL, self._silence / 30)
            self.check(now)

    def _reason_to_close(self, connection: Connection, now: float) -> str:
        send_queue, session = connection.send_queue, connection.session
        # Each is read once: between two looks another thread may set it to None.
        finished_at, closing_frame_at = send_queue.finished_at, send_queue.closing_frame_at
        incomplete_since, header_since = connection.incomplete_since, connection.header_since
        finishing_since = send_queue.finishing_since
        if header_since is not None and now >= header_since + HEADER_TIMEOUT:
            return IS_LATE
        if finished_at is not None and now >= finished_at + CLOSE_TIMEOUT:
            return "the client did not close after the last answer"
        if closing_frame_at is not None and now >= closing_frame_at + CLOSE_TIMEOUT:
            return "the client did not take the closing frame"
        if not connection.has_received_data and now >= connection.opened_at + FIRST_FRAME_TIMEOUT:
            return "the client sent nothing"
        if incomplete_since is not None and now >= incomplete_since + FIRST_FRAME_TIMEOUT:
            return "the client did not complete a frame"
        if connection.awaits_login:
            timeout = TYPING_TIMEOUT if connection.sends_only_heartbeats else LOGIN_TIMEOUT
            if now >= connection.opened_at + timeout:
                return "the client did not ask to log in"
        if finishing_since is not None and now >= finishing_since + LAST_ANSWERS_TIMEOUT:
            return "the client did not take its last answers"
        if problem := _write_problem(send_queue, now):
            return problem
        # The original client sends no heartbeats after a RECONNECT: TCP's keepalive watches it.
        is_exempt = session.resumed and not session.is_modern and not session.has_heartbeat
        if not is_exempt and not connection.is_paused and now >= connection.last_read_at + self._silence:
            # On a busy machine a reader may not have come to read what is here, or to say so.
            if tcp.has_unread(connection.request, send_queue.read_bytes):
                return ""
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
                except Exception as error:  # noqa: BLE001 - a bug, but dead connections must not stay for ever
                    log.error("the watchdog failed: %s: %s", type(error).__name__, error)


def _write_problem(send_queue: SendQueue, now: float) -> str:
    """What is wrong with how a client takes what is written to it; empty if nothing is."""
    # Each is read once: between two looks another thread may set it to None.
    stalled_since, unsent_since = send_queue.stalled_since, send_queue.unsent_since
    seconds = 0.0 if stalled_since is None else now - stalled_since
    if seconds >= WRITE_TIMEOUT:
        return "the client takes nothing"
    if send_queue.holds_responses and send_queue.is_memory_short:
        is_slow = unsent_since is not None and now >= unsent_since + WRITE_TIMEOUT
        if is_slow or seconds >= SHORT_WRITE_TIMEOUT:
            return "the client takes its answers too slowly, and memory for answers is short"
    return ""
