"""The SQL of a node: how its store begins a transaction, and the tables that only nodes have.

Each transaction begins with the *sequence lock*: the rows of the table meta that count ids and
events. Only one node at a time has it, until its commit. So ids grow in the order of commits over
all nodes, and a look and the change after it are one step, as they are on a single server.

The database locks rows in the order of their names. So all who need the lock begin with the row
`event`, and nobody waits for a row that the holder of the lock needs, too.
"""

import json
from collections.abc import Callable, Sequence
from typing import NamedTuple

from jelly.dao import (
    WITH_ORIGINAL,
    Dao,
    DatabaseWentBack,
    LeaseLost,
    SchemaChanged,
    StoredMessage,
)
from jelly.database import DatabaseConnection
from jelly.migrations import SCHEMA_VERSION
from jelly.sessions import Device
from jelly.trusted_clock import MS, TrustedClock

SERVING, DRAINING = 1, 2
"""The states of a node."""
DRAINING_MS = 5000
"""Milliseconds for which the sessions of a node that has stopped stay in the table: their users
come back elsewhere meanwhile, and nobody hears that they were offline."""
TURNS_ALONE = 3
"""After so many turns in which no other node has written, a node expects that again."""
SHORT_BYTES = 1000
"""A message that is no longer than this comes with each row of the inbox that has it."""
TAIL_BYTES = 8 * 1024 * 1024
"""At most this many bytes of longer messages are read at once."""
NO_MARK = -1
MAX_EVENTS = 10_000
"""At most this many events are applied one by one; a node that has missed more starts over."""


class Head(NamedTuple):
    """What a node reads when it takes the sequence lock."""

    next_id: int
    indexed: int
    event: int
    """The number of the last event."""
    incarnation: int
    """Who the others say this node is; 0 if they have declared it dead."""
    mark: int
    last_for: int
    """The id of the last message that another node has written for a user here."""
    now: int
    """The time of the database, in milliseconds since 1970."""


class Event(NamedTuple):
    """What a node tells the others."""

    number: int
    node: int
    kind: str
    values: Sequence[object]


class Neighbour(NamedTuple):
    """A row of the table nodes."""

    id: int
    incarnation: int
    address: str
    version: str
    state: int
    renewed: int
    lease: int
    event: int
    hints: int
    bus: str
    sender: str
    unheard: str
    host: str
    process: int
    started: int
    connections: int

    def is_dead(self, now: int) -> bool:
        """Whether its lease has run out, by the database's time; or it has stopped a while ago."""
        return now > self.renewed + (DRAINING_MS if self.state == DRAINING else self.lease)


NEIGHBOUR = (
    "id, incarnation, address, version, state, renewed, lease, event, hints, bus, sender, unheard, "
    "host, process, started, connections"
)
MAX_TEXT = 255
"""At most this many characters of a text of a node are stored."""


class Identity(NamedTuple):
    """What a node tells of itself when it registers."""

    address: str
    version: str
    lease: int
    """Milliseconds."""
    bus: str
    sender: str
    """By which the others know what it sends through the bus."""
    host: str
    process: int
    """The number of the process on its machine, `host`."""


class DatabaseTime:
    """The time of the database: the same for all nodes, whatever their own clocks say."""

    def __init__(self, wall: Callable[[], float], monotonic: Callable[[], float]) -> None:
        """`wall`: the machine's clock, until the database has been asked."""
        self._monotonic = monotonic
        self._offset = wall() - monotonic()

    def note(self, ms: int) -> None:
        """The database says that it is this time now."""
        self._offset = ms / MS - self._monotonic()

    def now(self) -> float:
        """Seconds since 1970."""
        return self._monotonic() + self._offset


