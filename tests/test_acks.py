"""Acknowledgements: what is acknowledged goes, what is not comes again with the same id, and
nothing is lost.
"""

import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from harness import StartServer, kept_for, lane_of, occupy_the_store, stuck_store
from wire import (
    ACK,
    ALL_FRIENDS,
    LOGIN,
    NOTICE,
    OWN_PROFILE,
    PERSON_MESSAGE,
    SUCCESS,
    Wire,
    logged_in,
    pack,
    register,
    wait_until,
)

from faults.process import Server
from jelly.delivery import PAGE, PAGE_BYTES
from jelly.server import JellyServer
from jelly.sessions import MAX_UNACKNOWLEDGED, MAX_UNACKNOWLEDGED_BYTES, Notice, Session, Window

ACKS = ["ack"]


@pytest.fixture
def server(start_server: StartServer, database_url: str) -> JellyServer:
    """A server with alice, bob and carol, on each kind of database."""
    server = start_server(database=database_url, classic_gap=0)
    register(server.port, "alice", "bob", "carol")
    return server


@pytest.fixture
def sqlite(start_server: StartServer) -> JellyServer:
    """The same on SQLite only, for what does not depend on the database."""
    server = start_server(classic_gap=0)
    register(server.port, "alice", "bob", "carol")
    return server


def send(port: int, *contents: str, to: str = "bob") -> None:
    """Have alice send messages."""
    with logged_in(port, "alice") as alice:
        for content in contents:
            alice.send_message(to, content)
        assert {alice.receive().status for _ in contents} <= {SUCCESS}


def take(wire: Wire, count: int) -> list[tuple[int, str]]:
    """The ids and contents of the next messages."""
    values = [wire.receive_notice().values for _ in range(count)]
    return [(value["id"], value["content"]) for value in values]


def ids_waiting(server: JellyServer, user: str = "bob") -> list[int]:
    """What stands in somebody's inbox."""
    with server._reading() as dao:
        return [message.id for message in dao.waiting(user, 0, 10_000)]


def session_of(server: JellyServer, user: str) -> Session:
    session = server.sessions.get(user)
    assert session is not None
    return session


def unacknowledged(server: JellyServer) -> int:
    """How much bob was sent that he has not acknowledged."""
    window = session_of(server, "bob").window
    assert window is not None
    return len(window._sent)


# --- what an acknowledgement does -----------------------------------------------------------------


def test_a_notice_has_an_id(sqlite: JellyServer) -> None:
    """It is the last key of the body, whether the message waited or comes live."""
    send(sqlite.port, "waited")
    with logged_in(sqlite.port, "bob", features=ACKS) as bob:
        [id] = ids_waiting(sqlite)
        body = b'{"sender":"alice","receiver":"bob","content":"waited","time":1,"id":%d}'
        assert bob.receive() == (NOTICE, PERSON_MESSAGE, 0, body % id)
        send(sqlite.port, "live")
        [_, id] = ids_waiting(sqlite)
        assert bob.receive() == (NOTICE, PERSON_MESSAGE, 0, body.replace(b"waited", b"live") % id)


def test_what_is_acknowledged_goes_and_the_rest_comes_again(server: JellyServer) -> None:
    """Everything up to and including the id: what is behind it comes again at the next login, with
    the same ids.
    """
    send(server.port, *"abcde")
    with logged_in(server.port, "bob", features=ACKS) as bob:
        first = take(bob, 5)
        assert [content for _, content in first] == list("abcde")
        assert [id for id, _ in first] == sorted({id for id, _ in first})
        assert first[0][0] > 0
        bob.ack(first[1][0])
        wait_until(lambda: ids_waiting(server) == [id for id, _ in first[2:]])
        token = bob.token
    with Wire(server.port) as bob:
        bob.reconnect("bob", token, features=ACKS)
        assert take(bob, 3) == first[2:]
        bob.ack(first[-1][0])
        wait_until(lambda: not ids_waiting(server))


