"""Rows 23, 24, 25 and 29: a node is killed, stopped, cut off from the others, or restarted."""

import contextlib
import signal
import time

from faults.checker import Answer
from faults.cluster import NODES, Cluster, no_redis, percentile, steady_writing, worst
from faults.context import Control, Finding, Row, RunContext, wait_until
from faults.load import ONLINE, Load
from faults.proxy import Proxy
from faults.redis import PrivateRedis

PER_KILL = {True: (20, 100), False: (50, 550)}
"""How many messages, at least and at most, are acknowledged between a start and the next kill."""
DIE_SECONDS = 5.0
"""At most this many seconds until a node has stored a message, on which it dies."""
STEADY_KILLS = 5
"""How often a node is killed while the delay of messages is measured."""
STEADY_SECONDS = 2.0
NODE_TIMEOUT = {True: 3.0, False: 5.0}
"""Seconds of silence after which a node counts as dead, in the short form and in the long one."""
STOPS = {True: (8.0,), False: (3.0, 10.0, 60.0)}
"""For how many seconds a node is stopped."""
LOCK_LIMIT = {"MariaDB": 3.5, "MySQL": 4.5}
"""At most this many seconds until others serve again after a node has stopped with the lock."""
REGISTER_LIMIT = 5.0
"""At most this many seconds until a node that has slept is one of the nodes again."""
UNDER_WAY_SECONDS = 0.2
"""Seconds in which answers may still arrive that were under way when a node stopped."""
REQUEST_TIMEOUT = 5.0
"""Seconds after which clients of a node that does not answer go to another one."""
CUTS = {True: (6.0,), False: (3.0, 12.0)}
"""For how many seconds a node is cut off."""
ISOLATED_LIMIT = 5.0
"""At most this many seconds after the time in NODE_TIMEOUT until a node without the database has
sent its clients to the others, and they have the messages that have come meanwhile."""
RECOVERY_LIMIT = 5.0
FLAP_SECONDS = 1.0


def kill_nodes(context: RunContext, finding: Finding) -> None:
    """Kill a node, again and again: at random, or when it has committed and not answered yet.

    Its clients go on at the others.
    """
    finding.trials = 3 if context.is_short else context.kills
    with contextlib.ExitStack() as stack:
        redis = stack.enter_context(PrivateRedis())
        cluster = stack.enter_context(Cluster(context, redis.url, launch=["--variant=dies-unanswered"]))
        load = stack.enter_context(cluster.load())
        load.start()
        for number in range(finding.trials):
            load.ledger.wait_for_more(Answer.STORED, context.random.randint(*PER_KILL[context.is_short]), 30)
            place = context.random.randrange(NODES)
            if number % 2:
                time.sleep(context.random.uniform(0, 0.01))
                cluster.kill(place)
            else:
                place = cluster.busiest(load.senders)
                cluster[place].process.send_signal(signal.SIGUSR1)
                if not cluster[place].ends_within(DIE_SECONDS):  # nobody writes there any more
                    cluster.kill(place)
            finding.restarts.append(cluster.start(place).start_seconds)
        load.stop()
        if not context.is_short:
            finding.notes.append(_measure_kills(cluster, load))
        load.finish()
        finding.add_verdict(load.ledger.verdict())


def _measure_kills(cluster: Cluster, load: Load) -> str:
    """Kill nodes under a light load, and say how long a message took at worst."""
    delays = []
    for _ in range(STEADY_KILLS):
        load.wait_until_online()
        since = time.monotonic()
        place = cluster.busiest(load.online)
        with steady_writing(load.senders):
            time.sleep(STEADY_SECONDS / 2)
            cluster.kill(place)
            time.sleep(STEADY_SECONDS / 2)
        load.wait_until_online()
        delays.append(worst(load.ledger, since))
        cluster.start(place)
    shown = ", ".join(f"{delay:.2f}" for delay in sorted(delays))
    return f"worst delivery when a receiver's node is killed: {shown} s"


