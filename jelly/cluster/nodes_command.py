"""The command `jelly nodes`: which nodes use a database. It only reads, also while they run."""

import contextlib
import json
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from typing import NamedTuple

from jelly.cluster.bus import NO_BUS
from jelly.cluster.node_dao import DRAINING, Neighbour, read_nodes
from jelly.database import DatabaseConnection
from jelly.engines import open_engine
from jelly.errors import ConfigError, StartError, StoreError
from jelly.migrations import SCHEMA_VERSION, is_ours

STATES = {
    "serving": "it lives, and takes clients",
    "draining": "it has stopped a moment ago, and its users come back at other nodes",
    "silent": "it was killed, hangs or has lost the database; a node that serves removes it soon",
    "stopped": "it has stopped; a node that serves removes it soon",
}
"""The states of a node, and what they mean."""
HEADINGS = (
    "node", "address", "process", "version", "state", "since (UTC)", "renewed", "connections", "sessions", "hints"
)  # fmt: skip


class NodeLine(NamedTuple):
    """What is shown of a node."""

    node: int
    address: str
    version: str
    state: str
    """One of STATES."""
    seconds_since_renewal: float
    """Since it has said for the last time that it lives, by the database's clock."""
    sessions: int
    """How many users are online there."""
    bus: str
    """Its Redis server, as `--cluster` names it, without the password; or `none`."""
    hints: str
    """`yes`: all other nodes tell it when there is something for it. Else it polls: `none` (its bus
    is `none`), `away` (its bus does not work), `partly` (not all others tell it)."""
    no_hints_from: list[int]
    """The nodes that do not tell it."""
    on_another_bus: list[int]
    """Those of them that use another server of Redis, or none, as it has noticed."""
    host: str
    """The name of its machine."""
    process: int
    """The number of its process there."""
    since: str
    """When it became a node, in UTC."""
    connections: int
    """How many connections clients have there, whether they are logged in or not."""


def print_nodes(url: str, as_json: bool = False) -> None:
    """Print the nodes that use a database: as a table, or as a JSON array. Raises StartError."""
    nodes = list_nodes(url)
    if as_json:
        print(json.dumps([node._asdict() for node in nodes], ensure_ascii=False))
    elif nodes:
        for line in (*_table(nodes), *_explanations(nodes)):
            print(line)
    else:
        print("No node uses this database.")


def list_nodes(url: str) -> list[NodeLine]:
    """Return the nodes that use a database. Raises StartError."""
    if not url.startswith("mysql:"):
        raise ConfigError(
            "Only a database of MySQL or MariaDB has nodes: name one with "
            "--database mysql://user:password@host:port/name, or in JELLY_DATABASE."
        )
    engine = open_engine(url)
    try:
        with contextlib.closing(DatabaseConnection(engine)) as connection:
            _check_tables(connection)
            rows = read_nodes(connection)
    except StoreError as error:
        raise StartError(f"The database cannot be used: {error}. {engine.advice}") from error
    serving = [node for node, now, _ in rows if _state(node, now) == "serving"]
    lines = []
    for node, now, sessions in rows:
        state, seconds = _state(node, now), max(0, now - node.renewed) / 1000
        others = [each for each in serving if each.id != node.id] if state == "serving" else []
        apart = [each.id for each in others if str(each.id) in node.unheard.split()]
        silent = [each.id for each in others if each.id in apart or not each.hints]
        hints = "none" if node.bus == NO_BUS else "away" if not node.hints else "partly" if silent else "yes"
        known = node.id, node.address, node.version, state, seconds, sessions
        since = f"{datetime.fromtimestamp(node.started // 1000, UTC):%Y-%m-%dT%H:%M:%SZ}"
        process = node.host, node.process, since, node.connections
        lines.append(NodeLine(*known, node.bus, hints, silent, apart, *process))
    return lines


def _state(node: Neighbour, now: int) -> str:
    states = ("draining", "stopped") if node.state == DRAINING else ("serving", "silent")
    return states[node.is_dead(now)]


def _check_tables(connection: DatabaseConnection) -> None:
    """Raise StartError if a database does not have the tables of this version."""
    if not is_ours(connection) or not connection.tables():
        raise StartError(f"{connection.describe()} is not a database of Jelly. Check --database.")
    rows = connection.query_if_exists("SELECT value FROM meta WHERE name = 'schema_version'")
    if not rows or rows[0][0] != SCHEMA_VERSION:
        raise StartError("The servers that use the database are of another version: use their own `jelly nodes`.")


def _table(nodes: Sequence[NodeLine]) -> Iterator[str]:
    """The lines of the table, with columns that are as wide as they must be."""
    rows = [HEADINGS, *map(_cells, nodes)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        yield "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()


def _cells(node: NodeLine) -> tuple[str, ...]:
    """What stands below each of HEADINGS."""
    process, since = f"{node.process} on {node.host}", node.since[:16].replace("T", " ")
    return (
        str(node.node), node.address, process, node.version, node.state, since,
        f"{node.seconds_since_renewal:.1f} s ago", str(node.connections), str(node.sessions), _hints(node),
    )  # fmt: skip


def _hints(node: NodeLine) -> str:
    """Whether hints come to a node; if not, why."""
    if node.state != "serving":
        return "-"
    missing = f"none from {', '.join(map(str, node.no_hints_from))}"
    reasons = {"none": "polls: --cluster none", "away": "polls: the bus is away", "partly": f"polls: {missing}"}
    return reasons.get(node.hints, "yes")


def _explanations(nodes: Sequence[NodeLine]) -> Iterator[str]:
    """What the operator should know about these nodes, below the table."""
    if unusual := [state for state in STATES if state != "serving" and state in {node.state for node in nodes}]:
        yield ""
        yield from (f"{state}: {STATES[state]}" for state in unusual)
    if not any(node.state == "serving" for node in nodes):
        yield "No node serves: these stay in the table until one starts."
    if any(node.on_another_bus for node in nodes):
        yield "\nThese nodes do not hear each other, so messages between them come a little later:"
        for node in nodes:
            if node.state == "serving":
                yield f"  node {node.node} has the bus {node.bus}"
        yield "Start all of them with the same server of Redis in --cluster."
