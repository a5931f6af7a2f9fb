"""A TCP proxy between a client and its server that can break connections."""

import contextlib
import selectors
import socket
import struct
import threading
import time
from collections import deque
from collections.abc import Callable
from types import TracebackType
from typing import Any, Self

from jelly.wakeup import WakeupPipe

GREETING, TLS_FLAG = b"\0\x0a", 0x0800
"""How the first packet of a server begins, and the bit in it that offers TLS."""
COMMITS = (b"\x03COMMIT", b"\x03\0\1COMMIT")
"""What a client of MariaDB or MySQL sends after the four bytes of the header: to MySQL with the
numbers of its parameters."""
PATIENCE = 10.0
"""At most this many seconds to connect to the server."""


class Proxy:
    """Forwards bytes between its own port and a server's, on one thread.

    A broken connection is reset on both sides. `target`, the server's port, may be changed: it
    applies to new connections.
    """

    def __init__(self, target: int) -> None:
        self.target = target
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=1024)
        self.port: int = self._listener.getsockname()[1]
        self._selector = selectors.DefaultSelector()
        self._wakeup = WakeupPipe()
        self._selector.register(self._listener, selectors.EVENT_READ)
        self._selector.register(self._wakeup, selectors.EVENT_READ)
        self._pairs: dict[socket.socket, socket.socket] = {}
        self._commands: deque[Callable[[], bool]] = deque()
        self._is_blocked = False
        self._may_run = threading.Event()
        self._may_run.set()
        self._thread = threading.Thread(target=self._run, name="proxy")

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._may_run.set()
        self._run_on_thread(lambda: False)
        self._thread.join()

    def cut(self, number: int | None = None) -> None:
        """Break the connection with this number, or all of them."""

        def cut() -> bool:
            clients = list(self._pairs)[::2]
            chosen = clients if number is None else [clients[number % len(clients)]] if clients else []
            for client in chosen:
                self._close(client)
            return True

        self._run_on_thread(cut)

    def block(self) -> None:
        """Break all connections, and refuse new ones until `mend`."""
        self._is_blocked = True
        self.cut()

    def mend(self) -> None:
        """Accept new connections again."""
        self._is_blocked = False

    def pause(self) -> None:
        """Let nothing through until `resume`, as a network that is cut: nobody is told."""
        self._may_run.clear()
        self._wakeup.wake()

    def resume(self) -> None:
        """Let everything through again, also what has gathered."""
        self._may_run.set()

    def _run_on_thread(self, command: Callable[[], bool]) -> None:
        self._commands.append(command)
        self._wakeup.wake()

    def _run(self) -> None:
        with self._listener, self._selector, contextlib.closing(self._wakeup):
            while self._step():
                pass
            for client in list(self._pairs)[::2]:
                self._close(client)

    def _step(self) -> bool:
        for key, _ in self._selector.select():
            sock: Any = key.fileobj
            self._may_run.wait()
            if sock is self._wakeup:
                self._wakeup.drain()
                while self._commands:
                    if not self._commands.popleft()():
                        return False
            elif sock is self._listener:
                self._accept()
            elif sock in self._pairs:
                self._forward(sock)
        return True

    def _accept(self) -> None:
        client, _ = self._listener.accept()
        try:
            if self._is_blocked:
                raise ConnectionRefusedError
            server = socket.create_connection(("127.0.0.1", self.target), PATIENCE)
        except OSError:
            _reset(client)
            return
        self._pairs.update({client: server, server: client})
        for sock in (client, server):
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._selector.register(sock, selectors.EVENT_READ)

    def _forward(self, sock: socket.socket) -> None:
        try:
            data = sock.recv(65536)
            if data:
                self._deliver(sock, data)
        except OSError:
            data = b""
        if not data:
            self._close(sock, reset=False)

    def _deliver(self, sock: socket.socket, data: bytes) -> None:
        """Forward the bytes that one side has sent to the other."""
        self._pairs[sock].sendall(data)

    def _close(self, sock: socket.socket, reset: bool = True) -> None:
        for each in (sock, self._pairs.pop(sock)):
            self._pairs.pop(each, None)
            self._selector.unregister(each)
            (_reset if reset else socket.socket.close)(each)


class SlowProxy(Proxy):
    """A proxy that can be slow: each step waits, so all connections are late."""

    delay = 0.0
    """Seconds by which everything is late."""

    def _step(self) -> bool:
        goes_on = super()._step()
        time.sleep(self.delay)  # what comes meanwhile is forwarded together
        return goes_on


class CommitProxy(Proxy):
    """A proxy in front of MySQL or MariaDB that can break a connection at a COMMIT.

    It reads along, so it hides from the client that the server offers TLS, as MySQL does.
    """

    def __init__(self, target: int) -> None:
        super().__init__(target)
        self.cuts = 0
        """How often it has done so."""
        self._is_armed = self._lets_it_happen = self._stays_away = False
        self._committing: socket.socket | None = None
        self._results = 0  # how many the commit has, with the statements that came with it

    def cut_at_commit(self, happens: bool, stays_away: bool = False) -> None:
        """Break the connection of the next COMMIT.

        `happens`: the COMMIT reaches the server, and only its answer is lost. `stays_away`: new
        connections are refused until `mend`.
        """
        self._lets_it_happen, self._stays_away, self._is_armed = happens, stays_away, True

    def _deliver(self, sock: socket.socket, data: bytes) -> None:
        if sock is self._committing:  # the answer
            self._results -= _count_packets(data)
            if self._results <= 0:
                self._committing = None
                self._cut_pair(sock)
        elif self._is_armed and (data[4:].upper() in COMMITS or data.upper().endswith(b";COMMIT")):
            self._is_armed = False
            self._results = data[4:].count(b";") + 1  # (the length in the header may have this byte)
            if self._lets_it_happen:
                self._committing = self._pairs[sock]
                super()._deliver(sock, data)
            else:
                self._cut_pair(sock)
        elif data[3:5] == GREETING:
            at = data.index(0, 5) + 14  # behind the version, the number of the connection, and a part of the challenge
            flags = int.from_bytes(data[at : at + 2], "little") & ~TLS_FLAG
            super()._deliver(sock, data[:at] + flags.to_bytes(2, "little") + data[at + 2 :])
        else:
            super()._deliver(sock, data)

    def _cut_pair(self, sock: socket.socket) -> None:
        self.cuts += 1
        self._is_blocked = self._stays_away
        self._close(sock)


def _count_packets(data: bytes) -> int:
    """How many packets of MySQL's protocol are in data, which begins with one."""
    count = at = 0
    while at < len(data):
        at += 4 + int.from_bytes(data[at : at + 3], "little")
        count += 1
    return count


def _reset(sock: socket.socket) -> None:
    with contextlib.suppress(OSError):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()
