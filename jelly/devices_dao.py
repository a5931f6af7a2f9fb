"""The SQL of devices: how far each device of a user has got (`devices.py` says what that means)."""

import itertools
from collections.abc import Mapping
from typing import NamedTuple

from jelly.dao import Dao
from jelly.sessions import Device


class DeviceRow(NamedTuple):
    """A row of the table devices, without its user."""

    name: str
    """Empty: all clients together that do not say on which device they are."""
    delivered: int
    """The device has the messages up to this id."""
    seen: int
    """When it was online last, to about a day, in milliseconds since 1970."""
    is_dropped: bool
    """Whether no messages are kept for it."""
    gap: int
    """The first message that it may have missed, until it knows; 0: none."""


def rows_of(dao: Dao, user: str) -> list[DeviceRow]:
    """All devices of a user, in the order of their names."""
    rows = dao.connection.query(
        "SELECT device, delivered, seen, dropped, gap FROM devices WHERE username = ? ORDER BY device", (user,)
    )
    return [DeviceRow(name, delivered, seen, bool(dropped), gap) for name, delivered, seen, dropped, gap in rows]


def put(dao: Dao, user: str, row: DeviceRow, is_new: bool) -> None:
    """Write a row, which is new or not."""
    values = row.delivered, row.seen, int(row.is_dropped), row.gap
    if is_new:
        dao.connection.change(
            "INSERT INTO devices (delivered, seen, dropped, gap, username, device) VALUES (?, ?, ?, ?, ?, ?)",
            (*values, user, row.name),
        )
    else:
        dao.connection.change(
            "UPDATE devices SET delivered = ?, seen = ?, dropped = ?, gap = ? WHERE username = ? AND device = ?",
            (*values, user, row.name),
        )


def remove(dao: Dao, device: Device) -> None:
    """Forget a device."""
    dao.connection.change("DELETE FROM devices WHERE username = ? AND device = ?", device)


def own_copies(dao: Dao, user: str, upto: Mapping[str, int], after: int = 0) -> list[int]:
    """The messages in a user's inbox that the user has written on these devices: of each those with
    ids up to one, and above `after`.
    """
    which = " OR ".join(["(m.device = ? AND i.message_id <= ?)"] * len(upto))
    rows = dao.connection.query(
        "SELECT i.message_id FROM inbox AS i JOIN messages AS m ON m.id = i.message_id "
        f"WHERE i.receiver = ? AND i.message_id > ? AND i.message_id <= ? AND i.size < 0 AND ({which})",
        (user, after, max(upto.values()), *itertools.chain(*upto.items())),
    )
    return [id for (id,) in rows]


def waiting_for_some(dao: Dao, user: str, after: int, upto: int, device: str | None = None) -> tuple[int, int]:
    """How many messages of a user's inbox with ids above `after` only wait for some of the devices:
    those up to an id that the fastest of them has, and copies of own ones. And their bytes.

    `device`: without the copies that do not wait for this one, because they were written there, or
    because it has no name.
    """
    # (Only the size of a copy is not in the inbox. To join all with their messages takes MariaDB
    # five times as long.)
    size = "CASE WHEN i.size >= 0 THEN i.size ELSE (SELECT LENGTH(content) FROM messages WHERE id = i.message_id) END"
    which = "(i.message_id <= ? OR i.size < 0)"
    if device == "":
        which += " AND i.size >= 0"
    elif device is not None:
        which += " AND (i.size >= 0 OR (SELECT device FROM messages WHERE id = i.message_id) <> ?)"
    rows = dao.connection.query(
        f"SELECT COUNT(*), SUM({size}) FROM inbox AS i WHERE i.receiver = ? AND i.message_id > ? AND {which}",
        (user, after, upto, *[device] * bool(device)),
    )
    return int(rows[0][0]), int(rows[0][1] or 0)


def users_behind(dao: Dao, after: str, limit: int) -> list[str]:
    """The first users behind a name who have a device, in order."""
    rows = dao.connection.query(
        "SELECT DISTINCT username FROM devices WHERE username > ? ORDER BY username LIMIT ?", (after, limit)
    )
    return [user for (user,) in rows]
