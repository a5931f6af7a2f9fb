"""The store thread: the one that writes, and the one that decides when a message counts as sent.

It takes everything that has gathered, writes it in one transaction, and answers after the commit, never
before: SUCCESS to a message means that it is on the disk, with a row for each receiver. While it waits for
the disk the next batch gathers, so the more there is to do, the less each message costs; alone, a message
costs one sync. (A commit for each message was measured at a fifth of the throughput.)

Since nothing else writes, everything that is written is decided here in one order: ids, memberships, who is
logged in, and the step of a session from behind to caught up (`delivery.py`).
"""

import hashlib
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from jelly.codec import Status, Type
from jelly.dao import Dao, StoredMessage
from jelly.delivery import Delivery, send_or_close
from jelly.errors import ErrorCode, Refused, StoreError, log_failure
from jelly.indexing import DeferredIndexing, RequestKey
from jelly.messages import error_response, refusal, response
from jelly.retention import Retention
from jelly.scheduling import let_others_run
from jelly.sessions import Session

log = logging.getLogger("jelly.store")

BATCH_ROWS = 4000
BATCH_BYTES = 2 * 1024 * 1024
"""A transaction holds about so much (bytes of requests): a long one lets everybody wait; MySQL limits a packet."""
DELIVERED_DELAY = 0.1
"""Seconds for which delivered messages may stay in the inbox. Losing such a note costs a repeat, not a message."""
RETRY_DELAY = 1.0
"""Seconds until a page is read again when the database failed."""


SUCCESS: dict[int, bytes] = {type: response(type) for type in Type}
"""The response to a request that went well and has nothing to say."""


@dataclass(slots=True)
class Answer:
    """A response that is ready. Without a frame: nothing is sent. `leave`: then the server closes."""

    frame: bytes | None
    leave: bool = False


@dataclass(slots=True)
class NewMessage:
    """A message to be stored and delivered; `receivers` is asked when it is written, and gives about `count` names.

    With a `request_id` it is stored only if this sender has not sent it before; else it is answered as it was then.
    `refusal` is why it cannot be stored now: that is the answer, unless it was stored before.
    """

    type: int
    sender: str
    receiver: str
    content: str
    time: int
    request_id: str | None
    receivers: Callable[[], Sequence[str]]
    count: int = 1
    refusal: Refused | None = None

    @property
    def key(self) -> RequestKey:
        return self.sender, self.request_id or ""

    def digest(self) -> int:
        """Tells it from another message with the same id. The time does not count: it is when it was sent again."""
        what = f"{self.type} {self.receiver} {self.content}".encode()  # no name holds a space
        return int.from_bytes(hashlib.blake2b(what, digest_size=8).digest(), signed=True)


@dataclass(slots=True)
class Change:
    """Anything else that writes.

    `write` runs in the transaction; it may raise Refused, if it has written nothing until then. `after` runs
    with what it returned, after the commit, and gives the answer.
    """

    type: int
    write: Callable[[Dao], Any]
    after: Callable[[Any], Answer]


Entry = Answer | NewMessage | Change


@dataclass(slots=True)
class Job:
    """Requests of one session that are to be stored and answered in this order; then `done` is called.

    A Change stands alone in its job. `size`: how many bytes the requests had.
    """

    session: Session
    entries: list[Entry]
    asked_at: list[float]
    size: int
    done: Callable[[], None]
    outcomes: list[Any] = field(default_factory=list)
    leaves: bool = False

    @property
    def is_change(self) -> bool:
        return isinstance(self.entries[0], Change)


