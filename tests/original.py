"""Stand-ins for the original server, to test clients against, and for the original client.

The server does what the recordings in `golden/` show.

It has the original's behaviour, bugs and all; `test_original.py` replays the recordings against it.
What came by chance is left out, or happens on request only: which answers overtake each other, and
what a slow reader finds in one read.

    with OriginalServer() as server:
        client.connect("127.0.0.1", server.port)

Each connection has a thread that reads it and serves its requests. One lock is around all that a
request changes and sends, so requests are served one at a time. (The original has ten threads for
every connection: see `overtaking`.)

    with OriginalClient(port, seed=1, slow_at_first=0.5, slow_sometimes=0.03) as client:
        client.ask(LOGIN, username="bob", password="pw")

The client is as deaf as the original one, and as slow as that is on a busy machine.
"""

import contextlib
import itertools
import random
import select
import socket
import struct
import threading
import time
from types import TracebackType
from typing import Any, Self

from original_requests import Requests, Sent
from wire import HEADER, HEARTBEAT, LOGIN, NOTICE, RECONNECT, Reply, Wire

from jelly.wakeup import WakeupPipe

MISSES = 5
WRITE_TIMEOUT = 5.0


class OriginalDecoder:
    """The original's decoder, of its server and of its client: there is a frame only when the bytes
    that wait end exactly where the frame ends.

    `two_frames_in_one_segment`, `bad_magic`, `length_negative`: later bytes are kept, and nothing
    is decoded any more.
    """

    def __init__(self) -> None:
        self.is_stalled = False
        self._buffer = b""

    def feed(self, data: bytes) -> Reply | None:
        """The frame that these bytes complete."""
        self._buffer += data
        if len(self._buffer) < HEADER.size:
            return None
        magic, sign, type, status, length = HEADER.unpack_from(self._buffer)
        rest = len(self._buffer) - HEADER.size - length
        if magic != 0xABCD or length < 0 or rest > 0:
            self.is_stalled = True
        if self.is_stalled or rest < 0:
            return None
        frame = Reply(sign, type, status, self._buffer[HEADER.size :])
        self._buffer = b""
        return frame


def readable(*files: socket.socket | WakeupPipe, seconds: float | None = None) -> list[socket.socket | WakeupPipe]:
    """Wait until something can be read, at most some seconds; return from which of these."""
    return select.select(files, [], [], seconds)[0]


