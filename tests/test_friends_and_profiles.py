"""Friends and profiles, on every kind of database."""

import pytest
from harness import StartServer
from wire import (
    ADD_FRIEND,
    ALL_FRIENDS,
    FRIEND_PROFILE,
    OWN_PROFILE,
    REMOVE_FRIEND,
    UPDATE_PROFILE,
    Wire,
    logged_in,
    register,
)

PROFILE = {
    "name": "",
    "sex": "女",
    "age": "30",
    "phone": "13800000000",
    "address": "北京市",
    "introduction": "<>&='\"\\\n\u0001😀",
}


@pytest.fixture
def users(start_server: StartServer, database_url: str) -> int:
    """The port of a server with alice and bob."""
    port = start_server(database=database_url, classic_gap=0).port
    register(port, "alice", "bob")
    return port


def test_the_list_shows_who_is_online(users: int) -> None:
    """ALL_FRIENDS has each friend with whether there is a session now."""
    with logged_in(users, "alice") as alice:
        assert alice.ok(ALL_FRIENDS) == {"username": "alice", "friends": {}}
        alice.ok(ADD_FRIEND, friend="bob")
        assert alice.ok(ALL_FRIENDS) == {"username": "alice", "friends": {"bob": False}}
        with logged_in(users, "bob") as bob:
            assert alice.ok(ALL_FRIENDS)["friends"] == {"bob": True}
            assert bob.ok(ALL_FRIENDS)["friends"] == {}


def test_friends_refusals(users: int) -> None:
    """Each thing that cannot be done to a list of friends has its code."""
    with logged_in(users, "alice") as alice:
        assert alice.refused(ADD_FRIEND, friend="ghost") == "no_such_user"
        assert alice.refused(REMOVE_FRIEND, friend="bob") == "not_friends"
        alice.ok(ADD_FRIEND, friend="bob")
        assert alice.refused(ADD_FRIEND, friend="bob") == "already_friends"
        alice.ok(REMOVE_FRIEND, friend="bob")
        assert alice.refused(REMOVE_FRIEND, friend="bob") == "not_friends"


def test_friends_added_from_many_connections(users: int) -> None:
    """Concurrent changes of different users' lists are all kept."""
    names = [f"u{number}" for number in range(10)]
    register(users, *names)
    wires = [logged_in(users, name) for name in names]
    for friend in names:
        for wire in wires:
            wire.send_request(ADD_FRIEND, friend=friend)
    for wire in wires:
        assert [wire.receive().status for _ in names] == [0x31] * len(names)
        assert wire.ok(ALL_FRIENDS)["friends"] == dict.fromkeys(names, True)
    for wire in wires:
        wire.close()


def test_a_fresh_profile_has_only_a_name(users: int) -> None:
    """What was never said is left out."""
    with logged_in(users, "alice") as alice:
        assert alice.call(OWN_PROFILE).body == b'{"username":"alice"}'


def test_a_profile_comes_back_as_it_was_written(users: int) -> None:
    """Every field, in the protocol's order, for oneself and for a friend; an empty text is a
    text.
    """
    with logged_in(users, "alice") as alice, logged_in(users, "bob") as bob:
        alice.ok(UPDATE_PROFILE, **PROFILE)
        assert list(alice.ok(OWN_PROFILE).items()) == list({"username": "alice", **PROFILE}.items())
        assert bob.refused(FRIEND_PROFILE, friend="alice") == "not_friends"
        bob.ok(ADD_FRIEND, friend="alice")
        assert bob.ok(FRIEND_PROFILE, friend="alice") == {"username": "alice", **PROFILE}


def test_updates_change_what_they_name(users: int) -> None:
    """Fields that are left out stay; an update of nothing, or of the same value, succeeds."""
    with logged_in(users, "alice") as alice:
        alice.ok(UPDATE_PROFILE, name="A", age="1")
        alice.ok(UPDATE_PROFILE, age="2")
        alice.ok(UPDATE_PROFILE, age="2")
        alice.ok(UPDATE_PROFILE)
        assert alice.ok(OWN_PROFILE) == {"username": "alice", "name": "A", "age": "2"}


def test_an_update_is_seen_by_the_next_request_on_the_line(users: int) -> None:
    """Requests written without waiting are served in order: a read sees the change before it."""
    with logged_in(users, "alice") as alice:
        for number in range(20):
            alice.send_request(UPDATE_PROFILE, age=str(number))
            alice.send_request(OWN_PROFILE)
        answers = [alice.receive() for _ in range(40)]
        assert [reply.values["age"] for reply in answers[1::2]] == [str(number) for number in range(20)]


def test_a_changed_password(users: int) -> None:
    """The new password counts at once, the old one and every token no more; the session goes on."""
    with logged_in(users, "alice") as alice:
        alice.ok(UPDATE_PROFILE, password="new")
        assert alice.refused(UPDATE_PROFILE, password="") == "invalid_password"
        token = alice.token
    with Wire(users) as wire:
        assert wire.login("alice").error == "wrong_credentials"
    with Wire(users) as wire:
        assert wire.reconnect("alice", token).error == "invalid_token"
    with logged_in(users, "alice", "new"):
        pass
