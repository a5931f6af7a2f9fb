"""The one thread on which the client library calls the application: its order, and what it
survives."""

import asyncio
import functools
import gc
import sys
import threading
import time
import weakref
from concurrent.futures import CancelledError, Future, as_completed
from typing import Any

import pytest
from client_tools import (
    CALLBACK_THREAD,
    SYSTEM,
    Blocked,
    NewClient,
    Recorder,
    ScriptedServer,
    error,
    message,
    response,
    result,
)
from wire import ADD_FRIEND, HEARTBEAT, OWN_PROFILE, wait_until

from client_api import (
    ConnectionEvent,
    ConnectionLost,
    JellyClient,
    MessageEvent,
    Profile,
    Reason,
    Receiver,
    RequestRejected,
    State,
)
from jelly.client.callbacks import HIGH_MARK, CallbackThread

PROFILE = response(OWN_PROFILE, username="alice")


@pytest.fixture
def alice(new_client: NewClient, script: ScriptedServer) -> JellyClient:
    return new_client(script.port, Recorder())


# --- which thread, in which order -----------------------------------------------------------------


def test_everything_is_called_on_one_thread(alice: JellyClient, script: ScriptedServer) -> None:
    """Events and listeners alike, whichever thread ends the future, and whenever the listener is
    added."""
    assert isinstance(alice.receiver, Recorder)
    peer = script.log_in(alice)
    threads: list[str] = []
    done = [alice.own_profile() for _ in range(2)]
    refused, failed = alice.send_message("bob", "\ud83d"), alice.add_friend("bob")
    peer.send(PROFILE * 2 + message("hello"))
    result(done[1])
    peer.notify(SYSTEM, event="taken_over")
    peer.close()
    error(failed)
    futures: list[Future[Any]] = [*done, refused, failed, alice.own_profile()]
    for future in futures:
        future.add_done_callback(lambda _: threads.append(threading.current_thread().name))
    alice.receiver.wait_for_state(State.OFFLINE)
    wait_until(lambda: len(threads) == 5)
    assert {*threads, *alice.receiver.threads} == {CALLBACK_THREAD}


def test_callbacks_come_in_the_order_of_what_happened(new_client: NewClient, script: ScriptedServer) -> None:
    """Listeners, messages and changes of the connection keep their common order."""
    order: list[Any] = []

    class Ordered(Receiver):
        def on_message(self, event: MessageEvent) -> None:
            order.append(event.content)

        def on_connection(self, event: ConnectionEvent) -> None:
            order.append(event.state)

    alice = new_client(script.port, Ordered(), reconnect=False)
    peer = script.log_in(alice)
    profiles = [alice.own_profile() for _ in range(3)]
    for number, profile in enumerate(profiles):
        profile.add_done_callback(functools.partial(lambda number, _: order.append(number), number))
    peer.send(PROFILE + message("a") + PROFILE + message("b"))
    peer.close()
    assert alice.wait(10)
    wait_until(lambda: len(order) == 8)
    # The connection is lost first, then its requests fail.
    assert order == [State.CONNECTING, State.ONLINE, 0, "a", 1, "b", State.OFFLINE, 2]


def test_a_listener_gets_its_future(alice: JellyClient, script: ScriptedServer) -> None:
    """It gets the same object, also if it was added after the future ended; each listener is called
    once."""
    peer = script.log_in(alice)
    profile = alice.own_profile()
    got: list[Future[Profile]] = []
    profile.add_done_callback(got.append)
    peer.send(PROFILE)
    result(profile)
    profile.add_done_callback(got.append)
    wait_until(lambda: len(got) == 2)
    assert all(future is profile for future in got)


# --- waiting in callbacks -------------------------------------------------------------------------


def test_result_within_callbacks(new_client: NewClient, script: ScriptedServer) -> None:
    """An event and a listener may wait for a response: reading does not wait for callbacks."""
    names: list[str] = []

    class Asking(Receiver):
        def on_message(self, event: MessageEvent) -> None:
            names.append(result(event.client.own_profile()).username)
            event.reply("thanks").add_done_callback(lambda _: names.append(result(event.client.own_profile()).username))

    alice = new_client(script.port, Asking())
    peer = script.log_in(alice)
    peer.say("hello")
    peer.receive_request(OWN_PROFILE)
    peer.answer(OWN_PROFILE, username="first")
    peer.receive_request(0x15)
    peer.answer(0x15)
    peer.receive_request(OWN_PROFILE)
    peer.answer(OWN_PROFILE, username="second")
    wait_until(lambda: names == ["first", "second"])


