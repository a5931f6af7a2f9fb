"""The rate of messages and of changes: what is refused, and when it may come again."""

import time

import pytest
from clock import Clock
from harness import StartServer
from wire import (
    ADD_FRIEND,
    ADD_MEMBER,
    ALL_FRIENDS,
    CREATE_GROUP,
    DISBAND_GROUP,
    GROUP_MESSAGE,
    OWN_PROFILE,
    PERSON_MESSAGE,
    REMOVE_FRIEND,
    REMOVE_MEMBER,
    UPDATE_PROFILE,
    Wire,
    found,
    logged_in,
    register,
)  # fmt: skip

from jelly import rate, services
from jelly.server import JellyServer


@pytest.fixture
def slow(start_server: StartServer) -> JellyServer:
    """A server that takes 5 messages a second from a user, with alice and bob. For allowances, no
    time passes but by `come_back`: a busy machine would give more of them.
    """
    server = start_server(message_rate=5, message_burst=5, classic_gap=0)
    register(server.port, "alice", "bob")
    now = time.monotonic()
    server.dispatcher._services.messages._rate._clock = lambda: now
    return server


def test_more_messages_a_second_than_allowed(slow: JellyServer) -> None:
    """A second's worth may come at once; what is beyond is refused and not stored, to persons and
    groups alike.
    """
    with logged_in(slow.port, "alice") as alice, logged_in(slow.port, "bob") as bob:
        found(alice, "bob")
        for number in range(10):
            alice.send_message(*(("bob", f"m{number}") if number % 2 else ("team", f"m{number}", GROUP_MESSAGE)))
        assert [alice.receive().error for _ in range(10)] == [""] * 5 + ["rate_limited"] * 5
        assert bob.contents(5) == [f"m{number}" for number in range(5)]
        bob.message("alice", "others are not limited")
        assert alice.ok(OWN_PROFILE)
        assert not bob.notices


def test_more_changes_a_second_than_allowed(start_server: StartServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond the burst, changes of groups, friends and the profile are refused together. Nothing
    else is.
    """
    monkeypatch.setattr(services, "CHANGE_BURST", 7)
    server = start_server(change_rate=1, classic_gap=0)
    register(server.port, "alice", "bob")
    changes: list[tuple[int, dict[str, str]]] = [
        (CREATE_GROUP, {"groupName": "team"}),
        (ADD_MEMBER, {"groupName": "team", "member": "bob"}),
        (REMOVE_MEMBER, {"groupName": "team", "member": "bob"}),
        (DISBAND_GROUP, {"groupName": "team"}),
        (ADD_FRIEND, {"friend": "bob"}),
        (REMOVE_FRIEND, {"friend": "bob"}),
        (UPDATE_PROFILE, {"name": "Alice"}),
    ]
    with logged_in(server.port, "alice", features=[]) as alice, logged_in(server.port, "bob") as bob:
        for type, values in changes:
            alice.ok(type, **values)
        allowances = server.services._change_rate._buckets
        for type, values in changes:
            allowances["alice"] = 0.0, allowances["alice"][1]
            reply = alice.call(type, **values)
            assert (reply.error, 0 < reply.values["retryAfter"] <= 1000) == ("rate_limited", True)
        alice.message("bob", "hello")
        alice.ok(OWN_PROFILE)
        assert alice.ok(ALL_FRIENDS)["friends"] == {}
        bob.ok(UPDATE_PROFILE, name="Bob")
        allowances["alice"] = 1.0, allowances["alice"][1]
        alice.ok(ADD_FRIEND, friend="bob")


def test_the_allowance_comes_back(slow: JellyServer) -> None:
    """After a while as many messages are taken as belong to it, and never more than a second's
    worth.
    """
    clock = Clock()  # on a busy machine, time enough for one message more could pass by itself
    slow.dispatcher._services.messages._rate._clock = clock
    with logged_in(slow.port, "alice") as alice:
        for seconds, count in ((0, 5), (1, 5), (100, 5), (0.45, 2)):
            clock.now += seconds
            for _ in range(count):
                alice.message("alice", "x")
            assert alice.refused(PERSON_MESSAGE, receiver="bob", content="x", time=1) == "rate_limited"


def test_a_reconnect_brings_no_new_allowance(slow: JellyServer) -> None:
    """The limit is the user's: who comes back at once may not send more."""
    with logged_in(slow.port, "alice") as alice:
        for _ in range(5):
            alice.message("bob", "x")
    with Wire(slow.port) as again:
        again.reconnect("alice", alice.token)
        assert again.refused(PERSON_MESSAGE, receiver="bob", content="x", time=1) == "rate_limited"


def come_back(server: JellyServer, user: str, seconds: float) -> None:
    """Let time pass for somebody's allowance."""
    allowances = server.dispatcher._services.messages._rate._buckets
    allowance, at = allowances[user]
    allowances[user] = allowance, at - seconds - 1e-6  # what is rounded must not make it less


def test_when_to_send_it_again(slow: JellyServer) -> None:
    """A modern client is told how many milliseconds to wait; a classic one gets what it always
    got.
    """
    with logged_in(slow.port, "alice", features=["ack"]) as alice, logged_in(slow.port, "bob") as bob:
        for wire in (alice, bob):
            for _ in range(5):
                wire.message("bob", "x")
            wire.send_message("bob", "y")
        values = alice.receive_response().values
        assert list(values) == ["error", "message", "retryAfter"]
        assert type(values["retryAfter"]) is int
        assert 500 < values["retryAfter"] <= 1000
        assert list(bob.receive_response().values) == ["error", "message"]


def test_nothing_overtakes_what_was_refused(slow: JellyServer) -> None:
    """Of a modern client's messages none passes a refused one, until the client sends a refused one
    again: then it has heard of it. (It had sent more before.)
    """
    with logged_in(slow.port, "alice", features=["ack"]) as alice:

        def send(number: int) -> str:
            more = {"requestId": f"r{number}"} if number else {}
            reply = alice.call(PERSON_MESSAGE, receiver="bob", content=f"m{number}", time=1, **more)
            return reply.error or "ok"

        assert [send(number) for number in range(1, 8)] == ["ok"] * 5 + ["rate_limited"] * 2
        come_back(slow, "alice", 0.4)  # room for two
        assert [send(number) for number in (8, 0, 6, 7, 8)] == ["rate_limited"] * 2 + ["ok"] * 2 + ["rate_limited"]
        come_back(slow, "alice", 1)
        assert send(5) == "ok"  # a repeat of what was stored is answered all the same, and costs nothing
        assert [send(number) for number in (8, 9)] == ["ok"] * 2
        assert [send(number) for number in (10, 11, 12, 13)] == ["ok"] * 3 + ["rate_limited"]


def test_what_is_not_sent_again_holds_up_nobody_for_long(slow: JellyServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """A client may drop what was refused."""
    monkeypatch.setattr(rate, "HOLD_SECONDS", 0.0)
    with logged_in(slow.port, "alice", features=["ack"]) as alice:
        for number in range(5):
            alice.message("bob", f"m{number}")
        assert alice.refused(PERSON_MESSAGE, receiver="bob", content="x", time=1, requestId="r1") == "rate_limited"
        come_back(slow, "alice", 1)
        alice.ok(PERSON_MESSAGE, receiver="bob", content="y", time=1, requestId="r2")
