"""Nodes on one database whose `--cluster` names different servers of Redis, or none."""

import logging
import re
import time
from collections.abc import Callable, Iterator

import pytest
from harness import StartServer
from wire import PERSON_MESSAGE, logged_in, register, wait_until

from faults.mariadb import PrivateMariaDB
from faults.proxy import Proxy
from faults.redis import PrivateRedis
from jelly.cluster import lease
from jelly.cluster.hearing import UNHEARD_RENEWALS
from jelly.cluster.nodes_command import list_nodes
from jelly.server import JellyServer

Said = Callable[[str], list[str]]


@pytest.fixture(autouse=True)
def _fast(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nodes renew their leases more often."""
    monkeypatch.setattr(lease, "LEASE_INTERVAL", 0.5)


@pytest.fixture
def database(mariadb: PrivateMariaDB) -> str:
    """An empty database that nodes can share."""
    return mariadb.fresh_database("jelly_hearing")


@pytest.fixture
def other_redis(redis_server: PrivateRedis) -> Iterator[PrivateRedis]:
    """A second server, which knows nothing of the first one."""
    with PrivateRedis() as redis:
        assert redis.port != redis_server.port
        yield redis


@pytest.fixture
def said(caplog: pytest.LogCaptureFixture) -> Said:
    """The lines of the log, of all nodes, that have some words; sorted."""
    caplog.set_level(logging.INFO, "jelly")
    return lambda words: sorted(each.getMessage() for each in caplog.records if words in each.getMessage())


def unheard(*servers: JellyServer) -> list[list[int]]:
    """Which other nodes each node does not hear."""
    return [list(server.node._hearing.unheard) for server in servers if server.node is not None]


def renew(server: JellyServer, times: int = 1) -> None:
    """Wait until a node has renewed its lease so many times."""
    node = server.node
    assert node is not None
    for _ in range(times):
        renewed_at = node.lease.renewed_at
        wait_until(lambda: node.lease.renewed_at > renewed_at)  # noqa: B023


def assert_messages_come_at_once(sender: JellyServer, receiver: JellyServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not only when the receiver's node renews its lease, which looks, too."""
    nodes = [node for node in (sender.node, receiver.node) if node is not None]
    with monkeypatch.context() as patch:
        patch.setattr(lease, "LEASE_INTERVAL", 3600.0)
        wait_until(lambda: all(node.lease.due_at > time.monotonic() + 600 for node in nodes))
        with logged_in(sender.port, "alice") as alice, logged_in(receiver.port, "bob") as bob:
            for number in range(3):
                alice.call(PERSON_MESSAGE, receiver="bob", content=str(number), time=1)
                assert bob.contents(1) == [str(number)]
    for node in nodes:
        node.on_bus(True)  # the next renewal is due now


def test_two_servers_of_redis(
    start_server: StartServer, database: str, redis_server: PrivateRedis, other_redis: PrivateRedis,
    said: Said, monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """Each node says so in one line, with the names of both, and polls. When the setting is mended,
    each says that, in one line.
    """
    with Proxy(other_redis.port) as proxy:
        names = own, its = redis_server.url, f"redis://127.0.0.1:{proxy.port}"
        first = start_server(database=database, cluster=own, node_address="host:1")
        second = start_server(database=database, cluster=its, node_address="host:2")
        servers = first, second
        register(first.port, "alice", "bob")
        wait_until(lambda: unheard(*servers) == [[2], [1]])
        renew(first, 2)
        words = "and this node do not hear each other: its bus is"
        assert [line.partition(". ")[0] for line in said("do not hear each other")] == [
            f"node 1 at host:1 {words} {own}, and the bus of this node is {its}",
            f"node 2 at host:2 {words} {its}, and the bus of this node is {own}",
        ]
        shown = [(names[0], "partly", [2]), (names[1], "partly", [1])]
        wait_until(lambda: [(n.bus, n.hints, n.on_another_bus) for n in list_nodes(database)] == shown)
        assert_messages_come_at_once(first, second, monkeypatch)
        proxy.target = redis_server.port
        proxy.cut()
        wait_until(lambda: unheard(*servers) == [[], []])
        assert said(" again: ") == sorted(f"all nodes share the bus of this node again: {name}" for name in names)
        assert len(said("do not hear each other")) == 2


def test_a_node_without_redis(start_server: StartServer, database: str, redis_server: PrivateRedis, said: Said) -> None:
    """Both say so, and the other one that all is well when it is alone."""
    first = start_server(database=database, cluster=redis_server.url)
    second = start_server(database=database, cluster="none")
    wait_until(lambda: unheard(first, second) == [[2], [1]])
    renew(first, 2)
    url = redis_server.url
    names = re.findall(r"its bus is (\S+), and the bus of this node is (\S+)\. ", "\n".join(said("do not hear")))
    assert names == [(url, "none"), ("none", url)]
    second.stop()
    wait_until(lambda: unheard(first) == [[]])
    assert said("again") == [f"all nodes share the bus of this node again: {redis_server.url}"]


def test_redis_that_was_away_for_all(
    start_server: StartServer, database: str, redis_server: PrivateRedis, said: Said
) -> None:
    """That is no other server: their buses say that they failed, and nobody says more."""
    servers = [start_server(database=database, cluster=redis_server.url) for _ in range(2)]
    renew(servers[0], 2)
    redis_server.kill()
    renew(servers[0], UNHEARD_RENEWALS + 1)
    redis_server.start()
    wait_until(lambda: len(said(" works again")) == 2)
    renew(servers[0], UNHEARD_RENEWALS + 1)
    assert said("hear each other") == []
    assert unheard(*servers) == [[], []]


def test_redis_that_hangs_for_all(
    start_server: StartServer, database: str, redis_server: PrivateRedis, said: Said, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nodes that wait for it do not take each other for nodes on another bus."""
    monkeypatch.setattr(lease, "LEASE_INTERVAL", 0.8)
    servers = [start_server(database=database, cluster=redis_server.url) for _ in range(2)]
    renew(servers[0], 2)
    redis_server.pause()
    wait_until(lambda: len(said(" failed: ")) == 2)
    redis_server.resume()
    wait_until(lambda: len(said(" works again")) == 2)
    renew(servers[0], 2)
    assert said("hear each other") == []


def test_nodes_that_all_poll(start_server: StartServer, database: str, said: Said) -> None:
    """Without Redis on purpose there is nothing to say."""
    servers = [start_server(database=database, cluster="none") for _ in range(2)]
    renew(servers[0], 2)
    assert said("hear each other") == []
    assert unheard(*servers) == [[], []]
