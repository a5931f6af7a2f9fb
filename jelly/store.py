"""The store: it writes what services decided, in one order, and then answers and delivers.

The store thread takes what has gathered (`fair_queue.py`), writes it in one transaction, and
answers after the commit, never before: SUCCESS to a message means that it is on the disk, with a
row for each receiver. While it waits for the disk the next batch gathers. So the more there is to
do, the less each message costs; alone, a message costs one sync. (This is group commit. One commit
for each message reached a fifth of the throughput.)

Only the store writes. So it alone decides the order of ids, membership changes and logins, and when
a session is caught up (`delivery.py`).
"""

import hashlib
import logging
import math
import threading
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Protocol

from jelly import blocks
from jelly.codec import Status, Type
from jelly.dao import Dao, DatabaseWentBack, LeaseLost, StoredMessage
from jelly.database import CommitInDoubt
from jelly.delivery import Delivery, send_or_close
from jelly.devices import Devices, Removable, gap_notice
from jelly.doubt import Doubt, Found
from jelly.edits import Edits
from jelly.engine import RowsRefused
from jelly.errors import ErrorCode, Refused, StoreError, log_failure
from jelly.fair_queue import Entry, FairQueue, Job
from jelly.groups import Group
from jelly.indexing import DeferredIndexing, RequestKey
from jelly.last_seen import LastSeen
from jelly.messages import SUCCESS, NoticeForm, error_response, refusal, stored_response
from jelly.outage import OutageLog
from jelly.outcomes import Answer, NewMessage, Write
from jelly.quotas import Envelope, Quotas
from jelly.read_pointers import ReadPointers
from jelly.receipts import Receipts
from jelly.requests import UNANSWERED
from jelly.retention import Retention
from jelly.scheduling import yield_cpu
from jelly.sessions import Device, Response, Session, Sessions
from jelly.threads import VitalThread
from jelly.trusted_clock import stored_at

log = logging.getLogger("jelly.store")

UNSTORABLE = StoreError("the database refuses this message")
"""The result of a message that is answered with SERVER_ERROR, while the rest of its batch is
stored."""
BEHIND_A_FAILURE = StoreError("a message before this one has failed")
"""The result of a message that its client sent before it heard that an earlier one had failed."""
REPORT_INTERVAL = 60.0
"""Seconds until the log tells again of messages that cannot be stored."""
DELIVERED_DELAY = 0.1
"""Seconds for which delivered messages may stay in the inbox. A crash then repeats them; none is
lost.
"""
RETRY_DELAY = 1.0
"""Seconds until a page is read again after the database failed."""
LOOK_INTERVAL = 0.1
"""Seconds from one look whether a commit in doubt has happened to the next one."""
DOUBT_SECONDS = 8.0
"""Seconds from a request until it is answered with SERVER_ERROR because its commit is in doubt."""

NOT_BLOCKING: AbstractContextManager[None] = nullcontext()


class NodeTurns(Protocol):
    """What a node of a cluster adds to the turns of the store (`cluster/node.py`). A single server
    has none of it.
    """

    @property
    def due_at(self) -> float:
        """When a turn is due although nothing has come, by the store's clock."""

    @property
    def has_news(self) -> bool:
        """Whether another node has hinted at something. (Without a lock.)"""

    def must_write(self, is_writing: bool) -> bool:
        """Whether the node must write now. `is_writing`: somebody else wants to, anyway.

        Raises StoreError.
        """

    def begin(self, jobs: Sequence[Job]) -> None:
        """In a transaction that has just begun: learn what other nodes have committed before."""

    def take_moved(self) -> tuple[Collection[Device], int]:
        """The devices that have logged in at other nodes since this was asked last; and an id: when
        it was asked last, all up to it had been pushed to those that were here then.
        """

    def finish(self, messages: Sequence[Envelope]) -> None:
        """At the end of the transaction: write what other nodes must know of it."""

    def committed(self) -> bool:
        """After the commit: push what others have stored before it, and send hints. Return whether
        the messages of the transaction are pushed, too.
        """

    def catch_up(self) -> None:
        """Push what others have stored, as far as hints say that it is on the disk."""

    def failed(self) -> None:
        """A transaction has failed, or is in doubt."""

    def leave(self) -> None:
        """The server stops: nothing is written any more."""


@dataclass(slots=True)
class Batch:
    """One turn of the store: what it writes in one transaction and then answers."""

    jobs: list[Job]
    delivered: dict[Device, int]
    """For each device, the id up to which all messages have arrived: their inbox rows go."""
    passed_over: Sequence[tuple[Session, int]] = ()
    """Edits that a session is not sent: their inbox rows go, too."""
    messages: list[Envelope] = field(default_factory=list)
    """What the transaction stores."""
    is_committed: bool = False
    """Whether there was a transaction, and it was committed."""
    devices: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """The users whose devices it has changed (`devices.py`)."""
    is_tidying: bool = False
    """Whether the transaction does what is due without a request."""


