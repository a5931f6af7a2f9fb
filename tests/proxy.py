"""A line that can be cut: a TCP proxy between a client and its server."""

import contextlib
import select
import socket
import struct
import threading
from types import TracebackType
from typing import Self

RESET = struct.pack("ii", 1, 0)


class Proxy:
    """Passes on bytes both ways between each client and the server at `target`. `port` is where clients connect."""

    def __init__(self, target: int) -> None:
        self._target = target
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._bell, self._ear = socket.socketpair()
        self._lock = threading.Lock()  # guards what is below
        self._pairs: dict[socket.socket, socket.socket] = {}
        self._is_open = True
        self._thread = threading.Thread(target=self._run, name="proxy")
        self._thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bell.close()
        self._thread.join()
        self.cut()
        self._listener.close()
        self._ear.close()

    def cut(self) -> None:
        """Reset every connection, and each one that comes, until `mend`."""
        with self._lock:
            self._is_open = False
            for line in list(self._pairs):
                self._drop(line)

    def mend(self) -> None:
        """Let new connections through."""
        with self._lock:
            self._is_open = True

    def _run(self) -> None:
        while True:
            with self._lock:
                lines = list(self._pairs)
            ready, _, _ = select.select([self._listener, self._ear, *lines], [], [], 0.05)  # lines may be gone by now
            if self._ear in ready:
                return
            for line in ready:
                with self._lock:
                    if line is self._listener:
                        self._accept()
                    elif line in self._pairs:
                        self._pass_on(line)

    def _accept(self) -> None:
        client, _ = self._listener.accept()
        if not self._is_open:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
            client.close()
            return
        server = socket.create_connection(("127.0.0.1", self._target))
        self._pairs |= {client: server, server: client}

    def _pass_on(self, line: socket.socket) -> None:
        try:
            data = line.recv(65536)
            self._pairs[line].sendall(data)
        except OSError:
            data = b""
        if not data:
            self._drop(line, reset=False)

    def _drop(self, line: socket.socket, reset: bool = True) -> None:
        for each in (line, self._pairs.get(line)):
            if each and self._pairs.pop(each, None):
                if reset:
                    with contextlib.suppress(OSError):
                        each.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
                each.close()
