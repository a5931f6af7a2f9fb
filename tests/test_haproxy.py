"""HAProxy in front of several servers, with the configuration of examples/cluster/."""

import contextlib
import logging
import os
import re
import signal
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from haproxy import CLUSTER, StartProxy
from harness import StartServer, ready_database
from wire import PERSON_MESSAGE, SERVER_ERROR, SUCCESS, Wire, logged_in, register, wait_until

from faults import haproxy as private
from faults.haproxy import HAProxyMissing, PrivateHAProxy
from faults.mariadb import PrivateMariaDB
from faults.process import Server
from faults.redis import PrivateRedis
from jelly.admission import Connections
from jelly.config import Settings
from jelly.connection import Connection

BEHIND = ("--proxy-protocol=127.0.0.1", "--host=127.0.0.1")


@pytest.fixture
def servers(tmp_path: Path) -> Iterator[list[Server]]:
    """Two servers that take 127.0.0.1 for a load balancer. They share nothing: each has its own
    database, and knows alice and bob.
    """
    with contextlib.ExitStack() as stack:
        yield [stack.enter_context(server_on(tmp_path / f"{number}.db")) for number in (1, 2)]


def server_on(file: Path, port: int = 0) -> Server:
    """A server whose users are alice and bob."""
    with Server(f"sqlite:///{file}") as server:
        register(server.port, "alice", "bob")
        server.stop()
    # (The last of two flags counts.)
    return Server(f"sqlite:///{file}", *BEHIND, f"--port={port}")


def names_of(proxy: PrivateHAProxy, status: str) -> set[str]:
    """The servers behind it that are in a state, once the first checks have ended."""
    backends = proxy.backends()
    return {name for name, backend in backends.items() if backend.status == status and backend.check != "INI"}


def wait_until_up(proxy: PrivateHAProxy, *names: str) -> None:
    """Wait until exactly these servers get connections."""
    wait_until(lambda: names_of(proxy, "UP") == set(names) and len(names_of(proxy, "DOWN")) == 3 - len(names), 30)


def node_of(proxy: PrivateHAProxy) -> str:
    """The server behind it that has the only connection."""
    [name] = [name for name, backend in proxy.backends().items() if backend.sessions]
    return name


def test_checks(servers: list[Server], start_cluster_haproxy: StartProxy, tmp_path: Path) -> None:
    """A server is up while it answers a frame that needs no login, and down when it has stopped."""
    proxy = start_cluster_haproxy(*[server.port for server in servers])
    wait_until_up(proxy, "node1", "node2")
    assert proxy.backends()["node1"].check == "L7OK"
    assert proxy.backends()["node3"].check == "L4CON"
    servers[1].stop()
    wait_until_up(proxy, "node1")
    with server_on(tmp_path / "3.db", servers[1].port):
        wait_until_up(proxy, "node1", "node2")


def test_connections_are_spread(servers: list[Server], start_cluster_haproxy: StartProxy) -> None:
    """A new connection goes to the server that has fewer."""
    proxy = start_cluster_haproxy(*[server.port for server in servers])
    wait_until_up(proxy, "node1", "node2")
    with contextlib.ExitStack() as stack:
        for _ in range(10):
            stack.enter_context(Wire(proxy.port)).wait_until_served()
        assert [proxy.backends()[name].sessions for name in ("node1", "node2")] == [5, 5]


@pytest.fixture
def from_proxy(monkeypatch: pytest.MonkeyPatch) -> list[None]:
    """Has an entry for each connection that a load balancer makes to a server of this process."""
    admit = Connections.admit
    made: list[None] = []

    def counted(self: Connections[Connection], request: socket.socket, network: str | None, address: str) -> bool:
        if network is None:
            made.append(None)
        return admit(self, request, network, address)

    monkeypatch.setattr(Connections, "admit", counted)
    return made


