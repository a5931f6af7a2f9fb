"""Messages that had no response when the connection was lost are sent again, in order, with the
same requestId (their idempotency key), until there is a response."""

import random
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from typing import Any

import pytest
from client_tools import NewClient, Peer, Recorder, ScriptedServer, error, result
from harness import StartServer
from wire import (
    ADD_MEMBER,
    ALL_FRIENDS,
    CREATE_GROUP,
    LOGOUT,
    PERSON_MESSAGE,
    REQUEST_ERROR,
    SERVER_BUSY,
    SERVER_ERROR,
    logged_in,
    register,
    wait_until,
)

from client_api import (
    ConnectionLost,
    InboxFull,
    JellyClient,
    MessageEvent,
    RateLimited,
    Reason,
    Receiver,
    ReconnectPolicy,
    RequestTimeout,
    Sent,
    ServerBusy,
    ServerFailed,
    State,
)
from faults.process import Server
from faults.proxy import Proxy
from jelly.client import pending
from jelly.client.pending import PendingRequests
from jelly.client.pipeline import WINDOW
from jelly.client.requests import Request


@pytest.fixture
def alice(new_client: NewClient, script: ScriptedServer) -> JellyClient:
    return new_client(script.port)


def receive_message(peer: Peer) -> tuple[str, str | None]:
    """Return what the next message says, and its requestId."""
    values = peer.receive_request(PERSON_MESSAGE)
    assert list(values) == ["sender", "receiver", "content", "time", "requestId"][: len(values)]
    return values["content"], values.get("requestId")


def test_each_message_has_an_id_of_its_own(alice: JellyClient, script: ScriptedServer, new_client: NewClient) -> None:
    """Only messages have one, of at most 36 characters; no two are equal, not even in two
    clients."""
    ids = set()
    for client in (alice, new_client(script.port)):
        with script.log_in(client) as peer:
            for number in range(3):
                client.send_message("bob", str(number))
                content, request_id = receive_message(peer)
                assert content == str(number)
                assert request_id is not None
                assert 1 <= len(request_id) <= 36
                ids.add(request_id)
            client.list_friends()
            assert "requestId" not in peer.receive_request(ALL_FRIENDS)
            client.close(timeout=0)
    assert len(ids) == 6


@pytest.mark.parametrize("features", [None, [], ["other"]])
def test_a_server_that_knows_no_ids_gets_none(
    alice: JellyClient, script: ScriptedServer, features: list[str] | None
) -> None:
    """And a message without a response ends with the connection."""
    with script.log_in(alice, features) as peer:
        future = alice.send_message("bob", "x")
        assert receive_message(peer) == ("x", None)
    lost = error(future)
    assert (type(lost), lost.sent) == (ConnectionLost, True)


def test_messages_without_a_response_are_sent_again(alice: JellyClient, script: ScriptedServer) -> None:
    """In the old order, with the old ids, before newer ones; those with a response are not sent
    again."""
    with script.log_in(alice) as peer:
        futures = [alice.send_message("bob", str(number)) for number in range(4)]
        friends = alice.list_friends()
        first = [receive_message(peer) for _ in range(4)]
        peer.answer(PERSON_MESSAGE)
        assert isinstance(result(futures[0]), Sent)
    with script.accept_login() as peer:
        alice.wait_until_online(10)
        futures.append(alice.send_message("bob", "4"))
        assert [receive_message(peer) for _ in range(3)] == first[1:]
        assert peer.is_silent()  # the newer one waits: the server may still be too busy for those before it
        for _ in range(3):
            peer.answer(PERSON_MESSAGE)
        assert receive_message(peer)[0] == "4"
        peer.answer(PERSON_MESSAGE)
        assert [result(future).receiver for future in futures] == ["bob"] * 5
    lost = error(friends)
    assert (type(lost), lost.sent) == (ConnectionLost, True)


