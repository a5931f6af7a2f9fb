"""Rows 8 to 11, 31 and 32: the database is killed, hangs, drops connections, is locked, is cut off,
or goes back to an older state.
"""

import contextlib
import re
import sqlite3
import time
from collections.abc import Iterator
from concurrent.futures import Future
from functools import partial
from typing import Any

from faults.checker import Answer
from faults.context import Control, Finding, Row, RunContext, free_port, wait_until
from faults.load import AWAY, GROUP, ONLINE, PATIENCE, Load
from faults.proxy import CommitProxy
from jelly.database import DatabaseConnection
from jelly.engine import Row as DatabaseRow
from jelly.engines import open_engine
from jelly.migrations import schema

RECOVERY_LIMIT = 5.0
"""At most this many seconds after the database is back until messages are stored again."""
ANSWER_LIMIT = 10.0
"""At most this many seconds until a request is answered, whatever the database does."""
LATE_SECONDS = 6.0
"""Seconds after which the server has given up a statement, and not yet what it does next."""
HANG_SECONDS = 30.0
SHORT = 0.5
"""The factor by which the short form shortens the limit for answers. The server's own times are
shortened to a quarter there, so a busy machine has room.
"""
DELIVERY_LIMIT = 5.0
"""At most this many seconds until a message that was answered with SUCCESS has arrived."""
GONE_BACK = b"the database has gone back to an older state: all connections are closed"
State = dict[str, list[DatabaseRow]]
"""The rows of each table."""
CONNECTIONS = "SELECT COUNT(*) FROM information_schema.processlist WHERE user = 'jelly'"


@contextlib.contextmanager
def blocked_database(context: RunContext, url: str) -> Iterator[None]:
    """Within the block, the database takes no commit:

    MariaDB is stopped, the SQLite file is locked.
    """
    if context.database == "mariadb":
        context.db.pause()
        try:
            yield
        finally:
            context.db.resume()
    else:
        other = sqlite3.connect(url.removeprefix("sqlite:///"), isolation_level=None)
        try:
            other.execute("BEGIN IMMEDIATE")
            yield
        finally:
            other.close()


def impatience(context: RunContext) -> list[str]:
    """In the short form, the server waits for its database for a quarter of its time."""
    return ["--variant=impatient"] if context.is_short else []


def measure_recovery(load: Load, finding: Finding) -> None:
    """Measure how long it takes until messages are stored again."""
    started = time.monotonic()
    load.ledger.wait_for_more(Answer.STORED, 20, 2 * RECOVERY_LIMIT)
    took = time.monotonic() - started
    finding.expect(took < RECOVERY_LIMIT, "not_recovered", f"{took:.1f} s after the fault no message was stored")
    finding.recoveries.append(took)


def kill_database(context: RunContext, finding: Finding) -> None:
    """Kill mariadbd repeatedly under load, and restart it once requests have failed."""
    finding.trials = 1 if context.is_short else 10
    url, port = context.url(), free_port()
    most = 300 if context.is_short else 1000
    with context.serve(url, port, launch=impatience(context)), Load(port) as load:
        load.start()
        for _ in range(finding.trials):
            load.ledger.wait_for_more(Answer.STORED, context.random.randint(50, most), 30)
            context.db.kill()
            # A commit that is in doubt keeps all others waiting for a while.
            failed = load.ledger.wait_for_failures(10, 2 * ANSWER_LIMIT)
            finding.expect(failed, "no_error", "no SERVER_ERROR while the database was dead")
            context.db.start()
            measure_recovery(load, finding)
        load.finish()
        finding.expect(not load.disconnects, "disconnected", f"{load.disconnects} connections were lost meanwhile")
        finding.add_verdict(load.ledger.verdict())


