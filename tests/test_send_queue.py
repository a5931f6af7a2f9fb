"""The send queue by itself, on a pair of real sockets: what goes at once, what waits, and in which order."""

import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from wire import wait_until

from jelly import send_queue
from jelly.send_queue import HIGH_COUNT, HIGH_MARK, Flusher, SendQueue
from jelly.tcp import unread


class Line:
    """A send queue with its flusher, and the other end of its socket."""

    def __init__(self, gap: float) -> None:
        self.rooms: list[bool] = []
        self.flusher = Flusher()
        listener = socket.create_server(("127.0.0.1", 0))
        self.peer = socket.create_connection(listener.getsockname(), 5)
        self.socket, _ = listener.accept()
        listener.close()
        self.send_queue = SendQueue(self.socket, self.flusher, gap, on_room=lambda: self.rooms.append(True))
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
def classic() -> Iterator[Line]:
    line = Line(gap=0.1)
    yield line
    line.close()


@pytest.fixture
def stream() -> Iterator[Line]:
    line = Line(gap=0)
    yield line
    line.close()


def read_all(line: Line) -> bytes:
    """Everything up to the end of the stream."""
    return b"".join(iter(lambda: line.peer.recv(65536), b""))


def arrivals(line: Line, count: int) -> list[tuple[bytes, float]]:
    """What each of the next reads brings, and when."""
    return [(line.peer.recv(100), time.monotonic()) for _ in range(count)]


def test_frames_to_a_classic_client_are_spaced(classic: Line) -> None:
    """Each notice is a read of its own, the gap after the one before; the first goes at once."""
    started = time.monotonic()
    classic.send_queue.send(notices=[(1, b"one"), (2, b"two"), (3, b"three")])
    frames = arrivals(classic, 3)
    assert [data for data, _ in frames] == [b"one", b"two", b"three"]
    assert frames[0][1] - started < 0.09
    assert frames[2][1] - frames[0][1] >= 0.19
    wait_until(lambda: classic.send_queue.written_id == 3)


def test_a_response_goes_at_once_after_a_response(classic: Line) -> None:
    """If its request came in after the last response was written."""
    for number in range(5):
        classic.send_queue.send([(b"answer", time.monotonic())])
        started = time.monotonic()
        assert classic.peer.recv(100) == b"answer"
        assert time.monotonic() - started < 0.09, number


def test_a_response_to_an_earlier_request_keeps_the_gap(classic: Line) -> None:
    """A client that wrote two requests at once may be in the middle of anything."""
    asked_at = time.monotonic()
    classic.send_queue.send([(b"one", asked_at), (b"two", asked_at)])
    (_, first), (data, second) = arrivals(classic, 2)
    assert data == b"two"
    assert second - first >= 0.09


def test_a_response_whose_request_is_here_already_keeps_the_gap(classic: Line) -> None:
    """A request that lies unread when a response is written did not wait for it, whenever it is read."""
    classic.peer.sendall(b"next request")
    wait_until(lambda: classic.socket.recv(100, socket.MSG_PEEK))
    classic.send_queue.send([(b"one", time.monotonic())])
    classic.send_queue.send([(b"two", time.monotonic())])
    (_, first), (data, second) = arrivals(classic, 2)
    assert data == b"two"
    assert second - first >= 0.09


def test_a_response_after_a_notice_keeps_the_gap_and_goes_before_other_notices(classic: Line) -> None:
    """Responses do not wait for a long queue of messages."""
    classic.send_queue.send(notices=[(1, b"n1"), (2, b"n2")])
    classic.send_queue.send([(b"answer", time.monotonic())])
    frames = arrivals(classic, 3)
    assert [data for data, _ in frames] == [b"n1", b"answer", b"n2"]
    assert frames[1][1] - frames[0][1] >= 0.09


def test_responses_and_notices_take_turns(classic: Line) -> None:
    """A client that asks again as soon as it is answered gets its messages all the same, one for each answer."""
    classic.send_queue.send([(b"answer", time.monotonic())])
    assert classic.peer.recv(100) == b"answer"
    classic.send_queue.send(notices=[(1, b"n1"), (2, b"n2")])
    frames = []
    for _ in range(2):
        classic.send_queue.send([(b"answer", time.monotonic())])
        frames += [data for data, _ in arrivals(classic, 2)]
    assert frames == [b"n1", b"answer", b"n2", b"answer"]