class Store:
    """The store thread and what waits for it."""

    def __init__(
        self,
        dao: Dao,
        delivery: Delivery,
        indexing: DeferredIndexing,
        retention: Retention,
        quotas: Quotas,
        on_commit_in_doubt: Callable[[], None] = lambda: None,
        clock: Callable[[], float] = time.monotonic,
        call_later: Callable[[float, Callable[[], None]], None] = lambda *_: None,
        on_database_went_back: Callable[[], None] = lambda: None,
        last_seen: LastSeen | None = None,
        read_pointers: ReadPointers | None = None,
        receipts: Receipts | None = None,
        devices: Devices | None = None,
    ) -> None:
        """`on_commit_in_doubt` is called when it is not known whether a transaction was committed,
        and again when it is known. `on_database_went_back` is called when the database is in an
        older state than before, so that all that is known of it is wrong.
        """
        self._dao = dao
        self._delivery = delivery
        self._indexing = indexing
        self._retention = retention
        self._quotas = quotas
        self._last_seen = last_seen or LastSeen()
        self._edits = Edits(delivery, quotas, indexing)
        self.read_pointers = ReadPointers(clock) if read_pointers is None else read_pointers
        """What clients have read, until it is written."""
        self.read_pointers.wake = self.wake
        self._receipts = receipts
        self._devices = devices or Devices(Sessions())
        self._on_commit_in_doubt = on_commit_in_doubt
        self._on_database_went_back = on_database_went_back
        self._call_later = call_later
        self.blocks = blocks.Blocks()
        """Who has blocked anybody. Replaced before `start`, and used in turns only."""
        self._clock = clock
        self.node: NodeTurns | None = None
        """If the server is a node of a cluster. Set before `start`."""
        self.outage = OutageLog(clock)
        """Is told of every failure of the database, also by those who only read from it."""
        self._turn = threading.Lock()  # held during a turn, by the thread that takes it
        self._lock = threading.Lock()  # guards the eight fields below
        self._condition = threading.Condition(self._lock)
        self._jobs = FairQueue()
        self._delivered: dict[Device, int] = {}
        self._passed_over: list[tuple[Session, int]] = []
        self._delivered_due: float | None = None
        self._with_room: list[Session] = []
        self._calls: list[Callable[[], None]] = []
        self._stopping = False
        self._sleeps_until = 0.0  # the store thread, unless it is notified
        # Only read and written during a turn, as is what `delivery`, `indexing` and `retention`
        # know. (But see `_take_doubtful_jobs`.)
        self._doubt: Doubt | None = None
        self._doubtful = Batch([], {})
        self._doubtful_jobs: list[Job] = []  # those that have no answer yet
        self._answer_doubtful_at = math.inf
        self._retry_at = 0.0
        self._failing = False
        self._unstorable_reported_at = -math.inf
        self.thread = VitalThread(self._run, "jelly-store")

    # --- called by any thread ---------------------------------------------------------------------

    def start(self) -> None:
        self.thread.start()

    def submit(self, jobs: Sequence[Job]) -> None:
        """Write and answer these jobs, in this order."""
        with self._lock:  # (entering a Condition is a call in Python, and takes four times as long)
            self._jobs.add(jobs)
            self._condition.notify()

    def write_now(self, job: Job, blocking: AbstractContextManager[None]) -> bool:
        """Take the turn for this job on the calling thread, if the store has nothing else to do.

        Returns whether it did. `blocking` is entered while the database works. (So a message that
        comes alone wakes one thread less. Counted by strace: 1 futex call instead of 13.)
        """
        # A look without the lock, to decide what is cheaper and no more: a job that comes right
        # after it is in this turn or in the next one.
        if self._jobs or self._doubt is not None or not self._turn.acquire(blocking=False):
            return False
        try:
            with self._lock:
                self._jobs.add((job,))
            self.step(blocking)
        except Exception as error:  # noqa: BLE001 - a bug; but the worker must not die of it
            log_failure(log, error)
        finally:
            self._turn.release()
        with self._lock:  # the store thread indexes, and reads pages, when that is due
            if self._next_due() < self._sleeps_until:
                self._condition.notify()
        return True

    def delivered(self, session: Session, upto: int) -> None:
        """Note that everything up to and including an id has reached the client of a session; its
        rows go a little later.
        """
        with self._lock:
            if session.epoch < 0:
                return  # its user is elsewhere: see `_limit_delivered`
            if upto > self._delivered.get(session.device, 0):
                self._delivered[session.device] = upto
            if self._delivered_due is None:
                self._delivered_due = self._clock() + DELIVERED_DELAY
                self._condition.notify()

    def wants_more(self, session: Session) -> None:
        """A session that is behind may have room again."""
        with self._lock:
            self._with_room.append(session)
            self._condition.notify()

    def call_soon(self, function: Callable[[], None]) -> None:
        """Have a function called on the store thread, between two transactions."""
        with self._lock:
            self._calls.append(function)
            self._condition.notify()

    def wake(self) -> None:
        """Have the store thread look for what is due."""
        with self._lock:
            self._condition.notify()

    def session_ended(self) -> None:
        """Write at once what has reached a user whose session has ended: the next one may begin at
        another node, which should not send it again.
        """
        self.read_pointers.hurry()
        with self._lock:
            if self._delivered:
                self._delivered_due = self._clock()
            self._condition.notify()

    def on_file_lost(self, reason: str) -> None:
        """Note that the file of the database is not in its place, and complete it wherever it is.

        The log beside it stays behind: it would be missing at the file's new place, and would
        destroy another file in the old one.
        """

        def complete() -> None:
            self._report(StoreError(reason))
            self._dao.connection.empty_wal()

        self.call_soon(complete)

    def hurry(self) -> None:
        """Write more in each transaction from now on: the server stops, and nobody new waits."""
        with self._lock:
            self._jobs.is_in_hurry = True

    def drop_waiting(self) -> None:
        """Do not write what waits, because there is no time: nobody gets an answer to it."""
        with self._lock:
            jobs = self._jobs.clear()
        for job in jobs:
            job.done()

    def stop(self) -> None:
        """Write what has gathered, then end. Nothing may be submitted any more."""
        self.read_pointers.hurry()
        with self._lock:
            self._stopping = True
            self._condition.notify()
        if self.thread.is_alive():
            self.thread.join()

    # --- the store thread -------------------------------------------------------------------------

    def _run(self) -> None:
        while not self._is_done():
            self._wait_for_work()
            try:
                self.take_turn()
            except Exception as error:  # noqa: BLE001 - a bug; but this thread must not die of it
                log_failure(log, error)
        if self.node is not None:
            self.node.leave()
        self._dao.connection.close()

    def _is_done(self) -> bool:
        with self._lock:
            has_rest = self._delivered or self._passed_over or self._last_seen.pending or len(self.read_pointers)
            has_work = self._jobs or self._doubtful_jobs or (has_rest and not self._failing)
            return self._stopping and not has_work

    def _wait_for_work(self) -> None:
        with self._condition:
            while not (
                self._jobs or self._with_room or self._calls or self._stopping or (self.node and self.node.has_news)
            ):
                self._sleeps_until = self._next_due()
                timeout = self._sleeps_until - self._clock()
                if timeout <= 0:
                    break
                self._condition.wait(timeout)

    def take_turn(self) -> None:
        """Take one turn, then give pages to the sessions that are behind.

        The store thread does so again and again. (A simulation, which has no threads, calls this
        itself.)
        """
        yield_cpu()
        with self._turn:
            node = self.node
            if node is not None and node.has_news and not self._jobs and self._doubt is None:
                node.catch_up()  # nothing else waits, so what a hint tells of comes first
            self.step()
            if node is not None and node.has_news and self._doubt is None:
                node.catch_up()
            if self._delivery.has_work:
                self._feed()
            if self._delivery.passed_over:
                self._note_passed_over()

    def step(self, blocking: AbstractContextManager[None] = NOT_BLOCKING) -> None:
        """Gather, write, answer. The caller has the turn; `blocking` is entered while it writes."""
        if self._doubt is not None:
            self._look(self._doubt, blocking)
        batch = self._gather()
        jobs = batch.jobs
        try:
            with blocking:
                try:
                    self._write(batch)
                except RowsRefused as error:
                    self._write_the_rest(batch, error)
        except CommitInDoubt as error:
            jobs = []  # answered later
            self._begin_doubt(batch, error)
        except LeaseLost as error:
            self._fail(batch, error)
            self._begin_anew(str(error))
        except Exception as error:  # noqa: BLE001 - after any error, each request gets an answer
            self._fail(batch, error)
        else:
            self._answer(batch)
        finally:
            for job in jobs:
                _end(job)
        if self._delivery.passed_over:
            self._note_passed_over()

    def _gather(self) -> Batch:
        """Take what waits, up to one transaction; call the functions that `call_soon` was given."""
        with self._lock:
            calls, self._calls = self._calls, []
            jobs = self._jobs.take()
            delivered: dict[Device, int] = {}
            # These inbox rows go a little later, many at once. But a write may be a login, which
            # must not get these messages again.
            passed_over: Sequence[tuple[Session, int]] = ()
            if (self._delivered or self._passed_over) and (
                self._stopping or self._clock() >= (self._delivered_due or 0.0) or any(job.is_write for job in jobs)
            ):
                delivered, self._delivered = self._delivered, {}
                passed_over, self._passed_over = self._passed_over, []
                self._delivered_due = None
            with_room, self._with_room = self._with_room, []
        # Without the lock: the functions may submit, and other threads need not wait for them.
        for session in with_room:
            self._delivery.wants_more(session)
        for call in calls:
            try:
                call()
            except Exception as error:  # noqa: BLE001 - a bug; but the jobs must be served
                log_failure(log, error)
        return Batch(jobs, delivered, passed_over)

    def _next_due(self) -> float:
        """When a turn is due although nothing has come. The caller has the lock.

        The caller may not have the turn, and a worker may be changing these times. That worker
        looks at them again when its turn is over, and wakes the store thread if that sleeps for too
        long.
        """
        doubt = self._doubt
        if doubt is not None:  # until then nothing is written
            return doubt.look_at
        due = [self._indexing.due_at, self._retention.due_at, self._quotas.due_at, self._last_seen.due_at]
        due += [self.read_pointers.due_at, self._devices.due_at]
        if self._delivered_due is not None:
            due.append(self._delivered_due)
        if self._delivery.has_work:
            due.append(self._retry_at)
        if self.node is not None:
            due.append(self.node.due_at)
        return min(due)

    def _is_due(self, moment: float | None) -> bool:
        return moment is not None and moment <= self._clock()

    # --- write ------------------------------------------------------------------------------------

    def _write(self, batch: Batch) -> None:
        """Write a batch in one transaction. Fills its `messages`, and the results of its jobs."""
        if not self._must_write(batch):
            return
        node = self.node
        with self._dao.connection.transaction():
            self._dao.move_mark(sum([len(job.entries) for job in batch.jobs]))
            if node is not None or self.blocks.is_stale:
                self._learn(node, batch)
            if batch.delivered or batch.passed_over:  # first, so that a login in this batch does not get them again
                self._remove_rows(batch)
            if batch.is_tidying or self._last_seen.pending:
                self._tidy(batch.is_tidying)
            known = self._stored_requests(batch)
            for job in batch.jobs:
                failed_upto = job.session.failed_upto
                if job.received_at[0] <= failed_upto and job.session.transport.is_closed:
                    # Nobody hears that they fail: what follows must not be stored before they are
                    # sent again.
                    failed_upto = math.inf
                for entry, received_at in zip(job.entries, job.received_at, strict=True):
                    if isinstance(entry, NewMessage):
                        job.results.append(self._accept(entry, known, batch, received_at <= failed_upto, job.session))
                    else:
                        job.results.append(self._apply(entry))
            if batch.messages:
                inbox = [(receiver, message.id) for message, receivers in batch.messages for receiver in receivers]
                self._dao.add_messages([message for message, _ in batch.messages], inbox)
            batch.devices = self._devices.take_changed() if self._devices.has_changes else {}
            if node is not None:
                node.finish(batch.messages)
        self._dao.mark = self._dao.new_mark
        batch.is_committed = True
        self._failing = False
        if self.outage.is_open:  # a look without its lock: else the next transaction sees it
            self.outage.worked()

    def _stored_requests(self, batch: Batch) -> dict[RequestKey, tuple[int, int]]:
        """What is stored already of the messages in a batch that have a requestId."""
        keys = [
            (entry.sender, entry.request_id)
            for job in batch.jobs
            for entry in job.entries
            if isinstance(entry, NewMessage) and entry.request_id is not None
        ]
        return self._indexing.stored_requests(self._dao, keys) if keys else {}

    def _tidy(self, housekeeping_is_due: bool) -> None:
        """In the transaction: write what nobody has asked for. (The ends of sessions always: it
        costs little, and on a node the others are told of them by this transaction.)
        """
        if self._last_seen.pending:
            self._last_seen.write(self._dao)
        if housekeeping_is_due:
            self._indexing.run_due(self._dao)
            self._retention.run_due(self._dao)
            self._quotas.run_due(self._dao)
            self.read_pointers.run_due(self._dao)
            self._remove(self._devices.run_due(self._dao))

    def _remove_rows(self, batch: Batch) -> None:
        """Take out of the inboxes what has arrived, and what their clients are not sent."""
        if batch.delivered:
            self._quotas.remove(self._dao, by_user(batch.delivered))
            self._remove(self._devices.reached(self._dao, batch.delivered))
            while self._quotas.arrived:
                self._devices.one_was_told(self._dao, *self._quotas.arrived.pop())
        if batch.passed_over:  # (with several devices, another one may get them)
            self._edits.remove_passed_over(
                self._dao, [each for each in batch.passed_over if each[0].user not in self._devices.several]
            )

    def _remove(self, removable: Removable) -> None:
        if removable.upto:
            self._indexing.remove_delivered(self._dao, removable.upto.items())
        if removable.alone:
            self._indexing.remove_delivered(self._dao, removable.alone, alone=True)

    def _learn(self, node: NodeTurns | None, batch: Batch) -> None:
        """Learn what was committed before this transaction, by other nodes and at all."""
        if node is not None:
            node.begin(batch.jobs)
            moved, known_upto = node.take_moved()
            if moved:
                self._limit_delivered(moved, known_upto, batch)
        if self.blocks.is_stale:
            self.blocks.load(self._dao)

    def _must_write(self, batch: Batch) -> bool:
        """Whether there is anything to write; see whether housekeeping is due. Raises StoreError
        while nothing may be written.
        """
        last_seen = self._last_seen
        batch.is_tidying = self._clock() >= min(
            self._indexing.due_at,
            self._retention.due_at,
            self._quotas.due_at,
            last_seen.due_at,
            self.read_pointers.due_at,
            self._devices.due_at,
        ) or (self._stopping and bool(last_seen.pending))
        is_writing = bool(batch.jobs or batch.delivered or batch.passed_over)
        if self._doubt is not None:
            if is_writing:
                raise StoreError("it is not known yet whether the last commit has happened")
            return False
        is_writing = is_writing or batch.is_tidying
        return is_writing if self.node is None else self.node.must_write(is_writing)

    def _write_the_rest(self, batch: Batch, error: RowsRefused) -> None:
        """Write a batch without the messages that the database refuses.

        Nothing of it is committed yet.
        """
        while True:
            self._set_aside(batch, error)
            try:
                self._write(batch)
            except RowsRefused as again:
                error = again
            else:
                return

    def _set_aside(self, batch: Batch, error: RowsRefused) -> None:
        """Mark the messages that the database refuses, and forget what came of the others.

        Raises the error if it is about none of them.
        """
        # What has the same content cannot be stored either, so no id is needed to find the message.
        refused = {(row.sender, row.receiver, row.content) for row in error.rows if isinstance(row, StoredMessage)}
        unstorable = [
            entry
            for job in batch.jobs
            for entry in job.entries
            if isinstance(entry, NewMessage) and (entry.sender, entry.receiver, entry.content) in refused
        ]
        if all(new.is_unstorable for new in unstorable):
            raise error
        for new in unstorable:
            new.is_unstorable = True
        if self._clock() >= self._unstorable_reported_at + REPORT_INTERVAL:
            self._unstorable_reported_at = self._clock()
            log.warning("a message of %s cannot be stored, and is answered with SERVER_ERROR: %s", new.sender, error)
        batch.messages.clear()
        for job in batch.jobs:
            job.results.clear()
        self._indexing.on_failure()
        self._retention.on_failure()
        self._quotas.on_failure()
        self._last_seen.on_failure()
        self.read_pointers.on_failure()
        self._devices.on_failure()

    def _accept(
        self,
        new: NewMessage,
        known: dict[RequestKey, tuple[int, int]],
        batch: Batch,
        is_behind_failure: bool,
        session: Session,
    ) -> Refused | StoreError | int:
        """Add a message to the batch, unless it is refused or was stored before. Return its id.

        `is_behind_failure`: its client did not know yet that an earlier message had failed.
        """
        digest = None
        if new.request_id is not None:
            digest = _digest(new)
            stored = known.get((new.sender, new.request_id))
            if stored is not None:
                id, stored_digest = stored
                return id if stored_digest == digest else Refused(ErrorCode.REQUEST_ID_REUSED)
        if new.refusal is not None:
            return new.refusal
        if is_behind_failure and new.request_id is not None:
            return BEHIND_A_FAILURE
        if new.is_unstorable:
            return UNSTORABLE
        if new.group is None:
            if new.receiver in self.blocks.blockers and blocks.is_blocked(self._dao, new.receiver, new.sender):
                return Refused(ErrorCode.NOT_ACCEPTED)
            receivers: Sequence[str] = (new.receiver,)
        else:
            of_group = self._receivers_in_group(new, new.group)
            if isinstance(of_group, Refused):
                return of_group
            receivers = of_group
        if new.replaces is not None:
            return self._accept_edit(new, receivers, digest, known, batch, session)
        message = StoredMessage(
            self._dao.allocate_id(),
            new.group is not None,
            new.sender,
            new.receiver,
            new.content,
            new.time,
            new.request_id,
            digest,
        )
        admitted = self._quotas.admit(self._dao, message, receivers, batch.messages)
        if isinstance(admitted, Refused):
            return admitted
        if new.request_id is not None and digest is not None:
            known[new.sender, new.request_id] = message.id, digest
        envelope = message, admitted
        may_have_others = new.sender in self._devices.several
        batch.messages.append(self._with_own_copy(envelope, session) if may_have_others else envelope)
        return message.id

    def _with_own_copy(self, envelope: Envelope, session: Session) -> Envelope:
        """Have a message sent to the other devices of its sender, too, if there are any."""
        message, receivers = envelope
        if not self._devices.has_others(self._dao, session) or (
            not message.is_group and message.receiver == message.sender
        ):
            return envelope  # (what users send to themselves comes to all devices, anyway)
        self._devices.check_soon(message.sender)
        return message._replace(device=session.device.name), [*receivers, message.sender]

    def _receivers_in_group(self, new: NewMessage, group: Group) -> Sequence[str] | Refused:
        """Who gets a message to a group: the members as of this transaction."""
        members: Sequence[str] = group.members
        if group.is_forgotten:
            _, members = self._dao.group(new.receiver) or ("", ())
        if self.node is not None and new.sender not in members:  # another node has removed the sender
            return Refused(ErrorCode.NOT_A_MEMBER if members else ErrorCode.NO_SUCH_GROUP)
        return [member for member in members if member != new.sender]

    def _accept_edit(
        self,
        new: NewMessage,
        receivers: Sequence[str],
        digest: int | None,
        known: dict[RequestKey, tuple[int, int]],
        batch: Batch,
        session: Session,
    ) -> Refused | int:
        """The end of `_accept` for an edit."""
        accepted = self._edits.accept(self._dao, new, receivers, digest, batch.messages)
        if isinstance(accepted, Refused):
            return accepted
        edit, _ = accepted
        if new.request_id is not None and digest is not None:
            known[new.sender, new.request_id] = edit.id, digest
        batch.messages.append(self._with_own_copy(accepted, session))
        return edit.id

    def _apply(self, entry: Answer | Write) -> Any:
        """Run a Write; return its result, or its refusal. An Answer has nothing to write."""
        try:
            return entry.write(self._dao) if isinstance(entry, Write) else None
        except Refused as error:
            return error

    # --- answer -----------------------------------------------------------------------------------

    def _answer(self, batch: Batch) -> None:
        """After the commit: push messages to their receivers, and answer; one send for each
        session.

        Writes come last and one by one: what one of them tells others must not overtake the answers
        before.
        """
        try:
            try:
                if self.node is None or not (batch.is_committed and self.node.committed()):
                    for message, receivers in batch.messages:
                        self._delivery.push(message, receivers)
            except Exception as error:  # noqa: BLE001 - a bug; but what is committed must be answered
                log_failure(log, error)
            self._delivery.flush({job.session: self._responses(job) for job in batch.jobs if not job.is_write})
            for job in batch.jobs:
                if job.is_write:
                    send_or_close(job.session, self._responses(job))
                if job.closes:
                    close_after_answers(job.session)
        except Exception:  # a bug; but a client that misses an answer would wait for it for ever
            for job in batch.jobs:
                job.session.transport.close()
            raise
        finally:  # after the answers: no one needs to wait for this
            self._after_answers(batch)

    def _after_answers(self, batch: Batch) -> None:
        if self._quotas.news:
            self._pass_on_news()
        if self._last_seen.written:
            self._last_seen.committed()
        if batch.devices:
            self._devices_changed(batch)
        if self.read_pointers.written or (batch.delivered and self._receipts and self._receipts.under_way):
            self._tell_receipts(batch)
        self._indexing.on_commit([message for message, _ in batch.messages])

    def _tell_receipts(self, batch: Batch) -> None:
        """Tell of what was delivered and read."""
        if batch.is_committed:
            if self._receipts is not None:
                self._receipts.delivered(by_user(batch.delivered))
            self.read_pointers.on_commit()

    def _devices_changed(self, batch: Batch) -> None:
        for user, kept in batch.devices.items():
            self._devices.changed(user, kept)

    def _pass_on_news(self) -> None:
        """Have those who are online told what was left out of their inboxes.

        They are told what the table says when `_feed` reads it. So this may also be called when it
        is not known whether the transaction has happened.
        """
        for user in self._quotas.take_news():
            self._delivery.must_tell(user)

    def _responses(self, job: Job) -> list[Response]:
        """The frames that answer a job."""
        responses = []
        for entry, result, received_at in zip(job.entries, job.results, job.received_at, strict=True):
            if isinstance(entry, NewMessage) and isinstance(result, int):  # its id
                has_ids = job.session.notice_form is NoticeForm.WITH_TIME
                frame = stored_response(entry.type, result, stored_at(result)) if has_ids else SUCCESS[entry.type]
                responses.append(Response(frame, received_at))
                continue
            answer = self._answer_to(job.session, entry, result)
            if answer.frame is not None:
                responses.append(Response(answer.frame, received_at))
            job.closes = job.closes or answer.close
            if answer.fails_message:
                job.session.failed_upto = job.session.received_at
        return responses

    def _answer_to(self, session: Session, entry: Entry, result: Any) -> Answer:
        if isinstance(entry, Answer):
            return entry
        if isinstance(result, Refused):
            return Answer(refusal(entry.type, result, session.is_modern), close=session.user is None)
        # Neither makes those behind it fail. What is unstorable never will be stored. And if a
        # message that fails for another one did, a client that never stops would never succeed.
        if result is UNSTORABLE or result is BEHIND_A_FAILURE:
            if result is BEHIND_A_FAILURE and session.transport.is_closed:
                session.closing = True  # as in `_answer_failed`
            return failure(session, entry.type)
        assert isinstance(entry, Write)  # a message is answered above
        try:
            return entry.answer(result)
        except Exception as error:  # noqa: BLE001 - a bug: this request fails, the thread lives
            log_failure(log, error)
            return failure(session, entry.type)

    def _fail(self, batch: Batch, error: Exception) -> None:
        """Answer the requests of a failed batch with SERVER_ERROR; note the delivered ids again."""
        self._forget(batch, error)
        if isinstance(error, DatabaseWentBack):
            self._doubt = Doubt(self._dao, 0, self._clock)
            self._doubtful = Batch([], {})
        self._answer_failed(batch.jobs)

    def _forget(self, batch: Batch, error: Exception) -> None:
        """A transaction failed: report it, and forget what only a commit would have made true."""
        self._report(error)
        self._indexing.on_failure()
        self._retention.on_failure()
        self._quotas.on_failure()
        self._last_seen.on_failure()
        self.read_pointers.on_failure()
        self._devices.on_failure()
        if self.node is not None:
            self.node.failed()
        self._pass_on_news()
        with self._lock:
            for device, upto in batch.delivered.items():
                self._delivered[device] = max(upto, self._delivered.get(device, 0))
            if batch.delivered and self._delivered_due is None:
                self._delivered_due = self._clock() + DELIVERED_DELAY
        if batch.passed_over:
            self._note_passed_over(batch.passed_over)

    def _answer_failed(self, jobs: Sequence[Job]) -> None:
        for job in jobs:
            answers = [
                entry
                if isinstance(entry, Answer)
                else failure(job.session, entry.type, isinstance(entry, NewMessage) and entry.request_id is not None)
                for entry in job.entries
            ]
            send_answers(job.session, answers, job.received_at)
            if job.session.transport.is_closed:
                # Nobody hears of the failure. So what follows must not be stored before these are
                # sent again.
                job.session.closing = True

    def _report(self, error: Exception) -> None:
        if isinstance(error, LeaseLost):
            self._failing = True  # the database works; `_begin_anew` logs what has happened
        elif isinstance(error, StoreError):
            self._failing = True
            self.outage.failed(error)
        else:
            log_failure(log, error)

    # --- a commit in doubt ------------------------------------------------------------------------

    def _begin_doubt(self, batch: Batch, error: CommitInDoubt) -> None:
        """Keep a batch whose commit failed, until it is known whether the commit has happened."""
        self._forget(batch, error)
        self._on_commit_in_doubt()
        self._doubt, self._doubtful = Doubt(self._dao, error.lost_syncs, self._clock), batch
        now = self._clock()
        asked_at = min([now, *(at for job in batch.jobs for at in job.received_at)])
        self._answer_doubtful_at = asked_at + DOUBT_SECONDS
        with self._lock:
            self._doubtful_jobs = batch.jobs
            for job in batch.jobs:  # what follows in the same lane is answered after it
                if rest := self._jobs.set_aside_rest(job):
                    job.done = partial(self.submit, [rest])
        if batch.jobs:  # by another thread: a look at a database that hangs may take too long
            self._call_later(self._answer_doubtful_at - now, partial(self._give_up, self._doubt))

    def _take_doubtful_jobs(self) -> list[Job]:
        """Take the jobs whose commit is in doubt: the thread that gets them answers them."""
        with self._lock:
            jobs, self._doubtful_jobs = self._doubtful_jobs, []
        return jobs

    def _give_up(self, doubt: Doubt) -> None:
        """Answer the requests whose commit is still in doubt. Any thread may call this."""
        if self._doubt is doubt:
            self._refuse(self._take_doubtful_jobs())

    def _refuse(self, jobs: Sequence[Job]) -> None:
        """Answer jobs with SERVER_ERROR, and end them."""
        try:
            self._answer_failed(jobs)
        finally:
            for job in jobs:
                _end(job)

    def _look(self, doubt: Doubt, blocking: AbstractContextManager[None]) -> None:
        """If it is time, see whether the commit in doubt has happened; then answer its requests."""
        if doubt.look_at > self._clock() and not self._stopping:
            return
        try:
            with blocking:
                found = doubt.look(self._dao)
        except Exception as error:  # noqa: BLE001 - after any error, each request gets an answer
            self._report(error)
            # (On a single server, the commit in doubt may have ended while the look waited for it:
            # then the mark is another one, and the next look tells.)
            if isinstance(error, LeaseLost) or (isinstance(error, DatabaseWentBack) and self.node is not None):
                self._doubt = None
                self._refuse(self._take_doubtful_jobs())
                self._begin_anew(str(error))
                return
            if doubt.is_lost or self._stopping or self._clock() >= self._answer_doubtful_at:
                self._give_up(doubt)
            doubt.look_at = self._clock() + (LOOK_INTERVAL if self._doubtful_jobs else RETRY_DELAY)
            return
        self._failing = False
        self._doubt = None
        batch, self._doubtful = self._doubtful, Batch([], {})
        self._on_commit_in_doubt()
        jobs = self._take_doubtful_jobs()
        batch.is_committed = found in (Found.COMMITTED, Found.UNSYNCED)
        if found is Found.COMMITTED and jobs:
            try:
                self._answer(batch)
            finally:
                for job in jobs:
                    _end(job)
            return
        self._refuse(jobs)
        if found in (Found.COMMITTED, Found.UNSYNCED):
            self._complete_late(batch)
        elif found is Found.WENT_BACK:
            self._begin_anew("the database has gone back to an older state")

    def _complete_late(self, batch: Batch) -> None:
        """Make known what a commit has changed whose requests were answered with SERVER_ERROR."""
        if self.node is None or not self.node.committed():
            for message, receivers in batch.messages:
                self._delivery.push(message, receivers)
        self._delivery.flush()
        self._devices_changed(batch)
        for job in batch.jobs:
            for entry, result in zip(job.entries, job.results, strict=True):
                if isinstance(entry, Write) and not isinstance(result, Refused):
                    try:
                        (entry.on_late_commit or entry.answer)(result)
                    except Exception as error:  # noqa: BLE001 - a bug; but the rest must become known
                        log_failure(log, error)
        self._indexing.on_commit([message for message, _ in batch.messages])

    def _begin_anew(self, reason: str) -> None:
        """What is known of the database is wrong, so all begin anew."""
        self.blocks.is_stale = True
        log.error("%s: all connections are closed", reason)
        with self._lock:
            jobs = self._jobs.clear()
        self._on_database_went_back()
        with self._lock:  # they need not be true: see `_limit_delivered`
            self._delivered.clear()
            self._passed_over.clear()
            self._delivered_due = None
        self.read_pointers.forget_all()
        self._refuse(jobs)  # what they ask was checked against a state that is gone

    def _note_passed_over(self, again: Sequence[tuple[Session, int]] = ()) -> None:
        """Take edits that sessions were not sent out of the inboxes, a little later: those that
        `delivery` has passed over, and those whose removal has failed.
        """
        passed_over, self._delivery.passed_over = self._delivery.passed_over, []
        with self._lock:
            self._passed_over += [*again, *passed_over]
            if self._delivered_due is None:
                self._delivered_due = self._clock() + DELIVERED_DELAY
                self._condition.notify()

    def _limit_delivered(self, devices: Collection[Device], known_upto: int, batch: Batch) -> None:
        """Believe acknowledgements of devices that are elsewhere now only up to an id.

        Beyond it the session that they had here need not have had everything: what other nodes have
        stored is pushed to the users that the database knows here. So the next session gets it
        again.
        """
        with self._lock:
            for delivered in (self._delivered, batch.delivered):
                for device in devices:
                    if device in delivered:
                        delivered[device] = min(delivered[device], known_upto)

    # --- pages for those who are behind -----------------------------------------------------------

    def _feed(self) -> None:
        if not self._is_due(self._retry_at):
            return
        if self._doubt is not None:  # what can be read need not be on the disk
            self._retry_at = self._clock() + LOOK_INTERVAL
            return
        try:
            self._delivery.feed(self._dao, self._tell_missed)
        except StoreError as error:
            self._report(error)
            self._retry_at = self._clock() + RETRY_DELAY

    def _tell_missed(self, dao: Dao, session: Session) -> None:
        """Tell a session what it does not find in its inbox."""
        if session.gap is not None:
            session.transport.send(notices=[gap_notice(session)])
        self._quotas.tell_missed(dao, session)


