"""The states of a client, and when it reconnects."""

import random
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from enum import Enum

from jelly.client.options import MIN_SECONDS, check_count, check_number

MAX_PAUSE = 86_400.0


class State(Enum):
    """The state of a client. These are all the changes, and what your program should do:

    | from         | to           | when, and what to do                                          |
    | ------------ | ------------ | ------------------------------------------------------------- |
    | OFFLINE      | CONNECTING   | you called `login` or `resume`: wait for the future           |
    | CONNECTING   | ONLINE       | the login succeeded: go ahead                                 |
    | CONNECTING   | OFFLINE      | the login failed: show the error that the future has          |
    | ONLINE       | RECONNECTING | the connection was lost: do nothing. Messages without a       |
    |              |              | response wait; other requests fail                            |
    | RECONNECTING | ONLINE       | the server accepted the token: do nothing. The client sends   |
    |              |              | the waiting messages again                                    |
    | RECONNECTING | OFFLINE      | the client has given up: see `reason`, and call `login`       |
    | ONLINE       | OFFLINE      | `logout`, a takeover, a password changed elsewhere, or a      |
    |              |              | connection lost with `reconnect=False`: see `reason`          |
    | any          | CLOSED       | you called `close`: make a new client                         |
    """

    OFFLINE = "offline"
    CONNECTING = "connecting"
    ONLINE = "online"
    RECONNECTING = "reconnecting"
    CLOSED = "closed"


class Reason(Enum):
    """Why the state changed."""

    LOGIN = "login"
    """You called `login` or `resume`."""
    LOGIN_FAILED = "login failed"
    LOGGED_IN = "logged in"
    RECONNECTED = "reconnected"
    LOGGED_OUT = "logged out"
    CONNECTION_LOST = "connection lost"
    """The connection broke, or the server closed it. You did not ask for that."""
    LINE_CUT = CONNECTION_LOST
    """The old name of CONNECTION_LOST: an alias, the same object."""
    TAKEN_OVER = "taken over"
    """Another program logged in with this account, on the same device. To log in again would throw
    that program out.

    Jelly tells a classic client (`features=()`) nothing. It refuses the token of such a client, so
    the reason is TOKEN_REFUSED there. The original server keeps both connections open.
    """
    PASSWORD_CHANGED = "password changed"
    """The password was changed in another session, or by the operator: log in with the new one."""
    ENDED = "ended"
    """The login was ended in another session; or the account was deleted, or disabled by the
    operator. The notice `logged_out` says which (`SystemEvent.values["reason"]`)."""
    TOKEN_REFUSED = "token refused"
    """The token has expired, or a logout or a new password ended it: log in with the password."""
    GAVE_UP = "gave up"
    """The policy allows no more attempts."""
    CLOSED = "closed"


@dataclass(frozen=True)
class ReconnectPolicy:
    """When to reconnect after the connection is lost: at once, then with *exponential backoff*.

    With several addresses, an attempt is a round: it tries each address once, without a pause.
    Raises TypeError or ValueError if a value is not possible.
    """

    pause: float = 1.0
    """Seconds before the second attempt, at least 0.01. (The first attempt is made at once.)"""
    factor: float = 2.0
    """How many times as long each next pause is."""
    maximum: float = 60.0
    """At most this many seconds between two attempts."""
    jitter: float = 0.5
    """At most this part of each pause (0 to 1) is left out, at random. Otherwise a thousand clients
    would reconnect at the same moment."""
    attempts: int | None = None
    """At most this many attempts; None: any number."""

    def __post_init__(self) -> None:
        check_number("pause", self.pause, MIN_SECONDS, MAX_PAUSE)
        check_number("factor", self.factor, 1, MAX_PAUSE)
        check_number("maximum", self.maximum, MIN_SECONDS, MAX_PAUSE)
        check_number("jitter", self.jitter, 0, 1)
        if self.attempts is not None:
            check_count("attempts", self.attempts, 0)

    def pauses(self, random: Callable[[], float] = random.random) -> Iterator[float]:
        """Yield the seconds to wait before each attempt, as long as one is allowed.

        `random` returns numbers from 0 to 1.
        """
        tried, pause = 0, self.pause
        while self.attempts is None or tried < self.attempts:
            if tried == 0:
                yield 0.0
            else:
                yield pause * (1 - self.jitter * random())
                pause = min(pause * self.factor, self.maximum)
            tried += 1


def checked_pauses(pauses: Iterable[float]) -> Iterator[float]:
    """Yield the pauses of a policy, which an application may have written: none after the first is
    too short. Raises TypeError or ValueError if one is no number of seconds.
    """
    shortest = 0.0
    for pause in pauses:
        check_number("a pause", pause, 0, MAX_PAUSE)
        yield max(pause, shortest)
        shortest = MIN_SECONDS
