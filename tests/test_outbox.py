"""The outbox by itself, on a pair of real sockets: what goes at once, what waits, and in which order."""

import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from wire import wait_until

from jelly import outbox, tcp
from jelly.outbox import HIGH_COUNT, HIGH_MARK, Flusher, Outbox
from jelly.tcp import unread


class Line:
    """An outbox with its flusher, and the other end of its socket."""

    def __init__(self, gap: float) -> None:
        self.rooms: list[bool] = []
        self.flusher = Flusher()
        listener = socket.create_server(("127.0.0.1", 0))
        self.peer = socket.create_connection(listener.getsockname(), 5)
        self.socket, _ = listener.accept()
        listener.close()
        self.outbox = Outbox(self.socket, self.flusher, gap, on_room=lambda: self.rooms.append(True))
        self.flusher.start()

    def close(self) -> None:
        self.outbox.close()
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
def patient() -> Iterator[Line]:
    """A line whose gap is longer than a read may take: what is read did not wait for the gap."""
    line = Line(gap=60)
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
    classic.outbox.send(notices=[(1, b"one"), (2, b"two"), (3, b"three")])
    frames = arrivals(classic, 3)
    assert [data for data, _ in frames] == [b"one", b"two", b"three"]
    assert frames[2][1] - started >= 0.2
    wait_until(lambda: classic.outbox.written == 3)


def test_the_first_frame_goes_at_once(patient: Line) -> None:
    """There is nothing before it from which it would need a gap."""
    patient.outbox.send(notices=[(1, b"one"), (2, b"two")])
    assert patient.peer.recv(100) == b"one"


def test_a_response_goes_at_once_after_a_response(patient: Line) -> None:
    """If its request came in after the last response was written."""
    for _ in range(5):
        patient.outbox.send([(b"answer", time.monotonic())])
        assert patient.peer.recv(100) == b"answer"


def test_a_response_to_an_earlier_request_keeps_the_gap(classic: Line) -> None:
    """A client that wrote two requests at once may be in the middle of anything."""
    asked_at = time.monotonic()
    classic.outbox.send([(b"one", asked_at), (b"two", asked_at)])
    _, (data, second) = arrivals(classic, 2)
    assert data == b"two"
    assert second - asked_at >= 0.1


def test_a_response_whose_request_is_here_already_keeps_the_gap(classic: Line) -> None:
    """A request that lies unread when a response is written did not wait for it, whenever it is read."""
    classic.peer.sendall(b"next request")
    wait_until(lambda: classic.socket.recv(100, socket.MSG_PEEK))
    asked_at = time.monotonic()
    classic.outbox.send([(b"one", asked_at)])
    classic.outbox.send([(b"two", time.monotonic())])
    _, (data, second) = arrivals(classic, 2)
    assert data == b"two"
    assert second - asked_at >= 0.1


def test_a_response_after_a_notice_keeps_the_gap_and_goes_before_other_notices(classic: Line) -> None:
    """Responses do not wait for a long queue of messages."""
    started = time.monotonic()
    classic.outbox.send(notices=[(1, b"n1"), (2, b"n2")])
    classic.outbox.send([(b"answer", time.monotonic())])
    frames = arrivals(classic, 3)
    assert [data for data, _ in frames] == [b"n1", b"answer", b"n2"]
    assert frames[1][1] - started >= 0.1


def test_responses_and_notices_take_turns(classic: Line) -> None:
    """A client that asks again as soon as it is answered gets its messages all the same, one for each answer."""
    classic.outbox.send([(b"answer", time.monotonic())])
    assert classic.peer.recv(100) == b"answer"
    classic.outbox.send(notices=[(1, b"n1"), (2, b"n2")])
    frames = []
    for _ in range(2):
        classic.outbox.send([(b"answer", time.monotonic())])
        frames += [data for data, _ in arrivals(classic, 2)]
    assert frames == [b"n1", b"answer", b"n2", b"answer"]


def test_confirmed_when_tcp_has_everything(classic: Line) -> None:
    """What the other side's TCP acknowledged is confirmed a moment later, without anybody's doing."""
    classic.outbox.send(notices=[(7, b"x")])
    wait_until(lambda: classic.outbox.confirmed == 7)


def test_not_confirmed_while_something_lies_unread(classic: Line) -> None:
    """A word that was here before the look is no sign of life after it."""
    classic.peer.sendall(b"early")
    wait_until(lambda: classic.socket.recv(100, socket.MSG_PEEK))
    classic.outbox.send(notices=[(7, b"x")])
    classic.outbox.resume()
    assert classic.outbox.confirmed == 0
    assert classic.socket.recv(100) == b"early"
    classic.outbox.read_bytes += len(b"early")
    wait_until(lambda: classic.outbox.confirmed == 7)


