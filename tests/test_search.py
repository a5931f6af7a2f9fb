"""SEARCH: the messages of one's own conversations that contain a text."""

import itertools
import threading
from typing import Any

import pytest
from client_tools import NewClient, result
from harness import StartServer
from indexed import indexed_server, say, server_on_sqlite
from wire import (
    ADD_MEMBER,
    CREATE_GROUP,
    DISBAND_GROUP,
    GROUP_MESSAGE,
    HISTORY,
    REMOVE_MEMBER,
    SEARCH,
    Wire,
    logged_in,
    register,
)

from client_api import History, PastMessage, RequestRejected
from faults.mariadb import PrivateMariaDB
from jelly import finding_service, indexing
from jelly.dao import StoredMessage
from jelly.engine import Engine
from jelly.finding_service import FOUND_CHARACTERS, MATCHES_PER_QUERY, MAX_FOUND, MAX_SEARCHED_TEXT
from jelly.server import JellyServer

MODERN = ["ack", "search"]

server = pytest.fixture(params=["unindexed", "indexed", "half"])(indexed_server)
sqlite = pytest.fixture(server_on_sqlite)


def modern(server: JellyServer, user: str) -> Wire:
    return logged_in(server.port, user, features=MODERN)


def found(wire: Wire, text: str, **asked: Any) -> list[str]:
    """What the messages say that a search finds, in as many answers as the server makes of it."""
    contents: list[str] = []
    while True:
        values = wire.ok(SEARCH, text=text, **asked)
        assert list(values) == ["username", "messages", "more", *(["before"] if values["more"] else [])]
        ids = [message["id"] for message in values["messages"]]
        assert ids == sorted(set(ids))
        assert all(id < asked.get("before", 2**62) for id in ids)
        contents = [message["content"] for message in values["messages"]] + contents
        if not values["more"]:
            return contents
        assert all(id >= values["before"] for id in ids)
        assert values["before"] < asked.get("before", 2**62)
        asked["before"] = values["before"]


def test_a_word(server: JellyServer) -> None:
    """In one conversation, in a group, or in all that one has; and in nobody else's."""
    with modern(server, "alice") as alice, modern(server, "bob") as bob, modern(server, "carol") as carol:
        alice.ok(CREATE_GROUP, groupName="team")
        alice.ok(ADD_MEMBER, groupName="team", member="bob")
        for number in range(0, 12, 3):
            say(alice, "bob", f"the plan {number}", "no")
            say(bob, "alice", f"plan {number + 1}")
            say(bob, "team", f"PLAN {number + 2}", type=GROUP_MESSAGE)
            say(carol, "bob", f"secret plan {number}")
        pair = [f"the plan {n}" if n % 3 == 0 else f"plan {n}" for n in range(12) if n % 3 < 2]
        team = [f"PLAN {n}" for n in range(2, 12, 3)]
        everything = [f"{('the plan', 'plan', 'PLAN')[n % 3]} {n}" for n in range(12)]
        assert found(alice, "plan", person="bob") == found(bob, "Plan", person="alice") == pair
        assert found(alice, "plan", groupName="team") == team
        assert found(alice, "plan") == everything
        assert found(alice, "plan", person="carol") == []
        assert found(carol, "plan") == [f"secret plan {n}" for n in range(0, 12, 3)]
        assert found(carol, "plan", person="alice") == []
        assert carol.refused(SEARCH, text="plan", groupName="team") == "not_a_member"
        assert found(alice, "nothing of that kind") == []
        say(alice, "alice", "a plan of my own")
        assert found(alice, "plan", person="alice") == ["a plan of my own"]


