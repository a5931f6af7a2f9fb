"""Delivery over the wire: what is given again and what is not, slow receivers, long backlogs."""

import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from harness import StartServer
from original import OriginalClient
from wire import (
    ALL_FRIENDS,
    HEARTBEAT,
    LOGIN,
    LOGOUT,
    NOTICE,
    OWN_PROFILE,
    RECONNECT,
    SUCCESS,
    Wire,
    logged_in,
    pack,
    register,
    to_json,
    wait_until,
)

from jelly.send_queue import SendQueue
from jelly.server import JellyServer


@pytest.fixture
def server(start_server: StartServer) -> JellyServer:
    """A server with alice and bob."""
    server = start_server(classic_gap=20)
    register(server.port, "alice", "bob")
    return server


def send(server: JellyServer, *contents: str) -> None:
    """Have alice send messages to bob."""
    with logged_in(server.port, "alice") as alice:
        for content in contents:
            alice.message("bob", content)


def waits_for_bob(server: JellyServer) -> int:
    """How many messages stand in bob's inbox."""
    with server._reading() as dao:
        return len(dao.waiting("bob", 0, 1000))


def confirmed(server: JellyServer) -> bool:
    """Whether the server knows that bob's TCP has all messages in his inbox."""
    session = server.sessions.get("bob")
    with server._reading() as dao:
        last = dao.waiting("bob", 0, 1000)[-1].id
    return session is not None and session.transport.tcp_acked_id >= last


def test_cut_before_another_word(server: JellyServer) -> None:
    """A client that is cut off right after its messages arrived gets them again, in order."""
    send(server, "1", "2", "3")
    bob = logged_in(server.port, "bob")
    assert bob.contents(3) == ["1", "2", "3"]
    bob.reset()
    with logged_in(server.port, "bob") as bob:
        assert bob.contents(3) == ["1", "2", "3"]


def test_cut_with_messages_unread(server: JellyServer) -> None:
    """A client that closes with messages in its hands that it never read gets all of them again."""
    send(server, "1", "2")
    bob = logged_in(server.port, "bob")
    wait_until(lambda: confirmed(server))
    bob.close()  # with unread data: TCP sends a reset
    wait_until(lambda: len(server.sessions) == 0)
    with logged_in(server.port, "bob") as bob:
        assert bob.contents(2) == ["1", "2"]


def test_a_heartbeat_after_the_messages(server: JellyServer) -> None:
    """Once TCP has acknowledged the messages, any sign of life counts as having them."""
    send(server, "1", "2")
    bob = logged_in(server.port, "bob")
    assert bob.contents(2) == ["1", "2"]
    wait_until(lambda: confirmed(server))
    bob.heartbeat()
    wait_until(lambda: waits_for_bob(server) == 0)
    bob.reset()
    send(server, "3")
    with logged_in(server.port, "bob") as bob:
        assert bob.contents(1) == ["3"]


class ConfirmedJustNow:
    """A send queue whose flusher hears from TCP right after the reader has counted what it read."""

    def __init__(self, real: SendQueue, id: int) -> None:
        self._real = real
        self._id = id
        self.tcp_acked_id = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)

    @property
    def read_bytes(self) -> int:
        return self._real.read_bytes

    @read_bytes.setter
    def read_bytes(self, count: int) -> None:
        self._real.read_bytes = count
        self.tcp_acked_id = self._id


def test_confirmed_while_a_word_is_read(server: JellyServer) -> None:
    """A word that came before TCP's confirmation is no sign of life after it; the next one is."""
    with logged_in(server.port, "alice") as alice:
        [connection] = [c for c in server.connections if c.session.user == "alice"]
        connection.send_queue = ConfirmedJustNow(connection.send_queue, 7)  # type: ignore[assignment]
        for delivered in (0, 7):
            before = connection.last_read_at
            alice.send(pack(OWN_PROFILE, b'{"username":"alice"}'))
            assert alice.receive().status == SUCCESS
            assert connection.last_read_at > before
            assert connection.session.delivered_id == delivered


