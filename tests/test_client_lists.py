"""The client library and long lists: it asks for page after page, and its users notice nothing."""

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from client_tools import (
    NewClient,
    Recorder,
    ScriptedServer,
    error,
    result,
)
from harness import StartServer
from wire import ALL_FRIENDS, LOGOUT, OWN_GROUPS, OWN_PROFILE, SYSTEM, logged_in, register

from client_api import ConnectionLost, Group, JellyClient, Profile, ServerFailed, State
from jelly import lists
from jelly.strict_json import MAX_PARTS

PAGES = ("ack", "pages")


@pytest.fixture
def alice(new_client: NewClient, script: ScriptedServer) -> JellyClient:
    return new_client(script.port)


def test_with_a_real_server(start_server: StartServer, new_client: NewClient, monkeypatch: pytest.MonkeyPatch) -> None:
    """The lists are the same with pages and without, to a client that takes them and to one that
    does not.
    """
    port = start_server(classic_gap=0).port
    register(port, "alice", "bob", "carol")
    with logged_in(port, "alice") as wire:
        for friend in ("bob", "carol", "alice"):
            wire.ok(0x1B, friend=friend)
        for group in ("g1", "g2", "g3"):
            wire.ok(0x17, groupName=group)
            wire.ok(0x19, groupName=group, member="bob")
            wire.ok(0x19, groupName=group, member="carol")
    members = ("alice", "bob", "carol")
    for rows in (1, 2, 5, 1000):
        monkeypatch.setattr(lists, "PIECE_ROWS", rows)
        for features in (PAGES, ("pages",), ("ack",), ()):
            with new_client(port, features=features) as client:
                assert result(client.login("alice", "pw")).features == features
                assert result(client.list_friends()) == {"alice": True, "bob": False, "carol": False}
                groups = result(client.list_groups())
                assert groups == {name: Group(name, members) for name in ("g1", "g2", "g3")}


def test_page_after_page(alice: JellyClient, script: ScriptedServer) -> None:
    """It sends back the place that it was told, and appends what comes to what it has."""
    peer = script.log_in(alice, PAGES)
    groups = alice.list_groups()
    assert peer.receive_request(OWN_GROUPS) == {"username": "alice"}
    peer.answer(OWN_GROUPS, username="alice", groups={"a": ["x"], "b": ["alice", "x"]}, more=True, after="1 b")
    assert peer.receive_request(OWN_GROUPS) == {"username": "alice", "after": "1 b"}
    peer.answer(OWN_GROUPS, username="alice", groups={}, more=True, after="2 b")
    assert peer.receive_request(OWN_GROUPS) == {"username": "alice", "after": "2 b"}
    peer.answer(OWN_GROUPS, username="alice", groups={"b": ["y"], "c": ["z"]}, more=False)
    assert {name: group.members for name, group in result(groups).items()} == {
        "a": ("x",), "b": ("alice", "x", "y"), "c": ("z",),
    }  # fmt: skip


def test_roles_of_several_pages(alice: JellyClient, script: ScriptedServer) -> None:
    """The admins of a group may stand in any page that has some of its members."""
    peer = script.log_in(alice, PAGES)
    groups = alice.list_groups()
    peer.receive_request(OWN_GROUPS)
    first: dict[str, Any] = {
        "groups": {"a": ["x"], "b": ["alice", "x"]},
        "roles": {"a": {"x": "owner"}, "b": {"x": "admin"}},
    }
    peer.answer(OWN_GROUPS, username="alice", **first, more=True, after="1 b")
    peer.receive_request(OWN_GROUPS)
    second: dict[str, Any] = {"groups": {"b": ["y", "z"]}, "roles": {"b": {"z": "admin", "y": "herald"}}}
    peer.answer(OWN_GROUPS, username="alice", **second, more=False)
    assert result(groups) == {"a": Group("a", ("x",)), "b": Group("b", ("alice", "x", "y", "z"), ("x", "z"))}


def test_two_lists_and_other_requests_at_once(alice: JellyClient, script: ScriptedServer) -> None:
    """Each page goes to the list that it belongs to; other requests are answered in between."""
    peer = script.log_in(alice, PAGES)
    one, two, profile = alice.list_friends(), alice.list_friends(), alice.own_profile()
    for type in (ALL_FRIENDS, ALL_FRIENDS, OWN_PROFILE):
        assert peer.receive_request(type) == {"username": "alice"}
    peer.answer(ALL_FRIENDS, username="alice", friends={"a": True}, more=True, after="a")
    assert peer.receive_request(ALL_FRIENDS) == {"username": "alice", "after": "a"}
    peer.answer(ALL_FRIENDS, username="alice", friends={"b": True}, more=False)
    peer.answer(OWN_PROFILE, username="alice")
    assert result(two) == {"b": True}
    assert result(profile) == Profile("alice")
    peer.answer(ALL_FRIENDS, username="alice", friends={"c": False}, more=False)
    assert result(one) == {"a": True, "c": False}


