"""Blocking: what no longer gets through, to whomever, and what a person learns who is blocked."""

from typing import Any

import pytest
from client_tools import NewClient, error, result
from harness import StartServer
from wire import (
    ADD_FRIEND,
    ADD_MEMBER,
    ALL_FRIENDS,
    ANSWER_FRIEND,
    BLOCK,
    BLOCKED,
    CREATE_GROUP,
    EDIT,
    FRIEND_PROFILE,
    GROUP_MESSAGE,
    HISTORY,
    PASSWORD,
    PERSON_MESSAGE,
    REMOVE_FRIEND,
    SUCCESS,
    UPDATE_PROFILE,
    Wire,
    logged_in,
    register,
    wait_until,
)

from faults.mariadb import PrivateMariaDB
from jelly import block_service
from jelly.server import JellyServer

CLIENTS: list[list[str] | None] = [None, [], ["ack", "ids"], ["pages", "contacts"], ["block"]]
"""Clients of the person who is blocked: a classic one, and modern ones."""


@pytest.fixture
def server(start_server: StartServer, database_url: str) -> JellyServer:
    """A server with alice, bob and carol, on each kind of database. Alice has bob as a friend."""
    server = start_server(database=database_url, classic_gap=0)
    register(server.port, "alice", "bob", "carol")
    with logged_in(server.port, "alice") as alice:
        alice.ok(ADD_FRIEND, friend="bob")
    with logged_in(server.port, "bob") as bob:
        bob.ok(UPDATE_PROFILE, phone="555")
    return server


def block(port: int, user: str, person: str, blocked: bool = True) -> None:
    with logged_in(port, user, features=["block"]) as wire:
        assert wire.call(BLOCK, person=person, blocked=blocked).body == b""


def send(wire: Wire, receiver: str, content: str, **more: object) -> str:
    """Send a message; the error code with which it is refused, or an empty text."""
    return wire.call(PERSON_MESSAGE, receiver=receiver, content=content, time=1, **more).error


def notices(wire: Wire) -> list[Any]:
    """What has come until now. (The answer is the barrier.)"""
    wire.refused(REMOVE_FRIEND, friend="nobody-at-all")
    found = [notice.values for notice in wire.notices]
    wire.notices.clear()
    return found


@pytest.mark.parametrize("features", CLIENTS, ids=str)
@pytest.mark.parametrize("is_classic", [False, True], ids=["modern receiver", "classic receiver"])
def test_what_no_longer_gets_through(server: JellyServer, features: list[str] | None, is_classic: bool) -> None:
    """No message, no request, no group: nothing is stored. It holds for the user, whatever client
    the user has now; others are not concerned, and neither is the other direction.
    """
    block(server.port, "bob", "alice")
    with (
        logged_in(server.port, "alice", features=features) as alice,
        logged_in(server.port, "carol") as carol,
        logged_in(server.port, "bob", features=None if is_classic else ["ack"]) as bob,
    ):
        assert send(alice, "bob", "x") == "not_accepted"
        assert send(alice, "bob", "x", requestId="r1") == "not_accepted"
        alice.ok(REMOVE_FRIEND, friend="bob")
        assert alice.refused(ADD_FRIEND, friend="bob") == "not_accepted"
        alice.ok(CREATE_GROUP, groupName="team")
        assert alice.refused(ADD_MEMBER, groupName="team", member="bob") == "not_accepted"
        carol.message("bob", "from carol")
        bob.message("alice", "from bob")
        assert bob.receive_notice().values["content"] == "from carol"
        assert alice.receive_notice().values["content"] == "from bob"
        assert notices(bob) == []
    with server._reading() as dao:
        assert dao.connection.query("SELECT content FROM messages ORDER BY id") == [("from carol",), ("from bob",)]
        assert dao.connection.query("SELECT username FROM members") == [("alice",)]


@pytest.mark.parametrize("features", CLIENTS, ids=str)
def test_who_is_blocked_sees_nothing(server: JellyServer, features: list[str] | None) -> None:
    """Offline and the name only, in the list, in the profile, after a login and by notices; after
    the end of the block it is as before.
    """
    modern = features is not None
    with logged_in(server.port, "alice", features=features) as alice:
        with logged_in(server.port, "bob", features=["block"]) as bob:
            assert alice.ok(ALL_FRIENDS)["friends"] == {"bob": True}
            notices(alice)
            bob.ok(BLOCK, person="alice", blocked=True)
            assert notices(alice) == ([{"event": "presence", "friend": "bob", "online": False}] if modern else [])
            values = alice.ok(ALL_FRIENDS)
            assert values["friends"] == {"bob": False}
            assert values.get("pending", []) == []
            assert alice.call(FRIEND_PROFILE, friend="bob").body == b'{"username":"bob"}'
        with (
            logged_in(server.port, "bob", features=["block"]) as bob,
            logged_in(server.port, "alice", features=features) as again,
        ):
            assert again.ok(ALL_FRIENDS)["friends"] == {"bob": False}
            bob.message("alice", "x")
            assert [each.get("content") for each in notices(again)] == ["x"]
            bob.ok(BLOCK, person="alice", blocked=False)
            assert notices(again) == ([{"event": "presence", "friend": "bob", "online": True}] if modern else [])
            assert again.ok(ALL_FRIENDS)["friends"] == {"bob": True}
            assert again.ok(FRIEND_PROFILE, friend="bob")["phone"] == "555"
            assert send(again, "bob", "now") == ""


