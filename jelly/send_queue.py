"""Writing to a connection: the send queue, through which everything leaves, and the thread that finishes the rest.

A send queue writes at once what may be written at once, and never waits: neither for a slow receiver, whose
socket is full, nor for the gap that a classic client needs between two frames. What is left stays in the
send queue, and the flusher comes back to it when the socket can take more or the gap has passed. So a worker or
the store thread loses no time with a receiver, whatever its state.

Classic clients decode a frame only when the bytes that they have read end exactly where it ends. Towards them
each frame is written by itself, `gap` seconds after the one before. One case goes at once: a response, when
the frame before it was a response too and the request came in after that one was written; a client that
waits for its answers is served at full speed, until
a notice waits for it: then they take turns. (The original client, with 20 messages waiting for it on a busy
machine: 1 arrived with a gap of 50 ms, all with 100 ms.)

A message to a client that cannot acknowledge counts as delivered when it was written, the client's TCP has
acknowledged it (`tcp_acked_id`), and the client has sent something after that (`connection.py`).

A modern client takes any split of the stream: from its login on there is no gap.

Locks: each send queue has one; it may be held while the flusher's is taken, never the other way round.
"""

import contextlib
import logging
import selectors
import socket
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from jelly import tcp
from jelly.timers import NEVER, TimerHeap
from jelly.wakeup import WakeupPipe

log = logging.getLogger("jelly.send_queue")

HIGH_MARK = 128 * 1024
LOW_MARK = 32 * 1024
"""Bytes: above the one no more notices are asked for, until less than the other is left."""
HIGH_COUNT = 100
LOW_COUNT = 25
"""The same for the number of notices, which is what fills the send queue of a classic client."""
MAX_RESPONSES = 256
"""With more responses than this waiting, or HIGH_MARK bytes of them, no more of the client's requests are served."""
CONFIRM_DELAY = 0.05
CONFIRM_DELAY_MAX = 1.0
"""Seconds after a write until the first and between the later looks at what TCP has acknowledged."""


