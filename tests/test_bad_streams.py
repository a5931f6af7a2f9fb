"""Bad streams over real sockets: bytes that end, are cut, flipped or late.

As in `test_bad_input.py`, one server serves most of them; a test about time or about the end of
connections has one of its own.
"""

import contextlib
import random
import socket
import threading
import time
from pathlib import Path

import pytest
from harness import StartServer
from strangers import (
    ASK,
    MALFORMED_FRAME,
    MAX_BODY,
    ME,
    PASSWORD,
    UNKNOWN_TYPE,
    WHOLE,
    alice_at,
    assert_ended,
    assert_goes_on,
    assert_refused,
    no_secret_in_the_log,
    port_of_all_rows,
    server_of_all_rows,
)
from wire import (
    ALL_FRIENDS,
    HEARTBEAT,
    LOGIN,
    OWN_GROUPS,
    OWN_PROFILE,
    REQUEST_ERROR,
    SUCCESS,
    UPDATE_PROFILE,
    Wire,
    logged_in,
    pack,
    register,
    to_json,
    wait_until,
)  # fmt: skip

from jelly.server import JellyServer

server = pytest.fixture(scope="module")(server_of_all_rows)
port = pytest.fixture(port_of_all_rows)
nothing_private_in_the_log = pytest.fixture(autouse=True)(no_secret_in_the_log)


# --- the stream -----------------------------------------------------------------------------------


def test_a_first_frame_that_is_no_login(port: int) -> None:
    """It is refused and ends the connection; the login in the same write is not served any more."""
    with Wire(port) as wire:
        wire.send(ASK + pack(LOGIN, WHOLE))
        assert_refused(wire.receive(), OWN_PROFILE, "not_logged_in")
        assert_ended(wire)


def test_a_failed_login_followed_by_a_right_one(port: int) -> None:
    """One connection is one attempt, also when the second stands in the same write."""
    with Wire(port) as wire:
        wire.send(pack(LOGIN, b'{"username":"nobody","password":"x"}') + pack(LOGIN, WHOLE))
        assert_refused(wire.receive(), LOGIN, "wrong_credentials")
        assert_ended(wire)


@pytest.mark.parametrize("count", range(1, 9))
def test_some_bytes_and_then_the_end(server: JellyServer, count: int) -> None:
    """A header that is not whole when the client closes is forgotten, without an answer."""
    with Wire(server.port) as wire:
        wire.send(pack(LOGIN, WHOLE)[:count])
        wire.socket.shutdown(socket.SHUT_WR)
        assert_ended(wire)
        wait_until(lambda: not server.connections)


@pytest.mark.parametrize("missing", [1, 10, len(ME)])
def test_a_body_cut_short_and_then_the_end(port: int, missing: int) -> None:
    """Half a request is no request: nothing is answered, nothing is done."""
    update = pack(UPDATE_PROFILE, b'{"username":"alice","age":"99"}')
    with alice_at(port) as alice:
        alice.send(update[:-missing])
        alice.socket.shutdown(socket.SHUT_WR)
        assert_ended(alice)
    with alice_at(port) as alice:
        assert alice.ok(OWN_PROFILE) == {"username": "alice"}


def test_byte_by_byte(port: int) -> None:
    """A stream may come in pieces of one byte, from the login on, with heartbeats and bad frames in
    between.
    """
    stream = pack(LOGIN, WHOLE) + pack(HEARTBEAT) + ASK + pack(0x20) + pack(OWN_PROFILE, b"{") + ASK
    with Wire(port) as wire:
        for byte in stream:
            wire.send(bytes([byte]))
        replies = [wire.receive() for _ in range(5)]
    assert [reply.type for reply in replies] == [LOGIN, OWN_PROFILE, 0x20, OWN_PROFILE, OWN_PROFILE]
    assert [reply.error for reply in replies] == ["", "", UNKNOWN_TYPE, "malformed_body", ""]


def five_frames(number: int) -> bytes:
    """Requests with five answers: sound ones, bad ones, one that writes and those that read."""
    update = to_json({"username": "alice", "phone": str(number)})
    return (
        pack(UPDATE_PROFILE, update) + ASK + pack(0x20) + pack(ALL_FRIENDS, b"[]") + pack(HEARTBEAT)
        + pack(OWN_GROUPS, ME)
    )  # fmt: skip


def test_a_thousand_frames_in_one_write(port: int) -> None:
    """They are answered in their order, and a read sees what the frames before it wrote."""
    expected = [
        (UPDATE_PROFILE, ""), (OWN_PROFILE, ""), (0x20, UNKNOWN_TYPE), (ALL_FRIENDS, "malformed_body"), (OWN_GROUPS, "")
    ]  # fmt: skip
    with alice_at(port) as alice:
        alice.send(b"".join(map(five_frames, range(200))))
        replies = [alice.receive() for _ in range(1000)]
        alice.ok(UPDATE_PROFILE, phone="")
    assert [(reply.type, reply.error) for reply in replies] == expected * 200
    assert [reply.values["phone"] for reply in replies[1::5]] == [str(n) for n in range(200)]


NOISE = {
    "random": random.Random(7).randbytes(10_000_000),
    "zeros": bytes(10_000_000),
    "letters": b"jelly " * 1_700_000,
}


