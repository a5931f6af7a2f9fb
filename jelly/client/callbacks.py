"""The one thread that runs the application's code: what arrives, changes of the connection, listeners of futures.

It is not the thread that reads from the network: so a callback may wait for an answer, and one that takes long
holds up only the callbacks behind it.
"""

import contextlib
import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, TypeVar

log = logging.getLogger("jelly.client")

HIGH_MARK = 1000
"""So many calls may wait; then nothing is read from the server unless an answer is awaited: TCP makes it wait."""

T = TypeVar("T")


class Callbacks:
    """Runs functions one after the other on a thread of its own, which the first one starts."""

    def __init__(self, on_room: Callable[[], None]) -> None:
        """`on_room` is called (on that thread) when it is not full any more."""
        self._on_room = on_room
        self._condition = threading.Condition()  # guards everything below
        self._calls: deque[Callable[[], None]] = deque()
        self._thread: threading.Thread | None = None
        self._is_running = False  # a call is under way
        self._finished = False
        self._has_ended = False  # there is no thread, and never will be

    def submit(self, call: Callable[[], None]) -> None:
        """Have a function called. When the thread has ended after `finish`, it is called here and now."""
        with self._condition:
            has_ended = self._has_ended
            if not has_ended:
                self._calls.append(call)
                self._condition.notify_all()
                with contextlib.suppress(RuntimeError):  # it waits for the next one that can start the thread
                    self.start()
        if has_ended:
            _run_safely(call)

    def start(self) -> None:
        """Start the thread, if it was not yet. Raises RuntimeError if there is none to be had."""
        with self._condition:
            if self._thread is None:
                thread = threading.Thread(target=self._run, name="jelly-client-callbacks", daemon=True)
                thread.start()
                self._thread = thread

    @property
    def is_full(self) -> bool:
        """Whether so much waits that no more should be read from the server."""
        return len(self._calls) >= HIGH_MARK

    @property
    def is_here(self) -> bool:
        """Whether the caller runs on this very thread."""
        return threading.current_thread() is self._thread

    def drain(self, deadline: float) -> bool:
        """Wait until everything was called, at most until a monotonic time; return whether it was.

        Without a thread there is nothing to wait for: what waits is for `finish`.
        """
        with self._condition:
            return self._condition.wait_for(
                lambda: self._thread is None or not (self._calls or self._is_running),
                max(0.0, deadline - time.monotonic()),
            )

    def finish(self, deadline: float) -> None:
        """Call what waits, then end the thread; wait for it until a monotonic time, but not on itself.

        If there never was a thread, it is called here and now.
        """
        with self._condition:
            self._finished = True
            self._condition.notify_all()
            thread = self._thread
            self._has_ended = thread is None
        if thread is None:
            for call in self._calls:
                _run_safely(call)
        elif not self.is_here:
            thread.join(max(0.0, deadline - time.monotonic()))

    def _run(self) -> None:
        while True:
            with self._condition:
                self._is_running = False
                self._condition.notify_all()
                self._condition.wait_for(lambda: self._calls or self._finished)
                if not self._calls:
                    self._has_ended = True
                    return
                was_full = self.is_full
                call = self._calls.popleft()
                self._is_running = True
                has_room = was_full and not self.is_full
            if has_room:
                self._on_room()
            _run_safely(call)


class RequestFuture(Future[T]):
    """The future of a request. Its listeners are called on the callback thread, whoever ends it."""

    def __init__(self, callbacks: Callbacks) -> None:
        super().__init__()
        self._jelly_callbacks = callbacks

    def add_done_callback(self, fn: Callable[[Future[T]], Any]) -> None:
        """Call `fn` with this future on the client's callback thread, when it is done."""
        callbacks = self._jelly_callbacks  # no reference to itself: only the garbage collector could free it then
        super().add_done_callback(lambda future: callbacks.submit(lambda: fn(future)))


def _run_safely(call: Callable[[], None]) -> None:
    try:
        call()
    except BaseException:  # SystemExit, too: the thread has to live for the calls behind
        log.exception("a callback failed")