class NodeDao(Dao):
    """The Dao of a node's store."""

    def __init__(self, connection: DatabaseConnection, clock: TrustedClock, time: DatabaseTime) -> None:
        super().__init__(connection, clock)
        self._time = time
        self.number = 0
        """This node; 0 before it is registered."""
        self.incarnation = 0
        self.head = Head(0, 0, 0, 0, 0, 0, 0)
        """As of the last time that this node took the sequence lock."""
        self.horizon = 0
        """Messages up to this id are on the disk, and were pushed to those who are online here."""
        self.event = 0
        """The events up to this number are applied."""
        # What was seen before the database went back: ids and events go on above.
        self._next_free_id = self._last_event = 0
        self.announced: list[tuple[str, Sequence[object]]] = []
        """The events of the transaction that is open."""
        self._expected: Head | None = None  # what the next turn finds if no other node writes before
        self._turns_alone = 0
        self._unwritten: dict[str, int] = {}  # rows of meta that `finish` writes
        self._is_dated = True

    # --- the sequence lock ------------------------------------------------------------------------

    def take_lock(self) -> Head:
        """Take the sequence lock, which ends with the transaction."""
        own = {f"{name}.{self.number}": name for name in ("node", "mark", "for")}
        names = ", ".join(f"'{name}'" for name in ("next_id", "indexed", "event", *own))
        now, lock = self.connection.utc_ms, self.connection.for_update
        row = self.connection.words("name", "value", now)
        texts = self.connection.query(f"SELECT {row} FROM meta WHERE name IN ({names}){lock}")
        rows = [text.split() for (text,) in texts]
        found = {name: int(value) for name, value, _ in rows}
        counts = [found.get(name, 0) for name in ("next_id", "indexed", "event", *own)]
        self.head = Head._make([*counts, int(rows[0][2])])
        self._time.note(self.head.now)
        return self.head

    def move_mark(self, count: int) -> None:
        """Begin a transaction of the store: take the sequence lock, and see whether this node may
        still write. Unless `count` is 0, `finish` must follow. Raises LeaseLost, DatabaseWentBack.
        """
        self.announced.clear()
        self._unwritten.clear()
        expected, self._expected = self._expected, None
        moved = 0 if expected is None else self._move_as_expected(expected, count)
        if moved < 2:
            self._look_and_move(count, has_moved_mark=moved == 1)
        if not count:
            self._write_meta()
        assert self._clock is not None
        self._note_times(self._clock, self._is_dated, self.head.next_id)

    def _move_as_expected(self, expected: Head, count: int) -> int:
        """Take the sequence lock and move the count of ids in one statement, as a single server
        does. A node that was alone has moved its own mark to the same id, so that moves, too.

        Return how many of the two have moved. If another node has written meanwhile, only the mark
        has: then the count of ids is not the expected one, because each transaction moves it.
        """
        # (After a hint it is not the expected one, or the database has gone back.)
        if (expected.mark, expected.next_id - 1, expected.event) != (self.mark, self.horizon, self.event):
            return 0
        self._is_dated = self._choose_ids(expected.next_id, count)
        # The row `event` is there for its lock. Its value stays, so it does not count as changed.
        first = "'event', " if self.connection.for_update else ""
        moved = self.connection.execute(
            "UPDATE meta SET value = CASE name WHEN 'event' THEN value ELSE ? END "
            f"WHERE name IN ({first}'mark.{self.number}', 'next_id') AND (name = 'event' OR value = ?)",
            (self.new_mark, expected.next_id),
        )
        self.head = expected._replace(now=int(self._time.now() * MS))
        return moved

    def _look_and_move(self, count: int, has_moved_mark: bool) -> None:
        """Take the sequence lock and read what other nodes have changed. `has_moved_mark`: whether
        this transaction has moved the mark already, from where it had to be.
        """
        head = self.take_lock()
        if has_moved_mark and head.mark == self.new_mark:
            head = self.head = head._replace(mark=self.mark)
        if head.incarnation != self.incarnation:
            raise LeaseLost
        if self.mark not in (0, head.mark) or head.next_id <= self.horizon or head.event < self.event:
            self._note_loss()
            raise DatabaseWentBack
        self.mark = head.mark
        self._is_dated = self._choose_ids(max(head.next_id, self._next_free_id), count)
        self._unwritten.update({"next_id": self.new_mark, f"mark.{self.number}": self.new_mark})

    def look_next_time(self) -> None:
        """Expect nothing of the next turn: it asks for the time of the database, too."""
        self._expected = None

    def committed(self, head: Head, next_id: int) -> None:
        """A transaction is committed that has found `head`, and `next_id` is the next id now."""
        self._turns_alone = self._turns_alone + 1 if head.next_id == head.mark else 0
        if self._turns_alone >= TURNS_ALONE:
            self._expected = head._replace(next_id=next_id, mark=next_id, event=self.event)

    def _note_loss(self) -> None:
        """The database has gone back: from now on no mark is right, and what was lost is not given
        again.
        """
        self._next_free_id = max(self._next_free_id, self.horizon + 1, self.new_mark)
        self._last_event = max(self._last_event, self.event)
        self.mark = self.new_mark = NO_MARK
        self.horizon, self.event = 0, 0

    def read_mark(self) -> int:
        """The mark that the database has: with the lock, so that an older transaction has ended."""
        if not self.number:
            return super().read_mark()
        head = self.take_lock()
        if head.incarnation != self.incarnation:
            raise LeaseLost
        return head.mark

    # --- events -----------------------------------------------------------------------------------

    def announce(self, kind: str, *values: object) -> None:
        self.announced.append((kind, values))

    @property
    def next_event(self) -> int:
        """The number that the next event of this transaction is going to have."""
        return self.head.event + len(self.announced) + 1

    def own_events(self) -> list[Event]:
        """The events of this transaction."""
        first = self.head.event + 1
        return [Event(first + place, self.number, *event) for place, event in enumerate(self.announced)]

    def finish(self, last_for: dict[int, int]) -> None:
        """Write the events of this transaction, and for some nodes the last id that is for them."""
        events = self.own_events()
        if events:
            rows = [(n, node, json.dumps([kind, *values], ensure_ascii=False)) for n, node, kind, values in events]
            self.connection.insert(("INSERT INTO events (n, node, data) VALUES (?, ?, ?)", rows))
            self._unwritten["event"] = events[-1].number
        for node, id in last_for.items():
            self._unwritten[f"for.{node}"] = id
        self._write_meta()

    def _write_meta(self) -> None:
        """Write rows of the table meta, all with one statement."""
        if self._unwritten:
            cases = " ".join(f"WHEN '{name}' THEN {value}" for name, value in self._unwritten.items())
            names = ", ".join(f"'{name}'" for name in self._unwritten)
            self.connection.change(f"UPDATE meta SET value = CASE name {cases} END WHERE name IN ({names})")
            self._unwritten.clear()

    def events_until(self, upto: int) -> list[Event] | None:
        """The events that are not applied yet, up to a number; None if some are missing."""
        if upto - self.event > MAX_EVENTS:
            return None
        rows = self.connection.query(
            f"SELECT n, node, data FROM events WHERE n > {self.event} AND n <= {upto} ORDER BY n"
        )
        if len(rows) != upto - self.event:
            return None
        found = []
        for n, node, data in rows:
            kind, *values = json.loads(data)
            found.append(Event(int(n), int(node), kind, values))
        return found

    def trim_events(self) -> None:
        """Drop the events that all nodes have applied."""
        rows = self.connection.query("SELECT MIN(event) FROM nodes")
        self.connection.change(f"DELETE FROM events WHERE n <= {int(rows[0][0] or 0)}")

    # --- messages for the users here --------------------------------------------------------------

    def tail(self, after: int, upto: int, limit: int) -> list[tuple[StoredMessage, list[str]]] | None:
        """What was stored for the users of this node: each message with its receivers here, in the
        order of ids. None if that is `limit` rows or more, or more than TAIL_BYTES of long texts;
        or if a message has been edited since, and not all get the same text.
        """
        connection = self.connection
        # A long text comes once, and not once for each receiver: a group may have a thousand. The
        # text of an edit is that of its original.
        last_text = "COALESCE(o.content, m.content)"
        length = f"LENGTH({last_text})"
        content = f"CASE WHEN {length} <= {SHORT_BYTES} THEN {last_text} ELSE '' END"
        keeps_text = "CASE WHEN i.text IS NULL THEN 0 ELSE 1 END"
        # (Where a message was written matters only to its sender: see `Delivery`.)
        edit, device = "COALESCE(m.replaces, 0)", "COALESCE(m.device, '')"
        columns = ("m.id", "m.is_group", "m.sender", "m.receiver", "m.time", edit, keeps_text, "i.size", device)
        words = connection.words("i.receiver", *columns, length, content)
        join = connection.ordered_join  # with few sessions MariaDB would sort all, which takes three times as long
        rows = connection.query(
            f"SELECT {words} FROM inbox AS i {connection.use_index('inbox_of_message')} "
            f"{join} sessions AS s {connection.use_primary_key} ON s.username = i.receiver AND s.node = ? "
            f"{join} messages AS m ON m.id = i.message_id {WITH_ORIGINAL} "
            "WHERE i.message_id > ? AND i.message_id <= ? ORDER BY i.message_id LIMIT ?",
            (self.number, after, upto, limit),
        )
        if len(rows) == limit:
            return None
        found: list[tuple[StoredMessage, dict[str, None]]] = []  # (an ordered set)
        long: dict[int, int] = {}  # ids, and the places in `found`
        total = last_id = 0
        for (text,) in rows:
            # (No name holds a space.)
            values = text.split(" ", 11)
            user, id, is_group, sender, receiver, time, replaces, keeps_text, row_size, device, size, content = values
            if keeps_text == "1":  # edited a moment ago, and this receiver gets another text than the others
                return None
            if (number := int(id)) != last_id:
                last_id = number
                if int(size) > SHORT_BYTES:
                    long[number] = len(found)
                    total += int(size)
                message = StoredMessage(number, is_group == "1", sender, receiver, content, int(time))
                found.append((message if replaces == "0" else message._replace(replaces=int(replaces)), {}))
            message, receivers = found[-1]
            if row_size == "-1" and message.device is None:
                found[-1] = message._replace(device=device), receivers
            receivers[user] = None  # (it has a row for each session that the user has here)
        if total > TAIL_BYTES:
            return None
        if long:
            ids = ", ".join(map(str, long))
            texts = f"SELECT m.id, {last_text} FROM messages AS m {WITH_ORIGINAL} WHERE m.id IN ({ids})"
            for number, content in connection.query(texts):
                message, receivers = found[long[number]]
                found[long[number]] = message._replace(content=content), receivers
        return [(message, list(receivers)) for message, receivers in found]

    def last_id(self) -> int:
        """No id above it was given. (Not with the lock.)"""
        return int(self.connection.query("SELECT value FROM meta WHERE name = 'next_id'")[0][0]) - 1

    def look_for_news(self) -> tuple[int, int]:
        """The number of the last event, and the last id for this node. (Not with the lock.)"""
        own = f"for.{self.number}"
        row = self.connection.words("name", "value")
        rows = self.connection.query(f"SELECT {row} FROM meta WHERE name IN ('event', '{own}')")
        found = dict(text.split() for (text,) in rows)
        return int(found.get("event", 0)), int(found.get(own, 0))

    def unindexed_requests_of(self, sender: str, after: int) -> list[tuple[int, str, int]]:
        """A user's messages above an id that have a requestId: (id, requestId, digest)."""
        return self.connection.query(
            "SELECT id, request_id, digest FROM messages WHERE id > ? AND sender = ? AND request_id IS NOT NULL "
            "ORDER BY id",
            (after, sender),
        )

    # --- sessions ---------------------------------------------------------------------------------

    def classic_token(self, device: Device) -> str:
        """The hash of the token of a classic client that is online on a device; else empty."""
        rows = self.connection.query("SELECT classic_token FROM sessions WHERE username = ? AND device = ?", device)
        return rows[0][0] if rows else ""

    def enter_session(self, device: Device, classic_token: str, wants_receipts: bool = False) -> int:
        """Write that a user is online here now, and tell it; return the epoch of the session."""
        epoch = self.next_event
        self.announce("in", device.user, int(wants_receipts), device.name)
        self.connection.change("DELETE FROM sessions WHERE username = ? AND device = ?", device)
        self.connection.change(
            "INSERT INTO sessions (username, device, node, epoch, classic_token) VALUES (?, ?, ?, ?, ?)",
            (*device, self.number, epoch, classic_token),
        )
        return epoch

    def end_session(self, username: str, epoch: int) -> None:
        """Write that a session of this node has ended, and tell it."""
        self.announce("out", username, epoch)
        self.connection.change("DELETE FROM sessions WHERE username = ? AND epoch = ?", (username, epoch))

    def all_sessions(self) -> list[tuple[str, int, int, str]]:
        """Who is online, and where: (user, node, epoch, device)."""
        return self.connection.query("SELECT username, node, epoch, device FROM sessions")

    # --- nodes ------------------------------------------------------------------------------------

    def nodes(self) -> list[Neighbour]:
        """The nodes that live, have stopped a moment ago, or are dead and not removed yet."""
        return [Neighbour(*row) for row in self.connection.query(f"SELECT {NEIGHBOUR} FROM nodes ORDER BY id")]

    def register(self, identity: Identity) -> None:
        """Become a node: take a free number, and tell the others. Call it within a transaction,
        while the database is claimed. After the commit call `enter`. Raises SchemaChanged.
        """
        self.number = 0
        self.look_next_time()
        self._unwritten.clear()
        head = self.take_lock()
        present: dict[str, int] = dict(self.connection.query("SELECT name, value FROM meta"))
        if present.get("schema_version") != SCHEMA_VERSION:
            raise SchemaChanged(present.get("schema_version", 0), SCHEMA_VERSION)
        if "event" not in present:
            self.connection.change("INSERT INTO meta (name, value) VALUES ('event', 0)")
        last = max(head.event, self.event, self._last_event)
        self.head, self.mark = head._replace(event=last), 0
        self.announced.clear()
        taken = {node.id for node in self.nodes()}  # dead ones, too: a node that has watched them removes them
        self.number = next(number for number in range(1, len(taken) + 2) if number not in taken)
        event = self.next_event
        self.announce("up", self.number)
        self._choose_ids(max(head.next_id, self.horizon + 1, self._next_free_id), 1)
        # It carries the time, so no node has had it before: not even one that has the same number
        # and has not noticed yet that the database has gone back.
        self.incarnation = self.new_mark
        own = {f"node.{self.number}": self.incarnation, f"mark.{self.number}": self.new_mark, f"for.{self.number}": 0}
        for name, value in {**own, "next_id": self.new_mark}.items():
            if name in present or name == "next_id":
                self.connection.change("UPDATE meta SET value = ? WHERE name = ?", (value, name))
            else:
                self.connection.change("INSERT INTO meta (name, value) VALUES (?, ?)", (name, value))
        self.connection.change(f"DELETE FROM sessions WHERE node = {self.number}")
        texts = identity.bus[:MAX_TEXT], identity.sender, "", identity.host[:MAX_TEXT]
        known = self.number, self.incarnation, identity.address, identity.version, SERVING, head.now, identity.lease
        self.connection.change(
            f"INSERT INTO nodes ({NEIGHBOUR}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, 0, ?, ?, ?, ?, ?, ?, 0)",
            (*known, event, *texts, identity.process, head.now),
        )
        self.finish({})

    def enter(self) -> None:
        """The commit of `register` has happened."""
        self.mark = self.new_mark
        self.horizon = self.new_mark - 1
        self.event = self.own_events()[-1].number
        self.announced.clear()

    def renew_lease(self, can_hint: bool, unheard: Sequence[int], connections: int) -> None:
        """Say that this node lives, whether it can tell the others when there is something for
        them, which ones it does not hear, and how many connections it has.
        """
        self.connection.change(
            f"UPDATE nodes SET renewed = {self.head.now}, event = {self.event}, hints = {int(can_hint)}, "
            f"unheard = '{' '.join(map(str, unheard))[:MAX_TEXT]}', connections = {connections} "
            f"WHERE id = {self.number}"
        )

    def remove_node(self, id: int) -> None:
        """Remove a node that is dead: from now on it can write nothing."""
        self.connection.change(f"DELETE FROM nodes WHERE id = {id}")
        self.connection.change(f"DELETE FROM sessions WHERE node = {id}")
        self.connection.change(f"UPDATE meta SET value = 0 WHERE name = 'node.{id}'")
        self.announce("down", id)

    def leave(self) -> None:
        """This node stops, and writes nothing any more. Its users may come back elsewhere."""
        self.connection.change(
            f"UPDATE nodes SET state = {DRAINING}, renewed = {self.head.now}, connections = 0 WHERE id = {self.number}"
        )
        self.connection.change(f"UPDATE meta SET value = 0 WHERE name = 'node.{self.number}'")


def cluster_id(dao: Dao, new: int) -> int:
    """The random number that names the channels of a cluster; `new` if it has none yet.

    Call it within a transaction, while the database is claimed.
    """
    rows = dao.connection.query("SELECT value FROM meta WHERE name = 'cluster_id'")
    if rows:
        return int(rows[0][0])
    dao.connection.change("INSERT INTO meta (name, value) VALUES ('cluster_id', ?)", (new,))
    return new


def read_nodes(connection: DatabaseConnection) -> list[tuple[Neighbour, int, int]]:
    """The nodes that are known, each with the time of the database and how many sessions it has."""
    rows = connection.query(
        f"SELECT {NEIGHBOUR}, {connection.utc_ms}, (SELECT COUNT(*) FROM sessions WHERE node = nodes.id) "
        "FROM nodes ORDER BY id"
    )
    return [(Neighbour(*row[:-2]), int(row[-2]), int(row[-1])) for row in rows]
