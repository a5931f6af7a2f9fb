"""SYSTEM notices over the wire: who is told what, byte for byte, and that classic clients are never
told anything.
"""

import socket
import threading
import time
from pathlib import Path

import pytest
from harness import StartServer
from wire import (
    ADD_FRIEND,
    ADD_MEMBER,
    ALL_FRIENDS,
    CREATE_GROUP,
    DISBAND_GROUP,
    GROUP_MESSAGE,
    LOGIN,
    LOGOUT,
    NOTICE,
    OWN_PROFILE,
    PERSON_MESSAGE,
    RECONNECT,
    REMOVE_FRIEND,
    REMOVE_MEMBER,
    SUCCESS,
    SYSTEM,
    Wire,
    logged_in,
    register,
    wait_until,
)

from faults.process import Server
from jelly import notifier
from jelly.send_queue import SendQueue
from jelly.server import JellyServer

TAKEN_OVER = (NOTICE, SYSTEM, 0, b'{"event":"taken_over"}')
SHUTDOWN = (NOTICE, SYSTEM, 0, b'{"event":"shutdown"}')

modern = pytest.mark.parametrize("features", [[], ["ack"]], ids=["plain", "ack"])


@pytest.fixture
def server(start_server: StartServer) -> JellyServer:
    """A server with alice, bob, carol and dave."""
    server = start_server(classic_gap=0)
    register(server.port, "alice", "bob", "carol", "dave")
    return server


def presence(friend: str, online: bool) -> tuple[int, int, int, bytes]:
    """The notice that a friend came or went."""
    word = "true" if online else "false"
    return NOTICE, SYSTEM, 0, f'{{"event":"presence","friend":"{friend}","online":{word}}}'.encode()


def group_changed(members: str, *changes: str, group: str = "team") -> tuple[int, int, int, bytes]:
    """The notice that members were added or removed; a change is like `alice added bob`."""
    names = ",".join(f'"{name}"' for name in members.split())
    parts = [change.split() for change in changes]
    changed = ",".join(f'{{"user":"{user}","{what}":"{member}"}}' for user, what, member in parts)
    body = f'{{"event":"group_changed","group":"{group}","members":[{names}],"changes":[{changed}]}}'
    return NOTICE, SYSTEM, 0, body.encode()


def was_told_nothing(wire: Wire) -> bool:
    """Whether no notice stands before the answer of the store thread, which sends them all."""
    wire.ok(ALL_FRIENDS)
    return not wire.notices


def assert_ends(wire: Wire) -> None:
    with pytest.raises(EOFError):
        wire.receive()


# --- taken_over -----------------------------------------------------------------------------------


@modern
def test_a_takeover_is_told(server: JellyServer, features: list[str]) -> None:
    """It is the last thing that the old connection hears; then the server closes, and serves it no
    more.
    """
    with logged_in(server.port, "bob", features=features) as old, logged_in(server.port, "bob") as new:
        assert old.receive() == TAKEN_OVER
        old.send_message("alice", "too late")
        assert_ends(old)
        assert new.ok(OWN_PROFILE) == {"username": "bob"}
    with logged_in(server.port, "alice") as alice:
        alice.ok(OWN_PROFILE)
        assert not alice.notices


def test_a_takeover_by_reconnect_is_told(server: JellyServer) -> None:
    """To the server a client that comes back before the old line's end was seen is the same."""
    with logged_in(server.port, "bob", features=[]) as old, Wire(server.port) as new:
        new.reconnect("bob", old.token, features=[])
        assert old.receive() == TAKEN_OVER
        assert_ends(old)


def test_a_takeover_is_not_told_to_a_classic_client(server: JellyServer) -> None:
    """To it this looks like any other cut, whoever takes over."""
    with logged_in(server.port, "bob") as old, logged_in(server.port, "bob", features=["ack"]):
        assert_ends(old)


def test_a_takeover_behind_messages(server: JellyServer) -> None:
    """What the old connection was sent before stands before it, whole."""
    with logged_in(server.port, "alice") as alice, logged_in(server.port, "bob", features=[]) as old:
        alice.message("bob", "x" * 60_000)
        with logged_in(server.port, "bob", features=[]):
            assert old.receive().type == PERSON_MESSAGE
            assert old.receive() == TAKEN_OVER
            assert_ends(old)


