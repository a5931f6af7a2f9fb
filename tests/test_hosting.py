"""docs/hosting.md, and the README's part of it: the commands and the service work as they stand."""

import configparser
import re
import shlex
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from wire import logged_in, register, wait_until

from faults.process import PATIENCE, ROOT, Server, clean_environment, end

README, PAGE = ((ROOT / name).read_text(encoding="utf-8") for name in ("README.md", "docs/hosting.md"))
JELLY = shlex.join([sys.executable, str(ROOT / "jelly.py")])
pages = pytest.mark.parametrize("page", [README, PAGE], ids=["README.md", "hosting.md"])


def command(page: str, start: str) -> str:
    """The one line of code that begins like this."""
    lines = [line for line in re.findall(r"^    (.+)$", page, re.MULTILINE) if line.startswith(start)]
    assert len(lines) == 1, lines
    return str(lines[0])


def run(line: str, directory: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a command of the page in a shell. `jelly`, `python` and `python jelly.py` are those of
    this checkout.
    """
    line = re.sub(r"^jelly |\bpython jelly\.py ", lambda _: f"{JELLY} ", line)
    line = re.sub(r"\bpython -m ", lambda _: f"{shlex.quote(sys.executable)} -m ", line)
    return subprocess.run(
        ["sh", "-c", line], capture_output=True, text=True, cwd=directory, timeout=PATIENCE, start_new_session=True,
        stdin=subprocess.DEVNULL, env={**clean_environment(), "PYTHONPATH": str(ROOT), **environment},
    )  # fmt: skip


# --- certificates ---------------------------------------------------------------------------------


def flags(page: str) -> list[str]:
    """What the page gives to a server with TLS, without the address to listen on."""
    words = shlex.split(command(page, "jelly --host 0.0.0.0 --tls-cert"))
    assert words[:3] == ["jelly", "--host", "0.0.0.0"]
    return words[3:]


def make_certificate(page: str, directory: Path, names: str) -> None:
    """Run the page's command, with other names in the certificate."""
    line = command(page, "openssl req")
    assert run(line.replace("DNS:chat.example.org,IP:192.0.2.10", names), directory).returncode == 0


@pages
def test_a_certificate_of_ones_own(page: str, tmp_path: Path) -> None:
    """The page's commands make it, start a server with it, and reach that server from the chat."""
    make_certificate(page, tmp_path, "DNS:localhost,IP:127.0.0.1")
    chat = command(page, "jelly chat alice --server") + " --send alice hello"
    with Server(f"sqlite:///{tmp_path}/jelly.db", *flags(page), cwd=tmp_path) as server:
        assert run(f"echo pw | {JELLY} user add alice", tmp_path).returncode == 0
        for host in ("127.0.0.1", "localhost"):
            done = run(chat.replace("192.0.2.10:20000", f"{host}:{server.port}"), tmp_path, JELLY_PASSWORD="pw")
            assert done.returncode == 0, done.stderr


def test_a_certificate_without_the_address(tmp_path: Path) -> None:
    """A client refuses it with the words of the page."""
    make_certificate(PAGE, tmp_path, "DNS:chat.example.org,IP:192.0.2.10")
    chat = command(PAGE, "jelly chat alice --server") + " --send alice hello"
    with Server(f"sqlite:///{tmp_path}/jelly.db", *flags(PAGE), cwd=tmp_path) as server:
        for host, words in (("127.0.0.1", "IP address mismatch"), ("localhost", "Hostname mismatch")):
            done = run(chat.replace("192.0.2.10:20000", f"{host}:{server.port}"), tmp_path, JELLY_PASSWORD="pw")
            assert done.returncode == 3
            assert words in done.stdout + done.stderr
            assert f'"{words}"' in PAGE


def test_an_example_with_a_certificate(tmp_path: Path) -> None:
    """The page's line starts a bot, which logs in."""
    make_certificate(PAGE, tmp_path, "DNS:localhost,IP:127.0.0.1")
    line = command(PAGE, "SSL_CERT_FILE=cert.pem python").replace(
        "echo_bot NAME PASSWORD", "bulk_sender alice pw alice"
    )
    assert "`SSL_CERT_FILE=cert.pem`" in README
    with Server(f"sqlite:///{tmp_path}/jelly.db", *flags(PAGE), cwd=tmp_path) as server:
        assert run(f"echo pw | {JELLY} user add alice", tmp_path).returncode == 0
        done = run(line.replace("192.0.2.10:20000", f"127.0.0.1:{server.port}"), tmp_path)
        assert done.returncode == 0, done.stderr


# --- the service ----------------------------------------------------------------------------------


@pytest.fixture
def unit(tmp_path: Path) -> Path:
    """The page's service, with a program that exists, under the user who runs the tests."""
    match = re.search(r"^    \[Unit\]\n(?:(?:    .*)?\n)+", PAGE, re.MULTILINE)
    assert match
    text = re.sub(r"^    ", "", match[0], flags=re.MULTILINE).replace("User=jelly", "User=root")
    assert text.count("/opt/jelly/bin/jelly ") == 1
    program = tmp_path / "jelly"
    program.write_text(f'#!/bin/sh\nexec {JELLY} "$@"\n')
    program.chmod(0o755)
    path = tmp_path / "jelly.service"
    path.write_text(text.replace("/opt/jelly/bin/jelly ", f"{program} "))
    return path


def test_systemd_accepts_the_service(unit: Path) -> None:
    """Its own check finds nothing in it, also with the line for a password of MySQL."""
    program = shutil.which("systemd-analyze")
    if program is None:
        pytest.skip("systemd-analyze is not installed: run apt-get install systemd")
    line = "EnvironmentFile=/etc/jelly/environment"
    assert f"`{line}`" in PAGE
    unit.write_text(unit.read_text().replace("[Service]\n", f"[Service]\n{line}\n"))
    done = subprocess.run([program, "verify", str(unit)], capture_output=True, text=True, timeout=PATIENCE)
    assert done.returncode == 0, done.stderr
    assert unit.name not in done.stderr  # it may complain of other services


def test_the_command_of_the_service(unit: Path, tmp_path: Path) -> None:
    """A server starts with its flags; its signal to reload is one that the server handles, and the
    exit code that it does not restart for is that of a wrong setting.
    """
    parser = configparser.RawConfigParser()
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    parser.read(unit)
    service = parser["Service"]
    program, *arguments = shlex.split(service["ExecStart"].replace("/etc/jelly", f"{tmp_path}/etc"))
    make_certificate(PAGE, tmp_path, "DNS:localhost")
    install = command(PAGE, "sudo install").replace("sudo ", "").replace("-o jelly ", "")
    assert run(install.replace("/etc/jelly", f"{tmp_path}/etc"), tmp_path).returncode == 0
    assert arguments[:2] == ["--host", "0.0.0.0"]
    with Server(f"sqlite:///{tmp_path}/jelly.db", *arguments[2:], cwd=tmp_path) as server:
        assert service["ExecReload"] == "/bin/kill -HUP $MAINPID"
        server.process.send_signal(signal.SIGHUP)
        server.wait_for_log(b"read the certificate anew")
        assert server.stop() == 0
    wrong = run(shlex.join([program, *arguments, "--port=x"]), tmp_path)
    assert wrong.returncode == int(service["RestartPreventExitStatus"])


def test_commands_about_the_database_of_the_service(tmp_path: Path) -> None:
    """They name its file, and work while it runs. So does a backup."""
    line = command(PAGE, "sudo -u jelly").removeprefix("sudo -u jelly /opt/jelly/bin/")
    with Server(f"sqlite:///{tmp_path}/jelly.db") as server:
        register(server.port, "alice")
        done = run(line.replace("/var/lib/jelly", str(tmp_path)), tmp_path)
        assert (done.returncode, done.stdout) == (0, "alice\n")
        backup = command(PAGE, "jelly backup").replace("/var/lib/jelly", str(tmp_path))
        assert run(backup, tmp_path).returncode == 0
        assert (tmp_path / "copy.db").exists()


def test_a_server_of_setsid(tmp_path: Path) -> None:
    """It opens the log anew at SIGHUP, which a server of `nohup` ignores."""
    assert command(PAGE, "setsid") == "setsid jelly --log-file jelly.log"
    log = tmp_path / "jelly.log"
    process = subprocess.Popen(
        ["setsid", *shlex.split(JELLY), "--port=0", f"--database=sqlite:///{tmp_path}/jelly.db", f"--log-file={log}"],
        env=clean_environment(),
    )
    try:
        wait_until(lambda: log.exists() and "listening on" in log.read_text())
        process.send_signal(signal.SIGHUP)
        wait_until(lambda: "opened the log file anew" in log.read_text())
    finally:
        end(process)


def test_the_number_of_the_process(tmp_path: Path) -> None:
    """The page's command shows it."""
    line = command(PAGE, "ss -ltnp")
    if shutil.which("ss") is None:
        pytest.skip("ss is not installed: run apt-get install iproute2")
    with Server(f"sqlite:///{tmp_path}/jelly.db") as server:
        done = run(line.replace("20000", str(server.port)), tmp_path)
        assert f"pid={server.process.pid}," in done.stdout


def test_what_the_log_contains(tmp_path: Path) -> None:
    """It has what an operator did, but no logins and no messages; at the level debug, it also says
    why a connection was closed.
    """
    database = f"sqlite:///{tmp_path}/jelly.db"
    with Server(database) as server:
        register(server.port, "alice", "bob")
        started = len(server.log.splitlines())
        with logged_in(server.port, "alice") as alice:
            alice.message("bob", "hello")
        assert run(f"echo pw | {JELLY} user add carol --database {database}", tmp_path).returncode == 0
        (line,) = server.log.splitlines()[started:]
        assert b" INFO jelly" in line
        assert b"carol" in line
    with Server(database, "--log-level=debug", "--heartbeat-interval=0.05") as server:
        with logged_in(server.port, "alice"):
            server.wait_for_log(b": closed: ")
        assert b" DEBUG jelly" in server.log


# --- accounts and scripts -------------------------------------------------------------------------


def test_an_account_for_a_script(tmp_path: Path) -> None:
    """The README's two lines make it, and send a message with it."""
    with Server(f"sqlite:///{tmp_path}/jelly.db", cwd=tmp_path) as server:
        register(server.port, "alice")
        assert run(command(README, "echo secret3"), tmp_path).returncode == 0
        send = command(README, "JELLY_PASSWORD=secret3")
        done = run(send, tmp_path, JELLY_SERVER=f"jelly://127.0.0.1:{server.port}")
        assert done.returncode == 0, done.stderr
        with logged_in(server.port, "alice") as alice:
            assert alice.contents(1) == ["the backup is done"]


def test_packages_are_installed_in_a_virtual_environment() -> None:
    """The README makes one right above each `pip install`."""
    lines = README.splitlines()
    above = [lines[number - 1] for number, line in enumerate(lines) if line.startswith("    pip install")]
    assert above == ["    python3 -m venv .venv && . .venv/bin/activate"] * 2
