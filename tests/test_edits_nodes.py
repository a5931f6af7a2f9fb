"""EDIT at several nodes."""

import pytest
from edit_tools import WITHOUT, edit, inbox, modern, past, say, seen, seen_next
from harness import StartServer, ready_database
from wire import logged_in, register, wait_until

from faults.mariadb import PrivateMariaDB
from jelly.server import JellyServer


@pytest.fixture(params=["none", "redis"])
def nodes(request: pytest.FixtureRequest, start_server: StartServer, mariadb: PrivateMariaDB) -> list[JellyServer]:
    """Two nodes on one database, with hints and without; alice and bob have accounts."""
    cluster = "none" if request.param == "none" else request.getfixturevalue("redis_server").url
    database = ready_database(mariadb, "jelly_nodes")
    servers = [start_server(database=database, cluster=cluster, classic_gap=0) for _ in range(2)]
    register(servers[0].port, "alice", "bob")
    return servers


def test_from_node_to_node(nodes: list[JellyServer]) -> None:
    """An edit is pushed at the node where its receiver is, and refers to a message from another."""
    with modern(nodes[0], "alice") as alice, modern(nodes[1], "bob") as bob:
        original = say(alice, "bob", "a")
        edited = edit(alice, original, "b c")
        assert [seen(bob.receive_notice()) for _ in range(2)] == [("a", None), ("b c", original)]
        assert past(bob, person="alice") == [("b c", edited)]
        bob.ack(edited)
        wait_until(lambda: inbox(nodes[0], "bob") == [])
        own = say(bob, "alice", "d")
        bob.close()
        with modern(nodes[0], "bob") as bob:
            edit(bob, own, "e")
            assert [seen(alice.receive_notice()) for _ in range(2)] == [("d", None), ("e", own)]


def test_offline_at_all_nodes(nodes: list[JellyServer]) -> None:
    """Who comes to any node sees the edited text only."""
    with modern(nodes[0], "alice") as alice:
        edit(alice, say(alice, "bob", "a"), "b")
        with modern(nodes[1], "bob") as bob:
            assert seen(bob.receive_notice()) == ("b", None)
            assert seen_next(alice, bob) == ("end", None)


def test_sent_by_another_node(nodes: list[JellyServer]) -> None:
    """What the node sent where the receiver was, counts as sent: it comes again as it was."""
    with modern(nodes[0], "alice") as alice:
        with modern(nodes[1], "bob") as bob:
            original = say(alice, "bob", "a")
            assert seen(bob.receive_notice()) == ("a", None)
        wait_until(lambda: not nodes[0].sessions.is_online("bob"))
        edit(alice, original, "b")
        with modern(nodes[0], "bob") as bob:
            assert [seen(bob.receive_notice()) for _ in range(2)] == [("a", None), ("b", original)]


def test_a_classic_client_at_another_node(nodes: list[JellyServer]) -> None:
    """The node where it is passes the edit over, and the row goes."""
    with modern(nodes[0], "alice") as alice, logged_in(nodes[1].port, "bob") as bob:
        original = say(alice, "bob", "a")
        edited = edit(alice, original, "b")
        wait_until(lambda: edited not in inbox(nodes[0], "bob"))
        say(alice, "bob", "c")
        assert bob.contents(2) == ["a", "c"]


def test_a_receiver_who_moves(nodes: list[JellyServer]) -> None:
    """From a client without the feature to one with it, at another node: nothing is missed."""
    with modern(nodes[0], "alice") as alice, modern(nodes[1], "bob", WITHOUT) as bob:
        original = say(alice, "bob", "a")
        assert seen(bob.receive_notice()) == ("a", None)
        with modern(nodes[0], "bob") as bob:
            assert seen(bob.receive_notice()) == ("a", None)
            edited = edit(alice, original, "b")
            assert seen(bob.receive_notice()) == ("b", original)
            bob.ack(edited)
            wait_until(lambda: inbox(nodes[1], "bob") == [])
