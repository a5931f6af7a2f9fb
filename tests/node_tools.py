"""What the tests of several nodes share: the functions of their fixtures, and helpers."""

from collections.abc import Iterable, Iterator
from typing import Any

import pytest
from harness import StartServer, ready_database
from wire import PERSON_MESSAGE, SYSTEM, Wire, pack, register, to_json

from faults.mariadb import PrivateMariaDB
from jelly.cluster.node import Node
from jelly.dao import Dao
from jelly.database import DatabaseConnection
from jelly.engines import open_engine
from jelly.server import JellyServer

MODERN = ["ack"]


def cluster_url(request: pytest.FixtureRequest) -> str:
    """The value of --cluster."""
    return "none" if request.param == "none" else str(request.getfixturevalue("redis_server").url)


def shared_database(mariadb: PrivateMariaDB) -> str:
    """A database that nodes can share, in which nothing is."""
    return ready_database(mariadb, "jelly_nodes")


def two_nodes(start_server: StartServer, database: str, cluster: str) -> list[JellyServer]:
    """Two nodes."""
    return [start_server(database=database, cluster=cluster) for _ in range(2)]


def ports_of_nodes(nodes: list[JellyServer]) -> tuple[int, int]:
    """Their ports; alice, bob and cat have accounts."""
    register(nodes[0].port, "alice", "bob", "cat")
    return nodes[0].port, nodes[1].port


def dao_beside_nodes(database: str) -> Iterator[Dao]:
    """A Dao that looks at the database beside the nodes."""
    connection = DatabaseConnection(open_engine(database))
    yield Dao(connection)
    connection.close()


def node_of(server: JellyServer) -> Node:
    assert server.node is not None
    return server.node


def system_notice(wire: Wire, event: str) -> dict[str, Any]:
    """The next SYSTEM notice of a kind; others are passed over."""
    while True:
        notice = wire.receive_notice()
        if notice.type == SYSTEM and notice.values["event"] == event:
            values: dict[str, Any] = notice.values
            return values


def wait_until_closed(wire: Wire) -> None:
    """Read until the server has closed the connection."""
    try:
        while True:
            wire.receive()
    except EOFError:
        pass


def messages_to_bob(contents: Iterable[str]) -> bytes:
    """The bytes of alice's messages."""
    values = [{"sender": "alice", "receiver": "bob", "content": content, "time": 1} for content in contents]
    return b"".join(pack(PERSON_MESSAGE, to_json(each)) for each in values)


def contents_of_alice(dao: Dao) -> list[str]:
    """What alice's messages say, in the order of their ids."""
    rows = dao.connection.query("SELECT content FROM messages WHERE sender = 'alice' ORDER BY id")
    return [content for (content,) in rows]