@pytest.mark.parametrize("noise", [pytest.param(noise, id=what) for what, noise in NOISE.items()])
def test_ten_megabytes_of_noise(port: int, noise: bytes) -> None:
    """Noise is answered once, then thrown away; others do not notice."""
    with logged_in(port, "bob", PASSWORD) as bob, alice_at(port) as alice, Wire(port) as stranger:
        for wire in (alice, stranger):
            wire.send(noise)
            assert bob.ok(OWN_PROFILE)
            assert_refused(wire.receive(), 0, MALFORMED_FRAME)
            assert_ended(wire)


def test_any_flipped_bit(port: int) -> None:
    """Whatever one wrong bit makes of a frame, every answer is a frame, and the nonsense after it
    ends it.
    """
    for bit in range(8 * len(ASK)):
        frame = bytearray(ASK)
        frame[bit // 8] ^= 1 << bit % 8
        with alice_at(port) as alice:
            alice.send(bytes(frame) + bytes(MAX_BODY + len(ASK)))
            replies = []
            with contextlib.suppress(EOFError):
                while True:
                    replies.append(alice.receive())
        assert 1 <= len(replies) <= 2
        assert replies[-1].error == MALFORMED_FRAME
        assert {reply.status for reply in replies} <= {SUCCESS, REQUEST_ERROR}


def test_resets_in_mid_frame(start_server: StartServer) -> None:
    """A connection that breaks within a frame leaves no thread and no descriptor behind."""
    server = start_server()
    before = sockets()
    register(server.port, "alice", password=PASSWORD)
    for cut in range(1, 40):
        wire = alice_at(server.port)
        wire.send((ASK + ASK)[:cut])
        wire.reset()
    wait_until(lambda: not server.connections and not readers())
    assert sockets() == before


def readers() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("jelly-reader")]


def sockets() -> int:
    """How many descriptors of this process are sockets."""
    count = 0
    for descriptor in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(OSError):  # the one with which the directory was read
            count += str(descriptor.readlink()).startswith("socket:")
    return count


def test_a_body_that_is_made_to_be_slow(port: int) -> None:
    """It is refused like others: here quotes, escaped, in a string that does not end."""
    with alice_at(port) as alice:
        alice.send(pack(OWN_PROFILE, b"{" * 17 + b'"' + b'\\"' * 32_000))
        assert_refused(alice.receive(), OWN_PROFILE, "malformed_body")


# --- time -----------------------------------------------------------------------------------------


def test_nothing_for_ten_seconds_after_connecting(start_server: StartServer) -> None:
    """Who says nothing is closed after 10 s without an answer, not before; who has spoken stays."""
    server = start_server()
    register(server.port, "alice", password=PASSWORD)
    wait_until(lambda: not server.connections)
    with alice_at(server.port) as alice, contextlib.ExitStack() as stack:
        opened = time.monotonic()
        silent = [stack.enter_context(Wire(server.port)) for _ in range(100)]
        wait_until(lambda: len(server.connections) == 101)
        server.watchdog.check(opened + 9.9)
        assert len(server.connections) == 101
        server.watchdog.check(time.monotonic() + 10.1)
        for wire in silent:
            assert_ended(wire)
        assert_goes_on(alice)


@pytest.mark.parametrize("part", [ASK[:1], ASK[:8], ASK[:-1]], ids=["one byte", "8 bytes", "one byte missing"])
def test_half_a_frame_for_ten_seconds(start_server: StartServer, part: bytes) -> None:
    """Half a frame ends the connection after 10 s without an answer, whatever came before it."""
    server = start_server()
    register(server.port, "alice", password=PASSWORD)
    wait_until(lambda: not server.connections)
    with alice_at(server.port) as alice:
        sent = time.monotonic()
        alice.send(ASK + part)
        assert alice.receive().status == SUCCESS
        server.watchdog.check(sent + 9.9)
        assert not any(connection.send_queue.is_closed for connection in tuple(server.connections))
        server.watchdog.check(time.monotonic() + 10.1)
        assert_ended(alice)


def test_a_byte_a_second(start_server: StartServer) -> None:
    """More bytes of the same frame do not put off its end: what counts is when it began."""
    server = start_server()
    with Wire(server.port) as wire:
        wire.send(ASK[:5])
        wait_until(lambda: any(connection.decoder.has_incomplete_frame for connection in tuple(server.connections)))
        (connection,) = server.connections
        begun = time.monotonic()
        wire.send(ASK[5:6])
        wait_until(lambda: connection.last_read_at > begun)
        server.watchdog.check(begun + 10)
        assert_ended(wire)


def test_a_whole_frame_ends_the_wait(start_server: StartServer) -> None:
    """A frame that came in two parts leaves nothing to wait for: only silence closes the connection
    then.
    """
    server = start_server()
    with Wire(server.port) as wire:
        for part in (pack(0x20)[:5], pack(0x20)[5:]):
            wire.send(part)
        assert wire.receive().error == UNKNOWN_TYPE
        server.watchdog.check(time.monotonic() + 29)
        assert_goes_on_before_login(wire)
        server.watchdog.check(time.monotonic() + 30.1)
        assert_ended(wire)


def assert_goes_on_before_login(wire: Wire) -> None:
    wire.send(pack(0x20))
    assert wire.receive().error == UNKNOWN_TYPE
