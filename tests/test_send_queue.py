"""The send queue by itself, on a pair of real sockets: what goes at once, what waits."""

import socket
import struct
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from wire import wait_until

from jelly import tcp, tcp_confirmation
from jelly.pacing import ClassicPacing
from jelly.send_queue import HIGH_COUNT, HIGH_MARK, MAX_RESPONSES, Flusher, SendQueue
from jelly.sessions import Notice, Response
from jelly.tcp import unread
from jelly.tcp_confirmation import TcpConfirmation


class Connection:
    """A send queue with its flusher, and the other end of its socket."""

    def __init__(self, gap: float) -> None:
        self.rooms: list[bool] = []
        self.flusher = Flusher()
        listener = socket.create_server(("127.0.0.1", 0))
        self.peer = socket.create_connection(listener.getsockname(), 5)
        self.socket, _ = listener.accept()
        listener.close()
        self.send_queue = SendQueue(
            self.socket,
            self.flusher,
            on_room=lambda: self.rooms.append(True),
            pacing=ClassicPacing(gap) if gap else None,
            confirmation=TcpConfirmation(self.socket, gap),
        )
        self.flusher.start()

    def close(self) -> None:
        self.send_queue.close()
        self.flusher.stop()
        self.socket.close()
        self.peer.close()

    def read(self, count: int) -> bytes:
        data = b""
        while len(data) < count:
            data += self.peer.recv(count - len(data))
        return data


@pytest.fixture
def classic() -> Iterator[Connection]:
    connection = Connection(gap=0.1)
    yield connection
    connection.close()


@pytest.fixture
def patient() -> Iterator[Connection]:
    """A connection with a gap longer than a read may take: what is read did not wait for it."""
    connection = Connection(gap=60)
    yield connection
    connection.close()


@pytest.fixture
def stream() -> Iterator[Connection]:
    connection = Connection(gap=0)
    yield connection
    connection.close()


def read_all(connection: Connection) -> bytes:
    """Everything up to the end of the stream."""
    return b"".join(iter(lambda: connection.peer.recv(65536), b""))


def arrivals(connection: Connection, count: int) -> list[tuple[bytes, float]]:
    """What each of the next reads brings, and when."""
    return [(connection.peer.recv(100), time.monotonic()) for _ in range(count)]


def test_frames_to_a_classic_client_are_paced(classic: Connection) -> None:
    """Each notice is a read of its own, the gap after the one before."""
    started = time.monotonic()
    classic.send_queue.send(notices=[Notice(1, b"one"), Notice(2, b"two"), Notice(3, b"three")])
    frames = arrivals(classic, 3)
    assert [data for data, _ in frames] == [b"one", b"two", b"three"]
    assert frames[2][1] - started >= 0.2
    wait_until(lambda: classic.send_queue.written_id == 3)


def test_the_first_frame_goes_at_once(patient: Connection) -> None:
    """No frame is before it, so it needs no gap."""
    patient.send_queue.send(notices=[Notice(1, b"one"), Notice(2, b"two")])
    assert patient.peer.recv(100) == b"one"


def test_a_response_goes_at_once_after_a_response(patient: Connection) -> None:
    """If its request came in after the last response was written."""
    for number in range(5):
        received_at = time.monotonic() if number else 0.0  # the first one of its type would be held
        patient.send_queue.send([Response(b"answer", received_at)])
        assert patient.peer.recv(100) == b"answer"


def test_a_response_whose_request_is_here_already_keeps_the_gap(classic: Connection) -> None:
    """A request that is unread when a response is written did not wait for it."""
    classic.peer.sendall(b"next request")
    wait_until(lambda: classic.socket.recv(100, socket.MSG_PEEK))
    started = time.monotonic()
    classic.send_queue.send([Response(b"one", started)])
    classic.send_queue.send([Response(b"two", time.monotonic())])
    _, (data, second) = arrivals(classic, 2)
    assert data == b"two"
    assert second - started >= 0.1


def test_confirmed_when_tcp_has_everything(classic: Connection) -> None:
    """What the client's TCP has acknowledged is confirmed a moment later, by the flusher."""
    classic.send_queue.send(notices=[Notice(7, b"x")])
    wait_until(lambda: classic.send_queue.tcp_acked_id == 7)


def test_without_a_gap_everything_goes_in_one_piece(stream: Connection) -> None:
    """Towards a client that takes any split, frames leave together."""
    stream.send_queue.send(notices=[Notice(1, b"one"), Notice(2, b"two")])
    assert stream.peer.recv(100) == b"onetwo"


