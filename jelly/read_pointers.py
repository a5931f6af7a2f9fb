"""What clients say about how far their users have read, until it is written.

A client says so again and again (READ), and gets no answer. So the last word about each
conversation is kept here, and written a moment later in a transaction of the store, many at once.
What is written, and when it may be, is in `conversations_dao.py`.

What is noted stays until a commit has happened: somebody who asks for the conversations meanwhile
gets what is noted, too, and nothing is lost by a transaction that fails.
"""

import math
import threading
import time
from collections.abc import Callable, Mapping
from itertools import islice
from typing import Any, NamedTuple

from jelly import conversations_dao
from jelly.conversations_dao import ConversationKey, Reading
from jelly.dao import Dao
from jelly.names import MAX_NAME
from jelly.sessions import Session

READ_DELAY = 0.2
"""Seconds until what was read is written. A crash then forgets it; nothing else is lost."""
READ_BATCH = 50
"""At most this many pointers are moved in one transaction."""
RETRY_DELAY = 1.0
"""Seconds until they are written again after a transaction failed."""
MAX_NOTED, MAX_NOTED_OF_USER = 100_000, 2000
"""At most this many conversations are noted, of all users and of one: while the database is away,
nothing is written. Beyond that nothing is noted; the next READ makes up for it."""


class OwnRead(NamedTuple):
    """A user with several devices has read a conversation on one of them, up to a message."""

    user: str
    is_group: bool
    partner: str
    id: int
    device: str


class ReadPointers:
    """What was read and is not written yet. Any thread may call `note` and `noted_of`; the rest is
    called in turns of the store, what takes a `Dao` inside its transaction.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self.wake: Callable[[], None] = lambda: None
        """Wakes the store thread. Set before the store starts, as the next five."""
        self.may_tell: Callable[[Session, bool, str], bool] = lambda *_: False
        """Whether others may know what the user of a session has read, and with whom."""
        self.prepare: Callable[[Dao, Mapping[ConversationKey, int]], list[Any]] = lambda *_: []
        """In the transaction: whom to tell of these pointers."""
        self.tell: Callable[[list[Any]], None] = lambda _: None
        """Tells them, after the commit."""
        self.prepare_own: Callable[[Dao, list[OwnRead]], None] = lambda *_: None
        """In the transaction: other devices of the readers, at other nodes, are told of these."""
        self.tell_own: Callable[[list[OwnRead]], None] = lambda _: None
        """Tells those devices that are online here, after the commit."""
        self._lock = threading.Lock()  # guards the three below
        self._noted: dict[str, dict[ConversationKey, Reading]] = {}  # by user
        self._count = 0
        self.due_at = math.inf
        """When to write the next ones, by the clock; infinity if there are none."""
        self.written: dict[ConversationKey, Reading] = {}
        """What the transaction writes that is open."""
        self._moved: dict[ConversationKey, int] = {}
        self._notices: list[Any] = []
        self._own: list[OwnRead] = []

    def __len__(self) -> int:
        return self._count

    def note(self, session: Session, is_group: bool, partner: str, id: int) -> None:
        """Note that the user of a session has read a conversation up to a message."""
        user = session.user
        if user is None or session.epoch < 0:  # the user is elsewhere
            return
        if len(partner) > MAX_NAME:  # nobody has this name, and what is kept here must be small
            return
        key = ConversationKey(user, is_group, partner)
        may_be_told = self.may_tell(session, is_group, partner)
        with self._lock:
            noted = self._noted.get(user, {})
            before = noted.get(key)
            if before is not None and before.id >= id:
                return
            if before is None:
                if len(noted) >= MAX_NOTED_OF_USER or self._count >= MAX_NOTED:
                    return
                self._count += 1
            noted[key] = Reading(id, session.sent_id, may_be_told, session.device.name if session.has_others else None)
            self._noted[user] = noted
            is_first = self.due_at == math.inf
            if is_first:
                self.due_at = self._clock() + READ_DELAY
        if is_first:
            self.wake()

    def noted_of(self, user: str) -> dict[ConversationKey, Reading]:
        """What a user has read that may not be written yet. Ask before you read the database."""
        with self._lock:
            return dict(self._noted.get(user, ()))

    def hurry(self) -> None:
        """Write what is noted with the next transaction."""
        with self._lock:
            if self._noted:
                self.due_at = self._clock()

    def run_due(self, dao: Dao) -> None:
        """Move the next pointers, if they are due."""
        if self._clock() < self.due_at:
            return
        with self._lock:
            every = (item for noted in self._noted.values() for item in noted.items())
            self.written = dict(islice(every, READ_BATCH))
        self._moved = conversations_dao.move_pointers(dao, self.written)
        told = {key: id for key, id in self._moved.items() if self.written[key].may_be_told}
        self._notices = self.prepare(dao, told) if told else []
        devices = {key: self.written[key].device for key in self._moved}
        self._own = [OwnRead(*key, self._moved[key], name) for key, name in devices.items() if name is not None]
        if self._own:
            self.prepare_own(dao, self._own)

    def on_commit(self) -> dict[ConversationKey, int]:
        """The transaction is committed. Returns the pointers that it has moved."""
        moved, self._moved = self._moved, {}
        notices, self._notices = self._notices, []
        own, self._own = self._own, []
        written, self.written = self.written, {}
        with self._lock:
            for key, reading in written.items():
                noted = self._noted.get(key.username, {})
                if noted.get(key) == reading:  # else there is news
                    del noted[key]
                    self._count -= 1
            for user in dict.fromkeys(key.username for key in written):
                noted = self._noted.pop(user, {})
                if noted:  # at the end, so that one with many does not keep others waiting
                    self._noted[user] = noted
            self.due_at = self._next_due(len(written))
        if notices:
            self.tell(notices)
        if own:
            self.tell_own(own)
        return moved

    def _next_due(self, written: int) -> float:
        if not self._noted:
            return math.inf
        return self._clock() + (0.0 if written == READ_BATCH else READ_DELAY)

    def on_failure(self) -> None:
        """A transaction has failed: what it has written is written again."""
        self.written, self._moved, self._notices, self._own = {}, {}, [], []
        with self._lock:
            if self._noted:
                self.due_at = self._clock() + RETRY_DELAY

    def forget_all(self) -> None:
        """What is known of the database is wrong."""
        with self._lock:
            self._noted.clear()
            self._count, self.due_at = 0, math.inf
