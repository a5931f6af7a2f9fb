"""examples/cluster/: the script starts a cluster and leaves nothing, and the files fit together."""

import configparser
import functools
import json
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path

import pytest
from client_tools import NewClient, Recorder, result
from haproxy import NODES
from harness import ready_database
from wire import register, wait_until

from client_api import State
from faults.mariadb import PASSWORD, USER, PrivateMariaDB
from faults.process import PATIENCE, ROOT, Program, Server, free_port, run
from jelly.config import Parser, Settings, add_arguments, check_cluster, load_settings

FOLDER = ROOT / "examples" / "cluster"
UNIT = "jelly@.service"


class Cluster(Program):
    """The script, with all its temporary files in one directory."""

    is_bare = False

    def __init__(self, directory: Path) -> None:
        super().__init__("-m", "examples.cluster", "--port=0", TMPDIR=str(directory))
        self.directory = directory
        self.said: list[str] = []

    def read_until(self, words: str) -> str:
        """Read lines until one has some words; return that one."""
        while words not in (line := self.line()):
            assert self.process.poll() is None or line, self.said
            self.said.append(line)
        self.said.append(line)
        return line

    def port_of(self, name: str) -> int:
        """The port that it has said for a part of the cluster."""
        return int(re.findall(rf"^{name} +127\.0\.0\.1:(\d+)", "\n".join(self.said), re.MULTILINE)[0])

    def nodes(self) -> dict[str, tuple[int, int]]:
        """What it has said last about each node, by address: its number and its process."""
        lines = re.findall(r"^node (\d+) +(127\.0\.0\.1:\d+), process (\d+)", "\n".join(self.said), re.MULTILINE)
        return {address: (int(number), int(process)) for number, address, process in lines}

    def query(self, statement: str) -> dict[str, int]:
        """Two columns of its database: a text, and a number."""
        connector = pytest.importorskip("mysql.connector")
        address = {"host": "127.0.0.1", "port": self.port_of("MariaDB"), "database": "jelly"}
        with (
            connector.connect(user=USER, password=PASSWORD, **address) as connection,
            connection.cursor() as cursor,
        ):
            cursor.execute(statement)
            return dict(cursor.fetchall())

    def places(self) -> dict[str, int]:
        """Who is online at which node, as the database says."""
        return self.query("SELECT username, node FROM sessions")

    def processes(self) -> list[int]:
        """Every process that has its directory for temporary files. (Redis hides it.)"""
        found = []
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                try:
                    environment = (entry / "environ").read_bytes()
                except OSError:  # it has ended, or belongs to another user
                    continue
                if f"TMPDIR={self.directory}".encode() in environment.split(b"\0"):
                    found.append(int(entry.name))
        return found


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    """The script, when its nodes serve. Without its programs the test is skipped; where CI is set
    it fails.
    """
    # Not in tmp_path: paths of Unix sockets must be short.
    with tempfile.TemporaryDirectory(prefix="jelly-test-") as directory, Cluster(Path(directory)) as cluster:
        first = cluster.line()
        if "apt-get install" in first or "pip install" in first:
            if os.environ.get("CI"):
                pytest.fail(first, pytrace=False)
            pytest.skip(first)
        cluster.said.append(first)
        cluster.read_until("Ctrl-C stops all.")
        yield cluster


def test_the_script(cluster: Cluster, new_client: NewClient) -> None:
    """Users on two nodes write to each other. A node that is killed comes back, and its user is
    served by another one meanwhile. After Ctrl-C no process and no file is left.
    """
    port = cluster.port_of("HAProxy")
    register(port, "alice", "bob")
    alice, bob = Recorder(), Recorder()
    clients = {name: new_client(port, receiver) for name, receiver in (("alice", alice), ("bob", bob))}
    for name, client in clients.items():
        result(client.login(name, "pw"))
    places = cluster.places()
    assert len(set(places.values())) == 2
    result(clients["alice"].send_message("bob", "from another node"))
    assert bob.contents(1) == ["from another node"]

    processes = {number: (address, process) for address, (number, process) in cluster.nodes().items()}
    address, process = processes[places["bob"]]
    os.kill(process, signal.SIGKILL)
    result(clients["alice"].send_message("bob", "are you there?"))
    assert bob.contents(2)[1:] == ["are you there?"]
    assert "SIGKILL" in cluster.read_until(f"node {places['bob']} has ended with ")
    log = Path(cluster.read_until(f"{address}, process ").rpartition(" log ")[2].strip())
    wait_until(lambda: log.read_text().count(": this is node ") == 2)
    # The number of the killed one is taken until the others remove it, so the new one has another.
    table = cluster.query("SELECT address, MAX(id) FROM nodes GROUP BY address")
    assert {address: number for address, (number, _) in cluster.nodes().items()} == table
    bob.wait_for_state(State.ONLINE, count=2)
    result(clients["bob"].send_message("alice", "again"))
    assert alice.contents(1) == ["again"]

    assert len(cluster.processes()) > 1 + NODES
    cluster.press_ctrl_c()
    assert cluster.lines()[-1] == "all has stopped"
    assert cluster.process.returncode == 0
    assert cluster.processes() == []
    assert list(cluster.directory.iterdir()) == []
    ports = [cluster.port_of(name) for name in ("MariaDB", "Redis", "HAProxy")]
    for port in (*ports, int(address.rpartition(":")[2])):
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", port), 5)


