"""What becomes of clients in the child process of a fork.

The child has a copy of each client, but not its threads, and both processes have the same sockets.
If the child wrote on them, the parent would get its responses. So a fork ends all copies in the
child: sockets are closed there without a word to the server, whatever waits ends with an error, and
so does each later call. The parent notices nothing.

At the moment of the fork, threads of the parent may hold locks. In the child, nobody would ever
release these: so the child makes them anew.
"""

import os
import socket
import weakref
from typing import Protocol


class Inherited(Protocol):
    """Something of which a child process has a copy that it must not use."""

    def abandon(self) -> None:
        """Make the copy useless. Called in the child, where no other thread runs yet."""


_sockets: weakref.WeakSet[socket.socket] = weakref.WeakSet()
_things: weakref.WeakSet[Inherited] = weakref.WeakSet()


def close_in_children(sock: socket.socket) -> None:
    """Have a socket closed in each child process that is forked from now on."""
    _sockets.add(sock)


def abandon_in_children(thing: Inherited) -> None:
    """Have something abandoned in each child process that is forked from now on."""
    _things.add(thing)


def _abandon_all() -> None:
    for sock in list(_sockets):
        sock.close()  # of TLS, too, this is the end of a descriptor, and not of the conversation
    for thing in list(_things):
        thing.abandon()


if hasattr(os, "register_at_fork"):  # Windows has no fork
    os.register_at_fork(after_in_child=_abandon_all)
