"""A new password: who must know the old one, and what it ends."""

from collections.abc import Callable

import pytest
from harness import StartServer
from wire import LOGIN, OWN_PROFILE, RECONNECT, SUCCESS, UPDATE_PROFILE, Wire, logged_in, register, wait_until

from jelly import passwords
from jelly.server import JellyServer


@pytest.fixture
def server(start_server: StartServer, database_url: str) -> JellyServer:
    """A server with alice and bob, on each kind of database."""
    server = start_server(database=database_url)
    register(server.port, "alice", "bob")
    return server


def opens(port: int, token: int) -> bool:
    """Whether alice can come back with a token."""
    with Wire(port) as wire:
        return wire.reconnect("alice", token).status == SUCCESS


def test_a_modern_client_must_know_the_old_password(server: JellyServer) -> None:
    """Without the right one nothing changes, however the session was opened."""
    with logged_in(server.port, "alice", features=[]) as first:
        token = first.token
    for opened_by_token in (False, True):
        with Wire(server.port) as alice:
            if opened_by_token:
                alice.reconnect("alice", token, [])
            else:
                alice.login("alice", features=[])
            for more in ({}, {"oldPassword": "wrong"}, {"oldPassword": ""}):
                assert alice.refused(UPDATE_PROFILE, password="new", name="A", **more) == "wrong_credentials"
            assert alice.ok(OWN_PROFILE) == {"username": "alice"}
    assert opens(server.port, token)
    logged_in(server.port, "alice").close()


def test_a_new_password_brings_a_new_token(server: JellyServer) -> None:
    """All others go; the old password opens nothing any more."""
    with logged_in(server.port, "alice", features=[]) as first, logged_in(server.port, "bob") as bob:
        pass
    with logged_in(server.port, "alice", features=[]) as alice:
        answer = alice.ok(UPDATE_PROFILE, password="new", oldPassword="pw", name="Alice")
        assert list(answer) == ["token"]
        assert alice.ok(OWN_PROFILE) == {"username": "alice", "name": "Alice"}
        assert not opens(server.port, first.token)
        assert not opens(server.port, alice.token)
        with Wire(server.port) as wire:
            assert wire.login("alice", "pw").error == "wrong_credentials"
    with Wire(server.port) as again:
        assert again.reconnect("alice", answer["token"], []).status == SUCCESS
        again.ok(UPDATE_PROFILE, password="newer", oldPassword="new")
    logged_in(server.port, "alice", "newer").close()
    with Wire(server.port) as wire:
        assert wire.reconnect("bob", bob.token).status == SUCCESS


def test_a_classic_client_need_not_know_it(server: JellyServer) -> None:
    """It logged in with it, or its user has no client that could send it: as with the original."""
    with logged_in(server.port, "alice") as alice:
        token = alice.token
    with Wire(server.port) as alice:
        alice.reconnect("alice", token)
        assert alice.ok(UPDATE_PROFILE, password="new") == {}
    logged_in(server.port, "alice", "new", features=[]).close()
    with logged_in(server.port, "alice", "new") as alice:
        assert alice.refused(UPDATE_PROFILE, password="newer", oldPassword="wrong") == "wrong_credentials"
        assert alice.ok(UPDATE_PROFILE, password="newer") == {}
    logged_in(server.port, "alice", "newer").close()


def log_in(wire: Wire) -> None:
    wire.login("alice", features=[])


def reconnect(wire: Wire) -> None:
    with logged_in(wire.socket.getpeername()[1], "alice") as classic:
        pass
    wire.reconnect("alice", classic.token, [])


@pytest.mark.parametrize("be_modern", [log_in, reconnect])
def test_a_classic_session_that_came_by_a_token(server: JellyServer, be_modern: Callable[[Wire], None]) -> None:
    """It must know the old password if its user has ever had a modern client, also after a
    restart.
    """
    with Wire(server.port) as wire:
        be_modern(wire)
        assert wire.user == "alice"
    with logged_in(server.port, "alice") as alice:
        token = alice.token
    with Wire(server.port) as thief:
        thief.reconnect("alice", token)
        assert thief.refused(UPDATE_PROFILE, password="stolen") == "wrong_credentials"
        thief.ok(UPDATE_PROFILE, name="the profile is free")
        assert thief.ok(UPDATE_PROFILE, password="new", oldPassword="pw") == {}
    logged_in(server.port, "alice", "new").close()


def test_guesses_are_counted(server: JellyServer) -> None:
    """A session is no way around the guard: its wrong old passwords count like failed logins."""
    with logged_in(server.port, "alice", features=[]) as alice:
        for _ in range(5):
            assert alice.refused(UPDATE_PROFILE, password="new", oldPassword="no") == "wrong_credentials"
        guard = server.services.accounts._guard
        assert guard.attempt("alice", "127.0.0.1", is_known=True, exists=True).seconds_to_wait() > 0
        for _ in range(5):
            guard.attempt("alice", "127.0.0.1", is_known=True, exists=True).fail()
        server.dispatcher._hashers._queue._longest_hold = 0.1
        assert alice.refused(UPDATE_PROFILE, password="new", oldPassword="pw") == "too_many_attempts"
        alice.ok(OWN_PROFILE)


@pytest.mark.parametrize("features", [None, []], ids=["classic", "modern"])
def test_other_sessions_end(server: JellyServer, features: list[str] | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Here one that took over while the password was hashed; a modern client is told why."""
    hash_password = passwords.hash_password
    taken_over: list[Wire] = []

    def take_over(password: str, cost: int) -> str:
        taken_over.append(logged_in(server.port, "alice", features=features))
        return hash_password(password, cost)

    with logged_in(server.port, "alice", features=[]) as alice, logged_in(server.port, "bob", features=[]) as bob:
        bob.ok(0x1B, friend="alice")
        monkeypatch.setattr(passwords, "hash_password", take_over)
        alice.send_request(UPDATE_PROFILE, password="new", oldPassword="pw")
        wait_until(lambda: bool(taken_over))
        [other] = taken_over
        if features is not None:
            assert other.receive_notice().values == {"event": "password_changed"}
        assert other.is_closed_by_server()
        assert bob.receive_notice().values == {"event": "presence", "friend": "alice", "online": False}
        assert not opens(server.port, other.token)
        other.close()
    with Wire(server.port) as wire:
        assert wire.call(LOGIN, username="alice", password="pw").error == "wrong_credentials"


def test_a_login_in_the_same_transaction(server: JellyServer) -> None:
    """It came before the new password, so it ends, too, and its token with it."""
    store = server.store
    with logged_in(server.port, "alice", features=[]) as alice, Wire(server.port) as other:
        with store._turn:  # so that both wait for the same turn
            alice.send_request(UPDATE_PROFILE, password="new", oldPassword="pw")
            other.send_request(RECONNECT, username="alice", token=alice.token, features=[])
            wait_until(lambda: len(store._jobs) == 2)
            if store._jobs._arrived[0].entries[0].type == UPDATE_PROFILE:  # type: ignore[union-attr]
                store._jobs._arrived.reverse()
        assert other.receive_response().status == SUCCESS
        assert other.receive_notice().values == {"event": "password_changed"}
        assert not opens(server.port, alice.token)
