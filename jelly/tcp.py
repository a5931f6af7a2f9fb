"""What the standard library has no functions for: questions to the kernel about a TCP connection.

Linux answers all of them. Elsewhere `unacknowledged` cannot be asked, and says that everything has
arrived: then a classic client counts as having a message once it was written and the client has
sent something later.
"""

import contextlib
import select
import socket
import struct
import sys

try:
    import fcntl
    import termios
except ImportError:  # no POSIX system
    fcntl = termios = None  # type: ignore[assignment]

DO_NOT_WAIT = getattr(socket, "MSG_DONTWAIT", 0) | getattr(socket, "MSG_NOSIGNAL", 0)
"""The flags with which `send` takes what fits and does not wait, on a blocking socket.

(`settimeout` would make the socket itself non-blocking, and the reader poll before each recv.)"""

KEEPALIVE_SECONDS = 30
"""Seconds until TCP gives up a peer that is silent."""

BUFFER_SIZE = 64 * 1024
"""Bytes that the kernel may hold for a client, in each direction; Linux doubles the number, for its
own bookkeeping.

Left alone, Linux lets the buffers grow: to 4 MB for each receiver that does not read, and to 32 MB
(less on some systems) for each client whose requests are not read."""

_NUMBER = struct.Struct("i")
_RDHUP = getattr(select, "POLLRDHUP", 0)
_ALIVE = {1, 8}
"""The states of a connection that was not reset and whose server side is open: ESTABLISHED,
CLOSE_WAIT.
"""
_RECEIVED_AT = 128  # of tcpi_bytes_received in struct tcp_info


def unacknowledged(sock: socket.socket) -> int | None:
    """How many written bytes the other side's TCP has not acknowledged yet (SIOCOUTQ).

    None if the kernel reports an error: then nothing is known.
    """
    return _ask(sock, "TIOCOUTQ") if sys.platform == "linux" else 0


def has_arrived(sock: socket.socket) -> bool:
    """Whether the other side's TCP has every byte that was written, and has not reset the
    connection.

    False if the kernel reports an error.
    """
    if unacknowledged(sock) != 0:
        return False
    if sys.platform != "linux":
        return True
    try:
        # After the question above: after a reset the kernel drops what it has not sent. And not by
        # an error of `recv`: a `send` on another thread may have taken that, and then `recv`
        # reports an orderly end.
        return sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0] in _ALIVE
    except OSError:
        return False


def has_reset(sock: socket.socket) -> bool:
    """Whether the connection is over: the other side has reset it, or it was closed here."""
    return bool(_events(sock) & (select.POLLHUP | select.POLLERR | select.POLLNVAL))


def has_closed_half(sock: socket.socket) -> bool:
    """Whether the other side writes nothing any more. It may still read; nobody can tell.

    The kernel knows it also while bytes wait in front of the end. (Not on every system: then this
    is False.)
    """
    return bool(_events(sock) & _RDHUP)


def _events(sock: socket.socket) -> int:
    """What has happened on a connection, as flags of `poll`. Does not wait."""
    descriptor = sock.fileno()
    if descriptor < 0:
        return select.POLLNVAL
    poll = select.poll()
    poll.register(descriptor, _RDHUP)
    return next((events for _, events in poll.poll(0)), 0)


def unread(sock: socket.socket) -> int:
    """How many bytes have arrived and were not read yet (FIONREAD)."""
    return _ask(sock, "FIONREAD") or 0


def received(sock: socket.socket) -> int | None:
    """How many bytes have ever arrived, read or not (tcpi_bytes_received); None where unknown."""
    if sys.platform != "linux":
        return None
    try:
        info = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _RECEIVED_AT + 8)
    except OSError:
        return None
    return int.from_bytes(info[_RECEIVED_AT:], sys.byteorder) if len(info) == _RECEIVED_AT + 8 else None


def arrived(sock: socket.socket, read_bytes: int) -> int:
    """How many bytes have ever arrived, read or not; the reader knows of `read_bytes`."""
    count = received(sock)
    return read_bytes + unread(sock) if count is None else count


def has_unread(sock: socket.socket, read_bytes: int) -> bool:
    """Whether something has arrived that the reader does not know of; it knows of `read_bytes`.

    The rest may wait in the kernel. Or the reader has just read it and waits for its turn to run;
    FIONREAD alone would miss that.
    """
    return arrived(sock, read_bytes) != read_bytes


def _ask(sock: socket.socket, request: str) -> int | None:
    if fcntl is None:
        return 0
    try:
        answer = fcntl.ioctl(sock.fileno(), getattr(termios, request), bytes(_NUMBER.size))
    except (OSError, ValueError):  # closed meanwhile
        return None
    return int(_NUMBER.unpack(answer)[0])


def set_socket_options(sock: socket.socket) -> None:
    """Send small frames at once, and find out within half a minute that a silent peer is gone."""
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    options = {
        "TCP_KEEPIDLE": KEEPALIVE_SECONDS // 2,
        "TCP_KEEPINTVL": KEEPALIVE_SECONDS // 6,
        "TCP_KEEPCNT": 3,
        "TCP_USER_TIMEOUT": KEEPALIVE_SECONDS * 1000,
    }
    for name, value in options.items():
        with contextlib.suppress(AttributeError, OSError):  # not on every system
            sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)


def limit_buffers(sock: socket.socket) -> None:
    """Have the kernel hold at most about 2 * BUFFER_SIZE bytes in each direction."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, BUFFER_SIZE)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, BUFFER_SIZE)
