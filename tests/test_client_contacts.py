"""The client library and friend requests: who asks for the feature, what an application gets, and
that it gets each request once.
"""

import contextlib
from functools import partial
from typing import Any

import pytest
from client_tools import NewClient, Recorder, ScriptedServer, error, result
from harness import StartServer
from wire import ADD_FRIEND, ALL_FRIENDS, PASSWORD, SYSTEM, logged_in, register, wait_until

from client_api import FEATURES, FriendRequestEvent, FriendRequests, JellyClient, Receiver, State, SystemEvent

GRANTED = tuple(feature for feature in FEATURES if feature != "find")
"""What a server grants to a client that asks for nothing special."""


class Asked(Recorder):
    """Notes who asks."""

    def __init__(self) -> None:
        super().__init__()
        self.askers: list[str] = []

    def on_friend_request(self, event: FriendRequestEvent) -> None:
        self.askers.append(event.friend)


class Kind(Asked):
    """Says yes to everybody but mallory."""

    def on_friend_request(self, event: FriendRequestEvent) -> None:
        super().on_friend_request(event)
        if event.friend == "mallory":
            event.decline()
        else:
            event.accept()


def is_answer(accepted: bool, event: object) -> bool:
    return isinstance(event, SystemEvent) and event.event == "friend_answer" and event.accepted == accepted


@pytest.fixture
def port(start_server: StartServer) -> int:
    port = start_server(classic_gap=0).port
    register(port, "alice", "bob", "carol", "mallory")
    return port


def test_who_asks_for_the_feature(port: int, new_client: NewClient) -> None:
    """Only who answers: else others would wait for an answer that nobody gives."""
    by_attribute = Receiver()
    by_attribute.on_friend_request = Asked().on_friend_request  # type: ignore[method-assign]
    for receiver, options, expected in (
        (None, {}, GRANTED),
        (Recorder(), {}, GRANTED),
        (Asked(), {}, (*GRANTED, "contacts")),
        (by_attribute, {}, (*GRANTED, "contacts")),
        (None, {"accept_all": True}, (*GRANTED, "contacts")),
        (Asked(), {"features": ("ack",)}, ("ack", "contacts")),
        (Asked(), {"features": ("contacts", "ack")}, ("ack", "contacts")),
        (Asked(), {"features": ()}, ()),
    ):
        more: dict[str, Any] = dict(options)
        client = new_client(port, receiver, **more)
        login = result(client.login("alice", PASSWORD))
        assert set(login.features) == set(expected)
        result(client.logout())
        result(client.login("alice", PASSWORD))
        token = client.token
        assert token is not None
        client.close()
        with new_client(port, receiver, **more) as again:
            assert result(again.resume("alice", token)).features == login.features


def test_a_request_and_its_answers(port: int, new_client: NewClient) -> None:
    """From the question to the notice of the answer, and what is open in between."""
    asked, told = Asked(), Asked()
    alice, bob = new_client(port, told), new_client(port, asked)
    result(alice.login("alice", PASSWORD))
    result(bob.login("bob", PASSWORD))
    assert result(alice.add_friend("bob")) is False
    wait_until(lambda: asked.askers == ["alice"])
    assert result(alice.friend_requests()) == FriendRequests(pending=("bob",), received=())
    assert result(bob.friend_requests()) == FriendRequests(pending=(), received=("alice",))
    for accept in (False, True):
        result(bob.answer_friend("alice", accept))
        [event] = told.wait_for(partial(is_answer, accept))
        assert (event.event, event.friend) == ("friend_answer", "bob")
    assert result(alice.list_friends()) == {"bob": True}
    assert error(bob.answer_friend("alice")).code == "not_asked"
    assert result(bob.add_friend("alice")) is True


def test_requests_that_came_while_away(port: int, new_client: NewClient) -> None:
    """After a login the oldest comes first, and nothing comes twice."""
    asked = Asked()
    bob = new_client(port, asked)
    result(bob.login("bob", PASSWORD))
    result(bob.logout())
    for name in ("alice", "carol"):
        with logged_in(port, name) as wire:
            wire.ok(ADD_FRIEND, friend="bob")
    result(bob.login("bob", PASSWORD))
    wait_until(lambda: asked.askers == ["alice", "carol"])
    result(bob.logout())
    result(bob.login("bob", PASSWORD))
    result(bob.friend_requests())
    with logged_in(port, "mallory") as mallory:
        mallory.ok(ADD_FRIEND, friend="bob")
    wait_until(lambda: asked.askers == ["alice", "carol", "mallory"])