def test_without_a_gap_everything_goes_in_one_piece(stream: Line) -> None:
    """Towards a client that takes any split, frames leave together."""
    stream.outbox.send(notices=[(1, b"one"), (2, b"two")])
    assert stream.peer.recv(100) == b"onetwo"


def test_what_the_socket_does_not_take_is_finished_later(stream: Line) -> None:
    """Nobody waits, the outbox says that it is full, and asks for more when it has room again."""
    frames = [(number, bytes([number % 251]) * 100_000) for number in range(1, 101)]
    started = time.monotonic()
    for frame in frames:
        stream.outbox.send(notices=[frame])
    assert time.monotonic() - started < 2
    assert not stream.outbox.has_room
    assert not stream.outbox.is_empty
    assert stream.read(10_000_000) == b"".join(data for _, data in frames)
    wait_until(lambda: stream.rooms == [True])
    assert stream.outbox.has_room
    wait_until(lambda: stream.outbox.written == 100)
    assert stream.outbox.stalled_since is None


def test_room_is_counted_in_frames_for_a_classic_client(classic: Line) -> None:
    """A hundred small messages are enough: at ten a second they take ten seconds."""
    classic.outbox.send(notices=[(number, b"x") for number in range(1, HIGH_COUNT + 1)])
    assert classic.outbox.has_room
    classic.outbox.send(notices=[(1000, b"x"), (1001, b"x")])
    assert not classic.outbox.has_room


def test_finish_writes_responses_and_drops_notices(classic: Line) -> None:
    """What is answered is written before the end; messages stay in their inbox."""
    classic.outbox.send(notices=[(1, b"n1"), (2, b"n2")])
    classic.outbox.send([(b"bye", time.monotonic())])
    classic.outbox.finish()
    assert [classic.peer.recv(100) for _ in range(3)] == [b"n1", b"bye", b""]
    assert classic.outbox.finished_at is not None


def test_no_gap_any_more(classic: Line) -> None:
    """Once the client turns out to be a modern one, even what waited for the gap leaves with the next frame."""
    classic.outbox.send([(b"one", 0.0), (b"two", 0.0)])
    assert classic.peer.recv(100) == b"one"
    classic.outbox.stop_spacing()
    classic.outbox.send([(b"three", 0.0)])
    classic.outbox.send(notices=[(1, b"four"), (2, b"five")])
    assert classic.read(16) == b"twothreefourfive"


def test_last_words(stream: Line) -> None:
    """They stand behind the responses, in the place of the notices, and are said once."""
    stream.outbox.send([(b"x" * 10_000_000, 0.0)])
    assert stream.outbox.stalled_since is not None
    stream.outbox.send(notices=[(1, b"n1")])
    stream.outbox.send([(b"answer", 0.0)])
    stream.outbox.finish(b"last")
    stream.outbox.finish(b"again")
    assert stream.outbox.last_words_at is not None
    assert read_all(stream).endswith(b"xxanswerlast")


def test_nothing_behind_the_last_words(stream: Line) -> None:
    """An answer that comes after the end was written is dropped, and breaks nothing."""
    stream.outbox.finish(b"last")
    stream.outbox.send([(b"late", 0.0)])
    stream.outbox.send(notices=[(1, b"n1")])
    assert not stream.outbox.is_closed
    assert read_all(stream) == b"last"


def test_last_words_to_one_who_is_gone(stream: Line) -> None:
    """They are not said, and nobody waits for them."""
    stream.outbox.close()
    stream.outbox.finish(b"last")
    assert stream.outbox.last_words_at is None


@pytest.mark.parametrize(("ids", "written"), [([0], 0), ([0, 0], 0), ([3, 0], 3), ([0, 3, 4, 0], 4)], ids=str)
def test_what_need_not_be_confirmed(stream: Line, ids: list[int], written: int) -> None:
    """A notice without an id moves no mark, and hides none of another notice that leaves together with it."""
    stream.outbox.send(notices=[(id, b"n") for id in ids])
    assert stream.read(len(ids)) == b"n" * len(ids)
    assert stream.outbox.written == written
    if written:
        wait_until(lambda: stream.outbox.confirmed == written)


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
    stream.outbox._sock = slow  # type: ignore[assignment]
    with ThreadPoolExecutor() as pool:
        sending = pool.submit(stream.outbox.send, notices=[(7, b"n")])
        assert stream.read(1) == b"n"
        written = pool.submit(lambda: stream.outbox.written)
        with pytest.raises(TimeoutError):
            written.result(0.05)
        slow.may_return.set()
        assert written.result(10) == 7
        sending.result(10)
    stream.outbox._sock = stream.socket


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> Iterator[Line]:
    """A classic client's line on which everything happens five times as fast."""
    monkeypatch.setattr(outbox, "CONFIRM_DELAY", 0.01)
    monkeypatch.setattr(outbox, "CONFIRM_DELAY_MAX", 0.2)
    line = Line(gap=0.02)
    yield line
    line.close()


