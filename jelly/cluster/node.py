"""A node: what a server adds to the turns of its store when others share its database.

The store (`store.py`) calls everything here in its turns, in this order:

- `begin`: the transaction has the sequence lock (`node_dao.py`). What the other nodes have told
  since the last time (*events*: logins, ends of sessions, changes of groups) is applied now. So all
  that the transaction decides is right as of the last commit of any node.
- `finish`: who must hear of this transaction? Its events, and for each node the last id of a
  message for one of its users, are written with the commit.
- `committed`: if other nodes have stored something for the users here before this commit, it is
  read and pushed together with the messages of this transaction, by one query; else the store
  pushes those. Then hints go out (`bus.py`).

**Visible is not durable.** The database lets this node read what another one has committed before
it is synced. To push that is to promise too much: a crash of the database would take it back. So a
node pushes only up to its *horizon*: the ids that are known to be synced, because a later commit of
its own was, or because a hint says so, which is sent after the commit.

Hints may be lost, doubled and swapped: they only tell that it is worth to look. Without them the
node looks every POLL_INTERVAL.
"""

import logging
import math
import os
import socket
import threading
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

from jelly.cluster.bus import Bus, Hint, NoBus
from jelly.cluster.events import Changes, Events
from jelly.cluster.hearing import Hearing
from jelly.cluster.lease import Lease
from jelly.cluster.node_dao import MAX_EVENTS, SERVING, Event, Head, Identity, NodeDao
from jelly.cluster.registry import Place, Registry
from jelly.dao import SchemaChanged
from jelly.database import CommitInDoubt
from jelly.delivery import Delivery
from jelly.errors import ErrorCode, Refused, StoreError
from jelly.fair_queue import Job
from jelly.indexing import DeferredIndexing
from jelly.login_guard import LoginGuard
from jelly.outcomes import Answer
from jelly.presence import Presence
from jelly.quotas import Envelope, Quotas
from jelly.retention import Retention
from jelly.sessions import Device, Session, Sessions
from jelly.trusted_clock import IDS_PER_MS

log = logging.getLogger("jelly.cluster")

POLL_INTERVAL = 0.025
"""Seconds from one look for news to the next, while no hints come."""
BUSY_POLL_INTERVAL = 0.01
"""The same for BUSY_SECONDS after there were news: more are likely."""
BUSY_SECONDS = 1.0
TRIM_INTERVAL = 10.0
"""Seconds until the events that all nodes have applied are dropped again."""
RETRY_DELAY = 0.2
"""Seconds until the node tries again after the database failed."""
LONG_JUMP = 600_000 * IDS_PER_MS
"""A hint that is further ahead than this, ten minutes of ids, is not believed without a look. (Nor
is one of more than MAX_EVENTS events.)"""
MAX_FAILURES = 1000
"""At most this many wrong passwords are told to the other nodes at a time."""
MAX_TAIL = 2000
"""At most this many rows of the inbox are pushed at once. If more was missed, pages bring it."""


class _Turn(NamedTuple):
    """What becomes known when a transaction is committed."""

    head: Head
    events: Sequence[Event]
    last_id: int
    entering: Sequence[tuple[Session, str, int]]
    leaving: Sequence[Session]
    last_for: Mapping[int, int]
    renews: bool


class Parts(NamedTuple):
    """The parts of the server that a node looks after."""

    sessions: Sessions
    delivery: Delivery
    presence: Presence
    indexing: DeferredIndexing
    retention: Retention
    quotas: Quotas
    guard: LoginGuard