def test_confirmed_when_tcp_has_everything(classic: Line) -> None:
    """What the other side's TCP acknowledged is confirmed a moment later, without anybody's doing."""
    classic.send_queue.send(notices=[(7, b"x")])
    wait_until(lambda: classic.send_queue.tcp_acked_id == 7)


def test_not_confirmed_while_something_lies_unread(classic: Line) -> None:
    """A word that was here before the look is no sign of life after it."""
    classic.peer.sendall(b"early")
    wait_until(lambda: classic.socket.recv(100, socket.MSG_PEEK))
    classic.send_queue.send(notices=[(7, b"x")])
    classic.send_queue.resume()
    assert classic.send_queue.tcp_acked_id == 0
    assert classic.socket.recv(100) == b"early"
    classic.send_queue.read_bytes += len(b"early")
    wait_until(lambda: classic.send_queue.tcp_acked_id == 7)


def test_without_a_gap_everything_goes_in_one_piece(stream: Line) -> None:
    """Towards a client that takes any split, frames leave together."""
    stream.send_queue.send(notices=[(1, b"one"), (2, b"two")])
    assert stream.peer.recv(100) == b"onetwo"


def test_what_the_socket_does_not_take_is_finished_later(stream: Line) -> None:
    """Nobody waits, the send queue says that it is full, and asks for more when it has room again."""
    frames = [(number, bytes([number % 251]) * 100_000) for number in range(1, 101)]
    started = time.monotonic()
    for frame in frames:
        stream.send_queue.send(notices=[frame])
    assert time.monotonic() - started < 2
    assert not stream.send_queue.has_room
    assert not stream.send_queue.is_empty
    assert stream.read(10_000_000) == b"".join(data for _, data in frames)
    wait_until(lambda: stream.rooms == [True])
    assert stream.send_queue.has_room
    wait_until(lambda: stream.send_queue.written_id == 100)
    assert stream.send_queue.stalled_since is None


def test_room_is_counted_in_frames_for_a_classic_client(classic: Line) -> None:
    """A hundred small messages are enough: at ten a second they take ten seconds."""
    classic.send_queue.send(notices=[(number, b"x") for number in range(1, HIGH_COUNT + 1)])
    assert classic.send_queue.has_room
    classic.send_queue.send(notices=[(1000, b"x"), (1001, b"x")])
    assert not classic.send_queue.has_room


def test_finish_writes_responses_and_drops_notices(classic: Line) -> None:
    """What is answered is written before the end; messages stay in their inbox."""
    classic.send_queue.send(notices=[(1, b"n1"), (2, b"n2")])
    classic.send_queue.send([(b"bye", time.monotonic())])
    classic.send_queue.finish()
    assert [classic.peer.recv(100) for _ in range(3)] == [b"n1", b"bye", b""]
    assert classic.send_queue.finished_at is not None


def test_no_gap_any_more(classic: Line) -> None:
    """Once the client turns out to be a modern one, even what waited for the gap leaves with the next frame."""
    classic.send_queue.send([(b"one", 0.0), (b"two", 0.0)])
    assert classic.peer.recv(100) == b"one"
    classic.send_queue.stop_spacing()
    classic.send_queue.send([(b"three", 0.0)])
    classic.send_queue.send(notices=[(1, b"four"), (2, b"five")])
    assert classic.read(16) == b"twothreefourfive"


def test_last_words(stream: Line) -> None:
    """They stand behind the responses, in the place of the notices, and are said once."""
    stream.send_queue.send([(b"x" * 10_000_000, 0.0)])
    assert stream.send_queue.stalled_since is not None
    stream.send_queue.send(notices=[(1, b"n1")])
    stream.send_queue.send([(b"answer", 0.0)])
    stream.send_queue.finish(b"last")
    stream.send_queue.finish(b"again")
    assert stream.send_queue.last_words_at is not None
    assert read_all(stream).endswith(b"xxanswerlast")