@pytest.mark.parametrize(
    ("text", "said", "others"),
    [
        ("天气", "今天天气很好", "今日气温很高"),
        ("100%", "at 100% now", "at 100 now"),
        ("a_b", "call a_b", "call axb"),
        ("!%", "what!%", "what!x"),
        ("wow!", "wow!", "wow"),
        ("\\n", "a \\n in it", "a n in it"),
        ("it's", 'it\'s "so"', "its so"),
        ("?", "really?", "really"),
        ("ÄPFEL", "Äpfel", "Apfel"),
        ("привет", "ПРИВЕТ", "прив"),
        ("👋", "Grüße 👋", "Grüße 🌍"),
        ("two words", "Two Words here", "two  words"),
    ],
)
def test_which_texts_are_found(server: JellyServer, text: str, said: str, others: str) -> None:
    """Character by character, in capital and small letters; nothing stands for anything else."""
    with modern(server, "alice") as alice:
        say(alice, "bob", others, said, others)
        assert found(alice, text) == found(alice, text, person="bob") == [said]


def test_answers_are_those_of_history(sqlite: JellyServer) -> None:
    """A message has the keys of a page of HISTORY, and with `ids` the time when it was stored."""
    with modern(sqlite, "alice") as alice:
        say(alice, "bob", "x")
        page = alice.ok(HISTORY, person="bob")
        assert alice.ok(SEARCH, text="x", person="bob") == page
        assert list(page["messages"][0])[-1] == "id"
    with logged_in(sqlite.port, "alice", features=["search", "ids", "ack"]) as alice:
        assert alice.ok(SEARCH, text="x") == alice.ok(HISTORY, person="bob")
        assert "stored" in alice.ok(SEARCH, text="x")["messages"][0]


def test_page_by_page(server: JellyServer) -> None:
    """With `before` each answer ends where the last one began; no message is twice or missing."""
    with modern(server, "alice") as alice:
        for number in range(45):
            say(alice, "bob", f"yes {number}", "other")
        expected = [f"yes {number}" for number in range(45)]
        for limit, asked in itertools.product((1, 7, 20, 44, 45, 46), ({}, {"person": "bob"})):
            assert found(alice, "yes", limit=limit, **asked) == expected
        assert [m["content"] for m in alice.ok(SEARCH, text="YES", limit=2)["messages"]] == expected[-2:]


def test_limits(sqlite: JellyServer) -> None:
    """An answer has 50 messages by default and at most 100, and about 128 KiB."""
    with modern(sqlite, "alice") as alice:
        say(alice, "bob", *(f"n {number}" for number in range(MAX_FOUND + 1)))
        assert len(alice.ok(SEARCH, text="n")["messages"]) == 50
        assert len(alice.ok(SEARCH, text="n", limit=2**62)["messages"]) == MAX_FOUND
        large = [f"large {number} {'x' * 30_000}" for number in range(MATCHES_PER_QUERY + 3)]
        say(alice, "bob", *large)
        values = alice.ok(SEARCH, text="large", limit=100)
        assert 1 <= len(values["messages"]) <= FOUND_CHARACTERS // 30_000
        assert found(alice, "large", limit=100) == large
        assert found(alice, "n", before=0) == found(alice, "n", before=-(2**63)) == []


@pytest.mark.parametrize(
    ("asked", "code"),
    [
        ({}, "malformed_body"),
        ({"text": ""}, "malformed_body"),
        ({"text": " \n"}, "malformed_body"),
        ({"text": "a\0b"}, "malformed_body"),
        ({"text": "x" * (MAX_SEARCHED_TEXT + 1)}, "malformed_body"),
        ({"text": 1}, "malformed_body"),
        ({"text": "x", "limit": 0}, "malformed_body"),
        ({"text": "x", "person": "bob", "groupName": "others"}, "malformed_body"),
        ({"text": "x", "before": "1"}, "malformed_body"),
        ({"text": "x", "person": "nobody"}, "no_such_user"),
        ({"text": "x", "groupName": "nothing"}, "no_such_group"),
        ({"text": "x", "groupName": "others"}, "not_a_member"),
        ({"text": "x", "username": "bob"}, "not_yourself"),
    ],
)
def test_what_is_refused(sqlite: JellyServer, asked: dict[str, Any], code: str) -> None:
    """Each error has its code, and the connection stays."""
    with modern(sqlite, "bob") as bob, modern(sqlite, "alice") as alice:
        bob.ok(CREATE_GROUP, groupName="others")
        assert alice.refused(SEARCH, **asked) == code
        assert found(alice, "x" * MAX_SEARCHED_TEXT) == []


