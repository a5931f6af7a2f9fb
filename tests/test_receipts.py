"""Receipts: who is told that a message has reached its receiver, and that it was read."""

import itertools
from typing import Any

import pytest
from client_tools import NewClient, Recorder, result
from harness import StartServer, ready_database
from wire import (
    ADD_FRIEND,
    ADD_MEMBER,
    BLOCK,
    CREATE_GROUP,
    GROUP_MESSAGE,
    OWN_PROFILE,
    PASSWORD,
    PERSON_MESSAGE,
    READ,
    REMOVE_FRIEND,
    SYSTEM,
    UPDATE_PROFILE,
    Wire,
    logged_in,
    pack,
    register,
    to_json,
    wait_until,
)

from client_api import MessageEvent, SystemEvent
from faults.mariadb import PrivateMariaDB
from faults.redis import PrivateRedis
from jelly import delivery, receipts, sessions
from jelly.server import JellyServer

MODERN = ["ack", "ids", "read"]


@pytest.fixture
def server(start_server: StartServer, database_url: str) -> JellyServer:
    """A server with friends and a group, on each database."""
    return prepare(start_server(database=database_url, classic_gap=0))


@pytest.fixture
def sqlite(start_server: StartServer) -> JellyServer:
    return prepare(start_server(classic_gap=0))


def prepare(server: JellyServer) -> JellyServer:
    """Alice and bob are friends of each other; dan has alice as a friend, who does not have him.
    The group is of alice, bob and carol.
    """
    register(server.port, "alice", "bob", "carol", "dan")
    with logged_in(server.port, "alice") as alice, logged_in(server.port, "bob") as bob:
        alice.ok(ADD_FRIEND, friend="bob")
        bob.ok(ADD_FRIEND, friend="alice")
        alice.ok(CREATE_GROUP, groupName="team")
        for member in ("bob", "carol"):
            alice.ok(ADD_MEMBER, groupName="team", member=member)
    with logged_in(server.port, "dan") as dan:
        dan.ok(ADD_FRIEND, friend="alice")
    return server


def modern(server: JellyServer, user: str, features: list[str] | None = MODERN) -> Wire:
    return logged_in(server.port, user, features=features)


def receipt(wire: Wire) -> dict[str, Any]:
    """The next receipt; messages and other notices before it are passed over."""
    while True:
        reply = wire.receive_notice()
        if reply.type == SYSTEM and reply.values["event"] in ("read", "delivered"):
            values: dict[str, Any] = reply.values
            return values


def received(wire: Wire) -> int:
    """Wait for a message, and acknowledge it; its id."""
    while (reply := wire.receive_notice()).type == SYSTEM:
        pass
    id = int(reply.values["id"])
    wire.ack(id)
    return id


def say(wire: Wire, to: str, type: int = PERSON_MESSAGE) -> int:
    return int(wire.ok(type, receiver=to, content="hello", time=1)["id"])


def read(wire: Wire, id: int, **where: str) -> None:
    wire.send(pack(READ, to_json({"id": id, **where})))


def hears_nothing_of(server: JellyServer, wire: Wire, *events: str) -> bool:
    """Whether no receipt has come, when all that was under way is written."""
    wait_until(lambda: not len(server.store.read_pointers) and not server.store._delivered)
    wait_until(lambda: not len(server.notifier))
    wire.ok(OWN_PROFILE)
    told = [notice.values["event"] for notice in wire.notices if notice.type == SYSTEM]
    return not set(told) & set(events or ("read", "delivered"))


