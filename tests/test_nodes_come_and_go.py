"""Nodes that start, stop, die and lose their database, and the database that they share."""

import contextlib
import math
import re
from collections.abc import Iterator

import pytest
from harness import StartServer
from node_tools import (
    MODERN,
    cluster_url,
    contents_of_alice,
    dao_beside_nodes,
    node_of,
    ports_of_nodes,
    shared_database,
    system_notice,
    two_nodes,
    wait_until_closed,
)
from wire import ADD_FRIEND, OWN_PROFILE, PERSON_MESSAGE, SUCCESS, Wire, logged_in, register, wait_until

from faults.mariadb import PrivateMariaDB
from faults.process import Server
from faults.proxy import CommitProxy, Proxy
from faults.redis import PrivateRedis
from faults.rows.database import read_state, write_state
from jelly import migrations
from jelly.cluster import lease, node_dao
from jelly.cluster import node as node_module
from jelly.cluster.bus import Hint
from jelly.dao import Dao
from jelly.database import DatabaseConnection
from jelly.doubt import Doubt, Found
from jelly.engines import open_engine
from jelly.errors import ConfigError, StartError
from jelly.live_nodes import live_nodes
from jelly.login_guard import LoginGuard
from jelly.migrations import SCHEMA_VERSION
from jelly.server import JellyServer

cluster = pytest.fixture(params=["none", "redis"])(cluster_url)
database = pytest.fixture(shared_database)
nodes = pytest.fixture(two_nodes)
ports = pytest.fixture(ports_of_nodes)
dao = pytest.fixture(dao_beside_nodes)


def judges_at_once(server: JellyServer) -> None:
    """Let a node that has just begun remove others as if it had been there for long."""
    node_of(server).lease._judges_at = 0.0


def test_a_node_that_stops_is_gone_in_order(start_server: StartServer, database: str, dao: Dao) -> None:
    """Its users may come back elsewhere; a node that begins after it takes a number."""
    first = start_server(database=database, cluster="none")
    second = start_server(database=database, cluster="none")
    register(first.port, "alice")
    with logged_in(second.port, "alice", features=MODERN) as alice:
        second.stop()
        system_notice(alice, "shutdown")
    assert [node.address for node in live_nodes(dao.connection)] == [f"127.0.0.1:{first.port}"]
    third = start_server(database=database, cluster="none")
    addresses = [node.address for node in live_nodes(dao.connection)]
    assert addresses == [f"127.0.0.1:{each.port}" for each in (first, third)]
    with logged_in(third.port, "alice", features=MODERN) as alice:
        assert alice.call(OWN_PROFILE).status == SUCCESS


def test_single_servers_and_nodes_exclude_each_other(start_server: StartServer, database: str) -> None:
    node = start_server(database=database, cluster="none")
    said = r"Nodes of a cluster use this database \(1 at .+\): stop all of them first, wait for [1-5] s if they were"
    with pytest.raises(StartError, match=said):
        start_server(database=database)
    node.stop()
    single = start_server(database=database)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("jelly.server.CLAIM_SECONDS", 0.0)
        with pytest.raises(StartError, match="another server is using this database"):
            start_server(database=database, cluster="none")
    single.stop()
    start_server(database=database, cluster="none")


@contextlib.contextmanager
def newer_program() -> Iterator[int]:
    """A program with the next schema version runs, which it yields."""
    newer = SCHEMA_VERSION + 1
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(migrations, "STEPS", {newer: ("ALTER TABLE users ADD COLUMN more INT",)})
        for module in (migrations, node_dao):
            patch.setattr(module, "SCHEMA_VERSION", newer)
        yield newer


def schema_version(dao: Dao) -> int:
    return int(dao.connection.query("SELECT value FROM meta WHERE name = 'schema_version'")[0][0])


@pytest.fixture
def migrated(mariadb: PrivateMariaDB) -> Iterator[None]:
    """For a test that migrates the database: the next one gets another."""
    yield
    mariadb.sql("DROP DATABASE jelly_nodes")