def test_one_who_confirms_nothing_is_looked_at_no_more_often(quick: Line) -> None:
    """However often something was written meanwhile, the flusher comes back to an outbox for one time only."""
    quick.peer.send(b"x")  # nobody reads it, so nothing can be confirmed
    wait_until(lambda: unread(quick.socket) == 1)
    for id in range(1, 40, 2):
        quick.outbox.send(notices=[(id, b"a"), (id + 1, b"b")])
        assert quick.read(2) == b"ab"
        wait_until(lambda: time.monotonic() > quick.outbox._last_at + 0.04)
    wait_until(lambda: len(quick.flusher._times) == 1)
    assert quick.outbox.confirmed == 0


def test_close_drops_everything(stream: Line) -> None:
    """After `close` nothing is written, and nothing is raised."""
    stream.outbox.close()
    stream.outbox.send(notices=[(1, b"x" * HIGH_MARK)])
    stream.outbox.send([(b"x", 0.0)])
    stream.outbox.finish()
    assert stream.peer.recv(10) == b""
    assert stream.outbox.is_empty


def send_response(outbox: Outbox) -> None:
    outbox.send([(b"x", 0.0)])


def send_notice(outbox: Outbox) -> None:
    outbox.send(notices=[(1, b"x")])


def reset_has_come(sock: socket.socket) -> bool:
    try:
        return not sock.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
    except ConnectionResetError:
        return True


@pytest.mark.parametrize("send", [send_response, send_notice])
def test_a_dead_line_is_noticed_by_writing(stream: Line, send: Callable[[Outbox], None]) -> None:
    """A send that fails, of a response or of a notice, closes the outbox instead of raising."""
    stream.peer.close()
    send(stream.outbox)
    wait_until(lambda: reset_has_come(stream.socket))
    send(stream.outbox)
    assert stream.outbox.is_closed
    send(stream.outbox)


def fill(line: Line) -> int:
    """Have the outbox hold as many answers as it takes; return how many bytes were sent."""
    count = 0
    while not line.outbox.is_full:
        line.outbox.send([(b"x" * 1_000_000, 0.0)])
        count += 1_000_000
    return count


def test_a_reader_that_waits_for_room(stream: Line) -> None:
    """It goes on when the client has taken enough, or when the outbox is closed; else it waits as long as it says."""
    assert stream.outbox.wait_for_room(0)
    count = fill(stream)
    assert not stream.outbox.wait_for_room(0.01)
    with ThreadPoolExecutor() as threads:
        has_room = threads.submit(stream.outbox.wait_for_room, 10)
        stream.read(count)
        assert has_room.result()
        fill(stream)
        is_over = threads.submit(stream.outbox.wait_for_room, 10)
        wait_until(lambda: stream.outbox._room is not None)
        stream.outbox.close()
        assert is_over.result()


def test_an_outbox_with_a_bug(classic: Line, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """The log tells it, and the flusher serves all others."""
    with monkeypatch.context() as patched:
        patched.setattr(Outbox, "resume", lambda *_: [].pop())
        classic.outbox.send(notices=[(1, b"one"), (2, b"two")])
        wait_until(lambda: "an outbox failed: IndexError: pop from empty list" in caplog.text)
    other = Line(gap=0.01)
    other.outbox.send(notices=[(1, b"one"), (2, b"two")])
    assert other.read(6) == b"onetwo"
    other.close()


def test_encryption_that_fails_later(classic: Line) -> None:
    """What cannot be encrypted any more cannot be sent: the outbox closes."""
    classic.outbox.send(notices=[(1, b"one")])

    def fail(_: bytes) -> bytes:
        raise OSError("TLS has failed")

    classic.outbox._seal = fail
    classic.outbox.send(notices=[(2, b"two")])
    wait_until(lambda: classic.outbox.is_closed)
    assert read_all(classic) == b"one"


def test_a_closed_socket_has_nothing_to_tell() -> None:
    """The kernel is asked by several threads, of which one may have closed it."""
    sock = socket.socket()
    sock.close()
    assert [ask(sock) for ask in (tcp.unread, tcp.unacknowledged, tcp.received)] == [0, 0, None]