def test_a_clean_close(server: JellyServer) -> None:
    """A client that has read everything and closes does not get it again."""
    send(server, "1", "2")
    with logged_in(server.port, "bob") as bob:
        assert bob.contents(2) == ["1", "2"]
    wait_until(lambda: waits_for_bob(server) == 0)
    send(server, "3")
    with logged_in(server.port, "bob") as bob:
        assert bob.contents(1) == ["3"]


def test_a_logout_right_after_a_message(server: JellyServer) -> None:
    """A client that has read a message and logs out at once does not get it again."""
    send(server, "1")
    with logged_in(server.port, "bob") as bob:
        assert bob.contents(1) == ["1"]
        bob.send_request(LOGOUT, token=bob.token)
        assert bob.is_closed_by_server()
    assert waits_for_bob(server) == 0


def test_a_close_right_after_a_message(server: JellyServer) -> None:
    """So it is with a client that closes at once, without a LOGOUT."""
    send(server, "1")
    with logged_in(server.port, "bob") as bob:
        assert bob.contents(1) == ["1"]
    wait_until(lambda: not server.connections)
    wait_until(lambda: waits_for_bob(server) == 0)


def test_a_logout_and_a_reset(server: JellyServer) -> None:
    """The reset says that a message lies unread, so it comes again, whatever was sent before."""
    bob = logged_in(server.port, "bob")
    [connection] = [c for c in tuple(server.connections) if c.session.user == "bob"]
    send(server, "1")
    bob.socket.recv(1, socket.MSG_PEEK)
    with connection.send_queue._lock:  # the reader has to wait, before it asks TCP about the message
        bob.send_request(LOGOUT, token=bob.token)
        wait_until(lambda: connection.send_queue.read_bytes == bob.bytes_sent)
        bob.reset()
        wait_until(lambda: connection.request.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1) == b"\7")
    wait_until(lambda: not server.connections)
    with logged_in(server.port, "bob") as bob:
        assert bob.contents(1) == ["1"]


def test_takeover_gives_the_new_line_what_was_not_delivered_on_the_old_one(server: JellyServer) -> None:
    """What the old connection got last comes again on the new one: better twice than never."""
    send(server, "1", "2")
    with logged_in(server.port, "bob") as old, logged_in(server.port, "bob") as new:
        assert new.contents(2) == ["1", "2"]
        assert old.is_closed_by_server()


def test_delivered_messages_leave_no_trace(start_server: StartServer) -> None:
    """Where no history is kept, a message goes from the database when all receivers have it."""
    server = start_server(history_days=0, classic_gap=0)
    register(server.port, "alice", "bob")
    send(server, "1")
    with logged_in(server.port, "bob", features=["ack"]) as bob:
        bob.ack(bob.receive_notice().values["id"])
        wait_until(lambda: waits_for_bob(server) == 0)
    with server._reading() as dao:
        assert dao.connection.query("SELECT COUNT(*) FROM messages") == [(0,)]


def test_live_messages_do_not_overtake_stored_ones(start_server: StartServer) -> None:
    """New messages that come while a long backlog is fed: everything arrives once, in order."""
    port = start_server(classic_gap=0).port
    register(port, "alice", "bob")
    with logged_in(port, "alice") as alice:
        for number in range(250):
            alice.send_message("bob", str(number))
        for _ in range(250):
            alice.receive()
        bob = logged_in(port, "bob")
        for number in range(250, 1000):
            alice.send_message("bob", str(number))
            if number % 50 == 0:
                assert len(bob.contents(25)) == 25
        assert bob.contents(1000 - 25 * 15) == [str(number) for number in range(25 * 15, 1000)]
        bob.close()


