"""The feature `seen`: who may know when somebody was online last, and that it is noted, whatever
ends.
"""

import itertools
from pathlib import Path
from typing import Any

import pytest
from client_tools import NewClient, result
from clock import Clock
from harness import StartServer, stuck_store
from wire import (
    ADD_FRIEND,
    ANSWER_FRIEND,
    BLOCK,
    FRIEND_PROFILE,
    LOGOUT,
    OWN_PROFILE,
    REMOVE_FRIEND,
    UPDATE_PROFILE,
    Wire,
    logged_in,
    register,
    wait_until,
)

from client_api import Profile
from jelly import last_seen
from jelly.dao import Dao
from jelly.last_seen import MOST_AT_ONCE, RETRY_DELAY, WRITE_DELAY, LastSeen
from jelly.server import JellyServer

SEEN = ["seen"]
CLIENTS: list[list[str] | None] = [None, [], ["ack", "pages"], SEEN]


@pytest.fixture
def server(start_server: StartServer, database_url: str) -> JellyServer:
    """A server with alice and bob, who are friends of each other, and carol, whom nobody has; on
    every kind of database.
    """
    server = start_server(database=database_url, classic_gap=0)
    register(server.port, "alice", "bob", "carol")
    for user, friend in (("alice", "bob"), ("bob", "alice")):
        with logged_in(server.port, user) as wire:
            wire.ok(ADD_FRIEND, friend=friend)
    wait_until(lambda: not server.connections)
    return server


def now(server: JellyServer) -> int:
    """The time by the server's clock."""
    return int(server.services.logins._clock.latest() * 1000)


def seen(wire: Wire, friend: str = "bob") -> Any:
    """When a friend was online last, as the profile says it; None if it does not."""
    return wire.ok(FRIEND_PROFILE, friend=friend).get("seen")


def is_gone(server: JellyServer, user: str) -> bool:
    return server.sessions.get(user) is None


# --- what is told ---------------------------------------------------------------------------------


@pytest.mark.parametrize("features", CLIENTS, ids=str)
@pytest.mark.parametrize("how", ["closes", "resets", "logs out"])
def test_a_friend_was_here(server: JellyServer, features: list[str] | None, how: str) -> None:
    """Until the end of the last session, however that ended and whatever client it was. While the
    friend is online, nothing is told.
    """
    with logged_in(server.port, "alice", features=SEEN) as alice:
        bob = logged_in(server.port, "bob", features=features)
        assert seen(alice) is None
        before = now(server)
        if how == "resets":
            bob.reset()
        elif how == "logs out":
            bob.send_request(LOGOUT, token=bob.token)
            assert bob.is_closed_by_server()
        bob.close()
        wait_until(lambda: is_gone(server, "bob"))
        told = seen(alice)
        assert before <= told <= now(server)
        wait_until(lambda: not server.store._last_seen.pending)
        assert seen(alice) == told


def test_the_profile_has_it_last(server: JellyServer) -> None:
    """Byte for byte."""
    with logged_in(server.port, "bob") as bob:
        bob.ok(UPDATE_PROFILE, name="Bob B.")
    wait_until(lambda: is_gone(server, "bob"))
    with logged_in(server.port, "alice", features=SEEN) as alice:
        reply = alice.call(FRIEND_PROFILE, friend="bob")
        assert reply.body == b'{"username":"bob","name":"Bob B.","seen":%d}' % reply.values["seen"]


@pytest.mark.parametrize("features", CLIENTS, ids=str)
def test_granted_or_not(server: JellyServer, features: list[str] | None) -> None:
    """Without the feature there is no such key, and the switch changes nothing."""
    has_it = "seen" in (features or ())
    with logged_in(server.port, "alice", features=features) as alice:
        assert (seen(alice) is not None) == has_it
        assert alice.ok(OWN_PROFILE).get("showSeen") == (True if has_it else None)
        alice.ok(UPDATE_PROFILE, showSeen=False)
        assert alice.ok(OWN_PROFILE).get("showSeen") == (False if has_it else None)
    wait_until(lambda: is_gone(server, "alice"))
    with logged_in(server.port, "bob", features=SEEN) as bob:
        assert (seen(bob, "alice") is None) == has_it


# --- who may know it ------------------------------------------------------------------------------


