"""A client that has the password from its application: it asks when its token is refused, once, and
not if the server has said why."""

from typing import Any

import pytest
from client_tools import QUICK, NewClient, Recorder, ScriptedServer, error, result
from harness import StartServer
from wire import LOGIN, PERSON_MESSAGE, RECONNECT, REQUEST_ERROR, SYSTEM, logged_in, register

from client_api import ConnectionLost, JellyClient, Reason, ReconnectPolicy, RequestRejected, State
from faults.proxy import Proxy


class Password:
    """What the application knows, and how often it was asked."""

    def __init__(self, answer: Any = "pw") -> None:
        self.answer, self.asked = answer, 0

    def __call__(self) -> Any:
        self.asked += 1
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


@pytest.fixture
def password() -> Password:
    return Password()


@pytest.fixture
def alice(new_client: NewClient, script: ScriptedServer, recorder: Recorder, password: Password) -> JellyClient:
    return new_client(script.port, recorder, credentials=password)


def refuse(script: ScriptedServer, type: int, code: str) -> Any:
    """Refuse the next login; return what it says."""
    with script.accept() as peer:
        values = peer.receive_request(type)
        peer.answer(type, REQUEST_ERROR, **({"error": code} if code else {}))
        return values


def test_a_refused_token(alice: JellyClient, script: ScriptedServer, password: Password, recorder: Recorder) -> None:
    """The client logs in with the password, at once; what waits is sent, and the token is new."""
    peer = script.log_in(alice)
    future = alice.send_message("bob", "hello")
    request = peer.receive_request(PERSON_MESSAGE)
    peer.close()
    asked = refuse(script, RECONNECT, "invalid_token")
    with script.accept() as peer:
        values = peer.receive_request(LOGIN)
        assert values == {"username": "alice", "password": "pw", "features": asked["features"]}
        peer.answer(LOGIN, username="alice", token=8, features=["ack"])
        assert peer.receive_request(PERSON_MESSAGE) == request
        peer.answer(PERSON_MESSAGE)
        assert result(future).receiver == "bob"
        assert recorder.wait_for_state(State.ONLINE, Reason.RECONNECTED)
        assert (alice.token, password.asked) == (8, 1)
    with script.accept() as peer:
        assert peer.receive_request(RECONNECT)["token"] == 8


def test_it_is_asked_once(alice: JellyClient, script: ScriptedServer, password: Password) -> None:
    """Connections that fail meanwhile, and servers that are busy, do not count."""
    script.log_in(alice).close()
    refuse(script, RECONNECT, "invalid_token")
    script.accept().close()
    with script.accept() as peer:
        peer.receive_request(LOGIN)
        peer.answer(LOGIN, 0x33)
    with script.accept() as peer:
        assert peer.receive_request(LOGIN)["password"] == "pw"
        peer.answer(LOGIN, username="alice", token=8, features=["ack"])
        assert alice.wait_until_online(10)
        assert password.asked == 1


def test_it_works_with_one_attempt(new_client: NewClient, script: ScriptedServer, password: Password) -> None:
    """To ask for the password is not an attempt of its own."""
    alice = new_client(script.port, credentials=password, reconnect=ReconnectPolicy(attempts=1))
    script.log_in(alice).close()
    refuse(script, RECONNECT, "invalid_token")
    with script.accept_login():
        assert alice.wait_until_online(10)


@pytest.mark.parametrize("answer", [None, "wrong", 5, LookupError("the file is gone")])
def test_no_password(new_client: NewClient, script: ScriptedServer, recorder: Recorder, answer: Any) -> None:
    """The client goes offline, as without the function, and says what the server has said."""
    password = Password(answer)
    alice = new_client(script.port, recorder, credentials=password)
    peer = script.log_in(alice)
    future = alice.send_message("bob", "hello")
    peer.receive_request(PERSON_MESSAGE)
    peer.close()
    refuse(script, RECONNECT, "invalid_token")
    if answer == "wrong":
        refuse(script, LOGIN, "wrong_credentials")
    event = recorder.wait_for_state(State.OFFLINE)
    assert event.reason is Reason.TOKEN_REFUSED
    assert isinstance(event.error, RequestRejected)
    assert event.error.code == ("wrong_credentials" if answer == "wrong" else "invalid_token")
    assert isinstance(error(future), ConnectionLost)
    assert password.asked == 1


@pytest.mark.parametrize("event", ["taken_over", "password_changed", "logged_out"])
def test_not_if_the_server_has_said_why(
    alice: JellyClient, script: ScriptedServer, recorder: Recorder, password: Password, event: str
) -> None:
    peer = script.log_in(alice)
    peer.notify(SYSTEM, event=event)
    peer.close()
    recorder.wait_for_state(State.OFFLINE)
    assert password.asked == 0


def test_not_if_the_account_is_disabled(
    alice: JellyClient, script: ScriptedServer, recorder: Recorder, password: Password
) -> None:
    script.log_in(alice).close()
    refuse(script, RECONNECT, "account_disabled")
    recorder.wait_for_state(State.OFFLINE)
    assert password.asked == 0


@pytest.mark.parametrize(("code", "asked"), [("invalid_token", 0), ("", 1)])
def test_a_classic_client(
    new_client: NewClient, script: ScriptedServer, recorder: Recorder, code: str, asked: int
) -> None:
    """To it, a refused token may mean a takeover. At the original server, which sends no codes, it
    does not."""
    password = Password(None)
    alice = new_client(script.port, recorder, features=(), credentials=password)
    script.log_in(alice, features=None).close()
    refuse(script, RECONNECT, code)
    recorder.wait_for_state(State.OFFLINE)
    assert password.asked == asked


def test_a_real_server(start_server: StartServer, new_client: NewClient, recorder: Recorder) -> None:
    """Whose tokens went while the client had no connection."""
    server = start_server()
    register(server.port, "alice", "bob")
    password = Password()
    with Proxy(server.port) as proxy, logged_in(server.port, "bob") as bob:
        alice = new_client(proxy.port, recorder, credentials=password, reconnect=QUICK)
        result(alice.login("alice", "pw"))
        first = alice.token
        with server._reading() as dao, dao.connection.transaction():
            dao.remove_tokens("alice")
        proxy.cut()
        recorder.wait_for_state(State.ONLINE, Reason.RECONNECTED)
        assert alice.token != first
        result(alice.send_message("bob", "I am back"))
        assert bob.contents(1) == ["I am back"]
        with logged_in(server.port, "alice"):
            assert recorder.wait_for_state(State.OFFLINE).reason is Reason.TAKEN_OVER
        assert password.asked == 1
