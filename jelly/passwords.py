"""Password hashes, tokens, and the guard against guessing passwords.

Passwords are hashed with scrypt at the cost that OWASP recommends (n = 2^14, r = 8, p = 5), each
with its own salt. The hash contains the parameters, so old passwords stay valid when the cost
changes. Tokens are 64 random bits. Nobody can guess one, so they need no slow hash: the database
stores their SHA-256.
"""

import hashlib
import hmac
import secrets
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable

BLOCK_SIZE = 8  # scrypt's r
PARALLELISM = 5  # scrypt's p
SALT_BYTES = 16
HASH_BYTES = 32


def hash_password(password: str, cost: int) -> str:
    """Return a salted hash to store. `cost` is the binary logarithm of scrypt's n.

    Cost 14 takes about 160 ms.
    """
    salt = secrets.token_bytes(SALT_BYTES)
    digest = _scrypt(password, salt, cost, BLOCK_SIZE, PARALLELISM)
    return f"scrypt${cost}${BLOCK_SIZE}${PARALLELISM}${salt.hex()}${digest.hex()}"


def verify_password(password: str, stored: str) -> bool:
    """Whether a password matches a hash that `hash_password` returned."""
    _, cost, block_size, parallelism, salt, digest = stored.split("$")
    actual = _scrypt(password, bytes.fromhex(salt), int(cost), int(block_size), int(parallelism))
    return hmac.compare_digest(actual, bytes.fromhex(digest))


def _scrypt(password: str, salt: bytes, cost: int, block_size: int, parallelism: int) -> bytes:
    n = 2**cost
    memory = 128 * block_size * (n + parallelism + 2)  # OpenSSL's default limit is below this need
    return hashlib.scrypt(
        password.encode(), salt=salt, n=n, r=block_size, p=parallelism, maxmem=memory + 1024, dklen=HASH_BYTES
    )


def new_token() -> int:
    """Return a new token: a random signed 64-bit integer from the operating system."""
    return int.from_bytes(secrets.token_bytes(8), signed=True)


def hash_token(token: int) -> str:
    """Return the hash of a token, which the database stores instead of the token."""
    return hashlib.sha256(token.to_bytes(8, signed=True)).hexdigest()


class LoginGuard:
    """Counts failed logins for each pair of account and address, and slows them down.

    The first five failures within 15 minutes are answered at once, the next ones after 1, 2, 4, 8
    and 16 seconds. After ten failures the pair is locked until one of them is 15 minutes old. The
    guard remembers `max_pairs` pairs. It drops the oldest pair for a new one, so that a flood of
    invented names costs no memory.
    """

    WINDOW_SECONDS = 15 * 60.0
    """Seconds until a failure is forgotten."""
    FREE_FAILURES = 5
    """At most this many failures are answered without a delay."""
    MAX_FAILURES = 10
    """At most this many failures are possible within the window."""

    def __init__(self, clock: Callable[[], float] = time.monotonic, max_pairs: int = 10_000) -> None:
        self._clock = clock
        self._max_pairs = max_pairs
        self._lock = threading.Lock()  # guards _failures
        # An OrderedDict, because a plain dict finds its oldest key by walking over all the keys
        # that were deleted before it.
        self._failures: OrderedDict[tuple[str, str], deque[float]] = OrderedDict()

    def is_locked(self, username: str, address: str) -> bool:
        """Whether logins to this account from this address are refused now."""
        with self._lock:
            return len(self._recent_failures(username, address)) >= self.MAX_FAILURES

    def record_failure(self, username: str, address: str) -> float:
        """Count a failed login; return the seconds until its answer should be sent."""
        with self._lock:
            failures = self._recent_failures(username, address)
            failures.append(self._clock())
            self._failures[username, address] = failures
            self._failures.move_to_end((username, address))
            if len(self._failures) > self._max_pairs:
                self._failures.popitem(last=False)
            surplus = len(failures) - self.FREE_FAILURES
            return 0.0 if surplus <= 0 else 2.0 ** (surplus - 1)

    def record_success(self, username: str, address: str) -> None:
        """Forget the failures of this pair."""
        with self._lock:
            self._failures.pop((username, address), None)

    def _recent_failures(self, username: str, address: str) -> deque[float]:
        failures = self._failures.get((username, address)) or deque()
        while failures and failures[0] <= self._clock() - self.WINDOW_SECONDS:
            failures.popleft()
        return failures