class Node:
    """What a server does as a node. It belongs to the thread that has the store's turn."""

    def __init__(
        self,
        dao: NodeDao,
        parts: Parts,
        changes: Changes,
        wake: Callable[[], None],
        on_session_end: Callable[[], None],
        identity: tuple[str, str, float],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`wake` wakes the store thread. `on_session_end` does so, too, and what has reached the
        user is written with the turn. `identity`: address, version, and seconds of the lease.
        """
        self._dao = dao
        self._sessions, self._delivery, presence, self._indexing, self._retention, self._quotas, guard = parts
        self._changes = changes
        self._wake = wake
        self._on_session_end = on_session_end
        self._address, self._version, seconds = identity
        self._clock = clock
        self.bus: Bus = NoBus()
        """Set before the store starts."""
        self.count_connections: Callable[[], int] = lambda: 0
        """How many connections clients have here. Set before the store starts."""
        self.registry = Registry()
        self.lease = Lease(dao, seconds, clock)
        self._events = Events(dao, self.registry, self._sessions, presence, guard, changes)
        self._is_registered = False
        self._lock = threading.Lock()  # guards the six below
        # Sessions whose connection has ended: user and epoch. First they are among the unserved,
        # until all that was read from the connection is written; then the others are told.
        self._unserved: set[tuple[str, int]] = set()
        self._ended: dict[tuple[str, int], None] = {}
        self._hinted_id = self._hinted_event = 0
        self.has_news = False
        self._failures: list[tuple[str, str, bool]] = []  # wrong passwords, for the guards of the others
        self._is_draining = False
        self._others_wrote = False
        self._entering: list[tuple[Session, str, int]] = []  # logins of the transaction that is open
        self._leaving: list[Session] = []  # logouts of that transaction
        self._turn = _Turn(dao.head, (), 0, (), (), {}, renews=False)  # the last transaction
        self._renews = False
        self._ending: list[tuple[str, int]] = []
        self._hearing = Hearing()
        self._pushed_upto = 0  # the horizon when the transaction before began
        self._poll_at = self._trim_at = self._busy_until = clock()
        self._sessions.is_elsewhere, self._sessions.is_device_elsewhere = self.is_elsewhere, self.is_device_elsewhere
        self._sessions.on_end = self.session_ended
        guard.on_failure = self._password_was_wrong
        self._indexing.has_others = True

    # --- called by any thread ---------------------------------------------------------------------

    def is_elsewhere(self, user: str) -> bool:
        """Whether a user is online at another node."""
        return any(place.node != self._dao.number for place in self.registry.of(user, ()))

    def is_device_elsewhere(self, device: Device) -> bool:
        """Whether a device is online at another node."""
        place = self.registry.on(device)
        return place is not None and place.node != self._dao.number

    def elsewhere(self, users: Iterable[str]) -> Mapping[int, Sequence[str]]:
        """Return those of some users who are online at other nodes, by the number of the node."""
        found: dict[int, list[str]] = {}
        for user in users:
            for node in {place.node for place in self.registry.of(user, ())} - {self._dao.number}:
                found.setdefault(node, []).append(user)
        return found

    def send_note(self, node: int, data: bytes) -> None:
        """Send something through the bus that nobody stores, or lose it."""
        self.bus.send_note(node, data)

    def session_ended(self, session: Session) -> None:
        """A session was taken out: tell the others when all is served that was read from it. From
        then on this node writes nothing for it.
        """
        if session.epoch > 0 and session.user is not None and not self._is_draining:
            user, epoch = session.user, session.epoch
            with self._lock:
                self._unserved.add((user, epoch))
            session.when_served(partial(self._session_was_served, user, epoch))
            self._on_session_end()

    def _session_was_served(self, user: str, epoch: int) -> None:
        with self._lock:
            if (user, epoch) not in self._unserved:
                return  # this node has started over since
            self._unserved.remove((user, epoch))
            self._ended[user, epoch] = None
            self.has_news = True
        self._on_session_end()

    def _password_was_wrong(self, *failure: Any) -> None:
        """Tell the guards of the others, with the next renewal of the lease."""
        with self._lock:
            if len(self._failures) < MAX_FAILURES:
                self._failures.append(failure)

    def drain(self) -> None:
        """The server is about to stop. The sessions that end now stay in the table for a moment:
        their users come back at other nodes, and nobody need hear that they were offline.
        """
        self._is_draining = True

    @property
    def is_serving(self) -> bool:
        """Whether this node may serve: the others cannot have declared it dead yet."""
        return self._is_registered and self.lease.is_held

    @property
    def admits_clients(self) -> bool:
        """Whether a client that connects is better off here than at another node. While the
        database is away for all of them, it is: hints would tell if others reached it.
        """
        return self.is_serving or (self._is_registered and not self.lease.is_isolated and self._hears)

    def on_hint(self, hint: Hint) -> None:
        """Another node has committed something for this one."""
        with self._lock:
            self.lease.note_hint()
            self._hinted_id = max(self._hinted_id, hint.upto)
            self._hinted_event = max(self._hinted_event, hint.event)
            self.has_news = True
        self._wake()

    def on_bus(self, is_up: bool) -> None:  # noqa: ARG002 - either way
        """Hints come again, or no longer: look for what was missed, and tell the others."""
        self._poll_at = self._clock()
        self.lease.renew_soon()
        self._wake()

    # --- registering ------------------------------------------------------------------------------

    def register(self, seconds: float = 0.0) -> None:
        """Take a number, and learn who is online. Wait at most some seconds while others do the
        same. Raises StoreError.
        """
        dao = self._dao
        try:
            with dao.connection.claimed(seconds), dao.connection.transaction():
                lease = int(self.lease.seconds * 1000)
                bus, process = (self.bus.name, self.bus.sender), (socket.gethostname(), os.getpid())
                dao.register(Identity(self._address, self._version, lease, *bus, *process))
                places = dao.all_sessions()
                nodes = dao.nodes()
        except CommitInDoubt as error:  # if it was committed, that row runs out like one of a dead node
            raise StoreError(str(error)) from error
        dao.enter()
        self._delivery.horizon = dao.horizon
        self._delivery.may_have_sent(dao.horizon)
        before = list(self.registry)
        self.registry.load(places)
        for user in self.registry:
            if self.is_elsewhere(user):
                self._changes.receipts_wanted(user, is_wanted=True)  # perhaps: their own nodes know it
        self._is_registered = True
        self.lease.renewed()
        live = [node for node in nodes if node.state == SERVING and not node.is_dead(dao.head.now)]
        others = [f"{node.id} at {node.address}" for node in live if node.id != dao.number]
        log.info("this is node %d; with it: %s", dao.number, ", ".join(others) or "no other node")
        self.bus.start(dao.number)
        self.bus.publish({}, dao.event)
        self._events.refresh(dict.fromkeys([*before, *self.registry]))

    def start_over(self) -> None:
        """The others have declared this node dead, or the database has gone back: register again,
        with the next turn.
        """
        self._is_registered = False
        self._pushed_upto = 0
        for session in self._sessions:
            session.epoch = -1
        with self._lock:
            self._unserved.clear()
            self._ended.clear()
            self._hinted_id = self._hinted_event = 0
            self.has_news = True
        self.lease.renew_soon()

    def leave(self) -> None:
        """Tell the others that this node stops."""
        if not self._is_registered:
            return
        try:
            with self._dao.connection.transaction():
                self._dao.move_mark(0)
                self._dao.leave()
        except StoreError as error:
            log.warning("the other nodes will notice later that this one has stopped: %s", error)

    def stop(self) -> None:
        """End the threads. Nothing is written any more."""
        self.bus.stop()

    # --- a turn -----------------------------------------------------------------------------------

    @property
    def due_at(self) -> float:
        return self.lease.due_at if self._needs_no_poll else min(self.lease.due_at, self._poll_at)

    @property
    def _hears(self) -> bool:
        """Whether hints come and go."""
        return self.bus.is_up

    @property
    def _needs_no_poll(self) -> bool:
        """Whether all other nodes tell this one when there is something for it."""
        return self._hears and self._hearing.are_all_heard

    def must_write(self, is_writing: bool) -> bool:
        if not self._is_registered:
            try:
                self.register()
            except SchemaChanged as error:
                self._changes.cannot_go_on(str(error))
                raise
        now, is_lease_due = self._clock(), self.lease.is_due
        if is_lease_due:
            self._dao.look_next_time()
        must = is_writing or is_lease_due or bool(self._ended)
        if must or now < self._poll_at:
            return must
        # Hints do not come, or may have been lost: look. What is found need not be synced, but a
        # commit of our own syncs all before it.
        event, last_for = self._dao.look_for_news()
        has_news = event > self._dao.event or last_for > self._dao.horizon
        if has_news:
            self._busy_until = now + BUSY_SECONDS
        interval = BUSY_POLL_INTERVAL if now < self._busy_until else POLL_INTERVAL
        self._poll_at = math.inf if self._needs_no_poll else now + interval
        return has_news

    def begin(self, jobs: Sequence[Job]) -> None:
        dao, head = self._dao, self._dao.head
        self._entering.clear()
        self._leaving.clear()
        if head.event > dao.event:
            self._events.apply(head.event)
        for user in self._events.take_left():  # the node at which they were may have sent them all
            self._delivery.may_have_sent(head.next_id - 1, user)
        self._indexing.note_indexed(head.indexed)
        self._others_wrote = self._others_wrote or head.next_id > dao.horizon + 1
        for job in jobs:
            session = job.session
            if session.user is not None and self.registry.on(session.device) != _place_of(session, dao.number):
                self._drop_unless_still_here(job, session.user)
        with self._lock:
            self._ending = list(self._ended)
            self._ended.clear()
        for user, epoch in self._ending:
            if any((place.node, place.epoch) == (dao.number, epoch) for place in self.registry.of(user, ())):
                dao.end_session(user, epoch)
        self._renews = self.lease.is_due
        if self._renews:
            self._tick()

    def _drop_unless_still_here(self, job: Job, user: str) -> None:
        """Do not write what was asked on a session that is not its user's current one.

        The client sends it again on that one, whose node may not hear of this transaction in time.
        But it does if it is this node. Then what was read before the connection ended is written,
        as on a single server.
        """
        place, session = self.registry.on(job.session.device), job.session
        if place is None or place.node != self._dao.number or (user, session.epoch) not in self._unserved:
            job.entries = [Answer(None) for _ in job.entries]
            session.epoch = -1  # also if the user comes back to this node: else the rest would be out of order

    def _tick(self) -> None:
        """Renew the lease, and remove the nodes whose lease has run out."""
        dao, now = self._dao, self._clock()
        self.lease.renew(self._hears, self._hearing.unheard, self.count_connections())
        with self._lock:
            failures, self._failures = self._failures, []
        if failures:
            dao.announce("failures", failures)
        nodes = dao.nodes()
        self._hearing.look([node for node in nodes if node.id != dao.number and node.state == SERVING], self.bus)
        if not self._needs_no_poll:
            self._poll_at = min(self._poll_at, now)
        self._retention.is_active = dao.number == min(node.id for node in nodes)
        self.lease.remove_dead(nodes)
        if now >= self._trim_at:
            self._trim_at = now + TRIM_INTERVAL
            dao.trim_events()
            if self._others_wrote:
                self._others_wrote = False
                self._quotas.on_others_wrote()
        # Logins that were answered too late. (Who leaves with a node that stops may come back.)
        for user, place in self.registry.at(dao.number) if not self._is_draining else ():
            if self._sessions.on(Device(user, place.device)) is None:
                with self._lock:
                    if (user, place.epoch) not in self._unserved:
                        self._ended[user, place.epoch] = None

    def take_moved(self) -> tuple[Collection[Device], int]:
        pushed_upto, self._pushed_upto = self._pushed_upto, self._dao.horizon
        return self._events.take_moved(), pushed_upto

    def enter(self, session: Session, device: Device, classic_token: str, wants_receipts: bool) -> str:
        """In the transaction of a login: the user is online here from now on.

        Returns the hash of the token of a classic client that is taken over; else an empty text.
        Raises Refused if the client has gone and its user is at another node: this node may have
        frozen before it read the login, and that session is the newer one.
        """
        dao = self._dao
        transport = session.transport
        user, has_gone = device.user, session.closing or transport.has_left() or transport.is_half_closed()
        if has_gone and self.is_device_elsewhere(device):
            raise Refused(ErrorCode.NOT_LOGGED_IN)
        taken_over = dao.classic_token(device)
        self._entering.append((session, user, dao.enter_session(device, classic_token, wants_receipts)))
        # What the user has sent through another node a moment ago: a repeat must be known here.
        for id, request_id, digest in dao.unindexed_requests_of(user, dao.head.indexed):
            self._indexing.note_request((user, request_id), id, digest)
        return taken_over

    def end(self, session: Session) -> None:
        """In the transaction of a logout: the user is offline from here on."""
        if session.epoch > 0 and session.user is not None:
            self._dao.end_session(session.user, session.epoch)
            self._leaving.append(session)

    def login_failed(self, device: Device) -> None:
        """A login was committed that nobody is logged in by. The table says that the user is online
        here, which is right if there is the session that it should have taken over: that one stays.
        """
        session, place = self._sessions.on(device), self.registry.on(device)
        if place is not None and place.node == self._dao.number:
            if session is not None:
                session.epoch = place.epoch
            else:
                with self._lock:
                    self._ended[device.user, place.epoch] = None
                    self.has_news = True

    def finish(self, messages: Sequence[Envelope]) -> None:
        dao = self._dao
        last_for: dict[int, int] = {}
        for message, receivers in messages:
            for receiver in receivers:
                for place in self.registry.of(receiver, ()):
                    if place.node != dao.number:
                        last_for[place.node] = message.id
        dao.finish(last_for)
        last_id, entering, leaving = dao.new_mark - 1, tuple(self._entering), tuple(self._leaving)
        self._turn = _Turn(dao.head, dao.own_events(), last_id, entering, leaving, last_for, renews=self._renews)

    def committed(self) -> bool:
        dao, turn = self._dao, self._turn  # after a commit in doubt, `dao` has gone on
        self._ending.clear()
        for session, _, epoch in turn.entering:
            session.epoch = epoch
        for session in turn.leaving:
            session.epoch = 0
        self._events.apply_own(turn.events)
        dao.event = max(dao.event, turn.head.event + len(turn.events))
        dao.committed(turn.head, turn.last_id + 1)
        # One look at the database decides who gets the messages of others and those of this node. A
        # user who logs out, or logs in elsewhere, at this moment must not get only some of them.
        has_tail = turn.head.last_for > dao.horizon
        if has_tail:
            self._push_tail(turn.last_id)
        dao.horizon = self._delivery.horizon = max(dao.horizon, turn.last_id)
        if turn.renews:
            self.lease.renewed()
            self.bus.greet()
        if turn.last_for or turn.events:
            self.bus.publish(turn.last_for, dao.event if turn.events else 0)
        return has_tail

    def failed(self) -> None:
        with self._lock:
            self._ended.update(dict.fromkeys(self._ending))
        self._ending.clear()
        retry_at = self._clock() + RETRY_DELAY
        self._poll_at = max(self._poll_at, retry_at)
        self.lease.retry(retry_at)
        if self._is_registered and self.lease.becomes_isolated():
            self._changes.node_is_isolated()

    def catch_up(self) -> None:
        with self._lock:
            id, event = self._hinted_id, self._hinted_event
            self.has_news = bool(self._ended)
        dao = self._dao
        if not self._is_registered:
            return
        try:
            if id > dao.horizon + LONG_JUMP or event > dao.event + MAX_EVENTS:
                id, event = self._look_for(id, event)
            if event > dao.event:
                self._events.apply(event)
            if id > dao.horizon:
                self._push_tail(id)
                dao.horizon = self._delivery.horizon = id
                self._delivery.flush()
        except StoreError as error:
            log.debug("cannot read what a hint tells of: %s", error)

    def _look_for(self, id: int, event: int) -> tuple[int, int]:
        """Return how much there is of what hints tell of; forget the rest. Raises StoreError."""
        last_id, last_event = self._dao.last_id(), self._dao.look_for_news()[0]
        with self._lock:
            self._hinted_id, self._hinted_event = min(id, last_id), min(event, last_event)
            return self._hinted_id, self._hinted_event

    # --- what others have stored ------------------------------------------------------------------

    def _push_tail(self, upto: int) -> None:
        """Push what is stored for the users here, up to an id that is on the disk."""
        dao = self._dao
        try:
            messages = dao.tail(dao.horizon, upto, MAX_TAIL)
        except StoreError as error:
            log.debug("cannot read what others have stored: %s", error)
            messages = None
        if messages is None:
            self._delivery.all_fall_behind()
            return
        for message, receivers in messages:
            self._delivery.push(message, receivers)


def _place_of(session: Session, node: int) -> Place:
    """Where the registry must have a session of this node."""
    return Place(node, session.epoch, session.device.name)