def hang(context: RunContext, finding: Finding) -> None:
    """The database hangs for a while, and for a time after which it answers late.

    Requests are still answered in time, and connections stay open.
    """
    limit = ANSWER_LIMIT * (SHORT if context.is_short else 1)
    holds = [limit + 0.5] if context.is_short else [HANG_SECONDS, LATE_SECONDS]
    finding.trials = len(holds)
    held = []
    url, port = context.url(), free_port()
    with context.serve(url, port, launch=impatience(context)) as _, Load(port) as load:
        load.start()
        first = time.monotonic()
        for seconds in holds:
            load.ledger.wait_for_more(Answer.STORED, 200, 30)
            started = time.monotonic()
            with blocked_database(context, url):
                # The short form ends the fault as soon as requests have failed.
                if not (context.is_short and load.ledger.wait_for_more(Answer.FAILED, 50, seconds)):
                    time.sleep(max(0.0, started + seconds - time.monotonic()))
                held.append(f"{time.monotonic() - started:.0f} s")
            measure_recovery(load, finding)
        load.finish()
        verdict, slowest = load.ledger.verdict(), load.ledger.slowest_answer(first)
        finding.expect(slowest < limit, "late", f"an answer took {slowest:.1f} s")
        finding.expect(load.ledger.counts[Answer.FAILED] > 0, "no_error", "no SERVER_ERROR while it hung")
        finding.expect(not load.disconnects, "disconnected", f"{load.disconnects} connections were lost meanwhile")
        finding.notes.insert(0, f"held for {' and '.join(held)}; slowest answer {slowest:.1f} s")
        finding.add_verdict(verdict)


def cut_at_commit(context: RunContext, finding: Finding) -> None:
    """Cut the connection at a COMMIT, again and again under load.

    Half of these commits happen, and only the answer is lost. The server finds out which.
    """
    finding.trials = 6 if context.is_short else 100
    url, port = context.url(), free_port()
    with CommitProxy(context.db.port) as proxy:
        url = url.replace(f":{context.db.port}/", f":{proxy.port}/")
        with context.serve(url, port), Load(port) as load:
            load.start()
            for number in range(finding.trials):
                load.ledger.wait_for_more(Answer.STORED, context.random.randint(20, 200), 30)
                proxy.cut_at_commit(happens=number % 2 == 0)
                if not wait_until(lambda number=number: proxy.cuts > number, 10):  # type: ignore[misc]
                    break
            finding.expect(
                proxy.cuts == finding.trials, "not_cut", f"{proxy.cuts} of {finding.trials} commits were cut"
            )
            load.finish()
            verdict = load.ledger.verdict()
            finding.expect(not load.disconnects, "disconnected", f"{load.disconnects} connections were lost meanwhile")
            # Those that have happened are found, so only the others are answered with an error.
            finding.expect(verdict.unknown > 0, "no_error", "no SERVER_ERROR, although commits were lost")
            finding.add_verdict(verdict)


def read_state(url: str) -> State:
    """Return all rows of all tables."""
    connection = DatabaseConnection(open_engine(url))
    tables = re.findall(r"CREATE TABLE IF NOT EXISTS (\w+)", schema())
    with connection.transaction():
        state = {table: connection.query(f"SELECT * FROM {table}") for table in tables}
    connection.close()
    return state


def write_state(url: str, state: State) -> None:
    """Put the database back to what it was, in one transaction."""
    connection = DatabaseConnection(open_engine(url))
    with connection.transaction():
        for table, rows in state.items():
            connection.execute(f"DELETE FROM {table}")
            if rows:
                connection.insert((f"INSERT INTO {table} VALUES ({', '.join('?' * len(rows[0]))})", rows))
    connection.close()


def ids_in(state: State) -> set[int]:
    """The ids of the messages."""
    return {row[0] for row in state["messages"]}


