"""The feature `typing`: who is told that somebody is typing, how often, and that nothing else is
learned or kept.
"""

import itertools
import json
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from client_tools import NewClient, Recorder, result
from clock import Clock
from harness import StartServer
from wire import (
    ADD_FRIEND,
    ADD_MEMBER,
    BLOCK,
    CREATE_GROUP,
    NOTICE,
    OWN_PROFILE,
    REMOVE_FRIEND,
    REMOVE_MEMBER,
    RESPONSE,
    SYSTEM,
    TYPING,
    Wire,
    logged_in,
    pack,
    register,
)

from client_api import FEATURES, SystemEvent
from jelly import queue_dispatch, store, typing_service
from jelly.client.typing import TypingPace
from jelly.codec import Type
from jelly.server import JellyServer
from jelly.sessions import Session
from jelly.typing_service import FEATURE, MAX_MEMBERS_TOLD

TYPES = [FEATURE]
ALICE_IS_TYPING = (NOTICE, SYSTEM, 0, b'{"event":"typing","user":"alice"}')
ALICE_IS_TYPING_IN_TEAM = (NOTICE, SYSTEM, 0, b'{"event":"typing","user":"alice","group":"team"}')


@pytest.fixture
def server(start_server: StartServer) -> JellyServer:
    """A server with alice and bob, who are friends of each other, and carol, dave and eve. Alice's
    group `team` has the members bob, carol and dave.
    """
    server = start_server(classic_gap=0)
    register(server.port, "alice", "bob", "carol", "dave", "eve")
    with logged_in(server.port, "alice") as alice, logged_in(server.port, "bob") as bob:
        alice.ok(ADD_FRIEND, friend="bob")
        bob.ok(ADD_FRIEND, friend="alice")
        alice.ok(CREATE_GROUP, groupName="team")
        for member in ("bob", "carol", "dave"):
            alice.ok(ADD_MEMBER, groupName="team", member=member)
    return server


