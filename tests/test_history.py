"""HISTORY: members of a conversation can read it back for as long as the operator wants."""

import itertools
from typing import Any

import pytest
from harness import NullTransport, StartServer
from indexed import indexed_server, say, server_on_sqlite
from wire import (
    ADD_MEMBER,
    CREATE_GROUP,
    DISBAND_GROUP,
    GROUP_MESSAGE,
    HISTORY,
    REMOVE_MEMBER,
    Wire,
    logged_in,
    register,
    wait_until,
)

from jelly.dao import StoredMessage
from jelly.delivery import Delivery
from jelly.message_service import MAX_PAGE, PAGE_CHARACTERS, ROWS_PER_QUERY
from jelly.server import JellyServer
from jelly.sessions import Session, Sessions

ACKS = ["ack"]

server = pytest.fixture(params=["unindexed", "indexed", "half"])(indexed_server)
sqlite = pytest.fixture(server_on_sqlite)


def modern(server: JellyServer, user: str) -> Wire:
    return logged_in(server.port, user, features=ACKS)


def page(wire: Wire, **asked: Any) -> tuple[list[str], bool]:
    """What the messages of a page say, and whether there are older ones."""
    values = wire.ok(HISTORY, **asked)
    assert list(values) == ["username", "messages", "more"]
    assert values["username"] == wire.user
    ids = [message["id"] for message in values["messages"]]
    assert ids == sorted(set(ids))
    return [message["content"] for message in values["messages"]], values["more"]


def test_a_conversation_of_two(server: JellyServer) -> None:
    """Both see what both wrote, oldest first, and no other conversation or group of that name."""
    with modern(server, "alice") as alice, modern(server, "bob") as bob, modern(server, "carol") as carol:
        for number in range(0, 10, 2):
            say(alice, "bob", f"{number}")
            say(bob, "alice", f"{number + 1}")
            say(carol, "bob", f"c{number}")
            say(alice, "carol", f"a{number}")
        alice.ok(CREATE_GROUP, groupName="bob")
        say(alice, "bob", "to the group", type=GROUP_MESSAGE)
        said = [str(number) for number in range(10)]
        assert page(alice, person="bob") == (said, False)
        assert page(bob, person="alice") == (said, False)
        assert page(carol, person="alice") == ([f"a{number}" for number in range(0, 10, 2)], False)
        assert page(alice, groupName="bob") == (["to the group"], False)
        assert page(alice, person="dan") == ([], False)
        say(alice, "alice", "note")
        assert page(alice, person="alice") == (["note"], False)


def test_the_keys_of_a_message(sqlite: JellyServer) -> None:
    """Those of a notice, in the same order, with the same id."""
    with modern(sqlite, "alice") as alice, modern(sqlite, "bob") as bob:
        alice.message("bob", "Grüße 👋", time=-5)
        notice = bob.receive_notice()
        reply = bob.call(HISTORY, person="alice")
        assert reply.body == b'{"username":"bob","messages":[' + notice.body + b'],"more":false}'


def test_going_back_page_by_page(server: JellyServer) -> None:
    """With `before` each page ends where the last one began; no message is twice or missing."""
    with modern(server, "alice") as alice:
        say(alice, "bob", *map(str, range(45)))
        for limit in (1, 7, 44, 45, 46):
            found: list[str] = []
            asked: dict[str, int] = {}
            while True:
                values = alice.ok(HISTORY, person="bob", limit=limit, **asked)
                found = [message["content"] for message in values["messages"]] + found
                assert len(values["messages"]) == limit or not values["more"]
                if not values["more"]:
                    break
                asked = {"before": values["messages"][0]["id"]}
            assert found == [str(number) for number in range(45)]


