"""Each message once: what the client library acknowledges when, and which duplicates it drops."""

import threading
from collections.abc import Callable
from typing import Any

import pytest
from client_tools import (
    ACK,
    Blocked,
    NewClient,
    Recorder,
    ScriptedServer,
    message,
    response,
    result,
)
from wire import HEARTBEAT, OWN_PROFILE, Reply, wait_until

from client_api import JellyClient, MessageEvent, Receiver, State
from jelly.client.acks import ACK_COUNT, ACK_SECONDS, MAX_RECENT, AckTracker


def acknowledged(reply: Reply) -> Any:
    """Return the id of a frame, which must be an acknowledgement."""
    assert (reply.sign, reply.type) == (1, ACK), reply
    return reply.values["id"]


@pytest.fixture
def alice(new_client: NewClient, script: ScriptedServer, recorder: Recorder) -> JellyClient:
    return new_client(script.port, recorder)


# --- acknowledgements -----------------------------------------------------------------------------


def test_a_message_is_acknowledged_after_its_callback(new_client: NewClient, script: ScriptedServer) -> None:
    """Not before: a program that crashes in the callback gets the message again."""
    blocked = Blocked()
    peer = script.log_in(new_client(script.port, blocked))
    peer.say("hello", id=5)
    assert blocked.entered.wait(10)
    assert peer.is_silent()
    blocked.go.set()
    assert acknowledged(peer.receive()) == 5
    assert blocked.events[-1].id == 5  # type: ignore[union-attr]


def test_a_message_whose_callback_fails_is_acknowledged(
    new_client: NewClient, script: ScriptedServer, caplog: pytest.LogCaptureFixture
) -> None:
    """The application has had it: again it would fail again, for ever."""

    class Failing(Receiver):
        def on_message(self, event: MessageEvent) -> None:
            raise SystemExit

    alice = new_client(script.port, Failing())
    peer = script.log_in(alice)
    peer.say("hello", id=5)
    assert acknowledged(peer.receive()) == 5
    alice.close()
    assert "a callback failed" in caplog.text


@pytest.mark.parametrize("end", [lambda alice: alice.close(timeout=0), lambda alice: alice.logout()])
def test_what_was_delivered_is_acknowledged_before_the_end(
    new_client: NewClient, script: ScriptedServer, end: Callable[[JellyClient], object]
) -> None:
    """The next login does not get it again, although the callback of a later message still runs."""

    class BlockedAtThree(Blocked):
        def on_message(self, event: MessageEvent) -> None:
            if event.id == 3:
                super().on_message(event)

    blocked = BlockedAtThree()
    alice = new_client(script.port, blocked)
    peer = script.log_in(alice)
    peer.send(b"".join(message(str(id), id=id) for id in (1, 2, 3)))
    assert blocked.entered.wait(10)
    end(alice)
    ids = [acknowledged(peer.receive())]
    if ids == [1]:  # the second one came too soon after the first for an acknowledgement of its own
        ids.append(acknowledged(peer.receive()))
    assert ids[-1] == 2
    blocked.go.set()


def test_many_messages_are_acknowledged_together(
    alice: JellyClient, script: ScriptedServer, recorder: Recorder
) -> None:
    """Each ACK covers all messages up to its id; the last message has one."""
    peer = script.log_in(alice)
    peer.send(b"".join(message(str(id), id=id) for id in range(1, 201)))
    ids = [0]
    while ids[-1] < 200:
        ids.append(acknowledged(peer.receive()))
    assert ids == sorted(set(ids))
    assert len(ids) < 100
    assert recorder.contents(200) == [str(id) for id in range(1, 201)]


def test_a_listener_behind_the_last_message_does_not_put_off_its_acknowledgement(
    alice: JellyClient, script: ScriptedServer
) -> None:
    """Only waiting messages delay an acknowledgement."""
    peer = script.log_in(alice)
    peer.say("1", id=1)
    assert acknowledged(peer.receive()) == 1
    go = threading.Event()
    first, second = alice.own_profile(), alice.own_profile()
    first.add_done_callback(lambda _: go.wait(10))
    second.add_done_callback(lambda _: None)
    profile = response(OWN_PROFILE, username="alice")
    peer.send(profile + message("2", id=2) + profile)
    result(second)
    go.set()
    for _ in (first, second):
        peer.receive_request(OWN_PROFILE)
    assert acknowledged(peer.receive()) == 2


def test_what_has_no_id_is_not_acknowledged(alice: JellyClient, script: ScriptedServer, recorder: Recorder) -> None:
    """Neither are messages with an invalid id, nor system notices."""
    peer = script.log_in(alice)
    peer.send(message("a") + message("b", id="7") + message("c", id=True) + message("d", id=1.5))
    peer.notify(0x25, event="presence", id=9)
    recorder.contents(4)
    recorder.wait_for(lambda event: getattr(event, "event", "") == "presence")
    assert peer.is_silent()


