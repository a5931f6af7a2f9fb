"""Coming and going: login, takeover, reconnect, tokens, logout."""

import socket
from pathlib import Path

import pytest
from harness import NullTransport, StartServer, occupy_the_store, stuck_store
from wire import (
    LOGIN,
    LOGOUT,
    OWN_PROFILE,
    PERSON_MESSAGE,
    RECONNECT,
    REGISTER,
    SUCCESS,
    Wire,
    logged_in,
    register,
    wait_until,
)

from jelly.notifier import Notifier
from jelly.server import JellyServer
from jelly.sessions import Session, Sessions


@pytest.fixture
def server(start_server: StartServer, database_url: str) -> JellyServer:
    """A server with alice and bob, on each kind of database."""
    server = start_server(database=database_url)
    register(server.port, "alice", "bob")
    return server


def test_register_closes_after_its_answer(server: JellyServer) -> None:
    """One request, one response, then the server closes: after success and after failure."""
    for username, status in (("carol", SUCCESS), ("carol", 0x32), ("a b", 0x32)):
        with Wire(server.port) as wire:
            assert wire.call(REGISTER, username=username, password="pw").status == status
            assert wire.is_closed_by_server()


def test_one_of_many_gets_the_name(server: JellyServer) -> None:
    """When several register the same name at once, one succeeds, and its password counts."""
    wires = [Wire(server.port) for _ in range(10)]
    for number, wire in enumerate(wires):
        wire.send_request(REGISTER, username="race", password=f"pw{number}")
    statuses = [wire.receive().status for wire in wires]
    assert sorted(statuses) == [0x31] + [0x32] * 9
    with logged_in(server.port, "race", f"pw{statuses.index(0x31)}"):
        pass
    for wire in wires:
        wire.close()


def test_a_failed_login_is_closed(server: JellyServer) -> None:
    """After the answer to a wrong password the server closes."""
    with Wire(server.port) as wire:
        assert wire.refused(LOGIN, username="alice", password="wrong") == "wrong_credentials"
        assert wire.is_closed_by_server()


def test_requests_behind_a_login_are_served(server: JellyServer) -> None:
    """A client may write its login and more in one go."""
    with Wire(server.port) as wire:
        wire.send_request(LOGIN, username="alice", password="pw")
        wire.send_request(OWN_PROFILE, username="alice")
        assert [wire.receive().type, wire.receive().type] == [LOGIN, OWN_PROFILE]


def test_a_second_login_takes_over(server: JellyServer) -> None:
    """The old connection is closed; the new one gets the messages, also after the old one's end."""
    old = logged_in(server.port, "bob")
    with logged_in(server.port, "bob") as new, logged_in(server.port, "alice") as alice:
        assert old.is_closed_by_server()
        old.close()
        wait_until(lambda: len(server.connections) == 2)
        alice.message("bob", "to the new one")
        assert new.contents(1) == ["to the new one"]


@pytest.mark.parametrize("features", [None, ["ack"]], ids=["classic", "modern"])
def test_a_classic_session_that_was_taken_over_stays_out(server: JellyServer, features: list[str] | None) -> None:
    """Its client comes back by its token at once. It is refused, and the newer login left alone."""
    with logged_in(server.port, "bob") as old, logged_in(server.port, "bob", features=features) as new:
        assert old.is_closed_by_server()
        with Wire(server.port) as again:
            assert again.refused(RECONNECT, username="bob", token=old.token) == "invalid_token"
        new.ok(OWN_PROFILE)


def test_a_reconnect_takes_over_for_good_too(server: JellyServer) -> None:
    """A client that comes back by its own token throws out the one that came meanwhile."""
    with logged_in(server.port, "bob") as first:
        token = first.token
    wait_until(lambda: server.sessions.get("bob") is None)
    with logged_in(server.port, "bob") as second, Wire(server.port) as first_again:
        first_again.reconnect("bob", token)
        assert second.is_closed_by_server()
        with Wire(server.port) as second_again:
            assert second_again.refused(RECONNECT, username="bob", token=second.token) == "invalid_token"
        first_again.ok(OWN_PROFILE)