def stop_nodes(context: RunContext, finding: Finding) -> None:
    """Stop a node for a while, while it has the sequence lock and while it has not.

    The others go on. What it does when it wakes up must do no harm.
    """
    stops = [(seconds, has_lock) for seconds in STOPS[context.is_short] for has_lock in (True, False)]
    finding.trials = len(stops)
    limit = LOCK_LIMIT[context.db.NAME]
    served: list[float] = []
    with contextlib.ExitStack() as stack:
        redis = stack.enter_context(PrivateRedis())
        timeout = f"--node-timeout={NODE_TIMEOUT[context.is_short]}"
        cluster = Cluster(context, redis.url, timeout, launch=["--variant=freezes-with-lock"])
        stack.enter_context(cluster)
        load = stack.enter_context(cluster.load(request_timeout=REQUEST_TIMEOUT, under_way=4))
        load.start()
        for seconds, has_lock in stops:
            load.wait_until_online()
            load.ledger.wait_for_more(Answer.STORED, context.random.randint(*PER_KILL[context.is_short]), 30)
            place = _place_to_stop(cluster, load) if has_lock else cluster.busiest(load.online)
            if has_lock:
                cluster[place].process.send_signal(signal.SIGUSR1)
                cluster.wait_until_paused(place)
            else:
                cluster.pause(place)
            started = time.monotonic()
            time.sleep(UNDER_WAY_SECONDS)
            load.ledger.wait_for_more(Answer.STORED, 1, 2 * limit)
            took = time.monotonic() - started
            if has_lock:
                finding.expect(took < limit, "late", f"the others served again after {took:.1f} s")
                served.append(took)
            time.sleep(max(0.0, started + seconds - time.monotonic()))
            cluster.resume(place)
            load.ledger.wait_for_more(Answer.STORED, 100, 30)
            # One that was declared dead has noticed it, and is a node again.
            are_all = wait_until(lambda: cluster.count_registered() == NODES, REGISTER_LIMIT)
            finding.expect(are_all, "no_node", "a node serves that is not in the table of nodes")
        load.finish()
        shown = ", ".join(f"{took:.2f}" for took in served)
        finding.notes.append(f"a node stopped with the lock: the others serve again after {shown} s")
        finding.add_verdict(load.ledger.verdict())


def _place_to_stop(cluster: Cluster, load: Load) -> int:
    """A node at which some of the senders are; or none of them, but not all."""
    places = [cluster.place_of(sender) for sender in load.senders]
    counts = [places.count(place) for place in range(NODES)]
    return min(range(NODES), key=lambda place: (counts[place] == len(places), not counts[place]))


