"""A connection to Redis or Valkey through redis-py: no pool, no retries, a limit for each wait."""

import urllib.parse
from collections.abc import Iterable
from typing import Any

from jelly.errors import ConfigError, JellyError

REQUIREMENT = "redis>=5.0"
WAIT = 1.0
"""At most this many seconds until a connection is open, and until a command is answered."""
MAX_REASON = 200
"""At most this many characters of an error of redis-py are passed on."""
USAGE = (
    "A cluster is named by its Redis, as redis://host:port, rediss://user:password@host:port (with TLS) or "
    "unix:///file, or as none. (In a password, characters like / # : @ are written as %2F %23 %3A %40.)"
)


class ConnectionFailed(JellyError):
    """The connection cannot be opened, or has ended, or does not answer. The text says why."""


class RedisConnection:
    """A connection that is opened, used until it fails, closed, and opened again.

    One thread at a time may use it. Raises ConfigError for a wrong URL, or if redis-py is missing.
    """

    def __init__(self, url: str) -> None:
        self.name = _without_secrets(url)
        """The URL without the password."""
        self.is_open = False
        self._unanswered = 0  # commands PUBLISH
        try:
            import redis.backoff
            import redis.retry
        except ImportError as error:
            raise ConfigError(f"A cluster with Redis needs the package redis: pip install '{REQUIREMENT}'.") from error
        try:
            pool = redis.ConnectionPool.from_url(url, protocol=2)  # in which a message is a plain list
            options: dict[str, Any] = pool.connection_kwargs
            if url.startswith("rediss:") and options.get("ssl_cert_reqs", "required") == "required":
                options.setdefault("ssl_check_hostname", True)  # redis-py 5 would not look at the name
            options |= {
                "socket_timeout": WAIT,
                "socket_connect_timeout": WAIT,
                "retry": redis.retry.Retry(redis.backoff.NoBackoff(), 0),
                "health_check_interval": 0,
                "protocol": 2,
                "decode_responses": False,
            }
            self._raw: Any = pool.make_connection()
        except Exception as error:  # noqa: BLE001 - an option of the URL that redis-py does not know, say
            raise ConfigError(f"redis-py refuses the URL of the cluster: {_reason(error)}. {USAGE}") from None

    def open(self) -> None:
        """Connect and log in. Raises ConnectionFailed."""
        self.close()
        try:
            self._raw.connect()
        except Exception as error:  # redis-py has many, and others pass through it
            raise ConnectionFailed(_reason(error)) from error
        self.is_open = True
        self._unanswered = 0

    def close(self) -> None:
        """End the connection, if there is one."""
        self.is_open = False
        self._raw.disconnect()

    def send(self, *words: str) -> None:
        """Send a command, and do not wait for its reply. Raises ConnectionFailed."""
        try:
            self._raw.send_command(*words)
        except Exception as error:
            raise ConnectionFailed(_reason(error)) from error

    def receive(self, timeout: float) -> object:
        """Return the next reply or message, or None if nothing comes within `timeout` seconds.

        Raises ConnectionFailed, also if Redis refuses what was sent.
        """
        try:
            return self._raw.read_response() if self._raw.can_read(timeout) else None
        except Exception as error:
            raise ConnectionFailed(_reason(error)) from error

    def publish(self, messages: Iterable[tuple[str, bytes]]) -> None:
        """Publish these messages, each on its channel, together, and do not wait for the replies.

        Raises ConnectionFailed.
        """
        commands = [("PUBLISH", channel, data) for channel, data in messages]
        try:
            self._raw.send_packed_command(self._raw.pack_commands(commands))
        except Exception as error:
            raise ConnectionFailed(_reason(error)) from error
        self._unanswered += len(commands)

    def is_answered(self) -> bool:
        """Whether Redis has answered all that was published; does not wait.

        Raises ConnectionFailed, also if Redis refuses what was published.
        """
        while self._unanswered and self.receive(0.0) is not None:
            self._unanswered -= 1
        return not self._unanswered

    def wait_for_answers(self) -> None:
        """Wait until Redis has answered all that was published.

        Raises ConnectionFailed, also if Redis refuses what was published.
        """
        while self._unanswered:
            try:
                self._raw.read_response()
            except Exception as error:
                raise ConnectionFailed(_reason(error)) from error
            self._unanswered -= 1


def _reason(error: Exception) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    return text[:MAX_REASON].rstrip(".")


def _without_secrets(url: str) -> str:
    """Return the URL without password and options. Raises ConfigError if it names no Redis."""
    try:
        parts = urllib.parse.urlsplit(url)
        is_right = parts.port != 0
    except ValueError:
        raise ConfigError(USAGE) from None
    path = parts.path
    if parts.scheme == "unix":
        is_right &= path.startswith("/") and path != "/" and not parts.hostname
    else:
        # redis-py takes a database that is no number for 0, and a missing host for this machine.
        database = path.removeprefix("/")
        is_right &= bool(parts.hostname) and (not database or (database.isascii() and database.isdigit()))
    if parts.scheme not in ("redis", "rediss", "unix") or not is_right or parts.fragment:
        raise ConfigError(USAGE)
    logins, _, host = parts.netloc.rpartition("@")
    user = logins.partition(":")[0]
    return f"{parts.scheme}://{user}{'@' if user else ''}{host}{path}"
