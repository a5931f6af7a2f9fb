"""Consent to being on a friend list (the feature `contacts`): who is asked, what a stranger learns
before the answer, and what classic clients notice.
"""

import sqlite3
from pathlib import Path
from typing import Any

import pytest
from harness import StartServer
from schemas import make_old_version, reopen
from wire import (
    ADD_FRIEND,
    ALL_FRIENDS,
    ANSWER_FRIEND,
    FRIEND_PROFILE,
    REMOVE_FRIEND,
    SUCCESS,
    UPDATE_PROFILE,
    Wire,
    logged_in,
    register,
    wait_until,
)

from faults.mariadb import PrivateMariaDB
from jelly import contacts_dao, friend_service
from jelly.contacts_dao import Standing
from jelly.server import JellyServer

CONTACTS = ["contacts"]
CLIENTS: list[list[str] | None] = [None, [], ["ack", "ids"], ["pages"], CONTACTS, ["pages", "contacts"]]
"""Clients: a classic one, and modern ones with and without the feature."""
REQUEST, ANSWER = "friend_request", "friend_answer"


@pytest.fixture
def server(start_server: StartServer, database_url: str) -> JellyServer:
    """A server with alice, bob (who can be asked) and carol, on each kind of database."""
    server = start_server(database=database_url, classic_gap=0)
    register(server.port, "alice", "bob", "carol")
    with logged_in(server.port, "bob", features=CONTACTS) as bob:
        bob.ok(UPDATE_PROFILE, name="Bob B.", phone="555", address="here")
    return server


def told(wire: Wire, event: str) -> dict[str, Any]:
    """The next notice, which must be of an event; what it says beside that."""
    values: dict[str, Any] = wire.receive_notice().values
    assert values.pop("event") == event
    return values


def friends_of(wire: Wire) -> dict[str, bool]:
    found: dict[str, bool] = wire.ok(ALL_FRIENDS)["friends"]
    return found


def hears_nothing(wire: Wire) -> bool:
    """Whether no notice has come. (The answer is the barrier: notices stand before it.)"""
    wire.refused(REMOVE_FRIEND, friend="nobody-at-all")
    return not wire.notices


# --- who is asked ---------------------------------------------------------------------------------


@pytest.mark.parametrize("policy", ["ask", "open", "strict"])
@pytest.mark.parametrize("features", [None, [], ["ack", "pages", "ids"], CONTACTS], ids=str)
def test_who_is_asked(start_server: StartServer, policy: str, features: list[str] | None) -> None:
    """By default those whose latest login had the feature; else nobody, or everybody."""
    port = start_server(classic_gap=0, contacts=policy).port
    register(port, "alice", "bob")
    with logged_in(port, "bob", features=features), logged_in(port, "alice", features=CONTACTS) as alice:
        is_asked = policy == "strict" or (policy == "ask" and features == CONTACTS)
        assert alice.ok(ADD_FRIEND, friend="bob") == {"pending": is_asked}
        assert friends_of(alice) == {"bob": not is_asked}


def test_the_latest_login_decides(server: JellyServer) -> None:
    """By password or by token, and in whatever order they came before."""
    with Wire(server.port) as bob:
        assert bob.login("bob").status == SUCCESS
        token = bob.token
    with logged_in(server.port, "alice", features=CONTACTS) as alice:
        assert alice.ok(ADD_FRIEND, friend="bob") == {"pending": False}
        alice.ok(REMOVE_FRIEND, friend="bob")
        for features in (CONTACTS, None, CONTACTS, []):
            with Wire(server.port) as bob:
                assert bob.reconnect("bob", token, features).status == SUCCESS
            assert alice.ok(ADD_FRIEND, friend="bob") == {"pending": features == CONTACTS}
            alice.ok(REMOVE_FRIEND, friend="bob")


def test_oneself_is_not_asked(server: JellyServer) -> None:
    with logged_in(server.port, "bob", features=CONTACTS) as bob:
        assert bob.ok(ADD_FRIEND, friend="bob") == {"pending": False}
        assert friends_of(bob) == {"bob": True}


def test_whoever_has_one_on_the_list_is_not_asked(server: JellyServer) -> None:
    """That user has asked first."""
    with logged_in(server.port, "bob", features=CONTACTS) as bob:
        bob.ok(ADD_FRIEND, friend="alice")
        with logged_in(server.port, "alice", features=CONTACTS) as alice:
            assert alice.ok(ADD_FRIEND, friend="bob") == {"pending": False}
            assert hears_nothing(bob) or told(bob, "presence")
            assert bob.ok(ALL_FRIENDS)["requests"] == []


