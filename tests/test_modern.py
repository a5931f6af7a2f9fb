"""Modern clients: those that send `features` when they log in. Classic ones must notice nothing of
it.
"""

import re
from typing import Any

import pytest
from harness import StartServer
from wire import (
    ADD_MEMBER,
    CREATE_GROUP,
    GROUP_MESSAGE,
    LOGIN,
    NOTICE,
    OWN_PROFILE,
    PERSON_MESSAGE,
    RECONNECT,
    RESPONSE,
    SUCCESS,
    Wire,
    logged_in,
    pack,
    register,
    to_json,
    wait_until,
)

from jelly import pacing
from jelly.server import JellyServer

GRANTED: dict[str, tuple[list[str], bytes]] = {
    "none": ([], b"[]"),
    "ack": (["ack"], b'["ack"]'),
    "ack-twice": (["ack", "ack"], b'["ack"]'),
    "unknown": (["telepathy", "ACK", ""], b"[]"),
    "some-known": (["telepathy", "ack"], b'["ack"]'),
}
features = pytest.mark.parametrize(("asked", "granted"), GRANTED.values(), ids=GRANTED)


@pytest.fixture
def server(start_server: StartServer, monkeypatch: pytest.MonkeyPatch) -> JellyServer:
    """A server with alice and bob, and a gap that would break each test that had to wait for it."""
    # The first answer of each type to a classic client needs a part of the gap: not here.
    monkeypatch.setattr(pacing, "FIRST_ANSWER_GAPS", 0.0)
    server = start_server(classic_gap=20_000)
    register(server.port, "alice", "bob")
    return server


# --- what they are granted ------------------------------------------------------------------------


@features
def test_a_login_is_told_what_it_is_granted(server: JellyServer, asked: list[str], granted: bytes) -> None:
    """The response has `features` as its last key: those of the wanted ones that there are."""
    with Wire(server.port) as wire:
        reply = wire.login("alice", features=asked)
        token = str(wire.token).encode()
        body = b'{"username":"alice","token":' + token + b',"features":' + granted + b"}"
        assert reply == (RESPONSE, LOGIN, SUCCESS, body)


@features
def test_a_reconnect_is_told_what_it_is_granted(server: JellyServer, asked: list[str], granted: bytes) -> None:
    """What counts is what this connection asks for, whatever the one before was."""
    with logged_in(server.port, "alice") as alice, Wire(server.port) as again:
        reply = again.reconnect("alice", alice.token, features=asked)
        assert reply == (RESPONSE, RECONNECT, SUCCESS, b'{"username":"alice","features":' + granted + b"}")


def test_a_classic_client_gets_the_same_bytes_as_ever(start_server: StartServer) -> None:
    """No `features` in its responses, and no `id` in its notices, even if a modern client came
    before it.
    """
    port = start_server(classic_gap=0).port
    register(port, "alice", "bob")
    logged_in(port, "bob", features=["ack"]).close()
    with logged_in(port, "alice", features=["ack"]) as alice:
        with Wire(port) as bob:
            reply = bob.login("bob")
            assert reply.body == b'{"username":"bob","token":' + str(bob.token).encode() + b"}"
            alice.message("bob", "hello")
            assert bob.receive() == (NOTICE, PERSON_MESSAGE, 0, HELLO)
        with Wire(port) as again:
            assert again.reconnect("bob", bob.token).body == b'{"username":"bob"}'


HELLO = b'{"sender":"alice","receiver":"bob","content":"hello","time":1}'


@pytest.mark.parametrize(
    "features", [None, "ack", {"ack": 1}, 1, False, [1], [["ack"]], ["ack", None], ["x"] * 33], ids=repr
)
@pytest.mark.parametrize("type", [LOGIN, RECONNECT], ids=["LOGIN", "RECONNECT"])
def test_bad_features(server: JellyServer, type: int, features: Any) -> None:
    """Anything but an array of at most 32 strings is a malformed body, and before a login that is
    the end.
    """
    with Wire(server.port) as wire:
        more = {"password": "pw"} if type == LOGIN else {"token": 1}
        reply = wire.call(type, username="alice", features=features, **more)
        assert (reply.type, reply.error) == (type, "malformed_body")
        assert wire.is_closed_by_server()


# --- no gap, and no exemption ---------------------------------------------------------------------


def login_frame(*features: str) -> bytes:
    return pack(LOGIN, to_json({"username": "alice", "password": "pw", "features": list(features)}))


def test_answers_as_fast_as_they_come(server: JellyServer) -> None:
    """Requests that were written together with the login are answered together."""
    with Wire(server.port) as alice:
        alice.send(login_frame() + 50 * pack(OWN_PROFILE, b'{"username":"alice"}'))
        assert [alice.receive().type for _ in range(51)] == [LOGIN] + [OWN_PROFILE] * 50


