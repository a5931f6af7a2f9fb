"""The memory for answers: who gets it, and when."""

import time

import pytest

from jelly.answer_memory import REPORT_INTERVAL, AnswerMemory


def run(memory: AnswerMemory, by: int) -> None:
    for call in memory.change(by):
        call()


def test_it_is_short_when_it_is_full() -> None:
    """The limit is what may wait; what is taken makes room again."""
    memory = AnswerMemory(100)
    run(memory, 99)
    assert not memory.is_short
    run(memory, 1)
    assert memory.is_short
    run(memory, -1)
    assert (memory.is_short, memory.used) == (False, 99)


def test_those_who_wait_get_it_in_their_order() -> None:
    """A small wish does not overtake a large one, and while anybody waits memory is short."""
    memory, got = AnswerMemory(100), list[str]()
    assert memory.reserve("first", 60, lambda: got.append("never called"))
    assert not memory.reserve("second", 60, lambda: got.append("second"))
    assert not memory.reserve("third", 10, lambda: got.append("third"))
    assert (memory.used, memory.is_short) == (60, True)
    run(memory, -10)
    assert got == []
    run(memory, -50)
    assert got == ["second", "third"]
    assert (memory.used, memory.is_short) == (70, False)


def test_who_stops_waiting_gets_nothing() -> None:
    """It can stop once, and not after it has got it."""
    memory, got = AnswerMemory(100), list[str]()
    memory.change(100)
    memory.reserve("a", 50, lambda: got.append("a"))
    memory.reserve("b", 50, lambda: got.append("b"))
    assert memory.stop_waiting("a")
    assert not memory.stop_waiting("a")
    run(memory, -100)
    assert got == ["b"]
    assert not memory.stop_waiting("b")


def test_the_log_says_that_it_is_short(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """At most once a minute, whether it is full or somebody waits."""
    now = [1000.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    memory = AnswerMemory(3 * 1024 * 1024)
    run(memory, 2 * 1024 * 1024)
    assert caplog.messages == []
    run(memory, 1024 * 1024)
    run(memory, 1)
    memory.reserve("a", 1, lambda: None)
    assert caplog.messages == [
        "3 MiB of answers wait for clients that do not take them: pages are short now, and long lists wait"
    ]
    now[0] += REPORT_INTERVAL
    memory.reserve("b", 1, lambda: None)
    assert len(caplog.messages) == 2
