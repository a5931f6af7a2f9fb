"""READ and CONVERSATIONS: how far everybody has read, and the list of one's conversations."""

from typing import Any

import pytest
from client_tools import NewClient, Recorder, result
from clock import Clock
from harness import StartServer, ready_database
from indexed import index
from wire import (
    ADD_MEMBER,
    CONVERSATIONS,
    CREATE_GROUP,
    DISBAND_GROUP,
    GROUP_MESSAGE,
    LOGIN,
    PASSWORD,
    PERSON_MESSAGE,
    READ,
    REMOVE_MEMBER,
    SYSTEM,
    Wire,
    logged_in,
    pack,
    register,
    to_json,
    wait_until,
)

from client_api import LastMessage, MessageEvent, RequestRejected
from faults.mariadb import PrivateMariaDB
from jelly import conversation_service, read_pointers, sessions
from jelly.conversations_dao import MAX_UNREAD, PREVIEW, ConversationKey
from jelly.dao import Dao
from jelly.read_pointers import MAX_NOTED_OF_USER, READ_BATCH, ReadPointers
from jelly.server import JellyServer
from jelly.sessions import Session

MODERN = ["ack", "ids", "read"]


@pytest.fixture(params=["unindexed", "indexed", "half"])
def server(
    request: pytest.FixtureRequest, start_server: StartServer, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> JellyServer:
    """A server with four users, and a group of three of them, on each database.

    Messages are indexed at once, not during the test, or some at a time.
    """
    index(request.param, monkeypatch, some=3)
    return prepare(start_server(database=database_url, classic_gap=0))


@pytest.fixture
def sqlite(start_server: StartServer) -> JellyServer:
    return prepare(start_server(classic_gap=0))


def prepare(server: JellyServer) -> JellyServer:
    register(server.port, "alice", "bob", "carol", "dan")
    with logged_in(server.port, "alice") as alice:
        alice.ok(CREATE_GROUP, groupName="team")
        for member in ("bob", "carol"):
            alice.ok(ADD_MEMBER, groupName="team", member=member)
    return server


def modern(server: JellyServer, user: str) -> Wire:
    return logged_in(server.port, user, features=MODERN)


def say(wire: Wire, to: str, *contents: str, type: int = PERSON_MESSAGE) -> list[int]:
    """Send messages; their ids."""
    return [wire.ok(type, receiver=to, content=content, time=1)["id"] for content in contents]


def test_names_that_nobody_has_are_not_kept(sqlite: JellyServer) -> None:
    """What was read is kept until it is written. A name of 60 KB is not."""
    note = sqlite.store.read_pointers.note
    with modern(sqlite, "bob") as bob:
        session = sqlite.sessions.get("bob")
        assert session is not None
        note(session, False, "x" * 33, 1)
        assert not len(sqlite.store.read_pointers)
        bob.send(pack(READ, to_json({"id": 1, "person": "x" * 60_000})))
        bob.ok(CONVERSATIONS)


def received(wire: Wire, count: int) -> list[int]:
    """Wait for messages, and acknowledge them; their ids."""
    ids: list[int] = []
    while len(ids) < count:
        reply = wire.receive_notice()
        if reply.type != SYSTEM:
            ids.append(reply.values["id"])
    wire.ack(ids[-1])
    return ids


def read(wire: Wire, id: int, **where: str) -> None:
    wire.send(pack(READ, to_json({"id": id, **where})))


def listed(wire: Wire) -> list[dict[str, Any]]:
    """All conversations, in as many answers as the server makes of them."""
    found: list[dict[str, Any]] = []
    after: dict[str, str] = {}
    while True:
        values = wire.ok(CONVERSATIONS, **after)
        assert list(values) == ["username", "conversations", "more", *(["after"] if values["more"] else [])]
        found += values["conversations"]
        if not values["more"]:
            return found
        after = {"after": values["after"]}


def counts(wire: Wire) -> dict[str, tuple[int, int]]:
    """For each conversation, how many messages are unread, and the read pointer."""
    return {each.get("person") or f"#{each['groupName']}": (each["unread"], each["read"]) for each in listed(wire)}


def test_the_list(server: JellyServer) -> None:
    """Persons first, then groups, each by name: the last message, what is unread, what is read."""
    with modern(server, "alice") as alice, modern(server, "bob") as bob, modern(server, "carol") as carol:
        assert listed(bob) == []
        first, second = say(alice, "bob", "one", "two")
        [third] = say(carol, "bob", "three")
        [fourth] = say(alice, "team", "four", type=GROUP_MESSAGE)
        [fifth] = say(bob, "team", "five", type=GROUP_MESSAGE)
        received(bob, 4)
        found = listed(bob)
        assert [list(each) for each in found] == [
            ["person", "last", "unread", "read"], ["person", "last", "unread", "read"],
            ["groupName", "last", "unread", "read"],
        ]  # fmt: skip
        assert found[0]["last"] == {
            "sender": "alice", "content": "two", "time": 1, "id": second, "stored": second >> 10,
        }  # fmt: skip
        assert [each["last"]["id"] for each in found] == [second, third, fifth]
        assert counts(bob) == {"alice": (2, 0), "carol": (1, 0), "#team": (1, 0)}
        read(bob, first, person="alice")
        read(bob, fourth, groupName="team")
        assert counts(bob) == {"alice": (1, first), "carol": (1, 0), "#team": (0, fourth)}
        assert counts(alice) == {"bob": (0, 0), "#team": (1, 0)}
        assert counts(carol) == {"bob": (0, 0), "#team": (2, 0)}
        [sixth] = say(alice, "alice", "a note")
        assert counts(alice)["alice"] == (0, 0)
        read(alice, sixth, person="alice")
        assert counts(alice)["alice"] == (0, sixth)
    with modern(server, "dan") as dan:
        assert listed(dan) == []


def test_a_pointer_only_moves_forward_and_survives(start_server: StartServer, database_url: str) -> None:
    """Across sessions, and a restart of the server."""
    server = prepare(start_server(database=database_url, classic_gap=0))
    with modern(server, "alice") as alice, modern(server, "bob") as bob:
        first, second, third = say(alice, "bob", "one", "two", "three")
        received(bob, 3)
        read(bob, second, person="alice")
        read(bob, first, person="alice")
        assert counts(bob) == {"alice": (1, second)}
        wait_until(lambda: not len(server.store.read_pointers))
        read(bob, first, person="alice")
        assert counts(bob) == {"alice": (1, second)}
        read(bob, third, person="alice")
        assert counts(bob) == {"alice": (0, third)}
    server.stop()
    server = start_server(database=database_url, classic_gap=0)
    with modern(server, "bob") as bob:
        assert counts(bob) == {"alice": (0, third)}
        read(bob, second, person="alice")
        assert counts(bob) == {"alice": (0, third)}


def test_what_is_not_true_changes_nothing(server: JellyServer) -> None:
    """Only a message of the conversation can be read, by somebody in it."""
    with modern(server, "alice") as alice, modern(server, "bob") as bob, modern(server, "dan") as dan:
        [to_bob] = say(alice, "bob", "one")
        [to_team] = say(alice, "team", "two", type=GROUP_MESSAGE)
        [to_dan] = say(alice, "dan", "three")
        received(bob, 2)
        for id in (to_team, to_dan, to_dan + 1, 2**53, 0, -1):
            read(bob, id, person="alice")
            assert counts(bob)["alice"] == (1, 0)
            wait_until(lambda: not len(server.store.read_pointers))
        for where in ({"person": "carol"}, {"person": "nobody"}, {"person": "x" * 1000}, {"groupName": "alice"}):
            read(bob, to_bob, **where)
        read(bob, to_bob, groupName="team")
        read(dan, to_team, groupName="team")
        read(dan, to_bob, person="alice")
        assert counts(bob) == {"alice": (1, 0), "#team": (1, 0)}
        assert counts(dan) == {"alice": (1, 0)}
        wait_until(lambda: not len(server.store.read_pointers))
        assert counts(bob) == {"alice": (1, 0), "#team": (1, 0)}
        assert counts(dan) == {"alice": (1, 0)}


def test_nothing_beyond_what_was_sent(sqlite: JellyServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """What still waits for a user is neither in the list nor can it be read."""
    monkeypatch.setattr(sessions, "MAX_UNACKNOWLEDGED", 0)
    with modern(sqlite, "alice") as alice, modern(sqlite, "bob") as bob:
        [first] = say(alice, "bob", "one")
        assert bob.receive_notice().values["id"] == first
        second, third = say(alice, "bob", "two", "three")
        for wait in (False, True):
            read(bob, second, person="alice")
            if wait:
                wait_until(lambda: not len(sqlite.store.read_pointers))
            [found] = listed(bob)
            assert (found["last"]["id"], found["unread"], found["read"]) == (first, 1, 0)
        read(bob, first, person="alice")
        bob.ack(first)
        assert [bob.receive_notice().values["id"] for _ in range(2)] == [second, third]
        assert counts(bob) == {"alice": (2, first)}
        read(bob, second, person="alice")
        assert counts(bob) == {"alice": (1, second)}


def test_what_was_delivered_before(sqlite: JellyServer) -> None:
    """On a new connection, what was acknowledged on an earlier one can be read, too."""
    with modern(sqlite, "alice") as alice:
        _, second = say(alice, "bob", "one", "two")
    with modern(sqlite, "bob") as bob:
        received(bob, 2)
    with modern(sqlite, "bob") as bob:
        assert counts(bob) == {"alice": (2, 0)}
        read(bob, second, person="alice")
        assert counts(bob) == {"alice": (0, second)}


def test_groups_come_and_go(server: JellyServer) -> None:
    """What was written before somebody was a member does not count, nor after."""
    with modern(server, "alice") as alice, modern(server, "dan") as dan, modern(server, "bob") as bob:
        say(alice, "team", "before", type=GROUP_MESSAGE)
        alice.ok(ADD_MEMBER, groupName="team", member="dan")
        assert listed(dan) == []
        [id] = say(alice, "team", "after", type=GROUP_MESSAGE)
        received(dan, 1)
        received(bob, 2)
        assert (counts(dan), counts(bob)) == ({"#team": (1, 0)}, {"#team": (2, 0)})
        read(dan, id, groupName="team")
        assert counts(dan) == {"#team": (0, id)}
        alice.ok(REMOVE_MEMBER, groupName="team", member="dan")
        assert listed(dan) == []
        read(dan, id, groupName="team")
        assert listed(dan) == []
        alice.ok(DISBAND_GROUP, groupName="team")
        assert listed(bob) == []


def test_page_by_page(server: JellyServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is missing at the ends of pages, nor there twice."""
    names = [f"user{number}" for number in range(7)]
    register(server.port, *names)
    with modern(server, "alice") as alice, modern(server, "bob") as bob:
        for number, name in enumerate(names):
            say(bob, name, "hello")
            bob.ok(CREATE_GROUP, groupName=f"g{number}")
            if number % 2:
                say(bob, f"g{number}", "hello", type=GROUP_MESSAGE)
        expected = [*names, "#g1", "#g3", "#g5"]
        for page in range(1, 20):
            monkeypatch.setattr(conversation_service, "PAGE", page)
            assert list(counts(bob)) == expected
        assert listed(alice) == []


def test_numbers_and_texts_have_limits(server: JellyServer) -> None:
    """Unread messages are counted up to a limit, and a long text is cut."""
    with modern(server, "alice") as alice, modern(server, "bob") as bob:
        for number in range(MAX_UNREAD + 5):
            alice.send_message("bob", f"{number}")
        for _ in range(MAX_UNREAD + 5):
            alice.receive_response()
        [last] = say(alice, "bob", "天" * 1000)
        ids = received(bob, MAX_UNREAD + 6)
        assert counts(bob) == {"alice": (MAX_UNREAD, 0)}
        assert listed(bob)[0]["last"]["content"] == "天" * PREVIEW
        read(bob, ids[3], person="alice")
        assert counts(bob) == {"alice": (MAX_UNREAD, ids[3])}
        read(bob, ids[9], person="alice")
        assert counts(bob) == {"alice": (MAX_UNREAD - 4, ids[9])}
        read(bob, last, person="alice")
        say(bob, "alice", *map(str, range(3)))
        assert counts(bob) == {"alice": (0, last)}


@pytest.mark.parametrize("features", [None, [], ["ack", "ids"]])
def test_without_the_feature(sqlite: JellyServer, features: list[str] | None) -> None:
    """For a classic client, and for one that did not ask for it, the types do not exist."""
    with logged_in(sqlite.port, "alice", features=features) as alice:
        assert alice.refused(CONVERSATIONS) == "unknown_type"
        assert alice.refused(READ, id=1, person="bob") == "unknown_type"


def test_without_history(start_server: StartServer) -> None:
    """A server that keeps no delivered messages does not grant it."""
    server = start_server(history_days=0, classic_gap=0)
    register(server.port, "alice", "bob")
    with Wire(server.port) as alice:
        assert alice.login("alice", features=MODERN).values["features"] == ["ack", "ids"]
        assert alice.refused(CONVERSATIONS) == "unknown_type"


@pytest.mark.parametrize(
    ("type", "asked"),
    [
        (READ, {"id": 1}),
        (READ, {"id": 1, "person": "bob", "groupName": "team"}),
        (READ, {"id": "1", "person": "bob"}),
        (READ, {"person": "bob"}),
        (READ, {"id": 2**63, "person": "bob"}),
        (CONVERSATIONS, {"after": "x"}),
        (CONVERSATIONS, {"after": 1}),
    ],
)
def test_what_is_malformed(sqlite: JellyServer, type: int, asked: dict[str, Any]) -> None:
    """A clear error; and what follows is served."""
    with modern(sqlite, "alice") as alice:
        assert alice.refused(type, **asked) == "malformed_body"
        assert listed(alice) == []


def test_a_read_that_comes_with_the_login(sqlite: JellyServer) -> None:
    """It counts, and is not answered; before a login it gets an error."""
    with modern(sqlite, "alice") as alice, modern(sqlite, "bob") as bob:
        [id] = say(alice, "bob", "one")
        received(bob, 1)
    with Wire(sqlite.port) as bob:
        login = pack(LOGIN, to_json({"username": "bob", "password": PASSWORD, "features": MODERN}))
        bob.send(login + pack(READ, to_json({"id": id, "person": "alice"})))
        assert bob.receive_response().type == LOGIN
        bob.user = "bob"
        assert counts(bob) == {"alice": (0, id)}
    with Wire(sqlite.port) as stranger:
        assert stranger.refused(READ, id=1, person="alice") == "not_logged_in"


def test_others_are_served_while_many_read(sqlite: JellyServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """At most some pointers are moved in one transaction."""
    monkeypatch.setattr(read_pointers, "READ_BATCH", 2)
    names = [f"user{number}" for number in range(7)]
    register(sqlite.port, *names)
    with modern(sqlite, "bob") as bob:
        ids = [say(bob, name, "hello")[0] for name in names]
        for name, id in zip(names, ids, strict=True):
            read(bob, id, person=name)
        assert counts(bob) == {name: (0, id) for name, id in zip(names, ids, strict=True)}
        wait_until(lambda: not len(sqlite.store.read_pointers))
        assert counts(bob) == {name: (0, id) for name, id in zip(names, ids, strict=True)}


def test_through_another_node(start_server: StartServer, mariadb: PrivateMariaDB) -> None:
    """What was read at one node is known at another one."""
    database = ready_database(mariadb, "jelly_test")
    first, second = (start_server(database=database, cluster="none", classic_gap=0) for _ in range(2))
    prepare(first)
    with modern(first, "alice") as alice, modern(second, "bob") as bob:
        one, two = say(alice, "bob", "one", "two")
        received(bob, 2)
        read(bob, one, person="alice")
        assert counts(bob) == {"alice": (1, one)}
        wait_until(lambda: not len(second.store.read_pointers))
    with modern(first, "bob") as bob:
        assert counts(bob) == {"alice": (1, one)}
        read(bob, two, person="alice")
        assert counts(bob) == {"alice": (0, two)}


def test_the_library(sqlite: JellyServer, new_client: NewClient, monkeypatch: pytest.MonkeyPatch) -> None:
    """`conversations` gathers all pages, and `mark_read` says what was read."""
    monkeypatch.setattr(conversation_service, "PAGE", 1)
    recorder = Recorder()
    alice, bob, carol = new_client(sqlite.port), new_client(sqlite.port, recorder), new_client(sqlite.port)
    for name, client in (("alice", alice), ("bob", bob), ("carol", carol)):
        result(client.login(name, PASSWORD))
    assert result(bob.conversations()) == ()
    result(carol.send_message("bob", "hello"))
    first = result(alice.send_group_message("team", "one"))
    second = result(alice.send_message("bob", "two"))
    events = recorder.wait_for(lambda event: isinstance(event, MessageEvent), 2)
    recorder.wait_for(lambda event: getattr(event, "group", "") == "team")
    found = result(bob.conversations())
    assert [(each.name, each.is_group, each.unread, each.read) for each in found] == [
        ("alice", False, 1, 0), ("team", True, 1, 0), ("carol", False, 1, 0),
    ]  # fmt: skip
    assert found[0].last == LastMessage(second.id or 0, "alice", "two", second.time, second.stored)
    assert bob.mark_read("alice", events[1].id)
    assert bob.mark_group_read("team", first.id or 0)
    assert [each.unread for each in result(bob.conversations())] == [0, 0, 1]
    assert not bob.mark_read("\ud800", 1)
    result(bob.logout())
    assert not bob.mark_read("alice", events[1].id)
    classic = new_client(sqlite.port, features=("ack", "pages"))
    result(classic.login("bob", PASSWORD))
    assert not classic.mark_read("alice", events[1].id)
    with pytest.raises(RequestRejected, match="does not support"):
        result(classic.conversations())


class Noting:
    """Read pointers over a database, with bob's session; messages of alice to bob."""

    def __init__(self, dao: Dao) -> None:
        self.dao, self.clock = dao, Clock()
        self.pointers = ReadPointers(self.clock)
        self.woken = 0
        self.pointers.wake = self.wake
        self.session = Session(None, "")  # type: ignore[arg-type]
        self.session.user = "bob"

    def wake(self) -> None:
        self.woken += 1

    def note(self, id: int, partner: str = "alice") -> None:
        self.session.sent_id = max(self.session.sent_id, id)
        self.pointers.note(self.session, False, partner, id)

    def stored(self) -> dict[str, int]:
        rows = self.dao.connection.query("SELECT partner, message_id FROM read_pointers WHERE message_id > 0")
        return dict(rows)


@pytest.fixture
def noting(dao: Dao) -> Noting:
    for id in range(1, 200):
        sender = "alice" if id < 100 else f"user{id}"
        dao.connection.execute(
            "INSERT INTO messages (id, is_group, sender, receiver, content, time) VALUES (?, 0, ?, 'bob', 'x', 1)",
            (id, sender),
        )
    return Noting(dao)


def test_the_last_word_is_written_a_moment_later(noting: Noting) -> None:
    """Of all that is said in between, the furthest is written once, and the store is woken once."""
    pointers = noting.pointers
    for id in (3, 5, 4):
        noting.note(id)
    assert noting.woken == 1
    pointers.run_due(noting.dao)
    assert noting.stored() == {}
    noting.clock.now += read_pointers.READ_DELAY
    with noting.dao.connection.transaction():
        pointers.run_due(noting.dao)
    assert pointers.noted_of("bob")[ConversationKey("bob", False, "alice")].id == 5
    assert pointers.on_commit() == {ConversationKey("bob", False, "alice"): 5}
    assert (noting.stored(), len(pointers), pointers.due_at) == ({"alice": 5}, 0, float("inf"))


def test_a_transaction_that_fails_loses_nothing(noting: Noting) -> None:
    """What it would have written is written by a later one, and what was said meanwhile, too."""
    pointers = noting.pointers
    noting.note(3)
    noting.clock.now += 1
    pointers.run_due(noting.dao)
    pointers.on_failure()
    noting.dao.connection.execute("DELETE FROM read_pointers")
    assert pointers.on_commit() == {}
    noting.clock.now += 10
    pointers.run_due(noting.dao)
    noting.note(7)
    assert list(pointers.on_commit().values()) == [3]
    assert len(pointers) == 1
    noting.clock.now += 10
    pointers.run_due(noting.dao)
    assert list(pointers.on_commit().values()) == [7]
    assert (noting.stored(), len(pointers)) == ({"alice": 7}, 0)


def test_there_are_limits(noting: Noting) -> None:
    """A user cannot fill the memory, and no transaction takes long."""
    pointers = noting.pointers
    for number in range(MAX_NOTED_OF_USER + 10):
        noting.note(100 + number % 50, f"user{100 + number}")
    assert len(pointers) == MAX_NOTED_OF_USER
    noting.clock.now += 1
    pointers.run_due(noting.dao)
    assert len(pointers.written) == READ_BATCH
    noting.session.user = "carol"
    noting.note(5)
    pointers.on_commit()
    assert len(pointers) == MAX_NOTED_OF_USER - READ_BATCH + 1
    pointers.run_due(noting.dao)
    assert "carol" in {key.username for key in pointers.written}  # who does not wait for all of bob's
    pointers.on_commit()
    assert pointers.due_at <= noting.clock.now
    pointers.forget_all()
    assert (len(pointers), pointers.due_at) == (0, float("inf"))
