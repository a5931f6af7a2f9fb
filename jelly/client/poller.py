"""Where a thread of the client waits: for a socket, for a time, for another thread."""

import selectors
import socket
import time

from jelly.client.forks import abandon_in_children
from jelly.wakeup import WakeupPipe

MAX_WAIT = 86_400.0
"""At most this many seconds in one call of the system, which takes no more than 24 days."""
READ, WRITE = selectors.EVENT_READ, selectors.EVENT_WRITE


class Stopped(Exception):
    """`Poller.stop` was called: the thread that waits must end."""

    def __str__(self) -> str:
        return "the client was closed"

    was_sent = False
    """Whether a request was sent whose response the thread was waiting for."""


class Poller:
    """Lets one thread wait for one socket at a time. Any other thread can wake or stop it."""

    def __init__(self) -> None:
        """Raises OSError if the process has no descriptors left."""
        self._wakeup = WakeupPipe()
        # Not epoll, which takes a descriptor of its own: a program may have a thousand clients.
        self._selector = getattr(selectors, "PollSelector", selectors.SelectSelector)()
        self._selector.register(self._wakeup, READ)
        self.is_stopped = False  # see `stop`
        abandon_in_children(self)

    def wake(self) -> None:
        """Make `wait` return. Any thread may call this, also after `close`."""
        self._wakeup.wake()

    def stop(self) -> None:
        """Make `wait` raise Stopped, now and later.

        Any thread may call this, also after `close`.
        """
        self.is_stopped = True
        self.wake()

    def wait(self, sock: socket.socket | None, events: int, until: float) -> int:
        """Wait until a socket is ready for `events`, at most until the monotonic time `until`.

        Returns what the socket is ready for; 0 at that time, or after a `wake`. Raises Stopped.
        """
        if self.is_stopped:
            raise Stopped
        timeout = None if until == float("inf") else min(max(0.0, until - time.monotonic()), MAX_WAIT)
        if sock is not None and events:
            self._selector.register(sock, events)
        try:
            ready = {key.fileobj: mask for key, mask in self._selector.select(timeout)}
        finally:
            if sock is not None and events:
                self._selector.unregister(sock)
        if self._wakeup in ready:
            self._wakeup.drain()
        if self.is_stopped:
            raise Stopped
        return ready.get(sock, 0) if sock is not None else 0

    def sleep(self, seconds: float) -> None:
        """Wait for a time; `wake` does not end the wait. Raises Stopped."""
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            self.wait(None, 0, until)

    def abandon(self) -> None:
        """Free the descriptors of the copy in a forked child: a `wake` there must not wake the
        parent.
        """
        self.is_stopped = True
        self._wakeup.abandon()

    def close(self) -> None:
        """Free the descriptors."""
        self._selector.close()
        self._wakeup.close()