def test_who_has_gone_is_forgotten(sqlite: JellyServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was on its way to a client that left without an acknowledgement is not remembered for
    ever, nor who wanted receipts.
    """
    monkeypatch.setattr(receipts, "LAST_RECEIPTS", 0.0)
    known = sqlite.services.receipts
    with modern(sqlite, "alice") as alice, modern(sqlite, "bob") as bob:
        say(alice, "bob")
        assert bob.receive_notice().values["content"] == "hello"
        assert set(known.under_way) == {"bob"}
        bob.close()
        wait_until(lambda: not known.under_way)
        assert known.wanted_by == {"alice"}
    wait_until(lambda: not known.wanted_by)


def test_delivered_and_read(server: JellyServer) -> None:
    """A friend's message that has arrived, and was read, is told to its sender."""
    with modern(server, "alice") as alice, modern(server, "bob") as bob:
        id = say(alice, "bob")
        assert received(bob) == id
        assert receipt(alice) == {"event": "delivered", "user": "bob", "id": id}
        read(bob, id, person="alice")
        assert receipt(alice) == {"event": "read", "user": "bob", "id": id}
        assert hears_nothing_of(server, bob)


def test_what_waited_for_a_login(server: JellyServer) -> None:
    """It is delivered when its receiver comes; several messages are one receipt."""
    with modern(server, "alice") as alice:
        last = [say(alice, "bob") for _ in range(3)][-1]
        assert hears_nothing_of(server, alice)
        with modern(server, "bob") as bob:
            for _ in range(3):
                id = int(next(n for n in iter(bob.receive_notice, None) if n.type != SYSTEM).values["id"])
            bob.ack(id)
            assert receipt(alice) == {"event": "delivered", "user": "bob", "id": last}
        assert hears_nothing_of(server, alice)


def test_in_a_group(server: JellyServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """All members are told who has read what, friends or not; nobody, what was delivered; and in a
    large group, nothing.
    """
    with modern(server, "alice") as alice, modern(server, "bob") as bob, modern(server, "carol") as carol:
        id = say(carol, "team", GROUP_MESSAGE)
        assert received(alice) == received(bob) == id
        read(bob, id, groupName="team")
        told = {"event": "read", "user": "bob", "group": "team", "id": id}
        assert receipt(alice) == receipt(carol) == told
        assert hears_nothing_of(server, bob)
        monkeypatch.setattr(receipts, "MAX_MEMBERS_TOLD", 2)
        read(alice, id, groupName="team")
        assert all(hears_nothing_of(server, each) for each in (alice, bob, carol))


@pytest.mark.parametrize(
    ("sender", "receiver"), [("dan", "alice"), ("alice", "dan"), ("carol", "dan"), ("carol", "alice")]
)
def test_strangers_learn_nothing(server: JellyServer, sender: str, receiver: str) -> None:
    """Nobody learns from receipts whether somebody is there who does not have them as a friend, and
    nobody tells those whom they do not have, not even within a common group.
    """
    with modern(server, sender) as one, modern(server, receiver) as other:
        id = say(one, receiver)
        assert received(other) == id
        read(other, id, person=sender)
        assert hears_nothing_of(server, one)


def test_a_friend_no_more(server: JellyServer) -> None:
    """Who has removed the other, is told nothing and tells nothing, from then on."""
    for remover, other in (("alice", "bob"), ("bob", "alice")):
        with modern(server, "alice") as alice, modern(server, "bob") as bob:
            wires = {"alice": alice, "bob": bob}
            wires[remover].ok(REMOVE_FRIEND, friend=other)
            id = say(alice, "bob")
            assert received(bob) == id
            read(bob, id, person="alice")
            assert hears_nothing_of(server, alice)
            wires[remover].ok(ADD_FRIEND, friend=other)
            id = say(alice, "bob")
            assert received(bob) == id
            assert receipt(alice)["event"] == "delivered"


@pytest.mark.parametrize(
    ("sender", "receiver"),
    list(itertools.product([None, [], ["ack", "ids"], MODERN], repeat=2)),
)
def test_granted_or_not(sqlite: JellyServer, sender: list[str] | None, receiver: list[str] | None) -> None:
    """Only who has the feature is told. What any modern client acknowledges is delivered; a classic
    one tells nothing of its user, who cannot turn it off.
    """
    with modern(sqlite, "alice", sender) as alice, modern(sqlite, "bob", receiver) as bob:
        alice.message("bob", "hello")
        while (reply := bob.receive_notice()).type == SYSTEM:
            pass
        if receiver and "ack" in receiver:
            bob.ack(reply.values["id"])
        if receiver == MODERN:
            read(bob, reply.values["id"], person="alice")
        if sender == MODERN and receiver and "ack" in receiver:
            assert receipt(alice)["event"] == "delivered"
        if sender == receiver == MODERN:
            assert receipt(alice)["event"] == "read"
        assert hears_nothing_of(sqlite, alice, "read" if sender == MODERN and receiver == [] else "")


def test_the_switch(server: JellyServer) -> None:
    """Who sends none gets none, and that is stored."""
    with modern(server, "alice") as alice, modern(server, "bob") as bob:
        assert bob.ok(OWN_PROFILE)["showRead"] is True
        bob.ok(UPDATE_PROFILE, showRead=False)
        assert bob.ok(OWN_PROFILE)["showRead"] is False
        for one, other, name in ((alice, bob, "alice"), (bob, alice, "bob")):
            id = say(one, "bob" if name == "alice" else "alice")
            assert received(other) == id
            read(other, id, person=name)
            assert hears_nothing_of(server, one)
    with modern(server, "alice") as alice, modern(server, "bob") as bob:
        id = say(alice, "bob")
        assert received(bob) == id
        read(bob, id, person="alice")
        read(bob, id, groupName="team")
        assert hears_nothing_of(server, alice)
        bob.ok(UPDATE_PROFILE, showRead=True)
        id = say(alice, "bob")
        assert received(bob) == id
        assert receipt(alice) == {"event": "delivered", "user": "bob", "id": id}
        id = say(bob, "alice")
        assert received(alice) == id
        assert receipt(bob) == {"event": "delivered", "user": "alice", "id": id}
    with modern(server, "bob", ["ack"]) as bob:
        assert "showRead" not in bob.ok(OWN_PROFILE)
        bob.ok(UPDATE_PROFILE, showRead=False)
    with modern(server, "bob") as bob:
        assert bob.ok(OWN_PROFILE)["showRead"] is True
        assert bob.refused(UPDATE_PROFILE, showRead="no") == "malformed_body"


@pytest.mark.parametrize("blocker", ["alice", "bob"])
def test_who_is_blocked_is_told_nothing(server: JellyServer, blocker: str) -> None:
    """Nor is the one who has blocked the other."""
    features = [*MODERN, "block"]
    with modern(server, "alice", features) as alice, modern(server, "bob", features) as bob:
        id = say(alice, "bob")
        while (bob.receive_notice()).type == SYSTEM:
            pass
        wires = {"alice": alice, "bob": bob}
        wires[blocker].ok(BLOCK, person="bob" if blocker == "alice" else "alice", blocked=True)
        bob.ack(id)
        read(bob, id, person="alice")
        assert hears_nothing_of(server, alice)


def test_nothing_is_kept_without_the_feature(sqlite: JellyServer) -> None:
    """A message of a sender who does not want to know costs nothing."""
    with modern(sqlite, "alice", ["ack", "ids"]) as alice, modern(sqlite, "bob") as bob:
        kept = sqlite.services.receipts
        id = say(alice, "bob")
        while bob.receive_notice().type == SYSTEM:
            pass
        assert kept.under_way == {}
        assert kept.wanted_by == {"bob"}
        bob.ack(id)
        id = say(bob, "alice")
        assert kept.under_way == {"alice": kept.under_way["alice"]}
        while alice.receive_notice().type == SYSTEM:
            pass
        alice.ack(id)
        assert receipt(bob)["id"] == id
        wait_until(lambda: not kept.under_way)


@pytest.mark.parametrize("kind", ["none", "redis"])
def test_through_nodes(
    start_server: StartServer, mariadb: PrivateMariaDB, request: pytest.FixtureRequest, kind: str
) -> None:
    """What was read is told at another node with and without Redis; what was delivered, with it."""
    cluster = "none"
    if kind == "redis":
        redis: PrivateRedis = request.getfixturevalue("redis_server")
        cluster = str(redis.url)
    database = ready_database(mariadb, "jelly_test")
    first, second = (start_server(database=database, cluster=cluster, classic_gap=0) for _ in range(2))
    prepare(first)
    with modern(first, "alice") as alice, modern(second, "bob") as bob, modern(second, "carol") as carol:
        if kind == "redis":
            wait_until(lambda: all(each.node is not None and each.node.bus.is_up for each in (first, second)))
        wait_until(lambda: "alice" in second.services.receipts.wanted_by)
        id = say(alice, "bob")
        assert received(bob) == id
        if kind == "redis":
            assert receipt(alice) == {"event": "delivered", "user": "bob", "id": id}
        read(bob, id, person="alice")
        assert receipt(alice) == {"event": "read", "user": "bob", "id": id}
        id = say(alice, "team", GROUP_MESSAGE)
        assert received(carol) == received(bob) == id
        read(carol, id, groupName="team")
        told = {"event": "read", "user": "carol", "group": "team", "id": id}
        assert receipt(alice) == receipt(bob) == told
        alice.ok(UPDATE_PROFILE, showRead=False)
        wait_until(lambda: "alice" not in second.services.receipts.wanted_by)
        read(bob, id, groupName="team")
        assert receipt(carol)["user"] == "bob"
        assert hears_nothing_of(first, alice)


def test_the_library(sqlite: JellyServer, new_client: NewClient) -> None:
    """Receipts are system events."""
    recorder, bob_hears = Recorder(), Recorder()
    alice, bob = new_client(sqlite.port, recorder), new_client(sqlite.port, bob_hears)
    result(alice.login("alice", PASSWORD))
    result(bob.login("bob", PASSWORD))
    sent = result(alice.send_message("bob", "hello"))
    [event] = bob_hears.wait_for(lambda event: isinstance(event, MessageEvent))
    assert bob.mark_read("alice", event.id)
    told = recorder.wait_for(lambda e: isinstance(e, SystemEvent) and e.event in ("read", "delivered"), 2)
    assert {each.event for each in told} == {"read", "delivered"}
    assert {(each.user, each.group, each.id) for each in told} == {("bob", "", sent.id)}
    assert result(bob.own_profile()).show_read is True
    result(bob.update_profile(show_read=False))
    assert result(bob.own_profile()).show_read is False


def on(server: JellyServer, user: str, device: str) -> Wire:
    return logged_in(server.port, user, features=[*MODERN, "devices"], device=device)


def test_what_comes_to_other_devices_of_its_sender_is_no_receipt(server: JellyServer) -> None:
    """A friend who sends no receipts is not betrayed by the sender's own device."""
    with on(server, "alice", "phone") as alice, on(server, "alice", "desk") as desk, modern(server, "bob") as bob:
        bob.ok(UPDATE_PROFILE, showRead=False)
        id = say(alice, "bob")
        assert received(desk) == received(bob) == id
        bob.ok(OWN_PROFILE)
        assert hears_nothing_of(server, alice)
        assert hears_nothing_of(server, desk)


def test_a_slower_device_takes_back_no_receipt(start_server: StartServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is delivered is what any device has; each device of the sender is told."""
    monkeypatch.setattr(delivery, "PAGE", 1)
    server = prepare(start_server())
    on(server, "bob", "desk").close()
    with on(server, "alice", "phone") as alice, on(server, "alice", "desk") as other, on(server, "bob", "phone") as bob:
        older, newer = say(alice, "bob"), say(alice, "bob")
        assert received(bob) == older
        assert receipt(alice) == receipt(other) == {"event": "delivered", "user": "bob", "id": older}
        assert bob.receive_notice().values["id"] == newer
        monkeypatch.setattr(sessions, "MAX_UNACKNOWLEDGED", 0)
        with on(server, "bob", "desk") as desk:  # it gets no more until it acknowledges this one
            while desk.receive_notice().values.get("id") != older:
                pass
            bob.ack(newer)
            assert receipt(alice) == receipt(other) == {"event": "delivered", "user": "bob", "id": newer}


def test_devices_at_several_nodes(
    start_server: StartServer, mariadb: PrivateMariaDB, redis_server: PrivateRedis
) -> None:
    """A client of a user that wants no receipts takes them from no other one; a user who turns them
    off does so for the devices at other nodes, too.
    """
    settings = {"database": ready_database(mariadb, "jelly_test"), "cluster": redis_server.url, "classic_gap": 0}
    first, second = (start_server(**settings) for _ in range(2))
    prepare(first)
    wait_until(lambda: all(each.node is not None and each.node.bus.is_up for each in (first, second)))
    with on(first, "alice", "phone") as alice, modern(first, "alice", None), on(second, "bob", "phone") as bob:
        id = say(alice, "bob")
        assert received(bob) == id
        assert receipt(alice) == {"event": "delivered", "user": "bob", "id": id}
        with on(first, "bob", "desk") as desk:
            desk.ok(UPDATE_PROFILE, showRead=False)
            id = say(alice, "bob")
            assert received(bob) == received(desk) == id
            read(bob, id, person="alice")
            bob.ok(OWN_PROFILE)
            assert hears_nothing_of(second, bob)
            assert hears_nothing_of(first, alice)