def test_login_within_a_callback(alice: JellyClient, script: ScriptedServer) -> None:
    """A callback may even wait for a login, with the messages that follow it."""
    states: list[State] = []
    assert isinstance(alice.receiver, Recorder)

    def log_in(_: object) -> None:
        states.append(alice.state)
        result(alice.login("alice", "pw"))
        states.append(alice.state)

    alice.login("alice", "wrong").add_done_callback(log_in)
    script.refuse()
    script.accept_login(behind=message("hello"))
    assert alice.receiver.contents(1) == ["hello"]
    assert states == [State.OFFLINE, State.ONLINE]


def test_a_slow_callback_holds_up_no_answer(new_client: NewClient, script: ScriptedServer) -> None:
    """Requests of other threads, heartbeats and responses go on; only other callbacks wait."""
    blocked = Blocked()
    alice = new_client(script.port, blocked, heartbeat=0.05)
    peer = script.log_in(alice)
    peer.say("first")
    assert blocked.entered.wait(10)
    called = threading.Event()
    profile = alice.own_profile()
    profile.add_done_callback(lambda _: called.set())
    peer.receive_request(OWN_PROFILE)
    peer.send(PROFILE)
    assert result(profile) == Profile("alice")
    assert peer.receive().type == HEARTBEAT
    assert not called.is_set()
    blocked.go.set()
    assert called.wait(10)


# --- more than fits -------------------------------------------------------------------------------


def test_reading_stops_when_too_many_callbacks_wait(new_client: NewClient, script: ScriptedServer) -> None:
    """Then TCP's flow control stops the server; when there is room, reading goes on, and nothing is
    missing."""
    blocked = Blocked()
    peer = script.log_in(new_client(script.port, blocked, heartbeat=60))
    count = 6 * HIGH_MARK
    sender = threading.Thread(
        target=peer.send, args=[b"".join(message(f"{n} {'x' * 5000}") for n in range(count))], daemon=True
    )
    sender.start()
    assert blocked.entered.wait(10)
    sender.join(0.3)
    assert sender.is_alive()  # 30 MB are more than the system keeps for a reader that reads no more
    blocked.go.set()
    sender.join(10)
    assert [content.split()[0] for content in blocked.contents(count)] == [str(n) for n in range(count)]


def test_while_an_answer_is_awaited_it_is_read_on(new_client: NewClient, script: ScriptedServer) -> None:
    """However many callbacks wait, a response behind them arrives: the callback may be waiting for
    it."""
    names: list[str] = []

    class Asking(Recorder):
        def on_message(self, event: MessageEvent) -> None:
            if event.content == "0":
                full.wait(10)
                names.append(result(event.client.own_profile()).username)
            super().on_message(event)

    full, asking = threading.Event(), Asking()
    alice = new_client(script.port, asking, heartbeat=20)
    peer = script.log_in(alice)
    peer.send(b"".join(message(str(number)) for number in range(2 * HIGH_MARK)))
    wait_until(lambda: alice._manager._callbacks.is_full)
    full.set()
    peer.receive_request(OWN_PROFILE)
    peer.send(b"".join(message(str(number)) for number in range(2 * HIGH_MARK, 6 * HIGH_MARK)) + PROFILE)
    assert asking.contents(6 * HIGH_MARK) == [str(number) for number in range(6 * HIGH_MARK)]
    assert names == ["alice"]


def test_a_connection_loss_while_nothing_is_read(new_client: NewClient, script: ScriptedServer) -> None:
    """The client notices a lost connection when there is room again; what had arrived is not
    lost."""
    blocked = Blocked()
    alice = new_client(script.port, blocked, heartbeat=60, reconnect=False)
    peer = script.log_in(alice)
    peer.send(b"".join(message(str(number)) for number in range(2 * HIGH_MARK)))
    peer.close()
    wait_until(lambda: alice._manager._callbacks.is_full)
    blocked.go.set()
    assert blocked.contents(2 * HIGH_MARK) == [str(number) for number in range(2 * HIGH_MARK)]
    blocked.wait_for_state(State.OFFLINE)


def test_a_takeover_is_learnt_of_although_nothing_is_read(new_client: NewClient, script: ScriptedServer) -> None:
    """When a send fails meanwhile, the client first reads what the server sent before it closed.

    Otherwise it would reconnect.
    """
    blocked = Blocked()
    alice = new_client(script.port, blocked, heartbeat=0.05)
    peer = script.log_in(alice)
    peer.send(message("x") * (HIGH_MARK + 100))  # no more than the client reads, or the reset would lose the rest
    wait_until(lambda: not alice._manager._pipeline.is_reading)
    peer.notify(SYSTEM, event="taken_over")
    peer.close()
    assert alice.wait(10)
    blocked.go.set()
    assert blocked.wait_for_state(State.OFFLINE).reason is Reason.TAKEN_OVER


