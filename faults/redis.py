"""A private Redis (or Valkey) server in a temporary directory, which tests can kill and pause.

It never touches another one on the machine: it has its own port and socket, reads no file of
settings, and keeps nothing.
"""

import contextlib
import os
import shutil
import socket
import subprocess
import tempfile
import time

from faults.private_server import PATIENCE, PrivateServer
from faults.process import free_port

PROGRAMS = ("redis-server", "valkey-server")


class RedisMissing(Exception):
    """Neither Redis nor Valkey is installed."""


class PrivateRedis(PrivateServer):
    """A Redis server on 127.0.0.1 and on a Unix socket.

    Port and socket survive `kill()` and `start()`, so URLs stay valid. Use it as a context manager,
    or call `close()` at the end. Not thread-safe.
    """

    NAME = "Redis"

    def __init__(self, *options: str, tls: bool = False) -> None:
        """`options`: more of the program's own, such as `--requirepass secret` (two strings).

        With `tls` the port is one for TLS; then the options say which certificate to use.
        """
        self._program = find_program()
        super().__init__(tempfile.mkdtemp(prefix="jelly-redis-"))
        self._options = options
        self._port_option = "--tls-port" if tls else "--port"
        self.port = free_port()
        self.socket = self._directory / "socket"

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}"

    def start(self) -> None:
        """Make the server answer: start or resume it as needed."""
        if self._process is not None and self._process.poll() is None:
            self.resume()
            return
        # The last option for the port counts. An empty --save means: never.
        ports = ["--port", "0", self._port_option, str(self.port), "--bind", "127.0.0.1"]
        files = ["--unixsocket", str(self.socket), "--dir", str(self._directory), "--save", "", "--appendonly", "no"]
        command = [self._program, *ports, *files, *self._options]
        with self._log.open("ab") as log:
            # In a session of its own: Ctrl-C must not stop it before the tests are done with it.
            self._process = subprocess.Popen(
                command, stdout=log, stderr=log, stdin=subprocess.DEVNULL, start_new_session=True
            )
        try:
            self._wait_until_ready()
        except BaseException:
            self.kill()
            raise

    def _wait_until_ready(self) -> None:
        """Try until it answers, the server ends, or the time is over."""
        assert self._process is not None
        deadline = time.monotonic() + PATIENCE
        while self._process.poll() is None and time.monotonic() < deadline:
            with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX) as client:
                client.settimeout(PATIENCE)
                client.connect(str(self.socket))
                client.sendall(b"PING\r\n")
                if client.recv(100):  # also if it asks for a password
                    return
            time.sleep(0.005)
        raise RuntimeError(f"{self._program} did not start:\n{self._log.read_text(errors='replace')[-3000:]}")


def find_program() -> str:
    """Return the path of the first program that is installed. Raises RedisMissing if none is."""
    path = os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/sbin", "/usr/local/bin"])
    for name in PROGRAMS:
        if found := shutil.which(name, path=path):
            return found
    raise RedisMissing("Redis is not installed: apt-get install redis-server (or valkey-server)")
