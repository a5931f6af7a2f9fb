"""Where one client is in its life: its state, the phase of its close, and the lock for both."""

import logging
import time
from collections.abc import Callable
from enum import Enum

from jelly.client.callbacks import CallbackThread
from jelly.client.locks import Condition
from jelly.client.states import Reason, State
from jelly.errors import ConnectionLost

log = logging.getLogger("jelly.client")

FOREVER = float("inf")
WAIT_SLICE = 1.0
"""Seconds after which `wait_until_offline` wakes up to let Python handle a Ctrl-C."""


class Phase(Enum):
    """How far `close` has come. A phase only ever changes to the next one.

    | from     | to       | when                                                                 |
    | -------- | -------- | -------------------------------------------------------------------- |
    | OPEN     | CLOSING  | `close` was called                                                   |
    | CLOSING  | STOPPING | no request and no callback is left to wait for, or the time is up    |
    | STOPPING | CLOSED   | the threads have ended (or were given up), and `close` returns       |
    """

    OPEN = "open"
    """Everything is allowed."""
    CLOSING = "closing"
    """Only callbacks may make requests. The client reads only while requests are in flight, and
    does not reconnect."""
    STOPPING = "stopping"
    """Nobody may make requests; the threads are told to end."""
    CLOSED = "closed"


class Lifecycle:
    """The state and the phase of one client.

    `lock` guards everything here, and the pipeline. Nobody waits while holding it (except in
    `wait_for`, which releases it), and no code of the application runs under it; futures are ended
    without it. Lock order: this lock, then those of `FrameStream`, `Poller` or `CallbackThread`.
    """

    def __init__(
        self,
        callbacks: CallbackThread,
        on_change: Callable[[State, State, Reason, Exception | None, str], Callable[[], None]],
    ) -> None:
        """`on_change` returns the function to call on the callback thread; it must not wait."""
        self._callbacks, self._on_change = callbacks, on_change
        self.lock = Condition()
        self.phase = Phase.OPEN
        self.state = State.OFFLINE
        self.user = ""
        """Who logged in last."""
        self.token = 0
        """The token of that login."""
        self.address = ""
        """The address of the server in use, or of the last one."""
        self.reason: Reason | None = None
        """Why the state changed last; None before the first change."""
        self._untold = 0  # changes that the application has not been told yet
        self.is_inherited = False
        """Whether this is a copy in a forked child, which is closed."""

    @property
    def is_open(self) -> bool:
        """Whether `close` was not called yet."""
        return self.phase is Phase.OPEN

    @property
    def is_stopping(self) -> bool:
        """Whether nobody may make requests any more."""
        return self.phase in (Phase.STOPPING, Phase.CLOSED)

    def closed_error(self) -> ConnectionLost:
        """The error for what is asked of a client that is closed."""
        sentence = "The client is closed: make a new one."
        if self.is_inherited:
            sentence = "The client belongs to the process that this one was forked from: make a new one here."
        return ConnectionLost(sentence, sent=False)

    def abandon(self) -> None:
        """In a forked child: be closed, and tell nobody."""
        self.phase, self.state, self.is_inherited = Phase.CLOSED, State.CLOSED, True
        self._untold = 0

    def set_state(self, state: State, reason: Reason, error: Exception | None = None) -> None:
        """With the lock held: change the state, unless it is CLOSED, which is the last one."""
        if self.state is State.CLOSED:
            return
        previous, self.state = self.state, state
        log.debug("%s: %s, %s, %s", self.user, state.value, reason.value, self.address)
        if previous is not State.OFFLINE or state is not State.CLOSED or self.reason is None:
            self.reason = reason  # a close does not hide why the client was offline
        tell = self._on_change(previous, state, reason, error, self.address)
        self._untold += 1

        def changed() -> None:
            try:
                tell()
            finally:
                with self.lock:
                    self._untold -= 1
                    self.lock.notify_all()

        self._callbacks.submit(changed)
        self.lock.notify_all()

    def wait_until_offline(self, timeout: float | None) -> bool:
        """Wait until the state is OFFLINE or CLOSED, and the application was told, at most
        `timeout` seconds.

        Returns whether the state is that.
        """
        deadline = FOREVER if timeout is None else time.monotonic() + timeout
        with self.lock:
            while not (self._is_offline and (self._untold == 0 or self._callbacks.is_current_thread)):
                left = deadline - time.monotonic()
                if left <= 0:
                    return self._is_offline
                # In slices: a Ctrl-C that comes just before the wait is handled only after it.
                self.lock.wait(min(left, WAIT_SLICE))
            return True

    @property
    def _is_offline(self) -> bool:
        return self.state in (State.OFFLINE, State.CLOSED)

    def wait_until_online(self, timeout: float | None) -> bool:
        """Wait while a login or a reconnect is under way, at most `timeout` seconds.

        Returns whether the state is ONLINE.
        """
        with self.lock:
            self.lock.wait_for(lambda: self.state not in (State.CONNECTING, State.RECONNECTING), timeout)
            return self.state is State.ONLINE
