"""What the client library makes of what a server sends: responses, notices, and bytes that are
neither. The test plays the server, so it controls which bytes arrive when."""

import time
from datetime import datetime
from typing import Any

import pytest
from client_tools import (
    SYSTEM,
    NewClient,
    Recorder,
    ScriptedServer,
    error,
    message,
    notice,
    response,
    result,
)
from wire import (
    ADD_FRIEND,
    ALL_FRIENDS,
    CREATE_GROUP,
    GROUP_MESSAGE,
    LOGIN,
    LOGOUT,
    NOTICE,
    OWN_GROUPS,
    OWN_PROFILE,
    PERSON_MESSAGE,
    REGISTER,
    REQUEST_ERROR,
    SERVER_BUSY,
    SERVER_ERROR,
    pack,
)

from client_api import (
    ConnectionLost,
    GroupMessageEvent,
    MessageEvent,
    Profile,
    RequestRejected,
    RequestTimeout,
    ServerBusy,
    ServerFailed,
    State,
    SystemEvent,
)

PROFILE = response(OWN_PROFILE, username="alice")

# --- answers --------------------------------------------------------------------------------------


def test_answers_belong_to_the_oldest_request_of_their_type(new_client: NewClient, script: ScriptedServer) -> None:
    """Responses of different types may overtake each other; within a type the order counts."""
    alice = new_client(script.port)
    peer = script.log_in(alice)
    first, profile, second = alice.add_friend("bob"), alice.own_profile(), alice.add_friend("carol")
    peer.send(PROFILE)
    assert result(profile) == Profile("alice")
    peer.answer(ADD_FRIEND, REQUEST_ERROR, error="no_such_user")
    assert error(first).code == "no_such_user"
    assert not second.done()
    peer.answer(ADD_FRIEND)
    assert result(second) is True


def test_byte_by_byte(new_client: NewClient, script: ScriptedServer) -> None:
    """Frames may arrive in pieces of any size."""
    recorder = Recorder()
    alice = new_client(script.port, recorder)
    peer = script.log_in(alice)
    profile = alice.own_profile()
    for byte in message("hello") + PROFILE:
        peer.send(bytes([byte]))
    assert result(profile) == Profile("alice")
    assert recorder.contents(1) == ["hello"]


def test_fifty_frames_in_one_write(new_client: NewClient, script: ScriptedServer) -> None:
    """Responses and notices that arrive together are told apart, and keep their order."""
    recorder = Recorder()
    alice = new_client(script.port, recorder)
    peer = script.log_in(alice)
    profiles = [alice.own_profile() for _ in range(25)]
    frames = [response(OWN_PROFILE, username=f"u{n}") + message(f"m{n}") for n in range(25)]
    peer.send(b"".join(frames))
    assert [result(profile).username for profile in profiles] == [f"u{n}" for n in range(25)]
    assert recorder.contents(25) == [f"m{n}" for n in range(25)]


def test_what_comes_together_with_the_login(new_client: NewClient, script: ScriptedServer) -> None:
    """Messages in the same write as the login's response are not lost, whether before or after
    it."""
    recorder = Recorder()
    alice = new_client(script.port, recorder)
    login = alice.login("alice", "pw")
    peer = script.accept()
    peer.receive_request(LOGIN)
    answer = response(LOGIN, username="alice", token=7, features=["ack"])
    peer.send(message("before") + answer + message("behind"))
    assert result(login).token == 7
    assert recorder.contents(2) == ["before", "behind"]


def test_notices_between_answers(new_client: NewClient, script: ScriptedServer) -> None:
    """A notice is not taken for the response to a request of the same type."""
    recorder = Recorder()
    alice = new_client(script.port, recorder)
    peer = script.log_in(alice)
    sent = alice.send_message("bob", "hello")
    peer.say("not an answer")
    assert recorder.contents(1) == ["not an answer"]
    assert not sent.done()
    peer.answer(PERSON_MESSAGE)
    assert result(sent).receiver == "bob"


