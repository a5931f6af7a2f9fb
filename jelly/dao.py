"""All SQL of the server: one method for each question and each change.

A `Dao` works over one `DatabaseConnection`, so it belongs to one thread at a time. Reads may run on
any thread. Only the store thread (`store.py`) calls methods that write, inside its transaction.
That is why a method may read first and then write. All methods raise StoreError when the database
fails.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import NamedTuple, TypeVar

from jelly.database import DatabaseConnection
from jelly.errors import StoreError
from jelly.names import nfkc
from jelly.trusted_clock import FIRST_DATED, IDS_PER_MS, MAX_ID, MS, Times, TrustedClock

VALUES_PER_STATEMENT = 100
"""At most this many values are in one statement of varying length."""

INSERT_MESSAGE = (
    "INSERT INTO messages "
    "(id, is_group, sender, receiver, content, time, request_id, digest, replaces, edited, device) "
    "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
)
INSERT_INBOX = "INSERT INTO inbox (receiver, message_id, size) VALUES (?, ?, ?)"
DELIVERED_TO_ALL = (
    "NOT EXISTS (SELECT 1 FROM inbox WHERE inbox.message_id = messages.id) "
    "AND NOT EXISTS (SELECT 1 FROM inbox WHERE inbox.message_id = messages.edited)"  # an edit has no text of its own
)
WITHIN_PAGE = (
    "m.id >= ? AND m.id < ? AND m.replaces IS NULL "
    "AND NOT EXISTS (SELECT 1 FROM inbox AS i WHERE i.receiver = ? AND i.message_id = m.id AND i.message_id > ? "
    "AND (i.size >= 0 OR m.device <> ?))"
)
"""What a page has that a session asks for: no edits, and nothing that comes as a notice later. The
last parameter is its device, None if that has no name: then own messages never come as notices."""
OWN_COPY = -1
"""The size, in the inbox, of a message that the receiver has written on another device."""
COUNTS = (
    "i.size >= 0 AND NOT EXISTS "
    "(SELECT 1 FROM devices AS d WHERE d.username = i.receiver AND d.delivered >= i.message_id)"
)
"""Whether a row of an inbox counts for quotas: not if it only waits for a slower device."""

T = TypeVar("T")


class DatabaseWentBack(StoreError):
    """The database holds an older state than the one that was committed last."""

    def __init__(self) -> None:
        super().__init__("the database has gone back to an older state")


class SchemaChanged(StoreError):
    """Another program has migrated the database since this one started."""

    def __init__(self, version: int, known: int) -> None:
        super().__init__(
            f"the database has schema version {version} now, and this program knows {known}: start the version of "
            "Jelly that the other nodes have"
        )


class LeaseLost(StoreError):
    """The other nodes have declared this one dead: what it knows is out of date."""

    def __init__(self) -> None:
        super().__init__("this node was silent for too long, and the others have declared it dead")


class StoredMessage(NamedTuple):
    """A message as the table holds it. `receiver` is a group if `is_group`, else a person.

    (The text of an edit is in the row of the message that it replaces: see `edits_dao.py`.)
    """

    id: int
    is_group: bool
    sender: str
    receiver: str
    content: str
    time: int
    request_id: str | None = None
    digest: int | None = None
    replaces: int | None = None
    """Of an edit: the message that it edits."""
    edited: int | None = None
    """The last edit of this message."""
    device: str | None = None
    """Where it was written, if other devices of its sender get it, too. (Only what is being stored,
    or pushed, has it.)"""


MESSAGE = "m.id, m.is_group, m.sender, m.receiver, m.content, m.time, NULL, NULL, m.replaces, m.edited"
TEXT_FOR_RECEIVER = "COALESCE(i.text, o.content, m.content)"
"""The text that a receiver gets of the message `m` by the row `i` of its inbox. `o` is joined by
WITH_ORIGINAL."""
WITH_ORIGINAL = "LEFT JOIN messages AS o ON o.id = m.replaces"


class HistoryQuery(NamedTuple):
    """What a reader asks of a history: the newest messages of a conversation, since <= id < before.

    Messages in the reader's inbox with ids above `sent_id` are left out: they come as notices
    later.
    """

    reader: str
    is_group: bool
    partner: str
    """The other person, or the group."""
    since: int
    """The first id that the reader may see."""
    before: int
    """All ids are smaller."""
    sent_id: int
    """The last id that was sent to the reader's session."""
    device: str | None
    """Where the session is, None if its device has no name."""