class SendQueue:
    """What waits to be written to one connection. Any thread may call any method; none of them waits.

    `gap`: seconds between two frames, 0 for none. `on_room` is called, by whichever thread, when the send queue
    was full of notices and has room again. `seal` encrypts what goes out.
    """

    __slots__ = (
        "_confirm_at",
        "_confirm_delay",
        "_flusher",
        "_gap",
        "_last_at",
        "_last_begun_at",
        "_last_overlapped",
        "_last_was_response",
        "_lock",
        "_notices",
        "_on_room",
        "_responses",
        "_responses_size",
        "_rest",
        "_rest_id",
        "_room",
        "_scheduled_at",
        "_seal",
        "_size",
        "_sock",
        "_when_room",
        "_written_id",
        "finished_at",
        "finishing",
        "has_room",
        "is_closed",
        "last_words_at",
        "read_bytes",
        "stalled_since",
        "tcp_acked_id",
    )

    def __init__(
        self,
        sock: socket.socket,
        flusher: "Flusher",
        gap: float,
        on_room: Callable[[], None],
        seal: Callable[[bytes], bytes] | None = None,
    ) -> None:
        self._sock = sock
        self._flusher = flusher
        self._gap = gap
        self._on_room = on_room
        self._seal = seal
        self._lock = threading.Lock()  # guards everything below; held while a send that does not wait is tried
        self._responses: deque[tuple[bytes, float]] | None = None  # made at need: most send_queues are always empty
        self._responses_size = 0
        self._notices: deque[tuple[int, bytes]] | None = None
        self._size = 0  # of the notices
        self._rest = b""  # begun, and not yet written to its end
        self._rest_id = 0  # the last message in it
        self._last_at = float("-inf")  # when the last frame was written
        self._last_begun_at = float("-inf")  # and when that was begun: its client may answer before we look again
        self._last_was_response = False
        self._last_overlapped = False  # a request was here already when that response was written
        self._confirm_at: float | None = None
        self._confirm_delay = CONFIRM_DELAY
        self._scheduled_at: float | None = None
        self._room: threading.Event | None = None
        self._when_room: Callable[[], None] | None = None
        self._written_id = 0  # the last message of which all is written
        self.tcp_acked_id = 0
        self.read_bytes = 0  # the reader's: how many it has read
        self.has_room = True
        self.stalled_since: float | None = None
        self.finishing = False
        self.finished_at: float | None = None
        self.last_words_at: float | None = None
        self.is_closed = False

    def send(self, responses: Sequence[tuple[bytes, float]] = (), notices: Sequence[tuple[int, bytes]] = ()) -> None:
        """Send frames: responses, each with the monotonic time at which its request came in; notices, each with its
        message's id, or 0 if that one need not be confirmed. The notices go first, where both may go at once.

        Look at `has_room` before sending more notices.
        """
        with self._lock:
            if self.is_closed or self.finished_at is not None:
                return
            if self.finishing:
                notices = ()
            had_room = self.has_room
            if self._is_clear(notices):
                self._rest = b"".join([frame for _, frame in notices] + [frame for frame, _ in responses])
                if self._write():
                    return
            else:
                if notices:
                    self._enqueue_notices(notices)
                if responses and not self.is_closed:
                    self._enqueue_responses(responses)
            # `or ()`: the line may have turned out to be dead while we wrote, and then nothing waits any more.
            if self._size + len(self._rest) > HIGH_MARK or len(self._notices or ()) > HIGH_COUNT:
                self.has_room = False
        self._tell(had_room)

    def stop_spacing(self) -> None:
        """Leave no gap any more between two frames."""
        with self._lock:
            self._gap = 0.0

    def send_raw(self, data: bytes) -> None:
        """Send bytes as they are, before anything else: what TLS has to say about itself."""
        with self._lock:
            if not self.is_closed:
                self._rest += data
                self._pump()

    def finish(self, last_words: bytes = b"") -> None:
        """Close after what was answered is written, and last words. Messages that wait here stay in their inbox."""
        with self._lock:
            if last_words and not self.finishing and not self.is_closed:
                self.last_words_at = time.monotonic()
                self._responses = self._responses or deque()
                self._responses.append((last_words, self.last_words_at))
                self._responses_size += len(last_words)
            self.finishing = True
            if self._notices:
                self._notices.clear()
                self._size = 0
            if not self.is_closed:
                self._pump()

    def close(self) -> None:
        """Close the connection now; its reader notices, and frees what belongs to it."""
        with self._lock:
            self._close()
        self._tell(had_room=True)

    @property
    def is_full(self) -> bool:
        """Whether so many responses wait that no more requests should be served."""
        responses = self._responses
        return responses is not None and (len(responses) > MAX_RESPONSES or self._responses_size > HIGH_MARK)

    def when_room(self, function: Callable[[], None]) -> None:
        """Call a function, once, when it is not full any more; at once if it is not."""
        with self._lock:
            self._when_room = function
        self._tell(had_room=True)

    @property
    def written_id(self) -> int:
        """The id up to which all messages were written to the socket."""
        with self._lock:  # whoever has just written one may not have noted it yet
            return self._written_id

    @property
    def is_empty(self) -> bool:
        """Whether everything was written that was ever sent."""
        return not (self._rest or self._responses or self._notices)

    def wait_for_room(self, seconds: float) -> bool:
        """If too many responses wait, wait (a reader may) at most some seconds; return whether there is room."""
        if not self.is_full:
            return True
        with self._lock:
            if not self.is_full or self.is_closed:
                return True
            room = self._room = threading.Event()
        has_room = room.wait(seconds)
        self._room = None
        return has_room

    def resume(self, due: float | None = None) -> None:
        """Go on: the socket can take more, or a time has come (which one). Called by the flusher."""
        with self._lock:
            if due is not None and due != self._scheduled_at:
                return  # it has asked for another time since
            self._scheduled_at = None
            had_room = self.has_room
            if not self.is_closed:
                self._pump(is_writable=True)
        self._tell(had_room)

    # --- with the lock held -----------------------------------------------------------------------------

    def _is_clear(self, notices: Sequence[tuple[int, bytes]]) -> bool:
        """Whether frames can be written without any bookkeeping: nothing waits, no gap is kept, no TLS, and nothing is
        to be confirmed. It is so for nearly all that modern clients are sent, and saves half of what a send costs in
        Python.
        """
        return (
            not (self._gap or self._rest or self._responses or self._notices or self._seal or self.finishing)
            and self.has_room
            and not any(id for id, _ in notices)
        )

    def _enqueue_notices(self, notices: Sequence[tuple[int, bytes]]) -> None:
        if self._notices is None:
            self._notices = deque()
        self._notices.extend(notices)
        self._size += sum(len(frame) for _, frame in notices)
        self._pump()

    def _enqueue_responses(self, responses: Sequence[tuple[bytes, float]]) -> None:
        if self._responses is None:
            self._responses = deque()
        self._responses.extend(responses)
        self._responses_size += sum(len(frame) for frame, _ in responses)
        self._pump()

    def _pump(self, is_writable: bool = False) -> None:
        """Write what may be written now, and see to it that somebody comes back for the rest."""
        if self.stalled_since is not None and not is_writable:
            return  # the flusher waits for the socket already
        now = time.monotonic()
        self._look_at_acknowledgements(now)
        while True:
            if not self._rest:
                due = self._due()
                if due is None:
                    break
                if due > now:
                    self._schedule(due)
                    return
                try:
                    self._load()
                except OSError:  # TLS that has failed encrypts no more
                    self._close()
                    return
            if not self._write():
                return
        if self._confirm_at is not None:
            self._schedule(self._confirm_at)
        if self.finishing and self.finished_at is None:
            self.finished_at = now
            with contextlib.suppress(OSError):
                self._sock.shutdown(socket.SHUT_WR)

    def _due(self) -> float | None:
        """When the next frame may be written; None if there is none."""
        if not self._responses and not self._notices:
            return None
        if self._responses and self._last_was_response and not self._is_notices_turn():
            _, asked_at = self._responses[0]
            if asked_at > self._last_begun_at and not self._last_overlapped:
                return self._last_begun_at
        return self._last_at + self._gap

    def _is_notices_turn(self) -> bool:
        """Responses do not wait for all notices, nor notices for a client that never stops asking: they take turns."""
        return bool(self._notices) and (self._last_was_response or not self._responses)

    def _load(self) -> None:
        """Take what is to be written next: one frame, or everything if no gap is needed."""
        responses, notices = self._responses or (), self._notices or ()
        if self._gap:
            if self._notices and self._is_notices_turn():
                self._rest_id, frame = self._notices.popleft()
                self._size -= len(frame)
                self._last_was_response = False
            else:
                assert self._responses
                frame, _ = self._responses.popleft()
                self._responses_size -= len(frame)
                self._last_was_response = True
                # A request that is here already has not waited for this response: its own keeps the gap.
                self._last_overlapped = self._has_unread()
        else:
            frame = b"".join([frame for frame, _ in responses] + [frame for _, frame in notices])
            if notices:
                self._rest_id = notices[-1][0] or max(id for id, _ in notices)
            if self._responses:
                self._responses.clear()
            if self._notices:
                self._notices.clear()
            self._responses_size = self._size = 0
        self._rest = self._seal(frame) if self._seal else frame
        self._last_begun_at = time.monotonic()

    def _write(self) -> bool:
        """Write on; return False if the socket takes no more now."""
        try:
            sent = self._sock.send(self._rest, tcp.DO_NOT_WAIT)
        except BlockingIOError:
            sent = 0
        except OSError:
            self._close()
            return False
        if sent < len(self._rest):
            self._rest = self._rest[sent:]
            if sent or self.stalled_since is None:
                self.stalled_since = time.monotonic()
            self._flusher.call_when_writable(self._sock, self.resume)
            return False
        self._rest = b""
        self.stalled_since = None
        self._last_at = time.monotonic()
        if self._rest_id > self._written_id:
            self._written_id = self._rest_id
            if self._confirm_at is None:
                self._confirm_delay = max(self._gap, CONFIRM_DELAY)
                self._confirm_at = self._last_at + self._confirm_delay
        return True

    def _look_at_acknowledgements(self, now: float) -> None:
        """See whether TCP has everything acknowledged, before the client sends its next word."""
        if self._confirm_at is None or now < self._confirm_at:
            return
        if not self._rest and tcp.unacknowledged(self._sock) == 0 and not self._has_unread():
            self.tcp_acked_id = self._written_id
            self._confirm_at = None
        else:
            self._confirm_delay = min(2 * self._confirm_delay, CONFIRM_DELAY_MAX)
            self._confirm_at = now + self._confirm_delay

    def _has_unread(self) -> bool:
        """Whether something has arrived that the reader does not know of yet.

        It may wait in the kernel, or in the hands of a reader that waits to run: hence the count, not FIONREAD.
        """
        received = tcp.received(self._sock)
        return tcp.unread(self._sock) > 0 if received is None else received != self.read_bytes

    def _schedule(self, due: float) -> None:
        if self._scheduled_at is None or due < self._scheduled_at:
            self._scheduled_at = due
            self._flusher.call_at(due, partial(self.resume, due))

    def _close(self) -> None:
        if self.is_closed:
            return
        self.is_closed = True
        self._rest = b""
        self._responses = self._notices = None
        self._responses_size = self._size = 0
        self.stalled_since = None
        if self._room is not None:
            self._room.set()
        with contextlib.suppress(OSError):
            self._sock.shutdown(socket.SHUT_RDWR)

    # --- without the lock -------------------------------------------------------------------------------

    def _tell(self, had_room: bool) -> None:
        """Wake who waits for room, if there is some now."""
        if (self._when_room or self._room) and not self.is_full:
            with self._lock:
                function, self._when_room = self._when_room, None
                if self._room is not None:
                    self._room.set()
            if function is not None:
                function()
        if not had_room and self._size + len(self._rest) < LOW_MARK and len(self._notices or ()) < LOW_COUNT:
            self.has_room = True
            self._on_room()


class Flusher:
    """The thread that comes back to send queues: when a socket is writable again, and when a time has come."""

    def __init__(self) -> None:
        self._lock = threading.Lock()  # guards everything below; held for dictionary and heap operations only
        self._selector = selectors.DefaultSelector()
        self._timers = TimerHeap()
        self._waits_until = NEVER
        self._stopping = False
        self._wakeup = WakeupPipe()
        self._selector.register(self._wakeup, selectors.EVENT_READ, self._wakeup.drain)
        self._thread = threading.Thread(target=self._run, name="jelly-flusher", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """End the thread; what was not written is dropped."""
        self._stopping = True
        self._wakeup.wake()
        if self._thread.is_alive():
            self._thread.join()
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
        """Do not wait for a socket any more. To be called before the socket is closed."""
        with self._lock, contextlib.suppress(KeyError, ValueError):
            self._selector.unregister(sock)

    def _run(self) -> None:
        while not self._stopping:
            for function in self._wait():
                try:
                    function()
                except Exception as error:  # noqa: BLE001 - a bug; but nobody else would finish what the others have waiting
                    log.error("a send queue failed: %s: %s", type(error).__name__, error)

    def _wait(self) -> list[Callable[[], None]]:
        """Wait until something is to be called."""
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
