"""Hundreds of clients in one thread: an epoll loop, pre-encoded frames, no JSON per message.

All are modern clients with `ack`. Like the client library, they send one acknowledgement per read.
"""

import itertools
import json
import select
import socket
import struct
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from bench.verify import Channel, DeliveryChecker
from jelly.codec import HEADER, Decoder, Frame, Sign, Status, Type, encode

PATIENCE = 30.0
"""Seconds until a missing answer is an error."""
RETRY_DELAY = 0.01
"""Seconds that a sender waits after SERVER_BUSY."""
MAX_CONNECTING = 64
"""At most this many connections wait for their first answer while a scenario is set up."""
MAX_BODY = 1 << 24
PASSWORD = "pw"


class EventLoop:
    """An event loop: calls the handler of each readable socket."""

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._handlers: dict[int, Callable[[], None]] = {}
        self._timers: list[tuple[float, Callable[[], None]]] = []

    def add(self, sock: socket.socket, handler: Callable[[], None]) -> None:
        self._handlers[sock.fileno()] = handler
        self._epoll.register(sock, select.EPOLLIN)

    def remove(self, sock: socket.socket) -> None:
        del self._handlers[sock.fileno()]
        self._epoll.unregister(sock)

    def call_later(self, handler: Callable[[], None]) -> None:
        """Call a function after RETRY_DELAY seconds."""
        self._timers.append((time.monotonic() + RETRY_DELAY, handler))

    def run(self, until: Callable[[], bool], seconds: float = PATIENCE) -> bool:
        """Run until a condition holds, but at most `seconds`; return whether it holds."""
        deadline = time.monotonic() + seconds
        poll, handlers = self._epoll.poll, self._handlers
        while not until():
            for descriptor, _ in poll(RETRY_DELAY):
                if descriptor in handlers:  # another handler may have removed it
                    handlers[descriptor]()
            now = time.monotonic()
            while self._timers and self._timers[0][0] <= now:
                self._timers.pop(0)[1]()
            if now > deadline:
                return until()
        return True

    def run_for(self, seconds: float) -> None:
        """Run for some seconds."""
        self.run(lambda: False, seconds)

    def close(self) -> None:
        self._epoll.close()


def request(type: int, **values: Any) -> bytes:
    """Return the frame of a request."""
    body = json.dumps(values, ensure_ascii=False, separators=(",", ":")).encode() if values else b""
    return encode(Sign.REQUEST, type, 0, body)


def login(name: str) -> bytes:
    """Return the login frame of a modern client."""
    return request(Type.LOGIN, username=name, password=PASSWORD, features=["ack"])


class Connection:
    """A connection that sends its first request and reads the answer."""

    def __init__(self, port: int, frame: bytes) -> None:
        self.started = time.monotonic()
        self.seconds = 0.0
        """Seconds from connecting to the answer, once it has come."""
        self.socket = socket.create_connection(("127.0.0.1", port))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        # Timeouts of the kernel: Python's own ones cost a system call for each read.
        for option in (socket.SO_RCVTIMEO, socket.SO_SNDTIMEO):
            self.socket.setsockopt(socket.SOL_SOCKET, option, struct.pack("ll", int(PATIENCE), 0))
        self.socket.sendall(frame)
        self.read = b""

    def is_answered(self) -> bool:
        """Read, and return whether the answer is complete.

        Raises RuntimeError unless it is SUCCESS.
        """
        self.read += receive(self.socket)
        if len(self.read) < HEADER.size or len(self.read) < HEADER.size + HEADER.unpack_from(self.read)[4]:
            return False
        self.seconds = time.monotonic() - self.started
        if self.answer.status != Status.SUCCESS:
            raise RuntimeError(f"refused: {self.answer}")
        return True

    @property
    def answer(self) -> Frame:
        _, sign, type, status, length = HEADER.unpack_from(self.read)
        return Frame(sign, type, status, self.read[HEADER.size : HEADER.size + length])

    @property
    def rest(self) -> bytes:
        """The bytes after the answer."""
        return self.read[HEADER.size + len(self.answer.body) :]


def open_all(
    loop: EventLoop, ports: Iterable[int], frames: Iterable[bytes], at_once: int = MAX_CONNECTING
) -> list[Connection]:
    """Open a connection for each frame, `at_once` at a time, and wait for all answers.

    They go to the ports in turns. Return the connections in the order of the frames.
    """
    left = zip(itertools.cycle(ports), frames, strict=False)
    opened: list[Connection] = []
    waiting: set[Connection] = set()

    def open_next() -> None:
        port_and_frame = next(left, None)
        if port_and_frame is None:
            return
        connection = Connection(*port_and_frame)
        opened.append(connection)
        waiting.add(connection)

        def read() -> None:
            if connection.is_answered():
                loop.remove(connection.socket)
                waiting.discard(connection)
                open_next()

        loop.add(connection.socket, read)

    for _ in range(at_once):
        open_next()
    if not loop.run(lambda: not waiting, PATIENCE + 0.02 * len(opened)):
        raise RuntimeError(f"{len(waiting)} connections got no answer")
    return opened


def register_all(loop: EventLoop, ports: Iterable[int], names: Sequence[str]) -> None:
    """Register accounts."""
    for connection in open_all(loop, ports, (request(Type.REGISTER, username=n, password=PASSWORD) for n in names)):
        connection.socket.close()


