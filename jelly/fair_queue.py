"""What waits for the store, and whose turn is next.

Usually one transaction takes all that waits, in the order in which it came. A message to a group of
1,000 is 1,000 rows, though, and one user may have hundreds of such messages under way. So when more
waits than one transaction should write, the users take turns, and a job is cut into parts: its
first messages are written now, the others in later transactions.

The turns are those of *weighted fair queueing*. Time is counted in rows. With ten users who wait it
goes by one for each ten rows that are written, as if each of them were served a little all the
time. A message that begins at a time and costs 1,000 rows would then end 1,000 later. The one that
would end first is next, and the user's next message begins where it ends. So a user with little
work waits for nobody's second message.

Each user's entries keep their order, also across two sessions of the user. A login belongs to
nobody yet, so it does not wait behind what its user has sent before. If it takes over, the messages
that still wait are dropped, like those in the lane of a session that was taken over.
"""

import heapq
import itertools
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from jelly.outcomes import Answer, NewMessage, Write
from jelly.sessions import Session

BATCH_ROWS = 1000
"""At most this many rows are in one transaction (but always one message): everybody waits for it.
One message to the largest group fits."""
BATCH_BYTES = 2 * 1024 * 1024
"""At most this many bytes of messages are in one transaction, for the same reason."""
WRITE_ROWS = 10
"""How many rows a login or a change of a group counts as. It reads and writes a few tables."""
HURRY = 8
"""How many times as much is in one transaction when the server stops: nobody new waits for it."""
SHARES = 4
"""A user who is next takes at most one of this many shares of a transaction at a time."""
MOST_PASSED_OVER = 16
"""At most this many users whose next message does not fit any more are passed over in one turn."""
KNOWN_USERS = 1000
"""How many users, besides those who wait, are known until those who need not be are forgotten."""

Entry = Answer | NewMessage | Write
"""A part of a job. (Answers are parts, too: so they keep their place in the order.)"""


@dataclass(slots=True)
class Job:
    """Requests of one session, in the order in which they are written and answered.

    A Write has a job of its own.
    """

    session: Session
    entries: list[Entry]
    received_at: list[float]
    size: int
    """Bytes of the requests."""
    done: Callable[[], None]
    """Called after the answers."""
    is_write: bool = False
    closes: bool = False
    """Whether the connection is closed after the answers."""
    results: list[Any] = field(default_factory=list)
    """For each entry its result in the transaction: a Refused, or what its `write` returned."""
    rest: "Job | None" = None
    """If this is the first part of a job: the other part, which waits."""


class _User:
    """One user's jobs that wait, oldest first."""

    __slots__ = ("begins_at", "jobs", "part")

    def __init__(self) -> None:
        self.begins_at = 0.0
        """The time at which the next message begins, or later."""
        self.jobs: deque[Job] = deque()
        self.part: Job | None = None
        """What this turn has taken of the first job so far."""


_Place = tuple[float, int, _User]
"""When the next message of a user would end; a number, for those who are equal; the user."""