def test_a_request_that_waits_is_declined(server: JellyServer) -> None:
    """Also after the end of the block: it must be asked again, or accepted by adding back."""
    with (
        logged_in(server.port, "carol", features=["contacts"]) as carol,
        logged_in(server.port, "bob", features=["contacts", "block"]) as bob,
    ):
        assert carol.ok(ADD_FRIEND, friend="bob") == {"pending": True}
        bob.ok(BLOCK, person="carol", blocked=True)
        assert bob.ok(ALL_FRIENDS)["requests"] == []
        bob.ok(ANSWER_FRIEND, friend="carol", accept=True)
        assert carol.ok(ALL_FRIENDS)["friends"] == {"bob": False}
        assert [each["event"] for each in notices(carol)] == ["friend_answer"]
        bob.ok(BLOCK, person="carol", blocked=False)
        assert carol.ok(ALL_FRIENDS)["friends"] == {"bob": True}


def test_a_block_without_friendship_tells_nobody(server: JellyServer) -> None:
    """Neither its beginning nor its end shows anything to a stranger, nor to one who was not
    accepted.
    """
    with (
        logged_in(server.port, "bob", features=["contacts", "block"]) as bob,
        logged_in(server.port, "carol", features=["contacts", "block"]) as carol,
    ):
        for _ in range(2):
            for blocked in (True, False):
                bob.ok(BLOCK, person="carol", blocked=blocked)
            assert notices(carol) == []
            if "bob" not in carol.ok(ALL_FRIENDS)["friends"]:
                carol.ok(ADD_FRIEND, friend="bob")
        assert carol.ok(ALL_FRIENDS)["friends"] == {"bob": False}


def test_messages_to_common_groups(server: JellyServer) -> None:
    """They come: all members of a group get the same messages in the same order."""
    with logged_in(server.port, "carol") as carol:
        carol.ok(CREATE_GROUP, groupName="team")
        for member in ("alice", "bob"):
            carol.ok(ADD_MEMBER, groupName="team", member=member)
    block(server.port, "bob", "alice")
    with logged_in(server.port, "bob") as bob, logged_in(server.port, "alice") as alice:
        alice.message("team", "to all", GROUP_MESSAGE)
        assert bob.receive_notice().values["content"] == "to all"


def test_what_was_sent_before(server: JellyServer) -> None:
    """It still arrives, can be read back, and sending it again is answered as before."""
    with logged_in(server.port, "alice", features=["ack"]) as alice:
        assert send(alice, "bob", "before", requestId="r1") == ""
        block(server.port, "bob", "alice")
        assert send(alice, "bob", "before", requestId="r1") == ""
        assert send(alice, "bob", "after", requestId="r2") == "not_accepted"
        block(server.port, "bob", "alice", blocked=False)
        assert send(alice, "bob", "after", requestId="r2") == ""
        assert [each["content"] for each in alice.ok(HISTORY, person="bob")["messages"]] == ["before", "after"]


@pytest.mark.parametrize("is_first", [True, False])
def test_in_the_same_transaction(server: JellyServer, is_first: bool) -> None:
    """A message behind the block is refused, also if both are written together; one before it
    arrives.
    """
    store = server.store
    with logged_in(server.port, "bob", features=["block"]) as bob, logged_in(server.port, "alice") as alice:
        with store._turn:  # so that both wait for the same turn
            bob.send_request(BLOCK, person="alice", blocked=True)
            alice.send_message("bob", "hello")
            wait_until(lambda: len(store._jobs) == 2)
            if (store._jobs._arrived[0].entries[0].type == BLOCK) != is_first:  # type: ignore[union-attr]
                store._jobs._arrived.reverse()
        assert bob.receive_response().status == SUCCESS
        assert alice.receive_response().error == ("not_accepted" if is_first else "")
        assert send(alice, "bob", "once more") == "not_accepted"
        assert [notice.get("content") for notice in notices(bob)] == ([] if is_first else ["hello"])