def log_in_all(loop: EventLoop, ports: Iterable[int], names: Sequence[str]) -> list[Connection]:
    """Log in as each user, at the ports in turns; return the connections in the same order."""
    return open_all(loop, ports, map(login, names))


def call(sock: socket.socket, frame: bytes) -> None:
    """Send a request and wait for its SUCCESS. Drop the notices before it."""
    sock.sendall(frame)
    for answer in frames_of(sock):
        if answer.sign == Sign.RESPONSE:
            if answer.status != Status.SUCCESS:
                raise RuntimeError(f"refused: {answer}")
            return


def frames_of(sock: socket.socket) -> Iterator[Frame]:
    """Yield the frames that arrive on a connection."""
    decoder = Decoder(MAX_BODY)
    while True:
        yield from decoder.feed(receive(sock))


def receive(sock: socket.socket) -> bytes:
    """Return the bytes that can be read.

    Raises EOFError if the server has closed the connection.
    """
    data = sock.recv(1 << 18)
    if not data:
        raise EOFError("the server closed a connection")
    return data


class Sender:
    """Sends messages to its channels in turn, and a further one for each answer."""

    def __init__(
        self, loop: EventLoop, connection: Connection, channels: Sequence[Channel], limit: int | None = None
    ) -> None:
        self._loop = loop
        self._socket = connection.socket
        self._channels = channels
        self._success = encode(Sign.RESPONSE, channels[0].type, Status.SUCCESS)
        self._unanswered: deque[tuple[Channel, int]] = deque()
        self._decoder = Decoder(MAX_BODY)
        self._turn = 0
        self._left = limit if limit is not None else 1 << 62
        self.answer_times: list[float] = []
        """Seconds from sending each message to its answer; empty without a `limit`."""
        self._keeps_times = limit is not None
        self._has_stopped = False
        self.busy = 0
        """How many messages were refused with SERVER_BUSY."""
        loop.add(self._socket, self._read)

    @property
    def is_idle(self) -> bool:
        return not self._unanswered and not self._left

    def send(self, count: int) -> None:
        """Send the next `count` messages in one write."""
        count = min(count, self._left)
        if not count:
            return
        self._left -= count
        now = time.monotonic()
        frames = []
        for _ in range(count):
            channel = self._channels[self._turn % len(self._channels)]
            self._turn += 1
            self._unanswered.append((channel, len(channel.sent)))
            frames.append(channel.next_frame(now))
        self._socket.sendall(b"".join(frames))

    def stop(self) -> None:
        """Stop sending."""
        self._left = 0
        self._has_stopped = True

    def _read(self) -> None:
        data = receive(self._socket)
        count = len(data) // HEADER.size
        if data != self._success * count or self._decoder.has_incomplete_frame:
            self._read_slowly(data)
            return
        for _ in range(count):
            channel, number = self._unanswered.popleft()
            if self._keeps_times:
                self.answer_times.append(time.monotonic() - channel.times[number])
        self.send(count)

    def _read_slowly(self, data: bytes) -> None:
        for frame in self._decoder.feed(data):
            if frame.sign != Sign.RESPONSE:
                continue
            channel, number = self._unanswered.popleft()
            if frame.status == Status.SUCCESS:
                if self._keeps_times:
                    self.answer_times.append(time.monotonic() - channel.times[number])
                self.send(1)
            elif frame.status == Status.SERVER_BUSY:
                channel.refused.add(number)
                self.busy += 1
                if not self._has_stopped:
                    self._left += 1
                    self._loop.call_later(lambda: self.send(1))
            else:
                raise RuntimeError(f"refused: {frame}")


class Receiver:
    """Reads the messages of a channel: checks, acknowledges and times each of them."""

    def __init__(
        self, loop: EventLoop, connection: Connection, checker: DeliveryChecker, since: float | None = None
    ) -> None:
        self._socket = connection.socket
        self._inbox = checker
        self._notice = encode(Sign.NOTICE, checker.channel.type)[:5]
        self._rest = b""
        self._since = since
        self.delays: list[float] = []
        """Seconds from sending each message (or from the time `since`) to its arrival."""
        loop.add(self._socket, self._read)
        if connection.rest:
            self._take(connection.rest)

    def _read(self) -> None:
        self._take(receive(self._socket))

    def _take(self, data: bytes) -> None:
        if self._rest:
            data = self._rest + data
        now = time.monotonic()
        checker, delays, times = self._inbox, self.delays, self._inbox.channel.times
        before = checker.received
        position, end = 0, len(data)
        while end - position >= 9:
            body = position + 9
            stop = body + int.from_bytes(data[position + 5 : body])
            if stop > end:
                break
            if data.startswith(self._notice, position):
                number = checker.check(data[body:stop])
                if number is not None:
                    delays.append(now - (self._since or times[number]))
            position = stop
        self._rest = data[position:]
        if checker.received != before:
            self._socket.sendall(b'\xab\xcd\x01\x24\x00%b{"id":%b}' % (
                (len(checker.last_id) + 7).to_bytes(4), checker.last_id))  # fmt: skip


def token_of(connection: Connection) -> int:
    """Return the token in the answer to a login."""
    return int(json.loads(connection.answer.body)["token"])