# --- what goes wrong in callbacks -----------------------------------------------------------------


class Failing(Recorder):
    """Raises another exception with each message."""

    def __init__(self, fail: Any) -> None:
        super().__init__()
        self._fail = fail

    def on_message(self, event: MessageEvent) -> None:
        super().on_message(event)
        self._fail()


def divide() -> None:
    raise ZeroDivisionError("in the callback")


def interrupt() -> None:
    raise KeyboardInterrupt


@pytest.mark.parametrize("fail", [divide, sys.exit, interrupt])
def test_exceptions_are_logged_and_survived(
    new_client: NewClient, script: ScriptedServer, fail: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """Whatever a callback raises, the next one is called, and the log has the traceback."""
    failing = Failing(fail)
    alice = new_client(script.port, failing)
    peer = script.log_in(alice)
    profile = alice.own_profile()
    called = threading.Event()
    profile.add_done_callback(lambda _: fail())
    profile.add_done_callback(lambda _: called.set())
    peer.send(message("first") + PROFILE + message("second"))
    assert failing.contents(2) == ["first", "second"]
    assert called.wait(10)
    alice.close()
    failures = [record for record in caplog.records if record.message == "a callback failed"]
    assert [record.name for record in failures] == ["jelly.client"] * 3
    assert all(record.exc_info for record in failures)


# --- cancelling -----------------------------------------------------------------------------------


def test_cancel_before_sending(alice: JellyClient, script: ScriptedServer) -> None:
    """A cancelled request is never sent, and its listener is called; a request that was sent cannot
    be cancelled."""
    peer = script.log_in(alice, features=None)
    sent, unsent, last = alice.own_profile(), alice.add_friend("bob"), alice.own_profile()
    cancelled: list[bool] = []
    unsent.add_done_callback(lambda future: cancelled.append(future.cancelled()))
    peer.receive_request(OWN_PROFILE)
    assert unsent.cancel()
    assert not sent.cancel()
    wait_until(lambda: cancelled == [True])
    peer.send(PROFILE)
    peer.receive_request(OWN_PROFILE)
    peer.send(PROFILE)
    assert result(last) == result(sent) == Profile("alice")
    with pytest.raises(CancelledError):
        unsent.result()
    assert cancelled == [True]


def test_cancel_and_connection_loss(alice: JellyClient, script: ScriptedServer) -> None:
    """A cancelled future stays cancelled when the connection is lost."""
    peer = script.log_in(alice, features=None)
    sent, unsent = alice.own_profile(), alice.add_friend("bob")
    peer.receive_request(OWN_PROFILE)
    assert unsent.cancel()
    peer.close()
    assert isinstance(error(sent), ConnectionLost)
    assert unsent.cancelled()


def test_a_login_cannot_be_cancelled(alice: JellyClient, script: ScriptedServer) -> None:
    """A login is under way as soon as it is requested, and so is a registration."""
    login, registration = alice.login("alice", "pw"), alice.register("dora", "pw")
    assert not login.cancel()
    assert not registration.cancel()
    for _ in range(2):
        peer = script.accept()
        frame = peer.receive()
        peer.answer(frame.type, username=frame.values["username"], token=7, features=[])
    assert result(login).token == 7
    assert result(registration) == "dora"


# --- close and callbacks --------------------------------------------------------------------------


def test_close_in_a_callback(new_client: NewClient, script: ScriptedServer) -> None:
    """It returns there, later callbacks still run, and the thread ends."""

    class Closing(Recorder):
        def on_message(self, event: MessageEvent) -> None:
            event.client.close()
            super().on_message(event)

    closing = Closing()
    alice = new_client(script.port, closing)
    peer = script.log_in(alice)
    peer.say("good night")
    closing.wait_for_state(State.CLOSED)
    assert closing.messages == ["good night"]
    wait_until(lambda: CALLBACK_THREAD not in [thread.name for thread in threading.enumerate()])
    assert alice.state is State.CLOSED


def test_close_in_a_callback_while_another_thread_closes(new_client: NewClient, script: ScriptedServer) -> None:
    """Neither waits for the other."""
    blocked = Blocked()
    alice = new_client(script.port, blocked)
    script.log_in(alice).say("hello")
    assert blocked.entered.wait(10)
    closer = threading.Thread(target=alice.close)
    closer.start()
    alice.own_profile().add_done_callback(lambda _: alice.close())
    blocked.go.set()
    closer.join(2)
    assert not closer.is_alive()
    assert blocked.events[-1].state is State.CLOSED  # type: ignore[union-attr]


def test_close_while_a_callback_is_slow(new_client: NewClient, script: ScriptedServer) -> None:
    """It waits no longer than its timeout; the callbacks behind run on the same thread when the
    slow one is done."""
    blocked = Blocked()
    alice = new_client(script.port, blocked)
    peer = script.log_in(alice)
    peer.send(message("slow") + message("behind"))
    assert blocked.entered.wait(10)
    profile = alice.own_profile()
    alice.close(timeout=0.1)
    assert alice.state is State.CLOSED
    threads: list[str] = []
    profile.add_done_callback(lambda _: threads.append(threading.current_thread().name))
    assert threads == []
    blocked.go.set()
    assert blocked.contents(2) == ["slow", "behind"]
    blocked.wait_for_state(State.CLOSED)
    wait_until(lambda: threads == [CALLBACK_THREAD])


def test_listeners_after_close(alice: JellyClient, script: ScriptedServer) -> None:
    """There is no thread any more: a listener runs in the thread that adds it, and its exception is
    only logged."""
    script.log_in(alice)
    profile = alice.own_profile()
    alice.close(timeout=0.1)
    called: list[str] = []
    profile.add_done_callback(lambda _: divide())
    profile.add_done_callback(lambda _: called.append(threading.current_thread().name))
    assert called == [threading.current_thread().name]


# --- other ways to wait ---------------------------------------------------------------------------


def test_with_asyncio(alice: JellyClient, script: ScriptedServer) -> None:
    """asyncio.wrap_future works, for results and for errors."""
    peer = script.log_in(alice)

    async def get_both() -> tuple[Profile, str]:
        profile, friend = alice.own_profile(), alice.add_friend("bob")
        peer.send(PROFILE + response(ADD_FRIEND, 0x32, error="no_such_user"))
        with pytest.raises(RequestRejected) as caught:
            await asyncio.wrap_future(friend)
        return await asyncio.wrap_future(profile), caught.value.code

    assert asyncio.run(get_both()) == (Profile("alice"), "no_such_user")


def test_as_completed(alice: JellyClient, script: ScriptedServer) -> None:
    """The futures work with concurrent.futures like any others."""
    peer = script.log_in(alice)
    friends, profile = alice.add_friend("bob"), alice.own_profile()
    futures: list[Future[Any]] = [friends, profile]
    completed = as_completed(futures, timeout=10)
    peer.send(PROFILE)
    assert next(completed) is profile
    peer.answer(ADD_FRIEND)
    assert next(completed) is friends


# --- the thread itself ----------------------------------------------------------------------------


def test_the_thread_is_started_by_the_first_call() -> None:
    """And `shutdown` ends it after the waiting calls; without a call there never is a thread."""
    callbacks = CallbackThread(on_room=lambda: None)
    callbacks.shutdown(0)
    called: list[str] = []
    callbacks.submit(lambda: called.append(threading.current_thread().name))
    assert called == [threading.current_thread().name]


def test_room_is_told_once() -> None:
    """When a full queue has room again, `on_room` is called once, not after each call."""
    told: list[int] = []
    callbacks = CallbackThread(on_room=lambda: told.append(1))
    go = threading.Event()
    callbacks.submit(functools.partial(wait_until, go.is_set))
    for _ in range(HIGH_MARK + 5):
        callbacks.submit(lambda: None)
    assert callbacks.is_full
    go.set()
    callbacks.shutdown(time.monotonic() + 10)
    assert told == [1]


def test_a_future_is_freed_at_once(alice: JellyClient, script: ScriptedServer) -> None:
    """With a listener, whether completed, refused or never sent: it needs no garbage collector."""
    unsent = alice.own_profile()
    assert error(unsent).code == "not_logged_in"
    peer = script.log_in(alice)
    answered, refused = alice.own_profile(), alice.own_profile()
    peer.send(response(OWN_PROFILE, username="alice") + response(OWN_PROFILE, 0x32, error="internal"))
    result(answered), error(refused)
    gc.disable()
    try:
        for future in (unsent, answered, refused):
            future.add_done_callback(lambda _: None)
        futures = [weakref.ref(future) for future in (unsent, answered, refused)]
        del unsent, answered, refused, future
        alice.close()
        assert [future() for future in futures] == [None] * 3
    finally:
        gc.enable()