@pytest.fixture
def _no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each notice may come right after the one before."""
    monkeypatch.setattr(typing_service, "INTERVAL", 0.0)


def types(wire: Wire, **to: object) -> None:
    """Say that the user is typing. When this returns, all who are to be told are."""
    wire.send(pack(TYPING, json.dumps(to).encode()))
    reply = wire.call(OWN_PROFILE)
    assert reply.type == OWN_PROFILE  # nothing was answered before


def told(wire: Wire) -> list[tuple[int, int, int, bytes]]:
    """The notices of typing that have come."""
    wire.ok(OWN_PROFILE)
    found = [tuple(notice) for notice in wire.notices if b'"typing"' in notice.body]
    wire.notices.clear()
    return found  # type: ignore[return-value]


# --- who is told ----------------------------------------------------------------------------------


def test_a_friend_is_told(server: JellyServer) -> None:
    """If each has the other on the list, and only that friend."""
    with (
        logged_in(server.port, "alice", features=TYPES) as alice,
        logged_in(server.port, "bob", features=TYPES) as bob,
        logged_in(server.port, "carol", features=TYPES) as carol,
    ):
        types(alice, person="bob")
        assert told(bob) == [ALICE_IS_TYPING]
        assert told(carol) == told(alice) == []


@pytest.mark.usefixtures("_no_pause")
@pytest.mark.parametrize("has_list", ["neither", "the sender", "the receiver"])
def test_a_stranger_is_not_told_and_learns_nothing(server: JellyServer, has_list: str) -> None:
    """Somebody who may not see the other, or may not be seen, tells nobody; and it looks the same
    for who is online, offline, or does not exist.
    """
    with (
        logged_in(server.port, "carol", features=TYPES) as carol,
        logged_in(server.port, "eve", features=TYPES) as eve,
    ):
        if has_list == "the sender":
            eve.ok(ADD_FRIEND, friend="carol")
        if has_list == "the receiver":
            carol.ok(ADD_FRIEND, friend="eve")
        for person in ("carol", "dave", "nobody", "eve", "", "a b", "x" * 1000):
            types(eve, person=person)
        for group in ("team", "none", "", "a b"):
            types(eve, groupName=group)
        assert told(carol) == told(eve) == []


@pytest.mark.usefixtures("_no_pause")
def test_who_has_not_accepted_is_not_told(server: JellyServer) -> None:
    """Until then, neither of the two is told anything of the other."""
    with (
        logged_in(server.port, "carol", features=["typing", "contacts"]) as carol,
        logged_in(server.port, "eve", features=["typing", "contacts"]) as eve,
    ):
        eve.ok(ADD_FRIEND, friend="carol")
        for sender, receiver, person in ((eve, carol, "carol"), (carol, eve, "eve")):
            types(sender, person=person)
            assert told(receiver) == []
        carol.ok(ADD_FRIEND, friend="eve")  # that is accepting
        for sender, receiver, person in ((eve, carol, "carol"), (carol, eve, "eve")):
            types(sender, person=person)
            assert len(told(receiver)) == 1


@pytest.mark.usefixtures("_no_pause")
@pytest.mark.parametrize("blocker", ["alice", "bob"])
def test_a_block_is_kept(server: JellyServer, blocker: str) -> None:
    """Whoever of the two has blocked the other, neither hears that the other is typing; when that
    ends, they do again.
    """
    features = ["typing", "block"]
    with (
        logged_in(server.port, "alice", features=features) as alice,
        logged_in(server.port, "bob", features=features) as bob,
    ):
        one, other = (alice, "bob") if blocker == "alice" else (bob, "alice")
        for blocked in (True, False):
            one.ok(BLOCK, person=other, blocked=blocked)
            for sender, receiver, person in ((alice, bob, "bob"), (bob, alice, "alice")):
                types(sender, person=person)
                assert len(told(receiver)) == (not blocked)


@pytest.mark.usefixtures("_no_pause")
def test_a_former_friend_is_not_told(server: JellyServer) -> None:
    """Whoever of the two has taken the other off the list."""
    with (
        logged_in(server.port, "alice", features=TYPES) as alice,
        logged_in(server.port, "bob", features=TYPES) as bob,
    ):
        for wire, other in ((bob, "alice"), (alice, "bob")):
            types(alice, person="bob")
            assert told(bob) == [ALICE_IS_TYPING]
            wire.ok(REMOVE_FRIEND, friend=other)
            types(alice, person="bob")
            assert told(bob) == []
            wire.ok(ADD_FRIEND, friend=other)


@pytest.mark.usefixtures("_no_pause")
def test_the_members_of_a_group_are_told(server: JellyServer) -> None:
    """Except the one who types; friends or not. A former member neither tells nor hears of it."""
    with (
        logged_in(server.port, "alice", features=TYPES) as alice,
        logged_in(server.port, "bob", features=TYPES) as bob,
        logged_in(server.port, "dave", features=TYPES) as dave,
        logged_in(server.port, "eve", features=TYPES) as eve,
    ):
        types(alice, groupName="team")
        assert told(bob) == told(dave) == [ALICE_IS_TYPING_IN_TEAM]
        assert told(alice) == told(eve) == []
        alice.ok(REMOVE_MEMBER, groupName="team", member="dave")
        types(dave, groupName="team")
        types(alice, groupName="team")
        assert told(bob) == [ALICE_IS_TYPING_IN_TEAM]
        assert told(dave) == []


@pytest.mark.usefixtures("_no_pause")
def test_a_large_group_is_not_told(server: JellyServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """A thousand members who type would be told of a million times in three seconds."""
    assert MAX_MEMBERS_TOLD == 100
    with (
        logged_in(server.port, "alice", features=TYPES) as alice,
        logged_in(server.port, "bob", features=TYPES) as bob,
    ):
        for most, expected in ((4, [ALICE_IS_TYPING_IN_TEAM]), (3, [])):
            monkeypatch.setattr(typing_service, "MAX_MEMBERS_TOLD", most)
            types(alice, groupName="team")
            assert told(bob) == expected


@pytest.mark.usefixtures("_no_pause")
@pytest.mark.parametrize(
    ("senders", "receivers"), [*itertools.product([None, [], ["ack"], TYPES, ["ack", "typing"]], repeat=2)], ids=str
)
def test_granted_or_not(server: JellyServer, senders: list[str] | None, receivers: list[str] | None) -> None:
    """Both need the feature; without it, the type does not exist, and nothing of it comes."""
    with (
        logged_in(server.port, "alice", features=senders) as alice,
        logged_in(server.port, "bob", features=receivers) as bob,
    ):
        both = "typing" in (senders or ()) and "typing" in (receivers or ())
        for to, notice in (({"person": "bob"}, ALICE_IS_TYPING), ({"groupName": "team"}, ALICE_IS_TYPING_IN_TEAM)):
            if "typing" in (senders or ()):
                types(alice, **to)
            else:
                alice.send(pack(TYPING, json.dumps(to).encode()))
                assert alice.receive_response().error == "unknown_type"
            assert told(bob) == ([notice] if both else [])


# --- how often, and what of it stays --------------------------------------------------------------


def test_one_notice_in_three_seconds(server: JellyServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whomever it is for: more would be dropped, not delayed."""
    assert typing_service.INTERVAL == 3
    monkeypatch.setattr(typing_service, "INTERVAL", 3000.0)  # so that this test may take longer
    with (
        logged_in(server.port, "alice", features=TYPES) as alice,
        logged_in(server.port, "bob", features=TYPES) as bob,
    ):
        for _ in range(20):
            types(alice, person="bob")
            types(alice, groupName="team")
        assert told(bob) == [ALICE_IS_TYPING]
        session = server.sessions.get("alice")
        assert session is not None
        session.typing_at -= typing_service.INTERVAL  # so much later
        types(alice, groupName="team")
        types(alice, person="bob")
        assert told(bob) == [ALICE_IS_TYPING_IN_TEAM]