class Connection:
    """One connection, also after its end: tests look at `frames`, `names` and `is_stalled`."""

    def __init__(self, server: "OriginalServer", sock: socket.socket, address: tuple[str, int]) -> None:
        self.address = address
        self.frames: list[Reply] = []  # all that were decoded
        self.names: list[str] = []  # who logged in on it
        self.is_open = True
        self.bytes_read = 0  # of which every request has been served
        self.cached_name: str | None = None
        self._server = server
        self._sock = sock
        self._sock.settimeout(WRITE_TIMEOUT)
        self._sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._decoder = OriginalDecoder()
        self._misses = 0
        self._idle_since = time.monotonic()
        self._held: tuple[bytes, float] | None = None  # an answer that may be overtaken, and until when
        self._wakeup = WakeupPipe()  # readable once this is to end
        self._thread = threading.Thread(target=self._run, name=f"original-{self.address[1]}")
        self._thread.start()

    # --- for anybody ---

    @property
    def is_stalled(self) -> bool:
        """Whether it decodes nothing any more."""
        return self._decoder.is_stalled

    @property
    def has_ended(self) -> bool:
        """Whether it is closed, and the server has drawn its conclusions from that."""
        return not self._thread.is_alive()

    def end(self, reset: bool = False) -> None:
        """Close it, or reset it, and wait until that is done."""
        with contextlib.suppress(OSError):  # it has ended by itself
            if reset:
                self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self._wakeup.wake()
        self._thread.join()

    # --- for who holds the server's lock ---

    def write(self, data: bytes) -> None:
        try:
            self._sock.sendall(data)
        except OSError:  # it is broken, or its client takes nothing: its own thread ends it
            with contextlib.suppress(OSError):
                self._sock.shutdown(socket.SHUT_RDWR)

    def overtake(self, sent: Sent, seconds: float) -> Sent:
        """What to send now, of what ends with an answer: one waits, and goes after the next one."""
        *notices, answer = sent
        if self._held:
            (held, _), self._held = self._held, None
            return [*sent, (self, held)]
        if seconds and self.names and self.is_open:
            self._held = answer[1], time.monotonic() + seconds
            return notices
        return sent

    # --- its own thread ---

    def _run(self) -> None:
        with self._sock, contextlib.closing(self._wakeup):
            with contextlib.suppress(OSError):
                while self.is_open and self._step():
                    pass
            self._server.forget(self)

    def _step(self) -> bool:
        """Wait for bytes, and decode them; False at the end."""
        ready = readable(self._sock, self._wakeup, seconds=self._time_left())
        if self._wakeup in ready:
            return False
        if ready:
            self._linger()
            data = self._sock.recv(65536)
            if not data:
                return False
            self._decode(data)
        self._tick()
        return True

    def _linger(self) -> None:
        """Let more bytes come; a `read_delay` that is changed meanwhile counts at once."""
        since = time.monotonic()
        while (left := since + self._server.read_delay - time.monotonic()) > 0:
            if readable(self._wakeup, seconds=min(left, 0.01)):
                return

    def _decode(self, data: bytes) -> None:
        frame = self._decoder.feed(data)
        if frame is not None:
            self._take(frame)
        self.bytes_read += len(data)

    def _take(self, frame: Reply) -> None:
        self._idle_since = time.monotonic()
        self.frames.append(frame)
        if self.names and frame.type == HEARTBEAT:
            self._misses = 0
            self._server.cache_name(self)
        else:
            self._server.serve(self, frame)

    def _time_left(self) -> float | None:
        now = time.monotonic()
        times = [self._held[1] - now] if self._held else []
        if self.names:
            times.append(self._idle_since + self._server.silence / MISSES - now)
        return max(0.0, min(times)) if times else None

    def _tick(self) -> None:
        """See to what is due: an answer that nothing overtook, or a heartbeat that did not come.

        Each fifth of `silence` without a frame is a miss, and the fifth one closes; only a
        heartbeat clears them.
        """
        now = time.monotonic()
        if self._held and self._held[1] <= now:
            (held, _), self._held = self._held, None
            with self._server.lock:
                self.write(held)
        if self.names and now - self._idle_since >= self._server.silence / MISSES:
            self._idle_since = now
            self._misses += 1
            self._server.cache_name(self)
            if self._misses == MISSES:
                self.is_open = False