def test_what_the_socket_does_not_take_is_finished_later(stream: Connection) -> None:
    """`send` does not wait. It says that there is no room, and calls when there is room again."""
    frames = [Notice(number, bytes([number % 251]) * 100_000) for number in range(1, 101)]
    for frame in frames:  # nobody reads meanwhile: a send that waited would wait for ever
        stream.send_queue.send(notices=[frame])
    assert not stream.send_queue.has_room
    assert not stream.send_queue.is_empty
    assert stream.read(10_000_000) == b"".join(data for _, data in frames)
    wait_until(lambda: stream.rooms == [True])
    assert stream.send_queue.has_room
    wait_until(lambda: stream.send_queue.written_id == 100)
    assert stream.send_queue.stalled_since is None


def test_room_is_counted_in_frames_for_a_classic_client(classic: Connection) -> None:
    """A hundred small messages are enough: at ten a second they take ten seconds."""
    classic.send_queue.send(notices=[Notice(number, b"x") for number in range(1, HIGH_COUNT + 1)])
    assert classic.send_queue.has_room
    classic.send_queue.send(notices=[Notice(1000, b"x"), Notice(1001, b"x")])
    assert not classic.send_queue.has_room


def test_finish_writes_responses_and_drops_notices(classic: Connection) -> None:
    """What is answered is written before the end; messages stay in their inbox."""
    classic.send_queue.send(notices=[Notice(1, b"n1"), Notice(2, b"n2")])
    classic.send_queue.send([Response(b"bye", time.monotonic())])
    classic.send_queue.finish()
    assert [classic.peer.recv(100) for _ in range(3)] == [b"n1", b"bye", b""]
    assert classic.send_queue.finished_at is not None


def test_no_gap_any_more(classic: Connection) -> None:
    """Once the client turns out to be modern, what waited leaves with the next frame."""
    classic.send_queue.send([Response(b"one", 0.0), Response(b"two", 0.0)])
    assert classic.peer.recv(100) == b"one"
    classic.send_queue.stop_pacing()
    classic.send_queue.send([Response(b"three", 0.0)])
    classic.send_queue.send(notices=[Notice(1, b"four"), Notice(2, b"five")])
    assert classic.read(16) == b"twothreefourfive"


def test_a_closing_frame(stream: Connection) -> None:
    """It stands behind the responses, in the place of the notices, and is sent once."""
    stream.send_queue.send([Response(b"x" * 10_000_000, 0.0)])
    assert stream.send_queue.stalled_since is not None
    stream.send_queue.send(notices=[Notice(1, b"n1")])
    stream.send_queue.send([Response(b"answer", 0.0)])
    stream.send_queue.finish(b"last")
    stream.send_queue.finish(b"again")
    assert stream.send_queue.closing_frame_at is not None
    assert read_all(stream).endswith(b"xxanswerlast")


def test_nothing_follows_the_closing_frame(stream: Connection) -> None:
    """An answer that comes after the end was written is dropped, and breaks nothing."""
    stream.send_queue.finish(b"last")
    stream.send_queue.send([Response(b"late", 0.0)])
    stream.send_queue.send(notices=[Notice(1, b"n1")])
    assert not stream.send_queue.is_closed
    assert read_all(stream) == b"last"


def test_nothing_follows_a_closing_frame_that_waits(stream: Connection) -> None:
    """Not the answer to a request either that was under way at the takeover."""
    stream.send_queue.send([Response(b"x" * 10_000_000, 0.0)])
    assert stream.send_queue.stalled_since is not None
    stream.send_queue.finish(b"last")
    stream.send_queue.send([Response(b"late", 0.0)])
    assert read_all(stream).endswith(b"xxlast")


def test_a_closing_frame_for_a_closed_connection(stream: Connection) -> None:
    """It is not sent, and the watchdog does not wait for it."""
    stream.send_queue.close()
    stream.send_queue.finish(b"last")
    assert stream.send_queue.closing_frame_at is None


@pytest.mark.parametrize(("ids", "written"), [([0], 0), ([0, 0], 0), ([3, 0], 3), ([0, 3, 4, 0], 4)], ids=str)
def test_what_need_not_be_confirmed(stream: Connection, ids: list[int], written: int) -> None:
    """A notice without an id moves no watermark, and hides no id that leaves together with it."""
    stream.send_queue.send(notices=[Notice(id, b"n") for id in ids])
    assert stream.read(len(ids)) == b"n" * len(ids)
    assert stream.send_queue.written_id == written
    if written:
        wait_until(lambda: stream.send_queue.tcp_acked_id == written)


