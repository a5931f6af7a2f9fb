"""Several processes on one machine: start them, start again one that dies, stop them together.

    supervisor --fork--> process 1 \\
               --fork--> process 2  > all listen on one port, and the system spreads the clients
               --fork--> process 3 /

The processes are forks of the supervisor, which has one thread and opens no database. So one that
starts again has the settings and the code of the others, and is there at once.

Each process tells the supervisor by a pipe that it serves, or why it cannot start. Of another pipe
only the supervisor holds the end to write. When it closes because the supervisor was killed, the
processes stop in order.
"""

import contextlib
import logging
import os
import selectors
import signal
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import NoReturn

from jelly.errors import ConfigError, StartError, log_failure

log = logging.getLogger("jelly.supervisor")

LONG_LIFE = 10.0
"""Seconds that a process has to serve so that, if it dies, the next one starts at once."""
FIRST_PAUSE = 1.0
"""Seconds until a process starts again that has died twice; each further time doubles them."""
LONGEST_PAUSE = 30.0
SERVES, CANNOT_START = b"+", b"-"
"""How a report begins."""
WRONG_SETTING = 2
"""The exit code of a process that cannot start because of a setting."""
PASSED_ON = {signal.SIGTERM, signal.SIGINT, signal.SIGHUP}


class Process:
    """One of the processes, seen from within: the first argument of what it runs."""

    def __init__(self, index: int, report: int) -> None:
        self.index = index
        """Its place, counted from 0. A process that starts in place of another has the same."""
        self._report = report

    def serves(self, line: str) -> None:
        """Tell the supervisor that clients can connect, and what the log may say about it.

        From now on SIGHUP comes to this process. Call it on the main thread.
        """
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGHUP})
        self._tell(SERVES + line.encode())

    def cannot_start(self, sentence: str) -> None:
        """Tell the supervisor why this process ends."""
        self._tell(CANNOT_START + sentence.encode())

    def _tell(self, report: bytes) -> None:
        with contextlib.suppress(OSError):  # the supervisor is gone, which is noticed elsewhere
            os.write(self._report, report)


Run = Callable[[Process], int]
"""What a process runs: returns its exit code, or raises StartError."""


class Backoff:
    """How long to wait until a process starts again that has died."""

    def __init__(self) -> None:
        self._next = 0.0

    def next(self, served_for: float, at_least: float = 0.0) -> float:
        """Return the seconds to wait, at least so many: it served for `served_for` seconds."""
        pause = max(at_least, 0.0 if served_for >= LONG_LIFE else self._next)
        self._next = min(max(FIRST_PAUSE, 2 * pause), LONGEST_PAUSE)
        return pause


@dataclass
class _Place:
    """One of the processes, seen from the supervisor: which one runs now, or when the next will."""

    index: int
    pid: int = 0
    """The process; 0 if none runs."""
    report: int = -1
    """The end to read of its pipe."""
    told: bytes = b""
    """What it has told."""
    start_at: float = 0.0
    """When it is to start, in monotonic time."""
    served_since: float | None = None
    """Since when clients can connect to it, in monotonic time."""
    backoff: Backoff = field(default_factory=Backoff)
    has_failed: bool = False
    """Whether a process could not start here."""