@pytest.mark.usefixtures("migrated")
@pytest.mark.parametrize("kind", ["none", ""], ids=["node", "single server"])
def test_a_newer_schema_beside_nodes(start_server: StartServer, database: str, dao: Dao, kind: str) -> None:
    """A program that would migrate the database does not start while nodes use it, and says which.
    When they have stopped, it does.
    """
    nodes = [start_server(database=database, cluster="none") for _ in range(2)]
    register(nodes[0].port, "alice")
    with newer_program() as newer:
        with pytest.raises(StartError) as refused:
            start_server(database=database, cluster=kind)
        assert not isinstance(refused.value, ConfigError)
        names = "; ".join(
            rf"{number} at 127\.0\.0\.1:{node.port}, version \S+, since 20\S+ \S+ UTC"
            for number, node in enumerate(nodes, 1)
        )
        assert re.fullmatch(
            rf"The database has schema version {SCHEMA_VERSION}, this program needs {newer}, and nodes of a cluster "
            rf"use it \({names}\): stop all of them first, or wait for [1-5] s if they were killed\.",
            str(refused.value),
        )
    assert schema_version(dao) == SCHEMA_VERSION
    assert "more" not in dao.connection.columns("users")
    with logged_in(nodes[1].port, "alice") as alice:
        assert alice.call(OWN_PROFILE).status == SUCCESS
    for node in nodes:
        node.stop()
    with newer_program() as newer:
        start_server(database=database, cluster=kind)
        assert schema_version(dao) == newer


def test_a_node_that_stood_still_beside_a_single_server(start_server: StartServer, database: str, dao: Dao) -> None:
    """A single server has begun when its lease was over. When it wakes up it writes nothing, also
    if nobody has written since its last transaction.
    """
    node = start_server(database=database, cluster="none")
    register(node.port, "alice", "bob")
    with logged_in(node.port, "alice") as alice:
        with node.store._turn:
            alice.send_message("bob", "too late")
            wait_until(lambda: bool(node.store._jobs))
            dao.connection.execute("UPDATE nodes SET renewed = renewed - lease - 1")
            single = start_server(database=database)
        wait_until_closed(alice)
    with logged_in(single.port, "alice") as alice:
        assert alice.call(OWN_PROFILE).status == SUCCESS
    assert contents_of_alice(dao) == []


@pytest.mark.usefixtures("migrated")
def test_an_older_node_beside_a_newer_schema(nodes: list[JellyServer], ports: tuple[int, int], dao: Dao) -> None:
    """Nodes that stood still until their leases were over have kept nobody from migrating. When
    they wake up they write nothing, and stop.
    """
    reasons: list[str] = []
    for node in nodes:
        node._on_fatal = reasons.append
    with logged_in(ports[0], "alice") as alice, nodes[0].store._turn, nodes[1].store._turn:
        alice.send_message("bob", "too late")
        wait_until(lambda: bool(nodes[0].store._jobs))
        dao.connection.execute("UPDATE nodes SET renewed = renewed - lease - 1")
        with newer_program() as newer:
            engine = open_engine(f"{nodes[0].settings.database}")
            engine.is_shared = True
            connection = DatabaseConnection(engine, writes=True)
            with connection.claimed(10.0):
                migrations.migrate(connection)
            connection.close()
    wait_until(lambda: len(set(reasons)) == 1 and len(reasons) >= 2)
    assert reasons[0] == (
        f"the database has schema version {newer} now, and this program knows {SCHEMA_VERSION}: start the version of "
        "Jelly that the other nodes have"
    )
    assert dao.connection.query("SELECT COUNT(*) FROM messages") == [(0,)]
    assert dao.connection.query("SELECT COUNT(*) FROM nodes") == [(0,)]


def test_a_single_server_has_nothing_of_it(start_server: StartServer, database: str) -> None:
    server = start_server(database=database)
    assert server.node is None
    assert server.store.node is None