def test_no_gap_from_the_login_response_on(server: JellyServer) -> None:
    """The response itself does not wait either for what was said before it."""
    with Wire(server.port) as alice:
        alice.send(pack(0x77) + login_frame())
        assert [alice.receive().type for _ in range(2)] == [0x77, LOGIN]


def test_notices_as_fast_as_they_come(server: JellyServer) -> None:
    """What waited follows the login response without a pause, and so does what is written now."""
    with logged_in(server.port, "alice", features=[]) as alice:
        for number in range(150):
            alice.send_message("bob", str(number))
        assert {alice.receive().status for _ in range(150)} == {SUCCESS}
        with logged_in(server.port, "bob", features=[]) as bob:
            assert bob.contents(150) == [str(number) for number in range(150)]
            alice.message("bob", "live")
            assert bob.contents(1) == ["live"]


def test_a_modern_client_after_a_reconnect(server: JellyServer) -> None:
    """It is closed for its silence like anybody: only classic clients cannot help it."""
    with logged_in(server.port, "alice") as alice, Wire(server.port) as again:
        again.reconnect("alice", alice.token, features=[])
        [connection] = [c for c in tuple(server.connections) if c.session.is_modern]
        server.watchdog.check(connection.last_read_at + 29.5)
        assert not connection.send_queue.is_closed
        server.watchdog.check(connection.last_read_at + 30)
        assert again.is_closed_by_server()


# --- without "ack" --------------------------------------------------------------------------------


def test_without_ack_a_message_counts_as_for_a_classic_client(server: JellyServer) -> None:
    """No ids; TCP has the message and the client speaks after that, then it is not given again."""
    with logged_in(server.port, "alice", features=[]) as alice:
        bob = logged_in(server.port, "bob", features=[])
        alice.message("bob", "hello")
        assert bob.receive() == (NOTICE, PERSON_MESSAGE, 0, HELLO)
        [connection] = [c for c in tuple(server.connections) if c.session.user == "bob"]
        wait_until(lambda: connection.send_queue.tcp_acked_id)
        bob.heartbeat()
        bob.ok(OWN_PROFILE)  # so the heartbeat was read
        bob.reset()
        alice.message("bob", "next")
        with logged_in(server.port, "bob", features=[]) as again:
            assert again.contents(1) == ["next"]


def test_without_ack_a_message_comes_again_after_a_cut(server: JellyServer) -> None:
    """Nobody knows whether it arrived: rather twice than never."""
    with logged_in(server.port, "alice", features=[]) as alice:
        bob = logged_in(server.port, "bob", features=[])
        alice.message("bob", "hello")
        assert bob.contents(1) == ["hello"]
        bob.reset()
        with logged_in(server.port, "bob", features=[]) as again:
            assert again.contents(1) == ["hello"]


def test_without_ack_an_end_that_is_ours_says_nothing(server: JellyServer) -> None:
    """That a client closes cleanly after a takeover does not say that its user has read
    anything.
    """
    with logged_in(server.port, "alice", features=[]) as alice:
        alice.message("bob", "hello")
        with logged_in(server.port, "bob", features=[]) as old:
            assert old.contents(1) == ["hello"]
            with logged_in(server.port, "bob", features=[]) as new:
                assert old.receive().body == b'{"event":"taken_over"}'
                old.close()
                wait_until(lambda: len(server.connections) == 2)
                new.reset()
        alice.ok(OWN_PROFILE)
        with logged_in(server.port, "bob", features=[]) as again:
            assert again.contents(1) == ["hello"]


def test_all_kinds_of_clients_in_one_group(start_server: StartServer) -> None:
    """Of one message each gets what is right for it: the id, as the last key, goes to who asked for
    `ack` only.
    """
    port = start_server(classic_gap=0).port
    register(port, "alice", "bob", "carol", "dave", "eve")
    with logged_in(port, "alice") as alice:
        alice.ok(CREATE_GROUP, groupName="team")
        for member in ("bob", "carol", "dave", "eve"):
            alice.ok(ADD_MEMBER, groupName="team", member=member)
        kinds: dict[str, list[str] | None] = {"bob": None, "carol": ["ack"], "dave": [], "eve": ["ack"]}
        wires = [logged_in(port, name, features=kind) for name, kind in kinds.items()]
        alice.message("team", "hello", type=GROUP_MESSAGE)
        bodies = [wire.receive_notice().body for wire in wires]
        plain = b'{"sender":"alice","receiver":"team","content":"hello","time":1}'
        assert bodies[0] == bodies[2] == plain
        assert bodies[1] == bodies[3]
        assert re.fullmatch(re.escape(plain[:-1]) + rb',"id":\d+}', bodies[1])
        for wire in wires:
            wire.close()
