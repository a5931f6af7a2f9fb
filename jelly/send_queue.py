"""Writing to a connection: the send queue, through which everything leaves, and the flusher.

A send queue writes at once what the socket takes, and never waits. It keeps the rest, and the
flusher, a thread, comes back when the socket can take more. So a worker or the store thread loses
no time with a slow receiver.

A modern client is simple: nearly always nothing waits for it, and `send` is one call of the socket.
Other clients need more:

- a classic client needs a gap between two frames: `pacing.py` says which goes next, and when;
- for a client that cannot acknowledge messages TCP is asked how far they got:
  `tcp_confirmation.py`;
- with TLS, what goes out is encrypted: `tls.py`.

Every connection begins with the first two. The login of a modern client switches off what it does
not need.

Each send queue has a lock. The flusher's lock and the TLS filter's may be taken while it is held,
never the other way round. Functions that a send queue calls back are called without it.
"""

import contextlib
import logging
import selectors
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from operator import itemgetter
from typing import Any

from jelly import tcp
from jelly.answer_memory import AnswerMemory
from jelly.pacing import ClassicPacing
from jelly.sessions import Notice, Response
from jelly.tcp_confirmation import TcpConfirmation
from jelly.threads import VitalThread
from jelly.timers import NEVER, TimerHeap
from jelly.wakeup import WakeupPipe

log = logging.getLogger("jelly.send_queue")

HIGH_MARK = 128 * 1024
LOW_MARK = 32 * 1024
"""Bytes of notices: above HIGH_MARK there is no room for more, until less than LOW_MARK wait."""
HIGH_COUNT = 100
LOW_COUNT = 25
"""How many notices: the same for classic clients, whose notices are small and leave slowly."""
MAX_QUEUED = 1000
"""At most this many notices are queued until they are written; those beyond are dropped."""
MAX_RESPONSES = 256
"""At most this many responses, or HIGH_MARK bytes, may wait while more requests are served."""

_FRAME_OF_NOTICE = itemgetter(1)
_FRAME_OF_RESPONSE = itemgetter(0)