def test_over_several_connections(new_client: NewClient, script: ScriptedServer) -> None:
    """As often as needed; but not for ever, if each connection is lost under the same message."""
    alice = new_client(script.port, reconnect=ReconnectPolicy(pause=0.01, maximum=0.02))
    script.log_in(alice).close()
    for number in range(1, pending.MAX_CONNECTION_LOSSES + 1):
        with script.accept_login() as peer:
            if number == 1:
                alice.wait_until_online(10)
                future = alice.send_message("bob", "x")
            assert receive_message(peer)[0] == "x"
            assert not future.done()
    assert error(future).sent is True
    script.accept_login()
    assert alice.wait_until_online(10)


def test_queued_messages_are_sent_on_the_next_connection(alice: JellyClient, script: ScriptedServer) -> None:
    """Queued messages are sent behind those that were in flight."""
    count = WINDOW + 20
    with script.log_in(alice) as peer:
        futures = [alice.send_message("bob", str(number)) for number in range(count)]
        first = [receive_message(peer) for _ in range(WINDOW)]
    with script.accept_login() as peer:
        again = []
        for _ in range(count):
            again.append(receive_message(peer))
            peer.answer(PERSON_MESSAGE)
        assert again[:WINDOW] == first
        assert [content for content, _ in again] == [str(number) for number in range(count)]
        for future in futures:
            result(future)


def test_a_message_that_waited_can_be_cancelled(alice: JellyClient, script: ScriptedServer) -> None:
    """A queued message can still be cancelled while there is no connection; one that was sent
    cannot."""
    with script.log_in(alice) as peer:
        futures = [alice.send_message("bob", str(number)) for number in range(WINDOW + 2)]
        for _ in range(WINDOW):
            receive_message(peer)
    wait_until(lambda: alice.state is State.RECONNECTING)
    assert futures[WINDOW].cancel()
    assert not futures[0].cancel()
    with script.accept_login() as peer:
        for number in [*range(WINDOW), WINDOW + 1]:
            assert receive_message(peer)[0] == str(number)
            peer.answer(PERSON_MESSAGE)
        result(futures[-1])


def end_refused(script: ScriptedServer, _: JellyClient) -> None:
    script.refuse()


def end_closed(_: ScriptedServer, client: JellyClient) -> None:
    client.close(timeout=0)


def end_logged_out(_: ScriptedServer, client: JellyClient) -> None:
    client.logout()


def end_classic(script: ScriptedServer, _: JellyClient) -> None:
    script.accept_login(features=None)


@pytest.mark.parametrize("end", [end_refused, end_closed, end_logged_out, end_classic])
def test_no_future_stays_pending(
    end: Callable[[ScriptedServer, JellyClient], None], script: ScriptedServer, new_client: NewClient
) -> None:
    """If the client does not reconnect, or the new server knows no idempotency keys, the message
    may be stored."""
    client = new_client(script.port)
    with script.log_in(client) as peer:
        futures = [client.send_message("bob", str(number)) for number in range(WINDOW + 1)]
        receive_message(peer)
    wait_until(lambda: client.state is State.RECONNECTING)
    assert not any(future.done() for future in futures)
    end(script, client)
    assert [error(future).sent for future in futures] == [True] * WINDOW + [False]


class BrokenPolicy(ReconnectPolicy):
    """A policy with a bug of the application."""

    def pauses(self, random: Callable[[], float] = random.random) -> Iterator[float]:
        yield 0.0
        raise ValueError("no more pauses")


def test_a_policy_that_fails(script: ScriptedServer, new_client: NewClient) -> None:
    """The client gives up and reports it: no future waits for a connection that never comes."""
    recorder = Recorder()
    client = new_client(script.port, recorder, reconnect=BrokenPolicy())
    with script.log_in(client) as peer:
        future = client.send_message("bob", "x")
        receive_message(peer)
        script.close()
    assert error(future).sent is True
    recorder.wait_for_state(State.OFFLINE, Reason.GAVE_UP)


def test_without_reconnect_nothing_is_sent_again(script: ScriptedServer, new_client: NewClient) -> None:
    """A client that does not reconnect ends the future at once."""
    client = new_client(script.port, reconnect=False)
    with script.log_in(client) as peer:
        future = client.send_message("bob", "x")
        receive_message(peer)
    assert error(future).sent is True


