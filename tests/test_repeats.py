"""A message that is sent again with its requestId is stored once and answered again."""

import sqlite3

import pytest
from harness import InDoubtCommit, StartServer, ready_database
from indexed import indexed_server
from wire import (
    CREATE_GROUP,
    DISBAND_GROUP,
    GROUP_MESSAGE,
    PERSON_MESSAGE,
    REMOVE_MEMBER,
    REQUEST_ERROR,
    SERVER_ERROR,
    SUCCESS,
    Wire,
    logged_in,
    register,
    wait_until,
)

from faults.mariadb import PrivateMariaDB
from faults.process import Server
from jelly import indexing
from jelly.server import JellyServer

server = pytest.fixture(params=["unindexed", "indexed"])(indexed_server)


def send(wire: Wire, content: str, request_id: str, to: str = "bob", type: int = PERSON_MESSAGE, time: int = 1) -> str:
    """Send a message with a requestId; "ok", or the code of its refusal."""
    reply = wire.call(type, receiver=to, content=content, time=time, requestId=request_id)
    assert reply.type == type
    return "ok" if reply.status == SUCCESS else reply.error


def stored(server: JellyServer) -> list[str]:
    """The contents of the stored messages, oldest first, after those that are due are indexed."""
    with server._reading() as dao:
        if indexing.INDEX_DELAY == 0:
            [(newest,)] = dao.connection.query("SELECT MAX(id) FROM messages")
            wait_until(lambda: dao.indexed_id() >= (newest or 0))
        return [content for (content,) in dao.connection.query("SELECT content FROM messages ORDER BY id")]


def test_a_repeat_is_answered_and_not_stored(server: JellyServer) -> None:
    """On the same connection or the next one: SUCCESS, and the receiver gets it once."""
    with logged_in(server.port, "alice") as alice:
        assert send(alice, "one", "r1") == "ok"
        assert stored(server) == ["one"]
        assert send(alice, "one", "r1") == "ok"
    with logged_in(server.port, "alice") as alice, logged_in(server.port, "bob") as bob:
        assert send(alice, "one", "r1", time=2) == "ok"
        assert send(alice, "two", "r2") == "ok"
        assert bob.contents(2) == ["one", "two"]
        assert stored(server) == ["one", "two"]


def test_repeats_in_one_batch(server: JellyServer) -> None:
    """The same message many times in one write is stored once, and each is answered."""
    with logged_in(server.port, "alice") as alice:
        for _ in range(50):
            alice.send_message("bob", "x", requestId="r1")
            alice.send_message("bob", "y", requestId="r2")
        assert {alice.receive().status for _ in range(100)} == {SUCCESS}
    assert stored(server) == ["x", "y"]


def test_an_id_that_was_used_for_another_message(server: JellyServer) -> None:
    """Another content, receiver or type is refused and not stored; the first message stays."""
    with logged_in(server.port, "alice") as alice:
        alice.ok(CREATE_GROUP, groupName="bob")
        assert send(alice, "one", "r1") == "ok"
        assert stored(server) == ["one"]
        assert send(alice, "other", "r1") == "request_id_reused"
        assert send(alice, "one", "r1", to="carol") == "request_id_reused"
        assert send(alice, "one", "r1", type=GROUP_MESSAGE) == "request_id_reused"
        assert send(alice, "one", "r1") == "ok"
        alice.send_message("carol", "a", requestId="r2")
        alice.send_message("carol", "b", requestId="r2")
        assert [alice.receive().status for _ in range(2)] == [SUCCESS, REQUEST_ERROR]
    assert stored(server) == ["one", "a"]


def test_ids_belong_to_their_sender(server: JellyServer) -> None:
    """Two users may use the same one; and ids are compared character by character."""
    with logged_in(server.port, "alice") as alice, logged_in(server.port, "carol") as carol:
        assert send(alice, "a", "r") == send(carol, "c", "r") == "ok"
        for number, request_id in enumerate(["R", "r ", "ｒ", "r\0", "😀" * 36]):
            assert send(alice, str(number), request_id) == "ok"
            assert send(alice, str(number), request_id) == "ok"
        assert send(alice, "a", "r") == "ok"
    assert sorted(stored(server)) == ["0", "1", "2", "3", "4", "a", "c"]


def test_a_repeat_that_would_be_refused_today(server: JellyServer) -> None:
    """A stored message is answered with SUCCESS, even if its sender or its group is gone."""
    with logged_in(server.port, "carol") as carol, logged_in(server.port, "alice") as alice:
        carol.ok(CREATE_GROUP, groupName="team")
        assert send(alice, "early", "r0", to="team", type=GROUP_MESSAGE) == "not_a_member"
        carol.ok(0x19, groupName="team", member="alice")
        assert send(alice, "hello", "r1", to="team", type=GROUP_MESSAGE) == "ok"
        assert stored(server) == ["hello"]
        alice.ok(REMOVE_MEMBER, groupName="team", member="alice")
        assert send(alice, "hello", "r1", to="team", type=GROUP_MESSAGE) == "ok"
        assert send(alice, "other", "r1", to="team", type=GROUP_MESSAGE) == "request_id_reused"
        assert send(alice, "more", "r2", to="team", type=GROUP_MESSAGE) == "not_a_member"
        carol.ok(DISBAND_GROUP, groupName="team")
        assert send(alice, "hello", "r1", to="team", type=GROUP_MESSAGE) == "ok"
        assert send(alice, "more", "r2", to="team", type=GROUP_MESSAGE) == "no_such_group"
        assert send(alice, "x", "r3", to="nobody") == "no_such_user"
        assert send(alice, "x", "r3") == "ok"  # a refused one has not used its id
    assert stored(server) == ["hello", "x"]


