"""One TCP connection, seen from the client: bytes out, frames in.

The socket never blocks. Any thread may send: what the socket does not take at once is kept, and the thread that
reads writes it later. All waiting is done in one place, `Waiter.wait`, which anybody can interrupt.
"""

import contextlib
import os
import selectors
import socket
import ssl
import threading
import time

from jelly import tcp
from jelly.codec import Decoder, Frame
from jelly.wakeup import WakeupPipe

READ_SIZE = 64 * 1024
MAX_ANSWER = 64 * 1024 * 1024
"""Bytes that one body from the server may have: lists of groups come in one piece."""
READ, WRITE = selectors.EVENT_READ, selectors.EVENT_WRITE


class Stopped(Exception):
    """The thread that waits shall end."""

    def __str__(self) -> str:
        return "the client was closed"

    was_sent = False
    """Whether the request that it waited for had left."""


class Waiter:
    """Where one thread waits: for a socket, for a moment, or until somebody wakes it."""

    def __init__(self) -> None:
        self._wakeup = WakeupPipe()
        # Not epoll, which takes a descriptor of its own: a program may have a thousand clients.
        self._selector = getattr(selectors, "PollSelector", selectors.SelectSelector)()
        self._selector.register(self._wakeup, READ)
        self._is_stopped = False

    def wake(self) -> None:
        """Let the thread look again at what there is to do. Any thread may call this, also after `close`."""
        self._wakeup.wake()

    def stop(self) -> None:
        """From now on `wait` raises Stopped. Any thread may call this, also after `close`."""
        self._is_stopped = True
        self.wake()

    def wait(self, sock: socket.socket | None, events: int, until: float) -> int:
        """Wait until a socket is ready for `events`, at most until the monotonic time `until`.

        Returns what the socket is ready for; 0 at that time, or after a `wake`. Raises Stopped.
        """
        if self._is_stopped:
            raise Stopped
        timeout = None if until == float("inf") else max(0.0, until - time.monotonic())
        if sock is not None and events:
            self._selector.register(sock, events)
        try:
            ready = {key.fileobj: mask for key, mask in self._selector.select(timeout)}
        finally:
            if sock is not None and events:
                self._selector.unregister(sock)
        if self._wakeup in ready:
            self._wakeup.drain()
        if self._is_stopped:
            raise Stopped
        return ready.get(sock, 0) if sock is not None else 0

    def close(self) -> None:
        """Free the descriptors."""
        self._selector.close()
        self._wakeup.close()


class Line:
    """An open connection. `send` may be called by any thread, `receive` by the one that waits for it."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.opened_at = self.last_write_at = time.monotonic()
        self.failure: OSError | None = None
        """Why the line is of no use any more, if it is not."""
        self._decoder = Decoder(MAX_ANSWER)
        self._lock = threading.Lock()  # guards the socket (TLS knows no two threads at once) and what is unsent
        self._unsent = bytearray()
        self._wants_to_read = False  # TLS has to read before it can write

    @property
    def events(self) -> int:
        """What to wait for besides reading: WRITE while something is unsent."""
        return WRITE if self._unsent and not self._wants_to_read else 0

    def send(self, data: bytes) -> None:
        """Send, without waiting; an error shows in `failure`. If `events` is not 0 then, the reader must finish it."""
        with self._lock:
            self._unsent += data
            self._flush()
            self.last_write_at = time.monotonic()

    def flush(self) -> None:
        """Send on what is unsent."""
        with self._lock:
            self._flush()

    def receive(self) -> list[Frame]:
        """The frames that have come. Raises EOFError if the server has closed, OSError if the line is broken."""
        if self._decoder.broken is not None and self.failure is not None:
            raise self.failure
        with self._lock:
            try:
                data = self.sock.recv(READ_SIZE)
                while isinstance(self.sock, ssl.SSLSocket) and self.sock.pending():
                    data += self.sock.recv(READ_SIZE)
            except (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
                if self.failure is not None:
                    raise self.failure from None  # nothing more will come
                return []
            self._wants_to_read = False
        if not data:
            raise EOFError("the server has closed the connection")
        frames = self._decoder.feed(data)
        if self._decoder.broken is not None:
            self.failure = ConnectionError("the server does not speak the Jelly protocol")
        return frames

    def close(self) -> None:
        """Close: in good order if everything that came was read."""
        with self._lock:
            self.sock.close()

    def _flush(self) -> None:
        if not self._unsent or self.failure is not None:
            return
        try:
            sent = self.sock.send(self._unsent)
        except (BlockingIOError, ssl.SSLWantWriteError):
            return
        except ssl.SSLWantReadError:
            self._wants_to_read = True
            return
        except OSError as error:
            self.failure = error
            return
        del self._unsent[:sent]


def open_line(host: str, port: int, tls: ssl.SSLContext | None, waiter: Waiter, until: float) -> Line:
    """Connect to the first address of a host that answers. Raises OSError (TimeoutError is one), Stopped."""
    error: OSError = ConnectionError(f"{host} has no address")
    infos = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    for left, (family, kind, protocol, _, address) in zip(range(len(infos), 0, -1), infos, strict=True):
        # One that does not answer (IPv6, often) is to leave time for the others.
        now = time.monotonic()
        share = now + (until - now) / left
        sock = socket.socket(family, kind, protocol)
        try:
            sock.setblocking(False)
            tcp.prepare(sock)
            _connect(sock, address, waiter, share)
            if tls is not None:
                sock = tls.wrap_socket(sock, server_hostname=host, do_handshake_on_connect=False)
                _shake_hands(sock, waiter, share)
            return Line(sock)
        except OSError as failure:
            sock.close()
            error = failure
        except BaseException:
            sock.close()
            raise
    raise error


def _connect(sock: socket.socket, address: tuple[object, ...], waiter: Waiter, until: float) -> None:
    with contextlib.suppress(BlockingIOError):
        sock.connect(address)
    while not _wait_in_time(sock, WRITE, waiter, until):
        pass
    number = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
    if number:
        raise OSError(number, os.strerror(number))


def _shake_hands(sock: ssl.SSLSocket, waiter: Waiter, until: float) -> None:
    while True:
        try:
            sock.do_handshake()
            return
        except ssl.SSLWantReadError:
            _wait_in_time(sock, READ, waiter, until)
        except ssl.SSLWantWriteError:
            _wait_in_time(sock, WRITE, waiter, until)


def _wait_in_time(sock: socket.socket, events: int, waiter: Waiter, until: float) -> int:
    ready = waiter.wait(sock, events, until)
    if not ready and time.monotonic() >= until:
        raise TimeoutError("timed out")
    return ready
