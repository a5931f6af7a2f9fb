"""What the tests of edits share: the functions of their fixtures, and helpers."""

from collections.abc import Iterator
from typing import Any

from wire import EDIT, HISTORY, NOTICE, PERSON_MESSAGE, Reply, Wire, logged_in

from jelly.database import DatabaseConnection
from jelly.engines import open_engine
from jelly.server import JellyServer

ALL = ["ack", "ids", "edit"]

WITHOUT = ["ack", "ids"]


def alice_online(sqlite: JellyServer) -> Iterator[Wire]:
    with modern(sqlite, "alice") as wire:
        yield wire


def modern(server: JellyServer, user: str, features: list[str] | None = None) -> Wire:
    return logged_in(server.port, user, features=ALL if features is None else features)


def say(wire: Wire, to: str, content: str, type: int = PERSON_MESSAGE) -> int:
    """Send a message; return its id."""
    return int(wire.ok(type, receiver=to, content=content, time=1)["id"])


def edit(wire: Wire, id: int, content: str, **more: Any) -> int:
    """Edit a message; return the id of the edit."""
    return int(wire.ok(EDIT, id=id, content=content, **more)["id"])


def seen(reply: Reply) -> tuple[str, int | None]:
    """What a notice of a message says, and what it replaces."""
    assert reply.sign == NOTICE
    return reply.values["content"], reply.values.get("replaces")


def past(wire: Wire, **asked: Any) -> list[tuple[str, int | None]]:
    """What a page of history says, and by which edit."""
    return [(entry["content"], entry.get("edited")) for entry in wire.ok(HISTORY, **asked)["messages"]]


def database(server: JellyServer) -> DatabaseConnection:
    """A connection to look at the server's database."""
    return DatabaseConnection(open_engine(server.settings.database))


def rows(server: JellyServer, sql: str) -> list[Any]:
    connection = database(server)
    try:
        return connection.query(sql)
    finally:
        connection.close()


def inbox(server: JellyServer, user: str) -> list[int]:
    """The ids that wait for a user."""
    return [id for (id,) in rows(server, f"SELECT message_id FROM inbox WHERE receiver = '{user}' ORDER BY message_id")]


def seen_next(alice: Wire, bob: Wire) -> tuple[str, int | None]:
    """What Bob gets next, if Alice writes once more."""
    say(alice, bob.user, "end")
    return seen(bob.receive_notice())
