"""EDIT: what is refused, and what has no room."""

import time

import pytest
from edit_tools import ALL, alice_online, database, edit, modern, past, rows, say, seen, seen_next
from harness import StartServer
from indexed import indexed_server, server_on_sqlite
from wire import ADD_MEMBER, BLOCK, CREATE_GROUP, EDIT, GROUP_MESSAGE, PERSON_MESSAGE, REMOVE_MEMBER, Wire, register

from jelly.server import JellyServer

MINUTE = 60.0

server = pytest.fixture(params=["indexed", "unindexed"])(indexed_server)
sqlite = pytest.fixture(server_on_sqlite)
alice = pytest.fixture(alice_online)


def pass_time(server: JellyServer, monkeypatch: pytest.MonkeyPatch, seconds: float) -> None:
    """From now on the server's clock is ahead."""
    clock = server.store._dao._clock
    assert clock is not None
    monkeypatch.setattr(clock, "_wall", lambda: time.time() + seconds)


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