def test_a_client_that_comes_back_by_itself_keeps_its_token(server: JellyServer) -> None:
    """The server need not have noticed the end of its old connection."""
    with logged_in(server.port, "bob") as lost, Wire(server.port) as again:
        again.reconnect("bob", lost.token)
        assert lost.is_closed_by_server()
        with Wire(server.port) as once_more:
            assert once_more.reconnect("bob", lost.token).status == SUCCESS


def test_a_modern_session_that_was_taken_over_keeps_its_token(server: JellyServer) -> None:
    """It is told why it was closed, so it does not come back by itself."""
    with logged_in(server.port, "bob", features=[]) as old, logged_in(server.port, "bob"):
        assert old.is_closed_by_server()
        with Wire(server.port) as again:
            assert again.reconnect("bob", old.token).status == SUCCESS


def test_two_logins_in_one_transaction(start_server: StartServer, tmp_path: Path) -> None:
    """The first of them is taken over before anyone has seen it, and loses its token all the
    same.
    """
    server = start_server()
    register(server.port, "alice", "bob")
    tokens = []
    for _ in range(2):
        with logged_in(server.port, "bob") as bob:
            tokens.append(bob.token)
        wait_until(lambda: server.sessions.get("bob") is None)
    with logged_in(server.port, "alice") as alice, Wire(server.port) as first, Wire(server.port) as second:
        with stuck_store(tmp_path / "jelly.db"):
            occupy_the_store(server, alice, "bob")
            for number, (wire, token) in enumerate(zip((first, second), tokens, strict=True), start=1):
                wire.send_request(RECONNECT, username="bob", token=token)
                wait_until(lambda number=number: len(server.store._jobs) == number)
        assert second.receive().status == SUCCESS
        assert first.is_closed_by_server()
        with Wire(server.port) as first_again:
            assert first_again.refused(RECONNECT, username="bob", token=tokens[0]) == "invalid_token"
        assert server.sessions.get("bob") is not None


def test_reconnect(server: JellyServer) -> None:
    """A token brings its user back, without a new token, and what arrived meanwhile follows."""
    bob = logged_in(server.port, "bob")
    bob.reset()
    wait_until(lambda: server.sessions.get("bob") is None)
    with logged_in(server.port, "alice") as alice:
        alice.message("bob", "meanwhile")
    with Wire(server.port) as again:
        assert again.reconnect("bob", bob.token).values == {"username": "bob"}
        assert again.contents(1) == ["meanwhile"]


def test_tokens_survive_a_restart(start_server: StartServer, database_url: str) -> None:
    """Who was logged in when the server stopped comes back with the token."""
    server = start_server(database=database_url)
    register(server.port, "alice")
    alice = logged_in(server.port, "alice")
    server.stop()
    assert alice.is_closed_by_server()
    alice.close()
    with Wire(start_server(database=database_url).port) as again:
        assert again.reconnect("alice", alice.token).status == SUCCESS


def test_logout(server: JellyServer) -> None:
    """LOGOUT has no answer: the server closes, and the token is worth nothing any more."""
    with logged_in(server.port, "alice") as alice:
        alice.send_request(LOGOUT, token=alice.token)
        assert alice.socket.recv(1) == b""
    with Wire(server.port) as again:
        assert again.reconnect("alice", alice.token).error == "invalid_token"
        assert again.is_closed_by_server()


def test_requests_behind_a_logout_are_not_served(server: JellyServer) -> None:
    """After LOGOUT nothing of that connection is served, even if it was written already."""
    with logged_in(server.port, "alice") as alice:
        alice.send_request(LOGOUT, token=alice.token)
        alice.send_message("bob", "too late")
        assert alice.is_closed_by_server()
    with logged_in(server.port, "bob") as bob:
        bob.ok(OWN_PROFILE)
        assert not bob.notices