def test_no_password_is_shown(cluster: Cluster) -> None:
    """Neither what it prints nor a command in the list of processes has one. The table of nodes is
    there without it, and has the numbers and the addresses that it has said.
    """
    commands = [Path(f"/proc/{pid}/cmdline").read_bytes() for pid in cluster.processes()]
    assert len(commands) > 1 + NODES
    assert [command for command in commands if f":{PASSWORD}@".encode() in command] == []
    assert PASSWORD not in "\n".join(cluster.said)
    [command] = re.findall(r"jelly\.py (nodes --config \S+)$", "\n".join(cluster.said), re.MULTILINE)
    shown = json.loads(run(*command.split(), "--json").stdout)
    assert {node["address"]: node["node"] for node in shown} == {
        address: number for address, (number, _) in cluster.nodes().items()
    }


def test_sigterm_before_it_has_started() -> None:
    """It stops all the same, and leaves nothing."""
    with tempfile.TemporaryDirectory(prefix="jelly-test-") as directory, Cluster(Path(directory)) as cluster:
        first = cluster.line()
        if "install" in first:
            pytest.skip(first)
        cluster.process.send_signal(signal.SIGTERM)
        assert cluster.lines()[-1] == "all has stopped"
        assert cluster.process.wait(PATIENCE) == 0
        assert cluster.processes() == []
        assert list(cluster.directory.iterdir()) == []


def test_a_port_in_use() -> None:
    """One sentence says so, before anything is started."""
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        for number, reason in ((port, "Address already in use"), (99999, "there is no such port")):
            command = [sys.executable, "-m", "examples.cluster", f"--port={number}"]
            done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, cwd=ROOT)
            if "pip install" in done.stderr:
                pytest.skip(done.stderr)
            expected = f"Cannot listen on 127.0.0.1 port {number}: {reason}. Choose another one with --port.\n"
            assert (done.stderr, done.stdout, done.returncode) == (expected, "", 1)


# --- the files ------------------------------------------------------------------------------------


def text_of(name: str) -> str:
    return (FOLDER / name).read_text(encoding="utf-8")


def environment_of() -> dict[str, str]:
    """The variables of the file `environment`."""
    return dict(re.findall(r"^(\w+)=(.*)$", text_of("environment"), re.MULTILINE))


def test_systemd_accepts_the_unit(tmp_path: Path) -> None:
    """Its own check finds nothing in them."""
    analyze = shutil.which("systemd-analyze")
    if analyze is None:
        pytest.skip("systemd-analyze is not installed: run apt-get install systemd")
    program = tmp_path / "jelly"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    unit = tmp_path / UNIT.replace("@", "@20001")
    unit.write_text(text_of(UNIT).replace("/opt/jelly/bin/jelly ", f"{program} "))
    done = subprocess.run([analyze, "verify", str(unit)], capture_output=True, text=True, timeout=PATIENCE)
    assert done.returncode == 0, done.stderr
    assert unit.name not in done.stderr  # it may complain of other services


def test_two_nodes_as_systemd_starts_them(mariadb: PrivateMariaDB) -> None:
    """With the command of the unit, and the variables of its environment, they find each other."""
    database, nodes = ready_database(mariadb, "units"), []
    assert environment_of().keys() == {"JELLY_DATABASE", "JELLY_CLUSTER", "JELLY_PROXY_PROTOCOL"}
    for _ in range(2):
        parser = configparser.RawConfigParser()
        parser.optionxform = str  # type: ignore[assignment,method-assign]
        parser.read_string(text_of(UNIT))
        service = parser["Service"]
        assert service["EnvironmentFile"] == "/etc/jelly/environment"
        port = str(free_port())
        program, *flags = [
            word.replace("%H", "host").replace("%i", port).replace("0.0.0.0", "127.0.0.1")
            for word in shlex.split(service["ExecStart"])
        ]
        assert program == "/opt/jelly/bin/jelly"
        nodes.append((port, flags))
    (first, flags), (second, more) = nodes
    start = functools.partial(Server, database, JELLY_CLUSTER="none", JELLY_PROXY_PROTOCOL="127.0.0.1")
    with start(*flags) as node, start(*more) as other:
        assert (node.port, other.port) == (int(first), int(second))
        other.wait_for_log(f"at host:{first}".encode())
        assert node.stop() == 0


