"""EDIT: an author changes the text of a message, or recalls it, for a quarter of an hour."""

import json

import pytest
from edit_tools import ALL, WITHOUT, alice_online, database, edit, inbox, modern, past, rows, say, seen, seen_next
from harness import StartServer
from indexed import indexed_server, server_on_sqlite
from wire import (
    ADD_MEMBER,
    CONVERSATIONS,
    CREATE_GROUP,
    EDIT,
    GROUP_MESSAGE,
    LOGIN,
    PERSON_MESSAGE,
    READ,
    REPORT,
    SEARCH,
    SUCCESS,
    Wire,
    logged_in,
    register,
    wait_until,
)

from jelly import delivery
from jelly.export import export_account
from jelly.server import JellyServer

server = pytest.fixture(params=["indexed", "unindexed"])(indexed_server)
sqlite = pytest.fixture(server_on_sqlite)
alice = pytest.fixture(alice_online)


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
