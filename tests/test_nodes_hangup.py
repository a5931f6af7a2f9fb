"""What a client sends to a node right before its connection ends."""

from functools import partial

import pytest
from node_tools import (
    MODERN,
    cluster_url,
    contents_of_alice,
    dao_beside_nodes,
    messages_to_bob,
    ports_of_nodes,
    shared_database,
    system_notice,
    two_nodes,
)
from wire import ADD_FRIEND, LOGOUT, OWN_PROFILE, RECONNECT, SUCCESS, Wire, logged_in, wait_until

from jelly.dao import Dao
from jelly.server import JellyServer

cluster = pytest.fixture(params=["none", "redis"])(cluster_url)
database = pytest.fixture(shared_database)
nodes = pytest.fixture(two_nodes)
ports = pytest.fixture(ports_of_nodes)
dao = pytest.fixture(dao_beside_nodes)


def are_stored(dao: Dao, contents: list[str]) -> bool:
    return contents_of_alice(dao) == contents


@pytest.mark.parametrize("end", ["close", "reset"])
def test_what_was_sent_right_before_the_end(ports: tuple[int, int], dao: Dao, end: str) -> None:
    """A client sends messages, and closes at once, without reading an answer. All are stored, as on
    a single server.
    """
    contents = [f"{repetition}.{number}" for repetition in range(20) for number in range(50)]
    for sent in range(0, len(contents), 50):
        alice = logged_in(ports[sent // 50 % 2], "alice", features=MODERN)
        alice.send(messages_to_bob(contents[sent : sent + 50]))
        getattr(alice, end)()
        wait_until(partial(are_stored, dao, contents[: sent + 50]))


@pytest.mark.parametrize("end", ["close", "reset"])
def test_the_end_waits_for_all_that_was_read(
    nodes: list[JellyServer], ports: tuple[int, int], dao: Dao, end: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Several transactions write it, and the last one is that of a LOGOUT, which is carried out,
    too. Only then do the others hear that the user is gone.
    """
    monkeypatch.setattr("jelly.connection.HALF_CLOSE_TIMEOUT", 0.0)  # as if it took the database longer
    first, second = ports
    server, contents = nodes[0], [str(number) for number in range(150)]
    with logged_in(second, "bob", features=MODERN) as bob, logged_in(first, "alice", features=MODERN) as alice:
        bob.call(ADD_FRIEND, friend="alice")
        [connection] = [each for each in server.connections if each.session.user == "alice"]
        with server.store._turn:
            alice.send_request(ADD_FRIEND, friend="bob")
            alice.send(messages_to_bob(contents))
            alice.send_request(LOGOUT, token=alice.token)
            wait_until(lambda: connection.send_queue.read_bytes == alice.bytes_sent)
            getattr(alice, end)()
            wait_until(lambda: server.sessions.get("alice") is None)
        assert not system_notice(bob, "presence")["online"]
    assert contents_of_alice(dao) == contents
    with Wire(second) as wire:
        assert wire.call(RECONNECT, username="alice", token=alice.token).error == "invalid_token"


def test_the_next_login_at_the_same_node(nodes: list[JellyServer], ports: tuple[int, int], dao: Dao) -> None:
    """Does not keep the node from writing what it has read before."""
    server, contents = nodes[0], [str(number) for number in range(150)]
    with logged_in(ports[0], "alice", features=MODERN) as old, Wire(ports[0]) as new:
        [connection] = [each for each in server.connections if each.session.user == "alice"]
        with server.store._turn:
            old.send_request(ADD_FRIEND, friend="bob")
            old.send(messages_to_bob(contents))
            wait_until(lambda: connection.send_queue.read_bytes == old.bytes_sent)
            old.reset()
            wait_until(lambda: server.sessions.get("alice") is None)
            new.send_request(RECONNECT, username="alice", token=old.token, features=MODERN)
            wait_until(lambda: len(server.store._jobs) == 2)
        assert new.receive_response().status == SUCCESS
        wait_until(lambda: contents_of_alice(dao) == contents)
        new.user = "alice"
        assert new.call(OWN_PROFILE).status == SUCCESS