class SlowToReturn:
    """A socket whose `send` comes back only when it may."""

    def __init__(self, sock: socket.socket) -> None:
        self.socket = sock
        self.may_return = threading.Event()

    def send(self, data: bytes, flags: int) -> int:
        sent = self.socket.send(data, flags)
        self.may_return.wait()
        return sent


def test_what_the_client_has_is_written(stream: Connection) -> None:
    """Even if the client has read a message before the thread that wrote it has come back."""
    slow = SlowToReturn(stream.socket)
    stream.send_queue._sock = slow  # type: ignore[assignment]
    with ThreadPoolExecutor() as pool:
        sending = pool.submit(stream.send_queue.send, notices=[Notice(7, b"n")])
        assert stream.read(1) == b"n"
        written = pool.submit(lambda: stream.send_queue.written_id)
        with pytest.raises(TimeoutError):
            written.result(0.05)
        slow.may_return.set()
        assert written.result(10) == 7
        sending.result(10)
    stream.send_queue._sock = stream.socket


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> Iterator[Connection]:
    """A classic client's connection on which everything happens five times as fast."""
    monkeypatch.setattr(tcp_confirmation, "CONFIRM_DELAY", 0.01)
    monkeypatch.setattr(tcp_confirmation, "CONFIRM_DELAY_MAX", 0.2)
    connection = Connection(gap=0.02)
    yield connection
    connection.close()


def test_the_flusher_comes_back_at_one_time_only(quick: Connection) -> None:
    """However often something is written to a client that confirms nothing: no timers pile up."""
    quick.peer.send(b"x")  # it stays unread, so nothing can be confirmed
    wait_until(lambda: unread(quick.socket) == 1)
    for id in range(1, 40, 2):
        quick.send_queue.send(notices=[Notice(id, b"a"), Notice(id + 1, b"b")])
        assert quick.read(2) == b"ab"
        time.sleep(0.04)
    wait_until(lambda: len(quick.flusher._timers) == 1)
    assert quick.send_queue.tcp_acked_id == 0


@pytest.fixture
def modern(stream: Connection) -> Connection:
    """The connection of a modern client that acknowledges its messages."""
    stream.send_queue.stop_confirming()
    return stream


def test_a_modern_frame_is_one_call(modern: Connection) -> None:
    """While nothing waits, `send` calls no other Python function: each message goes this way."""
    calls: list[str] = []
    response, notice = Response(b"response", 0.0), Notice(1, b"notice")
    sys.setprofile(lambda frame, event, _: calls.append(frame.f_code.co_name) if event == "call" else None)
    try:
        modern.send_queue.send([response])
        modern.send_queue.send(notices=[notice])
    finally:
        sys.setprofile(None)
    assert calls == ["send", "send"]
    assert modern.read(14) == b"responsenotice"


def test_a_modern_client_that_is_slow(modern: Connection) -> None:
    """What its socket does not take at once comes later, in order, with what was sent after it."""
    data = [bytes([number]) * 3_000_000 for number in range(4)]
    modern.send_queue.send([Response(data[0], 0.0)], [Notice(1, data[1])])
    assert modern.send_queue.stalled_since is not None
    modern.send_queue.send([Response(data[2], 0.0)])
    modern.send_queue.send(notices=[Notice(2, data[3])])
    assert modern.read(12_000_000) == data[1] + data[0] + data[2] + data[3]
    wait_until(lambda: modern.send_queue.is_empty)
    assert modern.send_queue.stalled_since is None


def test_nothing_is_confirmed_for_a_client_that_acknowledges(modern: Connection) -> None:
    """Whatever ids its messages have, TCP is not asked about them."""
    modern.send_queue.send(notices=[Notice(7, b"n")])
    assert modern.read(1) == b"n"
    assert (modern.send_queue.written_id, modern.send_queue.tcp_acked_id) == (0, 0)
    assert len(modern.flusher._timers) == 0


def test_full_of_responses(modern: Connection) -> None:
    """With too many of them no more requests are served, until the client takes them."""
    told: list[bool] = []
    modern.send_queue.when_not_full(lambda: told.append(False))
    assert told == [False]
    modern.send_queue.send(notices=[Notice(0, b"x" * 10_000_000)])
    for _ in range(MAX_RESPONSES):
        modern.send_queue.send([Response(b"y", 0.0)])
    assert not modern.send_queue.is_full
    modern.send_queue.send([Response(b"y", 0.0)])
    assert modern.send_queue.is_full
    modern.send_queue.when_not_full(lambda: told.append(True))
    assert not modern.send_queue.wait_until_not_full(0.01)
    assert told == [False]
    with ThreadPoolExecutor() as pool:
        waiting = pool.submit(modern.send_queue.wait_until_not_full, 10)
        modern.read(10_000_000 + MAX_RESPONSES + 1)
        assert waiting.result()
    wait_until(lambda: told == [False, True])
    assert modern.send_queue.wait_until_not_full(0)


