"""How the client library pairs answers with requests, and what it does with bytes that are not as they should be.

The test plays the server, so it says exactly which bytes come when. A server that grants features is a modern one;
one that grants none may be the original, which stands one request at a time and nothing near a heartbeat.
"""

import socket
import time
from concurrent.futures import wait
from datetime import datetime
from threading import Thread
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
    HEARTBEAT,
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
    wait_until,
)

from client_api import (
    ConnectionLost,
    GroupMessageEvent,
    MessageEvent,
    Profile,
    Reason,
    RequestRejected,
    RequestTimeout,
    ServerBusy,
    ServerFailed,
    State,
    SystemEvent,
)
from jelly.client.conversation import CLASSIC_GAP, MAX_WAITING, WINDOW
from jelly.client.line import Line

PROFILE = response(OWN_PROFILE, username="alice")

# --- answers ------------------------------------------------------------------------------------------------


def test_answers_belong_to_the_oldest_request_of_their_type(new_client: NewClient, script: ScriptedServer) -> None:
    """Types may overtake each other; within a type the order counts."""
    alice = new_client(script.port)
    peer = script.log_in(alice)
    first, profile, second = alice.add_friend("bob"), alice.own_profile(), alice.add_friend("carol")
    peer.send(PROFILE)
    assert result(profile) == Profile("alice")
    peer.answer(ADD_FRIEND, REQUEST_ERROR, error="no_such_user")
    assert error(first).code == "no_such_user"
    assert not second.done()
    peer.answer(ADD_FRIEND)
    assert result(second) is None


def test_byte_by_byte(new_client: NewClient, script: ScriptedServer) -> None:
    """Frames may come in any pieces."""
    recorder = Recorder()
    alice = new_client(script.port, recorder)
    peer = script.log_in(alice)
    profile = alice.own_profile()
    for byte in message("hello") + PROFILE:
        peer.send(bytes([byte]))
    assert result(profile) == Profile("alice")
    assert recorder.contents(1) == ["hello"]


def test_fifty_frames_in_one_write(new_client: NewClient, script: ScriptedServer) -> None:
    """Answers and notices that come together are told apart, and keep their order."""
    recorder = Recorder()
    alice = new_client(script.port, recorder)
    peer = script.log_in(alice)
    profiles = [alice.own_profile() for _ in range(25)]
    frames = [response(OWN_PROFILE, username=f"u{n}") + message(f"m{n}") for n in range(25)]
    peer.send(b"".join(frames))
    assert [result(profile).username for profile in profiles] == [f"u{n}" for n in range(25)]
    assert recorder.contents(25) == [f"m{n}" for n in range(25)]


def test_what_comes_together_with_the_login(new_client: NewClient, script: ScriptedServer) -> None:
    """Messages in the same write as the login's answer are not lost, nor are those before it."""
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
    """A notice is not taken for the answer to a request of the same type."""
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
    """Each status has an error of its own, with the code and the sentence if the server says any."""
    alice = new_client(script.port)
    peer = script.log_in(alice)
    sent = alice.send_message("bob", "hello")
    peer.answer(PERSON_MESSAGE, status, **({"error": code, "message": "So it is."} if has_body else {}))
    failure = error(sent)
    assert (type(failure), failure.code) == (kind, code if has_body else "")
    assert str(failure) == ("So it is." if has_body else "The server gave no reason.")


def test_a_code_without_a_sentence(new_client: NewClient, script: ScriptedServer) -> None:
    """The sentence for a known code is ours; an unknown code is passed on as it is."""
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
    """They are a failure of the server; the connection goes on."""
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
    """Lists where maps belong, and numbers where lists belong, are a failure of the server, too."""
    alice = new_client(script.port)
    peer = script.log_in(alice)
    future = alice.list_friends() if type == ALL_FRIENDS else alice.list_groups()
    peer.answer(type, username="alice", **values)
    assert error(future).__class__ is ServerFailed