def test_limits(sqlite: JellyServer) -> None:
    """A page has 50 messages by default and at most 100; a limit below 1 is refused."""
    with modern(sqlite, "alice") as alice:
        say(alice, "bob", *map(str, range(MAX_PAGE + 1)))
        assert len(page(alice, person="bob")[0]) == 50
        assert len(page(alice, person="bob", limit=99)[0]) == 99
        assert page(alice, person="bob", limit=2**62) == ([str(number) for number in range(1, MAX_PAGE + 1)], True)
        for limit in (0, -1, -(2**63)):
            assert alice.refused(HISTORY, person="bob", limit=limit) == "malformed_body"
        for before in (0, -1, -(2**63)):
            assert page(alice, person="bob", before=before) == ([], False)
        assert page(alice, person="bob", before=2**63 - 1, limit=1) == ([str(MAX_PAGE)], True)


def test_large_messages(sqlite: JellyServer) -> None:
    """A page holds about 128 KiB, but at least one message, and skips none."""
    with modern(sqlite, "alice") as alice:
        contents = [f"{number} {'x' * 30_000}" for number in range(ROWS_PER_QUERY + 3)]
        say(alice, "bob", *contents)
        found: list[str] = []
        before = 2**53
        for _ in itertools.count():
            values = alice.ok(HISTORY, person="bob", limit=100, before=before)
            assert 1 <= len(values["messages"]) <= PAGE_CHARACTERS // 30_000
            found = [message["content"] for message in values["messages"]] + found
            if not values["more"]:
                break
            before = values["messages"][0]["id"]
        assert found == contents


@pytest.mark.parametrize(
    ("asked", "code"),
    [
        ({}, "malformed_body"),
        ({"person": "bob", "groupName": "team"}, "malformed_body"),
        ({"person": 1}, "malformed_body"),
        ({"person": "bob", "before": "1"}, "malformed_body"),
        ({"person": "nobody"}, "no_such_user"),
        ({"person": "BOB"}, "no_such_user"),
        ({"person": ""}, "no_such_user"),
        ({"groupName": "nothing"}, "no_such_group"),
        ({"groupName": " "}, "no_such_group"),
        ({"groupName": "others"}, "not_a_member"),
        ({"username": "bob", "person": "alice"}, "not_yourself"),
    ],
)
def test_what_is_refused(sqlite: JellyServer, asked: dict[str, Any], code: str) -> None:
    """Each error has its code, and the connection stays."""
    with modern(sqlite, "bob") as bob, modern(sqlite, "alice") as alice:
        bob.ok(CREATE_GROUP, groupName="others")
        assert alice.refused(HISTORY, **asked) == code
        assert page(alice, person="bob") == ([], False)


@pytest.mark.parametrize("features", [None, [], ["other"]])
def test_without_acknowledgements_there_is_no_history(sqlite: JellyServer, features: list[str] | None) -> None:
    """For a classic client, and for one without "ack", the type does not exist."""
    with logged_in(sqlite.port, "alice", features=features) as alice:
        assert alice.refused(HISTORY, person="bob") == "unknown_type"
        assert alice.refused(HISTORY) == "unknown_type"


def test_what_is_still_to_be_delivered(server: JellyServer) -> None:
    """A message comes by notice or by history, not by both: history leaves out unsent messages."""
    with modern(server, "alice") as alice:
        say(alice, "bob", "old")
        with modern(server, "bob") as bob:
            bob.ack(bob.receive_notice().values["id"])
            with server._reading() as dao:
                wait_until(lambda: not dao.waiting("bob", 0, 1))
        say(alice, "bob", "a", "b")
        assert page(alice, person="bob") == (["old", "a", "b"], False)
    with logged_in(server.port, "bob", features=ACKS) as bob:
        assert bob.contents(2) == ["a", "b"]
        assert page(bob, person="alice") == (["old", "a", "b"], False)  # sent, though not acknowledged


class Watching(NullTransport):
    """A transport that looks at the watermark of another session whenever it sends."""

    def __init__(self) -> None:
        self.other: Session | None = None
        self.seen: list[int] = []

    def send(self, responses: object = (), notices: object = ()) -> None:
        if self.other is not None:
            self.seen.append(self.other.sent_id)


