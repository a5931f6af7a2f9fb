"""Rows 8 to 11 and 21: the database is killed, hangs, drops connections, is locked or cut off."""

import contextlib
import sqlite3
import time
from collections.abc import Iterator
from concurrent.futures import Future
from typing import Any

from faults.checker import Answer
from faults.context import Control, Finding, Row, RunContext, free_port, wait_until
from faults.load import AWAY, GROUP, ONLINE, PATIENCE, Load
from faults.proxy import CommitProxy

RECOVERY_LIMIT = 5.0
"""At most this many seconds after the database is back until messages are stored again."""
ANSWER_LIMIT = 10.0
"""At most this many seconds until a request is answered, whatever the database does."""
HANG_SECONDS = 30.0
SHORT = 0.25
"""The factor by which the short form shortens all times of a hanging database, the server's too."""
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
    with context.serve(url, port), Load(port) as load:
        load.start()
        for _ in range(finding.trials):
            load.ledger.wait_for_more(Answer.STORED, context.random.randint(50, 1000), 30)
            context.db.kill()
            failed = load.ledger.wait_for_more(Answer.FAILED, 10, 1 if context.is_short else ANSWER_LIMIT)
            finding.expect(failed, "no_error", "no SERVER_ERROR while the database was dead")
            context.db.start()
            measure_recovery(load, finding)
        load.finish()
        finding.expect(not load.disconnects, "disconnected", f"{load.disconnects} connections were lost meanwhile")
        finding.add_verdict(load.ledger.verdict())


def hang(context: RunContext, finding: Finding) -> None:
    """The database hangs for a while.

    Requests are still answered in time, and connections stay open.
    """
    finding.trials = 1
    limit = ANSWER_LIMIT * (SHORT if context.is_short else 1)
    seconds = limit + 0.5 if context.is_short else HANG_SECONDS
    url, port = context.url(), free_port()
    launch = ["--variant=impatient"] if context.is_short else []
    with context.serve(url, port, launch=launch) as _, Load(port) as load:
        load.start()
        load.ledger.wait_for_more(Answer.STORED, 200, 30)
        started = time.monotonic()
        with blocked_database(context, url):
            # The short form ends the fault as soon as requests have failed.
            if not (context.is_short and load.ledger.wait_for_more(Answer.FAILED, 50, seconds)):
                time.sleep(max(0.0, started + seconds - time.monotonic()))
            held = time.monotonic() - started
        measure_recovery(load, finding)
        load.finish()
        verdict, slowest = load.ledger.verdict(), load.ledger.slowest_answer(started - 1)
        finding.expect(slowest < limit, "late", f"an answer took {slowest:.1f} s")
        finding.expect(load.ledger.counts[Answer.FAILED] > 0, "no_error", "no SERVER_ERROR while it hung")
        finding.expect(not load.disconnects, "disconnected", f"{load.disconnects} connections were lost meanwhile")
        finding.notes.insert(0, f"held for {held:.0f} s; slowest answer {slowest:.1f} s")
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
        21,
        "connection to the database cut at COMMIT",
        cut_at_commit,
        (Control("doubt-is-success", "lost"), Control("doubt-is-failure", "disconnected")),
        ("mariadb",),
    ),
    Row(11, "SQLite file locked by another process", hang, (Control("waits-for-ever", "late"),), ("sqlite",)),
]