def test_nothing_is_stored(server: JellyServer, tmp_path: Path) -> None:
    """No table has another row, or another value, and who comes later hears nothing."""

    def contents() -> list[str]:
        with closing(sqlite3.connect(tmp_path / "jelly.db")) as connection:
            return [line for line in connection.iterdump() if not line.startswith('INSERT INTO "meta"')]

    with logged_in(server.port, "alice", features=TYPES) as alice:
        before = contents()
        types(alice, person="bob")
        assert contents() == before
        with logged_in(server.port, "bob", features=TYPES) as bob:
            assert told(bob) == []


def test_it_comes_before_the_message(server: JellyServer) -> None:
    """Who says that they are typing, and then writes, is heard in this order."""
    with (
        logged_in(server.port, "alice", features=TYPES) as alice,
        logged_in(server.port, "bob", features=TYPES) as bob,
    ):
        alice.send(pack(TYPING, b'{"person":"bob"}'))
        alice.message("bob", "hello")
        while (notice := bob.receive_notice()).values.get("event") == "presence":
            pass
        assert notice == ALICE_IS_TYPING
        assert bob.contents(1) == ["hello"]


# --- requests that are wrong, and servers that have no time ---------------------------------------


@pytest.mark.parametrize(
    "body", [b"", b"{}", b"[]", b'{"person":1}', b'{"person":null}', b'{"person":"bob","groupName":"team"}', b"{"]
)
def test_malformed(server: JellyServer, body: bytes) -> None:
    """A program that is wrong is told so, and can go on."""
    with logged_in(server.port, "alice", features=TYPES) as alice:
        alice.send(pack(TYPING, body))
        reply = alice.receive_response()
        assert (reply.sign, reply.type, reply.error) == (RESPONSE, TYPING, "malformed_body")
        types(alice, person="bob")


def test_before_the_login(server: JellyServer) -> None:
    """It is refused like everything else."""
    with Wire(server.port) as wire:
        wire.send(pack(TYPING, b'{"person":"bob"}'))
        assert wire.receive().error == "not_logged_in"
        assert wire.is_closed_by_server()


def test_a_failure_is_not_answered(server: JellyServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither a busy server nor one that fails may send a response for which nobody waits: it would
    be taken for that to another request.
    """
    session = Session(server.sessions, "")  # type: ignore[arg-type] # it is not looked at
    session.user = "alice"
    assert queue_dispatch._busy(session, Type.TYPING).frame is None
    assert store.failure(session, Type.TYPING).frame is None
    with logged_in(server.port, "alice", features=TYPES) as alice:
        monkeypatch.setattr(server.services.typing, "_find_group", lambda _: 1 // 0)
        monkeypatch.setattr(queue_dispatch, "log_failure", lambda *_: None)
        types(alice, groupName="team")


@pytest.mark.parametrize("data", [b"", b"\xff", b"[]", b"1", b'{"typing":"x"}', b'{"typing":"x","group":"","to":1}'])
def test_a_note_that_is_none(server: JellyServer, data: bytes) -> None:
    """What another version sends through the bus does no harm."""
    server.services.typing.take_note(data)


# --- the library ----------------------------------------------------------------------------------


def test_the_library(server: JellyServer, new_client: NewClient) -> None:
    """`typing` may be called at every key; the receiver gets a system event."""
    recorder, features, clock = Recorder(), (*FEATURES, "typing"), Clock()
    alice, bob = new_client(server.port, features=features), new_client(server.port, recorder, features=features)
    alice.typing("bob")  # not logged in: nothing happens
    for client, name in ((alice, "alice"), (bob, "bob")):
        result(client.login(name, "pw"))
    alice._typing_pace = TypingPace(clock)
    for wait in (0.0, 0.1, 2.8):
        clock.now += wait
        alice.typing("bob")
    result(alice.own_profile())
    session = server.sessions.get("alice")
    assert session is not None
    session.typing_at -= typing_service.INTERVAL
    clock.now += 0.2
    alice.group_typing("team")
    one, two = recorder.wait_for(lambda event: isinstance(event, SystemEvent) and event.event == "typing", 2)
    assert (one.user, one.group) == ("alice", "")
    assert (two.user, two.group) == ("alice", "team")


def test_the_library_without_the_feature(server: JellyServer, new_client: NewClient) -> None:
    """Nothing is sent that the server would refuse, and a name that cannot be sent is no error."""
    with new_client(server.port, features=("ack",)) as alice:
        result(alice.login("alice", "pw"))
        alice.typing("bob")
        assert result(alice.own_profile()).username == "alice"
    with new_client(server.port, features=("typing",)) as alice:
        result(alice.login("alice", "pw"))
        alice.typing("\ud800")
        assert result(alice.own_profile()).username == "alice"