def test_close_ends_the_wait_until_not_full(modern: Connection) -> None:
    """Those who wait until responses are taken are told when the connection ends."""
    modern.send_queue.send([Response(b"x" * 10_000_000, 0.0)])
    modern.send_queue.send([Response(b"x" * (HIGH_MARK + 1), 0.0)])
    assert modern.send_queue.is_full
    told: list[bool] = []
    modern.send_queue.when_not_full(lambda: told.append(True))
    with ThreadPoolExecutor() as pool:
        waiting = pool.submit(modern.send_queue.wait_until_not_full, 10)
        modern.send_queue.close()
        assert waiting.result()
    assert told == [True]


def test_nobody_is_asked_for_more_messages_at_the_end(stream: Connection) -> None:
    """When `finish` drops notices there is room, but nothing more may be sent."""
    stream.send_queue.send(notices=[Notice(1, b"x" * 10_000_000)])
    stream.send_queue.send(notices=[Notice(2, b"x")])
    assert not stream.send_queue.has_room
    stream.send_queue.finish()
    assert read_all(stream) == b"x" * 10_000_000
    assert stream.rooms == []


def test_close_drops_everything(stream: Connection) -> None:
    """After `close` nothing is written, and nothing is raised."""
    stream.send_queue.close()
    stream.send_queue.send(notices=[Notice(1, b"x" * HIGH_MARK)])
    stream.send_queue.send([Response(b"x", 0.0)])
    stream.send_queue.finish()
    assert stream.peer.recv(10) == b""
    assert stream.send_queue.is_empty


def send_response(send_queue: SendQueue) -> None:
    send_queue.send([Response(b"x", 0.0)])


def send_notice(send_queue: SendQueue) -> None:
    send_queue.send(notices=[Notice(1, b"x")])


def reset_has_come(sock: socket.socket) -> bool:
    try:
        return not sock.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
    except ConnectionResetError:
        return True


@pytest.mark.parametrize("send", [send_response, send_notice])
def test_a_dead_line_is_noticed_by_writing(stream: Connection, send: Callable[[SendQueue], None]) -> None:
    """A send that fails, of a response or of a notice, closes the send queue instead of raising."""
    stream.peer.close()
    send(stream.send_queue)
    wait_until(lambda: reset_has_come(stream.socket))
    send(stream.send_queue)
    assert stream.send_queue.is_closed
    send(stream.send_queue)


def test_a_send_queue_with_a_bug(
    classic: Connection, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The log tells it, and the flusher serves all others."""
    with monkeypatch.context() as patched:
        patched.setattr(SendQueue, "resume", lambda *_: [].pop())
        classic.send_queue.send(notices=[Notice(1, b"one"), Notice(2, b"two")])
        wait_until(lambda: "a send queue failed: IndexError: pop from empty list" in caplog.text)
    called = threading.Event()
    classic.flusher.call_at(0, called.set)
    assert called.wait(10)


def test_encryption_that_fails_later(classic: Connection) -> None:
    """What cannot be encrypted any more cannot be sent: the send queue closes."""
    classic.send_queue.send(notices=[Notice(1, b"one")])

    def fail(_: bytes) -> bytes:
        raise OSError("TLS has failed")

    classic.send_queue._encrypt = fail
    classic.send_queue.send(notices=[Notice(2, b"two")])
    wait_until(lambda: classic.send_queue.is_closed)
    assert read_all(classic) == b"one"


def test_a_closed_socket_has_nothing_to_tell() -> None:
    """The kernel is asked by several threads, and one of them may have closed the socket."""
    sock = socket.socket()
    sock.close()
    assert [ask(sock) for ask in (tcp.unread, tcp.unacknowledged, tcp.received)] == [0, None, None]


def test_a_client_that_leaves(stream: Connection) -> None:
    """It is noticed without reading: first that it writes no more, also behind bytes that were not
    read, then that it has reset the connection.
    """
    assert not stream.send_queue.has_left()
    assert not stream.send_queue.is_half_closed()
    stream.peer.sendall(b"unread")
    stream.peer.shutdown(socket.SHUT_WR)
    if sys.platform == "linux":
        wait_until(stream.send_queue.is_half_closed)
    assert not stream.send_queue.has_left()
    stream.peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    stream.peer.close()
    wait_until(stream.send_queue.has_left)


def test_a_connection_that_was_closed_here(stream: Connection) -> None:
    """Its client counts as gone."""
    stream.socket.close()
    assert stream.send_queue.has_left()