def by_user(delivered: Mapping[Device, int]) -> dict[str, int]:
    """For each user, what has reached any of the devices."""
    found: dict[str, int] = {}
    for device, upto in delivered.items():
        found[device.user] = max(upto, found.get(device.user, 0))
    return found


def send_answers(session: Session, answers: Sequence[Answer], received_at: Sequence[float]) -> None:
    """Send answers in order, each with the time at which its request came in.

    Then close the connection if one of them says so.
    """
    responses = []
    closes = False
    for answer, at in zip(answers, received_at, strict=False):
        if answer.frame is not None:
            responses.append(Response(answer.frame, at))
        closes = closes or answer.close
        if answer.fails_message:
            session.failed_upto = session.received_at  # before it is sent: the client cannot have heard of it
    send_or_close(session, responses)
    if closes:
        close_after_answers(session)


def close_after_answers(session: Session) -> None:
    """Serve no more requests of a session; close its connection when its answers are written."""
    session.closing = True
    session.transport.finish()


def _end(job: Job) -> None:
    try:
        job.done()
    except Exception as error:  # noqa: BLE001 - a bug with one lane; the others must be opened
        log_failure(log, error)


def failure(session: Session, type: int, fails_message: bool = False) -> Answer:
    """The SERVER_ERROR for a request; before a login the server closes after it."""
    if type in UNANSWERED:
        return Answer(None, close=type == Type.LOGOUT)
    frame = error_response(type, Status.SERVER_ERROR, ErrorCode.INTERNAL)
    return Answer(frame, session.user is None, fails_message)


def _digest(new: NewMessage) -> int:
    """Return a hash that differs for two different messages with the same requestId.

    It leaves the time out, which may differ when a message is sent again.
    """
    to = new.receiver if new.replaces is None else new.replaces
    what = f"{new.type} {to} {new.content}".encode()  # no name holds a space
    return int.from_bytes(hashlib.blake2b(what, digest_size=8).digest(), signed=True)
