"""The wake-up pipe: it wakes a selector, coalesces calls, and can be closed at any time."""

import selectors
import threading
from collections.abc import Iterator

import pytest

from jelly.wakeup import WakeupPipe


@pytest.fixture
def pipe() -> Iterator[WakeupPipe]:
    pipe = WakeupPipe()
    yield pipe
    pipe.close()


def is_readable(pipe: WakeupPipe, seconds: float = 0) -> bool:
    with selectors.DefaultSelector() as selector:
        selector.register(pipe, selectors.EVENT_READ)
        return bool(selector.select(seconds))


def test_wake_makes_the_pipe_readable_until_it_is_drained(pipe: WakeupPipe) -> None:
    """Before the call and after the drain there is nothing to read; then it works again."""
    for _ in range(3):
        assert not is_readable(pipe)
        pipe.wake()
        assert is_readable(pipe)
        assert is_readable(pipe)
        pipe.drain()
    assert not is_readable(pipe)


def test_calls_are_coalesced(pipe: WakeupPipe) -> None:
    """However often it is called, one drain empties the pipe; and it never blocks on a full one."""
    for _ in range(300_000):
        pipe.wake()
    pipe.drain()
    assert not is_readable(pipe)


def test_drain_of_an_empty_pipe(pipe: WakeupPipe) -> None:
    """It does not block, and the next wake-up is not lost."""
    pipe.drain()
    pipe.wake()
    assert is_readable(pipe)


def test_another_thread_wakes_the_one_that_waits(pipe: WakeupPipe) -> None:
    """A thread that is already in `select` returns."""
    threading.Timer(0.02, pipe.wake).start()
    assert is_readable(pipe, 10)


def test_nothing_is_lost_between_many_threads(pipe: WakeupPipe) -> None:
    """Each item that is added before a `wake` is seen after a `drain`."""
    added: list[int] = []

    def add() -> None:
        for number in range(500):
            added.append(number)
            pipe.wake()

    threads = [threading.Thread(target=add) for _ in range(4)]
    for thread in threads:
        thread.start()
    seen = 0
    while seen < 2000:
        assert is_readable(pipe, 10), f"only {seen} seen"
        pipe.drain()
        seen = len(added)
    for thread in threads:
        thread.join()


def test_after_close_nothing_fails(pipe: WakeupPipe) -> None:
    """Other threads may still hold the pipe: their calls do nothing."""
    pipe.wake()
    pipe.close()
    pipe.close()
    pipe.wake()
    pipe.drain()
    pipe.wake()
    assert pipe.fileno() == -1


def test_close_while_others_wake() -> None:
    """Threads that go on calling `wake` during the close get no error."""
    pipe = WakeupPipe()
    errors: list[BaseException] = []
    started, done = threading.Barrier(4), threading.Event()

    def wake() -> None:
        started.wait()
        try:
            while not done.is_set():
                pipe.wake()
                pipe.drain()
        except BaseException as error:  # noqa: BLE001 - the test says below what failed
            errors.append(error)

    threads = [threading.Thread(target=wake) for _ in range(3)]
    for thread in threads:
        thread.start()
    started.wait()
    pipe.close()
    done.set()
    for thread in threads:
        thread.join()
    assert not errors
