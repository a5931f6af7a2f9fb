"""How many messages a second a user may send, with the clock in the test's hand."""

import pytest
from clock import Clock

from jelly.rate import HOLD_SECONDS, MAX_HELD_IDS, HeldBack, RateLimit


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def limit(clock: Clock) -> RateLimit:
    """Four messages a second."""
    return RateLimit(4, 4, clock)


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


def test_a_burst(clock: Clock) -> None:
    """Who was quiet may send many at once, and then as many as time brings."""
    limit = RateLimit(4, 10, clock)
    assert taken(limit, "alice", 20) == 10
    for seconds, count in ((0.25, 1), (1.0, 4), (2.0, 8), (2.5, 10), (100.0, 10)):
        clock.now += seconds
        assert taken(limit, "alice", 20) == count
    assert taken(limit, "bob", 1) == 1
    clock.now += 2.4
    taken(limit, "carol", 1)
    assert len(limit) == 3
    clock.now += 0.1
    taken(limit, "carol", 1)
    assert len(limit) == 1  # the others' are full again


@pytest.mark.parametrize(("rate", "burst", "seconds"), [(4, 10, 1.0), (4, 2, 0.5), (1, 100, 1.0), (1000, 1, 0.001)])
def test_when_to_come_back(clock: Clock, rate: int, burst: int, seconds: float) -> None:
    """When there is room for a second's worth, or for all that may ever come at once."""
    limit = RateLimit(rate, burst, clock)
    assert limit.seconds_until_room("alice") == 0
    taken(limit, "alice", burst)
    assert limit.seconds_until_room("alice") == pytest.approx(seconds)
    clock.now += seconds / 4
    assert limit.seconds_until_room("alice") == pytest.approx(seconds * 3 / 4)
    clock.now += seconds
    assert taken(limit, "alice", max(1, min(rate, burst))) == max(1, min(rate, burst))


def test_what_is_held_back() -> None:
    """Everything but the refused messages themselves, for a while."""
    held = HeldBack()
    assert not held.holds("a", 0.0)
    held.refused("a", 0.0)
    held.refused("b", 1.0)  # behind it, which does not hold things up for longer
    assert [held.holds(id, 9.0) for id in ("a", "b", "c", None)] == [False, False, True, True]
    assert not held.holds("c", HOLD_SECONDS)
    held.refused("a", 9.0)  # it came again, and was refused again
    assert held.holds("c", HOLD_SECONDS)
    assert not held.holds("c", 9.0 + HOLD_SECONDS)
    for number in range(MAX_HELD_IDS):
        held.refused(str(number), 10.0)
    assert held.holds("a", 11.0)
    assert not held.holds("0", 11.0)
