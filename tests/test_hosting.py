"""docs/hosting.md, and the README's part of it: the commands and the service work as they stand."""

import configparser
import functools
import re
import shlex
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from harness import ready_database
from wire import logged_in, register, wait_until

from faults.mariadb import PrivateMariaDB
from faults.process import PATIENCE, ROOT, Server, clean_environment, end, free_port

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
        words = "for another name or address"
        assert f'"{words}"' in PAGE
        for host in ("127.0.0.1", "localhost"):
            done = run(chat.replace("192.0.2.10:20000", f"{host}:{server.port}"), tmp_path, JELLY_PASSWORD="pw")
            assert done.returncode == 3
            assert words in done.stdout + done.stderr
            assert "--tls-ca" not in done.stderr  # which would not help


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


UNITS = re.findall(r"^    \[Unit\]\n(?:(?:    .*)?\n)+", PAGE, re.MULTILINE)
"""The page's services: one server. (That of a node is a file.)"""
NODE_UNIT = ROOT / "examples" / "cluster" / "jelly@.service"


def write_unit(text: str, directory: Path, name: str) -> Path:
    """A service, with a program that exists, under the user who runs the tests."""
    text = re.sub(r"^    ", "", text, flags=re.MULTILINE).replace("User=jelly", "User=root")
    assert text.count("/opt/jelly/bin/jelly ") == 1
    program = directory / "jelly"
    program.write_text(f'#!/bin/sh\nexec {JELLY} "$@"\n')
    program.chmod(0o755)
    path = directory / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(text.replace("/opt/jelly/bin/jelly ", f"{program} "))
    return path


@pytest.fixture
def unit(tmp_path: Path) -> Path:
    """The service that is one server."""
    return write_unit(UNITS[0], tmp_path, "jelly.service")


def assert_systemd_accepts(unit: Path) -> None:
    """Its own check finds nothing in a service."""
    program = shutil.which("systemd-analyze")
    if program is None:
        pytest.skip("systemd-analyze is not installed: run apt-get install systemd")
    done = subprocess.run([program, "verify", str(unit)], capture_output=True, text=True, timeout=PATIENCE)
    assert done.returncode == 0, done.stderr
    assert unit.name not in done.stderr  # it may complain of other services


def test_systemd_accepts_the_service(unit: Path) -> None:
    """Also with the line for a password of MySQL, and with those for several nodes."""
    line = "EnvironmentFile=/etc/jelly/environment"
    assert f"`{line}`" in PAGE
    assert "`KillMode=mixed`" in PAGE
    unit.write_text(unit.read_text().replace("[Service]\n", f"[Service]\n{line}\nKillMode=mixed\n"))
    assert_systemd_accepts(unit)


def test_each_service_is_there_once() -> None:
    """One text for each name: the page has one server's, and a file is that of a node. The page
    links to the file, and the other page of nodes names it.
    """
    [unit] = UNITS
    assert "--reuse-port" not in unit
    files = [path.name for path in ROOT.rglob("*.service") if ".venv" not in path.parts]
    assert files == [NODE_UNIT.name]
    assert "(../examples/cluster/jelly@.service)" in PAGE
    nodes = (ROOT / "docs" / "nodes.md").read_text(encoding="utf-8")
    assert "[Unit]" not in nodes
    assert f"| `{NODE_UNIT.name}` |" in nodes


@pytest.mark.parametrize("text", [*UNITS, NODE_UNIT.read_text(encoding="utf-8")], ids=["server", "node"])
def test_a_service_is_not_given_up(text: str) -> None:
    """A service that cannot reach its database at boot ends with exit code 1, is started again, and
    is never given up; only a wrong setting ends it.
    """
    values = dict(re.findall(r"^ *(\w+)=(.*)$", text, re.MULTILINE))
    assert (values["StartLimitIntervalSec"], values["Restart"], values["RestartSec"]) == ("0", "on-failure", "1")
    done = run(shlex.join(["jelly", "--port=0", "--database=mysql://u:p@127.0.0.1:1/x"]), ROOT)
    assert done.returncode == 1
    assert values["RestartPreventExitStatus"] == "2"


def test_nodes_that_share_a_port(mariadb: PrivateMariaDB, tmp_path: Path) -> None:
    """systemd accepts the service of a node with the page's drop-in file. Two of its commands run
    two nodes on one port.
    """
    [drop_in] = re.findall(r"^    \[Service\]\n    ExecStart=\n    ExecStart=.+\n", PAGE, re.MULTILINE)
    unit = write_unit(NODE_UNIT.read_text(encoding="utf-8"), tmp_path, "jelly@1.service")
    added = write_unit(drop_in, tmp_path, "jelly@.service.d/port.conf")
    assert_systemd_accepts(unit)
    assert f"`/etc/systemd/system/{NODE_UNIT.name}.d/{added.name}`" in PAGE
    assert command(PAGE, "sudo systemctl enable --now jelly@1") == "sudo systemctl enable --now jelly@1 jelly@2"
    make_certificate(PAGE, tmp_path, "DNS:localhost")
    words = shlex.split(drop_in.rpartition("ExecStart=")[2].replace("/etc/jelly", str(tmp_path)))
    database, port = ready_database(mariadb, "shared_port"), f"--port={free_port()}"
    start = functools.partial(Server, database, *words[3:], port, JELLY_CLUSTER="none")
    with start() as first, start() as second:
        assert first.port == second.port
        second.wait_for_log(b"; with it: 1 at ")


def test_commands_with_the_environment_of_the_service(mariadb: PrivateMariaDB, tmp_path: Path) -> None:
    """The page's line reads the file that a node has its settings from."""
    line = command(PAGE, "sudo sh -c").removeprefix("sudo ")
    file, database = tmp_path / "environment", ready_database(mariadb, "environment")
    file.write_text(f"# A comment.\nJELLY_DATABASE={database}\nJELLY_CLUSTER=none\n")
    with Server(database, "--cluster=none") as node:
        line = line.replace("/etc/jelly/environment", str(file)).replace("/opt/jelly/bin/jelly", JELLY)
        done = run(line, tmp_path)
        assert f"127.0.0.1:{node.port}" in done.stdout, done.stderr
        done = run(line.replace(" nodes", " user list"), tmp_path)
        assert (done.returncode, done.stderr) == (0, "")
    without = run(f"{JELLY} nodes", tmp_path)
    assert (without.returncode, "JELLY_DATABASE" in without.stderr) == (2, True)


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
    assert above == ["    python3 -m venv .venv && . .venv/bin/activate"] * 3