class FairQueue:
    """The jobs that wait for the store. The caller guards it with a lock.

    (Whether it is empty may be looked at without.)
    """

    def __init__(self) -> None:
        self._arrived: list[Job] = []
        # The rest is used only while more waits than one transaction should write.
        self._next: list[_Place] = []  # a heap of those who have jobs
        self._users: dict[object, _User] = {}  # these, and those who have had more than others
        self._now = 0.0
        self._numbers = itertools.count()
        self.is_in_hurry = False
        """Whether it is more important to write all than to let nobody wait."""

    def add(self, jobs: Iterable[Job]) -> None:
        """Add jobs, in this order."""
        self._arrived += jobs

    def __len__(self) -> int:
        return len(self._arrived) + sum([len(user.jobs) for _, _, user in self._next])

    def __bool__(self) -> bool:
        return bool(self._arrived or self._next)

    def __iter__(self) -> Iterator[Job]:
        """Walk over all that wait."""
        for _, _, user in self._next:
            yield from user.jobs
        yield from self._arrived

    def set_aside_rest(self, part: Job) -> Job | None:
        """Take the rest of a job out, if a part of it was taken before; None if there is none."""
        rest, part.rest = part.rest, None
        if rest is not None:
            user = self._users[rest.session.user or rest.session]
            user.jobs.popleft()
            if not user.jobs:
                self._next = [place for place in self._next if place[2] is not user]
                heapq.heapify(self._next)
        return rest

    def clear(self) -> list[Job]:
        """Take everything."""
        jobs = list(self)
        self._arrived, self._next = [], []
        self._forget()
        return jobs

    def take(self) -> list[Job]:
        """Take the jobs, or the parts of jobs, for one transaction."""
        arrived, self._arrived = self._arrived, []
        for job in arrived:
            if job.session.closing:
                _drop_messages(job)
        if not self._next and _fits(arrived):
            return arrived
        for job in arrived:
            self._enter(job)
        jobs = self._take_in_turns()
        self._forget()
        return jobs

    def _enter(self, job: Job) -> None:
        key = job.session.user or job.session
        user = self._users.get(key)
        if user is None:
            user = self._users[key] = _User()
        user.jobs.append(job)
        if len(user.jobs) == 1:
            user.begins_at = max(user.begins_at, self._now)
            self._push(user)

    def _push(self, user: _User) -> None:
        ends_at = user.begins_at + _cost(*_weight(user.jobs[0].entries[0]))
        heapq.heappush(self._next, (ends_at, next(self._numbers), user))

    def _take_in_turns(self) -> list[Job]:
        taken: list[Job] = []
        passed_over: list[_Place] = []
        served: list[_User] = []
        rows, size = (BATCH_ROWS * HURRY, BATCH_BYTES * HURRY) if self.is_in_hurry else (BATCH_ROWS, BATCH_BYTES)
        while self._next and rows > 0 and size > 0 and len(passed_over) < MOST_PASSED_OVER:
            place = heapq.heappop(self._next)
            user = place[2]
            if user.jobs[0].session.closing:
                _drop_messages(user.jobs[0])
            count, its_rows, its_size = _share(user.jobs[0], rows, size, must_take=not taken)
            if not count:
                passed_over.append(place)
                continue
            rows -= its_rows
            size -= its_size
            cost = _cost(its_rows, its_size)
            user.begins_at += cost
            self._now += cost / (len(self._next) + len(passed_over) + 1)
            self._take_from(user, count, taken)
            served.append(user)
            if user.jobs:
                self._push(user)
        for place in passed_over:
            heapq.heappush(self._next, place)
        for user in served:
            user.part = None
        return taken

    def _take_from(self, user: _User, count: int, taken: list[Job]) -> None:
        """Take the first entries of a user's first job."""
        job = user.jobs[0]
        is_all = count == len(job.entries)
        if user.part is None and is_all:
            taken.append(job)
        else:
            if user.part is None:
                user.part = Job(job.session, [], [], 0, _not_done, job.is_write)
                taken.append(user.part)
            user.part.entries += job.entries[:count]
            user.part.received_at += job.received_at[:count]
            if is_all:
                user.part.done, user.part.rest = job.done, None
            else:
                user.part.rest = job
                del job.entries[:count], job.received_at[:count]
        if is_all:
            user.jobs.popleft()
            user.part = None

    def _forget(self) -> None:
        """Forget the users who may begin at once, and have no jobs."""
        if not self._next:
            self._users.clear()
            self._now = 0.0
        elif len(self._users) > KNOWN_USERS + len(self._next):
            self._users = {key: user for key, user in self._users.items() if user.jobs or user.begins_at > self._now}


def _drop_messages(job: Job) -> None:
    """Do not write the messages of a session that was taken over, or that is closing for another
    reason.

    Its client does not hear what becomes of them, and may send them again on its new connection.
    If some of them failed and later ones did not, they would be in the wrong order then. What is
    behind them is not answered either: the client would take it for the answer to a message.
    """
    job.entries = [entry if isinstance(entry, Write) else Answer(None) for entry in job.entries]


def _not_done() -> None:
    """The rest of the job waits."""


def _fits(jobs: list[Job]) -> bool:
    """Whether one transaction may write all of these."""
    rows = size = 0
    for job in jobs:
        size += job.size
        for entry in job.entries:  # (a call for each would cost a third of this)
            rows += 1 if entry.__class__ is NewMessage and entry.group is None else _rows(entry)
    return rows <= BATCH_ROWS and size <= BATCH_BYTES


def _share(job: Job, rows: int, size: int, must_take: bool) -> tuple[int, int, int]:
    """How many entries of a job its user may write now, and their rows and bytes.

    There is room for some rows and bytes. `must_take`: one entry at least, even if it is larger.
    """
    most_rows, most_size = min(rows, max(1, BATCH_ROWS // SHARES)), min(size, BATCH_BYTES // SHARES)
    count = its_rows = its_size = 0
    for entry in job.entries:
        more_rows, more_size = _weight(entry)
        if count == 0:
            if not must_take and (more_rows > rows or more_size > size):
                break
        elif its_rows + more_rows > most_rows or its_size + more_size > most_size:
            break
        count += 1
        its_rows += more_rows
        its_size += more_size
    return count, its_rows, its_size


def _rows(entry: Entry) -> int:
    if isinstance(entry, NewMessage):
        return 1 if entry.group is None else max(1, len(entry.group.members))
    return 1 if isinstance(entry, Answer) else WRITE_ROWS


def _weight(entry: Entry) -> tuple[int, int]:
    """The rows and the bytes of an entry."""
    return _rows(entry), len(entry.content.encode()) if isinstance(entry, NewMessage) else 0


def _cost(rows: int, size: int) -> float:
    """How long it takes to write this, in rows."""
    return max(rows, size * BATCH_ROWS / BATCH_BYTES)
