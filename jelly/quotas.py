"""Quotas: how much may wait for one user, and how much of one user's may wait for others.

What waits for somebody who is offline stays on the disk for as long as it takes. So it has a limit:
a number of messages, and of bytes. The limit must not become a weapon. Otherwise anybody could fill
an inbox, and its owner would get nothing from friends. So:

- one sender may hold a tenth of an inbox;
- strangers, together, may hold half of it. A stranger is a sender who is neither on the receiver's
  friend list nor in a group with the receiver;
- all who are not on the receiver's friend list, together, may hold three quarters of it: strangers
  and those in a common group, whether they write to the receiver or to the group. Anybody can add
  the receiver to a group of strangers, but only the receiver changes the friend list. So there is
  room for friends.

A message to a person that would be beyond is refused (`inbox_full`). A message to a group is never
refused because of a member. The member gets no row of it, is told (SYSTEM notice `inbox_full`), and
can read it with HISTORY. And the messages of one sender that wait for anybody are counted, each
once however many receivers it has; beyond the limit the sender is refused (`limit_reached`).

**Counting without a query for each message.** The rows of the table `inbox` are the truth. What is
here is a copy in memory, which can be dropped and loaded again at any time:

- *Little waits*, less than a tenth of the quota: then nothing can be beyond a limit, and only the
  totals of the inbox are kept. They are loaded at the first message to a receiver. Each message
  adds to them. A delivery subtracts nothing, unless it empties the inbox. So they are never too
  small. When they reach a tenth, they are loaded anew.
- *Much waits*: the totals of each sender are loaded, too. They are exact: before rows are deleted,
  a query asks whose they are. (One for a delivery, and only for such an inbox.)
- *Who is a friend, and who is a stranger,* matters in an inbox that is half full. It is looked up
  for all its senders at once, and again after RELATIONS_SECONDS.
- *What a sender has waiting* has no index in the database, which would cost each message. A census
  walks over `inbox` in slices: after the start, and when a sender comes near the limit. Since then
  each message of the sender counts, whether it was delivered or not, until the next census.

After a transaction that failed, all that is known of inboxes is dropped: only the database knows
what is there. A restart begins with nothing. The memory is bounded, and what was used longest ago
goes first. With several servers on one database, a server has to drop the inboxes for which another
one has stored something; nothing else changes.

**What was left out** is in the table `missed`, a row for each group of a user, until the user's
client has the notice. Nobody acknowledges the notice itself. But the client gets frames in their
order. So it has the notice when it acknowledges a message that was sent after it, on the same
session. Then the row goes; or if more was left out since the notice, it tells of that, and the user
is told again. A notice is always made from the table, between two transactions: so a transaction
that failed, or is in doubt, only causes another look.

Everything here runs in turns of the store; what takes a `Dao` runs inside its transaction.
"""

import logging
import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum

from jelly.dao import Dao, StoredMessage
from jelly.errors import ErrorCode, Refused
from jelly.messages import Event, system
from jelly.minute_log import MinuteLog
from jelly.sessions import Notice, Session, Told

log = logging.getLogger("jelly.quotas")

SENDERS_SHARE = 10
"""One sender may hold this part of an inbox: a tenth."""
STRANGERS_SHARE = 2
"""All strangers together may hold this part of an inbox: half of it."""
FRIENDS_SHARE = 4
"""This part of an inbox is kept for senders on the receiver's friend list: a quarter."""
RELATIONS_SECONDS = 10.0
"""Seconds for which it is remembered who is a friend of whom, and who is a stranger."""
MAX_INBOXES = 100_000
"""At most this many inboxes are kept in memory, with their totals."""
MAX_PAIRS = 200_000
"""At most this many totals of a sender in an inbox are kept, if they are of more than one inbox."""
MAX_SENDERS = 100_000
"""At most this many senders are counted."""
CENSUS_SLICE = 1000
"""How many rows of the inbox a slice of the census looks at."""
CENSUS_PAUSE = 0.02
"""Seconds between two slices of the census."""
CENSUS_INTERVAL = 60.0
"""Seconds from a census to the next one, at least."""
CENSUS_AT = 0.9
"""At this part of the limit a sender causes a census."""
RETRY_DELAY = 1.0
"""Seconds until a census begins anew after a transaction failed."""


Envelope = tuple[StoredMessage, Sequence[str]]
"""A message to store, and those who get a row of it."""


