"""`python jelly.py --demo`: a server to try out, which leaves nothing behind."""

import contextlib
import os
import re
import select
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from wire import ALL_FRIENDS, OWN_GROUPS, Wire, wait_until

from faults.process import PATIENCE, ROOT, bare_python, clean_environment, end, run
from jelly import cli

Demo = tuple[subprocess.Popen[bytes], str]


@pytest.fixture
def demo(tmp_path: Path) -> Iterator[Demo]:
    """A running demo, and what it says until clients may come."""
    with start_demo(tmp_path) as started:
        yield started


@contextlib.contextmanager
def start_demo(directory: Path, *arguments: str) -> Iterator[Demo]:
    command = [*bare_python(), str(ROOT / "jelly.py"), "--demo", "--port=0", "--password-cost=1", *arguments]
    environment = {**clean_environment(), "TMPDIR": str(directory)}
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=environment) as process:
        assert process.stdout is not None
        said = b""
        try:
            while not re.search(rb"server stops\.\n\n", said):
                assert select.select([process.stdout], [], [], PATIENCE)[0], said
                said += os.read(process.stdout.fileno(), 4096)
            yield process, said.decode()
        finally:
            end(process)


def test_its_users_can_log_in(demo: Demo) -> None:
    """It prints a command and a password for each of its users, who are friends and have a
    group.
    """
    start = re.escape(shlex.join([bare_python()[0], str(ROOT / "jelly.py")]))
    lines = re.findall(rf"{start} chat (\w+) --server jelly://127\.0\.0\.1:(\d+)\n +password: (\w+)\n", demo[1])
    assert [name for name, _, _ in lines] == ["alice", "bob"]
    for name, port, password in lines:
        with Wire(int(port)) as wire:
            assert wire.login(name, password).status == 0x31
            assert set(wire.ok(ALL_FRIENDS)["friends"]) == {"alice", "bob"} - {name}
            assert wire.ok(OWN_GROUPS)["groups"] == {"team": ["alice", "bob"]}


def test_with_tls(certificate: tuple[Path, Path], tmp_path: Path) -> None:
    """The command that it prints names the certificate, and works if that has the address."""
    path = tmp_path / "my cert.pem"
    shutil.copy(certificate[0], path)
    with start_demo(tmp_path, f"--tls-cert={path}", f"--tls-key={certificate[1]}", "--host=localhost") as (_, said):
        found = re.search(r" chat alice (--server jellys://localhost:\d+ --tls-ca .+)\n +password: (\w+)\n", said)
        assert found
        done = run("chat", "alice", *shlex.split(found[1]), "--send", "bob", "hello", JELLY_PASSWORD=found[2])
        assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("typed", "on_path", "expected"),
    [
        (["python3", "jelly.py"], None, "python3 jelly.py"),
        (["python3", "-X", "dev", "../jelly.py"], None, "python3 ../jelly.py"),
        (["/usr/bin/python", "/opt/bin/jelly"], "/opt/bin/jelly", "jelly"),
        (["/usr/bin/python", "/my venv/bin/jelly"], None, "'/my venv/bin/jelly'"),
    ],
)
def test_the_command_is_the_one_that_was_typed(
    typed: list[str], on_path: str | None, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The demo prints commands that start the chat in the same way."""
    monkeypatch.setattr(sys, "orig_argv", [*typed, "--demo"])
    monkeypatch.setattr(sys, "argv", [typed[-1], "--demo"])
    monkeypatch.setattr(shutil, "which", lambda _: on_path)
    assert cli.typed_command() == expected


def test_nothing_is_left(demo: Demo, tmp_path: Path) -> None:
    """When it is stopped its database is gone, and it exits with code 0."""
    process, _ = demo
    assert any(tmp_path.iterdir())
    process.send_signal(signal.SIGTERM)
    assert process.wait(PATIENCE) == 0
    assert not any(tmp_path.iterdir())


def test_an_output_that_is_gone(tmp_path: Path) -> None:
    """The terminal may be closed, or the pipe, before the passwords are printed: it serves on, and
    can be stopped.
    """
    reader, writer = os.pipe()
    os.close(reader)
    log = tmp_path / "jelly.log"
    command = [sys.executable, str(ROOT / "jelly.py"), "--demo", "--port=0", "--password-cost=1", f"--log-file={log}"]
    environment = {**clean_environment(), "TMPDIR": str(tmp_path)}
    with subprocess.Popen(command, stdout=writer, env=environment) as process:
        os.close(writer)
        try:
            wait_until(lambda: log.exists() and "cannot print the passwords of the demo: Broken" in log.read_text())
            process.send_signal(signal.SIGTERM)
            assert process.wait(PATIENCE) == 0
        finally:
            end(process)
    assert list(tmp_path.iterdir()) == [log]


def test_a_database_of_ones_own(tmp_path: Path) -> None:
    """Whoever names a database wants to keep it: that is refused in one sentence."""
    done = run("--demo", f"--database=sqlite:///{tmp_path}/jelly.db")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "--demo uses its own temporary database" in done.stderr
    assert not any(tmp_path.iterdir())


def test_no_room(tmp_path: Path) -> None:
    """A full disk is told in one sentence, and nothing is left on it."""
    command = ["sh", "-c", 'ulimit -f 8; exec "$@"', "sh", sys.executable, "-S", str(ROOT / "jelly.py"), "--demo"]
    environment = {**clean_environment(), "TMPDIR": str(tmp_path)}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=PATIENCE)
    assert (done.returncode, done.stderr.count("\n")) == (1, 1), done.stderr
    assert "Cannot create the demo database" in done.stderr
    assert done.stderr.endswith("Set TMPDIR to a directory with room.\n")
    assert not any(tmp_path.iterdir())