def test_a_receiver_that_reads_nothing(start_server: StartServer) -> None:
    """It costs others nothing and the server little. When it reads again, all arrives in order."""
    server = start_server(classic_gap=0)
    register(server.port, "alice", "bob", "carol")
    bob = Wire(server.port)
    bob.socket.close()
    bob.socket = socket.socket()
    bob.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    bob.socket.settimeout(20)
    bob.socket.connect(("127.0.0.1", server.port))
    bob.login("bob")
    with logged_in(server.port, "alice") as alice, logged_in(server.port, "carol") as carol:
        for number in range(300):
            alice.message("bob", f"{number} {'x' * 30_000}")
        alice.message("carol", "you at least")
        assert carol.contents(1) == ["you at least"]
        session = server.sessions.get("bob")
        assert session is not None
        assert not session.caught_up
        [connection] = [c for c in tuple(server.connections) if c.session is session]
        assert connection.send_queue._notices_size + len(connection.send_queue._unsent) < 1_000_000
        assert [int(content.split()[0]) for content in bob.contents(300)] == list(range(300))
        alice.message("bob", "and live again")
        assert bob.contents(1) == ["and live again"]
    bob.close()


def test_a_receiver_that_takes_nothing_is_closed_after_half_a_minute(start_server: StartServer) -> None:
    """Its messages stay in its inbox."""
    server = start_server(classic_gap=0)
    register(server.port, "alice", "bob")
    with logged_in(server.port, "alice") as alice, logged_in(server.port, "bob") as bob:
        for _ in range(200):
            alice.message("bob", "x" * 60_000)
        [connection] = [c for c in tuple(server.connections) if c.session.user == "bob"]
        wait_until(lambda: connection.send_queue.stalled_since is not None)
        connection.last_read_at = time.monotonic() + 100  # it sends heartbeats all the time
        server.watchdog.check(time.monotonic() + 29)
        assert server.sessions.get("bob") is not None
        server.watchdog.check(time.monotonic() + 31)
        wait_until(lambda: server.sessions.get("bob") is None)
        assert bob.is_closed_by_server()
    assert waits_for_bob(server) == 200


SLOW_CLIENTS = 4


def test_stored_messages_for_a_client_that_is_slow_at_first(start_server: StartServer) -> None:
    """With the usual gap, each client like the original gets its stored messages, in order."""
    server = start_server(classic_gap=100)
    names = [f"bob{number}" for number in range(SLOW_CLIENTS)]
    register(server.port, "alice", *names)
    contents = [str(number) for number in range(6)]
    with logged_in(server.port, "alice", features=[]) as alice:
        for name in names:
            for content in contents:
                alice.message(name, content)

    def come(seed: int) -> list[str]:
        with OriginalClient(server.port, seed, slow_at_first=0.5, slow_sometimes=0.03) as client:
            client.ask(LOGIN, username=names[seed], password="pw")
            return client.contents(len(contents))

    with ThreadPoolExecutor() as pool:
        assert list(pool.map(come, range(SLOW_CLIENTS))) == [contents] * SLOW_CLIENTS


def test_live_messages_for_a_client_that_is_slow_at_first(start_server: StartServer) -> None:
    """The first one comes soon, those right behind it wait, and an answer waits for none of
    them.
    """
    server = start_server(classic_gap=100)
    register(server.port, "alice", "bob")
    with (
        logged_in(server.port, "alice", features=[]) as alice,
        OriginalClient(server.port, slow_at_first=0.3) as bob,
    ):
        bob.ask(LOGIN, username="bob", password="pw")
        started = time.monotonic()
        alice.message("bob", "1")
        assert bob.wire.socket.recv(1, socket.MSG_PEEK)
        assert time.monotonic() - started < 0.7
        for content in ("2", "3", "4"):
            alice.message("bob", content)
        assert bob.contents(1) == ["1"]
        answer = bob.ask(OWN_PROFILE, username="bob")
        assert answer is not None
        assert answer.type == OWN_PROFILE
        assert bob.contents(3) == ["2", "3", "4"]


