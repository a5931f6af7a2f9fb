"""Rows 21 and 22: Redis, which carries hints between nodes, fails; hints are lost, doubled and
swapped.
"""

import contextlib
import time
from collections.abc import Callable, Sequence
from functools import partial

from faults.checker import Answer
from faults.cluster import Cluster, no_redis, percentile, steady_writing
from faults.context import Control, Finding, Row, RunContext, wait_until
from faults.load import ONLINE, Load, Sender, User, register
from faults.proxy import SlowProxy
from faults.redis import PrivateRedis

GONE_SECONDS = {True: 4.0, False: 10.0}
"""For how many seconds Redis is away."""
GONE_LIMIT = {True: 0.5, False: 0.15}
"""At most this many seconds take 99 of 100 messages while Redis is dead..."""
BUSY = 3
"""... or this many times as long as before: the machine may be busy."""
SLOW_BY = 0.2
"""Seconds by which everything to and from Redis is late when it is slow."""
BUS_FAILED, BUS_WORKS = b"this node polls the database meanwhile", b" works again"
BACK_SECONDS = 5.0
"""At most this many seconds until a node notices that Redis is back."""
QUIET_SECONDS = 2.0
"""Seconds before a fault."""
WRITER, READER = "eva", "fay"
"""The pair that writes while nobody else does, at two nodes."""
LONELY_INTERVAL = 0.25
"""Seconds between two messages of that pair."""
HINTED = {True: 500, False: 10_000}
"""How many messages are acknowledged while hints are unreliable."""


def lose_redis(context: RunContext, finding: Finding) -> None:
    """Kill Redis, stop it (SIGSTOP), and slow it down, while people write steadily.

    The nodes poll meanwhile, and say so once. Then kill it while only one user writes now and then:
    no commit of its own leads the receiver's node to the message.
    """
    with contextlib.ExitStack() as stack:
        redis = stack.enter_context(PrivateRedis())
        proxy = stack.enter_context(SlowProxy(redis.port))
        cluster = stack.enter_context(Cluster(context, f"redis://127.0.0.1:{proxy.port}"))
        load = stack.enter_context(cluster.load())
        lonely = Sender(WRITER, load.ledger, cluster.ports[0], 0, 0)
        reader = User(READER, load.ledger, cluster.ports[1])
        register(cluster.ports[0], (WRITER, READER))
        for user in (lonely, reader):
            stack.callback(user.client.close)
            user.log_in()

        def slow_down() -> None:
            proxy.delay = SLOW_BY

        def speed_up() -> None:
            proxy.delay = 0.0

        lose = partial(_lose, context, finding, cluster, load)
        if not context.is_short:
            with steady_writing(load.senders):
                lose("killed", redis.kill, redis.start, ONLINE)
                lose("stopped", redis.pause, redis.resume, ONLINE)
                lose("slow", slow_down, speed_up, ONLINE)
        with steady_writing([lonely], [READER], LONELY_INTERVAL):
            lose("killed, one pair", redis.kill, redis.start, [READER])
        reader.catch_up()
        load.finish()
        finding.add_verdict(load.ledger.verdict())


def _lose(
    context: RunContext,
    finding: Finding,
    cluster: Cluster,
    load: Load,
    name: str,
    begin: Callable[[], None],
    end: Callable[[], None],
    receivers: Sequence[str],
) -> None:
    """Have Redis fail for a while, and judge what the receivers and the logs have got."""
    finding.trials += 1
    time.sleep(QUIET_SECONDS)
    failed, works = cluster.count_in_logs(BUS_FAILED), cluster.count_in_logs(BUS_WORKS)
    since = time.monotonic()
    usual = percentile(load.ledger.delays(receivers, since - QUIET_SECONDS), 0.99)
    begin()
    time.sleep(GONE_SECONDS[context.is_short])
    until = time.monotonic()
    told = [now - before for now, before in zip(cluster.count_in_logs(BUS_FAILED), failed, strict=True)]
    end()
    is_gone = name != "slow"
    if is_gone:
        finding.expect(told == [1] * len(told), "lines", f"Redis {name}: the logs have {told} lines about it")
        is_back = wait_until(
            lambda: all(now > was for now, was in zip(cluster.count_in_logs(BUS_WORKS), works, strict=True)),
            BACK_SECONDS,
        )
        finding.expect(is_back, "not_back", f"Redis {name}: not all nodes listen again")
    time.sleep(1.0)  # what was sent at the end arrives
    delays = load.ledger.delays(receivers, since, until)
    p50, p99 = (percentile(delays, share) for share in (0.5, 0.99))
    limit = max(GONE_LIMIT[context.is_short], BUSY * usual)
    finding.expect(p99 < limit or "killed" not in name, "late", f"Redis {name}: 1 of 100 messages took {p99:.2f} s")
    lines = f", {max(told)} line" if is_gone else ""
    finding.notes.append(
        f"Redis {name} for {until - since:.0f} s: p50 {p50 * 1000:.0f} ms, p99 {p99 * 1000:.0f} ms "
        f"(before: {usual * 1000:.0f} ms){lines}"
    )


def lose_hints(context: RunContext, finding: Finding) -> None:
    """Drop, double and swap hints under load."""
    finding.trials = 1
    with contextlib.ExitStack() as stack:
        redis = stack.enter_context(PrivateRedis())
        cluster = stack.enter_context(Cluster(context, redis.url, launch=["--variant=unreliable-hints"]))
        load = stack.enter_context(cluster.load())
        load.start()
        load.ledger.wait_for_more(Answer.STORED, HINTED[context.is_short], 600)
        load.finish()
        finding.add_verdict(load.ledger.verdict())


MARIADB = ("mariadb",)
ROWS = [
    Row(21, "Redis killed, stopped, slowed", lose_redis, (Control("never-polls", "late"),), MARIADB, no_redis),
    Row(
        22,
        "hints between nodes dropped, doubled, swapped",
        lose_hints,
        (Control("hints-are-the-source", "lost"),),
        MARIADB,
        no_redis,
    ),
]