@dataclass(frozen=True, slots=True)
class QuotaLimits:
    """What the operator allows; 0 stands for any number."""

    inbox_messages: int = 0
    """At most this many messages wait for one user."""
    inbox_bytes: int = 0
    """At most this many bytes of text wait for one user."""
    outbox_messages: int = 0
    """At most this many messages of one user wait for others."""


class _Relation(IntEnum):
    """What a sender is to a receiver.

    Those above FRIEND count as unlisted, and a STRANGER as a stranger, too.
    """

    FRIEND = 0
    """On the receiver's friend list."""
    GROUP_MATE = 1
    """In a group with the receiver."""
    STRANGER = 2


class _Inbox:
    """What is known of one inbox."""

    __slots__ = (
        "count", "last_id", "missed", "relations", "relations_until", "senders", "size", "strangers", "unlisted",
    )  # fmt: skip

    def __init__(self, count: int = 0, size: int = 0, last_id: int = 0) -> None:
        self.count, self.size = count, size
        # The newest message in it. When that is delivered, the inbox is empty.
        self.last_id = last_id
        # Messages and bytes of each sender; None while little waits.
        self.senders: dict[str, list[int]] | None = None
        # What each sender is to the receiver. It is known until a time of the clock.
        self.relations: dict[str, _Relation] = {}
        self.relations_until = -math.inf
        # Messages and bytes of all whom `relations` do not call friends, and of the strangers.
        self.unlisted = [0, 0]
        self.strangers = [0, 0]
        # The groups that have a row in the table `missed`; known while much waits.
        self.missed: set[str] = set()

    def count_sender(self, sender: str, count: int, size: int) -> None:
        """Add to the totals of a sender, or subtract."""
        assert self.senders is not None
        own = self.senders.get(sender)
        if own is None:
            own = self.senders[sender] = [0, 0]
            if sender not in self.relations:
                self.relations_until = -math.inf  # it is not known any more who all strangers are
        relation = self.relations.get(sender, _Relation.FRIEND)
        for totals in (own, self.unlisted, self.strangers)[: 1 + relation]:
            totals[0] += count
            totals[1] += size
        if own[0] <= 0:
            del self.senders[sender]


