"""The SQL of conversations: who has one with whom, how far each has read, and what came last.

Each user has a row in the table `read_pointers` for each person with whom messages were exchanged:
indexing makes it (`indexing.py`), so that a message costs nothing for it. For a group, the first
READ of a member makes it. The row has the *read pointer*: the user has read the conversation up to
this message. Only the store thread calls the functions that write, within its transaction. All of
them raise StoreError when the database fails.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from jelly.dao import OWN_COPY, WITHIN_PAGE, Dao

MAX_UNREAD = 100
"""At most this many unread messages are counted."""
MAX_COUNTED_ROWS = 500
"""At most this many messages of a conversation are looked at to count them."""
MAX_UNINDEXED = 2000
"""At most this many messages of a user are looked at that are not indexed yet: those of a
second."""
PREVIEW = 100
"""At most this many characters of the last message are shown."""


class ConversationKey(NamedTuple):
    """A conversation, as one of its members sees it."""

    username: str
    is_group: bool
    partner: str
    """The other person, or the group."""


class Reading(NamedTuple):
    """What a client says of a conversation: its user has read it up to a message."""

    id: int
    sent_id: int
    """Messages up to this id were sent to that client on this connection."""
    may_be_told: bool = False
    """Whether others may know it (`receipts.py`)."""
    device: str | None = None
    """The device on which it was read, if the user has others with a name, which are told; else
    None."""


class LastMessage(NamedTuple):
    """The newest message of a conversation."""

    id: int
    sender: str
    preview: str
    time: int


class Conversation(NamedTuple):
    """What one member sees of a conversation."""

    key: ConversationKey
    last: LastMessage
    unread: int
    """At most MAX_UNREAD."""
    read: int
    """The read pointer; 0 if the user has read nothing."""


# --- the pointers ---------------------------------------------------------------------------------


def add_conversations(dao: Dao, after: int, upto: int) -> None:
    """Make the rows of those who first wrote to each other in a message with after < id <= upto."""
    for username, partner in (("sender", "receiver"), ("receiver", "sender")):
        dao.connection.change(
            "INSERT INTO read_pointers (username, is_group, partner, message_id) "
            f"SELECT DISTINCT m.{username}, 0, m.{partner}, 0 FROM messages AS m "
            "WHERE m.id > ? AND m.id <= ? AND m.is_group = 0 AND NOT EXISTS (SELECT 1 FROM read_pointers AS p "
            f"WHERE p.username = m.{username} AND p.is_group = 0 AND p.partner = m.{partner})",
            (after, upto),
        )


def valid_readings(dao: Dao, readings: Mapping[ConversationKey, Reading]) -> dict[ConversationKey, int]:
    """Return how far has been read, for those that are true: the id is that of a message of the
    conversation that the user may read, and has written or was sent.
    """
    if not readings:
        return {}
    ids = [reading.id for reading in readings.values()]
    which = ", ".join("?" * len(ids))
    rows = dao.connection.query(f"SELECT id, is_group, sender, receiver FROM messages WHERE id IN ({which})", ids)
    messages = {id: (bool(is_group), sender, receiver) for id, is_group, sender, receiver in rows}
    found = {key: each for key, each in readings.items() if each.id in messages and _belongs(key, *messages[each.id])}
    pairs = [(key.username, each.id) for key, each in found.items()]
    inbox = _with_any(dao, "SELECT receiver, message_id, size FROM inbox", ("receiver", "message_id"), pairs)
    waiting = {(receiver, id) for receiver, id, size in inbox if size != OWN_COPY}
    groups = [(key.partner, key.username) for key in found if key.is_group]
    members = _with_any(dao, "SELECT group_name, username, since FROM members", ("group_name", "username"), groups)
    since = {(group, username): first for group, username, first in members}
    return {
        key: each.id
        for key, each in found.items()
        if (each.id <= each.sent_id or (key.username, each.id) not in waiting)
        and (not key.is_group or since.get((key.partner, key.username), each.id + 1) <= each.id)
    }


def _belongs(key: ConversationKey, is_group: bool, sender: str, receiver: str) -> bool:
    """Whether a message is of a conversation."""
    if is_group or key.is_group:
        return is_group and key.is_group and receiver == key.partner
    return (sender, receiver) in ((key.username, key.partner), (key.partner, key.username))


def read_pointers(dao: Dao, keys: Collection[ConversationKey]) -> dict[ConversationKey, int]:
    """The pointers of these conversations, as far as there are rows."""
    columns = ("username", "is_group", "partner")
    rows = _with_any(dao, "SELECT username, is_group, partner, message_id FROM read_pointers", columns, list(keys))
    return {ConversationKey(username, bool(is_group), partner): id for username, is_group, partner, id in rows}


def move_pointers(dao: Dao, readings: Mapping[ConversationKey, Reading]) -> dict[ConversationKey, int]:
    """Move pointers forward, never back. Returns those that have moved, each with where it is."""
    wanted = valid_readings(dao, readings)
    pointers = read_pointers(dao, wanted)
    moved = {key: id for key, id in wanted.items() if id > pointers.get(key, 0)}
    new = [(*key, id) for key, id in moved.items() if key not in pointers]
    if new:
        dao.connection.insert(
            ("INSERT INTO read_pointers (username, is_group, partner, message_id) VALUES (?, ?, ?, ?)", new)
        )
    for key in moved.keys() & pointers.keys():
        dao.connection.change(
            "UPDATE read_pointers SET message_id = ? WHERE username = ? AND is_group = ? AND partner = ?",
            (moved[key], *key),
        )
    return moved


def remove_old_pointers(dao: Dao, after: ConversationKey, before: int, limit: int) -> ConversationKey | None:
    """Look at the next `limit` pointers; drop those of conversations that have no messages any
    more, and those in groups that the user has left. Pointers at `before` and later ones stay.

    Returns the last one that was looked at, None if there is none behind `after`.
    """
    username, is_group, partner = after
    behind = "(username > ? OR (username = ? AND (is_group > ? OR (is_group = ? AND partner > ?))))"
    parameters = (username, username, is_group, is_group, partner)
    rows = dao.connection.query(
        f"SELECT username, is_group, partner FROM read_pointers WHERE username >= ? AND {behind} "
        "ORDER BY username, is_group, partner LIMIT ?",
        (username, *parameters, limit),
    )
    if not rows:
        return None
    last = ConversationKey(rows[-1][0], bool(rows[-1][1]), rows[-1][2])
    dao.connection.change(
        f"DELETE FROM read_pointers WHERE username >= ? AND {behind} AND username <= ? AND "
        "(username < ? OR is_group < ? OR (is_group = ? AND partner <= ?)) AND message_id < ? AND ("
        "NOT EXISTS (SELECT 1 FROM history AS h WHERE h.is_group = read_pointers.is_group AND h.one_side = "
        "CASE WHEN read_pointers.is_group = 1 OR read_pointers.partner < read_pointers.username "
        "THEN read_pointers.partner ELSE read_pointers.username END AND h.other_side = "
        "CASE WHEN read_pointers.is_group = 1 THEN '' WHEN read_pointers.partner < read_pointers.username "
        "THEN read_pointers.username ELSE read_pointers.partner END) OR (read_pointers.is_group = 1 AND NOT EXISTS "
        "(SELECT 1 FROM members AS g WHERE g.group_name = read_pointers.partner "
        "AND g.username = read_pointers.username)))",
        (username, *parameters, last.username, last.username, last.is_group, last.is_group, last.partner, before),
    )
    return last


# --- the list -------------------------------------------------------------------------------------


class Place(NamedTuple):
    """How far a list of conversations has come: those with persons stand before those in groups,
    each in the order of the names.
    """

    is_group: bool
    name: str


def names_behind(dao: Dao, username: str, place: Place, indexed: int, limit: int) -> list[ConversationKey]:
    """The next conversations of a user, at most `limit`. Some of them may have no messages."""
    found: list[ConversationKey] = []
    if not place.is_group:
        rows = dao.connection.query(
            "SELECT partner FROM read_pointers WHERE username = ? AND is_group = 0 AND partner > ? "
            "ORDER BY partner LIMIT ?",
            (username, place.name, limit),
        )
        new = dao.connection.query(
            "SELECT DISTINCT CASE sender WHEN ? THEN receiver ELSE sender END FROM messages "
            "WHERE id > ? AND is_group = 0 AND (sender = ? OR receiver = ?)",
            (username, indexed, username, username),
        )
        names = sorted({partner for (partner,) in rows + new if partner > place.name})
        found = [ConversationKey(username, False, partner) for partner in names[:limit]]
        place = Place(True, "")
    if len(found) < limit:
        rows = dao.connection.query(
            "SELECT group_name FROM members WHERE username = ? AND group_name > ? ORDER BY group_name LIMIT ?",
            (username, place.name, limit - len(found)),
        )
        found += [ConversationKey(username, True, group) for (group,) in rows]
    return found


class View(NamedTuple):
    """What somebody who asks may see now."""

    before: int
    """All ids are smaller."""
    sent_id: int
    """Messages in the inbox with larger ids are left out: they come as notices later."""
    device: str | None
    """Where the session is that asks; None if its device has no name."""
    indexed: int
    """Messages up to this id are found in the table `history`."""


def describe(
    dao: Dao, keys: Sequence[ConversationKey], view: View, readings: Mapping[ConversationKey, int]
) -> list[Conversation]:
    """Return what the user sees of some conversations; those without messages are left out.

    `readings`: how far the user has read, as far as it is not in the table yet.
    """
    if not keys:
        return []
    username = keys[0].username
    pointers = read_pointers(dao, keys)
    groups = [(key.partner, key.username) for key in keys if key.is_group]
    members = _with_any(dao, "SELECT group_name, since FROM members", ("group_name", "username"), groups)
    since = {ConversationKey(username, True, group): first for group, first in members}
    unindexed = _unindexed(dao, username, [group for group, _ in groups], view)
    found = []
    for key in keys:
        if key.is_group and key not in since:
            continue  # left meanwhile
        first, read = since.get(key, 0), max(pointers.get(key, 0), readings.get(key, 0))
        new = [(id, sender) for id, sender in unindexed.get(key, ()) if id >= first]
        last = _message(dao, new[0][0]) if new else _last_indexed(dao, key, first, view)
        if last is not None:
            unread = sum(sender != username and id > read for id, sender in new)
            if last.id > read and unread < MAX_UNREAD:
                unread += _count_indexed(dao, key, max(first, read + 1), view)
            found.append(Conversation(key, last, min(unread, MAX_UNREAD), read))
    return found


def _unindexed(
    dao: Dao, username: str, groups: Sequence[str], view: View
) -> dict[ConversationKey, list[tuple[int, str]]]:
    """For each conversation the messages that are not indexed yet: (id, sender), the newest
    first.
    """
    in_groups = f" OR (m.is_group = 1 AND m.receiver IN ({', '.join('?' * len(groups))}))" if groups else ""
    rows = dao.connection.query(
        "SELECT m.id, m.is_group, m.sender, m.receiver FROM messages AS m WHERE m.id > ? AND "
        f"((m.is_group = 0 AND (m.sender = ? OR m.receiver = ?)){in_groups}) AND {WITHIN_PAGE} "
        "ORDER BY m.id DESC LIMIT ?",
        (view.indexed, username, username, *groups, 0, view.before, username, view.sent_id, view.device, MAX_UNINDEXED),
    )
    found: dict[ConversationKey, list[tuple[int, str]]] = {}
    for id, is_group, sender, receiver in rows:
        partner = receiver if is_group or sender == username else sender
        found.setdefault(ConversationKey(username, bool(is_group), partner), []).append((id, sender))
    return found


MESSAGE = f"m.id, m.sender, SUBSTR(m.content, 1, {PREVIEW}), m.time"
OF_CONVERSATION = (
    "history AS h JOIN messages AS m ON m.id = h.message_id WHERE h.message_id <= ? AND h.is_group = ? "
    f"AND h.one_side = ? AND h.other_side = ? AND {WITHIN_PAGE} ORDER BY h.message_id DESC LIMIT ?"
)


def _message(dao: Dao, id: int) -> LastMessage | None:
    rows = dao.connection.query(f"SELECT {MESSAGE} FROM messages AS m WHERE m.id = ?", (id,))
    return LastMessage(*rows[0]) if rows else None


def _last_indexed(dao: Dao, key: ConversationKey, first: int, view: View) -> LastMessage | None:
    rows = dao.connection.query(f"SELECT {MESSAGE} FROM {OF_CONVERSATION}", _bounds(key, first, view, 1))
    return LastMessage(*rows[0]) if rows else None


def _count_indexed(dao: Dao, key: ConversationKey, first: int, view: View) -> int:
    """How many of the newest messages are not the user's own."""
    rows = dao.connection.query(
        f"SELECT COUNT(*) FROM (SELECT m.sender AS sender FROM {OF_CONVERSATION}) AS newest WHERE sender <> ?",
        (*_bounds(key, first, view, MAX_COUNTED_ROWS), key.username),
    )
    return int(rows[0][0])


def _bounds(key: ConversationKey, first: int, view: View, limit: int) -> tuple[object, ...]:
    """The parameters of OF_CONVERSATION."""
    username, is_group, partner = key
    sides = (1, partner, "") if is_group else (0, min(username, partner), max(username, partner))
    return (view.indexed, *sides, first, view.before, username, view.sent_id, view.device, limit)


def _with_any(dao: Dao, select: str, columns: Sequence[str], values: Iterable[Sequence[Any]]) -> list[Any]:
    """The rows in which some columns have one of these combinations of values."""
    values = list(values)
    if not values:
        return []
    each = f"({' AND '.join(f'{column} = ?' for column in columns)})"
    which = " OR ".join([each] * len(values))
    return dao.connection.query(f"{select} WHERE {which}", [value for row in values for value in row])
