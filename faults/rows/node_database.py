"""Rows 26 and 27: the database of three nodes is killed, or goes back to an older state."""

import contextlib
import time
from collections.abc import Callable, Sequence
from functools import partial

from faults import trace
from faults.checker import Answer, Ledger
from faults.cluster import NO_BUS, Cluster, no_redis
from faults.context import Control, Finding, Row, RunContext, wait_until
from faults.load import AWAY, GROUP, ONLINE, PATIENCE, Load, User
from faults.redis import PrivateRedis
from faults.rows.database import (
    ANSWER_LIMIT,
    DELIVERY_LIMIT,
    GONE_BACK,
    ids_in,
    measure_recovery,
    read_state,
    write_state,
)
from jelly.database import DatabaseConnection
from jelly.engines import open_engine
from jelly.errors import StoreError

SLOW_WRITE = 0.2
"""Seconds by which each write to a file of the database is late before it is killed: for so long
others can read what the files do not have yet."""
SLOW_SECONDS = 5.0
"""At most this many seconds until a message arrives meanwhile."""
BACK_BY = 1.2
"""Seconds by which the database goes back: longer than any node is without a commit."""
SETTLED_SECONDS = 1.0
"""Seconds in which clients come back that have lost their connections to all nodes, and others get
what is under way."""
BEGIN_ANEW = b"all connections are closed"
ATTEMPTS = 10
"""At most so often is an older state written, which may end in a deadlock with a node."""


def kill_database(context: RunContext, finding: Finding) -> None:
    """Kill mariadbd under load, while its files are slow, a moment after a message has arrived.

    What has reached an application must be in the database afterwards, and no node may know more
    than the database. One receiver is alone at a node, which therefore looks at what others have
    stored, and seldom commits.
    """
    finding.trials = 8 if context.is_short else 20
    with contextlib.ExitStack() as stack:
        cluster = stack.enter_context(Cluster(context, NO_BUS))
        load = cluster.load(addresses=cluster.addresses[:-1])
        load.online[0] = User(ONLINE[0], load.ledger, cluster.ports[-1])
        stack.enter_context(load)
        load.start()
        for _ in range(finding.trials):
            load.ledger.wait_for_more(Answer.STORED, context.random.randint(50, 500), 30)
            with trace.inject_fault(context.db.pid, trace.delay(SLOW_WRITE, trace.WRITES)):
                time.sleep(SETTLED_SECONDS)  # what was written before arrives
                arrived = _count_arrived(load)
                wait_until(lambda before=arrived: _count_arrived(load) > before, SLOW_SECONDS)  # type: ignore[misc]
                # Soon the senders send more, and other nodes can read it: it is not on the disk.
                time.sleep(context.random.uniform(0, SLOW_WRITE / 2))
                context.db.kill()
            load.ledger.wait_for_more(Answer.FAILED, 10, 1 if context.is_short else ANSWER_LIMIT)
            context.db.start()
            measure_recovery(load, finding)
            load.wait_until_online()
        load.finish()
        surprised = sum(cluster.count_in_logs(GONE_BACK))
        finding.expect(not surprised, "not_durable", f"nodes knew {surprised} times more than was on the disk")
        missing = _delivered(load.ledger) - _stored(cluster.url)
        finding.expect(not missing, "not_durable", f"{len(missing)} messages were handed over and are not stored")
        finding.add_verdict(load.ledger.verdict())


def _count_arrived(load: Load) -> int:
    """How many messages the receiver has who is alone."""
    return len(load.ledger.deliveries.get(ONLINE[0], ()))


def _delivered(ledger: Ledger) -> set[str]:
    """The beginnings of all messages that reached an application: sender and number."""
    return {f"{sender} {number}" for keys in ledger.deliveries.values() for sender, number in keys}


def _stored(url: str) -> set[str]:
    connection = DatabaseConnection(open_engine(url))
    rows = connection.query("SELECT content FROM messages")
    connection.close()
    return {" ".join(content.split(" ")[:2]) for (content,) in rows}


def go_back(context: RunContext, finding: Finding) -> None:
    """Put the database back to what it was a second before, while three nodes run.

    (A failover to a replica does so that lacks the last commits.) All of them notice it, and
    messages that are stored after that arrive.
    """
    finding.trials = 1 if context.is_short else 20
    with contextlib.ExitStack() as stack:
        redis = stack.enter_context(PrivateRedis())
        cluster = stack.enter_context(Cluster(context, redis.url))
        load = stack.enter_context(cluster.load())
        load.away.log_in()  # what waits for somebody who is offline would be gone with the state
        for number in range(finding.trials):
            began_anew = cluster.count_in_logs(BEGIN_ANEW)
            users = (*load.present, load.away)
            disconnects = [user.disconnects for user in users]
            state = read_state(cluster.url)
            until = time.monotonic() + BACK_BY
            _write(load, finding, 5)
            given = ids_in(read_state(cluster.url))
            time.sleep(max(0.0, until - time.monotonic()))
            _repeat(partial(write_state, cluster.url, state))

            def all_know(before: Sequence[int] = (*began_anew, *disconnects), users: Sequence[User] = users) -> bool:
                now = (*cluster.count_in_logs(BEGIN_ANEW), *(user.disconnects for user in users))
                return all(new > old for new, old in zip(now, before, strict=True))

            is_noticed = wait_until(all_know, DELIVERY_LIMIT)
            finding.expect(is_noticed, "not_noticed", f"after turn {number} a node or a client does not know")
            time.sleep(SETTLED_SECONDS)
            if finding.problems:
                break
            _write(load, finding, 1)
            new = ids_in(read_state(cluster.url)) - ids_in(state)
            finding.expect(
                min(new) > max(given), "id_again", f"ids go on at {min(new)}, and {max(given)} was given before"
            )
            if finding.problems:
                break
        for user in (*load.present, load.away):
            user.catch_up()
        finding.add_verdict(load.ledger.verdict())


def _write(load: Load, finding: Finding, count: int) -> None:
    """Have each sender write to everybody some times, and wait until all of it has arrived."""
    load.wait_until_online()
    load.away.client.wait_until_online(PATIENCE)
    targets = (*ONLINE, AWAY, GROUP) * count
    futures = [sender.write(target) for sender in load.senders for target in targets]
    failed = [error for future in futures if (error := future.exception(PATIENCE)) is not None]
    finding.expect(not failed, "not_recovered", f"{len(failed)} requests failed: {failed[:1]}")
    is_there = wait_until(lambda: not load.ledger.verdict().lost, DELIVERY_LIMIT)
    finding.expect(is_there, "late", f"{load.ledger.verdict().lost} messages have not arrived in time")


def _repeat(action: Callable[[], None]) -> None:
    for left in reversed(range(ATTEMPTS)):
        try:
            action()
        except StoreError:
            if not left:
                raise
        else:
            return


MARIADB = ("mariadb",)
ROWS = [
    Row(
        26,
        "MariaDB killed under three nodes, while its files are slow",
        kill_database,
        (Control("pushes-what-is-visible", "not_durable"),),
        MARIADB,
        trace.missing,
    ),
    Row(
        27,
        "database of three nodes goes back by a second",
        go_back,
        (Control("ignores-the-past", "not_noticed"),),
        MARIADB,
        no_redis,
    ),
]