def test_after_a_takeover_nothing_is_sent_again(alice: JellyClient, script: ScriptedServer) -> None:
    """The other login may send the same message; this client leaves the account alone."""
    with script.log_in(alice) as peer:
        future = alice.send_message("bob", "x")
        receive_message(peer)
        peer.notify(0x25, event="taken_over")
    assert error(future).sent is True


def test_a_logout_under_way_ends_messages(alice: JellyClient, script: ScriptedServer) -> None:
    """After a logout the client does not reconnect for them."""
    with script.log_in(alice) as peer:
        future = alice.send_message("bob", "x")
        receive_message(peer)
        logout = alice.logout()
        peer.receive_request(LOGOUT)
    assert error(future).sent is True
    result(logout)


def test_a_message_without_a_response_in_time(script: ScriptedServer, new_client: NewClient) -> None:
    """It is sent once more, on another connection; then the future ends."""
    client = new_client(script.port, request_timeout=0.2)
    peer = script.log_in(client)
    future = client.send_message("bob", "x")
    behind = client.send_message("bob", "y")
    first = receive_message(peer)
    with script.accept_login() as second:
        assert receive_message(second) == first
        assert receive_message(second)[0] == "y"
        with script.accept_login() as third:
            assert isinstance(error(future), RequestTimeout)
            assert receive_message(third)[0] == "y"
            third.answer(PERSON_MESSAGE)
            result(behind)
    peer.close()


