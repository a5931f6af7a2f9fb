"""Where a client stands with its server, and how it comes back after a cut."""

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import Enum


class State(Enum):
    """Where a client stands. These are all the changes there are, and what the application should do:

    | from         | to           | when, and what to do                                                            |
    | ------------ | ------------ | ------------------------------------------------------------------------------- |
    | OFFLINE      | CONNECTING   | `login` or `resume` was called: wait for its future                             |
    | CONNECTING   | ONLINE       | it succeeded: go ahead                                                          |
    | CONNECTING   | OFFLINE      | it failed; the future has the error: tell the user                              |
    | ONLINE       | RECONNECTING | the line was cut: nothing. Messages without an answer wait; other requests fail |
    | RECONNECTING | ONLINE       | the token was accepted; those messages are sent again: nothing                  |
    | RECONNECTING | OFFLINE      | given up; `reason` says why: ask the user, and call `login`                     |
    | ONLINE       | OFFLINE      | `logout`, another login took over, or a cut without reconnect: see `reason`     |
    | any          | CLOSED       | `close` was called: make another client                                         |
    """

    OFFLINE = "offline"
    CONNECTING = "connecting"
    ONLINE = "online"
    RECONNECTING = "reconnecting"
    CLOSED = "closed"


class Reason(Enum):
    """Why the state changed."""

    LOGIN = "login"
    """The application called `login` or `resume`."""
    LOGIN_FAILED = "login failed"
    LOGGED_IN = "logged in"
    RECONNECTED = "reconnected"
    LOGGED_OUT = "logged out"
    CONNECTION_LOST = "connection lost"
    """The connection broke or the server closed it. You did not ask for that."""
    LINE_CUT = CONNECTION_LOST
    """The old name of CONNECTION_LOST (an alias: the same object)."""
    TAKEN_OVER = "taken over"
    """Somebody logged in with this account elsewhere. To come back means to throw the other one out.

    A server that grants no features does not say so; there it is assumed when four lines in a row were closed soon.
    """
    TOKEN_REFUSED = "token refused"
    """The token has expired, or a logout or a new password has ended it: log in with the password."""
    GAVE_UP = "gave up"
    """The policy allows no more tries."""
    CLOSED = "closed"


@dataclass(frozen=True)
class ReconnectPolicy:
    """When to try again after a cut: once at once, then with growing pauses.

    `pause` seconds before the second try, then each time `factor` times as long, up to `maximum` seconds; of each
    pause a random part of up to `jitter` (0 to 1) is left out, so that a thousand clients do not come back in step.
    `attempts`: how many tries there are (None: any number).
    """

    pause: float = 1.0
    factor: float = 2.0
    maximum: float = 60.0
    jitter: float = 0.5
    attempts: int | None = None

    def pauses(self, random: Callable[[], float] = random.random) -> Iterator[float]:
        """The seconds to wait before each try; `random` gives numbers from 0 to 1. Ends when no try is left."""
        tried, pause = 0, self.pause
        while self.attempts is None or tried < self.attempts:
            if tried == 0:
                yield 0.0
            else:
                yield pause * (1 - self.jitter * random())
                pause = min(pause * self.factor, self.maximum)
            tried += 1
