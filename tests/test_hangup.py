"""SIGHUP: a renewed certificate, a rotated log file, a terminal that is gone."""

import fcntl
import os
import pty
import queue
import re
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import termios
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from harness import dated_certificate
from wire import OWN_PROFILE, PASSWORD, REGISTER, SUCCESS, Wire, register, wait_until

from faults.process import ROOT, Server, clean_environment, end, run
from jelly import cli


def make_certificate(directory: Path, name: str) -> Path:
    """A certificate for localhost with its key, in one file."""
    path, key = directory / f"{name}.pem", directory / f"{name}.key"
    subprocess.run(
        [
            "openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", f"/CN={name}",
            "-addext", "subjectAltName=DNS:localhost", "-keyout", key, "-out", path,
        ],
        check=True, capture_output=True,
    )  # fmt: skip
    path.write_bytes(path.read_bytes() + key.read_bytes())
    return path


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The one that is in use, and the one that replaces it."""
    directory = tmp_path_factory.mktemp("certificates")
    return make_certificate(directory, "old"), make_certificate(directory, "new")


class TlsWire(Wire):
    """A connection through TLS to a server that must have this certificate."""

    def __init__(self, port: int, certificate: Path) -> None:
        super().__init__(port)
        context = ssl.create_default_context(cafile=str(certificate))
        try:
            self.socket = context.wrap_socket(self.socket, server_hostname="localhost")
        except BaseException:
            self.close()
            raise


def test_nothing_to_load_anew(tmp_path: Path) -> None:
    """The log says so: the signal has come."""
    with Server(f"sqlite:///{tmp_path}/j.db") as server:
        server.process.send_signal(signal.SIGHUP)
        server.wait_for_log(b"SIGHUP: there is nothing to load anew")
        assert server.stop() == 0


def test_a_renewed_certificate(tmp_path: Path, certificates: tuple[Path, Path]) -> None:
    """New connections get it, and old ones live; a file that cannot be used is refused, and what
    was in use stays in use.
    """
    old, new = certificates
    file = tmp_path / "cert.pem"
    shutil.copy(old, file)
    with Server(f"sqlite:///{tmp_path}/j.db", f"--tls-cert={file}") as server:
        with TlsWire(server.port, old) as wire:
            assert wire.call(REGISTER, username="alice", password=PASSWORD).status == SUCCESS
        with TlsWire(server.port, old) as alice:
            alice.login("alice")
            shutil.copy(new, file)
            server.process.send_signal(signal.SIGHUP)
            server.wait_for_log(b"read the certificate anew: new connections get it")
            TlsWire(server.port, new).close()
            with pytest.raises(ssl.SSLCertVerificationError):
                TlsWire(server.port, old)
            alice.ok(OWN_PROFILE)
            file.write_text("half a certif")
            server.process.send_signal(signal.SIGHUP)
            server.wait_for_log(b"The old certificate stays in use.")
            TlsWire(server.port, new).close()
            alice.ok(OWN_PROFILE)
        assert server.stop() == 0
        assert f"ERROR jelly: The file {file} has no certificate in PEM" in server.log.decode()


def test_a_renewed_certificate_that_has_expired(tmp_path: Path, certificates: tuple[Path, Path]) -> None:
    """It is used, since the operator asked for it, and the log warns that clients refuse it."""
    file = tmp_path / "cert.pem"
    shutil.copy(certificates[0], file)
    with Server(f"sqlite:///{tmp_path}/j.db", f"--tls-cert={file}") as server:
        assert b"WARNING" not in server.log
        key = file.with_name("key.pem")
        shutil.copy(file, key)
        expired = dated_certificate(tmp_path, key, "expired")
        file.write_bytes(expired.read_bytes() + key.read_bytes()[key.read_bytes().index(b"-----BEGIN PRIVATE KEY") :])
        server.process.send_signal(signal.SIGHUP)
        server.wait_for_log(b"read the certificate anew")
        assert f"WARNING jelly.tls: the certificate {file} has expired, so clients refuse it" in server.log.decode()
        assert server.stop() == 0


class LoggingServer(Server):
    """A server that logs to a file, jelly.log."""

    def __init__(self, directory: Path, *arguments: str) -> None:
        self.path = directory / "jelly.log"
        super().__init__(f"sqlite:///{directory}/j.db", f"--log-file={self.path}", *arguments)

    @property
    def log(self) -> bytes:
        return self.path.read_bytes() if self.path.exists() else b""


def test_a_log_file_that_was_moved_away(tmp_path: Path) -> None:
    """From the signal on the log goes to a new file of the old name, and no line is lost."""
    with LoggingServer(tmp_path) as server:
        moved = server.path.rename(tmp_path / "jelly.log.1")
        server.process.send_signal(signal.SIGHUP)
        server.wait_for_log(b"opened the log file anew")
        assert server.stop() == 0
        assert b"listening on" in moved.read_bytes()
        assert b"stopped" not in moved.read_bytes()
        assert b"listening on" not in server.log
        assert server.log.splitlines()[-1].endswith(b"stopped")


def test_a_log_file_that_cannot_be_opened_anew(tmp_path: Path) -> None:
    """The log goes on in the old file, which says why."""
    with LoggingServer(tmp_path) as server:
        moved = server.path.rename(tmp_path / "jelly.log.1")
        server.path.mkdir()
        server.process.send_signal(signal.SIGHUP)
        wait_until(lambda: b"Is a directory; the log goes on in the old file" in moved.read_bytes())
        assert server.stop() == 0
        assert moved.read_bytes().splitlines()[-1].endswith(b"stopped")
        server.path.rmdir()


def test_a_log_file_that_cannot_be_written(tmp_path: Path) -> None:
    """It is a wrong setting: one sentence, exit code 2."""
    done = run("--port=0", f"--log-file={tmp_path}/no/jelly.log", f"--database=sqlite:///{tmp_path}/j.db")
    assert done.returncode == 2
    assert done.stderr == f"jelly: Cannot write the log to {tmp_path}/no/jelly.log: No such file or directory.\n"


def test_ignored_stays_ignored(tmp_path: Path) -> None:
    """As `nohup` wants it."""
    with Server(f"sqlite:///{tmp_path}/j.db", within=("nohup",)) as server:
        server.process.send_signal(signal.SIGHUP)
        register(server.port, "alice")
        assert server.stop() == 0
        assert b"anew" not in server.log


class InTerminal:
    """A demo server that was started in a terminal; `close` closes the terminal."""

    def __init__(self, directory: Path) -> None:
        self._master, slave = pty.openpty()
        self.log = directory / "jelly.log"
        command = [sys.executable, str(ROOT / "jelly.py"), "--demo", "--port=0", "--password-cost=1"]
        self.process = subprocess.Popen(
            [*command, f"--log-file={self.log}"],
            stdin=slave, stdout=slave, stderr=slave, start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
            env={**clean_environment(), "TMPDIR": str(directory)},
        )  # fmt: skip
        os.close(slave)
        self.is_open = True

    def says(self, words: str) -> bool:
        """Whether the log has some words."""
        return self.log.exists() and words in self.log.read_text()

    def close(self) -> None:
        if self.is_open:
            os.close(self._master)
            self.is_open = False


@pytest.fixture
def in_terminal(tmp_path: Path) -> Iterator[InTerminal]:
    """A demo server in a terminal, which serves."""
    server = InTerminal(tmp_path)
    try:
        wait_until(lambda: server.says("listening on"))
        yield server
    finally:
        server.close()
        end(server.process)


def test_signals_go_to_the_thread_that_waits_for_them(tmp_path: Path) -> None:
    """Another thread would not wake the one that stops the server, and the signal would be lost."""
    wanted = {signal.SIGTERM, signal.SIGINT, signal.SIGHUP}
    with Server(f"sqlite:///{tmp_path}/j.db") as server, Wire(server.port):
        for thread in Path(f"/proc/{server.process.pid}/task").iterdir():
            [blocked] = re.findall(r"^SigBlk:\s*(\w+)$", (thread / "status").read_text(), re.MULTILINE)
            is_blocked = [int(blocked, 16) >> (number - 1) & 1 for number in wanted]
            assert is_blocked == [int(thread.name) != server.process.pid] * 3


def test_a_terminal_that_is_closed(in_terminal: InTerminal, tmp_path: Path) -> None:
    """The server that was started there stops in order; `--demo` leaves nothing behind."""
    in_terminal.close()
    assert in_terminal.process.wait(10) == 0
    assert in_terminal.says("INFO jelly: stopped")
    assert list(tmp_path.iterdir()) == [in_terminal.log]


def test_a_terminal_that_is_there(in_terminal: InTerminal) -> None:
    """A SIGHUP by hand only reloads; the terminal may be closed later."""
    in_terminal.process.send_signal(signal.SIGHUP)
    wait_until(lambda: in_terminal.says("opened the log file anew"))
    port = int(in_terminal.log.read_text().partition(" port ")[2].split(";")[0])
    with socket.create_connection(("127.0.0.1", port)), Wire(port) as wire:
        wire.wait_until_served()
    in_terminal.close()
    assert in_terminal.process.wait(10) == 0


def test_a_signal_that_does_not_wake_the_thread_that_waits() -> None:
    """Its handler runs all the same: here the system gives the signal to another thread."""
    reasons: queue.SimpleQueue[str] = queue.SimpleQueue()
    before = signal.signal(signal.SIGUSR1, lambda *_: reasons.put("signal"))
    is_waiting = threading.Event()

    def get_signal() -> None:
        is_waiting.wait()
        signal.pthread_kill(threading.get_ident(), signal.SIGUSR1)

    other = threading.Thread(target=get_signal)
    other.start()
    late = threading.Timer(10, reasons.put, ["nothing"])
    late.start()
    try:
        threading.Timer(0.3, is_waiting.set).start()
        assert cli.next_reason(reasons) == "signal"
    finally:
        late.cancel()
        other.join()
        signal.signal(signal.SIGUSR1, before)
