"""An account as a JSON document: what the database has of a user, for `jelly user export`.

A user may ask the operator for it. It has no secrets (password, tokens), and of messages those that
the user wrote or was sent as a person: what others wrote to a group is theirs.
"""

import json
import re
from collections.abc import Iterator
from typing import Any

from jelly import account_dao, devices_dao, roles
from jelly.dao import Dao
from jelly.database import DatabaseConnection

AT_ONCE = 1000
"""How many rows one query looks at."""
UNPRINTABLE = re.compile("[\\x7f-\\x9f\\u2028-\\u202e\\u2066-\\u2069]")
"""Control characters that JSON leaves as they are, and what changes the direction of writing."""


def export_account(connection: DatabaseConnection, username: str) -> Iterator[str]:
    """Return the lines of the document. It may be long, so nothing holds it as a whole."""
    dao = Dao(connection)
    yield "{"
    for key, value in _account(dao, username).items():
        yield f" {printable_json(key)}: {printable_json(value)},"
    yield ' "messages": ['
    line = ""
    for message in _messages(connection, username):
        if line:
            yield f"{line},"
        line = f"  {printable_json(message)}"
    if line:
        yield line
    yield " ]"
    yield "}"


def _account(dao: Dao, username: str) -> dict[str, Any]:
    connection = dao.connection
    networks = connection.query("SELECT network, used FROM known_addresses WHERE username = ?", (username,))
    return {
        "username": username,
        "profile": dao.profile(username),
        "disabled": account_dao.is_disabled(dao, username),
        "friends": list(_all_friends(dao, username)),
        "groups": dict(_groups(dao, username)),
        "logins": [login._asdict() for login in account_dao.logins(dao, username, 0)],
        "devices": [
            {"device": row.name, "seen": row.seen, "dropped": row.is_dropped}
            for row in devices_dao.rows_of(dao, username)
            if row.name
        ],
        "networks": [{"network": network, "used": used} for network, used in networks],
    }


def _all_friends(dao: Dao, username: str) -> Iterator[str]:
    last = ""
    while page := dao.friends(username, last, AT_ONCE):
        yield from page
        last = page[-1]


def _groups(dao: Dao, username: str) -> Iterator[tuple[str, str]]:
    rows = dao.connection.query("SELECT group_name, position, role FROM members WHERE username = ?", (username,))
    return ((name, roles.role_at(position, role)) for name, position, role in sorted(rows))


def _messages(connection: DatabaseConnection, username: str) -> Iterator[dict[str, Any]]:
    """Walk over all messages: no index finds those of one user. (An edit has no text of its
    own: the message has the last one.)
    """
    last = 0
    while True:
        [(upto,)] = connection.query(
            "SELECT MAX(id) FROM (SELECT id FROM messages WHERE id > ? ORDER BY id LIMIT ?) AS slice", (last, AT_ONCE)
        )
        if upto is None:
            return
        rows = connection.query(
            "SELECT id, is_group, sender, receiver, content, time, edited FROM messages WHERE id > ? AND id <= ? "
            "AND replaces IS NULL AND (sender = ? OR (receiver = ? AND is_group = 0)) ORDER BY id",
            (last, upto, username, username),
        )
        for id, is_group, sender, receiver, content, time, edited in rows:
            to = "group" if is_group else "receiver"
            message = {"id": id, "sender": sender, to: receiver, "content": content, "time": time}
            yield message if edited is None else {**message, "edited": edited}
        last = upto


def printable_json(value: Any) -> str:
    """JSON on one line, with the letters of all scripts as they are; what could do something to a
    terminal is escaped, as strangers have written some of it.
    """
    return UNPRINTABLE.sub(lambda found: f"\\u{ord(found[0]):04x}", json.dumps(value, ensure_ascii=False))