def test_a_repeat_beyond_the_rate(start_server: StartServer) -> None:
    """A sender above the rate still learns that a message was stored before."""
    port = start_server(message_rate=1, message_burst=1, classic_gap=0).port
    register(port, "alice", "bob")
    with logged_in(port, "alice") as alice:
        assert send(alice, "x", "r1") == "ok"
        assert send(alice, "y", "r2") == "rate_limited"
        assert send(alice, "x", "r1") == "ok"


def test_a_message_delivered_and_dropped_is_not_stored_again(start_server: StartServer, database_url: str) -> None:
    """Without history only the requestId of a delivered message is kept, which is enough."""
    server = start_server(database=database_url, history_days=0, classic_gap=0)
    register(server.port, "alice", "bob")
    with logged_in(server.port, "alice") as alice, logged_in(server.port, "bob", features=["ack"]) as bob:
        assert send(alice, "x", "r1") == "ok"
        bob.ack(bob.receive_notice().values["id"])
        with server._reading() as dao:
            wait_until(lambda: dao.connection.query("SELECT COUNT(*) FROM messages") == [(0,)])
        assert send(alice, "x", "r1") == "ok"
        assert send(alice, "y", "r1") == "request_id_reused"
        assert send(alice, "z", "r2") == "ok"
        assert bob.contents(1) == ["z"]


@pytest.mark.parametrize("indexed", [False, True])
def test_a_repeat_after_a_crash(database_url: str, indexed: bool) -> None:
    """The requestId survives kill -9, whether its message was indexed before or not."""
    with Server(database_url, "--classic-gap=0") as server:
        register(server.port, "alice", "bob")
        with logged_in(server.port, "alice") as alice:
            assert send(alice, "x", "r1") == "ok"
            if indexed:
                for number in range(indexing.INDEX_BATCH):  # which are indexed at once
                    alice.send_message("bob", str(number))
                for _ in range(indexing.INDEX_BATCH):
                    assert alice.receive().status == SUCCESS
            server.kill()
    with Server(database_url, "--classic-gap=0") as server:
        with logged_in(server.port, "alice") as alice:
            assert send(alice, "x", "r1") == "ok"
            assert send(alice, "y", "r1") == "request_id_reused"
            assert send(alice, "end", "r2") == "ok"
        with logged_in(server.port, "bob") as bob:
            count = indexing.INDEX_BATCH + 2 if indexed else 2
            contents = bob.contents(count)
            assert (contents[0], contents[-1], len(set(contents))) == ("x", "end", count)


def test_a_commit_in_doubt_leaves_its_id_free(
    commits: type[InDoubtCommit],
    start_server: StartServer,
) -> None:
    """A message that was answered with an error is stored once when it is sent again."""
    port = start_server(classic_gap=0).port
    register(port, "alice", "bob")
    with logged_in(port, "alice") as alice, logged_in(port, "bob") as bob:
        commits.breaks, commits.code = True, sqlite3.SQLITE_IOERR_FSYNC
        reply = alice.call(PERSON_MESSAGE, receiver="bob", content="x", time=1, requestId="r1")
        assert reply.status == SERVER_ERROR
        assert send(alice, "x", "r1") == "ok"
        assert send(alice, "x", "r1") == "ok"
        assert send(alice, "end", "r2") == "ok"
        assert bob.contents(2) == ["x", "end"]


def test_ids_survive_a_database_that_fails(mariadb: PrivateMariaDB, start_server: StartServer) -> None:
    """When a killed database is back, earlier messages are known, indexed or not."""
    server = start_server(database=ready_database(mariadb, "repeats"), classic_gap=0)
    register(server.port, "alice", "bob")
    with logged_in(server.port, "alice") as alice:
        assert send(alice, "x", "r1") == "ok"
        mariadb.kill()
        assert send(alice, "y", "r2") == "internal"
        mariadb.start()
        wait_until(lambda: send(alice, "y", "r2") == "ok")
        assert send(alice, "x", "r1") == send(alice, "y", "r2") == "ok"
        assert stored(server) == ["x", "y"]


def test_classic_receivers_see_no_id_of_a_request(start_server: StartServer) -> None:
    """A notice has the four keys that it always had."""
    port = start_server(classic_gap=0).port
    register(port, "alice", "bob")
    with logged_in(port, "alice") as alice, logged_in(port, "bob") as bob:
        send(alice, "x", "r1")
        assert bob.receive_notice().body == b'{"sender":"alice","receiver":"bob","content":"x","time":1}'