def test_a_takeover_of_a_client_that_takes_nothing(server: JellyServer) -> None:
    """It has three seconds to take the closing frame, then it is closed."""
    with logged_in(server.port, "alice") as alice, logged_in(server.port, "bob", features=[]):
        for _ in range(200):
            alice.message("bob", "x" * 60_000)
        [connection] = [c for c in tuple(server.connections) if c.session.user == "bob"]
        wait_until(lambda: connection.send_queue.stalled_since is not None)
        with logged_in(server.port, "bob"):
            told_at = connection.send_queue.closing_frame_at
            assert told_at is not None
            server.watchdog.check(told_at + 2.9)
            assert not connection.send_queue.is_closed
            server.watchdog.check(told_at + 3)
            assert connection.send_queue.is_closed


def test_a_slow_client_still_hears_of_its_takeover(server: JellyServer) -> None:
    """If it reads again in time: the frame that had begun is ended before it, what waited behind
    that is dropped.
    """
    with logged_in(server.port, "alice") as alice, logged_in(server.port, "bob", features=[]) as old:
        for _ in range(200):
            alice.message("bob", "x" * 60_000)
        [connection] = [c for c in tuple(server.connections) if c.session.user == "bob"]
        wait_until(lambda: connection.send_queue.stalled_since is not None)
        with logged_in(server.port, "bob", features=[]):
            while (reply := old.receive()).type == PERSON_MESSAGE:
                pass
            assert reply == TAKEN_OVER
            assert_ends(old)


# --- shutdown -------------------------------------------------------------------------------------


@modern
def test_a_shutdown_is_told(start_server: StartServer, features: list[str]) -> None:
    """After all answers, before the connection closes; a classic client just sees the end."""
    server = start_server(classic_gap=0)
    register(server.port, "alice", "bob")
    with (
        logged_in(server.port, "alice", features=features) as alice,
        logged_in(server.port, "bob") as bob,
        Wire(server.port) as nobody,
    ):
        nobody.wait_until_served()
        for _ in range(20):
            alice.send_request(OWN_PROFILE)
        assert alice.receive().status == SUCCESS
        server.stop()
        while (reply := alice.receive()) != SHUTDOWN:
            assert (reply.type, reply.status) == (OWN_PROFILE, SUCCESS)
        for wire in (alice, bob, nobody):
            assert_ends(wire)


def test_sigterm_is_told(tmp_path: Path) -> None:
    """The real program, stopped as an operator does."""
    with Server(f"sqlite:///{tmp_path}/jelly.db") as server:
        register(server.port, "alice")
        with logged_in(server.port, "alice", features=["ack"]) as alice:
            assert server.stop() == 0
            assert alice.receive() == SHUTDOWN
            assert_ends(alice)


# --- presence -------------------------------------------------------------------------------------


def befriend(server: JellyServer, user: str, *friends: str) -> None:
    with logged_in(server.port, user) as wire:
        for friend in friends:
            wire.ok(ADD_FRIEND, friend=friend)


@pytest.mark.parametrize("features", [None, []], ids=["classic", "modern"])
def test_a_friend_comes_and_goes(server: JellyServer, features: list[str] | None) -> None:
    """By login and logout, login and cut, reconnect and close: each is told once, whatever the
    friend's client.
    """
    befriend(server, "alice", "bob")
    with logged_in(server.port, "alice", features=[]) as alice:
        with logged_in(server.port, "bob", features=features) as bob:
            assert alice.receive() == presence("bob", online=True)
            bob.send_request(LOGOUT, token=bob.token)
            assert alice.receive() == presence("bob", online=False)
        bob = logged_in(server.port, "bob", features=features)
        assert alice.receive() == presence("bob", online=True)
        bob.reset()
        assert alice.receive() == presence("bob", online=False)
        with Wire(server.port) as again:
            again.reconnect("bob", bob.token, features=features)
            assert alice.receive() == presence("bob", online=True)
        assert alice.receive() == presence("bob", online=False)
        assert was_told_nothing(alice)


def test_a_takeover_is_no_change_of_presence(server: JellyServer) -> None:
    """Neither the new login is told nor the end of the old connection."""
    befriend(server, "alice", "bob")
    with logged_in(server.port, "alice", features=[]) as alice:
        old = logged_in(server.port, "bob")
        assert alice.receive() == presence("bob", online=True)
        with logged_in(server.port, "bob", features=[]) as new, Wire(server.port) as newest:
            newest.reconnect("bob", new.token, features=[])
            assert new.receive() == TAKEN_OVER
            old.close()
            new.close()
            wait_until(lambda: len(server.connections) == 2)
            assert was_told_nothing(alice)
        assert alice.receive() == presence("bob", online=False)


