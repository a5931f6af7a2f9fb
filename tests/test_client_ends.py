"""How a client ends whose program does not close it; and how a program learns why it has ended."""

import gc
import textwrap
import threading
import warnings
import weakref
from concurrent.futures import Future
from typing import Any

import pytest
from client_tools import NEVER, NewClient, Peer, Recorder, ScriptedServer, error, result, run_program
from harness import StartServer
from wire import PERSON_MESSAGE, SYSTEM, logged_in, register, wait_until

from client_api import ConnectionEvent, ConnectionLost, JellyClient, Reason, Receiver, State
from faults.process import Program

# --- wait, and why


class Slow(Recorder):
    """It takes its time to hear that the client is offline."""

    def __init__(self) -> None:
        super().__init__()
        self.go, self.was_told = threading.Event(), False
        self.client: JellyClient | None = None
        self.waited: bool | None = None

    def on_connection(self, event: ConnectionEvent) -> None:
        if event.state is State.OFFLINE:
            assert self.go.wait(10)
            self.waited = event.client.wait(10)  # in the callback it does not wait for itself
            self.was_told = True
        super().on_connection(event)


def test_wait_returns_when_the_receiver_was_told(new_client: NewClient, script: ScriptedServer) -> None:
    slow = Slow()
    alice = new_client(script.port, slow)
    peer = script.log_in(alice)
    peer.notify(SYSTEM, event="taken_over")
    peer.close()
    wait_until(lambda: alice.state is State.OFFLINE)
    assert alice.wait(0.05)  # it is offline, but not everybody knows: the time is up
    assert not slow.was_told
    threading.Timer(0.1, slow.go.set).start()
    assert alice.wait(10)
    assert (slow.was_told, slow.waited) == (True, True)


@pytest.mark.parametrize(
    ("event", "reason"),
    [
        ("taken_over", Reason.TAKEN_OVER),
        ("password_changed", Reason.PASSWORD_CHANGED),
        ("logged_out", Reason.ENDED),
        ("", Reason.CONNECTION_LOST),
    ],
)
def test_the_reason(new_client: NewClient, script: ScriptedServer, event: str, reason: Reason) -> None:
    """It says why the client is offline, also after the client was closed."""
    alice = new_client(script.port, reconnect=False)
    assert alice.reason is None
    peer = script.log_in(alice)
    assert alice.reason is Reason.LOGGED_IN
    if event:
        peer.notify(SYSTEM, event=event)
    peer.close()
    assert alice.wait(10)
    assert alice.reason is reason
    alice.close()
    assert (alice.state, alice.reason) == (State.CLOSED, reason)


def test_the_reason_of_a_close(new_client: NewClient, script: ScriptedServer) -> None:
    alice = new_client(script.port)
    script.log_in(alice)
    alice.close()
    assert alice.reason is Reason.CLOSED


@pytest.mark.parametrize(
    ("ending", "code", "sentence"), [("taken over", 3, "taken over"), ("ctrl-c", 0, ""), ("refused", 1, "")]
)
def test_the_exit_code_of_a_bot(start_server: StartServer, ending: str, code: int, sentence: str) -> None:
    """The examples say why they have ended: so a supervisor knows whether to start them again."""
    server = start_server()
    register(server.port, "echo", "alice")
    password = "wrong" if ending == "refused" else "pw"
    with Program("-m", "examples.echo_bot", "echo", password, f"jelly://127.0.0.1:{server.port}") as bot:
        if ending != "refused":
            while "online" not in bot.line():
                pass
        if ending == "ctrl-c":
            bot.press_ctrl_c()
        elif ending == "taken over":
            logged_in(server.port, "echo").close()
        lines = bot.lines()
        assert bot.process.returncode == code, lines
        assert sentence in "\n".join(lines)


# --- programs that do not close

UNCLOSED = """
import sys, time
from client_api import JellyClient
port, count = map(int, sys.argv[1:])
alice = JellyClient("127.0.0.1", port)
alice.login("alice", "pw").result(10)
for number in range(count):
    alice.send_message("bob", str(number))
"""


