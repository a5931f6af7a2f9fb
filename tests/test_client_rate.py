"""A server that limits the rate of messages: the client waits, and sends again what was refused, in
order. The application only sees that it takes longer."""

import time
from typing import Any

import pytest
from client_tools import NewClient, Peer, Recorder, ScriptedServer, error, result
from harness import StartServer
from wire import ADD_FRIEND, ALL_FRIENDS, PERSON_MESSAGE, REQUEST_ERROR, SERVER_BUSY, register, wait_until

from client_api import ConnectionLost, InboxFull, JellyClient, RateLimited, RequestRejected, Sent, ServerBusy, State
from faults.proxy import Proxy
from jelly.client import requests
from jelly.client.pipeline import WINDOW


@pytest.fixture
def alice(new_client: NewClient, script: ScriptedServer) -> JellyClient:
    return new_client(script.port)


def receive(peer: Peer, count: int) -> list[str]:
    """Return what the next messages say."""
    return [peer.receive_request(PERSON_MESSAGE)["content"] for _ in range(count)]


def refuse(peer: Peer, count: int = 1, **values: Any) -> None:
    for _ in range(count):
        peer.answer(PERSON_MESSAGE, REQUEST_ERROR, error="rate_limited", message="Slowly.", **values)


def accept(peer: Peer, count: int = 1) -> None:
    for _ in range(count):
        peer.answer(PERSON_MESSAGE)


def wait_until_slow(client: JellyClient) -> None:
    """Wait until a client has read that it sends too much."""
    wait_until(lambda: client._manager._pipeline._window == 1)


def test_what_is_refused_is_sent_again(alice: JellyClient, script: ScriptedServer) -> None:
    """When everything in flight is answered and the time is up: in the old order, first one, then
    more at a time; the futures see the result only."""
    with script.log_in(alice) as peer:
        sent = [alice.send_message("bob", str(number)) for number in range(5)]
        assert receive(peer, 5) == ["0", "1", "2", "3", "4"]
        accept(peer)
        refuse(peer, 3, retryAfter=30)
        wait_until_slow(alice)
        newer = alice.send_message("bob", "5")
        assert peer.is_silent()  # the response to 4 may still be SUCCESS
        refused_at = time.monotonic()
        refuse(peer, retryAfter=30)
        assert receive(peer, 1) == ["1"]
        assert time.monotonic() - refused_at >= 0.03
        assert peer.is_silent()
        accept(peer)
        assert receive(peer, 2) == ["2", "3"]
        refuse(peer, 2, retryAfter=0)
        assert receive(peer, 1) == ["2"]
        accept(peer)
        assert receive(peer, 2) == ["3", "4"]
        accept(peer, 2)
        assert receive(peer, 1) == ["5"]
        accept(peer)
        assert all(isinstance(result(future), Sent) for future in (*sent, newer))


def test_other_requests_keep_their_place(alice: JellyClient, script: ScriptedServer) -> None:
    """A request that was made after a refused message is sent after it."""
    with script.log_in(alice) as peer:
        future = alice.send_message("bob", "x")
        receive(peer, 1)
        refuse(peer, retryAfter=200)
        wait_until_slow(alice)
        friends = alice.list_friends()
        assert receive(peer, 1) == ["x"]
        accept(peer)
        peer.receive_request(ALL_FRIENDS)
        peer.answer(ALL_FRIENDS, username="alice", friends={})
        result(future)
        assert result(friends) == {}


def test_the_connection_is_lost_meanwhile(alice: JellyClient, script: ScriptedServer) -> None:
    """The messages keep their order on the next one, those that had no response and those that were
    refused; what is new waits for the former."""
    with script.log_in(alice) as peer:
        sent = [alice.send_message("bob", str(number)) for number in range(3)]
        receive(peer, 3)
        refuse(peer, 2, retryAfter=60_000)
        wait_until_slow(alice)
    with script.accept_login() as peer:
        assert receive(peer, 3) == ["0", "1", "2"]
        sent.append(alice.send_message("bob", "3"))
        assert peer.is_silent()
        accept(peer, 2)
        peer.answer(PERSON_MESSAGE, SERVER_BUSY, error="busy")
        assert receive(peer, 1) == ["2"]
        accept(peer)
        assert receive(peer, 1) == ["3"]
        accept(peer)
        assert all(isinstance(result(future), Sent) for future in sent)


def test_without_a_next_connection(new_client: NewClient, script: ScriptedServer) -> None:
    """A message that was refused was not done, for sure."""
    client = new_client(script.port, reconnect=False)
    with script.log_in(client) as peer:
        future = client.send_message("bob", "x")
        receive(peer, 1)
        refuse(peer, retryAfter=60_000)
        wait_until_slow(client)
    lost = error(future)
    assert isinstance(lost, ConnectionLost)
    assert lost.sent is False


@pytest.mark.parametrize("values", [{}, {"retryAfter": True}, {"retryAfter": "5"}])
def test_a_server_that_does_not_say_when(alice: JellyClient, script: ScriptedServer, values: dict[str, Any]) -> None:
    """Then the application decides, as with an older server."""
    with script.log_in(alice) as peer:
        future = alice.send_message("bob", "x")
        receive(peer, 1)
        refuse(peer, **values)
        refused = error(future)
        assert isinstance(refused, RateLimited)
        assert (refused.code, refused.retry_after) == ("rate_limited", None)