@pytest.mark.parametrize(("status", "code"), [(SERVER_BUSY, "busy"), (REQUEST_ERROR, "rate_limited")])
def test_a_resend_that_the_server_is_too_busy_for(
    alice: JellyClient, script: ScriptedServer, status: int, code: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A busy server says nothing about the first try: the message is sent again, and newer ones
    wait behind it."""
    monkeypatch.setattr(pending, "FIRST_BACKOFF", 0.02)
    with script.log_in(alice) as peer:
        future = alice.send_message("bob", "x")
        first = receive_message(peer)
    with script.accept_login() as peer:
        for _ in range(2):
            assert receive_message(peer) == first
            peer.answer(PERSON_MESSAGE, status, error=code)
        newer = alice.send_message("bob", "y")
        assert receive_message(peer) == first
        peer.answer(PERSON_MESSAGE)
        result(future)
        assert receive_message(peer)[0] == "y"
        peer.answer(PERSON_MESSAGE)
        result(newer)


def test_a_resend_that_the_server_is_always_too_busy_for(
    alice: JellyClient, script: ScriptedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the end nobody knows whether it was stored, and the application is told so."""
    monkeypatch.setattr(pending, "FIRST_BACKOFF", 0.001)
    monkeypatch.setattr(pending, "MAX_BACKOFF", 0.01)
    with script.log_in(alice) as peer:
        future = alice.send_message("bob", "x")
        receive_message(peer)
    with script.accept_login() as peer:
        for _ in range(pending.MAX_RETRIES + 1):
            receive_message(peer)
            peer.answer(PERSON_MESSAGE, SERVER_BUSY, error="busy")
        assert isinstance(error(future), ServerFailed)


def test_retries_do_not_count_as_connection_losses(
    alice: JellyClient, script: ScriptedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A message that was retried many times on one connection survives the next loss."""
    monkeypatch.setattr(pending, "FIRST_BACKOFF", 0.001)
    monkeypatch.setattr(pending, "MAX_BACKOFF", 0.01)
    with script.log_in(alice) as peer:
        future = alice.send_message("bob", "x")
        receive_message(peer)
    with script.accept_login() as peer:
        for _ in range(pending.MAX_RETRIES):
            receive_message(peer)
            peer.answer(PERSON_MESSAGE, SERVER_BUSY, error="busy")
        receive_message(peer)
    with script.accept_login() as peer:
        assert alice.wait_until_online(10)
        assert not future.done()
        receive_message(peer)
        peer.answer(PERSON_MESSAGE)
        assert isinstance(result(future), Sent)


def test_the_longest_pause_counts(alice: JellyClient, script: ScriptedServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first retry of one message does not shorten the pause of an older one."""
    with script.log_in(alice) as peer:
        alice.send_message("bob", "x")
        alice.send_message("bob", "y")
        receive_message(peer)
        receive_message(peer)
    pauses = iter((1.0, 0.001))
    monkeypatch.setattr(pending.PendingRequests, "retry_later", _with_pauses(pauses))
    with script.accept_login() as peer:
        receive_message(peer)
        receive_message(peer)
        peer.answer(PERSON_MESSAGE, SERVER_BUSY, error="busy")
        peer.answer(PERSON_MESSAGE, SERVER_BUSY, error="busy")
        assert peer.is_silent(0.3)


def _with_pauses(pauses: Iterator[float]) -> Callable[[PendingRequests, Request[Any]], float | None]:
    """Return `PendingRequests.retry_later` with these pauses instead of its own."""
    original = PendingRequests.retry_later

    def retry_later(queue: PendingRequests, request: Request[Any]) -> float | None:
        original(queue, request)
        return next(pauses)

    return retry_later


@pytest.mark.parametrize(
    ("status", "code", "kind"),
    [
        (SERVER_BUSY, "busy", ServerBusy),
        (REQUEST_ERROR, "rate_limited", RateLimited),
        (REQUEST_ERROR, "inbox_full", InboxFull),
    ],
)
def test_a_first_refusal_is_told(
    alice: JellyClient, script: ScriptedServer, status: int, code: str, kind: type[Exception]
) -> None:
    """Then nothing was done, and the application decides."""
    with script.log_in(alice) as peer:
        future = alice.send_message("bob", "x")
        receive_message(peer)
        peer.answer(PERSON_MESSAGE, status, error=code)
        assert isinstance(error(future), kind)


def test_other_responses_to_a_resend(alice: JellyClient, script: ScriptedServer) -> None:
    """A final refusal is passed on; if the server failed, nobody knows, as ever."""
    with script.log_in(alice) as peer:
        refused, failed = alice.send_message("bob", "x"), alice.send_message("bob", "y")
        receive_message(peer)
    with script.accept_login() as peer:
        receive_message(peer)
        peer.answer(PERSON_MESSAGE, REQUEST_ERROR, error="no_such_user")
        peer.answer(PERSON_MESSAGE, SERVER_ERROR, error="internal")
        assert error(refused).code == "no_such_user"
        assert isinstance(error(failed), ServerFailed)


# --- with the real server -------------------------------------------------------------------------


def test_an_answer_that_a_cut_hid(start_server: StartServer, new_client: NewClient) -> None:
    """Stored, and the connection was lost before SUCCESS arrived: SUCCESS comes again, and the
    receiver has it once."""
    port = start_server().port
    register(port, "alice", "bob")
    recorder = Recorder()
    result(new_client(port, recorder).login("bob", "pw"))
    with Proxy(port) as proxy:
        changes = Recorder()
        client = new_client(proxy.port, changes, reconnect=ReconnectPolicy(pause=0.01, maximum=0.02))
        result(client.login("alice", "pw"))
        for number in range(20):
            future = client.send_message("bob", str(number))
            recorder.contents(number + 1)  # it has arrived, so the server has stored it
            proxy.cut()
            result(future)
            changes.wait_for_state(State.ONLINE, Reason.RECONNECTED, number + 1)
        result(client.send_message("bob", "end"))
        client.close()
    assert recorder.contents(21) == [*map(str, range(20)), "end"]
    assert recorder.messages == [*map(str, range(20)), "end"]


def test_a_server_killed_again_and_again(database_url: str, new_client: NewClient) -> None:
    """No future fails: every message is stored once and arrives once, in order, however often the
    server dies."""
    patient = ReconnectPolicy(pause=0.05, maximum=0.1)
    recorder = Recorder()
    server = Server(database_url)
    with Proxy(server.port) as proxy:
        register(server.port, "alice", "bob")
        clients = [new_client(proxy.port, reconnect=patient), new_client(proxy.port, recorder, reconnect=patient)]
        for client, name in zip(clients, ("alice", "bob"), strict=True):
            result(client.login(name, "pw"))
        sent: list[Future[Sent]] = []
        stop = threading.Event()

        def send() -> None:
            while not stop.is_set():
                try:
                    sent.append(clients[0].send_message("bob", str(len(sent))))
                except ConnectionLost:
                    clients[0].wait_until_online(10)

        for kill in range(3):
            enough = len(recorder.messages) + 100
            stop.clear()
            thread = threading.Thread(target=send)
            thread.start()
            wait_until(lambda enough=enough: len(recorder.messages) >= enough)
            server.kill()
            stop.set()
            thread.join()
            server = Server(database_url)
            proxy.target = server.port
            assert clients[0].wait_until_online(10), kill
        answered = [str(number) for number, future in enumerate(sent) if future.exception(20) is None]
        failures = {str(failure) for future in sent if (failure := future.exception()) is not None}
        assert failures <= {
            "There is no connection to the server now, and too many messages wait for it."
        }  # made while the server was down
        assert recorder.contents(len(answered)) == answered
    server.kill()


def test_nothing_is_stored_twice_when_connections_are_lost_all_the_time(
    start_server: StartServer, new_client: NewClient
) -> None:
    """Hundreds of messages in flight over dozens of lost connections."""
    server = start_server()
    register(server.port, "alice", "bob")
    with Proxy(server.port) as proxy:
        client = new_client(proxy.port, reconnect=ReconnectPolicy(pause=0.01, maximum=0.01))
        result(client.login("alice", "pw"))
        futures = []
        for number in range(600):
            assert client.wait_until_online(10)
            futures.append(client.send_message("bob", str(number)))
            if number % 20 == 19:
                proxy.cut()
                # A message whose answer is cut off too often is given up, however slow the server
                # is at the moment.
                futures[max(0, number - 100)].exception(20)
        outcomes = [future.exception(20) for future in futures]
        answered = [str(number) for number, outcome in enumerate(outcomes) if outcome is None]
        assert all(isinstance(outcome, ConnectionLost | None) for outcome in outcomes)
        assert all(not outcome.sent for outcome in outcomes if isinstance(outcome, ConnectionLost))
        assert len(answered) > 400
        client.close()
    with logged_in(server.port, "bob", features=["ack"]) as bob, logged_in(server.port, "alice") as alice:
        alice.message("bob", "end")
        received = []
        while (content := bob.receive_notice().values["content"]) != "end":
            received.append(content)
    assert received == answered


def test_a_request_id_of_the_application(port: int, new_client: NewClient) -> None:
    """A program that starts again sends what it is not sure of, and it is stored once."""
    register(port, "alice", "bob")
    with logged_in(port, "alice") as classic:
        classic.ok(CREATE_GROUP, groupName="team")
        classic.ok(ADD_MEMBER, groupName="team", member="bob")
    ids = []
    for _ in range(3):  # a new client is what a program has after its restart
        client = new_client(port)
        result(client.login("alice", "pw"))
        ids.append(
            (
                result(client.send_message("bob", "hello", request_id="no. 1")).id,
                result(client.send_group_message("team", "hello", request_id="no. 2")).id,
            )
        )
        client.close()
    assert len(set(ids)) == 1
    client = new_client(port)
    result(client.login("alice", "pw"))
    result(client.send_message("bob", "last"))
    with logged_in(port, "bob") as bob:
        assert bob.contents(3) == ["hello", "hello", "last"]
    assert error(client.send_message("bob", "something else", request_id="no. 1")).code == "request_id_reused"
    for wrong in ("", "x" * 37):
        with pytest.raises(ValueError, match="1 to 36"):
            client.send_message("bob", "hello", request_id=wrong)


def test_replies_that_a_restart_repeats(port: int, new_client: NewClient) -> None:
    """A reply may be named after what it answers."""
    register(port, "alice", "bot")

    class Echo(Receiver):
        def on_message(self, event: MessageEvent) -> None:
            for _ in range(3):
                result(event.reply(event.content, request_id=f"echo-{event.id}"))

    result(new_client(port, Echo()).login("bot", "pw"))
    with logged_in(port, "alice") as alice:
        alice.message("bot", "one")
        assert alice.contents(1) == ["one"]
        alice.message("bot", "two")
        assert alice.contents(1) == ["two"]