class SendQueue:
    """What waits to be written to one connection.

    Any thread may call any method, and none of them waits, except `wait_until_not_full`.

    `on_room` is called, by any thread, when there is room for notices again, and `on_finish` when
    `finish` was. `encrypt` encrypts what goes out, and raises OSError if it cannot. `pacing` and
    `confirmation` are None for a client that does not need them. `memory` is the account of all
    send queues of a server.
    """

    __slots__ = (
        "_confirmation",
        "_encrypt",
        "_flusher",
        "_goes_at_once",
        "_held",
        "_holds_unsent_responses",
        "_lock",
        "_memory",
        "_not_full",
        "_notices",
        "_notices_size",
        "_on_finish",
        "_on_room",
        "_pacing",
        "_queued",
        "_responses",
        "_responses_size",
        "_scheduled_at",
        "_sock",
        "_unsent",
        "_unsent_id",
        "_when_not_full",
        "closing_frame_at",
        "finished_at",
        "finishing",
        "finishing_since",
        "has_room",
        "is_closed",
        "is_full",
        "read_bytes",
        "stalled_since",
        "tcp_acked_id",
        "unsent_since",
    )

    def __init__(
        self,
        sock: socket.socket,
        flusher: "Flusher",
        on_room: Callable[[], None],
        pacing: ClassicPacing | None = None,
        confirmation: TcpConfirmation | None = None,
        encrypt: Callable[[bytes], bytes] | None = None,
        memory: AnswerMemory | None = None,
        on_finish: Callable[[], None] = lambda: None,
    ) -> None:
        self._sock = sock
        self._flusher = flusher
        self._on_room = on_room
        self._on_finish = on_finish
        self._pacing = pacing
        self._confirmation = confirmation
        self._encrypt = encrypt
        self._memory = memory or AnswerMemory()
        # Guards everything below. Held during `sock.send`, which does not wait.
        self._lock = threading.Lock()
        # Lists, not deques: they are short, and each connection would have two deques of 760 bytes.
        self._responses: list[Response] = []
        self._responses_size = 0
        self._notices: list[Notice] = []
        self._notices_size = 0
        self._queued: list[bytes] = []  # notices that are written before whatever is sent next
        self._unsent = b""  # begun, and not yet written to its end
        self._unsent_id = 0  # of the last message in it
        self._holds_unsent_responses = False  # whether responses are in it, too
        self._held = 0  # bytes of responses that `_memory` knows of
        self._scheduled_at: float | None = None  # when the flusher comes back
        self._not_full: threading.Event | None = None  # the reader's, while it waits
        self._when_not_full: Callable[[], None] | None = None
        self._goes_at_once = pacing is None and encrypt is None
        """Whether `send` may write frames at once, as they are."""

        # Other threads read these without the lock, each once, as a hint.
        self.tcp_acked_id = 0
        """The id up to which the client's TCP has acknowledged the messages."""
        self.read_bytes = 0
        """How many bytes the reader has read; the reader counts them."""
        self.has_room = True
        """Whether more notices may be sent."""
        self.is_full = False
        """Whether too many responses wait: then no more requests should be served."""
        self.stalled_since: float | None = None
        """Since when the socket is full and has taken nothing; None if it is not full."""
        self.unsent_since: float | None = None
        """Since when the bytes wait that were begun and are not written to their end."""
        self.finishing = False
        self.finishing_since: float | None = None
        """When `finish` was called."""
        self.finished_at: float | None = None
        """When everything was written after `finish`."""
        self.closing_frame_at: float | None = None
        """When `finish` was called with a closing frame."""
        self.is_closed = False

    def send(self, responses: Sequence[Response] = (), notices: Sequence[Notice] = ()) -> None:
        """Send responses and notices. Where both may go at once, the notices go first.

        Look at `has_room` before you send more notices.
        """
        with self._lock:
            if self._goes_at_once and not (notices and self._confirmation):
                data = b"".join([*map(_FRAME_OF_NOTICE, notices), *map(_FRAME_OF_RESPONSE, responses)])
                try:
                    sent = self._sock.send(data, tcp.DO_NOT_WAIT)
                except OSError:  # full or dead: `_write` meets the same error and deals with it
                    sent = 0
                if sent == len(data):
                    return
                self._unsent = data[sent:]
                self._holds_unsent_responses = bool(responses)
                self._write()
            else:
                self._enqueue(responses, notices)
            calls = self._update()
        for call in calls:
            call()

    def queue_notice(self, frame: bytes) -> None:
        """Send a notice a little later: with `write_queued`, or before whatever is sent next."""
        with self._lock:
            if len(self._queued) < MAX_QUEUED and not (self.finishing or self.is_closed):
                self._queued.append(frame)
                self._goes_at_once = False

    def write_queued(self) -> None:
        """Write the notices that were queued."""
        with self._changing():
            self._take_queued()

    def send_raw(self, data: bytes) -> None:
        """Send bytes as they are, before anything else: the messages of the TLS handshake."""
        with self._changing():
            if not self.is_closed:
                self._unsent += data
                self._pump()

    def stop_pacing(self) -> None:
        """From now on leave no gap between frames: the client takes any split of the stream."""
        with self._changing():
            self._pacing = None
            if self._confirmation:
                self._confirmation.gap = 0.0

    def stop_confirming(self) -> None:
        """Do not ask TCP any more how far messages got: the client itself acknowledges them."""
        with self._changing():
            self._confirmation = None

    def finish(self, closing_frame: bytes = b"") -> None:
        """Close the connection after all responses are written, and after them a closing frame.

        Notices that wait here are dropped: messages stay in their inbox.
        """
        with self._changing():
            self._take_queued()
            if not self.finishing:
                self.finishing_since = time.monotonic()
                if closing_frame and not self.is_closed:
                    self.closing_frame_at = self.finishing_since
                    self._add_response(Response(closing_frame, self.closing_frame_at))
            self.finishing = True
            self._notices.clear()
            self._notices_size = 0
            if not self.is_closed:
                self._pump()
        self._on_finish()

    def close(self) -> None:
        """Close the connection now. Its reader notices, and frees what belongs to it."""
        with self._changing():
            self._close()

    @property
    def is_memory_short(self) -> bool:
        """Whether too much waits in all send queues together."""
        return self._memory.is_short

    @property
    def holds_responses(self) -> bool:
        """Whether responses wait here. (A hint, read without the lock.)"""
        return self._held > 0

    @property
    def is_empty(self) -> bool:
        """Whether nothing waits to be written."""
        with self._lock:  # a thread that moves responses into `_unsent` empties the one before it fills the other
            return not (self._unsent or self._responses or self._notices or self._queued)

    @property
    def written_id(self) -> int:
        """The id up to which all messages were written; 0 if TCP is not asked about them."""
        with self._lock:  # a thread that has just written one may not have noted it yet
            return self._confirmation.written_id if self._confirmation else 0

    def delivered_before(self, read_bytes: int) -> int:
        """The id up to which the client had all messages when it sent more than these many bytes.

        Asks TCP now. 0 if that is not known, or if TCP is not asked about this client.
        """
        with self._lock:
            return self._confirmation.delivered_before(read_bytes) if self._confirmation else 0

    def has_left(self) -> bool:
        """Whether the client is gone, also if the reader has not noticed it yet."""
        return self.is_closed or tcp.has_reset(self._sock)

    def is_half_closed(self) -> bool:
        """Whether the client writes nothing any more, also if the reader has not noticed it yet."""
        return tcp.has_closed_half(self._sock)

    def when_not_full(self, function: Callable[[], None]) -> None:
        """Call a function, once, when `is_full` is False; at once if it is now."""
        with self._changing():
            self._when_not_full = function

    def wait_until_not_full(self, seconds: float) -> bool:
        """Wait at most some seconds until `is_full` is False; return whether it is."""
        with self._lock:
            if not self.is_full:
                return True
            not_full = self._not_full = threading.Event()
        return not_full.wait(seconds)

    def resume(self, due: float | None = None) -> None:
        """Go on writing: the socket can take more, or a time (`due`) has come."""
        with self._changing():
            if due is None or due == self._scheduled_at:  # else an earlier time was asked for since
                self._scheduled_at = None
                if not self.is_closed:
                    self._pump(is_writable=True)

    @contextlib.contextmanager
    def _changing(self) -> Iterator[None]:
        """Hold the lock; then tell those who wait for it that there is room."""
        with self._lock:
            yield
            calls = self._update()
        for call in calls:
            call()

    # --- with the lock held -----------------------------------------------------------------------

    def _enqueue(self, responses: Sequence[Response], notices: Sequence[Notice]) -> None:
        """Let frames wait; write what may go now, first of the notices, then of all."""
        self._take_queued()
        if notices and not self.finishing and not self.is_closed:
            self._notices += notices
            self._notices_size += sum([len(frame) for _, frame in notices])
            self._pump()
        # Nothing follows a closing frame, not even the answer to a request that was under way.
        if responses and self.finished_at is None and self.closing_frame_at is None and not self.is_closed:
            for response in responses:
                self._add_response(response)
            self._pump()

    def _take_queued(self) -> None:
        """Let the queued notices wait like others, and write what may go now."""
        if self._queued:
            notices, self._queued = [Notice(0, frame) for frame in self._queued], []
            if not self.finishing and not self.is_closed:
                self._notices += notices
                self._notices_size += sum([len(frame) for _, frame in notices])
                self._pump()

    def _add_response(self, response: Response) -> None:
        self._responses.append(response)
        self._responses_size += len(response.frame)

    def _pump(self, is_writable: bool = False) -> None:
        """Write what may be written now, and have the flusher come back for the rest."""
        if self.stalled_since is not None and not is_writable:
            return  # the flusher waits for the socket already
        now = time.monotonic()
        confirmation = self._confirmation
        if confirmation:
            confirmation.check(now, not self._unsent, self.read_bytes)
            self.tcp_acked_id = confirmation.tcp_acked_id
        while self._unsent or self._responses or self._notices:
            if not self._unsent:
                is_notice, due = False, now
                if self._pacing:
                    is_notice, due = self._pacing.choose(self._responses, self._notices, now)
                if due > now:
                    if confirmation and confirmation.check_at is not None:  # a notice may wait for long
                        due = min(due, confirmation.check_at)
                    self._schedule(due)
                    return
                try:
                    self._begin_next(is_notice)
                except OSError:  # TLS that has failed encrypts no more
                    self._close()
                    return
            if not self._write():
                return
        if confirmation and confirmation.check_at is not None:
            self._schedule(confirmation.check_at)
        if self.finishing and self.finished_at is None:
            self.finished_at = now
            with contextlib.suppress(OSError):
                self._sock.shutdown(socket.SHUT_WR)

    def _begin_next(self, is_notice: bool) -> None:
        """Take what is written next: one frame to a classic client, a notice or not; else all that
        waits.
        """
        data = self._take_one(self._pacing, is_notice) if self._pacing else self._take_all()
        self._unsent = self._encrypt(data) if self._encrypt else data

    def _take_one(self, pacing: ClassicPacing, is_notice: bool) -> bytes:
        if is_notice:
            self._unsent_id, frame = self._notices.pop(0)
            self._notices_size -= len(frame)
        else:
            frame, _ = self._responses.pop(0)
            self._responses_size -= len(frame)
        self._holds_unsent_responses = not is_notice
        # A request that has come in already did not wait for this response (see `begin_frame`).
        has_unread = not is_notice and tcp.has_unread(self._sock, self.read_bytes)
        pacing.begin_frame(time.monotonic(), frame, not is_notice, has_unread)
        return frame

    def _take_all(self) -> bytes:
        data = b"".join([*map(_FRAME_OF_RESPONSE, self._responses), *map(_FRAME_OF_NOTICE, self._notices)])
        self._unsent_id = max([self._unsent_id, *[notice.id for notice in self._notices]])
        self._holds_unsent_responses = bool(self._responses)
        self._responses.clear()
        self._notices.clear()
        self._responses_size = self._notices_size = 0
        return data

    def _write(self) -> bool:
        """Write what has begun; return False if the socket does not take all of it now."""
        if self._confirmation:
            self._confirmation.before_write(self.read_bytes)
        try:
            sent = self._sock.send(self._unsent, tcp.DO_NOT_WAIT)
        except BlockingIOError:
            sent = 0
        except OSError:
            self._close()
            return False
        if sent < len(self._unsent):
            self._unsent = self._unsent[sent:]
            now = time.monotonic()
            if sent or self.stalled_since is None:
                self.stalled_since = now
            if self.unsent_since is None:
                self.unsent_since = now
            self._flusher.call_when_writable(self._sock, self.resume)
            return False
        self._unsent = b""
        self.stalled_since = self.unsent_since = None
        now = time.monotonic()
        if self._pacing:
            self._pacing.end_frame(now)
        if self._confirmation:
            self._confirmation.note_written(self._unsent_id, now)
        return True

    def _schedule(self, due: float) -> None:
        if self._scheduled_at is None or due < self._scheduled_at:
            self._scheduled_at = due
            self._flusher.call_at(due, partial(self.resume, due))

    def _close(self) -> None:
        if self.is_closed:
            return
        self.is_closed = True
        self._unsent = b""
        self._responses.clear()
        self._notices.clear()
        self._queued.clear()
        self._responses_size = self._notices_size = 0
        self.stalled_since = self.unsent_since = None
        with contextlib.suppress(OSError):
            self._sock.shutdown(socket.SHUT_RDWR)

    def _update(self) -> list[Callable[[], None]]:
        """Set the attributes that say how much waits. Return what to call without the lock."""
        calls: list[Callable[[], None]] = []
        self._goes_at_once = not (
            self._unsent
            or self._responses
            or self._notices
            or self._queued
            or self._pacing
            or self._encrypt
            or self.finishing
            or self.is_closed
        )
        held = self._responses_size
        if self._unsent and self._holds_unsent_responses:
            held += len(self._unsent)
        if held != self._held:
            calls += self._memory.change(held - self._held)
            self._held = held
        self.is_full = len(self._responses) > MAX_RESPONSES or held > HIGH_MARK or (held > 0 and self._memory.is_short)
        if not self.is_full:
            if self._not_full:
                self._not_full.set()
                self._not_full = None
            if self._when_not_full:
                calls.append(self._when_not_full)
                self._when_not_full = None
        size, count = self._notices_size + len(self._unsent), len(self._notices)
        if size > HIGH_MARK or count > HIGH_COUNT:
            self.has_room = False
        elif not self.has_room and size < LOW_MARK and count < LOW_COUNT and not (self.finishing or self.is_closed):
            self.has_room = True
            calls.append(self._on_room)
        return calls