def test_checks_leave_no_trace(
    start_server: StartServer,
    start_cluster_haproxy: StartProxy,
    caplog: pytest.LogCaptureFixture,
    from_proxy: list[None],
) -> None:
    """They leave no line in the log, no connection, and no address that could reach a limit."""
    server = start_server(proxy_protocol="127.0.0.1", max_per_address=1)
    wait_until_up(start_cluster_haproxy(server.port), "node1")
    wait_until(lambda: len(from_proxy) >= 4 and not server.connections)
    assert not server.connections._per_network
    assert not [record for record in caplog.records if record.levelno >= logging.INFO]


def test_checks_beside_strangers(
    start_server: StartServer, start_cluster_haproxy: StartProxy, from_proxy: list[None]
) -> None:
    """They are answered although strangers have taken all the places that these may have."""
    server = start_server(proxy_protocol="127.0.0.1", max_connections=8)
    with contextlib.ExitStack() as stack:
        for number in range(6):
            stack.enter_context(Wire(server.port, source=f"127.0.0.{number + 2}")).heartbeat()
        wait_until(lambda: len(server.connections) == 6)
        proxy = start_cluster_haproxy(server.port)
        wait_until_up(proxy, "node1")
        wait_until(lambda: len(from_proxy) >= 4)
        assert names_of(proxy, "UP") == {"node1"}


def test_a_full_node_answers_checks() -> None:
    """HAProxy sends fewer connections to a node than that one accepts."""
    [most] = re.findall(r"maxconn (\d+)", CLUSTER.read_text(encoding="utf-8"))
    assert 0.8 * Settings().max_connections < int(most) < Settings().max_connections


def test_the_address_of_the_client(
    start_server: StartServer, start_cluster_haproxy: StartProxy, caplog: pytest.LogCaptureFixture
) -> None:
    """It is the one that HAProxy announces, for limits and for the log."""
    server = start_server(proxy_protocol="127.0.0.1", max_per_address=2)
    proxy = start_cluster_haproxy(server.port)
    wait_until_up(proxy, "node1")
    register(proxy.port, "alice")
    with logged_in(proxy.port, "alice"), contextlib.ExitStack() as stack:
        [alice] = [c for c in server.connections if c.session.user]
        assert alice.address == "127.0.0.1"
        for _ in range(2):
            stack.enter_context(Wire(proxy.port, source="127.0.0.5")).wait_until_served()
        with Wire(proxy.port, source="127.0.0.5") as surplus:
            assert surplus.is_closed_by_server()
        assert "from 127.0.0.5, because one address may have at most 2" in caplog.text


def test_clients_move_when_a_server_is_killed(servers: list[Server], start_cluster_haproxy: StartProxy) -> None:
    """Their next connection goes to the other server, although HAProxy has not checked yet, and is
    not cut off when it has.
    """
    proxy = start_cluster_haproxy(*[server.port for server in servers])
    wait_until_up(proxy, "node1", "node2")
    with logged_in(proxy.port, "alice") as alice:
        first = node_of(proxy)
        servers[int(first[-1]) - 1].kill()
        assert alice.is_closed_by_server()
        with logged_in(proxy.port, "alice") as again, logged_in(proxy.port, "bob") as bob:
            wait_until(lambda: names_of(proxy, "DOWN") == {first, "node3"})
            bob.message("alice", "you have moved")
            assert again.contents(1) == ["you have moved"]


def test_clients_of_a_server_that_hangs_are_cut_off(servers: list[Server], start_cluster_haproxy: StartProxy) -> None:
    """They notice nothing by themselves, so HAProxy closes their connections; the server gets new
    ones when it answers again.
    """
    proxy = start_cluster_haproxy(*[server.port for server in servers])
    wait_until_up(proxy, "node1", "node2")
    with logged_in(proxy.port, "alice") as alice:
        first = node_of(proxy)
        process = servers[int(first[-1]) - 1].process
        os.kill(process.pid, signal.SIGSTOP)
        try:
            assert alice.is_closed_by_server()
            assert proxy.backends()[first].check == "L7TOUT"
            logged_in(proxy.port, "alice").close()
        finally:
            os.kill(process.pid, signal.SIGCONT)
        wait_until_up(proxy, "node1", "node2")