def test_a_message_that_is_about_to_be_sent() -> None:
    """While one member of a group is sent a message, no other member has it already."""
    sessions, transports = Sessions(), [Watching(), Watching()]
    delivery = Delivery(sessions)
    for user, transport in zip(("alice", "bob"), transports, strict=True):
        session = Session(transport, "")
        session.user, session.caught_up, session.sent_id = user, True, 4
        sessions.attach(session)
    transports[0].other = sessions.get("bob")
    delivery.push(StoredMessage(5, True, "carol", "friends", "x", 0), ["alice", "bob"])
    delivery.flush()
    assert transports[0].seen == [4]
    assert session.sent_id == 5


def test_a_receiver_that_is_behind_sees_what_it_was_sent(sqlite: JellyServer) -> None:
    """With its window full the rest waits, and the history ends where the delivery stands."""
    with modern(sqlite, "alice") as alice, modern(sqlite, "bob") as bob:
        say(alice, "bob", *(str(number) for number in range(1200)))
        last = sqlite.sessions.get("bob")
        assert last is not None
        wait_until(lambda: not last.has_room)
        given = page(bob, person="alice", limit=1)[0]
        assert 1000 <= int(given[0]) < 1199
        assert bob.contents(int(given[0]) + 1)[-1:] == given


def test_groups(server: JellyServer) -> None:
    """Members read what was written since they joined. A new group of the same name is empty."""
    with modern(server, "alice") as alice, modern(server, "bob") as bob, modern(server, "carol") as carol:
        alice.ok(CREATE_GROUP, groupName="team")
        alice.ok(ADD_MEMBER, groupName="team", member="bob")
        say(alice, "team", "1", type=GROUP_MESSAGE)
        say(bob, "team", "2", type=GROUP_MESSAGE)
        assert carol.refused(HISTORY, groupName="team") == "not_a_member"
        alice.ok(ADD_MEMBER, groupName="team", member="carol")
        say(bob, "team", "3", type=GROUP_MESSAGE)
        assert page(alice, groupName="team") == (["1", "2", "3"], False)
        assert page(bob, groupName="team", limit=2) == (["2", "3"], True)
        assert page(carol, groupName="team") == (["3"], False)
        alice.ok(REMOVE_MEMBER, groupName="team", member="bob")
        assert bob.refused(HISTORY, groupName="team") == "not_a_member"
        alice.ok(ADD_MEMBER, groupName="team", member="bob")
        assert page(bob, groupName="team") == ([], False)
        alice.ok(DISBAND_GROUP, groupName="team")
        assert alice.refused(HISTORY, groupName="team") == "no_such_group"
        bob.ok(CREATE_GROUP, groupName="team")
        assert page(bob, groupName="team") == ([], False)
        say(bob, "team", "alone", type=GROUP_MESSAGE)
        assert page(bob, groupName="team") == (["alone"], False)


def test_a_member_before_the_first_message_after_a_restart(start_server: StartServer) -> None:
    """A member added right after a restart does not see what was written before it."""
    first = start_server(classic_gap=0)
    register(first.port, "alice", "bob")
    with modern(first, "alice") as alice:
        alice.ok(CREATE_GROUP, groupName="team")
        say(alice, "team", "secret", type=GROUP_MESSAGE)
    first.stop()
    second = start_server(classic_gap=0)
    with modern(second, "alice") as alice, modern(second, "bob") as bob:
        alice.ok(ADD_MEMBER, groupName="team", member="bob")
        assert page(bob, groupName="team") == ([], False)
        assert page(alice, groupName="team") == (["secret"], False)


def test_no_history(start_server: StartServer) -> None:
    """Without history pages are empty, even if a message is not delivered yet."""
    server = start_server(history_days=0, classic_gap=0)
    register(server.port, "alice", "bob")
    with modern(server, "alice") as alice:
        say(alice, "bob", "x")
        assert page(alice, person="bob") == ([], False)
    with modern(server, "bob") as bob:
        assert bob.contents(1) == ["x"]