@pytest.mark.parametrize("end", ["kill", "stop"])
def test_across_a_restart_of_the_server(tmp_path: Path, end: str) -> None:
    """What was acknowledged stays gone, what was not comes again with its ids in order, and new ids
    are larger.
    """
    url = f"sqlite:///{tmp_path}/jelly.db"
    with Server(url) as server:
        register(server.port, "alice", "bob")
        send(server.port, *"abc")
        with logged_in(server.port, "bob", features=ACKS) as bob:
            first = take(bob, 3)
            bob.ack(first[0][0])
            wait_until(lambda: kept_for("bob", tmp_path / "jelly.db") == ["b", "c"])
            getattr(server, end)()
    with Server(url) as server, Wire(server.port) as again:
        send(server.port, "d")
        again.reconnect("bob", bob.token, features=ACKS)
        second = take(again, 3)
        assert second[:2] == first[1:]
        assert second[2][0] > first[2][0]


def test_nothing_else_settles_anything(server: JellyServer) -> None:
    """Neither a heartbeat, nor another request, nor a clean close: only the client's own
    word counts.
    """
    send(server.port, "a", "b")
    with logged_in(server.port, "bob", features=ACKS) as bob:
        first = take(bob, 2)
        bob.heartbeat()
        bob.ok(OWN_PROFILE)
        [connection] = [c for c in tuple(server.connections) if c.session.user == "bob"]
        assert (connection.send_queue.written_id, connection.send_queue.tcp_acked_id) == (0, 0)
    wait_until(lambda: not server.connections)
    with logged_in(server.port, "bob", features=ACKS) as bob:
        assert take(bob, 2) == first


def test_a_takeover_gives_the_rest_to_the_new_line(server: JellyServer) -> None:
    """What the old connection did not acknowledge comes on the new one, with the same ids."""
    send(server.port, *"abc")
    with logged_in(server.port, "bob", features=ACKS) as old:
        first = take(old, 3)
        old.ack(first[0][0])
        old.ok(OWN_PROFILE)
        with logged_in(server.port, "bob", features=ACKS) as new:
            assert take(new, 2) == first[1:]


def test_a_reconnect_at_once_is_not_given_what_was_acknowledged(server: JellyServer) -> None:
    """However short ago: that the rows go a little later is not to be seen."""
    with logged_in(server.port, "alice") as alice:
        with logged_in(server.port, "bob", features=ACKS) as bob:
            token = bob.token
        for number in range(10):
            with Wire(server.port) as bob:
                bob.reconnect("bob", token, features=ACKS)
                alice.message("bob", str(number))
                [(id, content)] = take(bob, 1)
                assert content == str(number)
                bob.ack(id)
                bob.ok(OWN_PROFILE)  # so the acknowledgement was read


def test_a_classic_client_gets_what_a_modern_one_left(sqlite: JellyServer) -> None:
    """A user may come with either kind of client."""
    send(sqlite.port, "a", "b")
    with logged_in(sqlite.port, "bob", features=ACKS) as bob:
        [(id, _), _] = take(bob, 2)
        bob.ack(id)
        bob.ok(OWN_PROFILE)
    with logged_in(sqlite.port, "bob") as bob:
        assert bob.receive() == (
            NOTICE, PERSON_MESSAGE, 0, b'{"sender":"alice","receiver":"bob","content":"b","time":1}',
        )  # fmt: skip


# --- acknowledgements of what one was not sent ----------------------------------------------------

WRONG: dict[str, Callable[[int, int], int]] = {
    "zero": lambda *_: 0,
    "minus one": lambda *_: -1,
    "minus mine": lambda mine, _: -mine,
    "the next": lambda mine, _: mine + 2,
    "the largest": lambda *_: 2**63 - 1,
    "another's": lambda _, other: other,
}