def test_a_message_is_acknowledged_before_close(new_client: NewClient, script: ScriptedServer) -> None:
    """close() waits for the callback, and sends its acknowledgement before it closes the
    connection."""
    blocked = Blocked()
    alice = new_client(script.port, blocked)
    peer = script.log_in(alice)
    peer.send(message("1", id=1) + message("2", id=2))
    assert blocked.entered.wait(10)
    closer = threading.Thread(target=alice.close)
    closer.start()
    blocked.go.set()
    ids = [acknowledged(peer.receive())]
    if ids[-1] != 2:
        ids.append(acknowledged(peer.receive()))
    assert ids[-1] == 2
    assert peer.is_closed_by_server()
    closer.join()
    assert blocked.messages == ["1", "2"]


def test_what_cannot_be_acknowledged_is_not_delivered_at_close(new_client: NewClient, script: ScriptedServer) -> None:
    """A message that waits when the connection is lost during close() stays with the server."""
    blocked = Blocked()
    alice = new_client(script.port, blocked)
    peer = script.log_in(alice)
    peer.send(message("1", id=1) + message("2", id=2) + message("without"))
    assert blocked.entered.wait(10)
    alice.close(timeout=0.05)
    blocked.go.set()
    blocked.wait_for_state(State.CLOSED)
    assert blocked.messages == ["1", "without"]


# --- repeats --------------------------------------------------------------------------------------


def test_repeats_are_dropped_and_acknowledged_anew(
    alice: JellyClient, script: ScriptedServer, recorder: Recorder
) -> None:
    """After reconnecting, the server sends unacknowledged messages again; the application gets them
    once."""
    peer = script.log_in(alice)
    peer.send(message("1", id=1) + message("2", id=2))
    recorder.contents(2)
    peer.close()
    peer = script.accept_login(behind=message("1", id=1) + message("2", id=2) + message("3", id=3))
    ids = [acknowledged(peer.receive())]
    while ids[-1] < 3:
        ids.append(acknowledged(peer.receive()))
    assert ids == sorted(set(ids))
    assert recorder.contents(3) == recorder.messages == ["1", "2", "3"]


def test_only_duplicates(alice: JellyClient, script: ScriptedServer, recorder: Recorder) -> None:
    """Duplicates are acknowledged on the new connection even if nothing new follows them."""
    peer = script.log_in(alice)
    peer.send(message("1", id=1) + message("2", id=2))
    recorder.contents(2)
    peer.close()
    peer = script.accept_login(behind=message("1", id=1) + message("2", id=2))
    assert acknowledged(peer.receive()) == 2
    assert peer.is_silent()
    assert recorder.messages == ["1", "2"]


def test_a_duplicate_while_the_first_one_still_waits(new_client: NewClient, script: ScriptedServer) -> None:
    """It is dropped, and acknowledged on the new connection when the application has had the first
    one."""
    blocked = Blocked()
    alice = new_client(script.port, blocked)
    peer = script.log_in(alice)
    both = message("1", id=1) + message("2", id=2)
    peer.send(both)
    assert blocked.entered.wait(10)
    peer.close()
    peer = script.accept_login(behind=both)
    wait_until(lambda: alice.state is State.ONLINE)
    profile = alice.own_profile()
    peer.receive_request(OWN_PROFILE)
    peer.answer(OWN_PROFILE, username="alice")
    result(profile)  # so the client has read the duplicates
    assert peer.is_silent()
    blocked.go.set()
    ids = [acknowledged(peer.receive())]
    if ids != [2]:
        ids.append(acknowledged(peer.receive()))
    assert ids[-1] == 2
    assert blocked.contents(2) == blocked.messages == ["1", "2"]


def test_delivered_between_two_connections(new_client: NewClient, script: ScriptedServer) -> None:
    """A message processed while there was no connection is acknowledged when it arrives again, not
    before."""
    blocked = Blocked()
    alice = new_client(script.port, blocked)
    peer = script.log_in(alice)
    peer.say("1", id=1)
    assert blocked.entered.wait(10)
    peer.close()
    peer = script.accept()
    peer.receive()
    blocked.go.set()
    assert blocked.contents(1) == ["1"]
    peer.answer(0x14, username="alice", features=["ack"])
    blocked.wait_for_state(State.ONLINE, count=2)
    assert peer.is_silent()
    peer.say("1", id=1)
    assert acknowledged(peer.receive()) == 1
    assert blocked.messages == ["1"]