def test_a_stranger_learns_nothing(server: JellyServer) -> None:
    """Neither who has nobody's consent, nor who was taken off the list; what the profile shows is
    the same as for somebody who was never here.
    """
    with logged_in(server.port, "carol", features=SEEN) as carol, logged_in(server.port, "bob", features=SEEN) as bob:
        carol.ok(ADD_FRIEND, friend="alice")
        assert carol.ok(FRIEND_PROFILE, friend="alice") == {"username": "alice"}
        assert carol.refused(FRIEND_PROFILE, friend="bob") == "not_friends"
        with logged_in(server.port, "alice") as alice:
            alice.ok(REMOVE_FRIEND, friend="bob")
        wait_until(lambda: is_gone(server, "alice"))
        assert bob.ok(FRIEND_PROFILE, friend="alice") == {"username": "alice"}


@pytest.mark.parametrize("answer", ["none", "no", "yes", "adds back", "cannot be asked"])
def test_consent(server: JellyServer, answer: str) -> None:
    """Whoever has said yes to somebody is seen by that one; who was not asked, or said no, is
    not.
    """
    with logged_in(server.port, "carol", features=SEEN) as carol:
        features = None if answer == "cannot be asked" else ["contacts", "seen"]
        with logged_in(server.port, "bob", features=features) as bob:
            carol.ok(ADD_FRIEND, friend="bob")
            if answer in ("yes", "no"):
                bob.ok(ANSWER_FRIEND, friend="carol", accept=answer == "yes")
            elif answer == "adds back":
                bob.ok(ADD_FRIEND, friend="carol")
        wait_until(lambda: is_gone(server, "bob"))
        assert (seen(carol) is not None) == (answer in ("yes", "adds back"))


def test_a_block(server: JellyServer) -> None:
    """Whoever is blocked sees nothing any more but the name; until the block ends."""
    with logged_in(server.port, "alice", features=SEEN) as alice:
        for blocked in (True, False):
            with logged_in(server.port, "bob", features=["block"]) as bob:
                bob.ok(BLOCK, person="alice", blocked=blocked)
            wait_until(lambda: is_gone(server, "bob"))
            assert ("seen" in alice.ok(FRIEND_PROFILE, friend="bob")) == (not blocked)


def test_the_switch(server: JellyServer) -> None:
    """Who turns it off is seen by nobody, and looks like one who was never here; turned on again,
    it says when that was.
    """
    with logged_in(server.port, "alice", features=SEEN) as alice:
        before = now(server)
        for is_shown in (False, True):
            with logged_in(server.port, "bob", features=SEEN) as bob:
                bob.ok(UPDATE_PROFILE, showSeen=is_shown, name="Bob")
                assert bob.ok(OWN_PROFILE) == {"username": "bob", "name": "Bob", "showSeen": is_shown}
            wait_until(lambda: is_gone(server, "bob"))
            profile = alice.ok(FRIEND_PROFILE, friend="bob")
            assert ("seen" in profile) == is_shown
        assert profile["seen"] >= before


@pytest.mark.parametrize("value", [1, 0, "true", None, []])
def test_the_switch_is_true_or_false(server: JellyServer, value: object) -> None:
    """Anything else is refused, and changes nothing."""
    with logged_in(server.port, "bob", features=SEEN) as bob:
        assert bob.refused(UPDATE_PROFILE, showSeen=value, name="Bob") == "malformed_body"
        assert bob.ok(OWN_PROFILE) == {"username": "bob", "showSeen": True}


# --- what becomes of it ---------------------------------------------------------------------------


def test_it_outlives_the_server(start_server: StartServer, database_url: str) -> None:
    """Who is online while the server stops was here until then."""
    first = start_server(database=database_url, classic_gap=0)
    register(first.port, "alice", "bob")
    with logged_in(first.port, "alice") as alice, logged_in(first.port, "bob") as bob:
        alice.ok(ADD_FRIEND, friend="bob")
        bob.ok(ADD_FRIEND, friend="alice")
        before = now(first)
        first.stop()
    second = start_server(database=database_url, classic_gap=0)
    with logged_in(second.port, "alice", features=SEEN) as alice:
        assert before <= seen(alice) <= now(second)


