"""`jelly nodes`: which nodes use a database."""

import json
import re
import socket
from collections.abc import Sequence
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path

import pytest
from harness import ready_database, run_here
from wire import Wire, logged_in, register, wait_until

from faults.mariadb import PrivateMariaDB
from faults.process import ROOT, Server, run
from jelly import __version__
from jelly.cluster.node_dao import DRAINING, NEIGHBOUR, SERVING
from jelly.cluster.nodes_command import HEADINGS, STATES, NodeLine, list_nodes
from jelly.database import DatabaseConnection
from jelly.engines import open_engine


@pytest.fixture
def url(mariadb: PrivateMariaDB) -> str:
    """A database with tables."""
    return ready_database(mariadb, "nodes")


def add_nodes(url: str, *nodes: tuple[str, int, int], buses: Sequence[tuple[int, str, str]] = ()) -> None:
    """Write nodes into the table, with a lease of 5 s: address, state, seconds since it was
    renewed. `buses`: whether each can send hints, its bus, and whom it does not hear.
    """
    connection = DatabaseConnection(open_engine(url))
    now = connection.query(f"SELECT {connection.utc_ms}")[0][0]
    for id, (address, state, seconds) in enumerate(nodes, 1):
        hints, bus, unheard = buses[id - 1] if buses else (0, "none", "")
        connection.execute(
            f"INSERT INTO nodes ({NEIGHBOUR}) "
            "VALUES (?, 1, ?, '0.2.0', ?, ?, 5000, 1, ?, ?, '', ?, 'web1', 1234, ?, 7)",
            (id, address, state, now - seconds * 1000, hints, bus, unheard, 1_700_000_000_000),
        )
    connection.close()


def test_a_node_that_listens_on_all_addresses(mariadb: PrivateMariaDB) -> None:
    """Its address in the table has the name of its machine: on 0.0.0.0 nobody could reach it."""
    url = ready_database(mariadb, "nodes")
    with Server(url, "--cluster=none", "--host=0.0.0.0") as server:
        assert [node.address for node in list_nodes(url)] == [f"{socket.gethostname()}:{server.port}"]


def test_a_node_that_serves(mariadb: PrivateMariaDB) -> None:
    """The program shows where it is, since when, how many connections and users it has, and that it
    lives.
    """
    url = ready_database(mariadb, "nodes")
    with Server(url, "--cluster=none", "--node-address=chat.example.org:20000") as server:
        register(server.port, "alice", "bob")
        started = datetime.now(UTC)
        wait_until(lambda: list_nodes(url)[0].connections == 0)  # those are gone: three can only be the next ones
        with logged_in(server.port, "alice"), logged_in(server.port, "bob"), Wire(server.port) as stranger:
            stranger.wait_until_served()
            wait_until(lambda: list_nodes(url)[0].connections == 3)
            done = run("nodes", f"--database={url}", "--json")
            [node] = json.loads(done.stdout)
            seconds = node.pop("seconds_since_renewal")
            assert 0 <= seconds < 5
            since = datetime.strptime(node.pop("since"), "%Y-%m-%dT%H:%M:%S%z")
            assert -60 < (started - since).total_seconds() < 60
            assert node == {
                "node": 1, "address": "chat.example.org:20000", "version": __version__, "state": "serving",
                "sessions": 2, "bus": "none", "hints": "none", "no_hints_from": [], "on_another_bus": [],
                "host": socket.gethostname(), "process": server.process.pid, "connections": 3,
            }  # fmt: skip
            assert (done.returncode, done.stderr) == (0, "")
        wait_until(lambda: list_nodes(url)[0].sessions == 0 and list_nodes(url)[0].connections == 0)
        assert server.stop() == 0
    assert [node.state for node in list_nodes(url)] == ["draining"]
    last = run("nodes", JELLY_DATABASE=url).stdout.splitlines()[-1]
    assert last == "No node serves: these stay in the table until one starts."


def test_the_states(url: str) -> None:
    """By the database's clock, a node is silent when its lease has run out."""
    add_nodes(url, ("a", SERVING, 0), ("b", DRAINING, 1), ("c", SERVING, 60), ("d", DRAINING, 60), ("e", SERVING, -60))
    nodes = list_nodes(url)
    assert [node.state for node in nodes] == ["serving", "draining", "silent", "stopped", "serving"]
    assert {node.state for node in nodes} == STATES.keys()
    assert nodes[2].seconds_since_renewal >= 60
    assert nodes[4].seconds_since_renewal == 0


def test_the_table(url: str) -> None:
    """Its columns are as wide as they must be."""
    add_nodes(url, ("192.0.2.10:20000", SERVING, -60), ("[::1]:20000", DRAINING, -60))
    done = run_here("nodes", JELLY_DATABASE=url)
    heading, *rows, empty, explanation = done.stdout.splitlines()
    places = [heading.index(word) for word in HEADINGS]
    cells = [[row[at:until].rstrip() for at, until in pairwise([*places, None])] for row in rows]
    assert cells == [
        ["1", "192.0.2.10:20000", "1234 on web1", "0.2.0", "serving", "2023-11-14 22:13", "0.0 s ago", "7", "0",
         "polls: --cluster none"],
        ["2", "[::1]:20000", "1234 on web1", "0.2.0", "draining", "2023-11-14 22:13", "0.0 s ago", "7", "0", "-"],
    ]  # fmt: skip
    assert heading.startswith(
        "node  address           process       version  state     since (UTC)       renewed    conn"
    )
    assert (empty, explanation) == ("", f"draining: {STATES['draining']}")
    assert (done.returncode, done.stderr) == (0, "")