@pytest.mark.parametrize(
    ("status", "kind", "code"),
    [
        (REQUEST_ERROR, RequestRejected, "no_such_user"),
        (SERVER_BUSY, ServerBusy, "busy"),
        (SERVER_ERROR, ServerFailed, "internal"),
        (0, ServerFailed, "whatever"),
    ],
)
@pytest.mark.parametrize("has_body", [True, False])
def test_errors(
    new_client: NewClient, script: ScriptedServer, status: int, kind: type[Exception], code: str, has_body: bool
) -> None:
    """Each status has an error class of its own, with the server's code and sentence if there are
    any."""
    alice = new_client(script.port)
    peer = script.log_in(alice)
    sent = alice.send_message("bob", "hello")
    peer.answer(PERSON_MESSAGE, status, **({"error": code, "message": "So it is."} if has_body else {}))
    failure = error(sent)
    assert (type(failure), failure.code) == (kind, code if has_body else "")
    assert str(failure) == ("So it is." if has_body else "The server gave no reason.")


def test_a_code_without_a_sentence(new_client: NewClient, script: ScriptedServer) -> None:
    """For a known code the client has a sentence; an unknown code is passed on as it is."""
    alice = new_client(script.port)
    peer = script.log_in(alice)
    known, unknown = alice.add_friend("bob"), alice.add_friend("carol")
    peer.answer(ADD_FRIEND, REQUEST_ERROR, error="no_such_user", message=None)
    peer.answer(ADD_FRIEND, REQUEST_ERROR, error="new_in_2030")
    assert str(error(known)) == "There is no such user."
    assert error(unknown).code == "new_in_2030"


@pytest.mark.parametrize(
    "body",
    [
        b"{", b"[]", b"null", b"\xff", b'{"username":5}', b"{}", b"", b'{"username":null}', b'{"username":"a"}{}',
        b'{"username":"a","username":"b"}', b'{"username":"\\ud83d"}', b'{"username":' + b"[" * 5000,
    ],
)  # fmt: skip
def test_answers_that_cannot_be_read(new_client: NewClient, script: ScriptedServer, body: bytes) -> None:
    """The future ends with ServerFailed; the connection goes on."""
    alice = new_client(script.port)
    peer = script.log_in(alice)
    profile, next_one = alice.own_profile(), alice.own_profile()
    peer.send(pack(OWN_PROFILE, body, 2, 0x31) + PROFILE)
    assert type(error(profile)) is ServerFailed
    assert result(next_one) == Profile("alice")


@pytest.mark.parametrize(
    ("type", "values"),
    [
        (ALL_FRIENDS, {"friends": ["bob"]}), (ALL_FRIENDS, {"friends": 1}), (OWN_GROUPS, {"groups": ["team"]}),
        (OWN_GROUPS, {"groups": {"team": 1}}), (OWN_GROUPS, {"groups": {"team": None}}),
    ],
)  # fmt: skip
def test_answers_of_another_shape(
    new_client: NewClient, script: ScriptedServer, type: int, values: dict[str, Any]
) -> None:
    """Lists in place of maps, and numbers in place of lists, end with ServerFailed, too."""
    alice = new_client(script.port)
    peer = script.log_in(alice)
    future = alice.list_friends() if type == ALL_FRIENDS else alice.list_groups()
    peer.answer(type, username="alice", **values)
    assert error(future).__class__ is ServerFailed


def test_null_and_unknown_values(new_client: NewClient, script: ScriptedServer) -> None:
    """A null counts as a missing value; unknown values are ignored."""
    alice = new_client(script.port)
    peer = script.log_in(alice)
    profile, friends, groups = alice.own_profile(), alice.list_friends(), alice.list_groups()
    peer.answer(OWN_PROFILE, username="alice", name=None, password=None, height="2 m")
    peer.answer(ALL_FRIENDS, username="alice", friends=None)
    peer.answer(OWN_GROUPS, username="alice", groups={"team": ["alice"]}, more={"a": []})
    assert result(profile) == Profile("alice")
    assert result(friends) == {}
    assert result(groups)["team"].members == ("alice",)


def test_a_response_without_a_request(
    new_client: NewClient, script: ScriptedServer, caplog: pytest.LogCaptureFixture
) -> None:
    """It is logged and dropped, and so is a frame that looks like a request."""
    alice = new_client(script.port)
    peer = script.log_in(alice)
    peer.answer(CREATE_GROUP)
    peer.send(pack(PERSON_MESSAGE, b"{}"))
    profile = alice.own_profile()
    peer.send(PROFILE)
    assert result(profile) == Profile("alice")
    assert "dropped a response of type 0x17 for which no request is pending" in caplog.text
    assert "dropped a frame with the sign 0x01" in caplog.text