@pytest.mark.parametrize("features", [[], ["pages"], CONTACTS], ids=str)
def test_a_request_that_is_withdrawn_on_another_device(server: JellyServer, features: list[str]) -> None:
    """A list that is made meanwhile does not show that the other one is online."""
    with (
        logged_in(server.port, "bob", features=CONTACTS),
        logged_in(server.port, "alice", features=[*CONTACTS, "devices"], device="phone") as phone,
        logged_in(server.port, "alice", features=[*features, "devices"], device="desk") as desk,
    ):
        assert phone.ok(ADD_FRIEND, friend="bob") == {"pending": True}
        wait_until(lambda: not any(connection.lane.busy.locked() for connection in tuple(server.connections)))
        with server.store._turn:  # the list is read now, and made after the removal
            phone.send_request(REMOVE_FRIEND, friend="bob")
            wait_until(lambda: len(server.store._jobs) == 1)
            desk.send_request(ALL_FRIENDS)
            wait_until(lambda: len(server.store._jobs) == 2)
        assert desk.receive_response().values["friends"] == {"bob": False}
        assert phone.receive_response().status == SUCCESS


# --- what a stranger learns -----------------------------------------------------------------------


@pytest.mark.parametrize("features", CLIENTS, ids=str)
def test_nothing_is_learned_before_the_answer(server: JellyServer, features: list[str] | None) -> None:
    """Offline and the name only: in the list, in the profile, after a login, and by notices."""
    with logged_in(server.port, "bob", features=CONTACTS) as bob:
        for _ in range(2):  # once more after a new login, which loads the list
            with logged_in(server.port, "alice", features=features) as alice:
                if "bob" not in friends_of(alice):
                    alice.ok(ADD_FRIEND, friend="bob")
                assert friends_of(alice) == {"bob": False}
                assert alice.call(FRIEND_PROFILE, friend="bob").body == b'{"username":"bob"}'
                assert alice.refused(ADD_FRIEND, friend="bob") == "already_friends"
        with logged_in(server.port, "alice", features=features) as alice:
            bob.close()
            with logged_in(server.port, "bob", features=CONTACTS) as bob:
                bob.message("alice", "a message tells that bob is online, the server does not")
                notice = alice.receive_notice()
                assert notice.values["sender"] == "bob"
                assert hears_nothing(alice)


@pytest.mark.parametrize("features", CLIENTS, ids=str)
@pytest.mark.parametrize("way", ["answers", "adds back"])
def test_what_an_answer_gives(server: JellyServer, features: list[str] | None, way: str) -> None:
    """The answer is told to whom it concerns, then whether the friend is online; from there on it
    is a friend like any other.
    """
    with (
        logged_in(server.port, "alice", features=features) as alice,
        logged_in(server.port, "bob", features=CONTACTS) as bob,
    ):
        added = alice.call(ADD_FRIEND, friend="bob")
        assert added.body == (b'{"pending":true}' if "contacts" in (features or ()) else b"")
        assert told(bob, REQUEST) == {"friend": "alice"}
        if way == "answers":
            assert bob.call(ANSWER_FRIEND, friend="alice", accept=True).body == b""
            assert friends_of(bob) == {}
        else:
            assert bob.ok(ADD_FRIEND, friend="alice") == {"pending": False}
            assert friends_of(bob) == {"alice": True}
        if "contacts" in (features or ()):
            assert told(alice, ANSWER) == {"friend": "bob", "accepted": True}
        if features is not None:
            assert told(alice, "presence") == {"friend": "bob", "online": True}
        assert hears_nothing(alice)
        assert friends_of(alice) == {"bob": True}
        assert alice.ok(FRIEND_PROFILE, friend="bob")["phone"] == "555"
        assert bob.ok(ALL_FRIENDS)["requests"] == []
        bob.close()
        if features is not None:
            assert told(alice, "presence") == {"friend": "bob", "online": False}


@pytest.mark.parametrize("features", [None, ["pages"], CONTACTS], ids=str)
def test_a_no(server: JellyServer, features: list[str] | None) -> None:
    """Everything stays as it was for the one who asked; a no may become a yes."""
    with (
        logged_in(server.port, "alice", features=features) as alice,
        logged_in(server.port, "bob", features=CONTACTS) as bob,
    ):
        alice.ok(ADD_FRIEND, friend="bob")
        told(bob, REQUEST)
        bob.ok(ANSWER_FRIEND, friend="alice", accept=False)
        assert bob.refused(ANSWER_FRIEND, friend="alice", accept=False) == "not_asked"
        if features == CONTACTS:
            assert told(alice, ANSWER) == {"friend": "bob", "accepted": False}
            assert alice.ok(ALL_FRIENDS)["pending"] == ["bob"]
        assert hears_nothing(alice)
        assert friends_of(alice) == {"bob": False}
        assert alice.ok(FRIEND_PROFILE, friend="bob") == {"username": "bob"}
        assert bob.ok(ALL_FRIENDS)["requests"] == []
        bob.ok(ANSWER_FRIEND, friend="alice", accept=True)
        alice.notices.clear()
        assert friends_of(alice) == {"bob": True}
        assert bob.refused(ANSWER_FRIEND, friend="alice", accept=False) == "not_asked"


