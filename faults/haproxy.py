"""A private HAProxy in a temporary directory, which tests can stop and kill.

It reads the configuration that it is given and nothing else on the machine.
"""

import csv
import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Mapping
from typing import NamedTuple

from faults.private_server import PrivateServer
from faults.process import PATIENCE, clean_environment, end, free_port


class HAProxyMissing(Exception):
    """HAProxy is not installed."""


class Backend(NamedTuple):
    """What HAProxy knows of one server behind it."""

    status: str
    """Such as `UP`, `DOWN`, `DRAIN`; `UP 2/3` after the first of three checks that fail."""
    check: str
    """How the last check ended: `L7OK` if it was answered, `L4CON` if the connection was refused,
    `L7TOUT` if no answer came, `INI` before the first one has ended."""
    sessions: int
    """How many connections go to it now. (Checks do not count.)"""

    @property
    def is_up(self) -> bool:
        """Whether a check was answered, and the server gets connections."""
        return self.status == "UP" and self.check == "L7OK"


class PrivateHAProxy(PrivateServer):
    """HAProxy on 127.0.0.1, with a configuration that listens on the address in `JELLY_BIND`.

    The port survives `kill()` and `start()`. Use it as a context manager, or call `close()` at the
    end. Not thread-safe.
    """

    NAME = "HAProxy"

    def __init__(self, configuration: str, environment: Mapping[str, str] | None = None, port: int = 0) -> None:
        """`configuration`: the text of a file. `environment`: more variables that it uses. `port`:
        0 chooses a free one. Raises HAProxyMissing.
        """
        self._program = find_program()
        self.port = port or free_port()
        self._environment = {**clean_environment(), **(environment or {}), "JELLY_BIND": f"127.0.0.1:{self.port}"}
        super().__init__(tempfile.mkdtemp(prefix="jelly-haproxy-"))
        self._socket = self._directory / "admin"
        self._files = [self._directory / name for name in ("own.cfg", "given.cfg")]
        # The socket for commands is no matter of the configuration that is tested.
        own = f"global\n    stats socket {self._socket} mode 600 level admin\n"
        for file, text in zip(self._files, (own, configuration), strict=True):
            file.write_text(text, encoding="utf-8")

    @property
    def log(self) -> str:
        """What it has said so far."""
        return self._log.read_text(errors="replace") if self._log.exists() else ""

    def start(self) -> None:
        """Start it, and wait until it accepts connections. Raises RuntimeError if it does not."""
        with self._log.open("ab") as log:
            # In a session of its own: Ctrl-C must not stop it before the nodes.
            self._process = subprocess.Popen(
                [self._program, "-db", "--", *self._files],
                stdout=log, stderr=log, stdin=subprocess.DEVNULL, start_new_session=True, env=self._environment,
            )  # fmt: skip
        deadline = time.monotonic() + PATIENCE
        while self._process.poll() is None and time.monotonic() < deadline:
            try:
                self.command("show info")  # answered when all ports are open
                return
            except OSError:
                time.sleep(0.01)
        raise RuntimeError(f"HAProxy did not start:\n{self.log[-3000:]}")

    def stop(self) -> None:
        """End it and all connections through it. Does nothing if it is not running."""
        if self._process is not None:
            end(self._process)
            self._process = None

    def command(self, text: str) -> str:
        """Send a command of the runtime API, such as `set server nodes/node1 state drain`.

        Return the answer. Raises OSError if HAProxy is not there.
        """
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(PATIENCE)
            connection.connect(str(self._socket))
            connection.sendall(f"{text}\n".encode())
            answer = b""
            while data := connection.recv(65536):
                answer += data
        return answer.decode(errors="replace")

    def backends(self) -> dict[str, Backend]:
        """Return what it knows of each server, by the name in the configuration."""
        rows = csv.DictReader(self.command("show stat -1 4 -1").removeprefix("# ").splitlines())
        return {
            row["svname"]: Backend(row["status"], row["check_status"].removeprefix("* "), int(row["scur"]))
            for row in rows
        }

    def wait_until_says(self, words: str) -> None:
        """Wait until the log has some words. Raises RuntimeError if they do not come."""
        deadline = time.monotonic() + PATIENCE
        while words not in self.log:
            if time.monotonic() > deadline:
                raise RuntimeError(f"HAProxy never said {words!r}:\n{self.log[-3000:]}")
            time.sleep(0.01)


def find_program() -> str:
    """Return the path of HAProxy. Raises HAProxyMissing."""
    # Debian keeps it in /usr/sbin, which is not on every user's path.
    path = os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/sbin", "/usr/local/sbin"])
    if found := shutil.which("haproxy", path=path):
        return found
    raise HAProxyMissing("HAProxy is not installed: run apt-get install haproxy")