@pytest.mark.parametrize("wrong", WRONG.values(), ids=WRONG)
def test_an_id_that_was_not_sent_deletes_nothing(sqlite: JellyServer, wrong: Callable[[int, int], int]) -> None:
    """Not even what is older, and nothing of anybody else's; it is not answered, and the right id
    works after it.
    """
    send(sqlite.port, "mine")
    send(sqlite.port, "another's", to="carol")
    with logged_in(sqlite.port, "bob", features=ACKS) as bob:
        [(mine, _)] = take(bob, 1)
        [other] = ids_waiting(sqlite, "carol")
        bob.ack(wrong(mine, other))
        assert bob.ok(OWN_PROFILE) == {"username": "bob"}
        assert not bob.notices
        assert not sqlite.store._delivered
        assert (ids_waiting(sqlite), ids_waiting(sqlite, "carol")) == ([mine], [other])
        bob.ack(mine)
        wait_until(lambda: not ids_waiting(sqlite))
        assert ids_waiting(sqlite, "carol") == [other]


def test_an_id_twice(sqlite: JellyServer) -> None:
    """What is acknowledged already cannot be acknowledged again."""
    send(sqlite.port, "a", "b")
    with logged_in(sqlite.port, "bob", features=ACKS) as bob:
        [(a, _), (b, _)] = take(bob, 2)
        bob.ack(a)
        wait_until(lambda: ids_waiting(sqlite) == [b])
        bob.ack(a)
        bob.ok(OWN_PROFILE)
        assert not sqlite.store._delivered


@pytest.mark.parametrize("features", [None, []], ids=["classic", "modern"])
def test_from_a_client_that_was_not_granted_it(sqlite: JellyServer, features: list[str] | None) -> None:
    """Whoever gets no ids has none to acknowledge: it is not answered, and nothing goes."""
    send(sqlite.port, "a")
    with logged_in(sqlite.port, "bob", features=features) as bob:
        assert bob.contents(1) == ["a"]
        [id] = ids_waiting(sqlite)
        bob.ack(id)
        bob.reset()
    wait_until(lambda: not sqlite.connections)
    assert ids_waiting(sqlite) == [id]


def test_before_the_login(sqlite: JellyServer) -> None:
    """It is refused like any other request, and the connection is closed."""
    with Wire(sqlite.port) as wire:
        wire.ack(1)
        reply = wire.receive()
        assert (reply.type, reply.error) == (ACK, "not_logged_in")
        assert wire.is_closed_by_server()


def test_together_with_the_login(sqlite: JellyServer) -> None:
    """It can be about nothing that this connection was sent: so it is not answered, and nothing
    goes.
    """
    send(sqlite.port, "a")
    [id] = ids_waiting(sqlite)
    with Wire(sqlite.port) as bob:
        bob.send_request(LOGIN, username="bob", password="pw", features=ACKS)
        bob.ack(id)
        bob.send_request(OWN_PROFILE, username="bob")
        assert [reply.type for reply in (bob.receive_response(), bob.receive_response())] == [LOGIN, OWN_PROFILE]
        assert ids_waiting(sqlite) == [id]


@pytest.mark.parametrize(
    "body",
    [b"", b"{}", b"[1]", b"1", b'{"id":null}', b'{"id":"1"}', b'{"id":1.0}', b'{"id":true}', b'{"id":1,"id":1}',
     b'{"id":9223372036854775808}', b'{"ID":1}', b"\xff"],
)  # fmt: skip
def test_a_bad_body(sqlite: JellyServer, body: bytes) -> None:
    """It is answered, in its place among the other answers, and nothing goes."""
    send(sqlite.port, "a")
    with logged_in(sqlite.port, "bob", features=ACKS) as bob:
        [(id, _)] = take(bob, 1)
        ask = pack(OWN_PROFILE, b'{"username":"bob"}')
        bob.send(ask + pack(ACK, body) + ask)
        replies = [bob.receive() for _ in range(3)]
        assert [(reply.type, reply.error) for reply in replies] == [
            (OWN_PROFILE, ""), (ACK, "malformed_body"), (OWN_PROFILE, ""),
        ]  # fmt: skip
        assert ids_waiting(sqlite) == [id]