def test_answers_of_an_application(port: int, new_client: NewClient) -> None:
    """The event's own methods answer."""
    bob = new_client(port, Kind())
    result(bob.login("bob", PASSWORD))
    with logged_in(port, "alice") as alice, logged_in(port, "mallory") as mallory:
        alice.ok(ADD_FRIEND, friend="bob")
        mallory.ok(ADD_FRIEND, friend="bob")
        wait_until(lambda: alice.ok(ALL_FRIENDS)["friends"]["bob"])
        wait_until(lambda: not result(bob.friend_requests()).received)
        assert not mallory.ok(ALL_FRIENDS)["friends"]["bob"]


def test_a_bot_accepts_everybody(port: int, new_client: NewClient) -> None:
    """Also those who asked while it was away."""
    with new_client(port, accept_all=True) as first:
        result(first.login("bob", PASSWORD))
    with logged_in(port, "alice") as alice, logged_in(port, "carol") as carol:
        alice.ok(ADD_FRIEND, friend="bob")
        assert alice.ok(ALL_FRIENDS)["friends"] == {"bob": False}
        bob = new_client(port, accept_all=True)
        result(bob.login("bob", PASSWORD))
        wait_until(lambda: alice.ok(ALL_FRIENDS)["friends"]["bob"])
        carol.ok(ADD_FRIEND, friend="bob")
        wait_until(lambda: carol.ok(ALL_FRIENDS)["friends"]["bob"])


def test_a_server_without_the_feature(new_client: NewClient, script: ScriptedServer) -> None:
    """Nothing is asked of it, and the operations say why they fail."""
    client: JellyClient = new_client(script.port, Asked())
    peer = script.log_in(client, GRANTED)
    assert error(client.answer_friend("bob")).code == "unknown_type"
    assert error(client.friend_requests()).code == "unknown_type"
    adding = client.add_friend("bob")
    peer.receive_request(ADD_FRIEND)
    peer.answer(ADD_FRIEND)
    assert result(adding) is True


def test_requests_in_pages(new_client: NewClient, script: ScriptedServer) -> None:
    """What stands beside the list is put together, too; a notice in between is no second request.
    Notices that cannot be read are dropped.
    """
    asked = Asked()
    client = new_client(script.port, asked)
    peer = script.log_in(client, (*GRANTED, "contacts"))
    peer.receive_request(ALL_FRIENDS)
    peer.notify(SYSTEM, event="friend_request", friend="dan")
    peer.notify(SYSTEM, event="friend_request")
    peer.notify(SYSTEM, event="friend_request", friend=7)
    peer.answer(ALL_FRIENDS, friends={"a": True}, pending=["a"], requests=["dan", "eve"], more=True, after="a")
    peer.receive_request(ALL_FRIENDS)
    peer.answer(ALL_FRIENDS, friends={"b": True}, pending=["b"], more=False)
    wait_until(lambda: asked.askers == ["dan", "eve"])
    found = client.friend_requests()
    peer.receive_request(ALL_FRIENDS)
    peer.answer(ALL_FRIENDS, friends={"a": True}, pending=["a"], requests=["eve"], more=True, after="a")
    peer.receive_request(ALL_FRIENDS)
    peer.answer(ALL_FRIENDS, friends={"b": True}, pending=["b"], more=False)
    assert result(found) == FriendRequests(("a", "b"), ("eve",))


def test_a_connection_that_is_lost_while_it_asks(new_client: NewClient, script: ScriptedServer) -> None:
    """The next one asks again."""
    asked = Asked()
    client = new_client(script.port, asked)
    peer = script.log_in(client, (*GRANTED, "contacts"))
    peer.receive_request(ALL_FRIENDS)
    peer.close()
    peer = script.accept()
    with contextlib.closing(peer):
        assert "contacts" in peer.receive_request(0x14)["features"]
        peer.answer(0x14, username="alice", features=[*GRANTED, "contacts"])
        peer.receive_request(ALL_FRIENDS)
        peer.answer(ALL_FRIENDS, friends={}, pending=[], requests=["dan"], more=False)
        wait_until(lambda: asked.askers == ["dan"])
        asked.wait_for_state(State.ONLINE, count=2)
