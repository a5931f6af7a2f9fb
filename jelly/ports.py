"""The address that the server listens on: what to do if it cannot, and how processes share it."""

import errno
import socket

from jelly.errors import StartError

BIND_ADVICE = {
    errno.EADDRINUSE: "Is another server running there? Choose another one with --port.",
    errno.EADDRNOTAVAIL: "This machine does not have that address: use 127.0.0.1, or 0.0.0.0 for all that it has.",
    errno.EACCES: "Ports below 1024 need privileges: choose a higher one with --port.",
}
"""What the operator can do about an error that keeps the server from listening."""


def family(host: str) -> socket.AddressFamily:
    """Return the kind of an address: IPv6 if it has a colon, else IPv4."""
    return socket.AF_INET6 if ":" in host else socket.AF_INET


def cannot_listen(host: str, port: int, error: OSError) -> StartError:
    """Return the sentence about an address that cannot be had."""
    advice = BIND_ADVICE.get(error.errno or 0, "Choose another --host or --port.")
    return StartError(f"Cannot listen on {host} port {port}: {error.strerror or error}. {advice}")


def reserve(host: str, port: int) -> socket.socket:
    """Take an address for processes that will share it; port 0 picks a free one. Raises StartError.

    The socket does not listen. While it is open, only sockets of the same user that have
    SO_REUSEPORT can have the address.
    """
    reserved = socket.socket(family(host))
    try:
        # Bound without SO_REUSEPORT, with which the system would let it share the port of another
        # program. With SO_REUSEADDR, for what an earlier server has left in TIME_WAIT; only until
        # then, or a second reservation would get the same address.
        reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        reserved.bind((host, port))
        reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 0)
    except OSError as error:
        reserved.close()
        raise cannot_listen(host, port, error) from error
    return reserved
