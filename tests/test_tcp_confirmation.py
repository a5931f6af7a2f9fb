"""Confirmation by TCP, on a pair of sockets: when TCP is asked, and what counts as confirmed."""

import contextlib
import socket
from collections.abc import Iterator
from itertools import pairwise

import pytest
from wire import wait_until

from jelly.tcp import received, unacknowledged
from jelly.tcp_confirmation import CONFIRM_DELAY, CONFIRM_DELAY_MAX, TcpConfirmation

START = 1000.0


class Pair:
    """Two ends of a TCP connection, and what is confirmed about the first."""

    def __init__(self, gap: float = 0.0) -> None:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            self.peer = socket.create_connection(listener.getsockname(), 5)
            self.socket, _ = listener.accept()
        self.confirmation = TcpConfirmation(self.socket, gap)
        self.read_bytes = 0

    def close(self) -> None:
        self.socket.close()
        self.peer.close()

    def write(self, id: int, now: float = START) -> None:
        self.confirmation.before_write(self.read_bytes)
        self.socket.sendall(b"message")
        wait_until(lambda: unacknowledged(self.socket) == 0)
        self.confirmation.note_written(id, now)

    def says(self, data: bytes, is_read: bool = True) -> None:
        """The peer sends something; it arrives, and is read."""
        self.peer.sendall(data)
        wait_until(lambda: received(self.socket) == self.read_bytes + len(data))
        if is_read:
            self.read_bytes += len(self.socket.recv(100))

    def check(self, now: float, is_all_written: bool = True) -> int:
        """What is confirmed at this time."""
        self.confirmation.check(now, is_all_written, self.read_bytes)
        return self.confirmation.tcp_acked_id

    @property
    def check_at(self) -> float | None:
        """When TCP will be asked; as seconds after the start."""
        at = self.confirmation.check_at
        return None if at is None else round(at - START, 6)


@pytest.fixture
def pair() -> Iterator[Pair]:
    pair = Pair()
    yield pair
    pair.close()


def test_confirmed_a_moment_after_the_write(pair: Pair) -> None:
    """Not before; and then there is nothing to ask any more."""
    assert pair.check_at is None
    pair.write(7, START)
    assert pair.confirmation.written_id == 7
    assert pair.check_at == CONFIRM_DELAY
    assert pair.check(START + CONFIRM_DELAY / 2) == 0
    assert pair.check(START + CONFIRM_DELAY) == 7
    assert pair.check_at is None


def test_one_question_confirms_all_that_was_written(pair: Pair) -> None:
    """A later message does not put off the question."""
    pair.write(7, START)
    pair.write(8, START + CONFIRM_DELAY - 0.01)
    assert pair.check(START + CONFIRM_DELAY) == 8


def test_not_before_the_next_frame() -> None:
    """A classic client is asked about when its next frame may go."""
    pair = Pair(gap=0.3)
    pair.write(7, START)
    assert pair.check_at == 0.3
    pair.close()


def test_asked_less_and_less_often(pair: Pair) -> None:
    """As long as something is not written, or TCP does not have it acknowledged."""
    pair.write(7, START)
    times = []
    for _ in range(8):
        times.append(pair.confirmation.check_at or 0.0)
        assert pair.check(times[-1], is_all_written=False) == 0
    delays = [round(after - before, 6) for before, after in pairwise(times)]
    assert delays == [0.1, 0.2, 0.4, 0.8, 1.0, 1.0, CONFIRM_DELAY_MAX]
    pair.check(times[-1] + CONFIRM_DELAY_MAX)
    pair.write(8, START)
    assert pair.check_at == CONFIRM_DELAY


def test_not_confirmed_while_something_lies_unread(pair: Pair) -> None:
    """What the client sent before TCP was asked must not be taken for a sign of life after it."""
    pair.peer.sendall(b"early")
    wait_until(lambda: pair.socket.recv(100, socket.MSG_PEEK))
    pair.write(7, START)
    assert pair.check(START + 0.1) == 0
    assert pair.socket.recv(100) == b"early"
    assert pair.check(START + 1) == 0  # read, but the reader has not counted it yet
    pair.read_bytes += len(b"early")
    assert pair.check(START + 2) == 7


def test_ids_do_not_go_back(pair: Pair) -> None:
    """A frame without an id, or written again, asks nothing."""
    pair.write(0, START)
    assert pair.check_at is None
    pair.write(7, START)
    pair.check(START + 1)
    pair.write(5, START + 2)
    assert (pair.confirmation.written_id, pair.check_at) == (7, None)


def test_a_closed_socket(pair: Pair) -> None:
    """Nothing is raised."""
    pair.write(7, START)
    pair.socket.close()
    pair.check(START + 1)


def test_the_last_word(pair: Pair) -> None:
    """It counts at once for what was written before it had arrived, and for nothing else."""
    pair.says(b"login")
    pair.write(7)
    assert pair.confirmation.delivered_before(pair.read_bytes) == 7
    pair.says(b"logout", is_read=False)
    pair.write(8)
    pair.write(9)
    assert pair.confirmation.delivered_before(len(b"login")) == 7
    pair.read_bytes += len(pair.socket.recv(100))
    pair.says(b"and on")
    pair.write(10)
    assert pair.confirmation.delivered_before(len(b"loginlogout")) == 9
    assert pair.confirmation.delivered_before(len(b"login")) == 0  # it is too long ago: not known any more
    assert pair.check(START + 1) == 10  # that it was asked between changes nothing


def test_the_last_word_before_everything_has_arrived(pair: Pair) -> None:
    """What TCP has not acknowledged the client cannot have read."""
    pair.write(7)
    pair.peer.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    pair.socket.setblocking(False)
    with contextlib.suppress(BlockingIOError):
        while pair.socket.send(b"x" * 65536):
            pass
    assert pair.confirmation.delivered_before(pair.read_bytes) == 0


def test_the_end_of_the_stream(pair: Pair) -> None:
    """A client that closes has read everything, else TCP would have sent a reset."""
    pair.write(7)
    assert pair.peer.recv(100) == b"message"
    pair.peer.close()
    assert pair.socket.recv(100) == b""
    assert pair.confirmation.delivered_before(pair.read_bytes) == 7


def test_no_last_word_after_a_reset(pair: Pair) -> None:
    """Not even if a write has taken its error, and reading reports an orderly end."""
    pair.write(7)
    pair.peer.close()  # with the message unread
    with contextlib.suppress(ConnectionResetError):
        while pair.socket.send(b"x"):
            pass
    assert pair.socket.recv(100) == b""
    assert unacknowledged(pair.socket) == 0
    assert pair.confirmation.delivered_before(pair.read_bytes) == 0


def test_an_error_is_no_acknowledgement(pair: Pair) -> None:
    """What the kernel does not tell has not been delivered."""
    pair.write(7)
    pair.socket.close()
    assert pair.check(START + 1) == 0
    assert pair.confirmation.delivered_before(pair.read_bytes) == 0
