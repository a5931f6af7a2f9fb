"""A private MariaDB server in a temporary directory, which tests can kill and pause.

It never touches another database on the machine: it has its own data, socket and port, and reads no
option files.
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

USER, PASSWORD = "jelly", "password"


class MariaDBMissing(Exception):
    """The programs of MariaDB are not installed."""


class PrivateMariaDB(PrivateServer):
    """A MariaDB server on 127.0.0.1, with a user `jelly` who has all privileges.

    Port, password and data survive `kill()` and `start()`, so URLs stay valid. Use it as a context
    manager, or call `close()` at the end. Not thread-safe. (`faults/mysql.py` has the same for
    MySQL.)
    """

    NAME = "MariaDB"
    SMALL_LOG = "--innodb-log-file-size=16M"
    MAKE_USER = f"GRANT ALL ON *.* TO '{USER}'@'%' IDENTIFIED BY '{PASSWORD}' WITH GRANT OPTION"

    def __init__(self) -> None:
        self._server, self._install, self._client = self._find_programs()
        super().__init__(tempfile.mkdtemp(prefix="jelly-mariadb-"))
        self._socket = self._directory / "socket"
        self.port = free_port()

    def start(self) -> None:
        """Make the server accept connections: install, start or resume it as needed."""
        if self._process is not None and self._process.poll() is None:
            self.resume()
            return
        installed = (self._directory / "data").exists()
        if not installed:
            self._run([self._install, *self._options(), *self._installer_options()])
        with self._log.open("ab") as log:
            # In a session of its own: Ctrl-C must not stop it before the tests are done with it.
            self._process = subprocess.Popen(
                [self._server, *self._options(), *self._server_options()],
                stdout=log, stderr=log, stdin=subprocess.DEVNULL, start_new_session=True,
            )  # fmt: skip
        try:
            self._wait_until_ready()
            if not installed:
                self.sql(self.MAKE_USER)
        except BaseException:
            self.kill()
            raise

    def restart(self) -> None:
        """Shut the server down cleanly and start it again."""
        self.stop()
        self.start()

    def fresh_database(self, name: str, collation: str | None = None) -> str:
        """Create an empty database, or replace it by an empty one, and return its URL.

        Start the server if a test has left it killed or paused. `collation` is the default for
        tables.
        """
        self.start()
        default = f" COLLATE {collation}" if collation else ""
        self.sql(f"DROP DATABASE IF EXISTS `{name}`; CREATE DATABASE `{name}`{default}")
        return self.url(name)

    def url(self, name: str) -> str:
        """Return the URL of a database."""
        return f"mysql://{USER}:{PASSWORD}@127.0.0.1:{self.port}/{name}"

    def sql(self, statements: str) -> list[list[str]]:
        """Run statements as root, and return the rows of their results, all values as text."""
        command = [self._client, "--no-defaults", f"--socket={self._socket}", "--user=root", "--batch"]
        output = self._run([*command, "--skip-column-names", f"--execute={statements}"])
        return [line.split("\t") for line in output.splitlines()]

    def _options(self) -> list[str]:
        """Return the options of both the installer and the server.

        (--no-defaults must come first.)
        """
        # With a shared directory, one server removes the temporary tables of another as it starts.
        own = [f"--datadir={self._directory / 'data'}", f"--tmpdir={self._directory}"]
        options = ["--no-defaults", *own, self.SMALL_LOG]
        return [*options, "--user=root"] if os.geteuid() == 0 else options

    def _find_programs(self) -> tuple[str, str, str]:
        """Return the server, what installs a database, and the client. Raises MariaDBMissing."""
        installer = _program("mariadb-install-db", "mysql_install_db")
        return _program("mariadbd", "mysqld"), installer, _program("mariadb", "mysql")

    def _installer_options(self) -> list[str]:
        return ["--auth-root-authentication-method=normal", "--skip-test-db"]

    def _server_options(self) -> list[str]:
        # --sync-frm=OFF: table definitions are not synced (tests make many); data still is.
        return [*self._common_options(), "--aria-pagecache-buffer-size=8M", "--sync-frm=OFF"]

    def _common_options(self) -> list[str]:
        return [
            "--bind-address=127.0.0.1",
            f"--port={self.port}",
            f"--socket={self._socket}",
            f"--pid-file={self._directory / 'pid'}",
            "--skip-name-resolve",
            "--character-set-server=utf8mb4",
            "--innodb-flush-log-at-trx-commit=1",
            # Small buffers start faster.
            "--innodb-buffer-pool-size=32M",
            "--key-buffer-size=1M",
            "--performance-schema=OFF",
        ]

    def _wait_until_ready(self) -> None:
        """Try to connect until it works, the server ends, or the time is over."""
        assert self._process is not None
        deadline = time.monotonic() + PATIENCE
        while self._process.poll() is None and time.monotonic() < deadline:
            with contextlib.suppress(OSError, subprocess.CalledProcessError):
                with socket.socket(socket.AF_UNIX) as probe:  # a client program takes ten times as long to fail
                    probe.connect(str(self._socket))
                self.sql("SELECT 1")  # the socket and the port open at the same time
                return
            time.sleep(0.01)
        raise RuntimeError(f"{self._server} did not start:\n{self._log.read_text(errors='replace')[-3000:]}")

    def _run(self, command: list[str]) -> str:
        """Run a program and return its output. Raises CalledProcessError with the error output."""
        done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE)
        if done.returncode != 0:
            error = subprocess.CalledProcessError(done.returncode, command, done.stdout, done.stderr)
            error.add_note(done.stderr[-3000:] or done.stdout[-3000:])
            raise error
        return done.stdout


def _program(*names: str) -> str:
    """Return the path of the first program that is installed. Raises MariaDBMissing if none is."""
    # Debian keeps the server in /usr/sbin, which is not on every user's path.
    path = os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/sbin", "/usr/local/sbin"])
    for name in names:
        if found := shutil.which(name, path=path):
            return found
    raise MariaDBMissing(f"{names[0]} is not installed: apt-get install mariadb-server")
