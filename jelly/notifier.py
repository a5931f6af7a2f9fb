"""The notifier: it brings SYSTEM notices to many users, a few at a time.

A user may be on the friend lists of thousands, and a group has up to 1,000 members. To write to
that many sockets takes tens of milliseconds, for which a turn of the store has no time. So a turn
only puts a notice into each send queue, which costs no system call. The flusher's thread writes it,
a few users at a time, with pauses in which others run. If something else is sent to a user before
that, the send queue writes the notices first. So the order is that of the turns.

What is told again and again within a second is told once: `RecentlyTold` knows when.
"""

import logging
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Hashable, Iterable

from jelly.errors import log_failure
from jelly.sessions import Session, Sessions, Transport

log = logging.getLogger("jelly.notifier")

CallAt = Callable[[float, Callable[[], None]], None]
"""Has a function called at a monotonic time."""

SLICE = 25
"""How many send queues are written to until there is a pause."""
PAUSE = 0.002
"""Seconds of this pause."""
TELL_INTERVAL = 1.0
"""Seconds from one notice about a user or a group to the next. Changes in between are told
together."""


class Notifier:
    """Puts notices into send queues, in turns of the store, and has them written."""

    def __init__(self, sessions: Sessions, call_at: CallAt, clock: Callable[[], float] = time.monotonic) -> None:
        """`call_at` must call a function at a time, on any thread."""
        self._sessions = sessions
        self._call_at = call_at
        self._clock = clock
        self._lock = threading.Lock()  # guards the two below
        self._unwritten: deque[Transport] = deque()
        self._is_scheduled = False

    def tell(self, users: Iterable[str], frame: bytes, granted: str = "", missing: str = "") -> None:
        """Send a SYSTEM notice to those of some users who are online with a modern client.

        `granted`: only if it was granted this feature; `missing`: only if it was not. The notice is
        neither stored nor waited for: a client that is slow to read does not get it.
        """
        self.tell_sessions(
            (
                session
                for user in users
                for session in self._sessions.of(user, ())
                if session.is_modern
                and (not granted or granted in session.features)
                and missing not in session.features
            ),
            frame,
        )

    def tell_sessions(self, sessions: Iterable[Session], frame: bytes) -> None:
        """Send a SYSTEM notice to some modern clients; otherwise as `tell`."""
        transports = []
        for session in sessions:
            if session.transport.has_room:
                session.transport.queue_notice(frame)
                transports.append(session.transport)
        if not transports:
            return
        with self._lock:
            self._unwritten += transports
            is_scheduled, self._is_scheduled = self._is_scheduled, True
        if not is_scheduled:
            self._call_at(self._clock(), self._write_some)

    def _write_some(self) -> None:
        with self._lock:
            transports = [self._unwritten.popleft() for _ in range(min(SLICE, len(self._unwritten)))]
        for transport in transports:
            try:
                transport.write_queued()
            except Exception as error:  # noqa: BLE001 - a bug with one client; the others are told
                log_failure(log, error)
                transport.close()
        with self._lock:
            self._is_scheduled = bool(self._unwritten)
            if not self._is_scheduled:
                return
        self._call_at(self._clock() + PAUSE, self._write_some)

    def __len__(self) -> int:
        return len(self._unwritten)


class RecentlyTold:
    """What was told within the last second. Only turns of the store use it."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._told_at: OrderedDict[Hashable, float] = OrderedDict()  # the oldest first

    def note(self, thing: Hashable) -> None:
        """Something is told now."""
        self._told_at[thing] = self._clock()
        self._told_at.move_to_end(thing)

    def wait_until(self, thing: Hashable) -> float | None:
        """When something may be told again; None if it may be told now."""
        limit = self._clock() - TELL_INTERVAL
        while self._told_at and next(iter(self._told_at.values())) <= limit:
            self._told_at.popitem(last=False)
        told_at = self._told_at.get(thing)
        return None if told_at is None else told_at + TELL_INTERVAL

    def __len__(self) -> int:
        return len(self._told_at)