def test_a_server_that_gets_no_new_clients(servers: list[Server], start_cluster_haproxy: StartProxy) -> None:
    """Before an operator restarts a server, HAProxy can be told to send nobody there; those who are
    there stay.
    """
    proxy = start_cluster_haproxy(*[server.port for server in servers])
    wait_until_up(proxy, "node1", "node2")
    with logged_in(proxy.port, "alice") as alice, contextlib.ExitStack() as stack:
        first = node_of(proxy)
        assert proxy.command(f"set server nodes/{first} state drain").strip() == ""
        for _ in range(3):
            stack.enter_context(Wire(proxy.port)).wait_until_served()
        assert proxy.backends()[first].sessions == 1
        alice.message("bob", "still here")
        proxy.command(f"set server nodes/{first} state ready")
        wait_until_up(proxy, "node1", "node2")


# --- the private HAProxy itself -------------------------------------------------------------------


def test_a_configuration_that_is_wrong(start_cluster_haproxy: StartProxy, monkeypatch: pytest.MonkeyPatch) -> None:
    """What HAProxy says about it is in the error."""
    monkeypatch.setattr("haproxy.CLUSTER", Path(__file__))
    with pytest.raises(RuntimeError, match=r"HAProxy did not start:[\s\S]*unknown keyword"):
        start_cluster_haproxy()


def test_its_port_survives_a_crash(start_cluster_haproxy: StartProxy) -> None:
    """It comes back on the same port."""
    proxy = start_cluster_haproxy()
    proxy.kill()
    with pytest.raises(RuntimeError, match="HAProxy is not running"):
        _ = proxy.pid
    with pytest.raises(ConnectionRefusedError):
        Wire(proxy.port)
    proxy.start()
    Wire(proxy.port).close()
    assert proxy.pid
    proxy.stop()
    proxy.stop()


def test_without_haproxy(monkeypatch: pytest.MonkeyPatch) -> None:
    """The error names the package to install."""
    monkeypatch.setattr("shutil.which", lambda *_, **__: None)
    with pytest.raises(HAProxyMissing, match="apt-get install haproxy"):
        PrivateHAProxy("")


def test_what_it_never_says(start_cluster_haproxy: StartProxy, monkeypatch: pytest.MonkeyPatch) -> None:
    """A test that waits for it fails."""
    proxy = start_cluster_haproxy()
    monkeypatch.setattr(private, "PATIENCE", 0.01)
    with pytest.raises(RuntimeError, match="HAProxy never said 'no such words'"):
        proxy.wait_until_says("no such words")


# --- nodes of a cluster ---------------------------------------------------------------------------

AWAY = 7.0
"""Seconds in which a lease of two seconds runs out, and three checks of HAProxy come after that."""


def test_the_database_is_away_for_all_nodes(
    mariadb: PrivateMariaDB, redis_server: PrivateRedis, start_cluster_haproxy: StartProxy
) -> None:
    """Nobody is cut off, however long it takes: there is no node that could serve better."""
    database = ready_database(mariadb, "away")
    flags = (*BEHIND, f"--cluster={redis_server.url}", "--node-timeout=2", "--message-rate=0")
    with Server(database, *flags) as one, Server(database, *flags) as two:
        proxy = start_cluster_haproxy(one.port, two.port)
        wait_until_up(proxy, "node1", "node2")
        register(proxy.port, "alice", "bob")
        with logged_in(proxy.port, "alice") as alice, logged_in(proxy.port, "bob") as bob:
            mariadb.pause()
            since = time.monotonic()
            try:
                while time.monotonic() < since + AWAY:
                    reply = alice.call(PERSON_MESSAGE, receiver="bob", content="lost", time=1)
                    assert reply.status == SERVER_ERROR
                assert names_of(proxy, "UP") == {"node1", "node2"}
            finally:
                mariadb.resume()
            wait_until(lambda: alice.call(PERSON_MESSAGE, receiver="bob", content="back", time=1).status == SUCCESS)
            while bob.contents(1) != ["back"]:  # what was answered with SERVER_ERROR may be stored
                pass
