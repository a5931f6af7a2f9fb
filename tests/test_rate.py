"""How many messages a second a user may send, with the clock in the test's hand."""

import pytest
from clock import Clock

from jelly.rate import RateLimit


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def limit(clock: Clock) -> RateLimit:
    """Four messages a second."""
    return RateLimit(4, clock)


def taken(limit: RateLimit, user: str, tries: int) -> int:
    return sum(limit.try_acquire(user) for _ in range(tries))


def test_a_seconds_worth_at_once(limit: RateLimit, clock: Clock) -> None:
    """Then as many as time brings, and never more than a second's worth."""
    assert taken(limit, "alice", 10) == 4
    for seconds, count in ((0.25, 1), (0.5, 2), (0.125, 0), (0.125, 1), (1.0, 4), (100.0, 4)):
        clock.now += seconds
        assert taken(limit, "alice", 10) == count


def test_others_are_not_concerned(limit: RateLimit) -> None:
    """Each user has an allowance of the own."""
    assert taken(limit, "alice", 10) == taken(limit, "bob", 10) == 4


def test_who_is_remembered(limit: RateLimit, clock: Clock) -> None:
    """Those who tried within the last second, however many there were before; nobody gains by
    that.
    """
    for number in range(1000):
        clock.now += 0.01
        taken(limit, "alice", 1)
        limit.try_acquire(f"user{number}")
    assert len(limit) <= 102
    assert taken(limit, "alice", 10) == 0
    clock.now += 1
    assert taken(limit, "bob", 1) == 1
    assert len(limit) == 1
