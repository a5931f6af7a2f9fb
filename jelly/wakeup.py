"""A wake-up pipe: any thread can wake a thread that waits in a selector (the *self-pipe trick*)."""

import contextlib
import socket
import threading


class WakeupPipe:
    """Becomes readable when `wake` is called, until `drain` is called.

    Register it with a selector like a socket. The thread that waits there calls `drain` first and
    then looks for work: so it misses nothing that was added before a call of `wake`.
    """

    __slots__ = ("_is_awake", "_lock", "_reader", "_writer")

    def __init__(self) -> None:
        """Open two sockets. Raises OSError if the process has no descriptors left."""
        self._reader, self._writer = socket.socketpair()
        self._reader.setblocking(False)
        self._writer.setblocking(False)
        # So that nobody writes while another thread closes. (A thread may take it twice: a signal
        # handler wakes while its thread does.)
        self._lock = threading.RLock()
        self._is_awake = False  # there is a byte in the pipe

    def wake(self) -> None:
        """Wake the thread that waits. Any thread may call this, also after `close`.

        Calls before the next `drain` are coalesced: they write one byte together.
        """
        with self._lock:
            if not self._is_awake:
                with contextlib.suppress(OSError):  # closed
                    self._writer.send(b"!")
                    self._is_awake = True

    def drain(self) -> None:
        """Empty the pipe, so that the next `wake` makes it readable again."""
        with self._lock, contextlib.suppress(OSError):  # empty, or closed
            self._reader.recv(1)
            self._is_awake = False

    def fileno(self) -> int:
        """The descriptor to wait for; -1 after `close`."""
        return self._reader.fileno()

    def abandon(self) -> None:
        """Close both sockets in the child process of a fork, where nobody else uses the pipe: a
        thread that had its lock is not there.
        """
        self._lock = threading.RLock()
        self.close()

    def close(self) -> None:
        """Close both sockets. Unregister the pipe from its selector first."""
        with self._lock:
            self._reader.close()
            self._writer.close()
