"""One TCP connection as the client sees it, with or without TLS: bytes go out, frames come in.

The socket never blocks. Any thread may send. What the socket does not take at once is buffered, and
the thread that reads sends it later. That thread waits in a `Poller`.
"""

import contextlib
import os
import socket
import ssl
import threading
import time

from jelly import tcp
from jelly.client.addresses import Address
from jelly.client.forks import abandon_in_children, close_in_children
from jelly.client.poller import READ, WRITE, Poller
from jelly.codec import Decoder, Frame

READ_SIZE = 64 * 1024
MAX_BODY = 64 * 1024 * 1024
"""At most this many bytes in a body from the server: a list of groups comes in one frame."""


class FrameStream:
    """An open connection.

    Any thread may call `send`; only the thread that reads calls `receive`.
    """

    def __init__(self, sock: socket.socket, address: Address) -> None:
        self.sock = sock
        self.address = address
        """The address of the server, as the application gave it."""
        self.opened_at = self.last_write_at = self.last_read_at = time.monotonic()
        self.failure: OSError | None = None
        """What broke the connection; None while it works."""
        self._decoder = Decoder(MAX_BODY)
        # Guards the socket and `_unsent`: a TLS socket must not be used by two threads at once.
        # It can be taken twice, by a signal handler that sends while its thread is sending.
        self._lock = threading.RLock()
        self._unsent = bytearray()
        self._behind = bytearray()  # what such a handler has sent: `_unsent` cannot grow while the socket reads it
        self._is_flushing = False
        self._wants_to_read = False  # TLS must read before it can write
        close_in_children(sock)
        abandon_in_children(self)

    @property
    def events(self) -> int:
        """What to wait for besides reading: WRITE while bytes are unsent."""
        return WRITE if self._unsent and not self._wants_to_read else 0

    def send(self, data: bytes) -> None:
        """Send without waiting; an error shows in `failure`.

        If `events` is not 0 afterwards, the thread that reads must call `flush` later.
        """
        with self._lock:
            if self._is_flushing:
                self._behind += data
                return
            self._unsent += data
            self._flush()
            self.last_write_at = time.monotonic()

    def give_up(self, reason: str) -> None:
        """Send nothing more: what is on the way to the server may end anywhere in a frame."""
        self.failure = ConnectionAbortedError(reason)

    def flush(self) -> None:
        """Send more of the unsent bytes."""
        with self._lock:
            self._flush()

    def receive(self) -> list[Frame]:
        """Return the frames that have arrived, without waiting.

        Raises EOFError if the server has closed the connection, OSError if the connection broke.
        """
        if self._decoder.error_type is not None and self.failure is not None:
            raise self.failure
        with self._lock:
            try:
                data = self.sock.recv(READ_SIZE)
                while isinstance(self.sock, ssl.SSLSocket) and self.sock.pending():
                    data += self.sock.recv(READ_SIZE)
            except (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
                if self.failure is not None:
                    raise self.failure from None  # nothing more will arrive
                return []
            self._wants_to_read = False
        self.last_read_at = time.monotonic()
        if not data:
            raise EOFError("the server has closed the connection")
        frames = self._decoder.feed(data)
        if self._decoder.error_type is not None:
            self.failure = ConnectionError("the server does not speak the Jelly protocol")
        return frames

    def abandon(self) -> None:
        """In a forked child, where the socket is closed already: write nothing more."""
        self._lock = threading.RLock()
        self._unsent = bytearray()
        self.failure = ConnectionError("this connection belongs to another process")

    def close(self) -> None:
        """Close the socket.

        TCP tells the server about an error if received bytes are still unread.
        """
        with self._lock:
            self.sock.close()

    def _flush(self) -> None:
        if not self._unsent or self.failure is not None:
            return
        self._is_flushing = True
        try:
            sent = self.sock.send(self._unsent)
            del self._unsent[:sent]
        except (BlockingIOError, ssl.SSLWantWriteError):
            pass
        except ssl.SSLWantReadError:
            self._wants_to_read = True
        except OSError as error:
            self.failure = error
        except BaseException:
            self.give_up("sending was interrupted")  # Ctrl-C: nobody knows how much was written
            raise
        finally:
            if self._behind:
                self._unsent += self._behind
                self._behind.clear()
            self._is_flushing = False


def open_stream(address: Address, tls: ssl.SSLContext | None, poller: Poller, until: float) -> FrameStream:
    """Connect to a server, with TLS if a context is given, until the monotonic time `until`.

    A host name may stand for several IP addresses: tries them in turn. Raises OSError (also if the
    time is up), Stopped.
    """
    error: OSError = ConnectionError(f"{address.host} has no address")
    infos = socket.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM)
    for left, (family, kind, protocol, _, ip_address) in zip(range(len(infos), 0, -1), infos, strict=True):
        # An address that does not answer (often an IPv6 one) must leave time for the others.
        now = time.monotonic()
        share = now + (until - now) / left
        sock = socket.socket(family, kind, protocol)
        close_in_children(sock)
        try:
            sock.setblocking(False)
            tcp.set_socket_options(sock)
            _connect(sock, ip_address, poller, share)
            if tls is not None:
                sock = tls.wrap_socket(sock, server_hostname=address.host, do_handshake_on_connect=False)
                close_in_children(sock)
                _do_tls_handshake(sock, poller, share)
            return FrameStream(sock, address)
        except OSError as failure:
            sock.close()
            error = failure
        except BaseException:
            sock.close()
            raise
    raise error


def _connect(sock: socket.socket, address: tuple[object, ...], poller: Poller, until: float) -> None:
    with contextlib.suppress(BlockingIOError):
        sock.connect(address)
    while not _wait_in_time(sock, WRITE, poller, until):
        pass
    number = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
    if number:
        raise OSError(number, os.strerror(number))


def _do_tls_handshake(sock: ssl.SSLSocket, poller: Poller, until: float) -> None:
    while True:
        try:
            sock.do_handshake()
            return
        except ssl.SSLWantReadError:
            _wait_in_time(sock, READ, poller, until)
        except ssl.SSLWantWriteError:
            _wait_in_time(sock, WRITE, poller, until)


def _wait_in_time(sock: socket.socket, events: int, poller: Poller, until: float) -> int:
    ready = poller.wait(sock, events, until)
    if not ready and time.monotonic() >= until:
        raise TimeoutError("timed out")
    return ready