def test_nothing_behind_the_last_words(stream: Line) -> None:
    """An answer that comes after the end was written is dropped, and breaks nothing."""
    stream.send_queue.finish(b"last")
    stream.send_queue.send([(b"late", 0.0)])
    stream.send_queue.send(notices=[(1, b"n1")])
    assert not stream.send_queue.is_closed
    assert read_all(stream) == b"last"


def test_last_words_to_one_who_is_gone(stream: Line) -> None:
    """They are not said, and nobody waits for them."""
    stream.send_queue.close()
    stream.send_queue.finish(b"last")
    assert stream.send_queue.last_words_at is None


@pytest.mark.parametrize(("ids", "written"), [([0], 0), ([0, 0], 0), ([3, 0], 3), ([0, 3, 4, 0], 4)], ids=str)
def test_what_need_not_be_confirmed(stream: Line, ids: list[int], written: int) -> None:
    """A notice without an id moves no mark, and hides none of another notice that leaves together with it."""
    stream.send_queue.send(notices=[(id, b"n") for id in ids])
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


def test_what_the_client_has_is_written(stream: Line) -> None:
    """Even if the client has read a message, and closed, before the thread that wrote it has come back."""
    slow = SlowToReturn(stream.socket)
    stream.send_queue._sock = slow  # type: ignore[assignment]
    with ThreadPoolExecutor() as pool:
        sending = pool.submit(stream.send_queue.send, notices=[(7, b"n")])
        assert stream.read(1) == b"n"
        written = pool.submit(lambda: stream.send_queue.written_id)
        with pytest.raises(TimeoutError):
            written.result(0.05)
        slow.may_return.set()
        assert written.result(10) == 7
        sending.result(10)
    stream.send_queue._sock = stream.socket


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> Iterator[Line]:
    """A classic client's line on which everything happens five times as fast."""
    monkeypatch.setattr(send_queue, "CONFIRM_DELAY", 0.01)
    monkeypatch.setattr(send_queue, "CONFIRM_DELAY_MAX", 0.2)
    line = Line(gap=0.02)
    yield line
    line.close()


def test_one_who_confirms_nothing_is_looked_at_no_more_often(quick: Line) -> None:
    """However often something was written meanwhile, the flusher comes back to a send queue for one time only."""
    quick.peer.send(b"x")  # nobody reads it, so nothing can be confirmed
    wait_until(lambda: unread(quick.socket) == 1)
    for id in range(1, 40, 2):
        quick.send_queue.send(notices=[(id, b"a"), (id + 1, b"b")])
        assert quick.read(2) == b"ab"
        wait_until(lambda: time.monotonic() > quick.send_queue._last_at + 0.04)
    wait_until(lambda: len(quick.flusher._timers) == 1)
    assert quick.send_queue.tcp_acked_id == 0


def test_close_drops_everything(stream: Line) -> None:
    """After `close` nothing is written, and nothing is raised."""
    stream.send_queue.close()
    stream.send_queue.send(notices=[(1, b"x" * HIGH_MARK)])
    stream.send_queue.send([(b"x", 0.0)])
    stream.send_queue.finish()
    assert stream.peer.recv(10) == b""
    assert stream.send_queue.is_empty


def send_response(send_queue: SendQueue) -> None:
    send_queue.send([(b"x", 0.0)])


def send_notice(send_queue: SendQueue) -> None:
    send_queue.send(notices=[(1, b"x")])


def reset_has_come(sock: socket.socket) -> bool:
    try:
        return not sock.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
    except ConnectionResetError:
        return True


@pytest.mark.parametrize("send", [send_response, send_notice])
def test_a_dead_line_is_noticed_by_writing(stream: Line, send: Callable[[SendQueue], None]) -> None:
    """A send that fails, of a response or of a notice, closes the send queue instead of raising."""
    stream.peer.close()
    send(stream.send_queue)
    wait_until(lambda: reset_has_come(stream.socket))
    send(stream.send_queue)
    assert stream.send_queue.is_closed
    send(stream.send_queue)