def test_unknown_keys_and_white_space(sqlite: JellyServer) -> None:
    """An ACK may be written in any way that JSON allows."""
    send(sqlite.port, "a")
    with logged_in(sqlite.port, "bob", features=ACKS) as bob:
        [(id, _)] = take(bob, 1)
        bob.send(pack(ACK, b' { "username" : "bob", "id" : %d } ' % id))
        wait_until(lambda: not ids_waiting(sqlite))


def test_it_does_not_wait_in_the_queue(start_server: StartServer, tmp_path: Path) -> None:
    """When nobody else is served, it is taken all the same, and never answered with SERVER_BUSY."""
    server = start_server(queue_size=2, classic_gap=0)
    register(server.port, "alice", "bob")
    send(server.port, "a")
    with logged_in(server.port, "alice") as alice, logged_in(server.port, "bob", features=ACKS) as bob:
        [(id, _)] = take(bob, 1)
        with stuck_store(tmp_path / "jelly.db"):
            occupy_the_store(server, alice, "alice")
            for _ in range(2):
                alice.send_message("alice", "waits")
            wait_until(lambda: len(lane_of(server, "alice").waiting) == 2)
            bob.ack(id)
            wait_until(lambda: unacknowledged(server) == 0)
        assert [alice.receive_response().status for _ in range(3)] == [SUCCESS] * 3
        wait_until(lambda: not ids_waiting(server))
        assert bob.ok(OWN_PROFILE) == {"username": "bob"}


# --- how much may be unacknowledged ---------------------------------------------------------------


def given_without_acknowledging(server: JellyServer, bob: Wire) -> list[tuple[int, str]]:
    """Everything that bob is given while he acknowledges nothing."""
    window = session_of(server, "bob").window
    assert window is not None
    messages: list[tuple[int, str]] = []

    def is_full() -> bool:
        # Read meanwhile: the kernel does not hold them all.
        messages.extend(take(bob, unacknowledged(server) - len(messages)))
        return not window.has_room and not server.store._delivery.has_work

    wait_until(is_full)
    messages += take(bob, unacknowledged(server) - len(messages))
    assert bob.ok(OWN_PROFILE) == {"username": "bob"}
    assert not bob.notices  # nothing came before that answer
    return messages