@pytest.mark.parametrize(
    "noise", [b"GET / HTTP/1.1\r\n\r\n", pack(OWN_PROFILE, magic=0xABCE), b"\xab\xcd\2\x1f1\xff\xff\xff\xff"]
)
def test_noise(new_client: NewClient, script: ScriptedServer, noise: bytes) -> None:
    """Bytes that are no frame end the connection; requests without a response are lost, and the
    client reconnects."""
    recorder = Recorder()
    alice = new_client(script.port, recorder)
    peer = script.log_in(alice)
    profile = alice.own_profile()
    peer.send(noise)
    failure = error(profile)
    assert (type(failure), failure.sent) == (ConnectionLost, True)
    assert str(failure).endswith("the server does not speak the Jelly protocol.")
    script.accept_login()
    assert str(recorder.wait_for_state(State.RECONNECTING).error) == "the server does not speak the Jelly protocol"


# --- the login's answer ---------------------------------------------------------------------------


def test_token_as_a_string(new_client: NewClient, script: ScriptedServer) -> None:
    """A token may arrive as a string; the client sends it back as a number."""
    alice = new_client(script.port)
    login = alice.login("alice", "pw")
    peer = script.accept()
    peer.receive_request(LOGIN)
    peer.answer(LOGIN, username="alice", token="-9223372036854775808", features=["ack"])
    assert result(login).token == -(2**63)
    alice.logout()
    assert peer.receive_request(LOGOUT) == {"username": "alice", "token": -(2**63)}
    peer.close()


@pytest.mark.parametrize(
    "values",
    [
        {}, {"username": "alice"}, {"username": "alice", "token": "x"}, {"username": 5, "token": 1},
        {"username": "alice", "token": None}, {"username": "alice", "token": []},
        {"username": "alice", "token": 1, "features": 5},
    ],
)  # fmt: skip
def test_login_answers_that_cannot_be_read(
    new_client: NewClient, script: ScriptedServer, values: dict[str, Any]
) -> None:
    """The login fails, the connection is closed, and the client is offline."""
    alice = new_client(script.port)
    login = alice.login("alice", "pw")
    peer = script.accept()
    peer.receive_request(LOGIN)
    peer.answer(LOGIN, **values)
    assert type(error(login)) is ServerFailed
    assert peer.is_closed_by_server()
    assert alice.state is State.OFFLINE


@pytest.mark.parametrize("features", [None, "ack", [], [{}], [None, 5]])
def test_strange_features(new_client: NewClient, script: ScriptedServer, features: Any) -> None:
    """Whatever a server says about its features: the client is online or the login fails, and the
    client works."""
    alice = new_client(script.port)
    login = alice.login("alice", "pw")
    peer = script.accept()
    peer.receive_request(LOGIN)
    peer.answer(LOGIN, username="alice", token=1, features=features)
    assert result(login).username == "alice"
    profile = alice.own_profile()
    peer.receive_request(OWN_PROFILE)
    peer.send(PROFILE)
    assert result(profile) == Profile("alice")


def test_a_strange_token_with_the_answer_to_a_resume(new_client: NewClient, script: ScriptedServer) -> None:
    """Extra values in the response to RECONNECT do no harm: the token stays the given one."""
    alice = new_client(script.port)
    login = alice.resume("alice", 5)
    peer = script.accept()
    assert peer.receive().values["token"] == 5
    peer.answer(0x14, username="alice", token="none", features=["ack"])
    assert result(login).token == 5
    alice.logout()
    assert peer.receive_request(LOGOUT)["token"] == 5
    peer.close()


@pytest.mark.parametrize("type", [LOGIN, 0])
def test_a_refusal_of_a_login(new_client: NewClient, script: ScriptedServer, type: int) -> None:
    """A server that could not read the type of the login answers with type 0; that counts as the
    response."""
    alice = new_client(script.port)
    login = alice.login("alice", "pw")
    peer = script.accept()
    peer.receive_request(LOGIN)
    peer.answer(type, REQUEST_ERROR, error="malformed_frame")
    assert error(login).code == "malformed_frame"