def test_a_node_that_dies_is_removed(
    start_server: StartServer, database: str, cluster: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Its users go offline for their friends, and may log in elsewhere meanwhile."""
    first = start_server(database=database, cluster=cluster)
    judges_at_once(first)
    register(first.port, "alice", "bob")
    with (
        Server(database, "--cluster", cluster, "--node-timeout", "2", "--password-cost", "1") as second,
        logged_in(first.port, "alice", features=MODERN) as alice,
    ):
        alice.call(ADD_FRIEND, friend="bob")
        with logged_in(second.port, "bob", features=MODERN):
            assert system_notice(alice, "presence")["online"]
            second.kill()
            assert not system_notice(alice, "presence")["online"]
    assert "was silent for too long" in caplog.text
    with logged_in(first.port, "bob", features=MODERN) as bob:
        assert bob.call(OWN_PROFILE).status == SUCCESS


def test_a_node_that_was_declared_dead_starts_over(
    nodes: list[JellyServer], ports: tuple[int, int], caplog: pytest.LogCaptureFixture
) -> None:
    """It writes nothing as the one that it was. Its clients come back, and nothing is lost. The log
    says it once, and does not blame the database.
    """
    first, second = ports
    number = node_of(nodes[1])._dao.number
    with logged_in(second, "bob", features=MODERN) as bob:
        connection = DatabaseConnection(nodes[0].engine)
        with connection.transaction():
            connection.execute(f"UPDATE meta SET value = 0 WHERE name = 'node.{number}'")
            connection.execute(f"DELETE FROM nodes WHERE id = {number}")
        connection.close()
        wait_until_closed(bob)
    wait_until(lambda: node_of(nodes[1]).is_serving)
    with logged_in(second, "bob", features=MODERN) as bob, logged_in(first, "alice") as alice:
        alice.call(PERSON_MESSAGE, receiver="bob", content="again", time=1)
        assert bob.contents(1) == ["again"]
    assert [line for line in caplog.messages if "too long" in line or "the database" in line] == [
        "this node was silent for too long, and the others have declared it dead: all connections are closed"
    ]


@pytest.mark.parametrize("name", ["event", "next_id"])
def test_a_database_that_has_lost_what_others_did(
    nodes: list[JellyServer], ports: tuple[int, int], dao: Dao, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    """A node that has seen more than the database holds begins anew, and so do its clients. No id
    is given twice.
    """
    first, second = ports
    with logged_in(second, "bob", features=MODERN) as bob, logged_in(first, "alice") as alice:
        alice.call(PERSON_MESSAGE, receiver="bob", content="seen", time=1)
        seen = bob.receive_notice().values["id"]
        with dao.connection.transaction():
            lost = 1 if name == "event" else seen
            dao.connection.execute("UPDATE meta SET value = value - ? WHERE name = ?", (lost, name))
        wait_until(lambda: "gone back to an older state: all connections are closed" in caplog.text)
    # (The other one may have noticed as well, and not have closed its connections yet.)
    wait_until(lambda: all(node_of(server).is_serving and server.store._doubt is None for server in nodes))
    with logged_in(second, "bob", features=MODERN) as bob, logged_in(first, "alice") as alice:
        alice.call(PERSON_MESSAGE, receiver="bob", content="new", time=1)
        while (notice := bob.receive_notice().values)["content"] != "new":
            pass
        assert notice["id"] > seen


def test_a_hint_from_nowhere(
    nodes: list[JellyServer], ports: tuple[int, int], caplog: pytest.LogCaptureFixture
) -> None:
    """A hint with an id that nobody has given does no harm, nor one with such an event."""
    first, second = ports
    node_of(nodes[1]).on_hint(Hint(2**52, 2**40))
    with logged_in(second, "bob", features=MODERN) as bob, logged_in(first, "alice") as alice:
        alice.call(PERSON_MESSAGE, receiver="bob", content="hello", time=1)
        notice = bob.receive_notice().values
        assert notice["content"] == "hello"
        assert notice["id"] < 2**52
    node = node_of(nodes[1])
    wait_until(lambda: not node.has_news)
    assert node._hinted_id < 2**52
    assert node._hinted_event < 2**40
    assert "starts over" not in caplog.text


def test_a_node_that_sends_no_hints(
    start_server: StartServer, database: str, redis_server: PrivateRedis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The others know it, and look by themselves, although their own Redis works."""
    silent = start_server(database=database, cluster="none")
    other = start_server(database=database, cluster=redis_server.url)
    register(silent.port, "alice", "bob")
    wait_until(lambda: node_of(other)._hears)
    monkeypatch.setattr(lease, "LEASE_INTERVAL", 3600.0)  # a renewal would look, too
    renewed_at = node_of(other).lease.renewed_at
    wait_until(lambda: node_of(other).lease.renewed_at > renewed_at)
    with logged_in(silent.port, "alice") as alice, logged_in(other.port, "bob") as bob:
        for number in range(3):
            alice.call(PERSON_MESSAGE, receiver="bob", content=str(number), time=1)
            assert bob.contents(1) == [str(number)]


def test_users_of_a_node_that_stops_do_not_flicker(nodes: list[JellyServer], ports: tuple[int, int]) -> None:
    """They come back at another node, and their friends hear of nothing."""
    first, second = ports
    with logged_in(first, "alice", features=MODERN) as alice:
        alice.call(ADD_FRIEND, friend="bob")
        with logged_in(second, "bob", features=MODERN) as bob:
            system_notice(alice, "presence")
            nodes[1].stop()
            wait_until_closed(bob)
        with logged_in(first, "bob", features=MODERN) as bob:
            bob.call(PERSON_MESSAGE, receiver="alice", content="still here", time=1)
            assert alice.receive_notice().type == PERSON_MESSAGE
        assert not system_notice(alice, "presence")["online"]


def test_wrong_passwords_count_at_all_nodes(
    nodes: list[JellyServer], ports: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """More nodes do not mean more guesses."""
    monkeypatch.setattr(lease, "LEASE_INTERVAL", 0.01)
    for _ in range(LoginGuard.FREE_FAILURES + 1):
        with Wire(ports[0]) as wire:
            assert wire.login("alice", "wrong").error == "wrong_credentials"
    other = nodes[1].services.logins._guard
    wait_until(lambda: other.attempt("alice", "192.0.2.1", is_known=False, exists=True).seconds_to_wait() > 0)


def test_one_node_sweeps(nodes: list[JellyServer], monkeypatch: pytest.MonkeyPatch) -> None:
    """What is too old is dropped by one node; another takes its place when it stops."""
    monkeypatch.setattr(lease, "LEASE_INTERVAL", 0.01)
    monkeypatch.setattr(node_dao, "DRAINING_MS", 0)
    sweeps = [node_of(server)._retention for server in nodes]
    wait_until(lambda: [each.is_active for each in sweeps] == [True, False])
    judges_at_once(nodes[1])
    nodes[0].stop()
    wait_until(lambda: sweeps[1].is_active)


def test_a_node_that_has_stopped_was_not_silent(
    start_server: StartServer,
    database: str,
    dao: Dao,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The others remove it without a warning, whether they run on or begin later."""
    monkeypatch.setattr(lease, "LEASE_INTERVAL", 0.01)
    monkeypatch.setattr(node_dao, "DRAINING_MS", 0)
    first = start_server(database=database, cluster="none")
    second = start_server(database=database, cluster="none")
    judges_at_once(second)
    first.stop()
    wait_until(lambda: dao.connection.query("SELECT id FROM nodes") == [(2,)])
    second.stop()
    judges_at_once(start_server(database=database, cluster="none"))
    wait_until(lambda: dao.connection.query("SELECT id FROM nodes") == [(1,)])
    assert "silent" not in caplog.text


def test_a_node_without_its_database_serves_nobody(
    start_server: StartServer, database: str, mariadb: PrivateMariaDB, redis_server: PrivateRedis
) -> None:
    """If others have theirs, its clients should go to them. When it is back, so is the node."""
    other = start_server(database=database, cluster=redis_server.url)
    register(other.port, "alice", "bob")
    with Proxy(mariadb.port) as relay:
        url = database.replace(f":{mariadb.port}/", f":{relay.port}/")
        server = start_server(database=url, cluster=redis_server.url, node_timeout=2.0)
        with logged_in(server.port, "alice", features=MODERN) as alice:
            relay.block()
            while not alice.is_closed():  # the other node hints at each login
                logged_in(other.port, "bob").close()
        with Wire(server.port) as wire, pytest.raises((EOFError, ConnectionError)):
            wire.call(OWN_PROFILE)
        relay.mend()
        wait_until(lambda: node_of(server).is_serving)
        with logged_in(server.port, "alice", features=MODERN) as alice:
            assert alice.call(OWN_PROFILE).status == SUCCESS


def test_a_database_that_comes_back_to_another_node_first(
    start_server: StartServer,
    database: str,
    mariadb: PrivateMariaDB,
    redis_server: PrivateRedis,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A hint says so, but the node tries again itself before it cuts its clients off."""
    monkeypatch.setattr(lease, "ISOLATION_DELAY", 3600.0)
    other = start_server(database=database, cluster=redis_server.url)
    register(other.port, "alice", "bob")
    with other.store._turn:
        node_of(other).lease._judges_at = math.inf
    with Proxy(mariadb.port) as relay:
        url = database.replace(f":{mariadb.port}/", f":{relay.port}/")
        server = start_server(database=url, cluster=redis_server.url, node_timeout=2.0)
        node = node_of(server)
        with logged_in(server.port, "alice") as alice:
            relay.block()
            wait_until(lambda: not node.is_serving)
            logged_in(other.port, "bob").close()
            wait_until(lambda: node.lease._heard_at > node.lease.renewed_at + lease.LEASE_INTERVAL)
            failed_at = node.lease.due_at
            wait_until(lambda: node.lease.due_at > failed_at)  # one turn more has failed
            relay.mend()
            wait_until(lambda: node.is_serving)
            assert alice.call(OWN_PROFILE).status == SUCCESS


def test_a_database_that_was_away_for_all_kills_no_node(
    start_server: StartServer, database: str, mariadb: PrivateMariaDB, caplog: pytest.LogCaptureFixture
) -> None:
    """Nodes that could not renew their leases do not declare each other dead."""
    with Proxy(mariadb.port) as relay:
        url = database.replace(f":{mariadb.port}/", f":{relay.port}/")
        servers = [start_server(database=url, cluster="none", node_timeout=2.0) for _ in range(2)]
        register(servers[0].port, "alice")
        with logged_in(servers[0].port, "alice") as alice:
            relay.block()
            wait_until(lambda: not any(node_of(server).is_serving for server in servers))
            relay.mend()
            wait_until(lambda: all(node_of(server).is_serving for server in servers))
            assert alice.call(OWN_PROFILE).status == SUCCESS
    assert "declared it dead" not in caplog.text


def test_nobody_is_removed_while_nobody_could_renew(
    nodes: list[JellyServer], dao: Dao, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A node that froze with the sequence lock keeps all others waiting. The first of them that
    gets the lock takes none of the others for dead; later it may.
    """
    monkeypatch.setattr(lease, "LEASE_INTERVAL", 3600.0)
    node, silent = map(node_of, nodes)
    with nodes[1].store._turn:
        silent.lease.due_at = math.inf

    def tick(stalled: float) -> None:
        with nodes[0].store._turn:
            dao.connection.execute(f"UPDATE nodes SET renewed = renewed - 60000 WHERE id = {silent._dao.number}")
            node.lease.renewed_at -= stalled
            before, node.lease.due_at = node.lease.renewed_at, 0.0
        nodes[0].store.wake()
        wait_until(lambda: node.lease.renewed_at > before)

    tick(stalled=60.0)
    assert len(live_nodes(dao.connection)) == 1  # it is silent
    assert dao.connection.query("SELECT COUNT(*) FROM nodes") == [(2,)]  # and still there
    node.lease._judges_at = 0.0  # the others have had the time of a lease
    old = silent._dao.incarnation
    tick(stalled=0.0)
    assert (old,) not in dao.connection.query("SELECT incarnation FROM nodes")  # it may have begun anew


def test_a_database_that_goes_back(
    nodes: list[JellyServer], ports: tuple[int, int], database: str, caplog: pytest.LogCaptureFixture
) -> None:
    """All nodes notice it, close their connections, and go on with ids above those before."""
    first, second = ports
    state = read_state(database)
    with logged_in(first, "alice", features=MODERN) as alice, logged_in(second, "bob", features=MODERN) as bob:
        alice.call(PERSON_MESSAGE, receiver="bob", content="gone", time=1)
        given = bob.receive_notice().values["id"]
        write_state(database, state)
        wait_until_closed(alice)
        wait_until_closed(bob)
    wait_until(lambda: caplog.text.count("all connections are closed") == len(nodes))
    wait_until(lambda: all(node_of(server).is_serving for server in nodes))
    with logged_in(first, "alice", features=MODERN) as alice, logged_in(second, "bob", features=MODERN) as bob:
        assert alice.call(PERSON_MESSAGE, receiver="bob", content="new", time=1).status == SUCCESS
        notice = bob.receive_notice()
        assert notice.values["content"] == "new"
        assert notice.values["id"] > given


def test_a_database_that_goes_back_under_a_commit_in_doubt(
    start_server: StartServer,
    database: str,
    mariadb: PrivateMariaDB,
    redis_server: PrivateRedis,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The node finds its own mark, as if only its commit had not happened. But what it has heard of
    others is gone, so it begins anew.
    """
    look = Doubt.look
    looks: list[Doubt] = []

    def go_back_and_look(doubt: Doubt, dao: Dao) -> Found:
        if not looks:
            write_state(database, state)
        looks.append(doubt)
        return look(doubt, dao)

    with CommitProxy(mariadb.port) as proxy:
        url = database.replace(f":{mariadb.port}/", f":{proxy.port}/")
        first, second = (start_server(database=each, cluster=redis_server.url) for each in (url, database))
        register(second.port, "alice", "bob")
        with (
            logged_in(first.port, "alice", features=MODERN) as alice,
            logged_in(second.port, "bob", features=MODERN) as bob,
        ):
            alice.message("bob", "before")
            with first.store._turn:  # it writes nothing meanwhile
                state = read_state(database)
                bob.message("alice", "gone")
            assert alice.receive_notice().values["content"] == "gone"
            monkeypatch.setattr(Doubt, "look", go_back_and_look)
            proxy.cut_at_commit(happens=False)
            alice.send_message("bob", "in doubt")
            wait_until_closed(alice)
        first.stop()
    assert "the database has gone back to an older state: all connections are closed" in caplog.text
    assert looks.count(looks[0]) == 1  # a second one would find its mark, and believe all that it knew


def test_the_lease_is_renewed(nodes: list[JellyServer], monkeypatch: pytest.MonkeyPatch) -> None:
    """Also while nothing happens."""
    monkeypatch.setattr(lease, "LEASE_INTERVAL", 0.01)
    node = node_of(nodes[0])
    before = node.lease.renewed_at
    wait_until(lambda: node.lease.renewed_at > before)


def test_events_are_dropped_when_all_have_applied_them(
    nodes: list[JellyServer], ports: tuple[int, int], dao: Dao, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lease, "LEASE_INTERVAL", 0.01)
    monkeypatch.setattr(node_module, "TRIM_INTERVAL", 0.01)
    for server in nodes:
        node_of(server)._trim_at = 0.0
    for _ in range(3):
        logged_in(ports[0], "alice").close()
    wait_until(lambda: dao.connection.query("SELECT COUNT(*) FROM events")[0][0] <= 2)