@pytest.mark.parametrize("features", [None, [], ["ack", "pages", "ids"]])
def test_without_the_feature_there_is_no_search(sqlite: JellyServer, features: list[str] | None) -> None:
    """For a classic client, and for one that was not granted it, the type does not exist."""
    with logged_in(sqlite.port, "alice", features=features) as alice:
        assert alice.refused(SEARCH, text="x") == "unknown_type"
        assert alice.refused(SEARCH) == "unknown_type"


def test_groups(server: JellyServer) -> None:
    """Members find what was written since they joined; those who are out find nothing."""
    with modern(server, "alice") as alice, modern(server, "bob") as bob:
        alice.ok(CREATE_GROUP, groupName="team")
        say(alice, "team", "word 1", type=GROUP_MESSAGE)
        assert found(bob, "word") == []
        alice.ok(ADD_MEMBER, groupName="team", member="bob")
        say(alice, "team", "word 2", type=GROUP_MESSAGE)
        say(bob, "team", "word 3", type=GROUP_MESSAGE)
        assert found(alice, "word") == ["word 1", "word 2", "word 3"]
        assert found(bob, "word") == found(bob, "word", groupName="team") == ["word 2", "word 3"]
        alice.ok(REMOVE_MEMBER, groupName="team", member="bob")
        assert found(bob, "word") == []
        assert bob.refused(SEARCH, text="word", groupName="team") == "not_a_member"
        alice.ok(DISBAND_GROUP, groupName="team")
        bob.ok(CREATE_GROUP, groupName="team")
        assert found(bob, "word") == found(bob, "word", groupName="team") == []


def test_what_is_still_to_be_delivered(server: JellyServer) -> None:
    """A message comes by notice or is found, not both: a search leaves out unsent messages."""
    with modern(server, "alice") as alice:
        say(alice, "bob", "word 1", "word 2")
        assert found(alice, "word") == ["word 1", "word 2"]
        with modern(server, "bob") as bob:
            assert bob.contents(2) == ["word 1", "word 2"]
            assert found(bob, "word") == ["word 1", "word 2"]
            session = server.sessions.get("bob")
            assert session is not None
            session.sent_id -= 1  # as if the second were still to be sent
            assert found(bob, "word") == found(bob, "word", person="alice") == ["word 1"]


def test_without_history(start_server: StartServer) -> None:
    """Where the operator keeps no history, nothing is found."""
    server = start_server(history_days=0, classic_gap=0)
    register(server.port, "alice", "bob")
    with modern(server, "alice") as alice:
        say(alice, "bob", "x")
        assert found(alice, "x") == []


def fill(server: JellyServer, count: int) -> None:
    """Store this many messages between alice and bob at once; one in 5,000 has the word."""
    database = server.store._dao
    for start in range(0, count, 1000):
        with database.connection.transaction():
            database.move_mark(1000)
            some = [
                StoredMessage(
                    database.allocate_id(), False, "alice", "bob", f"{'needle' if n % 5000 == 0 else 'hay'} {n} " * 5, 1
                )
                for n in range(start, start + 1000)
            ]
            database.add_messages(some, [])
        database.mark = database.new_mark
        with database.connection.transaction():
            database.index_messages(some[0].id - 1, 1000, True)


