"""A MariaDB server of our own: started in a temporary directory, killed and paused at will.

Nothing of it touches a database that may run on the machine: it has its own data, socket and port, and reads
none of the option files.
"""

import os
import shutil
import signal
import subprocess
import tempfile
import time
from pathlib import Path
from types import TracebackType
from typing import Self

from faults.process import free_port

USER, PASSWORD = "jelly", "password"
PATIENCE = 30.0
"""Seconds until a server that does not come up, or does not go down, is an error."""


class MariaDBMissing(Exception):
    """The programs of MariaDB are not installed."""


class PrivateMariaDB:
    """A MariaDB server on 127.0.0.1, and the user `jelly` who may do everything on it.

    Port, password and data stay the same over `kill()` and `start()`, so that a URL stays good. Use it as a
    context manager, or call `close()` at the end. One thread at a time may use it.
    """

    def __init__(self) -> None:
        self._server = _program("mariadbd", "mysqld")
        self._install = _program("mariadb-install-db", "mysql_install_db")
        self._client = _program("mariadb", "mysql")
        self._directory = Path(tempfile.mkdtemp(prefix="jelly-mariadb-"))
        self._socket = self._directory / "socket"
        self._log = self._directory / "log"
        self._process: subprocess.Popen[bytes] | None = None
        self.port = free_port()

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def pid(self) -> int:
        """The process id of the server. Raises RuntimeError if it does not run."""
        if self._process is None:
            raise RuntimeError("the database is not running: call start()")
        return self._process.pid

    def start(self) -> None:
        """Have the server accept connections: install, start or resume it, whatever it needs."""
        if self._process is not None and self._process.poll() is None:
            self.resume()
            return
        installed = (self._directory / "data").exists()
        if not installed:
            self._run([self._install, *self._options(), "--auth-root-authentication-method=normal", "--skip-test-db"])
        with self._log.open("ab") as log:
            # In a session of its own, so that Ctrl-C at the tests does not reach it before they are done with it.
            self._process = subprocess.Popen(
                [self._server, *self._options(), *self._server_options()],
                stdout=log, stderr=log, stdin=subprocess.DEVNULL, start_new_session=True,
            )  # fmt: skip
        try:
            self._wait_until_ready()
            if not installed:
                self.sql(f"GRANT ALL ON *.* TO '{USER}'@'%' IDENTIFIED BY '{PASSWORD}' WITH GRANT OPTION")
        except BaseException:
            self.kill()
            raise

    def stop(self) -> None:
        """Shut the server down in good order. Does nothing if it does not run."""
        if self._process is None:
            return
        self.resume()
        self._process.terminate()
        self._process.wait(PATIENCE)
        self._process = None

    def kill(self) -> None:
        """End the server at once, as a crash would (SIGKILL). Does nothing if it does not run."""
        if self._process is None:
            return
        self._process.kill()
        self._process.wait(PATIENCE)
        self._process = None

    def restart(self) -> None:
        """Shut the server down in good order and start it again."""
        self.stop()
        self.start()

    def pause(self) -> None:
        """Make the server hang (SIGSTOP): connections stay open, but nothing answers. See `resume()`."""
        os.kill(self.pid, signal.SIGSTOP)
        # The signal takes a moment to reach all threads; WNOWAIT leaves the rest to Popen.
        os.waitid(os.P_PID, self.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)

    def resume(self) -> None:
        """Let a paused server go on (SIGCONT)."""
        os.kill(self.pid, signal.SIGCONT)

    def close(self) -> None:
        """Kill the server and remove all that it has written."""
        self.kill()
        shutil.rmtree(self._directory, ignore_errors=True)

    def fresh_database(self, name: str, collation: str | None = None) -> str:
        """Create a database anew, empty, and return its URL. The server is started if a test left it dead or paused.

        The collation is the database's default, which tables get that do not name one.
        """
        self.start()
        default = f" COLLATE {collation}" if collation else ""
        self.sql(f"DROP DATABASE IF EXISTS `{name}`; CREATE DATABASE `{name}`{default}")
        return f"mysql://{USER}:{PASSWORD}@127.0.0.1:{self.port}/{name}"

    def sql(self, statements: str) -> list[list[str]]:
        """Run statements as root, over the socket; return the rows of their results, all values as text."""
        command = [self._client, "--no-defaults", f"--socket={self._socket}", "--user=root", "--batch"]
        output = self._run([*command, "--skip-column-names", f"--execute={statements}"])
        return [line.split("\t") for line in output.splitlines()]

    def _options(self) -> list[str]:
        """What the installer and the server must be told alike. (--no-defaults has to stand first.)"""
        options = ["--no-defaults", f"--datadir={self._directory / 'data'}", "--innodb-log-file-size=16M"]
        return [*options, "--user=root"] if os.geteuid() == 0 else options

    def _server_options(self) -> list[str]:
        return [
            "--bind-address=127.0.0.1",
            f"--port={self.port}",
            f"--socket={self._socket}",
            f"--pid-file={self._directory / 'pid'}",
            "--skip-name-resolve",
            "--character-set-server=utf8mb4",
            "--innodb-flush-log-at-trx-commit=1",
            # Small, so that it starts fast.
            "--innodb-buffer-pool-size=32M",
            "--aria-pagecache-buffer-size=8M",
            "--key-buffer-size=1M",
            "--performance-schema=OFF",
            "--sync-frm=OFF",  # a table's definition, of which the tests make many; what is stored in it is synced,
        ]

    def _wait_until_ready(self) -> None:
        """Connect until it works, the server ends, or patience does."""
        assert self._process is not None
        deadline = time.monotonic() + PATIENCE
        while self._process.poll() is None and time.monotonic() < deadline:
            try:
                self.sql("SELECT 1")  # it opens the socket and the port together, then answers at both
                return
            except subprocess.CalledProcessError:
                time.sleep(0.02)
        raise RuntimeError(f"mariadbd did not start:\n{self._log.read_text(errors='replace')[-3000:]}")

    def _run(self, command: list[str]) -> str:
        """Run a program to its end and return what it printed; on failure raise, with what it complained about."""
        done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE)
        if done.returncode != 0:
            error = subprocess.CalledProcessError(done.returncode, command, done.stdout, done.stderr)
            error.add_note(done.stderr[-3000:] or done.stdout[-3000:])
            raise error
        return done.stdout


def _program(*names: str) -> str:
    """The path of the first of these programs that is installed. Raises MariaDBMissing if none is."""
    # Debian keeps the server in /usr/sbin, which is not on every user's path.
    path = os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/sbin", "/usr/local/sbin"])
    for name in names:
        if found := shutil.which(name, path=path):
            return found
    raise MariaDBMissing(f"{names[0]} is not installed: apt-get install mariadb-server")