def test_what_a_deaf_client_loses(start_server: StartServer) -> None:
    """It goes on with its heartbeats, so what it was sent counts as delivered; then it closes, and
    gets the rest.
    """
    server = start_server(classic_gap=0)
    register(server.port, "alice", "bob")
    send(server, "1", "2", "3")
    with OriginalClient(server.port) as bob:
        bob.ask(LOGIN, username="bob", password="pw")
        assert bob.contents(1) == []
        assert bob.is_deaf
        wait_until(lambda: confirmed(server))
        bob.wire.heartbeat()
        wait_until(lambda: waits_for_bob(server) == 0)
    wait_until(lambda: server.sessions.get("bob") is None)
    send(server, "4")
    with logged_in(server.port, "bob") as bob_again:
        assert bob_again.contents(1) == ["4"]


def test_a_strict_reader_in_the_middle_of_everything(start_server: StartServer) -> None:
    """Notices and responses keep the gap, too, and an answer does not wait for all notices."""
    server = start_server(classic_gap=50)
    register(server.port, "alice", "bob")
    with OriginalClient(server.port) as bob, logged_in(server.port, "alice") as alice:
        bob.ask(LOGIN, username="bob", password="pw")
        for number in range(10):
            alice.send_message("bob", str(number))
        ask = pack(OWN_PROFILE, to_json({"username": "bob"}))
        # In one write: a request that waited for the last answer would be answered at once.
        bob.wire.send(ask + pack(HEARTBEAT) + ask)
        frames = [bob.receive() for _ in range(12)]
    responses = [position for position, frame in enumerate(frames) if frame is not None and frame.sign != NOTICE]
    assert None not in frames
    assert len(responses) == 2
    assert responses[-1] < 8


def test_a_client_that_waits_for_its_answers_is_not_slowed(start_server: StartServer) -> None:
    """A response to a request that came in after the last response goes at once."""
    port = start_server(classic_gap=1000).port
    register(port, "alice")
    with Wire(port) as alice:
        alice.socket.settimeout(0.9)
        alice.login("alice")
        for _ in range(50):
            alice.ok(OWN_PROFILE)


def test_the_first_answer_of_each_type_is_held(start_server: StartServer) -> None:
    """The original client listens for an answer only a moment after it has asked. Later, it is
    quick.
    """
    port = start_server(classic_gap=1000).port
    register(port, "alice")
    waited = []
    with Wire(port) as alice:
        started = time.monotonic()
        alice.login("alice")
        waited.append(time.monotonic() - started)
        for type in (OWN_PROFILE, ALL_FRIENDS, OWN_PROFILE, ALL_FRIENDS):
            started = time.monotonic()
            alice.ok(type)
            waited.append(time.monotonic() - started)
    assert min(waited[:3]) >= 0.3
    assert max(waited[3:]) < 0.3


@pytest.mark.parametrize("password", ["pw", "wrong"])
def test_a_modern_login_is_not_held(start_server: StartServer, password: str) -> None:
    """Whoever sends `features` takes an answer at any time; a refusal, too."""
    quick = start_server(classic_gap=0)
    register(quick.port, "alice")
    quick.stop()
    port = start_server(classic_gap=10_000).port
    with Wire(port, timeout=2.5) as wire:  # less than it would be held
        assert wire.login("alice", password, features=[]).type == LOGIN


def test_login_and_reconnect_race_with_senders(start_server: StartServer) -> None:
    """A user who comes and goes while messages pour in misses none, and gets them in order."""
    server = start_server(classic_gap=1)
    register(server.port, "alice", "bob")

    def pour() -> None:
        with logged_in(server.port, "alice") as alice:
            for number in range(300):
                alice.message("bob", str(number))

    thread = threading.Thread(target=pour)
    thread.start()
    seen: list[int] = []
    with logged_in(server.port, "bob") as bob:
        token = bob.token
        seen += map(int, bob.contents(2) + bob.contents_at_hand())
    for _ in range(10):
        with Wire(server.port) as bob:
            assert bob.call(RECONNECT, username="bob", token=token).status == 0x31
            seen += map(int, bob.contents(3) + bob.contents_at_hand())
    thread.join()
    with Wire(server.port) as bob:
        bob.call(RECONNECT, username="bob", token=token)
        while seen[-1] < 299:
            seen += map(int, bob.contents(1))
    assert list(dict.fromkeys(seen)) == list(range(300))