def test_who_acknowledges_nothing_is_given_no_more(sqlite: JellyServer) -> None:
    """When that many messages are open the rest stays in the inbox; half of them acknowledged, it
    goes on.
    """
    send(sqlite.port, *map(str, range(1300)))
    with logged_in(sqlite.port, "bob", features=ACKS) as bob:
        first = given_without_acknowledging(sqlite, bob)
        assert MAX_UNACKNOWLEDGED < len(first) <= MAX_UNACKNOWLEDGED + PAGE
        sqlite.store.wants_more(session_of(sqlite, "bob"))  # as the send queue does when it has room, and knows no more
        for _ in range(2):
            bob.ok(ALL_FRIENDS)  # which goes through the store thread
        assert unacknowledged(sqlite) == len(first)
        send(sqlite.port, "live")
        bob.ack(first[len(first) - MAX_UNACKNOWLEDGED // 2 - 2][0])  # one more than half stays open
        bob.ok(OWN_PROFILE)
        assert not session_of(sqlite, "bob").has_room
        bob.ack(first[-1][0])
        rest = take(bob, 1301 - len(first))
        assert [content for _, content in first + rest] == [*map(str, range(1300)), "live"]


def test_large_messages_that_are_not_acknowledged(sqlite: JellyServer) -> None:
    """Bytes are counted, too."""
    send(sqlite.port, *(f"{number} {'x' * 60_000}" for number in range(40)))
    with logged_in(sqlite.port, "bob", features=ACKS) as bob:
        first = given_without_acknowledging(sqlite, bob)
        assert MAX_UNACKNOWLEDGED_BYTES < 60_000 * (len(first) + 1) < MAX_UNACKNOWLEDGED_BYTES + 2 * PAGE_BYTES
        bob.ack(first[-1][0])
        more = given_without_acknowledging(sqlite, bob)
        bob.ack(more[-1][0])
        rest = take(bob, 40 - len(first) - len(more))
        assert [int(content.split()[0]) for _, content in first + more + rest] == list(range(40))


def test_a_long_backlog_slowly_acknowledged(sqlite: JellyServer) -> None:
    """5,000 messages in pages, with new ones meanwhile: all of them, in order, nothing twice, and
    then live again.
    """
    with logged_in(sqlite.port, "alice", features=[]) as alice:
        for start in range(0, 5000, 250):
            for number in range(start, start + 250):
                alice.send_message("bob", str(number))
            assert {alice.receive().status for _ in range(250)} == {SUCCESS}
        seen: list[tuple[int, str]] = []
        with logged_in(sqlite.port, "bob", features=ACKS) as bob:
            for number in range(5000, 5200):
                alice.send_message("bob", str(number))
                seen += take(bob, 26)
                bob.ack(seen[-10][0])
                assert unacknowledged(sqlite) <= MAX_UNACKNOWLEDGED + PAGE
            assert {alice.receive().status for _ in range(200)} == {SUCCESS}
            wait_until(lambda: session_of(sqlite, "bob").caught_up)
            alice.message("bob", "5200")
            seen += take(bob, 1)
            bob.ack(seen[-1][0])
            wait_until(lambda: not ids_waiting(sqlite))
    assert [int(content) for _, content in seen] == list(range(5201))
    assert [id for id, _ in seen] == sorted({id for id, _ in seen})


def test_who_comes_and_goes_misses_nothing(sqlite: JellyServer) -> None:
    """Cut off again and again while messages pour in: with the repeats dropped by id, each arrives
    once, in order.
    """

    def pour() -> None:
        with logged_in(sqlite.port, "alice", features=[]) as alice:
            for number in range(400):
                alice.message("bob", str(number))

    with logged_in(sqlite.port, "bob", features=ACKS) as bob:
        token = bob.token
    thread = threading.Thread(target=pour)
    thread.start()
    seen: dict[int, str] = {}
    while len(seen) < 400:
        with Wire(sqlite.port) as bob:
            bob.reconnect("bob", token, features=ACKS)
            got = take(bob, min(7, 400 - len(seen)))
            seen |= dict(got)
            bob.ack(got[3 % len(got)][0])
            bob.reset()
    thread.join()
    assert list(seen.values()) == [str(number) for number in range(400)]
    assert list(seen) == sorted(seen)


# --- the window by itself -------------------------------------------------------------------------


def window(*ids: int) -> Window:
    made = Window()
    made.add([Notice(id, b"x" * 100) for id in ids])
    return made


def test_only_what_is_open_can_be_acknowledged() -> None:
    """An id between two that were sent is none of them."""
    open = window(3, 7, 9)
    assert [open.acknowledge(id) for id in (0, -3, 2, 4, 8, 10, 2**63)] == [False] * 7
    assert open.acknowledge(7)
    assert [open.acknowledge(id) for id in (3, 7)] == [False, False]
    assert open.acknowledge(9)
    assert not window().acknowledge(1)


@pytest.mark.parametrize(("size", "most"), [(1, MAX_UNACKNOWLEDGED), (10_000, MAX_UNACKNOWLEDGED_BYTES // 10_000)])
def test_full_until_half_of_it_is_acknowledged(size: int, most: int) -> None:
    """Both in messages and in bytes."""
    open = Window()
    open.add([Notice(id, b"x" * size) for id in range(1, most + 1)])
    assert open.has_room
    open.add([Notice(most + 1, b"x" * size)])
    assert not open.has_room
    open.acknowledge(most // 2)
    assert not open.has_room
    open.acknowledge(most // 2 + 2)
    assert open.has_room
