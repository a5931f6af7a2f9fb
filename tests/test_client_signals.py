"""Signal handlers that raise, as Ctrl-C does, or that use the client, at any moment of a call.

Python runs them in the main thread: whenever a function begins, and whenever one in C has returned.
A profile function is called at exactly these moments, so most of these tests use one, which needs
no luck. (A profile function belongs to a thread. So a test that hangs is only a thread that does
not end.)
"""

import itertools
import sys
import threading
from collections.abc import Callable
from concurrent.futures import Future
from types import FrameType
from typing import Any

import pytest
from client_tools import NewClient, Recorder, error, result, run_program
from harness import StartServer
from wire import PATIENCE, register

from client_api import JellyClient, RequestRejected, Sent, State
from jelly.client import connection_manager


class Interruption(BaseException):
    """What a signal handler raises."""


@pytest.fixture
def port(start_server: StartServer) -> int:
    server = start_server()
    register(server.port, "alice", "bob")
    return server.port


@pytest.fixture
def bob(port: int, new_client: NewClient) -> Recorder:
    recorder = Recorder()
    result(new_client(port, recorder).login("bob", "pw"))
    return recorder


@pytest.fixture
def alice(port: int, new_client: NewClient) -> JellyClient:
    client = new_client(port)
    result(client.login("alice", "pw"))
    return client


def in_thread(function: Callable[[], None]) -> None:
    """Run a function on a thread, and fail if it fails, or does not end."""
    failures: list[BaseException] = []

    def run() -> None:
        try:
            function()
        except BaseException as failure:  # noqa: BLE001 - raised below
            failures.append(failure)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(6 * PATIENCE)
    assert not thread.is_alive(), "it hangs"
    for failure in failures:
        raise failure


def signalled(call: Callable[[], Any], moment: int, handler: Callable[[], Any], within: str = "") -> tuple[Any, bool]:
    """Call something, and `handler` at a moment of it, of those within a package. Return the
    result, and whether it lasted as long."""
    moments = itertools.count()
    was_called = False

    def profile(frame: FrameType, event: str, _: object) -> None:
        nonlocal was_called
        is_moment = event in ("call", "c_return") and frame.f_globals.get("__name__", "").startswith(within)
        if is_moment and not was_called and next(moments) == moment:
            was_called = True
            handler()

    sys.setprofile(profile)
    try:
        found = call()
    finally:
        sys.setprofile(None)
    return found, was_called


def interrupted(call: Callable[[], Any], moment: int, within: str = "") -> bool:
    """Call something, and raise at a moment of it. Return whether it lasted as long."""

    def handler() -> None:
        raise Interruption

    try:
        return signalled(call, moment, handler, within)[1]
    except Interruption:
        return True


def at_every_moment(check: Callable[[int], bool]) -> None:
    """Check each moment of a call, until `check` says that the call did not last as long."""

    def run() -> None:
        for moment in itertools.count():
            assert moment < 1000, "no call has so many moments"
            if not check(moment):
                return

    in_thread(run)


def test_every_answer_goes_to_its_own_request(alice: JellyClient, bob: Recorder) -> None:
    """Whenever a send is interrupted, later ones get their own answers, and each is stored once."""
    expected = []

    def check(moment: int) -> bool:
        lasted = interrupted(lambda: alice.send_message("bob", f"interrupted {moment}"), moment)
        for content in (f"after {moment}", f"and {moment}"):
            assert alice.wait_until_online(PATIENCE)
            assert result(alice.send_message("bob", content)).receiver == "bob"
            refusal = error(alice.send_message("nobody", "?"))
            assert isinstance(refusal, RequestRejected), (moment, refusal)
            assert refusal.code == "no_such_user"
            expected.append(content)
        return lasted

    at_every_moment(check)
    assert len(expected) > 40
    bob.wait_for(lambda event: getattr(event, "content", "") == expected[-1])
    assert [content for content in bob.messages if not content.startswith("interrupted")] == expected
    assert len(set(bob.messages)) == len(bob.messages)


def test_what_others_have_asked_is_not_lost(port: int, new_client: NewClient, bob: Recorder) -> None:
    """Messages of other threads that an interrupted call was about to write are written, too."""
    alice = new_client(port, heartbeat=0.05)  # if it is not even about to write them, they go out with this
    result(alice.login("alice", "pw"))
    lock, pipeline = alice._manager._lock, alice._manager._pipeline
    expected = []

    def check(moment: int) -> bool:
        contents = [f"{moment} {number}" for number in range(3)]
        with lock:
            assert lock.wait_for(lambda: alice.state is State.ONLINE, PATIENCE)
            pipeline.is_sending = True  # so they only wait
            others = [alice.send_message("bob", content) for content in contents]
            pipeline.is_sending = False
            lasted = interrupted(lambda: alice.send_message("bob", f"{moment} mine"), moment)
        for future in others:
            assert result(future).receiver == "bob"
        expected.extend(contents)
        return lasted

    at_every_moment(check)
    bob.wait_for(lambda event: getattr(event, "content", "") == expected[-1])
    assert [content for content in bob.messages if not content.endswith("mine")] == expected
    assert len(set(bob.messages)) == len(bob.messages)


