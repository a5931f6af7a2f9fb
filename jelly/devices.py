"""Devices: how far each device of a user has got.

A client may say on which *device* it is, when it logs in. Then its user has one session for each
device, and all of them get every message, also those that the user writes on another one. Clients
that do not say count as one more device, together, whose name is empty.

**One row for a message, a cursor for a device.** A message has one row in its receiver's inbox,
as always. A device's *cursor* is the id up to which it has acknowledged everything. What all
cursors have passed goes out of the inbox. For a user with one device the inbox itself says what
that device has not got, so that no cursor is written, and nothing costs more than without devices.
What somebody writes gets a row in the own inbox, if there is another device to get it.

Whose cursors count:

- those of all devices with a name that were not dropped;
- that of the clients without a name while one of them is online, or if there is no other. (It is
  kept, so that a client that comes back gets what is still there, and nothing twice.)

Where a device begins: the first one of a user with what waits; each later one with what comes from
now on. A client without a name begins, the first time, behind what any device has got.

A device is *dropped* if it was not seen for KEPT_DAYS and others are, if there are more than
MAX_DEVICES, or if more waits for it alone than an inbox may hold. When it comes back it begins
like a new one, and is told the first message that it may have missed (SYSTEM notice `gap`). So is
one that was not online when another one was told what did not get into the user's full inbox.

Everything here runs in turns of the store; what takes a `Dao` runs inside its transaction.
"""

import logging
import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

from jelly import account_dao, devices_dao
from jelly.dao import Dao
from jelly.devices_dao import DeviceRow
from jelly.messages import Event, system
from jelly.quotas import QuotaLimits
from jelly.sessions import Device, Notice, Session, Sessions
from jelly.trusted_clock import MAX_ID

log = logging.getLogger("jelly.devices")

FEATURE = "devices"
MAX_DEVICES = 8
"""At most this many devices of a user have a name; with a new one, that goes which was not seen for
longest."""
MAX_DROPPED = 8
"""At most this many dropped devices of a user are remembered."""
KEPT_DAYS = 30.0
"""Days until a device is dropped that was not online."""
SEEN_PRECISION = 86_400_000
"""Milliseconds until it is noted again that a device is online."""
CHECK_INTERVAL = 60.0
"""Seconds until it is looked how much waits for the slower devices of a user, at most. (For one
that is away for weeks, 30,000 messages may wait: counting them takes MariaDB 20 ms.)"""
CHECK_BATCH = 20
"""Of at most this many users at once ..."""
CHECK_ROWS = 10_000
"""... and no more of them when so many messages were counted: all requests wait for that."""
RETRY_DELAY = 1.0
"""Seconds until they are checked again after a transaction failed."""


class Start(NamedTuple):
    """Where the session of a login begins."""

    since: int
    """Its device has the messages up to this id; 0: it gets all that waits."""
    gap: int | None
    """The first message that it may have missed; None: none."""


class Removable(NamedTuple):
    """What may go out of inboxes, because all devices have it."""

    upto: dict[str, int]
    """For each user, the messages up to an id."""
    alone: list[tuple[str, int]]
    """And these: (user, id)."""