def test_null_and_unknown_values(new_client: NewClient, script: ScriptedServer) -> None:
    """What is null counts as left out, and what nobody knows does not count."""
    alice = new_client(script.port)
    peer = script.log_in(alice)
    profile, friends, groups = alice.own_profile(), alice.list_friends(), alice.list_groups()
    peer.answer(OWN_PROFILE, username="alice", name=None, password=None, height="2 m")
    peer.answer(ALL_FRIENDS, username="alice", friends=None)
    peer.answer(OWN_GROUPS, username="alice", groups={"team": ["alice"]}, more={"a": []})
    assert result(profile) == Profile("alice")
    assert result(friends) == {}
    assert result(groups)["team"].members == ("alice",)


def test_a_response_that_nobody_asked_for(
    new_client: NewClient, script: ScriptedServer, caplog: pytest.LogCaptureFixture
) -> None:
    """It is logged and dropped, as is a frame that looks like a request."""
    alice = new_client(script.port)
    peer = script.log_in(alice)
    peer.answer(CREATE_GROUP)
    peer.send(pack(PERSON_MESSAGE, b"{}"))
    profile = alice.own_profile()
    peer.send(PROFILE)
    assert result(profile) == Profile("alice")
    assert "dropped a response of type 0x17 that nobody asked for" in caplog.text
    assert "dropped a frame with the sign 0x01" in caplog.text


@pytest.mark.parametrize(
    "noise", [b"GET / HTTP/1.1\r\n\r\n", pack(OWN_PROFILE, magic=0xABCE), b"\xab\xcd\2\x1f1\xff\xff\xff\xff"]
)
def test_noise(new_client: NewClient, script: ScriptedServer, noise: bytes) -> None:
    """A stream that is no Jelly ends the connection; what had no answer is lost, and the client comes back."""
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


# --- the login's answer -------------------------------------------------------------------------------------


def test_token_as_a_string(new_client: NewClient, script: ScriptedServer) -> None:
    """A token that comes as a string is the same number, and goes out as a number."""
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
    """The login has failed, the line is closed, and the client is offline."""
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
    """Whatever a server says about its features, the client is online or the login has failed, and it goes on."""
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
    """A server that adds something to the answer of RECONNECT does no harm: the token is the one that was given."""
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
    """A server that could not read the login's type answers with type 0, and that is an answer, too."""
    alice = new_client(script.port)
    login = alice.login("alice", "pw")
    peer = script.accept()
    peer.receive_request(LOGIN)
    peer.answer(type, REQUEST_ERROR, error="malformed_frame")
    assert error(login).code == "malformed_frame"


def test_no_answer_to_a_login(new_client: NewClient, script: ScriptedServer) -> None:
    """It times out; or the line ends, and the error says that the request had left."""
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


# --- notices ------------------------------------------------------------------------------------------------


def test_a_notice_without_a_time(new_client: NewClient, script: ScriptedServer) -> None:
    """The original lets that pass: it was written when it came, then."""
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
    """The number is what the sender said; the date is the nearest one, with a zone like any other."""
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
    """They are logged and dropped, and what comes behind them arrives."""
    recorder = Recorder()
    peer = script.log_in(new_client(script.port, recorder))
    peer.send(bad + message("next"))
    assert recorder.contents(1) == ["next"]
    assert "that cannot be read" in caplog.text
    assert not [event for event in recorder.events if isinstance(event, SystemEvent | GroupMessageEvent)]


def test_system_notices(new_client: NewClient, script: ScriptedServer) -> None:
    """They come as one event, with what is known of them by name, and all that was said; null counts as left out."""
    recorder = Recorder()
    peer = script.log_in(new_client(script.port, recorder))
    peer.notify(SYSTEM, event="presence", friend="bob", online=True, group=None)
    peer.notify(SYSTEM, event="group_changed", group="team", members=["alice", "bob"])
    peer.notify(SYSTEM, event="new_in_2030", colour="red")
    presence, changed, new = recorder.wait_for(lambda e: isinstance(e, SystemEvent), 3)
    assert (presence.event, presence.friend, presence.online) == ("presence", "bob", True)
    assert (changed.group, changed.members) == ("team", ("alice", "bob"))
    assert (new.event, new.values["colour"]) == ("new_in_2030", "red")