def test_its_words() -> None:
    """--help says what each state means, and each column that needs it."""
    shown = run_here("nodes", "--help").stdout
    for word, meaning in STATES.items():
        assert re.search(rf"^  {word} +{re.escape(meaning)}$", shown, re.MULTILINE)
    columns = set(re.findall(r"^  (\w+)  ", shown.partition("columns:")[2].partition("states:")[0], re.MULTILINE))
    assert columns <= {heading.partition(" ")[0] for heading in HEADINGS}
    assert len(columns) == 6


def test_hints(url: str) -> None:
    """For each node the table says whether hints come, or why not. Nodes on different buses are
    listed below it.
    """
    a, b, c = (f"redis://{name}:6379" for name in "abc")

    def shown(*buses: tuple[int, str, str]) -> list[str]:
        connection = DatabaseConnection(open_engine(url))
        connection.execute("DELETE FROM nodes WHERE 1 = 1")
        connection.close()
        add_nodes(url, *[("x", SERVING, -60)] * len(buses), buses=buses)
        return run_here("nodes", JELLY_DATABASE=url).stdout.splitlines()

    def hints(*buses: tuple[int, str, str]) -> list[str]:
        return [line.partition(" 0  ")[2].strip() for line in shown(*buses)[1 : len(buses) + 1]]

    assert hints((1, a, ""), (1, b, "")) == ["yes", "yes"]  # two names of one server
    assert hints((0, a, ""), (1, a, "")) == ["polls: the bus is away", "polls: none from 1"]
    assert hints((1, a, "2 3"), (1, b, "1 3"), (0, "none", "1 2")) == [
        "polls: none from 2, 3", "polls: none from 1, 3", "polls: --cluster none"
    ]  # fmt: skip
    assert shown((1, a, "2"), (1, c, "1"))[3:] == [
        "",
        "These nodes do not hear each other, so messages between them come a little later:",
        f"  node 1 has the bus {a}",
        f"  node 2 has the bus {c}",
        "Start all of them with the same server of Redis in --cluster.",
    ]
    assert len(shown((1, a, ""), (1, b, ""))) == 3
    nodes = list_nodes(url)
    assert [(node.bus, node.hints, node.no_hints_from, node.on_another_bus) for node in nodes] == [
        (a, "yes", [], []), (b, "yes", [], [])
    ]  # fmt: skip


def test_no_nodes(url: str) -> None:
    """It says so; in JSON it is an empty array."""
    assert run_here("nodes", f"--database={url}").stdout == "No node uses this database.\n"
    assert run_here("nodes", f"--database={url}", "--json").stdout == "[]\n"


def fails(code: int, url: str) -> str:
    """The one line that the program says when it cannot show nodes."""
    done = run_here("nodes", f"--database={url}")
    assert (done.returncode, done.stdout) == (code, "")
    [line] = done.stderr.splitlines()
    return line


def test_a_database_without_nodes(tmp_path: Path) -> None:
    """SQLite has none: exit code 2, and no file is made."""
    for url in (f"sqlite:///{tmp_path}/jelly.db", "memory:"):
        said = fails(2, url)
        assert said.startswith("jelly: Only a database of MySQL or MariaDB has nodes: name one with --database")
        assert said.endswith(", or in JELLY_DATABASE.")
    assert not list(tmp_path.iterdir())


def test_a_database_of_another_program(mariadb: PrivateMariaDB, url: str) -> None:
    """And an empty one, one of another version, and one that cannot be reached: each has its
    sentence.
    """
    other = mariadb.fresh_database("nodes_of_others")
    assert fails(1, other).endswith("nodes_of_others is not a database of Jelly. Check --database.")
    mariadb.sql("CREATE TABLE nodes_of_others.meta (id INT)")
    assert fails(1, other).endswith("nodes_of_others is not a database of Jelly. Check --database.")
    mariadb.sql("UPDATE nodes.meta SET value = value - 1 WHERE name = 'schema_version'")
    assert fails(1, url).endswith(" are of another version: use their own `jelly nodes`.")
    said = fails(1, url.replace("password", "wrong"))
    assert "Access denied" in said
    assert "wrong" not in said


# --- docs/nodes.md --------------------------------------------------------------------------------


def test_the_page_explains_the_words() -> None:
    """It has the same columns, the same states with the same meaning, each kind of hints, and each
    key of JSON.
    """
    page = (ROOT / "docs" / "nodes.md").read_text(encoding="utf-8").partition("### Who is there")[2]
    [heading] = re.findall(r"^    (node  .+)$", page, re.MULTILINE)
    assert tuple(re.split("  +", heading)) == HEADINGS
    words, keys = page.partition("### ")[0].split("| key | is |")
    assert set(re.findall(r"`(\w+)`", "".join(re.findall(r"^\| (`.+?) \|", keys, re.MULTILINE)))) == {*NodeLine._fields}
    table = dict(re.findall(r"^\| `([^`]+)` \| (.+) \|$", words, re.MULTILINE))
    assert {word: meaning for word, meaning in table.items() if word in STATES} == STATES
    assert [word for word in table if word not in STATES] == [
        "yes", "polls: --cluster none", "polls: the bus is away", "polls: none from 2"
    ]  # fmt: skip