class Quotas:
    """Says which messages are stored, and for whom."""

    def __init__(self, limits: QuotaLimits, clock: Callable[[], float] = time.monotonic) -> None:
        self.limits = limits
        self._messages, self._bytes = limits.inbox_messages or math.inf, limits.inbox_bytes or math.inf
        self._sender_messages, self._sender_bytes = self._part(SENDERS_SHARE)
        self._stranger_messages, self._stranger_bytes = self._part(STRANGERS_SHARE)
        self._unlisted_messages, self._unlisted_bytes = self._part(FRIENDS_SHARE, FRIENDS_SHARE - 1)
        self._outbox = limits.outbox_messages or math.inf
        self._census_at = self._outbox * CENSUS_AT
        self._is_off = limits == QuotaLimits()
        self._clock = clock
        self._log = MinuteLog(log, clock)
        self._inboxes: dict[str, _Inbox] = {}
        self._heavy: dict[str, _Inbox] = {}  # those of them in which much waits
        self._sent: dict[str, int] = {}
        self.news: dict[str, None] = {}
        """The users of whose groups this transaction has changed what is left out, or known of it:
        an ordered set.
        """
        self.arrived: list[tuple[str, int]] = []
        """The users of whom this transaction has learned that they know what was left out, each
        with the first id."""
        # What a session of each user was told, until it has arrived.
        self._told: dict[str, Told] = {}
        # The census under way: how far it is, where it ends, what it has found, and what was sent
        # since it began.
        self._walked_id: int | None = None
        self._walk_end = 0
        self._found: dict[str, int] = {}
        self._since: dict[str, int] = {}
        self._next_census_at = clock()
        self._census_due_at = clock() if limits.outbox_messages else math.inf
        self.due_at = self._census_due_at
        """When `run_due` has something to do, by the clock; infinity if it has nothing."""

    def _part(self, share: int, times: int = 1) -> tuple[float, float]:
        limits = self._messages, self._bytes
        messages, bytes = (max(1, times * limit // share) if limit < math.inf else limit for limit in limits)
        return messages, bytes

    # --- a message --------------------------------------------------------------------------------

    def admit(
        self, dao: Dao, message: StoredMessage, receivers: Sequence[str], batch: Iterable[Envelope]
    ) -> Sequence[str] | Refused:
        """Count a message, and return those who get a row of it; or say why it is refused.

        `batch`: what this transaction is going to store before it.
        """
        if self._is_off:
            return receivers
        sender, content = message.sender, message.content
        size = len(content) if content.isascii() else len(content.encode())
        sent = self._sent.get(sender, 0)
        if sent >= self._census_at and (refusal := self._check_outbox(sender, sent)):
            return refusal
        left_out = None
        for receiver in receivers:
            inbox = self._inboxes.get(receiver) or self._load(dao, receiver, receivers)
            if (
                inbox.senders is not None
                or inbox.count >= self._sender_messages
                or inbox.size + size > self._sender_bytes
            ):
                refusal = self._check_inbox(dao, inbox, receiver, sender, size, batch)
                if refusal is not None:
                    if not message.is_group:
                        return refusal
                    self._leave_out(dao, inbox, receiver, message)
                    left_out = left_out or set()
                    left_out.add(receiver)
                    continue
            inbox.count += 1
            inbox.size += size
            inbox.last_id = message.id
        self._sent[sender] = sent + 1
        if self._walked_id is not None:
            self._since[sender] = self._since.get(sender, 0) + 1
        return receivers if left_out is None else [receiver for receiver in receivers if receiver not in left_out]

    def _load(self, dao: Dao, receiver: str, receivers: Sequence[str]) -> _Inbox:
        """Load the totals of those of some inboxes that are not in memory; return one of them."""
        missing = [name for name in receivers if name not in self._inboxes]
        totals = dao.inbox_totals(missing)
        for name in missing:
            self._inboxes[name] = _Inbox(*totals.get(name, ()))
        if len(self._inboxes) > MAX_INBOXES:
            self.due_at = -math.inf
        return self._inboxes[receiver]

    def _load_senders(self, dao: Dao, inbox: _Inbox, receiver: str, size: int, batch: Iterable[Envelope]) -> None:
        """Load exact totals, and those of each sender if much waits."""
        inbox.relations_until = -math.inf
        inbox.senders = {sender: [count, bytes] for sender, count, bytes in dao.inbox_senders(receiver)}
        for message, receivers in batch:
            if receiver in receivers and (message.device is None or receiver != message.sender):
                inbox.count_sender(message.sender, 1, len(message.content.encode()))
        inbox.count = sum(count for count, _ in inbox.senders.values())
        inbox.size = sum(bytes for _, bytes in inbox.senders.values())
        if inbox.count < self._sender_messages and inbox.size + size <= self._sender_bytes:
            inbox.senders = None
            return
        inbox.missed = set(dao.missed(receiver))
        self._heavy[receiver] = inbox
        if self._pairs() > MAX_PAIRS:
            self.due_at = -math.inf

    def _check_inbox(
        self, dao: Dao, inbox: _Inbox, receiver: str, sender: str, size: int, batch: Iterable[Envelope]
    ) -> Refused | None:
        """Count a message of a sender, or return why there is no room for it.

        One message always fits: of all, of a sender, of strangers, and of those who are no friends.
        """
        if inbox.senders is None:
            self._load_senders(dao, inbox, receiver, size, batch)
            if inbox.senders is None:
                return None  # only little waits
        own = inbox.senders.get(sender)
        count, bytes = inbox.count + 1, inbox.size + size
        if (count > self._messages or bytes > self._bytes) and inbox.count:
            self._log.warn("full", "the inbox of %s is full: no room for a message of %s", receiver, sender)
            return Refused(ErrorCode.INBOX_FULL)
        if own is not None and (own[0] + 1 > self._sender_messages or own[1] + size > self._sender_bytes):
            self._log.warn("share", "%s holds a tenth of the inbox of %s, which is the most", sender, receiver)
            return Refused(
                ErrorCode.INBOX_FULL,
                "Too many of your messages wait for this user: send this one when the user has read some.",
            )
        if count > self._stranger_messages or bytes > self._stranger_bytes:
            relation = self._relation(dao, inbox, receiver, sender)
            strangers_count, strangers_bytes = inbox.strangers
            if (
                relation == _Relation.STRANGER
                and strangers_count
                and (strangers_count + 1 > self._stranger_messages or strangers_bytes + size > self._stranger_bytes)
            ):
                self._log.warn(
                    "strangers", "strangers hold half of the inbox of %s: no room for a message of %s", receiver, sender
                )
                return Refused(ErrorCode.INBOX_FULL)
            unlisted_count, unlisted_bytes = inbox.unlisted
            if (
                relation != _Relation.FRIEND
                and unlisted_count
                and (unlisted_count + 1 > self._unlisted_messages or unlisted_bytes + size > self._unlisted_bytes)
            ):
                self._log.warn(
                    "unlisted",
                    "senders who are no friends of %s hold three quarters of the inbox: no room for a message of %s",
                    receiver,
                    sender,
                )
                return Refused(ErrorCode.INBOX_FULL)
        inbox.count_sender(sender, 1, size)
        return None

    def _relation(self, dao: Dao, inbox: _Inbox, receiver: str, sender: str) -> _Relation:
        """What a sender is to a receiver, in whose inbox much waits."""
        assert inbox.senders is not None
        if self._clock() >= inbox.relations_until:
            inbox.relations = self._load_relations(dao, receiver, list(inbox.senders))
            inbox.unlisted, inbox.strangers = [0, 0], [0, 0]
            for name, (count, bytes) in inbox.senders.items():
                for totals in (inbox.unlisted, inbox.strangers)[: inbox.relations[name]]:
                    totals[0] += count
                    totals[1] += bytes
            inbox.relations_until = self._clock() + RELATIONS_SECONDS
        if sender not in inbox.relations:
            inbox.relations.update(self._load_relations(dao, receiver, [sender]))
        return inbox.relations[sender]

    def _load_relations(self, dao: Dao, receiver: str, senders: Sequence[str]) -> dict[str, _Relation]:
        friends, mates = dao.acquaintances(receiver, senders)
        relations = dict.fromkeys(senders, _Relation.STRANGER)
        relations.update(dict.fromkeys(mates & relations.keys(), _Relation.GROUP_MATE))
        relations.update(dict.fromkeys(friends & relations.keys(), _Relation.FRIEND))
        return relations

    # --- deliveries -------------------------------------------------------------------------------

    def remove(self, dao: Dao, delivered: Mapping[str, int]) -> None:
        """Subtract what is delivered: for each receiver up to an id. Call it before the rows go."""
        for receiver, upto in delivered.items():
            inbox = self._inboxes.get(receiver)
            if self._told and (told := self._told.get(receiver)) and told.has_arrived:
                self._forget_told(dao, receiver, told)
            if inbox is None:
                continue
            if upto >= inbox.last_id:
                inbox.count = inbox.size = 0
                self._lighten(receiver, inbox)
            elif inbox.senders is not None:
                for sender, count, size in dao.inbox_senders(receiver, upto):
                    inbox.count_sender(sender, -count, -size)
                    inbox.count -= count
                    inbox.size -= size
                if 2 * inbox.count < self._sender_messages and 2 * inbox.size < self._sender_bytes:
                    self._lighten(receiver, inbox)

    def take_out(self, receiver: str, sender: str, size: int) -> None:
        """Subtract one row of an inbox, of `size` bytes, that is about to go, or has gone."""
        self._add(receiver, sender, -1, -size)

    def put_back(self, receiver: str, sender: str, size: int) -> None:
        """Add a row that was subtracted, and stays."""
        self._add(receiver, sender, 1, size)

    def _add(self, receiver: str, sender: str, count: int, size: int) -> None:
        inbox = self._inboxes.get(receiver)
        if inbox is None:
            return  # it is loaded when it is needed
        inbox.count += count
        inbox.size += size
        if inbox.senders is not None:
            inbox.count_sender(sender, count, size)

    def _lighten(self, receiver: str, inbox: _Inbox) -> None:
        """Drop the totals of the senders: only little waits."""
        inbox.senders = None
        self._heavy.pop(receiver, None)

    # --- what was left out of groups --------------------------------------------------------------

    def _leave_out(self, dao: Dao, inbox: _Inbox, receiver: str, message: StoredMessage) -> None:
        group, told = message.receiver, self._told.get(receiver)
        self._log.warn("group", "a message to the group %s is left out of the full inbox of %s", group, receiver)
        if group not in inbox.missed:
            dao.add_missed(receiver, group, message.id)
            inbox.missed.add(group)
        elif told is not None and group in told.groups:
            if group in told.later:
                return
            told.later[group] = message.id
        self.news[receiver] = None

    def take_news(self) -> Iterable[str]:
        """Return `news`, and forget it: the transaction is over, and they may have to be told."""
        news, self.news = self.news, {}
        return news

    def tell_missed(self, dao: Dao, session: Session) -> None:
        """Tell a user what was left out of the inbox, unless this session was told already.

        Call it between two transactions.
        """
        user = session.user
        if user is None or not (missed := dao.missed(user)):
            return
        before = self._told.get(user)
        if before is not None and before is session.told:
            new = {group: since for group, since in missed.items() if group not in before.groups}
        else:
            before, new = None, missed
        if not new:
            return
        told = Told(missed, session.sent_id)
        if before is not None:
            told.later = before.later
        # First: the acknowledgement may arrive before we are back.
        session.told = self._told[user] = told
        session.transport.send(notices=[Notice(0, system(Event.INBOX_FULL, groups=new))])
        if len(self._told) > MAX_INBOXES:
            del self._told[next(iter(self._told))]

    def _forget_told(self, dao: Dao, receiver: str, told: Told) -> None:
        """A user knows what was left out. What was left out since then is news again."""
        del self._told[receiver]
        first = [since for group, since in dao.missed(receiver).items() if group in told.groups]
        if first:
            self.arrived.append((receiver, min(first)))
        dao.remove_missed(receiver, sorted(told.groups))
        for group, since in told.later.items():
            dao.add_missed(receiver, group, since)
        inbox = self._inboxes.get(receiver)
        if inbox is not None:
            inbox.missed -= told.groups - told.later.keys()
        self.news[receiver] = None  # also if nothing is left: this transaction may fail

    # --- what senders have waiting ----------------------------------------------------------------

    def _check_outbox(self, sender: str, sent: int) -> Refused | None:
        if self._census_due_at == math.inf:
            self._census_due_at = self._next_census_at
            self.due_at = min(self.due_at, self._next_census_at)
        if sent < self._outbox:
            return None
        self._log.warn("outbox", "%d messages of %s wait for others, which is the most", sent, sender)
        return Refused(
            ErrorCode.LIMIT_REACHED,
            f"{self._outbox:,} of your messages wait for others, the most possible: "
            "send this one when some of them were delivered.",
        )

    def run_due(self, dao: Dao) -> None:
        """Do what is due: a slice of the census, and dropping what is too much in memory."""
        if self._clock() < self.due_at:
            return
        while len(self._inboxes) > MAX_INBOXES:
            self._drop(next(iter(self._inboxes)))
        while len(self._heavy) > 1 and self._pairs() > MAX_PAIRS:
            self._drop(next(iter(self._heavy)))
        if self._clock() >= self._census_due_at:
            self._walk(dao)
        for counts in (self._sent, self._found, self._since):
            while len(counts) > MAX_SENDERS:
                del counts[next(iter(counts))]
        self.due_at = self._census_due_at

    def _drop(self, receiver: str) -> None:
        del self._inboxes[receiver]
        self._heavy.pop(receiver, None)

    def _pairs(self) -> int:
        return sum(len(inbox.senders or ()) for inbox in self._heavy.values())

    def _walk(self, dao: Dao) -> None:
        """Take the next slice of the census."""
        if self._walked_id is None:
            self._walked_id, self._walk_end = 0, dao.last_waiting_id()
            self._found, self._since = {}, {}
        last, found = dao.waiting_senders(self._walked_id, self._walk_end, CENSUS_SLICE)
        for sender, count in found:
            self._found[sender] = self._found.get(sender, 0) + count
        if last is not None:
            self._walked_id = last
            self._census_due_at = self._clock() + CENSUS_PAUSE
            return
        for sender, count in self._since.items():
            self._found[sender] = self._found.get(sender, 0) + count
        self._sent, self._found, self._since, self._walked_id = self._found, {}, {}, None
        self._next_census_at, self._census_due_at = self._clock() + CENSUS_INTERVAL, math.inf

    def on_others_wrote(self) -> None:
        """Other nodes have stored messages, so that what is known of inboxes may be too little."""
        self._inboxes.clear()
        self._heavy.clear()

    def on_failure(self) -> None:
        """A transaction has failed: only the database knows what waits."""
        self._inboxes.clear()
        self._heavy.clear()
        self.arrived.clear()
        for user in self.news:  # they are told anew what the table says
            self._told.pop(user, None)
        if self._walked_id is not None:
            self._walked_id = None
            self._census_due_at = self.due_at = self._clock() + RETRY_DELAY