class Supervisor:
    """Runs several processes until a signal stops them. Make it on the main thread."""

    def __init__(
        self,
        count: int,
        run: Run,
        on_serving: Callable[[str], None] = lambda _: None,
        on_hangup: Callable[[], bool] = lambda: True,
    ) -> None:
        """`run` is called in each process. It must expect SIGTERM, after which it stops in order.

        `on_serving` is called when all serve, once, with the line of one of them. `on_hangup` is
        called at SIGHUP, and returns whether to pass it on; else everything stops.
        """
        self._run = run
        self._on_serving = on_serving
        self._on_hangup = on_hangup
        self._places = [_Place(index) for index in range(count)]
        self._selector = selectors.DefaultSelector()
        self._signals, self._signals_end = os.pipe()
        self._alive, self._alive_end = os.pipe()
        self._stopping = False
        self._exit_code = 0
        self._failure: StartError | None = None
        self._forced_by = 0
        self._have_all_served = False
        self._last_sentence = ""

    def run(self) -> int:
        """Return the exit code when all processes have ended.

        It is 0 if all have stopped in order, else that of the first that has not. Raises StartError
        if they cannot start. A second signal kills them, and this process.
        """
        for end in (self._signals, self._signals_end):
            os.set_blocking(end, False)
        self._selector.register(self._signals, selectors.EVENT_READ)
        # The system writes the number of each signal into the pipe. The handlers themselves do
        # nothing, but Python calls none for signals without one.
        signal.set_wakeup_fd(self._signals_end)
        for number in (*PASSED_ON, signal.SIGCHLD):
            if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:
                signal.signal(number, lambda *_: None)
        try:
            self._loop()
        finally:
            signal.set_wakeup_fd(-1)
            self._selector.close()
            for each in (self._signals, self._signals_end, self._alive, self._alive_end):
                os.close(each)
        if self._forced_by:
            signal.signal(self._forced_by, signal.SIG_DFL)
            os.kill(os.getpid(), self._forced_by)
        if self._failure is not None:
            raise self._failure
        log.info("all processes have ended")
        return self._exit_code

    def _loop(self) -> None:
        while not self._stopping or any(place.pid for place in self._places):
            now = time.monotonic()
            waiting = [] if self._stopping else [place for place in self._places if not place.pid]
            for place in waiting:
                if place.start_at <= now:
                    self._start(place)
            next_start = min((place.start_at for place in waiting if not place.pid), default=None)
            timeout = None if next_start is None else max(0.0, next_start - time.monotonic())
            for key, _ in self._selector.select(timeout):
                if key.data is None:
                    self._take_signals()
                else:
                    self._take_report(key.data)
            self._reap()

    # --- starting ---------------------------------------------------------------------------------

    def _start(self, place: _Place) -> None:
        report, report_end = os.pipe()
        # No signal may come to the new process while it has the handlers of this one.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, PASSED_ON)
        try:
            pid = os.fork()
        except OSError as error:
            os.close(report)
            pause = place.backoff.next(0.0, FIRST_PAUSE)
            log.error("cannot start a process: %s; trying again in %.0f s", error.strerror, pause)
            place.start_at = time.monotonic() + pause
            return
        else:
            if pid == 0:
                os.close(report)
                self._be_process(place, report_end)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
            os.close(report_end)
        os.set_blocking(report, False)
        self._selector.register(report, selectors.EVENT_READ, place)
        place.pid, place.report, place.told, place.served_since = pid, report, b"", None

    def _be_process(self, place: _Place, report: int) -> NoReturn:
        """Run in the new process, and end it."""
        code = 1
        try:
            self._forget_supervisor()
            code = self._run_process(Process(place.index, report))
        except BaseException as error:  # noqa: BLE001 - nothing may go back into the supervisor's loop
            log_failure(log, error)
        finally:
            logging.shutdown()
            os._exit(code)

    def _forget_supervisor(self) -> None:
        """Close what is the supervisor's, and go by signals as another program would."""
        signal.set_wakeup_fd(-1)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGCHLD):
            signal.signal(number, signal.SIG_DFL)
        self._selector.close()
        for each in (self._signals, self._signals_end, self._alive_end):
            os.close(each)
        for other in self._places:
            if other.pid:
                os.close(other.report)
        # A session of its own: Ctrl-C in the terminal is for the supervisor, which passes it on.
        os.setsid()
        # The watcher inherits that all signals are blocked, so that they come to the main thread.
        threading.Thread(target=_watch, args=[self._alive], name="jelly-supervisor-watch", daemon=True).start()
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM, signal.SIGINT})

    def _run_process(self, process: Process) -> int:
        try:
            return self._run(process)
        except StartError as error:
            process.cannot_start(str(error))
            return WRONG_SETTING if isinstance(error, ConfigError) else 1

    def _take_report(self, place: _Place) -> None:
        with contextlib.suppress(BlockingIOError):
            while part := os.read(place.report, 65536):
                place.told += part
            self._selector.unregister(place.report)
        if place.told.startswith(SERVES) and place.served_since is None:
            place.served_since = time.monotonic()
            if self._have_all_served:
                log.info("process %d (%s) serves", place.pid, self._which(place))
            elif all(each.served_since is not None for each in self._places):
                self._have_all_served = True
                self._on_serving(place.told[1:].decode())

    # --- the end of a process ---------------------------------------------------------------------

    def _reap(self) -> None:
        while ended := list(self._take_ended()):
            # If everything is to stop, each process may have been told so, too, and ends before the
            # supervisor has looked at its own signal. The signal is in the pipe by now.
            self._take_signals()
            for place, pid, code in ended:
                self._on_end(place, pid, code)

    def _take_ended(self) -> Iterator[tuple[_Place, int, int]]:
        """Take the processes that have ended: the place, the process, and its exit code, or the
        negative number of the signal that has killed it.
        """
        for place in self._places:
            if place.pid:
                pid, status = os.waitpid(place.pid, os.WNOHANG)
                if pid:
                    if place.report in self._selector.get_map():
                        self._take_report(place)
                    place.pid = 0
                    yield place, pid, os.waitstatus_to_exitcode(status)

    def _on_end(self, place: _Place, pid: int, code: int) -> None:
        os.close(place.report)
        served_since, place.served_since = place.served_since, None
        sentence = place.told[1:].decode() if place.told.startswith(CANNOT_START) else ""
        if self._stopping:
            # One that was still starting has no handler for SIGTERM, and nothing to finish.
            was_starting = code == -signal.SIGTERM and served_since is None
            if code and not was_starting and not self._failure:
                log.error("process %d (%s) has not stopped in order: %s", pid, self._which(place), _what(code))
                self._exit_code = self._exit_code or (code if code > 0 else 128 - code)
            return
        if sentence:
            place.has_failed = True
            if self._cannot_serve(code):
                is_setting = code == WRONG_SETTING
                self._failure = ConfigError(sentence) if is_setting else StartError(sentence)
                self._stop(": a setting is wrong" if is_setting else ": none of them can start")
                return
        now, pause = time.monotonic(), 0.0
        if code or served_since is None:  # else an operator has stopped it, for a restart
            pause = place.backoff.next(now - (served_since or now), FIRST_PAUSE if sentence else 0.0)
        place.start_at = now + pause
        if sentence and sentence == self._last_sentence and not self._have_all_served:
            return  # all say the same, and when the last one has, it ends everything
        self._last_sentence = sentence
        after = f" in {pause:.0f} s" if pause else ""
        if not sentence:
            end = f"{_what(code)}: starting it again{after}"
        elif self._is_any_serving or self._have_all_served:
            end = f"cannot start: {sentence} Starting it again{after}"
        else:
            end = f"cannot start: {sentence} It is tried again{after}, unless none of the others can start"
        log.log(logging.INFO if code == 0 else logging.ERROR, "process %d (%s) %s", pid, self._which(place), end)

    @property
    def _is_any_serving(self) -> bool:
        return any(place.served_since is not None for place in self._places)

    def _cannot_serve(self, code: int) -> bool:
        """Whether a process that cannot start means that none can: its exit code was `code`."""
        if self._is_any_serving:
            return False  # what was wrong came later, such as half a certificate: others go on
        is_first_start = not self._have_all_served
        return code == WRONG_SETTING or (is_first_start and all(place.has_failed for place in self._places))

    def _which(self, place: _Place) -> str:
        return f"{place.index + 1} of {len(self._places)}"

    # --- signals ----------------------------------------------------------------------------------

    def _take_signals(self) -> None:
        try:
            numbers = os.read(self._signals, 4096)
        except BlockingIOError:
            return
        for number in numbers:
            if number == signal.SIGHUP:
                if self._on_hangup():
                    self._kill(signal.SIGHUP)
                elif not self._stopping:
                    self._stop()
            elif number in PASSED_ON and not self._stopping:
                self._stop()
            elif number in PASSED_ON and not self._forced_by:
                log.warning("a second signal: ending all processes without waiting for them")
                self._forced_by = number
                self._kill(signal.SIGKILL)

    def _stop(self, why: str = "") -> None:
        self._stopping = True
        log.info("stopping all processes%s", why)
        self._kill(signal.SIGTERM)

    def _kill(self, number: int) -> None:
        for place in self._places:
            if place.pid:  # not reaped yet, so that the number is no other process's
                os.kill(place.pid, number)


def _watch(alive: int) -> None:
    """Stop this process in order when nobody can write into a pipe any more."""
    os.read(alive, 1)
    log.error("the supervisor is gone: stopping")
    os.kill(os.getpid(), signal.SIGTERM)


def _what(code: int) -> str:
    """Say how a process has ended."""
    if code < 0:
        return f"was killed by signal {-code} ({signal.strsignal(-code)})"
    return f"has ended with exit code {code}" if code else "has stopped"