# --- towards a server that grants no features ---------------------------------------------------------------


def test_classic_one_request_at_a_time(new_client: NewClient, script: ScriptedServer) -> None:
    """The next request is written only when the one before it has its answer, in the order of the calls."""
    alice = new_client(script.port)
    peer = script.log_in(alice, features=None)
    futures = [alice.add_friend(f"u{number}") for number in range(5)]
    assert peer.receive().type == HEARTBEAT
    for number, future in enumerate(futures):
        assert peer.receive() == (1, ADD_FRIEND, 0, b'{"username":"alice","friend":"u%d"}' % number)
        if number == 1:
            assert peer.is_silent()
        peer.answer(ADD_FRIEND)
        assert result(future) is None


def test_classic_heartbeat_right_after_the_login(new_client: NewClient, script: ScriptedServer) -> None:
    """To the original a connection without a heartbeat would stay online for ever; a modern one needs none yet."""
    assert script.log_in(new_client(script.port), features=None).receive().type == HEARTBEAT
    assert script.log_in(new_client(script.port), features=()).is_silent()


def test_classic_nothing_near_a_heartbeat(new_client: NewClient, script: ScriptedServer) -> None:
    """What is requested in the tenth of a second after a heartbeat is written after it."""
    alice = new_client(script.port, heartbeat=0.25)
    peer = script.log_in(alice, features=None)
    for _ in range(2):
        assert peer.receive().type == HEARTBEAT
        came_at = time.monotonic()
        profile = alice.own_profile()
        assert peer.receive().type == OWN_PROFILE
        assert time.monotonic() - came_at >= CLASSIC_GAP - 0.02
        peer.send(PROFILE)
        assert result(profile) == Profile("alice")


def test_classic_requests_of_many_threads_wait_for_room(new_client: NewClient, script: ScriptedServer) -> None:
    """Whoever asks for too much waits, and is told when the line is cut."""
    alice = new_client(script.port, reconnect=False)
    peer = script.log_in(alice, features=None)
    peer.receive_request(HEARTBEAT)
    futures: list[Any] = []
    thread = Thread(target=lambda: futures.extend(alice.own_profile() for _ in range(MAX_WAITING + 5)))
    thread.start()
    peer.receive_request(OWN_PROFILE)
    wait_until(lambda: len(futures) >= MAX_WAITING)
    peer.send(PROFILE)
    peer.receive_request(OWN_PROFILE)
    peer.close()
    thread.join()
    done, pending = wait(futures, 10)
    assert (len(done), len(pending)) == (MAX_WAITING + 5, 0)
    assert sum(future.exception() is None for future in futures) == 1


# --- towards a modern server --------------------------------------------------------------------------------


def test_modern_requests_are_pipelined(new_client: NewClient, script: ScriptedServer) -> None:
    """As many as the window holds go out at once; each answer lets one more out."""
    alice = new_client(script.port)
    peer = script.log_in(alice)
    futures = [alice.add_friend(f"u{number}") for number in range(WINDOW + 10)]
    for _ in range(WINDOW):
        peer.receive_request(ADD_FRIEND)
    assert peer.is_silent()
    for number in range(10):
        peer.answer(ADD_FRIEND)
        assert peer.receive_request(ADD_FRIEND)["friend"] == f"u{WINDOW + number}"
    peer.send(response(ADD_FRIEND) * WINDOW)
    assert [result(future) for future in futures] == [None] * len(futures)