def test_a_handler_that_sends(alice: JellyClient, bob: Recorder) -> None:
    """It never hangs, whatever its thread is doing; both messages are stored once."""
    expected = set()

    def check(moment: int) -> bool:
        nested: list[Future[Sent]] = []
        sent, lasted = signalled(
            lambda: alice.send_message("bob", f"outer {moment}"),
            moment,
            lambda: nested.append(alice.send_message("bob", f"nested {moment}")),
        )
        for future in (sent, *nested):
            assert result(future).receiver == "bob"
        expected.update({f"outer {moment}", f"nested {moment}"} if nested else {f"outer {moment}"})
        return lasted

    at_every_moment(check)
    assert sorted(bob.contents(len(expected))) == sorted(expected)


def test_a_handler_that_sends_while_something_else_is_written(alice: JellyClient, bob: Recorder) -> None:
    """The same with what has no answer: an acknowledgement, or a note that somebody is typing."""
    futures: list[Future[Sent]] = []

    def acknowledge() -> None:
        with alice._manager._lock:
            alice._manager._pipeline.acknowledge(1)

    def check(moment: int) -> bool:
        return signalled(acknowledge, moment, lambda: futures.append(alice.send_message("bob", f"{moment}")))[1]

    at_every_moment(check)
    for future in futures:
        assert result(future).receiver == "bob"
    assert len(set(bob.contents(len(futures)))) == len(futures)


def test_a_handler_that_sends_when_the_queue_is_full(
    alice: JellyClient, bob: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It does not wait for room that only the call could make which it has interrupted."""
    monkeypatch.setattr(connection_manager, "MAX_QUEUED", 1)

    def check(moment: int) -> bool:
        nested: list[Future[Sent]] = []
        sent, lasted = signalled(
            lambda: alice.send_message("bob", f"outer {moment}"),
            moment,
            lambda: nested.extend(alice.send_message("bob", f"{moment} {number}") for number in range(3)),
        )
        for future in (sent, *nested):
            assert result(future).receiver == "bob"
        return lasted

    at_every_moment(check)
    assert len(bob.messages) > 20


@pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning")  # left to the garbage collector
@pytest.mark.filterwarnings("ignore:Exception ignored in:pytest.PytestUnraisableExceptionWarning")  # it may come there
def test_interrupted_logins(port: int, new_client: NewClient) -> None:
    """A login that was interrupted leaves a client that can be closed, and no thread. (Unless
    Python itself is interrupted while it starts one: then that one may hang.)"""

    def check(moment: int) -> bool:
        client = new_client(port)
        lasted = interrupted(lambda: client.login("alice", "pw"), moment, within="jelly.client")
        client.close(1)
        return lasted

    at_every_moment(check)


PROGRAM = """
import logging, signal, sys
from client_api import ConnectionLost, JellyClient, RequestRejected

logging.getLogger("jelly").addHandler(logging.NullHandler())  # nobody asks for those that were interrupted

class Interruption(BaseException):
    pass

def handler(number, frame):
    global told
    if frame is not None and frame.f_globals.get("__name__", "").startswith("jelly."):
        told += 1
        raise Interruption

told = 0
signal.alarm(80)
with JellyClient("127.0.0.1", int(sys.argv[1])) as alice:
    alice.login("alice", "pw").result(10)
    signal.signal(signal.SIGPROF, handler)
    signal.setitimer(signal.ITIMER_PROF, 0.002, 0.002)
    futures = []
    number = 0
    while told < 30 and number < 20_000:
        number += 1
        try:
            futures.append((number, alice.send_message("bob" if number % 2 else "nobody", str(number))))
        except Interruption:
            pass
    signal.signal(signal.SIGPROF, signal.SIG_IGN)
    wrong = 0
    for number, future in futures:
        try:
            future.result(20)
        except RequestRejected as error:
            wrong += error.code != "no_such_user" or number % 2
        except ConnectionLost as error:
            assert not error.sent  # too many waited for the next connection
        else:
            wrong += not number % 2
    assert told, "no signal came in the library"
    assert not wrong, f"{wrong} of {len(futures)} answers are wrong"
"""


def test_with_real_signals(port: int) -> None:
    """Dozens of them in a loop of sends: no answer is wrong, and none is missing."""
    run_program(PROGRAM, str(port))
