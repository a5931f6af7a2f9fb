"""What a service can decide about a request: data, and nothing that acts on it.

The services (`services.py`) make these, `queue_dispatch.py` passes them on, and `store.py` writes
and answers them.
"""

from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

from jelly.dao import Dao
from jelly.errors import Refused
from jelly.groups import Group
from jelly.login_guard import Attempt


@dataclass(slots=True)
class Answer:
    """The response is ready. `frame` None: send nothing. `close`: then close the connection."""

    frame: bytes | None
    close: bool = False
    fails_message: bool = False
    """Whether it is the SERVER_ERROR to a message: then what was sent behind that message fails,
    too (see `Session.failed_upto`)."""


@dataclass(slots=True)
class NewMessage:
    """A message to store and deliver: to one user, or to the members a group has when it is
    written.

    With a `request_id` (an idempotency key) it is stored only if its sender has not sent it before;
    a repeat gets the answer of the first. `refusal` says why it cannot be stored now: that is the
    answer, unless it was stored before.
    """

    type: int
    sender: str
    receiver: str
    content: str
    time: int
    request_id: str | None
    group: Group | None = None
    refusal: Refused | None = None
    replaces: int | None = None
    """If it is an edit: the id that the client says, of the message, or of an edit of it."""
    is_unstorable: bool = False
    """Set by the store when the database has refused this message, and would do so again."""


@dataclass(slots=True)
class Write:
    """Anything else that changes the database.

    `write` runs inside the transaction; it may raise Refused as long as it has written nothing.
    `answer` runs after the commit, with what `write` returned. If the commit was in doubt for so
    long that the client was told SERVER_ERROR, `on_late_commit` runs instead. If that is None,
    `answer` runs for its effects, and nothing is sent.
    """

    type: int
    write: Callable[[Dao], Any]
    answer: Callable[[Any], Answer]
    on_late_commit: Callable[[Any], None] | None = None


class Place(IntEnum):
    """Where a task waits for a hasher: a smaller place is served before a larger one."""

    KNOWN = 0
    """A login from an address from which its account has logged in before, or the work of a user
    who is logged in.
    """
    LOGIN = 1
    """Any other login."""
    REGISTRATION = 2


@dataclass(slots=True)
class CpuTask:
    """Work that takes the CPU for long: hashing a password. `run` returns or raises what a service
    may.
    """

    run: "Callable[[], Outcome]"
    place: Place
    attempt: Attempt | None = None
    """What the guard must allow first; None for anything but a login."""


@dataclass(slots=True)
class Unfinished:
    """The answer may be long. `go_on` makes a part of it, in a later turn of the lane, so that
    others are served in between; it returns or raises what a service may.

    It is called once `size` bytes of memory are reserved for the answer.
    """

    go_on: "Callable[[], Outcome]"
    size: int = 0


Outcome = Answer | NewMessage | Write | CpuTask | Unfinished