class Flusher:
    """The thread that calls functions when a socket is writable again, and when a time has come."""

    def __init__(self) -> None:
        # Guards the timers, and what is registered with the selector; held for dictionary and heap
        # operations only. Waiting in the selector needs no lock: epoll, kqueue and poll may be
        # waited for while another thread registers a socket.
        self._lock = threading.Lock()
        self._selector = selectors.DefaultSelector()
        self._timers = TimerHeap()
        self._waits_until = NEVER
        self._stopping = False  # goes from False to True once, so reading it needs no lock
        self._wakeup = WakeupPipe()
        self._selector.register(self._wakeup, selectors.EVENT_READ, self._wakeup.drain)
        self.thread = VitalThread(self._run, "jelly-flusher")

    def start(self) -> None:
        self.thread.start()

    def stop(self) -> None:
        """End the thread; what was not written is dropped."""
        self._stopping = True
        self._wakeup.wake()
        if self.thread.is_alive():
            self.thread.join()
        with self._lock:
            self._selector.close()
        self._wakeup.close()

    def call_at(self, due: float, function: Callable[[], None]) -> None:
        """Call a function at a monotonic time, on the flusher's thread."""
        with self._lock:
            self._timers.call_at(due, function)
            is_earlier = due < self._waits_until
            if is_earlier:
                self._waits_until = due
        if is_earlier:
            self._wakeup.wake()

    def call_when_writable(self, sock: socket.socket, function: Callable[[], None]) -> None:
        """Call a function, once, when a socket can take more, on the flusher's thread."""
        with self._lock, contextlib.suppress(KeyError, ValueError):  # registered already, or closed
            self._selector.register(sock, selectors.EVENT_WRITE, function)

    def forget(self, sock: Any) -> None:
        """Do not wait for a socket any more. Call this before you close the socket."""
        with self._lock, contextlib.suppress(KeyError, ValueError):
            self._selector.unregister(sock)

    def _run(self) -> None:
        while not self._stopping:
            for function in self._wait():
                try:
                    function()
                except Exception as error:  # noqa: BLE001 - a bug, but the thread must live: others wait, too
                    log.error("a send queue failed: %s: %s", type(error).__name__, error)

    def _wait(self) -> list[Callable[[], None]]:
        """Wait until functions are due, and return them."""
        with self._lock:
            due = self._waits_until = self._timers.next_due
        timeout = None if due == NEVER else max(0.0, due - time.monotonic())
        functions = []
        for key, _ in self._selector.select(timeout):
            if key.fileobj is not self._wakeup:
                self.forget(key.fileobj)
            functions.append(key.data)
        with self._lock:
            return functions + self._timers.pop_due(time.monotonic())