def cut_off(context: RunContext, finding: Finding) -> None:
    """Cut a node off from the database, from Redis, and from both: connections are reset, or
    nothing comes through.

    Clients that know the other nodes go there, if the database is away for long and the node hears
    from Redis that the others still reach it.
    """
    ways = [
        (target, is_silent, seconds)
        for seconds in CUTS[context.is_short]
        for target in ("database", "Redis", "both")
        for is_silent in (False, True)
    ]
    ways = ways[:1] if context.is_short else ways
    finding.trials = len(ways)
    limit = NODE_TIMEOUT[context.is_short] + (ISOLATED_LIMIT if not context.is_short else ISOLATED_LIMIT / 2)
    with contextlib.ExitStack() as stack:
        redis = stack.enter_context(PrivateRedis())
        to_database = [stack.enter_context(Proxy(context.db.port)) for _ in range(NODES)]
        to_redis = [stack.enter_context(Proxy(redis.port)) for _ in range(NODES)]
        proxies = {"database": [to_database], "Redis": [to_redis], "both": [to_database, to_redis]}
        cluster = Cluster(context, redis.url, f"--node-timeout={NODE_TIMEOUT[context.is_short]}")
        cluster.urls = [cluster.url.replace(f":{context.db.port}/", f":{proxy.port}/") for proxy in to_database]
        cluster.buses = [f"redis://127.0.0.1:{proxy.port}" for proxy in to_redis]
        stack.enter_context(cluster)
        load = stack.enter_context(cluster.load(request_timeout=REQUEST_TIMEOUT, under_way=4))
        load.start()
        cuts: list[tuple[str, float, float]] = []
        for target, is_silent, seconds in ways:
            load.ledger.wait_for_more(Answer.STORED, context.random.randint(*PER_KILL[context.is_short]), 30)
            cut = [each[cluster.place_of(load.online[0])] for each in proxies[target]]
            since = time.monotonic()
            for proxy in cut:
                proxy.pause() if is_silent else proxy.block()
            time.sleep(seconds)
            cuts.append((target, since, time.monotonic()))
            for proxy in cut:
                proxy.resume() if is_silent else proxy.mend()
            started = time.monotonic()
            load.ledger.wait_for_more(Answer.STORED, 20, 2 * RECOVERY_LIMIT)
            took = time.monotonic() - started
            finding.expect(took < RECOVERY_LIMIT, "not_recovered", f"{took:.1f} s after the cut no message was stored")
            finding.recoveries.append(took)
            load.wait_until_online()
        load.finish()
        longest: dict[str, float] = {}
        for target, since, until in cuts:
            delays = load.ledger.delays(ONLINE, since, until)
            longest[target] = max(longest.get(target, 0.0), percentile(delays, 1.0))
        seconds = longest["database"]
        finding.expect(seconds < limit, "late", f"a message arrived after {seconds:.1f} s")
        shown = ", ".join(f"{target} {seconds:.1f} s" for target, seconds in longest.items())
        finding.notes.append(f"worst delivery without {shown}")
        finding.add_verdict(load.ledger.verdict())


def roll(context: RunContext, finding: Finding) -> None:
    """Restart all nodes in turn, again and again, under load.

    Nobody hears of a user who was offline meanwhile, and no request fails.
    """
    rounds = 1 if context.is_short else 10
    finding.trials = rounds * NODES
    with PrivateRedis() as redis, Cluster(context, redis.url) as cluster, cluster.load() as load:
        watcher = load.online[0]
        for user in load.senders:
            watcher.client.add_friend(user.name).result(10)
        load.start()
        for _ in range(rounds):
            for place in range(NODES):
                load.wait_until_online()
                load.ledger.wait_for_more(Answer.STORED, context.random.randint(*PER_KILL[context.is_short]), 30)
                code = cluster[place].stop()
                finding.expect(code == 0, "exit_code", f"a node ended with {code}")
                cluster[place].kill()
                finding.restarts.append(cluster.start(place).start_seconds)
        load.stop()
        load.wait_until_online()
        time.sleep(FLAP_SECONDS)
        gone = [name for name, count in watcher.went_offline.items() if count]
        finding.expect(not gone, "flap", f"a friend heard that {', '.join(gone)} was offline")
        load.finish()
        verdict = load.ledger.verdict()
        finding.expect(not verdict.unknown, "failed", f"{verdict.unknown} requests failed")
        finding.add_verdict(verdict)


MARIADB = ("mariadb",)
ROWS = [
    Row(
        23,
        "a node of three killed (kill -9)",
        kill_nodes,
        (Control("forgets-requests", "twice"),),
        MARIADB,
        no_redis,
    ),
    Row(
        24,
        "a node stopped (SIGSTOP), also while it has the sequence lock",
        stop_nodes,
        (Control("no-fence", "no_node"), Control("keeps-the-lock", "late")),
        MARIADB,
        no_redis,
    ),
    Row(
        25,
        "a node cut off from the database, from Redis, from both",
        cut_off,
        (Control("serves-isolated", "late"),),
        MARIADB,
        no_redis,
    ),
    Row(29, "rolling restart under load", roll, (Control("offline-at-once", "flap"),), MARIADB, no_redis),
]