def test_what_answers_let_out_goes_out_together(
    new_client: NewClient, script: ScriptedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Answers that come in one read cost one write, not one each."""
    alice = new_client(script.port)
    peer = script.log_in(alice)
    futures = [alice.add_friend(f"u{number}") for number in range(WINDOW + 20)]
    for _ in range(WINDOW):
        peer.receive_request(ADD_FRIEND)
    writes = []
    send = Line.send

    def note(line: Line, data: bytes) -> None:
        writes.append(data)
        send(line, data)

    monkeypatch.setattr(Line, "send", note)
    peer.send(response(ADD_FRIEND) * 20)
    for _ in range(20):
        peer.receive_request(ADD_FRIEND)
    assert len(writes) == 1
    peer.send(response(ADD_FRIEND) * WINDOW)
    assert [result(future) for future in futures] == [None] * len(futures)


def test_modern_heartbeat(new_client: NewClient, script: ScriptedServer) -> None:
    """A heartbeat comes when nothing was written for a while, and again; a request puts it off."""
    alice = new_client(script.port, heartbeat=0.3)
    peer = script.log_in(alice)
    start = time.monotonic()
    assert peer.receive().type == HEARTBEAT
    assert time.monotonic() - start >= 0.25
    alice.own_profile()
    assert peer.receive().type == OWN_PROFILE
    start = time.monotonic()
    assert peer.receive().type == HEARTBEAT
    assert time.monotonic() - start >= 0.25


# --- the end of the line ------------------------------------------------------------------------------------


@pytest.mark.parametrize("is_reset", [False, True])
def test_a_cut_tells_what_was_sent(new_client: NewClient, script: ScriptedServer, is_reset: bool) -> None:
    """What was written is in doubt, what was not was never done; both have failed before the client is back."""
    recorder = Recorder()
    alice = new_client(script.port, recorder)
    peer = script.log_in(alice)
    futures = [alice.own_profile() for _ in range(WINDOW + 10)]
    for _ in range(WINDOW):
        peer.receive_request(OWN_PROFILE)
    peer.reset() if is_reset else peer.close()
    failures = [error(future) for future in futures]
    assert {type(failure) for failure in failures} == {ConnectionLost}
    assert [failure.sent for failure in failures] == [True] * WINDOW + [False] * 10
    assert str(failures[-1]) == "The connection ended before this was sent."
    script.accept_login()
    recorder.wait_for_state(State.ONLINE, count=2)


def test_requests_without_a_line(new_client: NewClient, script: ScriptedServer) -> None:
    """While there is no connection they fail at once, and were not sent; before the login they are refused."""
    alice = new_client(script.port)
    assert error(alice.own_profile()).code == "not_logged_in"
    peer = script.log_in(alice)
    script.close()
    peer.close()
    wait_until(lambda: alice.state is State.RECONNECTING)
    failure = error(alice.own_profile())
    assert (type(failure), failure.sent) == (ConnectionLost, False)
    alice.close()
    assert str(error(alice.own_profile())) == "The client is closed."


def test_timeout(new_client: NewClient, script: ScriptedServer) -> None:
    """The first request has timed out, those behind it are lost with the line, and the client is back on a new one."""
    recorder = Recorder()
    alice = new_client(script.port, recorder, request_timeout=0.2, heartbeat=60)
    peer = script.log_in(alice)
    start = time.monotonic()
    first, second = alice.add_friend("bob"), alice.own_profile()
    assert type(error(first)) is RequestTimeout
    assert time.monotonic() - start < 3
    assert (type(error(second)), error(second).sent) == (ConnectionLost, True)
    assert isinstance(recorder.wait_for_state(State.RECONNECTING).error, RequestTimeout)
    peer = script.accept_login()
    recorder.wait_for_state(State.ONLINE, count=2)
    profile = alice.own_profile()
    peer.receive_request(OWN_PROFILE)
    peer.send(PROFILE)
    assert result(profile) == Profile("alice")


def test_the_time_counts_from_when_a_request_is_sent(new_client: NewClient, script: ScriptedServer) -> None:
    """Towards a classic server a request may wait for the one before it longer than an answer may take."""
    alice = new_client(script.port, request_timeout=0.4)
    peer = script.log_in(alice, features=None)
    futures = [alice.own_profile() for _ in range(3)]
    for _ in futures:
        peer.receive_request(OWN_PROFILE)
        assert peer.is_silent(0.2)
        peer.send(PROFILE)
    assert [result(future) for future in futures] == [Profile("alice")] * 3


def test_a_line_that_cannot_be_written() -> None:
    """What the server sent before it closed can be read to its end, although writing to it has failed already."""
    sock, peer = socket.socketpair()
    sock.setblocking(False)
    line = Line(sock)
    peer.sendall(message("hello") + notice(SYSTEM, event="taken_over"))
    peer.close()
    line.send(pack(HEARTBEAT))
    assert isinstance(line.failure, BrokenPipeError)
    assert [frame.type for frame in line.receive()] == [PERSON_MESSAGE, SYSTEM]
    with pytest.raises(EOFError):
        line.receive()
    line.close()


def test_what_came_before_a_broken_write_counts(new_client: NewClient, script: ScriptedServer) -> None:
    """A client that writes to a server that has closed still takes what that had sent: here, why it closed."""
    recorder = Recorder()
    alice = new_client(script.port, recorder, heartbeat=0.05)
    peer = script.log_in(alice)
    peer.send(message("x" * 30_000) + notice(SYSTEM, event="taken_over"))
    peer.close()
    assert recorder.wait_for_state(State.OFFLINE).reason is Reason.TAKEN_OVER


# --- the end of LOGOUT --------------------------------------------------------------------------------------


def test_the_end_answers_a_logout(new_client: NewClient, script: ScriptedServer) -> None:
    """Requests before it are answered first; those behind it are refused; the close of the server is its result."""
    alice = new_client(script.port)
    peer = script.log_in(alice)
    profile, logout, late = alice.own_profile(), alice.logout(), alice.own_profile()
    assert error(late).code == "not_logged_in"
    peer.receive_request(OWN_PROFILE)
    assert peer.receive_request(LOGOUT) == {"username": "alice", "token": 7}
    peer.send(PROFILE)
    assert result(profile) == Profile("alice")
    assert not logout.done()
    peer.close()
    assert result(logout) is None
    assert alice.state is State.OFFLINE


def test_a_logout_that_is_refused(new_client: NewClient, script: ScriptedServer) -> None:
    """An answer to LOGOUT is a refusal: the client stays online, and can go on."""
    alice = new_client(script.port)
    peer = script.log_in(alice)
    logout = alice.logout()
    peer.receive_request(LOGOUT)
    peer.answer(LOGOUT, SERVER_BUSY, error="busy")
    assert type(error(logout)) is ServerBusy
    profile = alice.own_profile()
    peer.receive_request(OWN_PROFILE)
    peer.send(PROFILE)
    assert result(profile) == Profile("alice")
    assert alice.state is State.ONLINE


def test_a_logout_without_an_end(new_client: NewClient, script: ScriptedServer) -> None:
    """If the server does not close, it times out; if the line breaks, the token may be good. Offline it is anyway."""
    alice = new_client(script.port, request_timeout=0.1)
    script.log_in(alice)
    assert type(error(alice.logout())) is RequestTimeout
    assert alice.state is State.OFFLINE
    peer = script.log_in(alice)
    logout = alice.logout()
    peer.receive_request(LOGOUT)
    peer.reset()
    assert (type(error(logout)), error(logout).sent) == (ConnectionLost, True)
    assert alice.state is State.OFFLINE


def test_a_logout_that_is_cancelled(new_client: NewClient, script: ScriptedServer) -> None:
    """A logout that waits behind another request can be cancelled; the client goes on as if it had not been asked."""
    alice = new_client(script.port)
    peer = script.log_in(alice, features=None)
    profile, logout = alice.own_profile(), alice.logout()
    assert logout.cancel()
    peer.receive_request(OWN_PROFILE)
    peer.send(PROFILE)
    result(profile)
    wait_until(lambda: not alice.own_profile().done())  # one that is refused is done at once
    peer.receive_request(OWN_PROFILE)
    assert alice.state is State.ONLINE
