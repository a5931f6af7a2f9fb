"""The timer heap: in which order timers come out, and when."""

import random

from jelly.timers import NEVER, TimerHeap


class Recorder:
    """Timers that note their names when they are called."""

    def __init__(self) -> None:
        self.timers = TimerHeap()
        self.called: list[object] = []

    def add(self, due: float, name: object) -> None:
        self.timers.call_at(due, lambda: self.called.append(name))

    def run(self, now: float) -> list[object]:
        """The names of the timers that are due at a time."""
        self.called.clear()
        for function in self.timers.pop_due(now):
            function()
        return self.called


def test_timers_come_out_in_the_order_of_their_times() -> None:
    """Whatever the order in which they were added."""
    recorder = Recorder()
    times = list(range(100))
    random.Random(1).shuffle(times)
    for time in times:
        recorder.add(time, time)
    assert recorder.run(200) == list(range(100))


def test_nothing_comes_before_its_time() -> None:
    """A timer is due at its time exactly, and comes out once."""
    recorder = Recorder()
    recorder.add(2.0, "two")
    recorder.add(1.0, "one")
    assert recorder.run(0.9) == []
    assert recorder.run(1.0) == ["one"]
    assert recorder.run(1.9) == []
    assert recorder.run(2.0) == ["two"]
    assert recorder.run(NEVER) == []


def test_of_two_with_one_time_the_first_goes_first() -> None:
    """Functions are never compared."""
    recorder = Recorder()
    for number in range(10):
        recorder.add(1.0, number)
    assert recorder.run(1.0) == list(range(10))


def test_next_due() -> None:
    """The time of the earliest timer, for the thread that waits for it."""
    timers = TimerHeap()
    assert timers.next_due == NEVER
    timers.call_at(2.0, lambda: None)
    timers.call_at(1.0, lambda: None)
    assert timers.next_due == 1.0
    timers.pop_due(1.5)
    assert (timers.next_due, len(timers)) == (2.0, 1)
    timers.pop_due(2.0)
    assert (timers.next_due, len(timers)) == (NEVER, 0)


def test_never() -> None:
    """A timer that is never due comes out only when everything does."""
    recorder = Recorder()
    recorder.add(NEVER, "never")
    assert recorder.run(1e18) == []
    assert recorder.run(NEVER) == ["never"]