class Dao:
    """The queries, over one connection."""

    def __init__(self, connection: DatabaseConnection, clock: TrustedClock | None = None) -> None:
        """`clock`: for ids that carry the time. Without one they are counted."""
        self.connection = connection
        self._clock = clock
        self.mark = 0
        """The mark as of the last commit; 0: only the database knows it."""
        self.new_mark = 1
        """The mark that the transaction has made that is open, or was open last."""
        self._next_id = 1
        self._dated_mark = MAX_ID  # a commit of this mark or a later one has settled the row first_dated

    # --- users and tokens -------------------------------------------------------------------------

    def has_user(self, username: str) -> bool:
        return bool(self.connection.query("SELECT 1 FROM users WHERE username = ?", (username,)))

    def password_hash(self, username: str) -> str | None:
        rows = self.connection.query("SELECT password FROM users WHERE username = ?", (username,))
        return rows[0][0] if rows else None

    def credentials(self, username: str, network: str) -> tuple[str | None, int | None]:
        """A user's password hash, and when the user was last noted to log in from a network."""
        rows = self.connection.query(
            "SELECT password, (SELECT used FROM known_addresses AS k WHERE k.username = u.username AND k.network = ?) "
            "FROM users AS u WHERE u.username = ?",
            (network, username),
        )
        return (rows[0][0], rows[0][1]) if rows else (None, None)

    def remember_address(self, username: str, network: str, now: int, keep: int) -> None:
        """Note that a user has logged in from a network now; drop the oldest beyond `keep`."""
        rows = self.connection.query(
            "SELECT network FROM known_addresses WHERE username = ? ORDER BY used DESC", (username,)
        )
        known = [each for (each,) in rows]
        if network not in known:
            for surplus in known[keep - 1 :]:
                self.connection.change(
                    "DELETE FROM known_addresses WHERE username = ? AND network = ?", (username, surplus)
                )
            self.connection.change(
                "INSERT INTO known_addresses (username, network, used) VALUES (?, ?, ?)", (username, network, now)
            )
        else:
            self.connection.change(
                "UPDATE known_addresses SET used = ? WHERE username = ? AND network = ?", (now, username, network)
            )

    def remove_old_addresses(self, before: int, limit: int) -> bool:
        """Forget at most `limit` networks that were last used before a time; whether there were
        any.
        """
        rows = self.connection.query(
            "SELECT username, network FROM known_addresses WHERE used < ? ORDER BY used LIMIT ?", (before, limit)
        )
        for chunk in _chunks(rows):
            which = " OR ".join(["(username = ? AND network = ?)"] * len(chunk))
            self.connection.change(
                f"DELETE FROM known_addresses WHERE {which}", [value for row in chunk for value in row]
            )
        return bool(rows)

    def hash_costs(self, sample: int) -> dict[int, int]:
        """How many of the first `sample` users have a password hash of which cost."""
        rows = self.connection.query(
            "SELECT start, COUNT(*) FROM "
            "(SELECT SUBSTR(password, 1, 10) AS start FROM users ORDER BY username LIMIT ?) AS sample GROUP BY start",
            (sample,),
        )
        return {int(start.split("$")[1]): count for start, count in rows}

    def is_username_taken(self, username: str) -> bool:
        """Whether a user has, or had, this name, or one with the same NFKC form."""
        form = nfkc(username)
        for table in ("users", "deleted_names"):
            found = f"SELECT 1 FROM {table} WHERE username = ? OR nfkc = ? LIMIT 1"
            if self.connection.query(found, (username, form)):
                return True
        return False

    def has_been_modern(self, username: str) -> bool:
        """Whether a user has ever logged in with a modern client."""
        return bool(self.connection.query("SELECT 1 FROM users WHERE username = ? AND modern = 1", (username,)))

    def note_modern_login(self, username: str) -> None:
        """Remember that a user has logged in with a modern client."""
        self.connection.change("UPDATE users SET modern = 1 WHERE username = ? AND modern = 0", (username,))

    def usernames(self, after: str, limit: int) -> list[str]:
        """The first names of users behind a name, in the order of the database."""
        rows = self.connection.query(
            "SELECT username FROM users WHERE username > ? ORDER BY username LIMIT ?", (after, limit)
        )
        return [username for (username,) in rows]

    def add_user(self, username: str, password_hash: str) -> None:
        self.connection.change(
            "INSERT INTO users (username, password, nfkc) VALUES (?, ?, ?)", (username, password_hash, nfkc(username))
        )

    def profile(self, username: str) -> dict[str, str | None]:
        """The profile's fields in the protocol's order, None for those that were never set."""
        fields = ("name", "sex", "age", "phone", "address", "introduction")
        rows = self.connection.query(f"SELECT {', '.join(fields)} FROM users WHERE username = ?", (username,))
        return dict(zip(fields, rows[0] if rows else [None] * len(fields), strict=True))

    def update_user(self, username: str, values: Mapping[str, str | int]) -> None:
        """Set columns of a user; the keys come from the program, never from a client."""
        columns = ", ".join(f"{column} = ?" for column in values)
        self.connection.change(f"UPDATE users SET {columns} WHERE username = ?", (*values.values(), username))

    def add_token(
        self,
        token_hash: str,
        username: str,
        expires: int,
        now: int,
        keep: int,
        created: int = 0,
        network: str = "",
        device: str = "",
    ) -> None:
        """Store a token; drop the user's expired ones, and the oldest beyond `keep`."""
        self.connection.change("DELETE FROM tokens WHERE username = ? AND expires <= ?", (username, now))
        older = self.connection.query(
            "SELECT token_hash FROM tokens WHERE username = ? ORDER BY expires DESC", (username,)
        )
        for (surplus,) in older[keep - 1 :]:
            self.connection.change("DELETE FROM tokens WHERE token_hash = ?", (surplus,))
        self.connection.change(
            "INSERT INTO tokens (token_hash, username, expires, created, network, device) VALUES (?, ?, ?, ?, ?, ?)",
            (token_hash, username, expires, created, network, device),
        )

    def token_owner(self, token_hash: str, now: int) -> tuple[str, str] | None:
        """Whom a token logs in, and on which device; None if it is not valid."""
        rows = self.connection.query(
            "SELECT username, device FROM tokens WHERE token_hash = ? AND expires > ?", (token_hash, now)
        )
        return rows[0] if rows else None

    def remove_token(self, token_hash: str, username: str) -> None:
        self.connection.change("DELETE FROM tokens WHERE token_hash = ? AND username = ?", (token_hash, username))

    def remove_tokens(self, username: str) -> None:
        self.connection.change("DELETE FROM tokens WHERE username = ?", (username,))

    def remove_old_tokens(self, after: str, now: int, limit: int) -> str | None:
        """Look at the next `limit` tokens, in the order of their hashes; drop the expired ones.

        Returns the last hash that was looked at, None if there is none behind `after`.
        """
        rows = self.connection.query(
            "SELECT MAX(token_hash) FROM "
            "(SELECT token_hash FROM tokens WHERE token_hash > ? ORDER BY token_hash LIMIT ?) AS slice",
            (after, limit),
        )
        last: str | None = rows[0][0]
        if last is not None:
            self.connection.change(
                "DELETE FROM tokens WHERE token_hash > ? AND token_hash <= ? AND expires <= ?", (after, last, now)
            )
        return last

    # --- commands of an operator, for the running server ------------------------------------------

    def add_command(self, id: str, action: str, username: str, password_hash: str) -> None:
        """Ask the running server for something. Only `jelly user` does that."""
        self.connection.change(
            "INSERT INTO operator_commands (id, action, username, password) VALUES (?, ?, ?, ?)",
            (id, action, username, password_hash),
        )

    def waiting_commands(self, id: str | None = None) -> list[tuple[str, str, str, str]]:
        """The commands that wait, or one of them: (id, action, username, password hash)."""
        which = "" if id is None else " AND id = ?"
        return self.connection.query(
            f"SELECT id, action, username, password FROM operator_commands WHERE result = ''{which} ORDER BY id",
            () if id is None else (id,),
        )

    def finish_command(self, id: str, result: str, now: int, forget_before: int) -> None:
        """Note the result of a command, and forget old results that nobody has fetched."""
        self.connection.change(
            "UPDATE operator_commands SET result = ?, password = '', finished = ? WHERE id = ?", (result, now, id)
        )
        self.connection.change("DELETE FROM operator_commands WHERE result <> '' AND finished < ?", (forget_before,))

    def command_result(self, id: str) -> str | None:
        """The result of a command: empty while it waits, None if there is no such command."""
        rows = self.connection.query("SELECT result FROM operator_commands WHERE id = ?", (id,))
        return rows[0][0] if rows else None

    def withdraw_command(self, id: str) -> None:
        """Remove a command, whether it waits or is done."""
        self.connection.change("DELETE FROM operator_commands WHERE id = ?", (id,))

    # --- friends ----------------------------------------------------------------------------------

    def friends(self, username: str, after: str, limit: int) -> list[str]:
        """The friends of a user whose names come after another, at most `limit`, in order."""
        rows = self.connection.query(
            "SELECT friend FROM friends WHERE username = ? AND friend > ? ORDER BY friend LIMIT ?",
            (username, after, limit),
        )
        return [friend for (friend,) in rows]

    def is_friend(self, username: str, friend: str) -> bool:
        return bool(
            self.connection.query("SELECT 1 FROM friends WHERE username = ? AND friend = ?", (username, friend))
        )

    def count_friends(self, username: str) -> int:
        return int(self.connection.query("SELECT COUNT(*) FROM friends WHERE username = ?", (username,))[0][0])

    def add_friend(self, username: str, friend: str) -> None:
        self.connection.change("INSERT INTO friends (username, friend) VALUES (?, ?)", (username, friend))

    def remove_friend(self, username: str, friend: str) -> None:
        self.connection.change("DELETE FROM friends WHERE username = ? AND friend = ?", (username, friend))

    # --- groups -----------------------------------------------------------------------------------

    def group(self, name: str) -> tuple[str, list[str]] | None:
        """A group's owner and its members, the owner first; None if there is no such group."""
        rows = self.connection.query("SELECT creator FROM chat_groups WHERE name = ?", (name,))
        if not rows:
            return None
        members = self.connection.query("SELECT username FROM members WHERE group_name = ? ORDER BY position", (name,))
        return rows[0][0], [member for (member,) in members]

    def group_names(self, username: str, first: str, limit: int) -> list[str]:
        """The groups that a user is in, from the name `first` on, at most `limit`, in order."""
        rows = self.connection.query(
            "SELECT group_name FROM members WHERE username = ? AND group_name >= ? ORDER BY group_name LIMIT ?",
            (username, first, limit),
        )
        return [name for (name,) in rows]

    def members_of(self, groups: Sequence[str], after: int, limit: int) -> list[tuple[str, str, int, int]]:
        """The members of some groups with a position above `after`: (group, member, position,
        role).

        At most `limit`, by group and then by position, so the owner of each group first.
        """
        # (A join with the groups of a user would be one query for all; but MySQL would sort all of
        # its rows before it takes the first ones.)
        return self.connection.query(
            "SELECT group_name, username, position, role FROM members "
            f"WHERE group_name IN ({', '.join('?' * len(groups))}) "
            "AND position > ? ORDER BY group_name, position LIMIT ?",
            (*groups, after, limit),
        )

    def count_own_groups(self, username: str) -> int:
        """How many groups a user owns."""
        return int(self.connection.query("SELECT COUNT(*) FROM chat_groups WHERE creator = ?", (username,))[0][0])

    def count_groups_of(self, username: str) -> int:
        return int(self.connection.query("SELECT COUNT(*) FROM members WHERE username = ?", (username,))[0][0])

    def is_group_name_taken(self, name: str) -> bool:
        """Whether a group has this name, or one with the same NFKC form."""
        found = "SELECT 1 FROM chat_groups WHERE name = ? OR nfkc = ? LIMIT 1"
        return bool(self.connection.query(found, (name, nfkc(name))))

    def add_group(self, name: str, creator: str) -> None:
        self.connection.change(
            "INSERT INTO chat_groups (name, creator, nfkc) VALUES (?, ?, ?)", (name, creator, nfkc(name))
        )
        self._insert_member(name, creator, 0)

    def remove_group(self, name: str) -> None:
        self.connection.change("DELETE FROM members WHERE group_name = ?", (name,))
        self.connection.change("DELETE FROM chat_groups WHERE name = ?", (name,))

    def add_member(self, group: str, username: str) -> None:
        last = self.connection.query("SELECT MAX(position) FROM members WHERE group_name = ?", (group,))[0][0]
        self._insert_member(group, username, last + 1)

    def _insert_member(self, group: str, username: str, position: int) -> None:
        self.connection.change(
            "INSERT INTO members (group_name, username, position, since) VALUES (?, ?, ?, ?)",
            (group, username, position, self.peek_id()),
        )

    def remove_member(self, group: str, username: str) -> None:
        self.connection.change("DELETE FROM members WHERE group_name = ? AND username = ?", (group, username))

    def member_since(self, group: str, username: str) -> int | None:
        """The first id that a member may read of a group; None if the user is not a member."""
        rows = self.connection.query(
            "SELECT since FROM members WHERE group_name = ? AND username = ?", (group, username)
        )
        return int(rows[0][0]) if rows else None

    # --- messages ---------------------------------------------------------------------------------

    # The row 'next_id' of meta is the next id of a message, and the *mark*: each transaction of the
    # store thread moves it first of all. So no id is given twice, whatever happens to the process.
    # If the mark is not what the last transaction has made it, the database has gone back. If a
    # commit fails, the mark tells later whether it happened.

    def move_mark(self, count: int) -> None:
        """Begin a transaction of the store thread, which allocates at most `count` ids.

        After its commit set `mark` to `new_mark`. Raises DatabaseWentBack if the database does not
        hold the last transaction any more.
        """
        old = self.mark = self.mark or self.read_mark()
        is_dated = self._choose_ids(old, count)
        move = "UPDATE meta SET value = ? WHERE name = 'next_id' AND value = ?"
        if self.connection.execute(move, (self.new_mark, old)) != 1:
            raise DatabaseWentBack
        if self._clock is not None:
            self._note_times(self._clock, is_dated, old)

    def _choose_ids(self, first: int, count: int) -> bool:
        """Choose ids from `first` on, at most `count`, and a new mark. Returns whether they may be
        taken for times.
        """
        # What was allocated in a transaction that failed is not allocated again.
        next_id = max(first, self.new_mark)
        now_id, is_dated = self._clock.id_now(next_id) if self._clock is not None else (0, True)
        self._next_id = max(next_id, now_id)
        self.new_mark = self._next_id + (count or 1)  # at least one: no two transactions have the same mark
        if self.new_mark > MAX_ID:
            raise StoreError("all ids of messages are used")
        return is_dated

    def _note_times(self, clock: TrustedClock, is_dated: bool, old: int) -> None:
        """Remember what the clock needs at the next start, and which ids may be taken for times."""
        change = "UPDATE meta SET value = ? WHERE name = ?"
        if not is_dated:  # what is stored now is younger than its id says
            self._dated_mark = MAX_ID
            self.connection.change(change, (MAX_ID, "first_dated"))
        elif old < FIRST_DATED <= self._next_id:
            self.connection.change(change, (self._next_id, "first_dated"))
        elif old < self._dated_mark:
            self._dated_mark = self.new_mark
            self.connection.change(f"{change} AND value = ?", (self._next_id, "first_dated", MAX_ID))
        times = clock.times_to_note()
        if times is not None:
            for name, value in times._asdict().items():
                self.connection.change(change, (value, name))

    def announce(self, kind: str, *values: object) -> None:
        """Tell the other nodes what this transaction changes. (A single server has none.)"""

    def read_times(self) -> Times:
        """What the database remembers of the clock."""
        rows: dict[str, int] = dict(self.connection.query("SELECT name, value FROM meta"))
        return Times(*(int(rows[name]) for name in Times._fields))

    def read_mark(self) -> int:
        """The mark that the database has."""
        rows = self.connection.query("SELECT value FROM meta WHERE name = 'next_id'")
        if not rows:
            raise StoreError("the table meta has lost its row next_id: restore a backup")
        return int(rows[0][0])

    def peek_id(self) -> int:
        """The id that the next message is going to have; it is not allocated."""
        return self._next_id

    def allocate_id(self) -> int:
        """An id for a new message, of those for which the mark was moved."""
        id = self._next_id
        assert id < self.new_mark, "move_mark was told of fewer ids"
        self._next_id = id + 1
        return id

    def add_messages(self, messages: Sequence[StoredMessage], inbox: Sequence[tuple[str, int]]) -> None:
        """Store messages, and for each receiver of one a row (receiver, id) in the inbox."""
        sizes, senders, rows = {}, {}, []
        has_edits = False
        for message in messages:
            sizes[message.id] = len(message.content.encode())
            if message.device is not None:
                senders[message.id] = message.sender
            has_edits = has_edits or message.replaces is not None
        if has_edits:
            messages = [each if each.replaces is None else each._replace(content="") for each in messages]
        # In the order of the table, so that each of its pages is looked up once: with 1,000
        # receivers that saves a third of the time.
        for receiver, id in sorted(inbox):
            rows.append((receiver, id, OWN_COPY if senders and senders.get(id) == receiver else sizes[id]))
        self.connection.insert((INSERT_MESSAGE, messages), (INSERT_INBOX, rows))

    def waiting(
        self, receiver: str, after: int, limit: int, upto: int = MAX_ID, device: str | None = None
    ) -> list[StoredMessage]:
        """The oldest messages in a user's inbox with after < id <= upto, at most `limit`; of the
        user's own those that were written on another device than this. (None: none of them.)
        """
        rows = self.connection.query(
            f"SELECT {MESSAGE.replace('m.content', TEXT_FOR_RECEIVER)} FROM inbox AS i "
            f"JOIN messages AS m ON m.id = i.message_id {WITH_ORIGINAL} "
            "WHERE i.receiver = ? AND i.message_id > ? AND i.message_id <= ? AND (i.size >= 0 OR m.device <> ?) "
            "ORDER BY i.message_id LIMIT ?",
            (receiver, after, upto, device, limit),
        )
        return [StoredMessage(*row) for row in rows]

    def remove_delivered(self, delivered: Iterable[tuple[str, int]], keep: bool, alone: bool = False) -> None:
        """For each (receiver, id): empty the inbox up to and including that id; or with `alone`,
        take out that id only.

        Without `keep`, also drop the messages that are in no inbox any more.
        """
        row = "(receiver = ? AND message_id = ?)" if alone else "(receiver = ? AND message_id <= ?)"
        for chunk in _chunks(list(delivered)):
            # Joined by OR, because on MySQL each statement is a round trip.
            which = " OR ".join([row] * len(chunk))
            parameters = [value for pair in chunk for value in pair]
            if keep:
                self.connection.change(f"DELETE FROM inbox WHERE {which}", parameters)
                continue
            rows = self.connection.query(f"SELECT DISTINCT message_id FROM inbox WHERE {which}", parameters)
            self.connection.change(f"DELETE FROM inbox WHERE {which}", parameters)
            for ids in _chunks([id for (id,) in rows]):
                some = ", ".join("?" * len(ids))
                edited = self.connection.query(
                    f"SELECT replaces FROM messages WHERE id IN ({some}) AND replaces IS NOT NULL", ids
                )
                for old in _chunks([*ids, *(id for (id,) in edited)]):
                    self.connection.change(
                        f"DELETE FROM messages WHERE id IN ({', '.join('?' * len(old))}) AND {DELIVERED_TO_ALL}", old
                    )

    # --- quotas -----------------------------------------------------------------------------------

    def inbox_totals(self, receivers: Sequence[str]) -> dict[str, tuple[int, int, int]]:
        """For each receiver for whom anything waits: messages, bytes of text, and the last id."""
        totals = {}
        for chunk in _chunks(receivers):
            rows = self.connection.query(
                "SELECT i.receiver, COUNT(*), SUM(i.size), MAX(i.message_id) FROM inbox AS i "
                f"WHERE i.receiver IN ({', '.join('?' * len(chunk))}) AND {COUNTS} GROUP BY i.receiver",
                chunk,
            )
            totals.update({receiver: (count, int(size), last) for receiver, count, size, last in rows})
        return totals

    def inbox_senders(self, receiver: str, upto: int = MAX_ID) -> list[tuple[str, int, int]]:
        """Whose messages up to an id wait for a receiver: (sender, messages, bytes)."""
        rows = self.connection.query(
            "SELECT m.sender, COUNT(*), SUM(i.size) FROM inbox AS i JOIN messages AS m ON m.id = i.message_id "
            f"WHERE i.receiver = ? AND i.message_id <= ? AND {COUNTS} GROUP BY m.sender",
            (receiver, upto),
        )
        return [(sender, count, int(size)) for sender, count, size in rows]

    def acquaintances(self, receiver: str, senders: Sequence[str]) -> tuple[set[str], set[str]]:
        """Those of some senders who are on a receiver's friend list, and those in a group with it.

        The receiver counts as its own friend.
        """
        friends: set[tuple[str]] = {(receiver,)}
        mates: set[tuple[str]] = set()
        for chunk in _chunks(senders):
            which = ", ".join("?" * len(chunk))
            friends.update(
                self.connection.query(
                    f"SELECT friend FROM friends WHERE username = ? AND friend IN ({which})", (receiver, *chunk)
                )
            )
            mates.update(
                self.connection.query(
                    "SELECT DISTINCT theirs.username FROM members AS own "
                    "JOIN members AS theirs ON theirs.group_name = own.group_name "
                    f"WHERE own.username = ? AND theirs.username IN ({which})",
                    (receiver, *chunk),
                )
            )
        return {name for (name,) in friends}, {name for (name,) in mates}

    def last_waiting_id(self) -> int:
        """The id of the newest message that waits for anybody; 0 if none does."""
        return int(self.connection.query("SELECT MAX(message_id) FROM inbox")[0][0] or 0)

    def waiting_senders(self, after: int, upto: int, limit: int) -> tuple[int | None, list[tuple[str, int]]]:
        """Look at `limit` rows of all inboxes with ids after < id <= upto: whose messages are they?

        Returns the last id that was looked at (None if there is none), and for each sender how many
        messages, each counted once however many wait for it.
        """
        rows = self.connection.query(
            "SELECT m.sender, SUM(waiting.counts), MAX(m.id) FROM (SELECT message_id, MAX(counts) AS counts FROM "
            f"(SELECT i.message_id AS message_id, CASE WHEN {COUNTS} THEN 1 ELSE 0 END AS counts FROM inbox AS i "
            "WHERE i.message_id > ? AND i.message_id <= ? ORDER BY i.message_id LIMIT ?) AS slice "
            "GROUP BY message_id) AS waiting JOIN messages AS m ON m.id = waiting.message_id GROUP BY m.sender",
            (after, upto, limit),
        )
        return max((last for _, _, last in rows), default=None), [(sender, int(count)) for sender, count, _ in rows]

    def missed(self, username: str) -> dict[str, int]:
        """The groups of which messages were left out of a user's inbox, each with the first id."""
        return dict(self.connection.query("SELECT group_name, since FROM missed WHERE username = ?", (username,)))

    def add_missed(self, username: str, group: str, since: int) -> None:
        self.connection.change(
            "INSERT INTO missed (username, group_name, since) VALUES (?, ?, ?)", (username, group, since)
        )

    def remove_missed(self, username: str, groups: Sequence[str]) -> None:
        for chunk in _chunks(groups):
            which = ", ".join("?" * len(chunk))
            self.connection.change(
                f"DELETE FROM missed WHERE username = ? AND group_name IN ({which})", (username, *chunk)
            )

    # --- deferred indexing and history ------------------------------------------------------------

    # The table history finds messages by conversation, requests by idempotency key.

    def indexed_id(self) -> int:
        """Messages up to and including this id are indexed."""
        return int(self.connection.query("SELECT value FROM meta WHERE name = 'indexed'")[0][0])

    def index_messages(self, after: int, limit: int, with_history: bool) -> tuple[int | None, int]:
        """Index the messages with ids above `after`, at most `limit`.

        Returns the id of the last one (None if there is none), and how many they are.
        """
        upto, count = self._slice_end("messages", "id", after, MAX_ID, limit)
        if upto is None:
            return None, 0
        if with_history:
            self.connection.change(
                "INSERT INTO history (message_id, is_group, one_side, other_side) SELECT id, is_group, "
                "CASE WHEN is_group = 1 OR receiver < sender THEN receiver ELSE sender END, "
                "CASE WHEN is_group = 1 THEN '' WHEN receiver < sender THEN sender ELSE receiver END "
                "FROM messages WHERE id > ? AND id <= ? AND replaces IS NULL",
                (after, upto),
            )
        self.connection.change(
            "INSERT INTO requests (message_id, sender, request_id, digest) SELECT id, sender, request_id, digest "
            "FROM messages WHERE id > ? AND id <= ? AND request_id IS NOT NULL",
            (after, upto),
        )
        self.connection.change("UPDATE meta SET value = ? WHERE name = 'indexed'", (upto,))
        return upto, count

    def unindexed_requests(self, after: int) -> list[tuple[int, str, str, int]]:
        """The messages above an id that have a requestId: (id, sender, requestId, digest)."""
        return self.connection.query(
            "SELECT id, sender, request_id, digest FROM messages WHERE id > ? AND request_id IS NOT NULL ORDER BY id",
            (after,),
        )

    def indexed_requests(self, wanted: Iterable[tuple[str, str]]) -> dict[tuple[str, str], tuple[int, int]]:
        """Return id and digest for each of these keys (sender, requestId) that is indexed."""
        found = {}
        for chunk in _chunks(list(wanted)):
            which = " OR ".join(["(sender = ? AND request_id = ?)"] * len(chunk))
            rows = self.connection.query(
                f"SELECT sender, request_id, message_id, digest FROM requests WHERE {which}",
                [value for pair in chunk for value in pair],
            )
            found.update({(sender, request_id): (id, digest) for sender, request_id, id, digest in rows})
        return found

    def history_page(self, query: HistoryQuery, limit: int) -> list[StoredMessage]:
        """The newest messages that a query asks for, the newest first, at most `limit`."""
        # If a message is indexed between the two queries, its id is above this one: the first has
        # found it.
        indexed = self.indexed_id()
        reader, partner = query.reader, query.partner
        if query.is_group:
            belongs, sides = "m.receiver = ?", [partner]
            one_side, other_side = partner, ""
        else:
            belongs, sides = "m.sender IN (?, ?) AND m.receiver = CASE m.sender WHEN ? THEN ? ELSE ? END", [
                reader, partner, reader, partner, reader,
            ]  # fmt: skip
            one_side, other_side = min(reader, partner), max(reader, partner)
        bounds = (query.since, query.before, reader, query.sent_id, query.device, limit)
        unindexed = self.connection.query(
            f"SELECT {MESSAGE} FROM messages AS m WHERE m.id > ? AND m.is_group = ? AND {belongs} "
            f"AND {WITHIN_PAGE} ORDER BY m.id DESC LIMIT ?",
            (indexed, query.is_group, *sides, *bounds),
        )
        rows = self.connection.query(
            f"SELECT {MESSAGE} FROM history AS h JOIN messages AS m ON m.id = h.message_id "
            "WHERE h.message_id <= ? AND h.is_group = ? AND h.one_side = ? AND h.other_side = ? "
            f"AND {WITHIN_PAGE} ORDER BY h.message_id DESC LIMIT ?",
            (indexed, query.is_group, one_side, other_side, *bounds),
        )
        return [StoredMessage(*row) for row in (unindexed + rows)[:limit]]

    # --- retention --------------------------------------------------------------------------------

    def id_at(self, time: float) -> int:
        """All messages below this id were stored before a time, in seconds since 1970.

        Ids that do not carry the time count as stored when the first one that does was given. While
        ids are counted, because the clock is not believed, none counts as older than any time.
        """
        first_dated = int(self.connection.query("SELECT value FROM meta WHERE name = 'first_dated'")[0][0])
        id = int(time * MS) * IDS_PER_MS
        return id if first_dated and id > first_dated else 0

    def remove_old_messages(self, after: int, before: int, limit: int) -> int | None:
        """Look at the first `limit` messages with after < id < before; drop those in no inbox.

        Returns the last id that was looked at, None if there is no such message.
        """
        upto, _ = self._slice_end("messages", "id", after, before, limit)
        if upto is not None:
            self.connection.change(
                f"DELETE FROM messages WHERE id > ? AND id <= ? AND {DELIVERED_TO_ALL}", (after, upto)
            )
            self.connection.change("DELETE FROM history WHERE message_id <= ?", (upto,))
        return upto

    def remove_old_requests(self, before: int, limit: int) -> bool:
        """Forget at most `limit` requestIds of messages below an id; whether there were any."""
        upto, _ = self._slice_end("requests", "message_id", 0, before, limit)
        if upto is not None:
            self.connection.change("DELETE FROM requests WHERE message_id <= ?", (upto,))
        return upto is not None

    def _slice_end(self, table: str, id: str, after: int, before: int, limit: int) -> tuple[int | None, int]:
        """Of the first `limit` rows between two ids: the last id (None if none), and how many."""
        [(last, count)] = self.connection.query(
            f"SELECT MAX({id}), COUNT(*) FROM "
            f"(SELECT {id} FROM {table} WHERE {id} > ? AND {id} < ? ORDER BY {id} LIMIT ?) AS slice",
            (after, before, limit),
        )
        return last, count


def _chunks(values: Sequence[T]) -> Iterator[Sequence[T]]:
    for start in range(0, len(values), VALUES_PER_STATEMENT):
        yield values[start : start + VALUES_PER_STATEMENT]


Reading = Callable[[], AbstractContextManager[Dao]]
"""Opens a Dao for queries on the calling thread. Another worker may run meanwhile."""