def test_a_program_that_ends(start_server: StartServer, new_client: NewClient, recorder: Recorder) -> None:
    """What it has sent is stored, although it has not waited for it."""
    server = start_server()
    register(server.port, "alice", "bob")
    result(new_client(server.port, recorder).login("bob", "pw"))
    run_program(UNCLOSED, str(server.port), "500")
    assert recorder.contents(500) == [str(number) for number in range(500)]


def test_a_program_that_ends_and_a_server_that_does_not_answer(script: ScriptedServer) -> None:
    """It ends all the same, and says how many messages have no response."""
    found: list[str] = []
    code = (
        "import jelly.client.connection_manager as m; m.EXIT_TIMEOUT = 0.3"
        + UNCLOSED
        + textwrap.dedent(
            """
        import logging
        logging.getLogger("jelly.client").addHandler(logging.StreamHandler(sys.stdout))
        """
        )
    )
    thread = threading.Thread(target=lambda: found.append(run_program(code, str(script.port), "3")))
    thread.start()
    with script.accept_login() as peer:
        for number in range(3):
            assert peer.receive_request(PERSON_MESSAGE)["content"] == str(number)
        thread.join(20)
    assert "the program has ended without close(), and 3 requests without a response" in found[0]


# --- clients that are dropped


def names() -> set[str]:
    return {thread.name for thread in threading.enumerate() if thread.name.startswith("jelly-client")}


def drop(clients: list[JellyClient]) -> list[str]:
    """Drop the only reference to a client; return the warnings."""
    reference = weakref.ref(clients[0])
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        clients.clear()
        gc.collect()
        assert reference() is None
    return [str(each.message) for each in caught if each.category is ResourceWarning]


@pytest.mark.parametrize("state", [State.ONLINE, State.RECONNECTING, State.OFFLINE])
def test_a_client_that_is_dropped(script: ScriptedServer, state: State) -> None:
    """It leaves no thread and no connection; a warning says so, and what waits ends."""
    clients = [JellyClient("127.0.0.1", script.port, reconnect=NEVER if state is State.RECONNECTING else False)]
    peer = script.log_in(clients[0])
    futures: list[Future[Any]] = []
    if state is not State.ONLINE:
        script.close()
        peer.close()
        wait_until(lambda: clients[0].state is state)
    if state is not State.OFFLINE:
        futures.append(clients[0].send_message("bob", "hello"))
    wait_until(lambda: clients[0]._manager._callbacks.wait_until_idle(0))
    assert drop(clients) == ["a JellyClient was not closed"]
    wait_until(lambda: not names())
    for future in futures:
        assert isinstance(error(future), ConnectionLost)
    if state is State.ONLINE:
        assert peer.receive_request(PERSON_MESSAGE)["content"] == "hello"
        assert peer.is_closed_by_server()


def test_a_client_and_its_receiver_in_a_circle(script: ScriptedServer) -> None:
    class Knows(Receiver):
        client: JellyClient

    receiver = Knows()
    receiver.client = JellyClient("127.0.0.1", script.port, receiver=receiver)
    script.log_in(receiver.client)
    clients = [receiver.client]
    wait_until(lambda: clients[0]._manager._callbacks.wait_until_idle(0))
    del receiver
    assert drop(clients) == ["a JellyClient was not closed"]
    wait_until(lambda: not names())


@pytest.mark.parametrize("was_closed", [True, False])
def test_a_client_that_needs_no_close(script: ScriptedServer, was_closed: bool) -> None:
    """One that was closed, or has done nothing, gives no warning."""
    clients = [JellyClient("127.0.0.1", script.port)]
    if was_closed:
        script.log_in(clients[0])
        clients[0].close()
    assert drop(clients) == []


def test_a_second_ctrl_c(new_client: NewClient, script: ScriptedServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """While `close` waits: it waits no longer, and the threads end all the same."""
    alice = new_client(script.port)
    peer: Peer = script.log_in(alice)
    future = alice.send_message("bob", "hello")
    peer.receive_request(PERSON_MESSAGE)

    def interrupted(_: float) -> bool:
        raise KeyboardInterrupt

    monkeypatch.setattr(alice._manager, "_wait_until_idle", interrupted)
    with pytest.raises(KeyboardInterrupt):
        alice.close()
    assert alice.state is State.CLOSED
    assert isinstance(error(future), ConnectionLost)
    wait_until(lambda: not names())