def test_an_answer_to_somebody_who_is_away(server: JellyServer) -> None:
    """It holds at the next login."""
    with logged_in(server.port, "alice") as alice:
        alice.ok(ADD_FRIEND, friend="bob")
    with logged_in(server.port, "bob", features=CONTACTS) as bob:
        bob.ok(ANSWER_FRIEND, friend="alice", accept=True)
        with logged_in(server.port, "alice", features=["contacts", "pages"]) as alice:
            assert alice.ok(ALL_FRIENDS) == {
                "username": "alice", "friends": {"bob": True}, "pending": [], "requests": [], "more": False,
            }  # fmt: skip


def test_only_the_user_who_was_asked_can_answer(server: JellyServer) -> None:
    """Nobody answers for another, nobody answers what was not asked, and only with the feature."""
    with (
        logged_in(server.port, "alice", features=CONTACTS) as alice,
        logged_in(server.port, "carol", features=CONTACTS) as carol,
        logged_in(server.port, "bob", features=["ack"]) as bob,
    ):
        assert carol.ok(ADD_FRIEND, friend="alice") == {"pending": True}
        for wire in (carol, bob):
            assert wire.ok(ALL_FRIENDS).get("requests", []) == []
        assert carol.refused(ANSWER_FRIEND, username="alice", friend="carol", accept=True) == "not_yourself"
        assert carol.refused(ANSWER_FRIEND, friend="alice", accept=True) == "not_asked"
        assert carol.refused(ANSWER_FRIEND, friend="carol", accept=True) == "not_asked"
        assert alice.refused(ANSWER_FRIEND, friend="ghost", accept=True) == "not_asked"
        assert alice.refused(ANSWER_FRIEND, friend="no name", accept=True) == "not_asked"
        assert alice.refused(ANSWER_FRIEND, friend="carol", accept=1) == "malformed_body"
        assert bob.refused(ANSWER_FRIEND, friend="carol", accept=True) == "unknown_type"
        assert friends_of(carol) == {"alice": False}
    with logged_in(server.port, "bob") as bob:
        assert bob.refused(ANSWER_FRIEND, friend="carol", accept=True) == "unknown_type"


def test_a_request_that_is_withdrawn(server: JellyServer) -> None:
    with (
        logged_in(server.port, "alice") as alice,
        logged_in(server.port, "bob", features=CONTACTS) as bob,
    ):
        alice.ok(ADD_FRIEND, friend="bob")
        assert bob.ok(ALL_FRIENDS)["requests"] == ["alice"]
        alice.ok(REMOVE_FRIEND, friend="bob")
        assert bob.ok(ALL_FRIENDS)["requests"] == []
        assert bob.refused(ANSWER_FRIEND, friend="alice", accept=True) == "not_asked"
        assert alice.refused(FRIEND_PROFILE, friend="bob") == "not_friends"


# --- the lists ------------------------------------------------------------------------------------


def test_the_keys_of_the_list(server: JellyServer) -> None:
    """Only with the feature, and `requests` only in the first page."""
    names = ["dan", "eve", "fay"]
    register(server.port, *names)
    for name in names:
        with logged_in(server.port, name, features=CONTACTS) as wire:
            wire.ok(ADD_FRIEND, friend="bob")
    with logged_in(server.port, "bob", features=CONTACTS) as bob:
        for name in ("alice", "carol"):
            bob.ok(ADD_FRIEND, friend=name)
        bob.ok(ADD_FRIEND, friend="dan")
        answer = bob.ok(ALL_FRIENDS)
        assert list(answer) == ["username", "friends", "pending", "requests"]
        assert answer["pending"] == []
        assert answer["requests"] == ["fay", "eve"]
    with logged_in(server.port, "fay", features=["pages", "contacts"]) as fay:
        first = fay.ok(ALL_FRIENDS)
        assert list(first) == ["username", "friends", "pending", "requests", "more"]
        assert (first["pending"], first["requests"]) == (["bob"], [])
        assert list(fay.ok(ALL_FRIENDS, after="a")) == ["username", "friends", "pending", "more"]
    for features in (None, ["ack"]):
        with logged_in(server.port, "fay", features=features) as fay:
            assert fay.call(ALL_FRIENDS).body == b'{"username":"fay","friends":{"bob":false}}'


