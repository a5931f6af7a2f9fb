"""EDIT: an author changes the text of a message, or recalls it, for a quarter of an hour."""

import json
import time
from collections.abc import Iterator
from typing import Any

import pytest
from harness import StartServer, ready_database
from wire import (
    ADD_MEMBER,
    BLOCK,
    CONVERSATIONS,
    CREATE_GROUP,
    EDIT,
    GROUP_MESSAGE,
    HISTORY,
    LOGIN,
    NOTICE,
    PERSON_MESSAGE,
    READ,
    REMOVE_MEMBER,
    REPORT,
    SEARCH,
    SUCCESS,
    Reply,
    Wire,
    logged_in,
    register,
    wait_until,
)

from faults.mariadb import PrivateMariaDB
from jelly import delivery, indexing
from jelly.database import DatabaseConnection
from jelly.engines import open_engine
from jelly.export import export_account
from jelly.server import JellyServer

ALL = ["ack", "ids", "edit"]
WITHOUT = ["ack", "ids"]
MINUTE = 60.0


@pytest.fixture(params=["indexed", "unindexed"])
def server(
    request: pytest.FixtureRequest, start_server: StartServer, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> JellyServer:
    """A server with four users, on each database. Messages are indexed at once, or not during the
    test.
    """
    monkeypatch.setattr(indexing, "INDEX_DELAY", 0.0 if request.param == "indexed" else 1000.0)
    server = start_server(database=database_url, classic_gap=0)
    register(server.port, "alice", "bob", "carol", "dan")
    return server


@pytest.fixture
def sqlite(start_server: StartServer) -> JellyServer:
    server = start_server(classic_gap=0)
    register(server.port, "alice", "bob", "carol", "dan")
    return server


@pytest.fixture
def alice(sqlite: JellyServer) -> Iterator[Wire]:
    with modern(sqlite, "alice") as wire:
        yield wire


def modern(server: JellyServer, user: str, features: list[str] | None = None) -> Wire:
    return logged_in(server.port, user, features=ALL if features is None else features)


def say(wire: Wire, to: str, content: str, type: int = PERSON_MESSAGE) -> int:
    """Send a message; return its id."""
    return int(wire.ok(type, receiver=to, content=content, time=1)["id"])


def edit(wire: Wire, id: int, content: str, **more: Any) -> int:
    """Edit a message; return the id of the edit."""
    return int(wire.ok(EDIT, id=id, content=content, **more)["id"])


def seen(reply: Reply) -> tuple[str, int | None]:
    """What a notice of a message says, and what it replaces."""
    assert reply.sign == NOTICE
    return reply.values["content"], reply.values.get("replaces")


def past(wire: Wire, **asked: Any) -> list[tuple[str, int | None]]:
    """What a page of history says, and by which edit."""
    return [(entry["content"], entry.get("edited")) for entry in wire.ok(HISTORY, **asked)["messages"]]


def database(server: JellyServer) -> DatabaseConnection:
    """A connection to look at the server's database."""
    return DatabaseConnection(open_engine(server.settings.database))


def rows(server: JellyServer, sql: str) -> list[Any]:
    connection = database(server)
    try:
        return connection.query(sql)
    finally:
        connection.close()


def inbox(server: JellyServer, user: str) -> list[int]:
    """The ids that wait for a user."""
    return [id for (id,) in rows(server, f"SELECT message_id FROM inbox WHERE receiver = '{user}' ORDER BY message_id")]


def pass_time(server: JellyServer, monkeypatch: pytest.MonkeyPatch, seconds: float) -> None:
    """From now on the server's clock is ahead."""
    clock = server.store._dao._clock
    assert clock is not None
    monkeypatch.setattr(clock, "_wall", lambda: time.time() + seconds)


# --- who is online --------------------------------------------------------------------------------


def test_an_edit_reaches_who_has_the_message(server: JellyServer) -> None:
    """It is a message of its own id, with the time of the original, and says what it replaces."""
    with modern(server, "alice") as alice, modern(server, "bob") as bob:
        original = say(alice, "bob", "helo")
        assert seen(bob.receive_notice()) == ("helo", None)
        answer = alice.ok(EDIT, id=original, content="hello")
        assert list(answer) == ["id", "stored"]
        assert answer["id"] > original
        notice = bob.receive_notice()
        assert notice.type == PERSON_MESSAGE
        assert notice.values == {
            "sender": "alice", "receiver": "bob", "content": "hello", "time": 1,
            "id": answer["id"], "stored": answer["stored"], "replaces": original,
        }  # fmt: skip
        bob.ack(answer["id"])
        wait_until(lambda: inbox(server, "bob") == [])
        assert past(alice, person="bob") == past(bob, person="alice") == [("hello", answer["id"])]


def test_in_a_group(server: JellyServer) -> None:
    """All other members get it, but not one who came after the message."""
    with modern(server, "alice") as alice, modern(server, "bob") as bob, modern(server, "carol") as carol:
        alice.ok(CREATE_GROUP, groupName="team")
        alice.ok(ADD_MEMBER, groupName="team", member="bob")
        original = say(alice, "team", "one", GROUP_MESSAGE)
        alice.ok(ADD_MEMBER, groupName="team", member="carol")
        edited = edit(alice, original, "two")
        later = say(alice, "team", "three", GROUP_MESSAGE)
        notices = [reply for reply in (bob.receive_notice() for _ in range(5)) if reply.type == GROUP_MESSAGE]
        assert [seen(reply) for reply in notices] == [("one", None), ("two", original), ("three", None)]
        while (notice := carol.receive_notice()).type != GROUP_MESSAGE:
            pass
        assert seen(notice) == ("three", None)
        assert notice.values["id"] == later
        assert past(carol, groupName="team") == [("three", None)]
        assert past(bob, groupName="team") == [("two", edited), ("three", None)]


def test_to_oneself(alice: Wire) -> None:
    """A note can be edited, too."""
    original = say(alice, "alice", "milk")
    edit(alice, original, "milk, bread")
    assert [seen(alice.receive_notice()) for _ in range(2)] == [("milk", None), ("milk, bread", original)]


def test_an_edit_of_an_edit(server: JellyServer) -> None:
    """It refers to the original, whichever of the two ids the client says."""
    with modern(server, "alice") as alice, modern(server, "bob") as bob:
        original = say(alice, "bob", "a")
        first = edit(alice, original, "b")
        edit(alice, first, "c")
        last = edit(alice, original, "d")
        said = [seen(bob.receive_notice()) for _ in range(4)]
        assert said == [("a", None), ("b", original), ("c", original), ("d", original)]
        assert past(bob, person="alice") == [("d", last)]


def test_only_the_last_edit_waits(server: JellyServer) -> None:
    """Who was sent the message, and is offline, gets the last edit only."""
    with modern(server, "alice") as alice:
        with modern(server, "bob") as bob:
            original = say(alice, "bob", "a")
            bob.ack(bob.receive_notice().values["id"])
            wait_until(lambda: inbox(server, "bob") == [])
        edit(alice, original, "b")
        last = edit(alice, original, "c")
        assert inbox(server, "bob") == [last]
        with modern(server, "bob") as bob:
            assert seen(bob.receive_notice()) == ("c", original)


# --- who was offline ------------------------------------------------------------------------------


def test_who_was_offline_sees_the_edited_text_only(server: JellyServer) -> None:
    """In the place of the original; there is no edit to see, nor a row of one."""
    with modern(server, "alice") as alice:
        original = say(alice, "bob", "helo")
        second = say(alice, "bob", "second")
        edit(alice, original, "hello, bob")
        edit(alice, original, "hello")
        assert inbox(server, "bob") == [original, second]
        assert rows(server, f"SELECT size FROM inbox WHERE message_id = {original}") == [(len("hello"),)]
        with modern(server, "bob") as bob:
            assert [seen(bob.receive_notice()) for _ in range(2)] == [("hello", None), ("second", None)]
            bob.ack(second)
            assert seen_next(alice, bob) == ("end", None)


def seen_next(alice: Wire, bob: Wire) -> tuple[str, int | None]:
    """What Bob gets next, if Alice writes once more."""
    say(alice, bob.user, "end")
    return seen(bob.receive_notice())


def test_a_classic_client_that_was_offline(server: JellyServer) -> None:
    """It sees the edited text, and nothing strange."""
    with modern(server, "alice") as alice:
        original = say(alice, "bob", "helo")
        edit(alice, original, "hello")
        with logged_in(server.port, "bob") as bob:
            assert bob.receive_notice().body == b'{"sender":"alice","receiver":"bob","content":"hello","time":1}'
            say(alice, "bob", "end")
            assert bob.contents(1) == ["end"]


@pytest.mark.parametrize("has_left", [False, True], ids=["online", "gone"])
def test_what_was_sent_keeps_its_text(server: JellyServer, has_left: bool) -> None:
    """A message that was sent and not acknowledged comes again as it was, and then the edit."""
    with modern(server, "alice") as alice:
        bob = modern(server, "bob")
        original = say(alice, "bob", "helo")
        assert seen(bob.receive_notice()) == ("helo", None)
        if has_left:
            bob.close()
            wait_until(lambda: not server.sessions.is_online("bob"))
        first = edit(alice, original, "hello")
        last = edit(alice, original, "hello!")
        bob.close()
        with modern(server, "bob") as bob:
            assert [seen(bob.receive_notice()) for _ in range(2)] == [("helo", None), ("hello!", original)]
            assert past(bob, person="alice") == [("hello!", last)]
            bob.ack(last)
            wait_until(lambda: inbox(server, "bob") == [])
    assert first < last


def test_what_a_window_has_no_room_for_was_not_sent(server: JellyServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """A client that acknowledges nothing is sent no more: what waits for it gets the new text."""
    monkeypatch.setattr("jelly.sessions.MAX_UNACKNOWLEDGED", 3)
    with modern(server, "alice") as alice, modern(server, "bob") as bob:
        ids = [say(alice, "bob", str(number)) for number in range(8)]
        got = [bob.receive_notice() for _ in range(4)]
        assert [seen(reply)[0] for reply in got] == ["0", "1", "2", "3"]
        edit(alice, ids[3], "sent")
        edit(alice, ids[6], "not sent")
        bob.ack(ids[3])
        said = [seen(bob.receive_notice()) for _ in range(3)]
        assert said == [("4", None), ("5", None), ("not sent", None)]
        bob.ack(ids[6])
        assert [seen(bob.receive_notice()) for _ in range(2)] == [("7", None), ("sent", ids[3])]


def test_before_the_server_was_started(start_server: StartServer) -> None:
    """What another process may have sent counts as sent."""
    server = start_server()
    register(server.port, "alice", "bob")
    with modern(server, "alice") as alice:
        original = say(alice, "bob", "helo")
    server.stop()
    server = start_server()
    with modern(server, "alice") as alice, modern(server, "bob") as bob:
        edit(alice, original, "hello")
        assert [seen(bob.receive_notice()) for _ in range(2)] == [("helo", None), ("hello", original)]


def test_more_users_than_are_known(sqlite: JellyServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is not known any more counts as sent."""
    monkeypatch.setattr(delivery, "MAX_KNOWN", 1)
    with modern(sqlite, "alice") as alice, modern(sqlite, "carol") as carol, modern(sqlite, "dan") as dan:
        original = say(alice, "bob", "helo")
        for wire in (carol, dan):
            say(alice, wire.user, "x")
            wire.receive_notice()
        edit(alice, original, "hello")
        with modern(sqlite, "bob") as bob:
            assert [seen(bob.receive_notice()) for _ in range(2)] == [("helo", None), ("hello", original)]


# --- recalled -------------------------------------------------------------------------------------


def test_a_recalled_message(server: JellyServer) -> None:
    """Its text is nowhere any more; who had it is told; it cannot be edited again."""
    with modern(server, "alice") as alice, modern(server, "bob") as bob:
        original = say(alice, "bob", "secret one")
        edit(alice, original, "secret two")
        assert [seen(bob.receive_notice()) for _ in range(2)] == [("secret one", None), ("secret two", original)]
        recalled = edit(alice, original, "")
        assert seen(bob.receive_notice()) == ("", original)
        assert past(bob, person="alice") == [("", recalled)]
        assert inbox(server, "bob") == [recalled]  # what was sent before is not sent again
        for sql in ("SELECT content FROM messages", "SELECT text FROM inbox"):
            assert all("secret" not in (text or "") for (text,) in rows(server, sql))
        for content in ("again", ""):
            assert alice.refused(EDIT, id=original, content=content) == "no_such_message"


def test_recalled_before_anybody_had_it(server: JellyServer) -> None:
    """Then there was nothing, for a classic client, too."""
    with modern(server, "alice") as alice:
        edit(alice, say(alice, "bob", "secret"), "")
        assert inbox(server, "bob") == []
        with logged_in(server.port, "bob") as bob:
            say(alice, "bob", "end")
            assert bob.contents(1) == ["end"]


# --- clients without the feature ------------------------------------------------------------------


@pytest.mark.parametrize("features", [None, [], ["ack"], WITHOUT], ids=["classic", "none", "ack", "ids"])
def test_a_client_without_the_feature(server: JellyServer, features: list[str] | None) -> None:
    """It gets no edit, online or at its next login, and the row goes; HISTORY has the text."""
    with modern(server, "alice") as alice:
        with logged_in(server.port, "bob", features=features) as bob:
            original = say(alice, "bob", "a")
            assert bob.contents(1) == ["a"]
            edited = edit(alice, original, "b")
            wait_until(lambda: edited not in inbox(server, "bob"))
            say(alice, "bob", "c")
            notice = bob.receive_notice()
            assert seen(notice) == ("c", None)
            if features and "ack" in features:
                bob.ack(notice.values["id"])
                assert [text for text, _ in past(bob, person="alice")] == ["b", "c"]
                assert {by for _, by in past(bob, person="alice")} == {None}
            bob.heartbeat()
        wait_until(lambda: not server.sessions.is_online("bob"))
        edited = edit(alice, original, "d")
        last = say(alice, "bob", "e")
        with logged_in(server.port, "bob", features=features) as bob:
            while bob.receive_notice().values["content"] != "e":
                pass
            wait_until(lambda: edited not in inbox(server, "bob"))
            assert last in inbox(server, "bob")


def test_an_inbox_full_of_edits(server: JellyServer) -> None:
    """A client without the feature is not held up by them, and all of them go."""
    with modern(server, "alice") as alice:
        with logged_in(server.port, "bob", features=WITHOUT) as bob:
            ids = [say(alice, "bob", str(number)) for number in range(250)]
            for _ in ids:
                last = bob.receive_notice().values["id"]
            bob.ack(last)
            wait_until(lambda: inbox(server, "bob") == [])
        wait_until(lambda: not server.sessions.is_online("bob"))
        for id in ids:
            edit(alice, id, "new")
        assert len(inbox(server, "bob")) == 250
        with logged_in(server.port, "bob", features=WITHOUT) as bob:
            assert seen_next(alice, bob) == ("end", None)
            wait_until(lambda: len(inbox(server, "bob")) == 1)


def test_search_finds_the_last_text(server: JellyServer) -> None:
    """Not what was there before; a recalled text nowhere."""
    with modern(server, "alice", [*ALL, "search"]) as alice:
        original, other = say(alice, "bob", "old words"), say(alice, "bob", "old secret")
        edited = edit(alice, original, "new words")
        edit(alice, other, "")
        assert alice.ok(SEARCH, text="old")["messages"] == []
        [found] = alice.ok(SEARCH, text="words", person="bob")["messages"]
        assert (found["id"], found["content"], found["edited"]) == (original, "new words", edited)


def test_a_list_of_conversations(server: JellyServer) -> None:
    """It has the last text of the last message, and an edit counts as no unread message."""
    with modern(server, "alice") as alice, modern(server, "bob", [*ALL, "read"]) as bob:
        original = say(alice, "bob", "a")
        edited = edit(alice, original, "b")
        assert [seen(bob.receive_notice()) for _ in range(2)] == [("a", None), ("b", original)]
        [conversation] = bob.ok(CONVERSATIONS)["conversations"]
        last = conversation["last"]
        assert (last["id"], last["content"], conversation["unread"]) == (original, "b", 1)
        bob.send_request(READ, person="alice", id=edited)
        wait_until(lambda: bob.ok(CONVERSATIONS)["conversations"][0]["unread"] == 0)
        edit(alice, original, "")
        assert seen(bob.receive_notice()) == ("", original)
        [conversation] = bob.ok(CONVERSATIONS)["conversations"]
        assert (conversation["last"]["content"], conversation["unread"]) == ("", 0)


def test_an_export(server: JellyServer) -> None:
    """It has the last text, which edit that is from, and nothing of what was recalled."""
    with modern(server, "alice") as alice:
        first, second = say(alice, "bob", "old words"), say(alice, "bob", "secret")
        edited, recalled = edit(alice, first, "new words"), edit(alice, second, "")
    connection = database(server)
    for user in ("alice", "bob"):
        lines = "".join(export_account(connection, user))
        messages = [(each["id"], each["content"], each["edited"]) for each in json.loads(lines)["messages"]]
        assert messages == [(first, "new words", edited), (second, "", recalled)]
        assert "old words" not in lines
        assert "secret" not in lines
    connection.close()


def test_a_report_of_an_edit(sqlite: JellyServer, alice: Wire) -> None:
    """It is about the message, with its last text."""
    original = say(alice, "bob", "a")
    edited = edit(alice, original, "rude")
    with modern(sqlite, "bob", [*ALL, "report"]) as bob:
        bob.ok(REPORT, person="alice", text="see this", id=edited)
    assert rows(sqlite, "SELECT message_id, content FROM reports") == [(original, "rude")]


def test_a_new_client_gets_what_the_old_one_was_not_sent(server: JellyServer) -> None:
    """A row is passed over only for the session that cannot be sent it."""
    with modern(server, "alice") as alice:
        with logged_in(server.port, "bob", features=WITHOUT) as bob:
            original = say(alice, "bob", "a")
            bob.ack(bob.receive_notice().values["id"])
            wait_until(lambda: inbox(server, "bob") == [])
        wait_until(lambda: not server.sessions.is_online("bob"))
        edit(alice, original, "b")
        with modern(server, "bob") as bob:
            assert seen(bob.receive_notice()) == ("b", original)


@pytest.mark.parametrize("features", [None, [], ["ack", "pages", "ids"]], ids=["classic", "none", "others"])
def test_without_the_feature_there_is_no_such_request(sqlite: JellyServer, features: list[str] | None) -> None:
    """As to any unknown type."""
    with logged_in(sqlite.port, "alice", features=features) as alice:
        assert alice.refused(EDIT, id=1, content="x") == "unknown_type"


@pytest.mark.parametrize("features", [["edit"], ["edit", "ack"], ["edit", "ids"], ALL], ids=" ".join)
def test_whatever_else_is_granted(sqlite: JellyServer, alice: Wire, features: list[str]) -> None:
    """With the feature a notice has its id, so that a client knows what an edit replaces."""
    with logged_in(sqlite.port, "bob", features=features) as bob:
        original = say(alice, "bob", "a")
        edit(alice, original, "b")
        first, second = bob.receive_notice().values, bob.receive_notice().values
        assert (first["id"], second["replaces"]) == (original, original)
        assert ("stored" in first) == ("stored" in second) == ("ids" in features)
        reply = bob.call(EDIT, id=original, content="c")
        assert reply.error == "no_such_message"


def test_it_is_granted_by_its_name(sqlite: JellyServer) -> None:
    """In its place among the others."""
    with Wire(sqlite.port) as wire:
        reply = wire.login("alice", features=["edit", "ids", "ack"])
        assert (reply.type, reply.status, reply.values["features"]) == (LOGIN, SUCCESS, ["ack", "ids", "edit"])


# --- what is refused ------------------------------------------------------------------------------


def test_only_the_author(sqlite: JellyServer, alice: Wire) -> None:
    """For anybody else, whether receiver or stranger, it is as if there were no such message."""
    original = say(alice, "bob", "a")
    for user in ("bob", "carol"):
        with modern(sqlite, user) as wire:
            other = wire.call(EDIT, id=original, content="b")
            nothing = wire.call(EDIT, id=original + 10**9, content="b")
            assert other == nothing
            assert other.error == "no_such_message"
            for id in (0, -1, 2**63 - 1):
                assert wire.refused(EDIT, id=id, content="b") == "no_such_message"
                assert wire.refused(EDIT, id=id, content="b", requestId="r") == "no_such_message"
            assert wire.refused(EDIT, username="alice", id=original, content="b") == "not_yourself"
    assert past(alice, person="bob") == [("a", None)]


def test_for_a_quarter_of_an_hour(server: JellyServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """By when the original arrived, whatever time its sender said; an edit does not prolong it."""
    with modern(server, "alice") as alice:
        original = int(alice.ok(PERSON_MESSAGE, receiver="bob", content="a", time=2**62)["id"])
        pass_time(server, monkeypatch, 15 * MINUTE - 5)
        edited = edit(alice, original, "b", requestId="r")
        pass_time(server, monkeypatch, 15 * MINUTE + 1)
        for id in (original, edited):
            assert alice.refused(EDIT, id=id, content="c") == "too_late"
        assert edit(alice, original, "b", requestId="r") == edited  # a repeat
        assert [text for text, _ in past(alice, person="bob")] == ["b"]


def test_who_is_no_member_any_more(sqlite: JellyServer, alice: Wire) -> None:
    """Is refused, as with a message; and gets no edit, but keeps what it was to get before."""
    with modern(sqlite, "bob") as bob:
        alice.ok(CREATE_GROUP, groupName="team")
        alice.ok(ADD_MEMBER, groupName="team", member="bob")
        alice.ok(ADD_MEMBER, groupName="team", member="carol")
        own = say(bob, "team", "by bob", GROUP_MESSAGE)
        original = say(alice, "team", "before", GROUP_MESSAGE)
        for name in ("bob", "carol"):
            alice.ok(REMOVE_MEMBER, groupName="team", member=name)
        assert bob.refused(EDIT, id=own, content="x") == "not_a_member"
        edit(alice, original, "among us")
        with modern(sqlite, "carol") as carol:
            said = [seen(reply) for reply in (carol.receive_notice() for _ in range(2))]
            assert said == [("by bob", None), ("before", None)]
            assert seen_next(alice, carol) == ("end", None)


def test_who_is_blocked(server: JellyServer) -> None:
    """Is refused, as with a message, and nothing changes; a repeat is answered as before. In a
    group edits come all the same.
    """
    with modern(server, "alice") as alice, modern(server, "bob", [*ALL, "block"]) as bob:
        original = say(alice, "bob", "a")
        edited = edit(alice, original, "b", requestId="r")
        alice.ok(CREATE_GROUP, groupName="team")
        alice.ok(ADD_MEMBER, groupName="team", member="bob")
        to_all = say(alice, "team", "c", GROUP_MESSAGE)
        bob.ok(BLOCK, person="alice", blocked=True)
        for content in ("x", ""):
            assert alice.refused(EDIT, id=original, content=content) == "not_accepted"
        assert edit(alice, original, "b", requestId="r") == edited
        assert past(bob, person="alice") == [("b", edited)]
        in_group = edit(alice, to_all, "d")
        assert past(bob, groupName="team") == [("d", in_group)]


def test_a_repeat_is_answered_and_changes_nothing(server: JellyServer) -> None:
    """As a message's: by its requestId; also if the text has changed since."""
    with modern(server, "alice") as alice, modern(server, "bob") as bob:
        original = say(alice, "bob", "a")
        first = edit(alice, original, "b", requestId="r1")
        second = edit(alice, original, "c", requestId="r2")
        assert edit(alice, original, "b", requestId="r1") == first
        assert past(alice, person="bob") == [("c", second)]
        assert alice.refused(EDIT, id=original, content="other", requestId="r1") == "request_id_reused"
        assert alice.refused(EDIT, id=original + 1, content="b", requestId="r1") == "request_id_reused"
        said = [seen(bob.receive_notice()) for _ in range(3)]
        assert said == [("a", None), ("b", original), ("c", original)]
        edit(alice, original, "", requestId="r3")
        assert edit(alice, original, "", requestId="r3") > second
        assert seen(bob.receive_notice()) == ("", original)
        assert seen_next(alice, bob) == ("end", None)


def test_repeats_in_one_batch(alice: Wire) -> None:
    """Pipelined requests are answered in their order, and a repeat among them is one."""
    original = say(alice, "alice", "a")
    for _ in range(2):
        alice.send_request(EDIT, id=original, content="b", requestId="r")
    alice.send_message("alice", "after")
    replies = [alice.receive_response() for _ in range(3)]
    assert [reply.type for reply in replies] == [EDIT, EDIT, PERSON_MESSAGE]
    assert replies[0] == replies[1]
    assert [seen(alice.receive_notice())[0] for _ in range(3)] == ["a", "b", "after"]


def test_the_rate_of_messages(start_server: StartServer) -> None:
    """Edits count as messages."""
    server = start_server(message_rate=1, message_burst=3)
    register(server.port, "alice")
    with modern(server, "alice") as alice:
        original = say(alice, "alice", "a")
        replies = [alice.call(EDIT, id=original, content=str(number)) for number in range(4)]
        assert [reply.error for reply in replies][:2] == ["", ""]
        assert "rate_limited" in [reply.error for reply in replies]


def test_bad_bodies(alice: Wire) -> None:
    """As with any request."""
    for values in (
        {"id": 1},
        {"content": "x"},
        {"id": "1", "content": "x"},
        {"id": 1, "content": None},
        {"id": 1.5, "content": "x"},
        {"id": 2**63, "content": "x"},
        {"id": 1, "content": "x", "requestId": ""},
    ):
        assert alice.refused(EDIT, **values) == "malformed_body"


# --- quotas ---------------------------------------------------------------------------------------


def test_an_edit_needs_room(start_server: StartServer, database_url: str) -> None:
    """One that makes a waiting message longer than the inbox takes is refused, and changes nothing;
    a shorter one fits.
    """
    server = start_server(database=database_url, inbox_bytes=1000, inbox_messages=0)
    register(server.port, "alice", "bob")
    with modern(server, "alice") as alice:
        original, _ = say(alice, "bob", "x" * 60), say(alice, "bob", "x" * 30)
        assert alice.refused(PERSON_MESSAGE, receiver="bob", content="x" * 30, time=1) == "inbox_full"
        assert alice.refused(EDIT, id=original, content="x" * 80) == "inbox_full"
        assert past(alice, person="bob")[0] == ("x" * 60, None)
        edit(alice, original, "x" * 70)
        assert alice.refused(PERSON_MESSAGE, receiver="bob", content="x", time=1) == "inbox_full"
        edit(alice, original, "x")
        say(alice, "bob", "x" * 60)
        edit(alice, original, "")
        say(alice, "bob", "x")
        connection = database(server)
        assert int(connection.query("SELECT SUM(size) FROM inbox")[0][0]) == 91
        connection.close()


def test_a_full_member_keeps_what_it_has(start_server: StartServer) -> None:
    """An edit in a group is not refused because of a member, whose inbox it does not fit into."""
    server = start_server(inbox_bytes=1000, inbox_messages=0)
    register(server.port, "alice", "bob", "carol")
    with modern(server, "alice") as alice:
        alice.ok(CREATE_GROUP, groupName="team")
        for member in ("bob", "carol"):
            alice.ok(ADD_MEMBER, groupName="team", member=member)
        original = say(alice, "team", "x" * 10, GROUP_MESSAGE)
        say(alice, "bob", "y" * 90)
        edit(alice, original, "z" * 20)
        found = rows(server, f"SELECT receiver, size, text FROM inbox WHERE message_id = {original} ORDER BY receiver")
        assert found == [("bob", 10, "x" * 10), ("carol", 20, None)]


# --- without history ------------------------------------------------------------------------------


def test_without_history(start_server: StartServer, database_url: str) -> None:
    """A message can be edited while it waits for somebody, and all of it goes when it has
    arrived.
    """
    server = start_server(database=database_url, history_days=0)
    register(server.port, "alice", "bob", "carol")
    with modern(server, "alice") as alice, modern(server, "bob") as bob:
        alice.ok(CREATE_GROUP, groupName="team")
        for member in ("bob", "carol"):
            alice.ok(ADD_MEMBER, groupName="team", member=member)
        original = say(alice, "team", "a", GROUP_MESSAGE)
        edited = edit(alice, original, "b")
        while (notice := bob.receive_notice().values).get("replaces") is None:
            pass
        bob.ack(notice["id"])
        wait_until(lambda: inbox(server, "bob") == [])
        assert inbox(server, "carol") == [original]
        with modern(server, "carol") as carol:
            while (notice := carol.receive_notice().values).get("content") is None:
                pass
            assert notice["content"] == "b"
            edited = edit(alice, original, "c")
            assert seen(carol.receive_notice()) == ("c", original)
            carol.ack(edited)
        bob.ack(bob.receive_notice().values["id"])
        wait_until(lambda: rows(server, "SELECT id FROM messages") == [])
        assert alice.refused(EDIT, id=original, content="d") == "no_such_message"


# --- several nodes --------------------------------------------------------------------------------


@pytest.fixture(params=["none", "redis"])
def nodes(request: pytest.FixtureRequest, start_server: StartServer, mariadb: PrivateMariaDB) -> list[JellyServer]:
    """Two nodes on one database, with hints and without; alice and bob have accounts."""
    cluster = "none" if request.param == "none" else request.getfixturevalue("redis_server").url
    database = ready_database(mariadb, "jelly_nodes")
    servers = [start_server(database=database, cluster=cluster, classic_gap=0) for _ in range(2)]
    register(servers[0].port, "alice", "bob")
    return servers


def test_from_node_to_node(nodes: list[JellyServer]) -> None:
    """An edit is pushed at the node where its receiver is, and refers to a message from another."""
    with modern(nodes[0], "alice") as alice, modern(nodes[1], "bob") as bob:
        original = say(alice, "bob", "a")
        edited = edit(alice, original, "b c")
        assert [seen(bob.receive_notice()) for _ in range(2)] == [("a", None), ("b c", original)]
        assert past(bob, person="alice") == [("b c", edited)]
        bob.ack(edited)
        wait_until(lambda: inbox(nodes[0], "bob") == [])
        own = say(bob, "alice", "d")
        bob.close()
        with modern(nodes[0], "bob") as bob:
            edit(bob, own, "e")
            assert [seen(alice.receive_notice()) for _ in range(2)] == [("d", None), ("e", own)]


def test_offline_at_all_nodes(nodes: list[JellyServer]) -> None:
    """Who comes to any node sees the edited text only."""
    with modern(nodes[0], "alice") as alice:
        edit(alice, say(alice, "bob", "a"), "b")
        with modern(nodes[1], "bob") as bob:
            assert seen(bob.receive_notice()) == ("b", None)
            assert seen_next(alice, bob) == ("end", None)


def test_sent_by_another_node(nodes: list[JellyServer]) -> None:
    """What the node sent where the receiver was, counts as sent: it comes again as it was."""
    with modern(nodes[0], "alice") as alice:
        with modern(nodes[1], "bob") as bob:
            original = say(alice, "bob", "a")
            assert seen(bob.receive_notice()) == ("a", None)
        wait_until(lambda: not nodes[0].sessions.is_online("bob"))
        edit(alice, original, "b")
        with modern(nodes[0], "bob") as bob:
            assert [seen(bob.receive_notice()) for _ in range(2)] == [("a", None), ("b", original)]


def test_a_classic_client_at_another_node(nodes: list[JellyServer]) -> None:
    """The node where it is passes the edit over, and the row goes."""
    with modern(nodes[0], "alice") as alice, logged_in(nodes[1].port, "bob") as bob:
        original = say(alice, "bob", "a")
        edited = edit(alice, original, "b")
        wait_until(lambda: edited not in inbox(nodes[0], "bob"))
        say(alice, "bob", "c")
        assert bob.contents(2) == ["a", "c"]


def test_a_receiver_who_moves(nodes: list[JellyServer]) -> None:
    """From a client without the feature to one with it, at another node: nothing is missed."""
    with modern(nodes[0], "alice") as alice, modern(nodes[1], "bob", WITHOUT) as bob:
        original = say(alice, "bob", "a")
        assert seen(bob.receive_notice()) == ("a", None)
        with modern(nodes[0], "bob") as bob:
            assert seen(bob.receive_notice()) == ("a", None)
            edited = edit(alice, original, "b")
            assert seen(bob.receive_notice()) == ("b", original)
            bob.ack(edited)
            wait_until(lambda: inbox(nodes[1], "bob") == [])
