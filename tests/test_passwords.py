"""Hashes, tokens, and the guard against guessing, with the clock in the test's hand."""

import hashlib
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from clock import Clock

from jelly.config import Settings
from jelly.passwords import LoginGuard, hash_password, hash_token, new_token, verify_password


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def guard(clock: Clock) -> LoginGuard:
    return LoginGuard(clock, max_pairs=3)


def fail(guard: LoginGuard, times: int) -> list[float]:
    return [guard.record_failure("alice", "10.0.0.1") for _ in range(times)]


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


def test_the_usual_cost() -> None:
    """Who sets nothing gets the cost that OWASP recommends: n = 2^14, r = 8, p = 5, with 16 bytes
    of salt.
    """
    kind, cost, block_size, parallelism, salt, digest = hash_password("pw", Settings().password_cost).split("$")
    assert (kind, cost, block_size, parallelism) == ("scrypt", "14", "8", "5")
    assert (len(bytes.fromhex(salt)), len(bytes.fromhex(digest))) == (16, 32)


def test_the_highest_cost(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every cost that the settings allow can be hashed: hashlib takes a maxmem below 2^31."""
    asked: list[int] = []

    def scrypt(_: bytes, *, n: int, r: int, maxmem: int, **__: Any) -> bytes:
        assert maxmem >= 128 * n * r
        asked.append(maxmem)
        return bytes(32)

    monkeypatch.setattr(hashlib, "scrypt", scrypt)
    hash_password("pw", 20)
    assert asked[0] < 2**31 - 1


@pytest.mark.parametrize("token", [0, 1, -1, 2**63 - 1, -(2**63)])
def test_what_is_stored_of_a_token(token: int) -> None:
    """It is the SHA-256 of its eight bytes, which fits the column, for every signed integer of 64
    bits.
    """
    assert hash_token(token) == hashlib.sha256(token.to_bytes(8, "big", signed=True)).hexdigest()
    assert len(hash_token(token)) == 64


def test_tokens_come_from_the_operating_system(monkeypatch: pytest.MonkeyPatch) -> None:
    """All 64 bits are random, the sign too."""
    monkeypatch.setattr("jelly.passwords.secrets.token_bytes", lambda count: b"\xff" * (count - 1) + b"\xfe")
    assert new_token() == -2


def test_tokens() -> None:
    """They are signed 64-bit integers, all different, of both signs, and hashed beyond
    recognition.
    """
    tokens = {new_token() for _ in range(200)}
    assert len(tokens) == 200
    assert all(-(2**63) <= token < 2**63 for token in tokens)
    assert min(tokens) < 0 < max(tokens)
    assert len({hash_token(token) for token in tokens}) == 200
    assert all(str(token) not in hash_token(token) for token in tokens)


def test_answers_come_later_and_later(guard: LoginGuard) -> None:
    """Five failures cost nothing, each further one twice as long; after ten nothing is tried any
    more.
    """
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
    guard.record_success("alice", "10.0.0.1")
    assert fail(guard, 1) == [0]


def test_memory_is_bounded(guard: LoginGuard) -> None:
    """Beyond its measure the guard forgets whoever failed longest ago."""
    fail(guard, 10)
    guard.record_failure("a", "")
    guard.record_failure("b", "")
    assert guard.is_locked("alice", "10.0.0.1")
    guard.record_failure("c", "")
    assert not guard.is_locked("alice", "10.0.0.1")


def test_asking_costs_no_memory(guard: LoginGuard) -> None:
    """Only failures are remembered, not whoever was asked about; a flood of names leaves as many as
    allowed.
    """
    for number in range(100):
        assert not guard.is_locked(f"user{number}", "10.0.0.1")
        guard.record_success(f"user{number}", "10.0.0.1")
    assert not guard._failures
    for number in range(100):
        guard.record_failure(f"user{number}", "10.0.0.1")
    assert [username for username, _ in guard._failures] == ["user97", "user98", "user99"]


def test_who_fails_again_is_young_again(guard: LoginGuard) -> None:
    """A pair that goes on failing is not the one that a flood of others drives out first."""
    fail(guard, 9)
    guard.record_failure("a", "")
    guard.record_failure("b", "")
    fail(guard, 1)
    guard.record_failure("c", "")
    assert guard.is_locked("alice", "10.0.0.1")


def test_the_window_slides(guard: LoginGuard, clock: Clock) -> None:
    """Each failure counts for its own quarter of an hour."""
    for _ in range(10):
        fail(guard, 1)
        clock.now += 60
    assert guard.is_locked("alice", "10.0.0.1")
    clock.now += 5 * 60
    assert not guard.is_locked("alice", "10.0.0.1")
    assert fail(guard, 1) == [16]


def test_failures_at_the_same_time_all_count() -> None:
    """Guesses on many connections share one count, and none of the answers comes twice."""
    guard = LoginGuard(lambda: 0.0)
    with ThreadPoolExecutor(10) as pool:
        delays = list(pool.map(lambda _: guard.record_failure("alice", "10.0.0.1"), range(10)))
    assert sorted(delays) == [0, 0, 0, 0, 0, 1, 2, 4, 8, 16]