class Devices:
    """Knows which users have several devices, and moves their cursors."""

    def __init__(
        self, sessions: Sessions, limits: QuotaLimits | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """`limits`: of what waits for the slower devices of a user, as for an inbox."""
        self._sessions = sessions
        limits = limits or QuotaLimits()
        self._messages, self._bytes = limits.inbox_messages or math.inf, limits.inbox_bytes or math.inf
        self._clock = clock
        self.several: set[str] = set()
        """The users of whom more than one cursor may count, as far as they have logged in here;
        and those who must be told of a gap."""
        self.due_at = math.inf
        """When `run_due` has something to do, by the clock."""
        self._to_check: dict[str, None] = {}  # an ordered set
        self.has_changes = False
        """Whether the open transaction has asked for anything of this."""
        # Of that transaction: who has logged in, whose devices are others now, and which users
        # were checked.
        self._entering: set[Device] = set()
        self._changed: dict[str, list[str]] = {}
        self._checked: list[str] = []

    # --- a login ----------------------------------------------------------------------------------

    def enter(self, dao: Dao, device: Device, now: int) -> Start:
        """In the transaction of a login: note that a device is online, and return where it begins.
        `now`: in milliseconds since 1970.
        """
        self.has_changes = True
        self._entering.add(device)
        user = device.user
        rows = devices_dao.rows_of(dao, user)
        if not device.name and not rows:
            return Start(0, None)
        own = next((row for row in rows if row.name == device.name), None)
        if own is not None and not own.is_dropped:
            if now - own.seen >= SEEN_PRECISION:
                devices_dao.put(dao, user, own._replace(seen=now), is_new=False)
        else:
            others = [row for row in rows if row.name not in ("", device.name) and not row.is_dropped]
            had, gap = (0, 0) if own is None else (own.delivered, own.gap)
            own = DeviceRow(device.name, max(had, self._beginning(dao, device, rows, others)), now, False, gap)
            devices_dao.put(dao, user, own, is_new=all(row.name != device.name for row in rows))
            rows = [*(row for row in rows if row.name != device.name), own]
            rows = self._keep_unnamed(dao, device, rows, now)
            for surplus in self._too_many(device, others):
                for login in account_dao.logins_on(dao, user, surplus.name):
                    account_dao.end_login(dao, user, login)
                rows = self._drop(dao, user, rows, surplus)
        self._change(dao, user, rows)
        if len(_kept(rows)) > 1 or own.gap:
            self.several.add(user)
        return Start(own.delivered, own.gap or None)

    def _beginning(self, dao: Dao, device: Device, rows: Sequence[DeviceRow], others: Sequence[DeviceRow]) -> int:
        """What a device that comes for the first time, or was dropped, counts as having."""
        if not device.name:
            return max((row.delivered for row in others), default=0)
        if others:
            return dao.peek_id() - 1
        return next((row.delivered for row in rows if not row.name), 0)

    def _keep_unnamed(self, dao: Dao, device: Device, rows: list[DeviceRow], now: int) -> list[DeviceRow]:
        """If a client without a name is online while the first device with one comes, its cursor
        counts from now on.
        """
        unnamed = Device(device.user, "")
        is_online = unnamed in self._entering or self._sessions.is_device_online(unnamed)
        if all(row.name for row in rows) and is_online:
            row = DeviceRow("", 0, now, False, 0)
            devices_dao.put(dao, device.user, row, is_new=True)
            return [*rows, row]
        return rows

    def _too_many(self, device: Device, others: Sequence[DeviceRow]) -> Sequence[DeviceRow]:
        """The devices that must go for one that comes: those that were not seen for longest."""
        if not device.name:
            return ()
        by_use = sorted(others, key=lambda row: (self._is_online(device.user, row), row.seen))
        return by_use[: max(0, len(others) + 1 - MAX_DEVICES)]

    def _is_online(self, user: str, row: DeviceRow) -> bool:
        return self._sessions.is_device_online(Device(user, row.name))

    # --- messages ---------------------------------------------------------------------------------

    def has_others(self, dao: Dao, session: Session) -> bool:
        """In a transaction: whether there are other devices that get what is written on a session,
        also those that have come in this transaction.
        """
        user = session.device.user
        kept = self._changed.get(user)
        if kept is None and session in self._sessions.of(user, ()):
            return session.has_others
        # The connection may have ended before the session was told of its others (`changed`).
        return _has_others(_kept(devices_dao.rows_of(dao, user)) if kept is None else kept, session)

    def reached(self, dao: Dao, delivered: Mapping[Device, int]) -> Removable:
        """The messages up to an id have reached each of these devices: move their cursors. Return
        what all devices of their users have.
        """
        removable = Removable({}, [])
        several: dict[str, dict[str, int]] = {}
        for device, id in delivered.items():
            if device.user in self.several:
                several.setdefault(device.user, {})[device.name] = id
            else:
                removable.upto[device.user] = max(id, removable.upto.get(device.user, 0))
        for user, moved in several.items():
            self._move(dao, user, moved, removable)
        return removable

    def _move(self, dao: Dao, user: str, moved: Mapping[str, int], removable: Removable) -> None:
        rows = devices_dao.rows_of(dao, user)
        before = self._cursors(user, rows)
        for place, row in enumerate(rows):
            id = moved.get(row.name, 0)
            if id > row.delivered and not row.is_dropped:
                # It has acknowledged a message, so it has the notice of the gap, which came before.
                rows[place] = row._replace(delivered=id, gap=0)
                devices_dao.put(dao, user, rows[place], is_new=False)
        cursors = self._cursors(user, rows)
        if not cursors:
            removable.upto[user] = max(moved.values())
            return
        # (What came for clients without a name may have been kept for one that has just gone.)
        if "" in moved or min(cursors.values()) > min(before.values()):
            removable.upto[user] = min(cursors.values())
        moved_on = {
            row.name: (old, new)
            for row in rows
            if (old := _least_of_others(before, row.name)) < (new := _least_of_others(cursors, row.name))
        }
        if moved_on:
            upto, after = {name: new for name, (_, new) in moved_on.items()}, min(old for old, _ in moved_on.values())
            removable.alone.extend((user, id) for id in devices_dao.own_copies(dao, user, upto, after))
        self.check_soon(user)

    def one_was_told(self, dao: Dao, user: str, since: int) -> None:
        """A device knows now what did not get into the full inbox, from an id on, so that nobody is
        told of it any more. Those that do not know it are told of a gap.
        """
        if user not in self.several:
            return
        for row in devices_dao.rows_of(dao, user):
            session = self._sessions.on(Device(user, row.name))
            told = None if session is None else session.told
            if not row.name or row.is_dropped or (told is not None and told.has_arrived):
                continue
            gap = min(since, row.gap or since)
            devices_dao.put(dao, user, row._replace(gap=gap), is_new=False)
            if session is not None and told is None:
                session.gap = gap

    def _cursors(self, user: str, rows: Iterable[DeviceRow]) -> dict[str, int]:
        """The cursors that count."""
        cursors = {row.name: row.delivered for row in rows if not row.is_dropped}
        if "" in cursors and len(cursors) > 1 and not self._sessions.is_device_online(Device(user, "")):
            del cursors[""]
        return cursors

    # --- what goes --------------------------------------------------------------------------------

    def forget(self, dao: Dao, device: Device) -> None:
        """In a transaction: the last login of a device was ended, so nothing waits for it."""
        devices_dao.remove(dao, device)
        self._change(dao, device.user, devices_dao.rows_of(dao, device.user))
        self.check_soon(device.user)

    def _drop(self, dao: Dao, user: str, rows: Sequence[DeviceRow], which: DeviceRow) -> list[DeviceRow]:
        """Keep nothing for a device any more. Return the rows of the user as they are now."""
        rest = [row for row in rows if row.name != which.name]
        if not which.name:
            devices_dao.remove(dao, Device(user, ""))
            return rest
        log.info("the device %s of %s is dropped: nothing is kept for it any more", which.name, user)
        dropped = which._replace(is_dropped=True, gap=which.gap or which.delivered + 1)
        devices_dao.put(dao, user, dropped, is_new=False)
        oldest_first = sorted((row for row in rest if row.is_dropped), key=lambda row: row.seen)
        for oldest in oldest_first[: max(0, len(oldest_first) + 1 - MAX_DROPPED)]:
            devices_dao.remove(dao, Device(user, oldest.name))
            rest.remove(oldest)
        return [*rest, dropped]

    def sweep(self, dao: Dao, after: str, now: int, limit: int) -> str | None:
        """Look at the devices of the next `limit` users: drop those that were not seen for long.

        Returns the last user, None if there is none behind `after`. `now`: in milliseconds.
        """
        users = devices_dao.users_behind(dao, after, limit)
        for user in users:
            rows = devices_dao.rows_of(dao, user)
            for row in sorted(rows, key=lambda row: row.seen):
                if row.is_dropped or now - row.seen < SEEN_PRECISION:
                    continue
                if self._is_online(user, row):
                    devices_dao.put(dao, user, row._replace(seen=now), is_new=False)
                elif now - row.seen >= KEPT_DAYS * 86_400_000 and len(_kept(rows)) > 1:
                    rows = self._drop(dao, user, rows, row)
                    self._change(dao, user, rows)
            if len(rows) > 1:
                self.check_soon(user)
        return users[-1] if users else None

    def check_soon(self, user: str) -> None:
        """Have `run_due` look how much waits for the slower devices of a user."""
        self._to_check[user] = None
        self.due_at = min(self.due_at, self._clock() + CHECK_INTERVAL)

    def run_due(self, dao: Dao) -> Removable:
        """See how much waits for the slower devices of some users; drop those for which it is too
        much. Return what may go then.
        """
        removable = Removable({}, [])
        if self._clock() < self.due_at:
            return removable
        self.has_changes, counted = True, 0
        while self._to_check and len(self._checked) < CHECK_BATCH and counted < CHECK_ROWS:
            user = next(iter(self._to_check))
            del self._to_check[user]
            self._checked.append(user)
            counted += self._check(dao, user, removable)
        self.due_at = self._clock() if self._to_check else math.inf
        return removable

    def _check(self, dao: Dao, user: str, removable: Removable) -> int:
        """Returns how many messages were counted."""
        rows = devices_dao.rows_of(dao, user)
        cursors = self._cursors(user, rows)
        counted = 0
        while len(cursors) > 1:
            too_slow, count = self._too_slow(dao, user, cursors)
            counted += count
            if too_slow is None:
                break
            rows = self._drop(dao, user, rows, next(row for row in rows if row.name == too_slow))
            self._change(dao, user, rows)
            cursors = self._cursors(user, rows)
        if len(rows) > 1 and cursors:
            removable.upto[user] = min(cursors.values())
        upto = {name: _least_of_others(cursors, name) for name in ["", *(row.name for row in rows if row.name)]}
        removable.alone.extend((user, id) for id in devices_dao.own_copies(dao, user, upto))
        return counted

    def _too_slow(self, dao: Dao, user: str, cursors: Mapping[str, int]) -> tuple[str | None, int]:
        """The slowest device for which too much waits, if any; and how many messages were counted.

        A device that writes much and is sent nothing has the oldest cursor, and its copies wait for
        others. So first all is counted together, which nearly always is little enough, and then
        what waits for each.
        """
        by_speed = sorted(cursors, key=lambda name: cursors[name])
        fastest, counted = cursors[by_speed[-1]], 0
        for name in (None, *by_speed):
            after = cursors[by_speed[0] if name is None else name]
            count, size = devices_dao.waiting_for_some(dao, user, after, fastest, name)
            counted += count
            is_too_much = count > self._messages or size > self._bytes
            if is_too_much != (name is None):
                return name, counted
        return None, counted

    # --- the transaction, and after it ------------------------------------------------------------

    def _change(self, dao: Dao, user: str, rows: Sequence[DeviceRow]) -> None:
        self.has_changes = True
        self._changed[user] = _kept(rows)
        dao.announce("devices", user, self._changed[user])

    def take_changed(self) -> Mapping[str, Sequence[str]]:
        """At the end of the transaction: the users whose devices it has changed, with their names
        now. After the commit call `changed` for each.
        """
        changed, self._changed = self._changed, {}
        self._entering.clear()
        self._checked, self.has_changes = [], False
        return changed

    def changed(self, user: str, kept: Sequence[str]) -> None:
        """These are the devices of a user from now on, as some node has committed. Sessions on
        others are closed; those that come back are told what they miss.
        """
        if len(kept) > 1:
            self.several.add(user)
        for session in self._sessions.of(user, ()):
            name = session.device.name
            if name not in kept and (name or kept):
                session.closing = True
                session.transport.close()
            session.has_others = _has_others(kept, session)

    def on_failure(self) -> None:
        """A transaction has failed: what it has written is not there."""
        self._changed.clear()
        self._entering.clear()
        self.has_changes = False
        for user in self._checked:
            self._to_check[user] = None
        self._checked = []
        if self._to_check:
            self.due_at = self._clock() + RETRY_DELAY


def gap_notice(session: Session) -> Notice:
    """The notice that a session must get before any message: its device may have missed some."""
    gap, session.gap = session.gap, None
    return Notice(0, system(Event.GAP, since=gap))


def _kept(rows: Iterable[DeviceRow]) -> list[str]:
    """The names of those devices for which messages are kept."""
    return [row.name for row in rows if not row.is_dropped]


def _has_others(kept: Iterable[str], session: Session) -> bool:
    return any(name not in ("", session.device.name) for name in kept)


def _least_of_others(cursors: Mapping[str, int], written_on: str) -> int:
    """What all other devices have that get what is written on one."""
    return min((id for name, id in cursors.items() if name not in ("", written_on)), default=MAX_ID)