def test_a_request_does_bounded_work(
    start_server: StartServer, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It looks at 20,000 rows at most, in pieces of 1,000 at most, and then says where to go on."""
    monkeypatch.setattr(finding_service, "MAX_SEARCHED_ROWS", 2000)
    monkeypatch.setattr(indexing, "INDEX_DELAY", 1000.0)
    server = start_server(database=database_url, classic_gap=0)
    register(server.port, "alice", "bob")
    fill(server, 6000)
    with modern(server, "alice") as alice:
        for asked in ({}, {"person": "bob"}):
            first = alice.ok(SEARCH, text="needle", **asked)
            assert (len(first["messages"]), first["more"]) == (1, True)
            nothing = alice.ok(SEARCH, text="needle", before=first["before"], **asked)
            assert (nothing["messages"], nothing["more"]) == ([], True)
            assert len(found(alice, "needle", **asked)) == 2


def test_a_text_that_nearly_matches_everywhere(
    start_server: StartServer, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody can write a message and then search it so that the query takes longer than the server
    waits for one: it would take the database for broken, for all. (It waits a quarter as long here.
    MariaDB needs a fifth of that.)
    """
    size = 8_000_000
    server = start_server(database=database_url, classic_gap=0, max_body=size + 1000)
    register(server.port, "alice", "bob")
    with modern(server, "alice") as alice:
        alice.message("bob", "a" * size)
        alice.message("bob", "A" * 60_000 + "B")
    server.stop()
    monkeypatch.setattr(Engine, "query_timeout", 1.0)
    server = start_server(database=database_url, classic_gap=0, max_body=size + 1000)
    with modern(server, "alice") as alice:
        for asked in ({}, {"person": "bob"}):
            assert found(alice, "a" * 99 + "c", **asked) == []
            assert found(alice, "a" * 99 + "b", **asked) == ["A" * 60_000 + "B"]


def test_others_are_served_meanwhile(
    start_server: StartServer, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between two pieces of a search, the requests of others are answered."""
    server = start_server(database=database_url, classic_gap=0, workers=2)
    register(server.port, "alice", "bob", "carol")
    fill(server, 2000)
    between, gone_on = threading.Event(), threading.Event()
    look = finding_service._Walk.look_at_piece
    pieces = itertools.count()

    def look_and_wait(walk: Any, dao: Any) -> bool:
        if next(pieces) == 1:
            between.set()
            assert gone_on.wait(10)  # this worker is in a query, as the server sees it
        return look(walk, dao)

    monkeypatch.setattr(finding_service._Walk, "look_at_piece", look_and_wait)
    with modern(server, "alice") as alice, modern(server, "carol") as carol:
        alice.send_request(SEARCH, text="needle")
        assert between.wait(10)
        say(carol, "bob", "hello")
        gone_on.set()
        assert len(alice.receive_response().values["messages"]) == 1
        assert next(pieces) > 3


def test_through_another_node(start_server: StartServer, mariadb: PrivateMariaDB) -> None:
    """What was stored at one node is found at another one."""
    from harness import ready_database

    database = ready_database(mariadb, "jelly_test")
    first, second = (start_server(database=database, cluster="none", classic_gap=0) for _ in range(2))
    register(first.port, "alice", "bob")
    with modern(first, "alice") as alice:
        say(alice, "bob", "word 1", "word 2")
    with modern(second, "bob") as bob:
        assert bob.contents(2) == ["word 1", "word 2"]
        assert found(bob, "word") == found(bob, "word", person="alice") == ["word 1", "word 2"]


def test_the_library(sqlite: JellyServer, new_client: NewClient) -> None:
    """`search` gives a page as `history` does, and where to go on."""
    alice = new_client(sqlite.port)
    result(alice.login("alice", "pw"))
    for number in range(3):
        result(alice.send_message("bob", f"word {number}"))
    page = result(alice.search("word", limit=2))
    assert isinstance(page, History)
    assert [m.content for m in page.messages] == ["word 1", "word 2"]
    assert isinstance(page.messages[0], PastMessage)
    assert page.more
    rest = result(alice.search("word", person="bob", before=page.before))
    assert [m.content for m in rest.messages] == ["word 0"]
    assert (rest.more, rest.before) == (False, None)
    classic = new_client(sqlite.port, features=("ack",))
    result(classic.login("bob", "pw"))
    with pytest.raises(RequestRejected, match="does not support"):
        result(classic.search("word"))