def test_edits(server: JellyServer) -> None:
    """What was sent before cannot be changed any more, either, until the block ends."""
    with logged_in(server.port, "alice", features=["ids", "edit"]) as alice:
        id = alice.ok(PERSON_MESSAGE, receiver="bob", content="before", time=1)["id"]
        block(server.port, "bob", "alice")
        assert alice.refused(EDIT, id=id, content="after") == "not_accepted"
        block(server.port, "bob", "alice", blocked=False)
        alice.ok(EDIT, id=id, content="after")


def test_the_list_and_its_limits(server: JellyServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is in the order of the names; to do something twice changes nothing."""
    monkeypatch.setattr(block_service, "MAX_BLOCKED", 2)
    register(server.port, "dan")
    with logged_in(server.port, "bob", features=["block"]) as bob:
        assert bob.ok(BLOCKED) == {"username": "bob", "blocked": []}
        for person in ("dan", "alice", "alice"):
            bob.ok(BLOCK, person=person, blocked=True)
        assert bob.ok(BLOCKED)["blocked"] == ["alice", "dan"]
        assert bob.refused(BLOCK, person="carol", blocked=True) == "limit_reached"
        assert bob.refused(BLOCK, person="ghost", blocked=True) == "no_such_user"
        assert bob.refused(BLOCK, person="no name", blocked=False) == "no_such_user"
        assert bob.refused(BLOCK, person="bob", blocked=True) == "malformed_body"
        assert bob.refused(BLOCK, person="alice", blocked="yes") == "malformed_body"
        for _ in range(2):
            bob.ok(BLOCK, person="alice", blocked=False)
        assert bob.ok(BLOCKED)["blocked"] == ["dan"]
    with logged_in(server.port, "alice", features=["block"]) as alice:
        assert alice.ok(BLOCKED)["blocked"] == []
        assert alice.refused(BLOCKED, username="bob") == "not_yourself"
        assert alice.refused(BLOCK, username="bob", person="carol", blocked=True) == "not_yourself"


@pytest.mark.parametrize("features", [None, [], ["ack", "contacts"]], ids=str)
def test_without_the_feature(server: JellyServer, features: list[str] | None) -> None:
    with logged_in(server.port, "bob", features=features) as bob:
        assert bob.refused(BLOCK, person="alice", blocked=True) == "unknown_type"
        assert bob.refused(BLOCKED) == "unknown_type"


def test_it_holds_after_a_restart(server: JellyServer, start_server: StartServer) -> None:
    block(server.port, "bob", "alice")
    database = server.settings.database
    server.stop()
    server = start_server(database=database, classic_gap=0)
    with logged_in(server.port, "alice") as alice:
        assert send(alice, "bob", "x") == "not_accepted"
        assert send(alice, "carol", "x") == ""


def test_through_two_nodes(start_server: StartServer, mariadb: PrivateMariaDB) -> None:
    """A block holds at every node from its commit on, and ends at every node."""
    database = mariadb.fresh_database("jelly_blocks")
    first, second = (start_server(database=database, cluster="none", classic_gap=0) for _ in range(2))
    register(first.port, "alice", "bob")
    with (
        logged_in(first.port, "alice", features=["ack"]) as alice,
        logged_in(second.port, "bob", features=["block"]) as bob,
    ):
        alice.ok(ADD_FRIEND, friend="bob")
        assert alice.ok(ALL_FRIENDS)["friends"] == {"bob": True}
        notices(alice)
        for number in range(3):
            for blocked in (True, False):
                bob.ok(BLOCK, person="alice", blocked=blocked)
                assert send(alice, "bob", f"{number}") == ("not_accepted" if blocked else "")
                presence = alice.receive_notice().values
                assert presence == {"event": "presence", "friend": "bob", "online": not blocked}
        bob.ok(BLOCK, person="alice", blocked=True)
        third = start_server(database=database, cluster="none", classic_gap=0)
        with logged_in(third.port, "alice", features=["ack"]) as again:
            assert again.ok(ALL_FRIENDS)["friends"] == {"bob": False}
            assert send(again, "bob", "x") == "not_accepted"


def test_the_library(server: JellyServer, new_client: NewClient) -> None:
    alice, bob = new_client(server.port), new_client(server.port)
    result(alice.login("alice", PASSWORD))
    result(bob.login("bob", PASSWORD))
    result(bob.block("alice"))
    assert result(bob.blocked()) == ("alice",)
    assert error(alice.send_message("bob", "x")).code == "not_accepted"
    result(bob.unblock("alice"))
    assert result(bob.blocked()) == ()
    result(alice.send_message("bob", "x"))
    with new_client(server.port, features=("ack",)) as carol:
        result(carol.login("carol", PASSWORD))
        assert error(carol.block("bob")).code == "unknown_type"
