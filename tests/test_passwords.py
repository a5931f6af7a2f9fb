"""Hashes, tokens, and the guard against guessing, with the clock in the test's hand."""

import pytest

from jelly.passwords import LoginGuard, hash_password, hash_token, new_token, verify_password


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def guard(clock: Clock) -> LoginGuard:
    return LoginGuard(clock, most=3)


def fail(guard: LoginGuard, times: int) -> list[float]:
    return [guard.failed("alice", "10.0.0.1") for _ in range(times)]


@pytest.mark.parametrize("password", ["pw", "密码😀", " ", "x" * 128, "a$b", "\0"])
def test_a_password_is_verified(password: str) -> None:
    """The right one is recognized, another is not."""
    stored = hash_password(password, cost=1)
    assert verify_password(password, stored)
    assert not verify_password(password + "x", stored)


def test_each_hash_has_its_own_salt() -> None:
    """The same password twice gives two hashes, and neither shows it."""
    one, two = hash_password("secret", 1), hash_password("secret", 1)
    assert one != two
    assert "secret" not in one
    assert one.startswith("scrypt$1$8$5$")


def test_a_change_of_cost_leaves_old_hashes_valid() -> None:
    """The parameters stand in the hash."""
    assert verify_password("pw", hash_password("pw", 2))
    assert verify_password("pw", hash_password("pw", 10))


def test_tokens() -> None:
    """They are signed 64-bit integers, all different, of both signs, and hashed beyond recognition."""
    tokens = {new_token() for _ in range(200)}
    assert len(tokens) == 200
    assert all(-(2**63) <= token < 2**63 for token in tokens)
    assert min(tokens) < 0 < max(tokens)
    assert len({hash_token(token) for token in tokens}) == 200
    assert all(str(token) not in hash_token(token) for token in tokens)


def test_answers_come_later_and_later(guard: LoginGuard) -> None:
    """Five failures cost nothing, each further one twice as long; after ten nothing is tried any more."""
    assert fail(guard, 9) == [0, 0, 0, 0, 0, 1, 2, 4, 8]
    assert not guard.is_locked("alice", "10.0.0.1")
    assert fail(guard, 1) == [16]
    assert guard.is_locked("alice", "10.0.0.1")


def test_others_are_not_concerned(guard: LoginGuard) -> None:
    """Neither the account from elsewhere, nor another account from here."""
    fail(guard, 10)
    assert not guard.is_locked("alice", "10.0.0.2")
    assert not guard.is_locked("bob", "10.0.0.1")


def test_the_window_passes(guard: LoginGuard, clock: Clock) -> None:
    """A quarter of an hour after the failures everything is as before."""
    fail(guard, 10)
    clock.now += 15 * 60 - 1
    assert guard.is_locked("alice", "10.0.0.1")
    clock.now += 1
    assert not guard.is_locked("alice", "10.0.0.1")
    assert fail(guard, 1) == [0]


def test_success_forgets(guard: LoginGuard) -> None:
    """Whoever knows the password starts anew."""
    fail(guard, 9)
    guard.succeeded("alice", "10.0.0.1")
    assert fail(guard, 1) == [0]


def test_memory_is_bounded(guard: LoginGuard) -> None:
    """Beyond its measure the guard forgets whoever failed longest ago."""
    fail(guard, 10)
    guard.failed("a", "")
    guard.failed("b", "")
    assert guard.is_locked("alice", "10.0.0.1")
    guard.failed("c", "")
    assert not guard.is_locked("alice", "10.0.0.1")
