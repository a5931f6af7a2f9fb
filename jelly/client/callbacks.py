"""The thread that runs the application's code: methods of the receiver, listeners of futures.

It is not the thread that reads from the network. So a callback may wait for a response, and a slow
callback delays only the callbacks behind it.
"""

import contextlib
import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, TypeVar

from jelly.client.locks import Condition
from jelly.errors import ConnectionLost, RequestError

log = logging.getLogger("jelly.client")

HIGH_MARK = 1000
"""At most this many callbacks wait before the client stops reading, unless a request is in flight.
Then TCP's flow control stops the server."""

T = TypeVar("T")


OF_ANOTHER_PROCESS = "This request was made before the process was forked: the parent process gets the response."


class CallbackThread:
    """Runs functions one after the other on a thread of its own (a serial executor)."""

    def __init__(self, on_room: Callable[[], None]) -> None:
        """`on_room` is called on the thread when `is_full` turns False."""
        self._on_room = on_room
        self._condition = Condition()  # guards everything below
        self._calls: deque[Callable[[], None]] = deque()
        self._thread: threading.Thread | None = None
        self._is_running = False  # a call is being run
        self._is_shut_down = False
        self._has_ended = False  # there is no thread, and never will be
        self.is_inherited = False
        """Whether this is the copy, in a forked child, of a thread that runs in the parent."""

    def submit(self, call: Callable[[], None]) -> None:
        """Queue a function.

        After `shutdown`, when the thread has ended, run it in the caller's thread.
        """
        with self._condition:
            has_ended = self._has_ended
            if not has_ended:
                self._calls.append(call)
                self._condition.notify_all()
                with contextlib.suppress(RuntimeError):  # a later submit may be able to start the thread
                    self.start()
        if has_ended:
            _run_safely(call)

    def start(self) -> None:
        """Start the thread if it is not running.

        Raises RuntimeError if the system cannot start one.
        """
        with self._condition:
            if self._thread is None:
                thread = threading.Thread(target=self._run, name="jelly-client-callbacks", daemon=True)
                thread.start()
                self._thread = thread

    @property
    def is_full(self) -> bool:
        """Whether too many calls wait: then the client should stop reading."""
        return len(self._calls) >= HIGH_MARK

    @property
    def is_current_thread(self) -> bool:
        """Whether the caller runs on this thread."""
        return threading.current_thread() is self._thread

    def wait_until_idle(self, deadline: float) -> bool:
        """Wait until no call waits or runs, at most until a monotonic time.

        Returns whether that is so; True at once if there is no thread; `shutdown` runs the calls
        that wait then.
        """
        with self._condition:
            return self._condition.wait_for(
                lambda: self._thread is None or not (self._calls or self._is_running),
                max(0.0, deadline - time.monotonic()),
            )

    def shutdown(self, deadline: float) -> None:
        """Run the calls that wait, then end the thread.

        Waits for the thread until a monotonic time, unless the caller runs on it. If there is no
        thread, the calls run in the caller's thread.
        """
        with self._condition:
            self._is_shut_down = True
            self._condition.notify_all()
            thread = self._thread
            self._has_ended = thread is None
        if thread is None:
            for call in self._calls:
                _run_safely(call)
        elif not self.is_current_thread:
            thread.join(max(0.0, deadline - time.monotonic()))

    def abandon(self) -> bool:
        """In a forked child: drop the calls that wait, which the parent makes.

        Returns False, and changes nothing, if there was no thread: then the child may use this.
        """
        self._condition.renew()
        if self._thread is None and not self._has_ended:
            return False
        self.is_inherited = self._is_shut_down = self._has_ended = True
        self._calls.clear()
        return True

    def _run(self) -> None:
        with self._condition:  # after `start`
            if not self.is_current_thread:  # a signal handler has raised there, so this thread is not wanted
                return
        while True:
            with self._condition:
                self._is_running = False
                self._condition.notify_all()
                self._condition.wait_for(lambda: self._calls or self._is_shut_down)
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
            del call  # it may hold the client, which this thread must not keep


class _Unheard:
    """The error of a future that nobody has looked at. If nobody does, it goes with the future."""

    __slots__ = ("error", "what")

    def __init__(self, what: str, error: Exception) -> None:
        self.what = what
        self.error: Exception | None = error  # None: somebody has looked at it

    def __del__(self) -> None:
        if self.error is not None:
            log.warning("nobody asked how a request ended, and it failed: %s: %s", self.what, self.error)


class RequestFuture(Future[T]):
    """The future of a request.

    Its listeners run on the callback thread, whichever thread ends it. In a forked child, it never
    waits: what has no result at the fork ends with ConnectionLost there.
    """

    def __init__(self, callbacks: CallbackThread) -> None:
        super().__init__()
        self._condition: Condition = Condition()
        self._jelly_callbacks = callbacks
        self._is_heard = False  # somebody asks how it ends
        self._unheard: _Unheard | None = None

    def add_done_callback(self, fn: Callable[[Future[T]], Any]) -> None:
        """Call `fn` with this future on the client's callback thread when the future is done."""
        callbacks = self._jelly_callbacks  # a lambda that holds `self` would be a cycle for the garbage collector
        self.hear()
        is_inherited = callbacks.is_inherited  # what the parent asked for is told in the parent

        def done(future: Future[T]) -> None:
            if callbacks.is_inherited is is_inherited:
                callbacks.submit(lambda: fn(future))

        super().add_done_callback(done)

    def result(self, timeout: float | None = None) -> T:
        """Wait for the result, and return it; raise what the request ended with."""
        self.hear()
        if self._jelly_callbacks.is_inherited:
            self.abandon()
        return super().result(timeout)

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """Wait for the end, and return the error; None if there is a result."""
        self.hear()
        if self._jelly_callbacks.is_inherited:
            self.abandon()
        return super().exception(timeout)

    def fail(self, error: Exception, what: str) -> None:
        """End with an error. If nobody ever asks for it, the log tells it, with the name of the
        request."""
        if not self._is_heard:
            self._unheard = _Unheard(what, error)
        # The traceback of an expected error refers to frames, and these to the future: only the
        # garbage collector could free both.
        self.set_exception(error.with_traceback(None) if isinstance(error, RequestError) else error)

    def hear(self) -> None:
        """Note that somebody asks how this ends."""
        self._is_heard = True
        if self._unheard is not None:
            self._unheard.error = None

    def abandon(self) -> None:
        """In a forked child: end the copy of this future, unless it has ended. Tell nobody: the
        parent hears of it.
        """
        self._condition.renew()
        self.hear()
        if not self.done():
            self.set_exception(ConnectionLost(OF_ANOTHER_PROCESS, sent=True))


def _run_safely(call: Callable[[], None]) -> None:
    try:
        call()
    except BaseException:  # also SystemExit: the thread must survive for the calls behind
        log.exception("a callback failed")