def test_a_server_that_says_never(alice: JellyClient, script: ScriptedServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """The client asks again after a while all the same."""
    monkeypatch.setattr(requests, "MAX_RETRY_AFTER", 0.01)
    with script.log_in(alice) as peer:
        future = alice.send_message("bob", "x")
        receive(peer, 1)
        refuse(peer, retryAfter=10**15)
        assert receive(peer, 1) == ["x"]
        refuse(peer, retryAfter=-5)
        assert receive(peer, 1) == ["x"]
        accept(peer)
        result(future)


def test_a_resend_that_is_refused(alice: JellyClient, script: ScriptedServer) -> None:
    """It has its place before newer ones, and is tried as often as the server wants."""
    with script.log_in(alice) as peer:
        future = alice.send_message("bob", "x")
        receive(peer, 1)
    with script.accept_login() as peer:
        assert alice.wait_until_online(10)
        newer = alice.send_message("bob", "y")
        for _ in range(15):
            assert receive(peer, 1) == ["x"]
            refuse(peer, retryAfter=1)
        assert receive(peer, 1) == ["x"]
        peer.answer(PERSON_MESSAGE, SERVER_BUSY, error="busy")  # the first one may be stored
        assert receive(peer, 1) == ["x"]
        accept(peer)
        assert receive(peer, 1) == ["y"]
        accept(peer)
        result(future)
        result(newer)


# --- with the real server -------------------------------------------------------------------------


def test_more_than_the_server_takes(start_server: StartServer, new_client: NewClient) -> None:
    """Every message arrives once and in order, and every future has a result."""
    port = start_server(message_rate=400, message_burst=20).port
    register(port, "alice", "bob")
    recorder = Recorder()
    result(new_client(port, recorder).login("bob", "pw"))
    client = new_client(port)
    result(client.login("alice", "pw"))
    texts = [str(number) for number in range(3 * WINDOW)]
    sent = [client.send_message("bob", text) for text in texts]
    assert all(isinstance(result(future), Sent) for future in sent)
    assert recorder.contents(len(texts)) == texts
    client.close()
    assert recorder.messages == texts


def test_cuts_meanwhile(start_server: StartServer, new_client: NewClient) -> None:
    """Also when the connection breaks again and again."""
    port = start_server(message_rate=200, message_burst=10).port
    register(port, "alice", "bob")
    recorder = Recorder()
    result(new_client(port, recorder).login("bob", "pw"))
    texts = [str(number) for number in range(200)]
    with Proxy(port) as proxy:
        client = new_client(proxy.port)
        result(client.login("alice", "pw"))
        sent = [client.send_message("bob", text) for text in texts]
        for number in (20, 60, 100, 140):
            result(sent[number])
            proxy.cut()
        assert all(isinstance(result(future), Sent) for future in sent)
        assert client.state is State.ONLINE
    assert recorder.contents(len(texts)) == texts
    client.close()
    assert recorder.messages == texts


LATER = [
    ("rate_limited", RateLimited),
    ("too_many_attempts", RateLimited),
    ("too_many_registrations", RateLimited),
    ("inbox_full", InboxFull),
    ("limit_reached", InboxFull),
]


@pytest.mark.parametrize(("code", "kind"), LATER)
def test_what_may_succeed_later_is_not_rejected(
    alice: JellyClient, script: ScriptedServer, code: str, kind: type[ServerBusy]
) -> None:
    """It is a ServerBusy, with the code, and says when to try again, if the server does."""
    with script.log_in(alice) as peer:
        for values, seconds in (({}, None), ({"retryAfter": 2500}, 2.5), ({"retryAfter": True}, None)):
            if code == "rate_limited" and seconds:
                continue  # the client does
            future = alice.send_message("bob", "x")
            receive(peer, 1)
            peer.answer(PERSON_MESSAGE, REQUEST_ERROR, error=code, message="Later.", **values)
            refused = error(future)
            assert (type(refused), refused.code, str(refused)) == (kind, code, "Later.")
            assert isinstance(refused, ServerBusy)
            assert refused.retry_after == seconds


def test_a_limit_that_does_not_pass(alice: JellyClient, script: ScriptedServer) -> None:
    """For requests other than messages, `limit_reached` means that something must go first."""
    with script.log_in(alice) as peer:
        future = alice.add_friend("bob")
        peer.receive_request(ADD_FRIEND)
        peer.answer(ADD_FRIEND, REQUEST_ERROR, error="limit_reached")
        assert type(error(future)) is RequestRejected


def test_a_full_inbox(start_server: StartServer, new_client: NewClient) -> None:
    """On a real server: too much waits for bob."""
    port = start_server(inbox_messages=3).port
    register(port, "alice", "bob")
    alice = new_client(port)
    result(alice.login("alice", "pw"))
    failures = [error(alice.send_message("bob", "hello")) for _ in range(4)]
    assert failures[0] is None
    assert type(failures[-1]) is InboxFull
