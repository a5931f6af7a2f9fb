"""Which nodes of a cluster use a database: for a program that must not change it beside them."""

import math
from datetime import UTC, datetime
from typing import NamedTuple

from jelly.database import DatabaseConnection
from jelly.trusted_clock import FIRST_DATED, IDS_PER_MS, MS


class LiveNode(NamedTuple):
    """A node that serves: its lease is not over."""

    id: int
    address: str
    version: str
    incarnation: int
    left: int
    """Milliseconds until its lease is over, if it does not renew it."""

    def describe(self) -> str:
        """Which node it is, and since when."""
        text = f"{self.id} at {self.address}, version {self.version}"
        if self.incarnation >= FIRST_DATED:  # like all ids, it carries the time
            since = datetime.fromtimestamp(self.incarnation // IDS_PER_MS // MS, UTC)
            text += f", since {since:%Y-%m-%d %H:%M:%S} UTC"
        return text


def live_nodes(connection: DatabaseConnection) -> list[LiveNode]:
    """The nodes that are using a database. Call it outside of transactions."""
    left = f"renewed + lease - {connection.utc_ms}"
    rows = connection.query_if_exists(
        f"SELECT id, address, version, incarnation, {left} FROM nodes WHERE state = 1 AND {left} >= 0 ORDER BY id"
    )
    return [LiveNode(id, address, version, incarnation, int(ms)) for id, address, version, incarnation, ms in rows]


def describe_all(nodes: list[LiveNode]) -> str:
    """Which nodes they are, and since when, for a sentence."""
    return "; ".join(node.describe() for node in nodes)


def longest_lease(nodes: list[LiveNode]) -> int:
    """Seconds until the leases of all these nodes are over, if they do not renew them."""
    return math.ceil(max(node.left for node in nodes) / MS)


def forget_nodes(connection: DatabaseConnection) -> None:
    """From now on a node that still runs can write nothing, until it has registered anew."""
    if connection.query_if_exists("SELECT 1 FROM nodes LIMIT 1"):
        with connection.transaction():
            # With the sequence lock, and a step of next_id, as each transaction of a node: a node
            # that expects that nobody has written since its last one does not look at the rest.
            connection.query(f"SELECT value FROM meta WHERE name IN ('event', 'next_id'){connection.for_update}")
            connection.change("UPDATE meta SET value = value + 1 WHERE name = 'next_id'")
            connection.change("UPDATE meta SET value = 0 WHERE name LIKE 'node.%'")
            connection.change("DELETE FROM nodes")
            connection.change("DELETE FROM sessions")