def test_names_in_the_files() -> None:
    """The variables for nodes are settings, and those for HAProxy are the ones that it reads."""
    settings = {f"JELLY_{setting.name.upper()}" for setting in fields(Settings)}
    compose = text_of("compose.yaml")
    names = set(re.findall(r"^ +(JELLY_\w+):", compose, re.MULTILINE))
    haproxy = set(re.findall(r"\$\{(JELLY_\w+)", text_of("haproxy.cfg")))
    assert environment_of().keys() <= settings
    turned_off = set(re.findall(r"^#(\w+)=", text_of("environment"), re.MULTILINE))
    assert turned_off == {"JELLY_TLS_CERT", "JELLY_TLS_KEY"}
    assert turned_off <= settings
    assert names - settings == haproxy - {"JELLY_BIND"}
    assert len(haproxy) == 1 + NODES


def test_addresses_in_compose() -> None:
    """HAProxy is sent to the addresses that the nodes have, and they trust the one that it has."""
    services = dict(re.findall(r"^  (\w+):\n((?:    .*\n|\n)+)", text_of("compose.yaml"), re.MULTILINE))
    has = {name: re.findall(r"ipv4_address: (\S+)", text) for name, text in services.items()}
    sent_to = re.findall(r"JELLY_NODE_\d: (\S+):20000", services["haproxy"])
    assert [sent_to[number - 1] for number in range(1, NODES + 1)] == [has[f"node{n}"][0] for n in range(1, NODES + 1)]
    text = text_of("compose.yaml")
    assert f"JELLY_PROXY_PROTOCOL: {has['haproxy'][0]}\n" in text
    assert f"@{has['mariadb'][0]}:3306/jelly" in text
    assert f"redis://{has['valkey'][0]}:6379" in text


def test_what_the_image_is_built_from() -> None:
    """The files that the package is made of are in it."""
    kept = re.findall(r"^!(.+)$", text_of("Dockerfile.dockerignore"), re.MULTILINE)
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    assert all((ROOT / name).exists() for name in kept)
    needed = {name.split("/")[0] for name in re.findall(r'^"(.+)" = ".*"$', project, re.MULTILINE)}
    assert needed | {"jelly", "pyproject.toml", "hatch_build.py", "README.md", "LICENSE"} == set(kept)


# --- docs/nodes.md --------------------------------------------------------------------------------

PAGE = (ROOT / "docs" / "nodes.md").read_text(encoding="utf-8")


def test_the_files_that_the_page_names() -> None:
    """Its table has each file that an operator takes."""
    [table] = re.findall(r"^\| file in .+\n(?:\|.+\n)+", PAGE, re.MULTILINE)
    named = re.findall(r"^\| `([^`]+)` \| [^|]+ \|$", table, re.MULTILINE)
    files = {path.name for path in FOLDER.iterdir() if path.is_file() and not path.name.startswith("Dockerfile")}
    assert set(named) == files


def test_the_page_installs_the_files(tmp_path: Path) -> None:
    """Its commands put the unit and the settings where the unit looks for them, for root only."""
    lines = re.findall(r"^    sudo (install .+ examples/cluster/.+)$", PAGE, re.MULTILINE)
    assert len(lines) == 2
    (tmp_path / "etc/systemd/system").mkdir(parents=True)
    for line in lines:
        subprocess.run(["sh", "-ec", line.replace(" /etc/", f" {tmp_path}/etc/")], cwd=ROOT, check=True)
    assert (tmp_path / "etc/jelly/environment").stat().st_mode & 0o777 == 0o600
    assert (tmp_path / "etc/systemd/system" / UNIT).exists()
    assert "EnvironmentFile=/etc/jelly/environment\n" in text_of(UNIT)
    assert "User=jelly\n" in text_of(UNIT)
    assert "    sudo useradd --system jelly\n" in PAGE


def test_the_command_of_the_page() -> None:
    """It is one that the server understands, with the addresses of the other files."""
    [line] = re.findall(r"^    jelly (--host .+)$", PAGE, re.MULTILINE)
    parser = Parser()
    add_arguments(parser)
    settings = load_settings(parser.parse_args(shlex.split(line)), {})
    check_cluster(settings)
    assert settings.cluster == environment_of()["JELLY_CLUSTER"]
    assert settings.proxy_protocol == environment_of()["JELLY_PROXY_PROTOCOL"]
    assert settings.node_address in text_of("haproxy.cfg")


def test_the_lines_of_haproxy_that_the_page_explains() -> None:
    """They are in its configuration."""
    section = PAGE.partition("### HAProxy, or a list")[2].partition("\n### ")[0]
    words = re.findall(r"`([^`]+)`", section.partition("HAProxy is then")[0])
    text = text_of("haproxy.cfg")
    assert [word for word in words if not word.startswith("--") and word not in text] == []
