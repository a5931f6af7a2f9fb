"""Hashes and tokens."""

import hashlib
from typing import Any

import pytest

from jelly.config import Settings
from jelly.passwords import hash_password, hash_token, impossible_hash, is_outdated, new_token, verify_password


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


def test_a_hash_of_another_cost_is_outdated() -> None:
    """Raised or lowered: the parameters must be today's."""
    stored = hash_password("pw", 2)
    assert [is_outdated(stored, cost) for cost in (1, 2, 3)] == [True, False, True]


def test_a_hash_that_no_password_has() -> None:
    """It has the parameters of a real one, and two are different."""
    one, two = impossible_hash(3), impossible_hash(3)
    assert one != two
    assert [len(part) for part in one.split("$")] == [len(part) for part in hash_password("", 3).split("$")]
    assert not is_outdated(one, 3)
    assert not verify_password("", one)


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
