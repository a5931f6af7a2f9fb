"""The SQL of reports: what users tell the operator about each other."""

from typing import NamedTuple

from jelly.dao import Dao


class Report(NamedTuple):
    """A report as the table holds it."""

    id: int
    reporter: str
    person: str
    """Who is reported."""
    text: str
    """What the reporter says."""
    message_id: int | None
    """The message that it is about; None: it is about no single one."""
    receiver: str | None
    """To whom that message went."""
    is_group: int | None
    content: str | None
    """What that message said, from its beginning."""
    time: int
    """When the server stored the report, in milliseconds since 1970."""


REPORT = ", ".join(Report._fields)


class ReportedMessage(NamedTuple):
    """A message that a report is about."""

    id: int
    receiver: str
    is_group: bool
    content: str


def message_to(dao: Dao, reader: str, sender: str, id: int) -> ReportedMessage | None:
    """A message of a sender that a reader was sent: as a person, or as a member of a group; None if
    there is none with this id. The id of an edit stands for the message that it edits.
    """
    rows = dao.connection.query(
        "SELECT m.id, m.receiver, m.is_group, m.content FROM messages AS e "
        "JOIN messages AS m ON m.id = COALESCE(e.replaces, e.id) WHERE e.id = ? AND m.sender = ? AND "
        "((m.is_group = 0 AND m.receiver = ?) OR (m.is_group = 1 AND EXISTS (SELECT 1 FROM members AS g "
        "WHERE g.group_name = m.receiver AND g.username = ? AND g.since <= m.id)))",
        (id, sender, reader, reader),
    )
    return ReportedMessage(*rows[0]) if rows else None


def count_since(dao: Dao, reporter: str, time: int) -> int:
    """How many reports somebody has made since a time that are there still."""
    rows = dao.connection.query("SELECT COUNT(*) FROM reports WHERE reporter = ? AND time >= ?", (reporter, time))
    return int(rows[0][0])


def add(dao: Dao, report: Report, keep: int) -> None:
    """Store a report, with the next number as its id. Of more than `keep`, one goes: the oldest of
    whoever has made most of them. So nobody can crowd out the reports of others.
    """
    count, last = dao.connection.query("SELECT COUNT(*), MAX(id) FROM reports")[0]
    if count >= keep:
        [(busiest, _)] = dao.connection.query(
            "SELECT reporter, COUNT(*) AS made FROM reports GROUP BY reporter ORDER BY made DESC, reporter LIMIT 1"
        )
        [(oldest,)] = dao.connection.query("SELECT MIN(id) FROM reports WHERE reporter = ?", (busiest,))
        remove(dao, oldest)
    dao.connection.change(
        f"INSERT INTO reports ({REPORT}) VALUES ({', '.join('?' * len(Report._fields))})",
        report._replace(id=(last or 0) + 1),
    )


def remove(dao: Dao, id: int) -> None:
    dao.connection.change("DELETE FROM reports WHERE id = ?", (id,))


def remove_old(dao: Dao, before: int, limit: int) -> bool:
    """Forget at most `limit` reports from before a time; whether there were any."""
    rows = dao.connection.query(
        "SELECT MAX(id) FROM (SELECT id FROM reports WHERE time < ? LIMIT ?) AS r", (before, limit)
    )
    if rows[0][0] is None:
        return False
    dao.connection.change("DELETE FROM reports WHERE time < ? AND id <= ?", (before, rows[0][0]))
    return True


def some(dao: Dao, after: int, limit: int) -> list[Report]:
    """The reports with ids above `after`, the oldest first, at most `limit`."""
    rows = dao.connection.query(f"SELECT {REPORT} FROM reports WHERE id > ? ORDER BY id LIMIT ?", (after, limit))
    return [Report(*row) for row in rows]
