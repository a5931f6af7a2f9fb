"""Row 33: members of many large groups ask for their groups, and do not read the answers."""

import contextlib
import socket
import time

from client_api import JellyClient, RequestError
from faults.context import Control, Finding, Row, RunContext, free_port
from faults.load import PASSWORD, PATIENCE, Load, register
from faults.process import memory
from faults.rows.connections import never_reads, percentile
from jelly.codec import Type
from jelly.dao import Dao
from jelly.database import DatabaseConnection
from jelly.engine import Insert
from jelly.engines import open_engine
from jelly.requests import encode_request

ASKERS = {True: 24, False: 40}
GROUPS = {True: 150, False: 1000}
MEMBERS = 1000
"""How many members each of the groups has; the askers are among them."""
FEATURES: tuple[list[str] | None, ...] = (["ack", "pages"], [], None)
"""What the askers ask for in turn: pages, nothing, or as classic clients."""
REQUESTS = 20
"""How many times each asker asks, without reading an answer."""
SECONDS = {True: 2.0, False: 20.0}
GROWTH = 64 * 2**20
"""At most this many bytes may the server grow meanwhile."""
LATENCY = 0.1
"""At most this many seconds for a message between other users, or three times the usual time."""
READ_SECONDS = 30.0
"""At most this many seconds until a client that reads has the whole list."""


def askers(context: RunContext, finding: Finding) -> None:
    """Clients ask for long lists and never read. Others are served, and the server stays small."""
    short = context.is_short
    names = [f"asker{number}" for number in range(ASKERS[short])]
    finding.trials = len(names)
    url, port = context.url(), free_port()
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(context.serve(url, port, "--classic-gap=0"))
        load = stack.enter_context(Load(port, under_way=1))
        register(port, ["reader", *names])
        _fill_groups(url, ["reader", *names], GROUPS[short])
        load.start()
        before, since = memory(server.process.pid), time.monotonic()
        time.sleep(SECONDS[short])
        usual, since = percentile(load.ledger, since), time.monotonic()
        for number, name in enumerate(names):
            sock: socket.socket = stack.enter_context(never_reads(port, name, FEATURES[number % len(FEATURES)]))
            sock.sendall(encode_request(Type.OWN_GROUPS, {"username": name}) * REQUESTS)
        time.sleep(SECONDS[short])
        harmed = percentile(load.ledger, since)
        started = time.monotonic()
        with JellyClient(port=port) as client:
            client.login("reader", PASSWORD).result(PATIENCE)
            try:
                groups = client.list_groups().result(PATIENCE)
            except RequestError:
                groups = {}
        took = time.monotonic() - started
        growth = 1e6 * (memory(server.process.pid) - before)
        is_whole = sum(len(group.members) for group in groups.values()) == GROUPS[short] * MEMBERS
        finding.expect(growth < GROWTH, "memory", f"the server grew by {growth / 2**20:.0f} MiB")
        finding.expect(
            harmed < max(LATENCY, 3 * usual), "latency", f"for others 1 of 100 messages took {harmed * 1000:.0f} ms"
        )
        finding.expect(took < READ_SECONDS, "starved", f"a client that reads had its list after {took:.1f} s")
        finding.expect(is_whole, "cut", "a client that takes pages did not get the whole list")
        load.finish()
        finding.notes.append(
            f"server grew by {growth / 2**20:.1f} MiB; p99 of others {harmed * 1000:.0f} ms (before: "
            f"{usual * 1000:.0f} ms); a reader had {GROUPS[short]} groups of {MEMBERS} after {took:.1f} s"
        )
        finding.add_verdict(load.ledger.verdict())


def _fill_groups(url: str, members: list[str], count: int) -> None:
    """Put these users, and others, into many groups: by SQL, because by requests it takes hours."""
    names = [*members, *(f"member-{number:05}-{'x' * 19}" for number in range(MEMBERS - len(members)))]
    connection = DatabaseConnection(open_engine(url))
    try:
        dao = Dao(connection)
        first_id = 0
        for start in range(0, count, 50):
            groups = [f"group-{number:05}" for number in range(start, min(start + 50, count))]
            made: Insert = ("INSERT INTO chat_groups (name, creator) VALUES (?, ?)", [(g, names[0]) for g in groups])
            filled: Insert = (
                "INSERT INTO members (group_name, username, position, since) VALUES (?, ?, ?, ?)",
                [(group, name, position, first_id) for group in groups for position, name in enumerate(names)],
            )
            dao.connection.insert(made, filled)
    finally:
        connection.close()


ROWS = [
    Row(33, "members of large groups that ask for them and never read", askers, (Control("whole-lists", "memory"),))
]
