"""Who is online: one session a user.

A `Session` is what the server knows about one connection above the socket: who has logged in on it, and how
far that user's messages have been handed over. It writes through an `Outlet`, which the server gives it
(`outbox.py`); nothing in here or above the outlet knows a socket.
"""

import threading
from collections.abc import Callable, Sequence
from typing import Protocol


class Outlet(Protocol):
    """Where a session's frames go. Every method may be called by any thread and none of them waits."""

    confirmed: int
    """The id up to which the client's machine has acknowledged the notices (TCP says so, not the client)."""

    is_closed: bool
    """Whether the connection has ended, or is about to."""

    @property
    def has_room(self) -> bool:
        """Whether more notices may be sent, or the client is to take first what waits for it."""

    @property
    def is_full(self) -> bool:
        """Whether so many responses wait that no more requests should be served."""

    def when_room(self, function: Callable[[], None]) -> None:
        """Call a function, once, when it is not full any more; at once if it is not."""

    def send_responses(self, responses: Sequence[tuple[bytes, float]]) -> None:
        """Send frames, each with the monotonic time at which its request came in."""

    def send_notices(self, notices: Sequence[tuple[int, bytes]]) -> None:
        """Send messages: each frame with its message's id."""

    def finish(self) -> None:
        """Close the connection once everything that was sent is written."""

    def close(self) -> None:
        """Close the connection now."""


class Session:
    """One connection's conversation. The comments say which thread may change what."""

    __slots__ = (
        "address",
        "caught_up",
        "given",
        "has_heartbeat",
        "leaving",
        "outlet",
        "resumed",
        "settled",
        "token_hash",
        "user",
    )

    def __init__(self, outlet: Outlet, address: str) -> None:
        self.outlet = outlet
        self.address = address
        # Set by the store thread when a login succeeds, and never changed again.
        self.user: str | None = None
        self.token_hash = ""
        self.resumed = False  # came by RECONNECT
        # Set by whoever serves the session's lane: no request after this one is served.
        self.leaving = False
        # The reader's: has it ever sent a heartbeat; and up to which id were its messages reported delivered.
        self.has_heartbeat = False
        self.settled = 0
        # The store thread's: see delivery.py.
        self.caught_up = False
        self.given = 0


class Sessions:
    """The register of who is logged in. Any thread may ask; the lock only guards look-then-change."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._by_user: dict[str, Session] = {}

    def get(self, user: str) -> Session | None:
        """The session of a user, None while the user is offline."""
        return self._by_user.get(user)

    def attach(self, session: Session) -> Session | None:
        """Enter a session whose `user` is set; return the one that it takes over, if there was one."""
        assert session.user is not None
        with self._lock:
            old = self._by_user.get(session.user)
            self._by_user[session.user] = session
        return old

    def detach(self, session: Session) -> None:
        """Remove a session that has ended. One that was taken over does not disturb its successor."""
        if session.user is None:
            return
        with self._lock:
            if self._by_user.get(session.user) is session:
                del self._by_user[session.user]

    def __len__(self) -> int:
        return len(self._by_user)