class OriginalServer:
    """The stand-in, on a free port of 127.0.0.1 for as long as the `with` lasts.

    `silence`: it closes a connection that sent nothing for this many seconds after its login.
    `read_delay`: how long it waits before a read; what is written within that time comes in one
    read. `coalesce`: frames for one connection that belong together, as a login's answer and what
    waited, go out in one send. `overtaking`: an answer waits this many seconds for that to the next
    request of its connection, which then goes first. All four may be changed at any time.
    """

    def __init__(
        self, silence: float = 30.0, read_delay: float = 0.0, coalesce: bool = False, overtaking: float = 0.0
    ) -> None:
        self.silence = silence
        self.read_delay = read_delay
        self.coalesce = coalesce
        self.overtaking = overtaking
        self.connections: list[Connection] = []
        self.lock = threading.RLock()
        self._requests = Requests()
        self._listener = self._bind(0)
        self.port: int = self._listener.getsockname()[1]

    def __enter__(self) -> Self:
        self.listen_again()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop_listening()
        self._listener.close()
        for connection in self.connections:
            connection.end()

    # --- for the tests ---

    @property
    def stalled(self) -> int:
        """How many connections have become deaf, those that have ended since included."""
        return sum(connection.is_stalled for connection in self.connections)

    def connections_of(self, username: str) -> list[Connection]:
        """Those on which a user logged in, oldest first, those that have ended included."""
        return [connection for connection in self.connections if username in connection.names]

    def cut(self, username: str) -> None:
        """Reset a user's connections."""
        for connection in self.connections_of(username):
            connection.end(reset=True)

    def cut_all(self) -> None:
        """Reset all connections."""
        for connection in tuple(self.connections):
            connection.end(reset=True)

    def stop_listening(self) -> None:
        """Refuse new connections; the port stays taken, and those that are there stay as well."""
        if self._acceptor.is_alive():
            self._wakeup.wake()
        self._acceptor.join()
        self._listener.close()
        self._listener = self._bind(self.port)

    def listen_again(self) -> None:
        """Accept connections, on the same port."""
        self._wakeup = WakeupPipe()
        self._listener.listen(128)
        self._acceptor = threading.Thread(target=self._accept, name="original-accept")
        self._acceptor.start()

    def _bind(self, port: int) -> socket.socket:
        listener = socket.socket()
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("127.0.0.1", port))
        return listener

    def _accept(self) -> None:
        with contextlib.closing(self._wakeup):
            while self._wakeup not in readable(self._listener, self._wakeup):
                sock, address = self._listener.accept()
                with self.lock:  # it must be in the list before it is served
                    self.connections.append(Connection(self, sock, address))

    # --- for the connections ---

    def serve(self, connection: Connection, frame: Reply) -> None:
        """Serve a request, and send what it brings about."""
        with self.lock:
            sent = self._requests.serve(connection, frame)
            if sent and frame.type not in (LOGIN, RECONNECT):
                sent = connection.overtake(sent, self.overtaking)
            for to, group in itertools.groupby(sent, key=lambda each: each[0]):
                frames = [data for _, data in group]
                for data in [b"".join(frames)] if self.coalesce else frames:
                    to.write(data)

    def cache_name(self, connection: Connection) -> None:
        with self.lock:
            self._requests.cache_name(connection)

    def forget(self, connection: Connection) -> None:
        with self.lock:
            self._requests.forget(connection)


class OriginalClient:
    """The stand-in for the client, without threads: it reads when `receive` is called.

    `slow_at_first`: how many seconds it takes at the first notice, for which the original loads
    classes. `slow_sometimes`: at most so many seconds it takes at any frame, now and then, as
    `seed` says. What comes meanwhile, it finds in one read.
    """

    def __init__(self, port: int, seed: int = 0, slow_at_first: float = 0.0, slow_sometimes: float = 0.0) -> None:
        self.wire = Wire(port)
        self.frames: list[Reply] = []
        self._rng = random.Random(seed)
        self._slow_at_first = slow_at_first
        self._slow_sometimes = slow_sometimes
        self._decoder = OriginalDecoder()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.wire.close()

    @property
    def is_deaf(self) -> bool:
        """Whether it decodes nothing any more."""
        return self._decoder.is_stalled

    def receive(self) -> Reply | None:
        """The next frame; None when it has become deaf, or the server has closed."""
        while not self.is_deaf and (data := self.wire.socket.recv(65536)):
            frame = self._decoder.feed(data)
            if frame is not None:
                self._process(frame)
                return frame
        return None

    def ask(self, type: int, **values: Any) -> Reply | None:
        """A request, and the next frame, which is to be its response."""
        self.wire.send_request(type, **values)
        return self.receive()

    def contents(self, count: int) -> list[str]:
        """What the next messages say; fewer if it becomes deaf."""
        frames = [frame for _ in range(count) if (frame := self.receive()) is not None]
        return [frame.values["content"] for frame in frames]

    def _process(self, frame: Reply) -> None:
        is_first_notice = frame.sign == NOTICE and all(before.sign != NOTICE for before in self.frames)
        self.frames.append(frame)
        seconds = self._slow_at_first if is_first_notice else 0.0
        if self._rng.random() < 0.5:
            seconds += self._rng.uniform(0, self._slow_sometimes)
        time.sleep(seconds)