# --- limits ---------------------------------------------------------------------------------------


def test_requests_of_a_day(server: JellyServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody can ask without end, also not the same user again; who need not be asked does not
    count.
    """
    monkeypatch.setattr(friend_service, "MAX_ASKED_A_DAY", 3)
    register(server.port, "dan")
    with logged_in(server.port, "alice") as alice:
        for _ in range(3):
            alice.ok(ADD_FRIEND, friend="bob")
            alice.ok(REMOVE_FRIEND, friend="bob")
        assert alice.refused(ADD_FRIEND, friend="bob") == "limit_reached"
        assert friends_of(alice) == {}
        alice.ok(ADD_FRIEND, friend="dan")
        with server._reading() as dao, dao.connection.transaction():
            dao.connection.change("UPDATE users SET asked_day = asked_day - 1 WHERE username = 'alice'")
        alice.ok(ADD_FRIEND, friend="bob")


def test_requests_without_an_answer(server: JellyServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """They are bounded, those with a no too; to remove one makes room."""
    monkeypatch.setattr(friend_service, "MAX_PENDING", 2)
    names = ["dan", "eve"]
    register(server.port, *names)
    for name in names:
        logged_in(server.port, name, features=CONTACTS).close()
    with (
        logged_in(server.port, "alice", features=CONTACTS) as alice,
        logged_in(server.port, "bob", features=CONTACTS) as bob,
    ):
        alice.ok(ADD_FRIEND, friend="bob")
        alice.ok(ADD_FRIEND, friend="dan")
        assert alice.refused(ADD_FRIEND, friend="eve") == "limit_reached"
        bob.ok(ANSWER_FRIEND, friend="alice", accept=False)
        alice.notices.clear()
        assert alice.refused(ADD_FRIEND, friend="eve") == "limit_reached"
        bob.ok(ANSWER_FRIEND, friend="alice", accept=True)
        alice.ok(ADD_FRIEND, friend="eve")


def test_the_newest_requests_are_shown(server: JellyServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """So nobody can shut out others by asking with many accounts."""
    monkeypatch.setattr(friend_service, "MAX_REQUESTS", 2)
    with server._reading() as dao, dao.connection.transaction():
        for number in range(5):
            contacts_dao.add_friend(dao, f"spam{number}", "bob", asked_at=number)
    with logged_in(server.port, "bob", features=CONTACTS) as bob:
        assert bob.ok(ALL_FRIENDS)["requests"] == ["spam4", "spam3"]
        with logged_in(server.port, "alice") as alice:
            alice.ok(ADD_FRIEND, friend="bob")
        assert bob.ok(ALL_FRIENDS)["requests"] == ["alice", "spam4"]


# --- several nodes, older databases ---------------------------------------------------------------


def test_through_two_nodes(start_server: StartServer, mariadb: PrivateMariaDB) -> None:
    """Requests and answers reach users at another node, and so does what follows from them."""
    database = mariadb.fresh_database("jelly_contacts")
    first, second = (start_server(database=database, cluster="none") for _ in range(2))
    register(first.port, "alice", "bob")
    with (
        logged_in(first.port, "alice", features=CONTACTS) as alice,
        logged_in(second.port, "bob", features=CONTACTS) as bob,
    ):
        assert alice.ok(ADD_FRIEND, friend="bob") == {"pending": True}
        assert told(bob, REQUEST) == {"friend": "alice"}
        bob.ok(ANSWER_FRIEND, friend="alice", accept=False)
        assert told(alice, ANSWER) == {"friend": "bob", "accepted": False}
        assert bob.ok(ADD_FRIEND, friend="alice") == {"pending": False}
        assert told(alice, ANSWER) == {"friend": "bob", "accepted": True}
        assert told(alice, "presence") == {"friend": "bob", "online": True}
        bob.close()
        assert told(alice, "presence") == {"friend": "bob", "online": False}


@pytest.mark.parametrize("version", [1, 2])
def test_lists_of_older_databases_count_as_accepted(tmp_path: Path, version: int) -> None:
    url = f"sqlite:///{tmp_path / 'old.db'}"
    make_old_version(url, version)
    with sqlite3.connect(tmp_path / "old.db") as connection:
        connection.execute("INSERT INTO friends VALUES ('alice', 'bob')")
    connection.close()
    for dao in reopen(url):
        assert contacts_dao.standing(dao, "alice", "bob") is Standing.ACCEPTED
        assert contacts_dao.acquaintance(dao, "bob", "alice") == (False, False, None)
        assert contacts_dao.accepted_friends(dao, "alice", 10) == ["bob"]