def test_a_server_that_starts_anew_with_the_same_ids(
    alice: JellyClient, script: ScriptedServer, recorder: Recorder
) -> None:
    """Other messages with the same ids, from a server with an empty database, are no duplicates."""
    peer = script.log_in(alice)
    peer.send(message("old 1", id=1) + message("old 2", id=2))
    recorder.contents(2)
    peer.close()
    peer = script.accept_login(behind=message("new 1", id=1))
    assert acknowledged(peer.receive()) == 1
    peer.say("new 2", id=2)
    assert acknowledged(peer.receive()) == 2
    assert recorder.contents(4) == ["old 1", "old 2", "new 1", "new 2"]


def test_another_user_of_the_same_client(alice: JellyClient, script: ScriptedServer, recorder: Recorder) -> None:
    """Ids belong to a receiver: after a login as another user they mean other messages."""
    peer = script.log_in(alice)
    peer.say("hello", id=1)
    assert acknowledged(peer.receive()) == 1
    logout = alice.logout()
    peer.receive_request(0x13)
    peer.close()
    result(logout)
    login = alice.login("dora", "pw")
    peer = script.accept_login(behind=message("hello", id=1))
    result(login)
    assert acknowledged(peer.receive()) == 1
    assert recorder.contents(2) == ["hello", "hello"]


def test_a_classic_connection_has_no_acknowledgements(
    alice: JellyClient, script: ScriptedServer, recorder: Recorder
) -> None:
    """Messages without ids are delivered as often as they arrive, and are not acknowledged."""
    peer = script.log_in(alice, features=None)
    peer.send(message("1") + message("1"))
    assert recorder.contents(2) == ["1", "1"]
    assert peer.receive().type == HEARTBEAT
    assert peer.is_silent()


# --- the tracker ----------------------------------------------------------------------------------


@pytest.fixture
def acks() -> AckTracker:
    acks = AckTracker()
    acks.connected()
    return acks


def came(acks: AckTracker, *ids: int) -> list[bool]:
    return [acks.is_new(id, id * 7) for id in ids]


def test_tracker_knows_what_came_before(acks: AckTracker) -> None:
    """An id with the same contents is new once."""
    assert came(acks, 1, 2, 1, 2, 3) == [True, True, False, False, True]
    assert acks.is_new(3, 0)


def test_tracker_acknowledges_the_last_one_at_once(acks: AckTracker) -> None:
    """And messages that arrive one by one, each at once."""
    for id in (1, 2, 3):
        came(acks, id)
        assert acks.delivered(id, 100.0) == id


def test_tracker_acknowledges_in_batches(acks: AckTracker) -> None:
    """While more wait: after each `ACK_COUNT` messages, or when `ACK_SECONDS` have passed."""
    came(acks, *range(1, 100))
    given = [acks.delivered(id, 0.0) for id in range(1, 70)]
    assert [id for id in given if id] == [ACK_COUNT, 2 * ACK_COUNT]
    assert acks.delivered(70, ACK_SECONDS) == 70
    assert acks.delivered(71, ACK_SECONDS) is None


def test_tracker_acknowledges_nothing_twice(acks: AckTracker) -> None:
    """On one connection, each acknowledgement is for a greater id than the one before."""
    came(acks, 1, 2)
    acks.delivered(1, 0.0)
    assert acks.delivered(2, 0.0) == 2
    came(acks, 1)
    assert acks.ack_duplicates() is None
    assert acks.delivered(2, 9.0) is None


def test_tracker_duplicates(acks: AckTracker) -> None:
    """A duplicate is acknowledged once if it was delivered before; otherwise after it is
    delivered."""
    came(acks, 1, 2)
    acks.delivered(1, 0.0)
    acks.connected()
    came(acks, 1, 2)
    assert (acks.ack_duplicates(), acks.ack_duplicates()) == (1, None)
    assert acks.delivered(2, 0.0) == 2


def test_tracker_waits_until_it_has_come_on_this_connection(acks: AckTracker) -> None:
    """The server accepts an acknowledgement only for an id that it sent on this connection."""
    came(acks, 1, 2, 3)
    acks.delivered(1, 0.0)
    acks.connected()
    assert acks.delivered(2, 9.0) is None
    came(acks, 1)
    assert acks.ack_duplicates() == 1
    assert acks.delivered(3, 9.0) is None
    came(acks, 2, 3)
    assert acks.ack_duplicates() == 3


def test_tracker_forgets_the_oldest(acks: AckTracker) -> None:
    """It remembers `MAX_RECENT` messages; another message with a known id counts as the
    newest."""
    came(acks, *range(1, MAX_RECENT + 1))
    assert acks.is_new(1, 0)
    came(acks, MAX_RECENT + 1)
    assert not acks.is_new(1, 0)
    assert came(acks, 3, 2) == [False, True]