def test_no_answer_to_a_login(new_client: NewClient, script: ScriptedServer) -> None:
    """It times out; or the connection is lost, and the error says that the request was sent."""
    alice = new_client(script.port, request_timeout=0.1)
    login = alice.login("alice", "pw")
    peer = script.accept()
    assert type(error(login)) is RequestTimeout
    assert peer.receive().type == LOGIN
    assert peer.is_closed_by_server()
    registration = alice.register("dora", "pw")
    peer = script.accept()
    peer.receive_request(REGISTER)
    peer.close()
    failure = error(registration)
    assert (type(failure), failure.sent) == (ConnectionLost, True)


# --- notices --------------------------------------------------------------------------------------


def test_a_notice_without_a_time(new_client: NewClient, script: ScriptedServer) -> None:
    """The original server accepts a message without a time. It gets the time of its arrival."""
    recorder = Recorder()
    peer = script.log_in(new_client(script.port, recorder))
    before = time.time()
    peer.say("hello", time=None)
    (event,) = recorder.wait_for(lambda e: isinstance(e, MessageEvent))
    assert before - 1 <= event.time / 1000 <= time.time() + 1


@pytest.mark.parametrize(
    ("moment", "date"),
    [
        (2**63 - 1, "9999-12-30T00:00:00+00:00"),
        (-(2**63), "0001-01-02T00:00:00+00:00"),
        (10**15, "9999-12-30T00:00:00+00:00"),
        (-1, "1969-12-31T23:59:59.999000+00:00"),
    ],
)
def test_a_notice_with_a_strange_time(new_client: NewClient, script: ScriptedServer, moment: int, date: str) -> None:
    """`time` is the sender's number; `written_at` is the nearest date, in the local zone."""
    recorder = Recorder()
    peer = script.log_in(new_client(script.port, recorder))
    peer.say("hello", time=moment)
    (event,) = recorder.wait_for(lambda e: isinstance(e, MessageEvent))
    assert event.time == moment
    assert event.written_at == datetime.fromisoformat(date)
    assert event.written_at.tzinfo is not None


@pytest.mark.parametrize(
    "bad",
    [
        pack(PERSON_MESSAGE, b"{", NOTICE), pack(PERSON_MESSAGE, b"", NOTICE), notice(PERSON_MESSAGE, sender="bob"),
        notice(PERSON_MESSAGE, sender=5, content="x"), notice(GROUP_MESSAGE, sender="bob", content="x"),
        notice(SYSTEM), notice(SYSTEM, event=5), notice(SYSTEM, event="group_changed", members=5), notice(0x7F, a=1),
        pack(PERSON_MESSAGE, b"[1]", NOTICE),
    ],
)  # fmt: skip
def test_notices_that_cannot_be_read(
    new_client: NewClient, script: ScriptedServer, bad: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    """They are logged and dropped, and the notices behind them arrive."""
    recorder = Recorder()
    peer = script.log_in(new_client(script.port, recorder))
    peer.send(bad + message("next"))
    assert recorder.contents(1) == ["next"]
    assert "that cannot be read" in caplog.text
    assert not [event for event in recorder.events if isinstance(event, SystemEvent | GroupMessageEvent)]


def test_system_notices(new_client: NewClient, script: ScriptedServer) -> None:
    """Each is one event, with the known values as attributes and all values in `values`; a null
    counts as missing."""
    recorder = Recorder()
    peer = script.log_in(new_client(script.port, recorder))
    peer.notify(SYSTEM, event="presence", friend="bob", online=True, group=None)
    peer.notify(SYSTEM, event="group_changed", group="team", members=["alice", "bob"])
    peer.notify(SYSTEM, event="new_in_2030", colour="red")
    presence, changed, new = recorder.wait_for(lambda e: isinstance(e, SystemEvent), 3)
    assert (presence.event, presence.friend, presence.online) == ("presence", "bob", True)
    assert (changed.group, changed.members) == ("team", ("alice", "bob"))
    assert (new.event, new.values["colour"]) == ("new_in_2030", "red")