class Store:
    """The store thread and what waits for it."""

    def __init__(
        self,
        dao: Dao,
        delivery: Delivery,
        indexing: DeferredIndexing,
        retention: Retention,
        on_doubt: Callable[[], None] = lambda: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`on_doubt` is called when a transaction failed: what it changed may have been committed or not."""
        self._dao = dao
        self._delivery = delivery
        self._indexing = indexing
        self._retention = retention
        self._on_doubt = on_doubt
        self._clock = clock
        self._lock = threading.Lock()  # guards the six fields below
        self._condition = threading.Condition(self._lock)
        self._jobs: deque[Job] = deque()
        self._delivered: dict[str, int] = {}
        self._delivered_due: float | None = None
        self._wanting: list[Session] = []
        self._calls: list[Callable[[], None]] = []
        self._stopping = False
        # The store thread's own.
        self._doubtful: tuple[int, int] | None = None
        self._retry_at = 0.0
        self._failing = False
        self._thread = threading.Thread(target=self._run, name="jelly-store", daemon=True)

    # --- called by any thread ---------------------------------------------------------------------------

    def start(self) -> None:
        self._thread.start()

    def submit(self, jobs: Sequence[Job]) -> None:
        """Have jobs written, in this order."""
        with self._lock:  # (entering a Condition is a call in Python, and takes four times as long)
            self._jobs.extend(jobs)
            self._condition.notify()

    def delivered(self, user: str, upto: int) -> None:
        """Note that everything up to and including an id has reached a user; its rows go a little later."""
        with self._lock:
            if upto > self._delivered.get(user, 0):
                self._delivered[user] = upto
            if self._delivered_due is None:
                self._delivered_due = self._clock() + DELIVERED_DELAY
                self._condition.notify()

    def wants_more(self, session: Session) -> None:
        """A session that is behind may have room again."""
        with self._lock:
            self._wanting.append(session)
            self._condition.notify()

    def soon(self, function: Callable[[], None]) -> None:
        """Have a function called on the store thread, between two transactions."""
        with self._lock:
            self._calls.append(function)
            self._condition.notify()

    def stop(self) -> None:
        """Write what has gathered, then end. Nothing may be submitted any more."""
        with self._lock:
            self._stopping = True
            self._condition.notify()
        if self._thread.is_alive():
            self._thread.join()

    # --- the store thread -------------------------------------------------------------------------------

    def _run(self) -> None:
        while not self._is_done():
            self._wait_for_work()
            self.step()
        self._dao.connection.close()

    def _is_done(self) -> bool:
        with self._condition:
            return self._stopping and not self._jobs and (self._failing or not self._delivered)

    def _wait_for_work(self) -> None:
        with self._condition:
            while not (self._jobs or self._wanting or self._calls or self._stopping):
                timeout = self._next_due() - self._clock()
                if timeout <= 0:
                    break
                self._condition.wait(timeout)

    def step(self) -> None:
        """Do what there is to do now: one transaction, what follows from it, and a page for each who wants one.

        The store thread calls it again and again. (A simulation, which has no threads, calls it itself.)
        """
        let_others_run()
        jobs, delivered, calls = self._gather()
        acts: list[Callable[[], None]] = [*calls, partial(self._turn, jobs, delivered)]
        for act in acts:
            try:
                act()
            except Exception as error:  # a bug; but this thread must not die of it, nor any lane stay shut
                log_failure(log, error)

    def _gather(self) -> tuple[list[Job], dict[str, int], list[Callable[[], None]]]:
        """Take as much of what waits as belongs into one transaction."""
        with self._condition:
            jobs = _take(self._jobs)
            delivered: dict[str, int] = {}
            # A login, perhaps, is not to be given what was delivered.
            has_change = any(job.is_change for job in jobs)
            if self._delivered and (self._stopping or self._is_due(self._delivered_due) or has_change):
                delivered, self._delivered = self._delivered, {}
                self._delivered_due = None
            for session in self._wanting:
                self._delivery.wants_more(session)
            self._wanting.clear()
            calls, self._calls = self._calls, []
            return jobs, delivered, calls

    def _next_due(self) -> float:
        due = [self._indexing.due_at, self._retention.due_at]
        if self._delivered_due is not None:
            due.append(self._delivered_due)
        if self._delivery.has_work:
            due.append(self._retry_at)
        return min(due)

    def _is_due(self, moment: float | None) -> bool:
        return moment is not None and moment <= self._clock()

    def _turn(self, jobs: list[Job], delivered: dict[str, int]) -> None:
        messages: list[tuple[StoredMessage, Sequence[str]]] = []
        try:
            try:
                self._write(jobs, delivered, messages)
            except Exception as error:
                self._on_failure(error, jobs, delivered, messages)
            else:
                self._on_success(jobs, messages)
        finally:
            for job in jobs:
                job.done()
        if self._delivery.has_work and self._is_due(self._retry_at):
            if self._doubtful:  # nobody is to be given a message that is going to be taken back
                self._retry_at = self._clock() + RETRY_DELAY
                return
            try:
                self._delivery.feed(self._dao)
            except StoreError as error:
                self._report(error)
                self._retry_at = self._clock() + RETRY_DELAY

    def _write(
        self, jobs: list[Job], delivered: dict[str, int], messages: list[tuple[StoredMessage, Sequence[str]]]
    ) -> None:
        """One transaction for everything. Fills `messages` and the jobs' outcomes."""
        entries = [entry for job in jobs for entry in job.entries]
        has_nothing = all(isinstance(entry, Answer) for entry in entries) and not (delivered or self._doubtful)
        if has_nothing and not self._is_due(min(self._indexing.due_at, self._retention.due_at)):
            return
        with self._dao.connection.transaction():
            if self._doubtful:
                self._dao.remove_messages_between(*self._doubtful)
            if delivered:  # first, so that a login in this batch is not given them again
                self._indexing.remove_delivered(self._dao, delivered.items())
            self._indexing.run_due(self._dao)
            self._retention.run_due(self._dao)
            keys = [entry.key for entry in entries if isinstance(entry, NewMessage) and entry.request_id is not None]
            known = self._indexing.stored_digests(self._dao, keys) if keys else {}
            for job in jobs:
                job.outcomes = [self._outcome(entry, known, messages) for entry in job.entries]
            if messages:
                inbox = [(receiver, message.id) for message, receivers in messages for receiver in receivers]
                self._dao.add_messages([message for message, _ in messages], inbox)
        self._indexing.on_commit([message for message, _ in messages])
        self._doubtful = None
        if self._failing:
            self._failing = False
            log.info("the database works again")

    def _outcome(
        self, entry: Entry, known: dict[RequestKey, int], messages: list[tuple[StoredMessage, Sequence[str]]]
    ) -> Any:
        """What comes of an entry, within the transaction. A message that is to be stored is added to `messages`."""
        try:
            if isinstance(entry, NewMessage):
                return self._accept(entry, known, messages)
            return entry.write(self._dao) if isinstance(entry, Change) else None
        except Refused as error:
            return error

    def _accept(
        self, new: NewMessage, known: dict[RequestKey, int], messages: list[tuple[StoredMessage, Sequence[str]]]
    ) -> None:
        """Store a message, unless it was stored before. Raises Refused."""
        digest = None
        if new.request_id is not None:
            digest = new.digest()
            if new.key in known:
                if known[new.key] != digest:
                    raise Refused(ErrorCode.REQUEST_ID_REUSED)
                return
        if new.refusal is not None:
            raise new.refusal
        if digest is not None:
            known[new.key] = digest
        is_group = new.type == Type.GROUP_MESSAGE
        message = StoredMessage(
            self._dao.allocate_id(), is_group, new.sender, new.receiver, new.content, new.time, new.request_id, digest
        )
        messages.append((message, new.receivers()))

    def _on_success(self, jobs: list[Job], messages: list[tuple[StoredMessage, Sequence[str]]]) -> None:
        """Hand over what is committed: messages to their receivers and answers, one send for each session.

        Changes come afterwards and one by one: what one of them has told others is not to overtake the answers before.
        """
        try:
            for message, receivers in messages:
                self._delivery.push(message, receivers)
        except Exception as error:  # a bug; but what is committed is to be answered
            log_failure(log, error)
        self._delivery.flush({job.session: self._responses(job) for job in jobs if not job.is_change})
        for job in jobs:
            if job.is_change:
                send_or_close(job.session, self._responses(job))
            if job.leaves:
                leave(job.session)

    def _responses(self, job: Job) -> list[tuple[bytes, float]]:
        """The frames that answer a job, each with the time at which its request came in."""
        frames = []
        outcomes = job.outcomes or [None] * len(job.entries)
        for entry, outcome, asked_at in zip(job.entries, outcomes, job.asked_at, strict=True):
            answer = self._answer(job.session, entry, outcome)
            if answer.frame is not None:
                frames.append((answer.frame, asked_at))
            job.leaves = job.leaves or answer.leave
        return frames

    def _answer(self, session: Session, entry: Entry, outcome: Any) -> Answer:
        if isinstance(entry, Answer):
            return entry
        if isinstance(outcome, Refused):
            return Answer(refusal(entry.type, outcome), leave=session.user is None)
        if isinstance(entry, NewMessage):
            return Answer(SUCCESS[entry.type])
        try:
            return entry.after(outcome)
        except Exception as error:
            log_failure(log, error)
            return failure(session, entry.type)

    def _on_failure(
        self,
        error: Exception,
        jobs: list[Job],
        delivered: dict[str, int],
        messages: list[tuple[StoredMessage, Sequence[str]]],
    ) -> None:
        """Nothing of the batch is promised to anybody: all are told, and what was delivered is noted again."""
        self._report(error)
        self._on_doubt()
        if messages:
            # When the line to the database breaks during a commit, nobody knows whether it happened. These
            # messages are answered with an error, so they are to be gone before anything else is written.
            first = self._doubtful[0] if self._doubtful else messages[0][0].id
            self._doubtful = (min(first, messages[0][0].id), messages[-1][0].id)
        self._dao.forget_ids()
        self._indexing.on_failure()
        self._retention.on_failure()
        for user, upto in delivered.items():
            self.delivered(user, upto)
        for job in jobs:
            answers = [
                entry if isinstance(entry, Answer) else failure(job.session, entry.type) for entry in job.entries
            ]
            send_answers(job.session, answers, job.asked_at)

    def _report(self, error: Exception) -> None:
        """One line when the database begins to fail, not one for every batch."""
        if not isinstance(error, StoreError):
            log_failure(log, error)
        elif not self._failing:
            self._failing = True
            log.error("the database failed: %s", error)


def send_answers(session: Session, answers: Sequence[Answer], asked_at: Sequence[float]) -> None:
    """Send answers in their order; close if one of them says so."""
    send_or_close(session, [(a.frame, at) for a, at in zip(answers, asked_at, strict=True) if a.frame])
    if any(answer.leave for answer in answers):
        leave(session)


def leave(session: Session) -> None:
    """Serve a session no more, and close its connection after what it was sent."""
    session.leaving = True
    session.outlet.finish()


def failure(session: Session, type: int) -> Answer:
    """The SERVER_ERROR for a request; before a login it is the connection's last word, too."""
    frame = error_response(type, Status.SERVER_ERROR, ErrorCode.INTERNAL)
    return Answer(frame, leave=session.user is None)


def _take(jobs: deque[Job]) -> list[Job]:
    """The jobs for one transaction: all of them, unless they are very many or very large."""
    taken: list[Job] = []
    rows = size = 0
    while jobs and rows < BATCH_ROWS and size < BATCH_BYTES:
        job = jobs.popleft()
        rows += sum([1 + entry.count if isinstance(entry, NewMessage) else 1 for entry in job.entries])
        size += job.size
        taken.append(job)
    return taken