def go_back(context: RunContext, finding: Finding) -> None:
    """Put the database back to an older state while the server runs.

    (A failover to a replica does so that lacks the last commits.) Messages that are stored after
    that must arrive at programs that know newer ids than the database does.
    """
    finding.trials = 2 if context.is_short else 20
    url, port = context.url(), free_port()
    with context.serve(url, port) as server, Load(port) as load:
        load.away.log_in()  # what waits for somebody who is offline would be gone with the state

        def write(count: int) -> None:
            load.wait_until_online()
            load.away.client.wait_until_online(PATIENCE)
            targets = (*ONLINE, AWAY, GROUP) * count
            futures = [sender.write(target) for sender in load.senders for target in targets]
            failed = [error for future in futures if (error := future.exception(PATIENCE)) is not None]
            finding.expect(not failed, "not_recovered", f"{len(failed)} requests failed: {failed[:1]}")
            if not wait_until(lambda: not load.ledger.verdict().lost, DELIVERY_LIMIT):
                finding.add_verdict(load.ledger.verdict())

        def has_gone_back(before: int) -> bool:
            users = (*load.present, load.away)
            return server.log.count(GONE_BACK) > before and all(user.disconnects > before for user in users)

        for number in range(finding.trials):
            state = read_state(url)
            write(5)
            given = ids_in(read_state(url))
            write_state(url, state)
            load.senders[0].write(ONLINE[0])  # notices it, and is answered with SERVER_ERROR
            is_noticed = wait_until(partial(has_gone_back, number), DELIVERY_LIMIT)
            finding.expect(is_noticed, "not_noticed", f"after turn {number} the log or a client does not know")
            write(1)
            new = ids_in(read_state(url)) - ids_in(state)
            is_above = min(new) > max(given)
            finding.expect(is_above, "id_again", f"ids go on at {min(new)}, and {max(given)} was given before")
            if finding.problems:
                break
        finding.add_verdict(load.ledger.verdict())


def drop_idle(context: RunContext, finding: Finding) -> None:
    """MariaDB drops the server's connections after one idle second.

    No request fails because of that.
    """
    finding.trials = 1 if context.is_short else 5
    url, port = context.url(), free_port()
    context.db.sql("SET GLOBAL wait_timeout = 1")
    try:
        with context.serve(url, port), Load(port) as load:
            _use_everything(load, finding)
            for _ in range(finding.trials):
                dropped = wait_until(lambda: context.db.sql(CONNECTIONS) == [["0"]], 10)
                finding.expect(dropped, "not_dropped", "the database dropped no connection")
                _use_everything(load, finding)
            load.finish()
            finding.add_verdict(load.ledger.verdict())
    finally:
        context.db.sql("SET GLOBAL wait_timeout = 28800")


def _use_everything(load: Load, finding: Finding) -> None:
    """Let every user read and write once, and note a problem if a request fails."""
    futures: list[Future[Any]] = [user.client.own_profile() for user in load.present]
    futures += [sender.write(target) for sender in load.senders for target in (*ONLINE, AWAY, GROUP)]
    failed = [error for future in futures if (error := future.exception(PATIENCE)) is not None]
    finding.expect(not failed, "seen", f"{len(failed)} of {len(futures)} requests failed: {failed[:1]}")


ROWS = [
    Row(8, "database killed and restarted", kill_database, (Control("ignores-failures", "lost"),), ("mariadb",)),
    Row(9, "database hangs (SIGSTOP)", hang, (Control("waits-for-ever", "late"),), ("mariadb",)),
    Row(10, "database drops idle connections", drop_idle, (Control("tries-once", "seen"),), ("mariadb",)),
    Row(
        31,
        "connection to the database cut at COMMIT",
        cut_at_commit,
        (Control("doubt-is-success", "lost"), Control("doubt-is-failure", "disconnected")),
        ("mariadb",),
    ),
    Row(
        32,
        "database goes back to an older state under the running server",
        go_back,
        (Control("ids-from-the-database", "id_again"),),
    ),
    Row(11, "SQLite file locked by another process", hang, (Control("waits-for-ever", "late"),), ("sqlite",)),
]