def test_presence_is_told_to_those_who_have_the_friend(server: JellyServer) -> None:
    """Not to the friend, nor to strangers, nor to classic clients, nor about oneself."""
    befriend(server, "alice", "bob", "alice")
    befriend(server, "carol", "bob")
    befriend(server, "bob", "dave")
    with (
        logged_in(server.port, "alice", features=[]) as alice,
        logged_in(server.port, "carol") as carol,
        logged_in(server.port, "dave", features=[]) as dave,
        logged_in(server.port, "bob", features=[]) as bob,
    ):
        assert alice.receive() == presence("bob", online=True)
        for wire in (alice, carol, dave, bob):
            assert was_told_nothing(wire)


def test_a_new_friend_is_told_about_and_a_former_one_is_not(server: JellyServer) -> None:
    """The list may change while one is logged in."""
    with logged_in(server.port, "alice", features=[]) as alice:
        alice.ok(ADD_FRIEND, friend="bob")
        with logged_in(server.port, "bob"):
            assert alice.receive() == presence("bob", online=True)
            alice.ok(REMOVE_FRIEND, friend="bob")
        wait_until(lambda: server.sessions.get("bob") is None)
        logged_in(server.port, "bob").close()
        assert was_told_nothing(alice)


def test_a_login_that_ends_while_it_is_served(server: JellyServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """The connection ends before the login is served, and the reader notices it while it is: the
    friend is gone.
    """
    with logged_in(server.port, "bob") as bob:
        token = bob.token
    befriend(server, "alice", "bob")
    wait_until(lambda: not server.connections)
    with logged_in(server.port, "alice", features=[]) as alice:
        is_closing = threading.Event()
        close, stop_confirming = SendQueue.close, SendQueue.stop_confirming

        def close_after_the_login(send_queue: SendQueue) -> None:
            is_closing.set()
            wait_until(lambda: server.presence.is_announced_online("bob"))
            close(send_queue)

        def log_in_during_the_end(send_queue: SendQueue) -> None:
            is_closing.wait(10)
            stop_confirming(send_queue)

        monkeypatch.setattr(SendQueue, "close", close_after_the_login)
        monkeypatch.setattr(SendQueue, "stop_confirming", log_in_during_the_end)
        with Wire(server.port) as bob:
            bob.send_request(RECONNECT, username="bob", token=token, features=["ack"])
            wait_until(lambda: any(c.session.is_modern and not c.session.user for c in tuple(server.connections)))
            bob.reset()
        wait_until(lambda: len(server.connections) == 1)
        monkeypatch.setattr(SendQueue, "close", close)
        monkeypatch.setattr(SendQueue, "stop_confirming", stop_confirming)
        assert alice.ok(ALL_FRIENDS)["friends"] == {"bob": False}


def test_a_failed_change_of_the_list_changes_nothing(server: JellyServer) -> None:
    """Whoever is not on the list is not told about, and who is on it stays on it."""
    befriend(server, "alice", "bob")
    with logged_in(server.port, "alice", features=[]) as alice:
        assert alice.refused(ADD_FRIEND, friend="bob") == "already_friends"
        assert alice.refused(REMOVE_FRIEND, friend="carol") == "not_friends"
        with logged_in(server.port, "carol"), logged_in(server.port, "bob"):
            assert alice.receive() == presence("bob", online=True)
            assert was_told_nothing(alice)


def test_a_list_is_another_sessions_too(server: JellyServer) -> None:
    """After a takeover the list holds on the new connection, if that is a modern one."""
    with logged_in(server.port, "alice", features=[]) as first:
        first.ok(ADD_FRIEND, friend="bob")
        with logged_in(server.port, "alice", features=[]) as second:
            with logged_in(server.port, "bob"):
                assert second.receive() == presence("bob", online=True)
            assert second.receive() == presence("bob", online=False)
            with logged_in(server.port, "alice") as third, logged_in(server.port, "bob"):
                assert was_told_nothing(third)
        assert not server.presence._watchers


def test_the_register_is_empty_when_all_have_left(server: JellyServer) -> None:
    """It holds lists of those who are online, and nothing else."""
    befriend(server, "alice", "bob", "carol")
    befriend(server, "bob", "alice")
    with logged_in(server.port, "alice", features=[]), logged_in(server.port, "bob", features=["ack"]):
        assert server.presence._friend_lists == {"alice": {"bob", "carol"}, "bob": {"alice"}}
    wait_until(lambda: not server.presence._announced_online)
    assert not server.presence._friend_lists
    assert not server.presence._watchers


def test_the_list_of_friends_agrees_with_the_notices(server: JellyServer) -> None:
    """While a friend comes and goes as fast as it can: the list is what one knows from the notices
    before it.
    """
    befriend(server, "alice", "bob")
    stop = threading.Event()
    told = [False]

    def come_and_go() -> None:
        while not stop.is_set():
            logged_in(server.port, "bob").close()

    with logged_in(server.port, "alice", features=[]) as alice:
        thread = threading.Thread(target=come_and_go)
        thread.start()
        for number in range(300):
            if number == 299:
                stop.set()
                thread.join()
                wait_until(lambda: not server.presence.is_announced_online("bob"))
            listed = alice.ok(ALL_FRIENDS)["friends"]["bob"]
            told += [notice.values["online"] for notice in alice.notices]
            alice.notices.clear()
            assert listed == told[-1]
        assert told == [number % 2 == 1 for number in range(len(told))]
        assert not told[-1]


@pytest.mark.parametrize("interval", [0.05, 1.0])
def test_the_list_agrees_when_changes_wait(
    server: JellyServer, monkeypatch: pytest.MonkeyPatch, interval: float
) -> None:
    """Changes that are told together: the list is still what the watcher knows, and the last notice
    is right.
    """
    monkeypatch.setattr(notifier, "TELL_INTERVAL", interval)
    befriend(server, "alice", "bob")
    told = [False]
    with logged_in(server.port, "alice", features=[]) as alice:
        for number in range(40):
            with logged_in(server.port, "bob") as bob:
                if number % 3 == 0:
                    bob.message("alice", "hello")
                listed = alice.ok(ALL_FRIENDS)["friends"]["bob"]
                for notice in alice.notices:
                    if notice.type == SYSTEM:
                        told.append(notice.values["online"])
                    else:
                        assert told[-1], "a message of a friend comes after the friend"
                alice.notices.clear()
                assert listed == told[-1]
        wait_until(lambda: not server.presence.is_announced_online("bob", "alice"))
        assert alice.ok(ALL_FRIENDS)["friends"] == {"bob": False}
        told += [notice.values["online"] for notice in alice.notices if notice.type == SYSTEM]
        assert told == [number % 2 == 1 for number in range(len(told))]
        assert not told[-1]


# --- groups ---------------------------------------------------------------------------------------


def test_members_are_told_of_a_new_one(server: JellyServer) -> None:
    """All who are in the group now and online with a modern client, the creator and the new one,
    too.
    """
    with (
        logged_in(server.port, "alice", features=[]) as alice,
        logged_in(server.port, "bob", features=["ack"]) as bob,
        logged_in(server.port, "carol") as carol,
        logged_in(server.port, "dave", features=[]) as dave,
    ):
        alice.ok(CREATE_GROUP, groupName="team")
        assert was_told_nothing(alice)
        for member, members in (("bob", "alice bob"), ("carol", "alice bob carol")):
            alice.ok(ADD_MEMBER, groupName="team", member=member)
            for wire in (alice, bob):
                assert wire.receive_notice() == group_changed(members, f"alice added {member}")
        for wire in (alice, bob, carol, dave):
            assert was_told_nothing(wire)


def found(port: int, *members: str) -> Wire:
    """Have alice create the group `team` with some members; she stays, with a modern client."""
    with logged_in(port, "alice") as alice:
        alice.ok(CREATE_GROUP, groupName="team")
        for member in members:
            alice.ok(ADD_MEMBER, groupName="team", member=member)
    return logged_in(port, "alice", features=[])


@pytest.mark.parametrize("who", ["alice", "bob"])
def test_members_are_told_who_is_gone(server: JellyServer, who: str) -> None:
    """Those who stay, and the one who left or was removed, who sees a list without the own name."""
    with (
        found(server.port, "bob", "carol", "dave") as alice,
        logged_in(server.port, "bob", features=[]) as bob,
        logged_in(server.port, "carol", features=[]) as carol,
        logged_in(server.port, "dave") as dave,
    ):
        {"alice": alice, "bob": bob}[who].ok(REMOVE_MEMBER, groupName="team", member="bob")
        for wire in (alice, bob, carol):
            assert wire.receive_notice() == group_changed("alice carol dave", f"{who} removed bob")
        assert was_told_nothing(dave)
        alice.message("team", "without bob", type=GROUP_MESSAGE)
        assert was_told_nothing(bob)


def test_changes_that_follow_are_told_together(server: JellyServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """With who changed what, and before the next message to the group."""
    with found(server.port, "bob") as alice, logged_in(server.port, "bob", features=["ack"]) as bob:
        server.group_notices._recent._told_at.clear()  # the second before was quiet
        monkeypatch.setattr(notifier, "TELL_INTERVAL", 60.0)
        alice.ok(ADD_MEMBER, groupName="team", member="carol")
        alice.ok(ADD_MEMBER, groupName="team", member="dave")
        alice.ok(REMOVE_MEMBER, groupName="team", member="carol")
        assert bob.receive_notice() == group_changed("alice bob carol", "alice added carol")
        assert was_told_nothing(bob)
        alice.message("team", "hello", type=GROUP_MESSAGE)
        assert bob.receive_notice() == group_changed("alice bob dave", "alice added dave", "alice removed carol")
        assert bob.receive_notice().type == GROUP_MESSAGE


def test_members_are_told_of_the_end(server: JellyServer) -> None:
    """All former members who are online, the creator, too."""
    with (
        found(server.port, "bob", "carol") as alice,
        logged_in(server.port, "bob", features=["ack"]) as bob,
        logged_in(server.port, "carol") as carol,
    ):
        alice.ok(DISBAND_GROUP, groupName="team")
        for wire in (alice, bob):
            assert wire.receive_notice() == (NOTICE, SYSTEM, 0, b'{"event":"group_disbanded","group":"team"}')
        for wire in (alice, bob, carol):
            assert was_told_nothing(wire)


def test_a_change_that_was_refused_is_not_told(server: JellyServer) -> None:
    """Nothing happened, so there is nothing to tell."""
    with found(server.port, "bob") as alice, logged_in(server.port, "bob", features=[]) as bob:
        assert alice.refused(ADD_MEMBER, groupName="team", member="bob") == "already_member"
        assert alice.refused(REMOVE_MEMBER, groupName="team", member="carol") == "not_a_member"
        assert bob.refused(DISBAND_GROUP, groupName="team") == "not_group_creator"
        assert was_told_nothing(alice)
        assert was_told_nothing(bob)


def test_who_is_offline_is_not_told_later(server: JellyServer) -> None:
    """These notices are not stored."""
    with found(server.port, "bob") as alice:
        alice.ok(ADD_MEMBER, groupName="team", member="carol")
        with logged_in(server.port, "bob", features=["ack"]) as bob:
            assert was_told_nothing(bob)


# --- all of them ----------------------------------------------------------------------------------


def test_a_classic_client_is_told_nothing(server: JellyServer) -> None:
    """Whatever happens around it, all it gets are its answers and its messages."""
    befriend(server, "bob", "alice")
    with logged_in(server.port, "bob") as bob:
        with found(server.port, "bob") as alice:
            alice.ok(ADD_MEMBER, groupName="team", member="carol")
            alice.ok(REMOVE_MEMBER, groupName="team", member="bob")
            alice.ok(ADD_MEMBER, groupName="team", member="bob")
            alice.message("bob", "hello")
            alice.ok(DISBAND_GROUP, groupName="team")
        wait_until(lambda: server.sessions.get("alice") is None)
        bob.ok(ALL_FRIENDS)
        assert [notice.type for notice in bob.notices] == [PERSON_MESSAGE]
        server.stop()
        assert_ends(bob)


def test_who_takes_nothing_does_without(start_server: StartServer) -> None:
    """A client whose send queue is full gets no such notice, and all of its messages when it reads
    again.
    """
    server = start_server(classic_gap=0)
    register(server.port, "alice", "bob")
    with found(server.port, "bob") as alice, Wire(server.port) as bob:
        bob.socket.close()
        bob.socket = socket.socket()
        bob.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        bob.socket.settimeout(10)
        bob.socket.connect(("127.0.0.1", server.port))
        bob.login("bob", features=[])
        for number in range(150):
            alice.message("bob", f"{number} {'x' * 30_000}")
        wait_until(lambda: not server.sessions.get("bob").has_room)  # type: ignore[union-attr]
        started = time.monotonic()
        alice.ok(DISBAND_GROUP, groupName="team")
        assert time.monotonic() - started < 5
        assert [int(content.split()[0]) for content in bob.contents(150)] == list(range(150))
        assert was_told_nothing(bob)


def test_requests_of_this_type(server: JellyServer) -> None:
    """It is a notice only: nobody may send one."""
    with logged_in(server.port, "alice", features=["ack"]) as alice:
        assert alice.refused(SYSTEM, event="shutdown") == "unknown_type"
        alice.send_request(LOGIN, username="alice", password="pw")
        assert alice.receive().error == "already_logged_in"