def test_a_login_is_noted_at_once(server: JellyServer) -> None:
    """So if the server is killed, it is known that the user was here then."""
    for use in ("password", "token"):
        before = now(server)
        with logged_in(server.port, "bob") as bob:
            if use == "token":
                with Wire(server.port) as again:
                    again.reconnect("bob", bob.token)
            with server._reading() as dao:
                found = last_seen.shown_to(dao, "alice", "bob")
            assert found is not None
            assert found >= before


def test_a_database_that_is_away(start_server: StartServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What ended meanwhile is written when it is back."""
    monkeypatch.setattr(last_seen, "WRITE_DELAY", 0.0)
    monkeypatch.setattr(last_seen, "RETRY_DELAY", 0.01)
    server = start_server(classic_gap=0)
    monkeypatch.setattr(server.engine, "query_timeout", 0.05)
    register(server.port, "alice", "bob")
    with logged_in(server.port, "bob") as bob:
        bob.ok(ADD_FRIEND, friend="alice")
        before = now(server)
        with stuck_store(tmp_path / "jelly.db"):
            bob.close()
            wait_until(lambda: "bob" in server.store._last_seen.pending)
    wait_until(lambda: not server.store._last_seen.pending)
    with server._reading() as dao:
        found = last_seen.shown_to(dao, "alice", "bob")
    assert found is not None
    assert found >= before


# --- the parts ------------------------------------------------------------------------------------


@pytest.fixture
def users(dao: Dao) -> Dao:
    """A database with many users, each of whom has alice as a friend."""
    with dao.connection.transaction():
        dao.add_user("alice", "x")
        for number in range(MOST_AT_ONCE + 50):
            dao.add_user(f"u{number}", "x")
            dao.add_friend(f"u{number}", "alice")
    return dao


def test_many_ends_at_once(users: Dao) -> None:
    """They take several transactions, so that nobody waits long for one; each is written once."""
    clock = Clock()
    ends = LastSeen(lambda: 1_795_466_503.340, clock)
    for number in range(MOST_AT_ONCE + 50):
        ends.session_ended(f"u{number}")
    assert ends.due_at == clock.now + WRITE_DELAY
    for left in (50, 0):
        with users.connection.transaction():
            ends.write(users)
        ends.committed()
        assert len(ends.pending) == left
    assert ends.due_at == float("inf")
    assert last_seen.shown_to(users, "alice", "u249") == 1_795_466_503_340


def test_a_failure(users: Dao) -> None:
    """Nothing is lost by it; and a session that ends during the transaction counts."""
    clock, wall = Clock(), Clock()
    wall.now = 1000.0
    ends = LastSeen(wall, clock)
    ends.session_ended("u1")
    ends.write(users)
    ends.on_failure()
    assert ends.due_at == clock.now + RETRY_DELAY
    ends.committed()
    assert ends.pending == {"u1": 1_000_000}
    with users.connection.transaction():
        ends.write(users)
        wall.now += 1
        ends.session_ended("u1")
    ends.committed()
    assert ends.pending == {"u1": 1_001_000}
    assert ends.read(users, "alice", "u1") == 1_001_000


def test_an_earlier_end_changes_nothing(users: Dao) -> None:
    """Two servers over one database may write in any order."""
    for times in itertools.permutations((1000, 2000, 3000)):
        with users.connection.transaction():
            for time in times:
                last_seen.note(users, "u1", time)
        assert last_seen.shown_to(users, "alice", "u1") == 3000


# --- the library ----------------------------------------------------------------------------------


def test_the_library(server: JellyServer, new_client: NewClient) -> None:
    """A profile has it, and the switch is a part of one's own."""
    with new_client(server.port, features=SEEN) as bob:
        result(bob.login("bob", "pw"))
        assert result(bob.own_profile()) == Profile("bob", show_seen=True)
        result(bob.update_profile(show_seen=False))
        assert result(bob.own_profile()) == Profile("bob", show_seen=False)
        result(bob.update_profile(show_seen=True))
    wait_until(lambda: is_gone(server, "bob"))
    with new_client(server.port, features=SEEN) as alice:
        result(alice.login("alice", "pw"))
        profile = result(alice.friend_profile("bob"))
        assert profile.seen is not None
        assert profile.show_seen is None
        assert profile.seen_at is not None
        assert int(profile.seen_at.timestamp() * 1000) == pytest.approx(profile.seen, abs=1)
        assert result(alice.own_profile()).seen_at is None