def test_presence_between_two_pages(new_client: NewClient, script: ScriptedServer) -> None:
    """A friend who came after that page is online in the list: the notice was before the result."""
    recorder = Recorder()
    alice = new_client(script.port, recorder)
    peer = script.log_in(alice, PAGES)
    friends, groups = alice.list_friends(), alice.list_groups()
    peer.answer(ALL_FRIENDS, username="alice", friends={"a": False, "b": True}, more=True, after="b")
    peer.answer(OWN_GROUPS, username="alice", groups={"a": ["alice"]}, more=True, after="0 a")
    for friend, online in (("a", True), ("b", False), ("z", False), ("nobody", True), ("a", "yes")):
        peer.notify(SYSTEM, event="presence", friend=friend, online=online)
    for type in (ALL_FRIENDS, OWN_GROUPS, ALL_FRIENDS, OWN_GROUPS):
        peer.receive_request(type)
    peer.answer(ALL_FRIENDS, username="alice", friends={"z": True}, more=False)
    peer.answer(OWN_GROUPS, username="alice", groups={}, more=False)
    assert result(friends) == {"a": True, "b": False, "z": True}
    assert result(groups) == {"a": Group("a", ("alice",))}


@pytest.mark.parametrize(
    "last",
    [{"more": True}, {"more": True, "after": 1}, {"more": True, "after": ""}, {"more": 1, "after": "x"}, {}],
)
def test_a_page_that_says_no_place_is_the_last(
    alice: JellyClient, script: ScriptedServer, last: dict[str, Any]
) -> None:
    peer = script.log_in(alice, PAGES)
    friends = alice.list_friends()
    peer.answer(ALL_FRIENDS, username="alice", friends={"a": True}, **last)
    assert result(friends) == {"a": True}


def test_a_server_that_always_says_the_same_place(alice: JellyClient, script: ScriptedServer) -> None:
    """The client does not ask for ever."""
    peer = script.log_in(alice, PAGES)
    friends = alice.list_friends()
    for _ in range(2):
        peer.receive_request(ALL_FRIENDS)
        peer.answer(ALL_FRIENDS, username="alice", friends={"a": True}, more=True, after="a")
    assert result(friends) == {"a": True}


@pytest.mark.parametrize("friends", [1, ["a"], {"a": True}])
def test_an_error_behind_the_first_page(alice: JellyClient, script: ScriptedServer, friends: Any) -> None:
    """A refusal of the next page, or one that cannot be read, ends the future with an error."""
    peer = script.log_in(alice, PAGES)
    future = alice.list_friends()
    peer.answer(ALL_FRIENDS, username="alice", friends={"b": True}, more=True, after="b")
    for _ in range(2):
        peer.receive_request(ALL_FRIENDS)
    status = 0x34 if isinstance(friends, dict) else 0x31
    peer.answer(ALL_FRIENDS, status, username="alice", friends=friends, more=False)
    assert type(error(future)) is ServerFailed


def test_a_lost_connection_between_two_pages(alice: JellyClient, script: ScriptedServer) -> None:
    """The list ends with ConnectionLost, like any request that is not a message."""
    peer = script.log_in(alice, PAGES)
    friends = alice.list_friends()
    peer.answer(ALL_FRIENDS, username="alice", friends={"b": True}, more=True, after="b")
    peer.receive_request(ALL_FRIENDS)
    peer.receive_request(ALL_FRIENDS)
    peer.close()
    assert type(error(friends)) is ConnectionLost


def test_a_logout_before_the_last_page(alice: JellyClient, script: ScriptedServer) -> None:
    """The server reads nothing behind a LOGOUT, so the next page is not asked for."""
    peer = script.log_in(alice, PAGES)
    friends, logout = alice.list_friends(), alice.logout()
    peer.receive_request(ALL_FRIENDS)
    peer.receive_request(LOGOUT)
    peer.answer(ALL_FRIENDS, username="alice", friends={"b": True}, more=True, after="b")
    failure = error(friends)
    assert (type(failure), failure.sent) == (ConnectionLost, True)
    peer.close()
    assert result(logout) is None
    assert alice.state is State.OFFLINE


def test_a_close_waits_for_the_last_page(new_client: NewClient, script: ScriptedServer) -> None:
    """As for the response to any request that was made before."""
    alice = new_client(script.port)
    peer = script.log_in(alice, PAGES)
    friends = alice.list_friends()
    with ThreadPoolExecutor() as pool:
        closing = pool.submit(alice.close)
        peer.receive_request(ALL_FRIENDS)
        peer.answer(ALL_FRIENDS, username="alice", friends={"b": True}, more=True, after="b")
        peer.receive_request(ALL_FRIENDS)
        peer.answer(ALL_FRIENDS, username="alice", friends={"c": True}, more=False)
        closing.result()
    assert result(friends) == {"b": True, "c": True}


def test_a_long_list_in_one_piece(alice: JellyClient, script: ScriptedServer) -> None:
    """A server without pages sends it so, and `more` and `after` mean nothing there."""
    peer = script.log_in(alice, ("ack",))
    groups = alice.list_groups()
    members = [f"member{number}" for number in range(2 * MAX_PARTS)]
    peer.answer(OWN_GROUPS, username="alice", groups={"team": members}, more=True, after="x")
    assert result(groups)["team"].members == tuple(members)
