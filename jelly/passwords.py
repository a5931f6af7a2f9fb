"""Password hashes and tokens.

Passwords are hashed with scrypt at the cost that OWASP recommends (n = 2^14, r = 8, p = 5), each
with its own salt. The hash contains the parameters, so old passwords stay valid when the cost
changes. Tokens are 64 random bits. Nobody can guess one, so they need no slow hash: the database
stores their SHA-256.
"""

import hashlib
import hmac
import secrets

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


def is_outdated(stored: str, cost: int) -> bool:
    """Whether a hash has other parameters than `hash_password` uses now."""
    return stored.split("$")[1:4] != [str(cost), str(BLOCK_SIZE), str(PARALLELISM)]


def impossible_hash(cost: int) -> str:
    """Return a hash that no password has. To verify one against it takes as long as usual."""
    salt, digest = secrets.token_bytes(SALT_BYTES), secrets.token_bytes(HASH_BYTES)
    return f"scrypt${cost}${BLOCK_SIZE}${PARALLELISM}${salt.hex()}${digest.hex()}"


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