def test_each_login_has_its_own_token(server: JellyServer) -> None:
    """Each login has another token, a signed 64-bit integer."""
    tokens = []
    for _ in range(12):
        with logged_in(server.port, "alice") as alice:
            tokens.append(alice.token)
    assert len(set(tokens)) == 12
    assert all(-(2**63) <= token < 2**63 for token in tokens)


def test_the_register_of_sessions() -> None:
    """The end of a session that was taken over does not disturb its successor."""
    sessions, old, new = Sessions(), Session(NullTransport(), ""), Session(NullTransport(), "")
    old.user = new.user = "bob"
    assert sessions.attach(old) is None
    assert sessions.attach(new) is old
    sessions.detach(old)
    assert sessions.get("bob") is new
    sessions.detach(new)
    assert sessions.get("bob") is None
    sessions.detach(Session(NullTransport(), ""))


class RecordingTransport(NullTransport):
    """A transport that keeps its notices."""

    def __init__(self, has_room: bool = True) -> None:
        self.has_room = has_room
        self.notices: list[object] = []

    def queue_notice(self, frame: bytes) -> None:
        self.notices.append(frame)


def test_telling_modern_clients() -> None:
    """Those of the users who are online with one, and have room, get the frame; the others are left
    out.
    """
    sessions, transports = Sessions(), {}
    for name, is_modern, has_room in (("ann", True, True), ("ben", False, True), ("cat", True, False)):
        session = Session(transport := RecordingTransport(has_room), "")
        session.user, session.is_modern = name, is_modern
        sessions.attach(session)
        transports[name] = transport
    Notifier(sessions, lambda *_: None).tell(["ann", "ben", "cat", "dan"], b"frame")
    assert {name: transport.notices for name, transport in transports.items()} == {
        "ann": [b"frame"],
        "ben": [],
        "cat": [],
    }


def test_a_client_that_leaves_during_its_login(start_server: StartServer) -> None:
    """It is not online afterwards, and messages to it wait in its inbox."""
    server = start_server(password_cost=12)  # so that the hash takes longer than leaving
    register(server.port, "alice", "bob")
    with Wire(server.port) as wire:
        wire.send_request(LOGIN, username="bob", password="pw")
    wait_until(lambda: not server.connections)
    with logged_in(server.port, "alice") as alice:
        wait_until(lambda: count_tokens(server, "bob") == 1)
        alice.message("bob", "are you there?")
        assert server.sessions.get("bob") is None
    with logged_in(server.port, "bob") as bob:
        assert bob.contents(1) == ["are you there?"]


def count_tokens(server: JellyServer, username: str) -> int:
    """How many logins of a user were completed."""
    with server._reading() as dao:
        return int(dao.connection.query("SELECT COUNT(*) FROM tokens WHERE username = ?", (username,))[0][0])


def test_a_client_that_closes_its_half_gets_its_answers(server: JellyServer) -> None:
    """Who writes its requests and says that no more come is answered all the same."""
    with Wire(server.port) as wire:
        wire.send_request(REGISTER, username="carol", password="pw")
        wire.socket.shutdown(socket.SHUT_WR)
        assert wire.receive().status == SUCCESS
        assert wire.is_closed_by_server()
    with Wire(server.port) as wire:
        wire.send_request(LOGIN, username="carol", password="pw")
        wire.send_request(PERSON_MESSAGE, sender="carol", receiver="alice", content="last words", time=1)
        wire.socket.shutdown(socket.SHUT_WR)
        assert wire.receive().type == LOGIN
        assert wire.is_closed_by_server()
    with logged_in(server.port, "alice") as alice:
        assert alice.contents(1) == ["last words"]


def test_a_logout_whose_client_does_not_close(server: JellyServer) -> None:
    """The user is offline at once, not only when the connection is gone."""
    with logged_in(server.port, "alice") as alice:
        alice.send_request(LOGOUT, token=alice.token)
        assert alice.socket.recv(1) == b""
        assert server.sessions.get("alice") is None
