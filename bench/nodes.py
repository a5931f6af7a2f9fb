"""What does a node cost? Clusters of some sizes beside a single server: `python -m bench --nodes`.

They run in turns on the same database server. A round has one run of each, and each run is compared
with the single server of its round, so that other load on the machine hits both.
"""

import contextlib
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from bench.meter import Usage
from bench.runs import Result, Runner
from bench.scenarios import CROSSING, LOCAL, MIXED, Measurement, Scenario, parse
from bench.table import BUSY, NO_VALUE, markdown
from faults.process import Server
from faults.redis import PrivateRedis, RedisMissing

ENGINES = ("redis", "none")
KINDS = ("pairs", "group", "offline", "idle")
SCENARIOS = tuple(map(parse, ["pairs-1-1", "pairs-50-1", "pairs-10-16", "group-50-1", "offline-100-200", "idle-1"]))
PLACEMENTS = {"pairs": (LOCAL, CROSSING, MIXED), "offline": (CROSSING,)}
"""By the kind of scenario. Members of a group, and idle users, are at all nodes in turns."""
HEAD = (
    "scenario", "servers", "a second", "p50 ms", "p99 ms", "CPU µs each: nodes", "database", "Redis", "all",
    "all: ratio", "p50: more ms", "generator busy", "note",
)  # fmt: skip
IDLE_HEAD = ("scenario", "servers", "% of a core: nodes", "database", "Redis", "all")
SURELY_USED = 1.0
"""Seconds in which each process does something, even if it is idle."""
BUS_WORKS, BUS_FAILED = b" works", b"this node polls the database meanwhile"
"""What a node writes into its log."""


class Cluster(NamedTuple):
    """Servers that share a database; without nodes it is a single server."""

    nodes: int
    engine: str = ""
    """What carries hints: one of ENGINES."""

    def __str__(self) -> str:
        if not self.nodes:
            return "single server"
        return f"{self.nodes} node{'s' if self.nodes > 1 else ''}, {self.engine}"


SINGLE = Cluster(0)


@dataclass(frozen=True)
class Case:
    """A scenario on a cluster."""

    scenario: Scenario
    cluster: Cluster
    placement: str = LOCAL

    def __str__(self) -> str:
        return f"{self.scenario.name}, {self.cluster}, {self.placement}"

    @property
    def crosses(self) -> bool:
        """Whether messages must go from node to node."""
        is_elsewhere = self.placement != LOCAL or self.scenario.kind == "group"
        return self.cluster.nodes > 1 and is_elsewhere and self.scenario.kind in ("pairs", "group")


@dataclass
class NodeRunner:
    """Runs cases on a database server that nodes can share."""

    runner: Runner
    database: str
    redis: PrivateRedis | None

    def run(self, case: Case) -> Result:
        """Run a case on new servers. `problems` also tells if the figures cannot be right."""
        result = Result(case.scenario.name, self.database)
        if case.cluster.engine == "redis" and self.redis is None:
            result.not_run = "Redis is not installed: apt-get install redis-server (or valkey-server)"
            return result
        has_redis = case.cluster.engine == "redis" and self.redis is not None
        try:
            with self._serve(case) as servers:
                job = {
                    "scenario": case.scenario.name,
                    "redis": self.redis.pid if has_redis and self.redis else None,
                    "placement": case.placement,
                }
                self.runner.take(result, self.runner.generate(servers, self.database, **job))
                if not result.problems and not result.not_run:
                    result.problems = wrong_figures(case, result) or self._wrong_cluster(case, servers)
        except RuntimeError as error:
            result.problems = str(error)
        return result

    @contextlib.contextmanager
    def _serve(self, case: Case) -> Iterator[list[Server]]:
        """Start the servers of a case on an empty database."""
        url, cluster, more = self.runner.fresh_url(self.database), case.cluster, case.scenario.server_arguments
        if cluster.nodes:
            bus = self.redis.url if cluster.engine == "redis" and self.redis is not None else "none"
            more = [*more, f"--cluster={bus}"]
        with contextlib.ExitStack() as stack:
            yield [stack.enter_context(self.runner.start(url, *more)) for _ in range(cluster.nodes or 1)]

    def _wrong_cluster(self, case: Case, servers: Sequence[Server]) -> str:
        """Return what was not as the case says; empty if all was."""
        if not case.cluster.nodes:
            return ""
        for server in servers:
            if case.cluster.engine == "redis" and (BUS_WORKS not in server.log or BUS_FAILED in server.log):
                return "a node did not hear of others through Redis"
        sql = self.runner.servers[self.database].sql
        [[count]] = sql("SELECT COUNT(*) FROM bench.nodes WHERE state = 1")
        if int(count) != case.cluster.nodes:
            return f"there were {count} nodes"
        last_for = [int(id) for (id,) in sql("SELECT value FROM bench.meta WHERE name LIKE 'for.%'")]
        if case.crosses != any(last_for):
            return f"{'no' if case.crosses else 'a'} message went from node to node"
        return ""


def wrong_figures(case: Case, result: Result) -> str:
    """Return why the figures of a result cannot be right; empty if they can."""
    if not result.measurements:
        return "nothing was measured"
    for measurement in result.measurements:
        usage = measurement.usage
        if usage is None or not measurement.count:
            return f"{measurement.name}: nothing happened while it was measured"
        if case.scenario.kind == "idle" and usage.seconds < SURELY_USED:
            continue
        if len(usage.servers) != (case.cluster.nodes or 1) or min(usage.servers) <= 0:
            return f"{measurement.name}: a server has used no CPU time"
        if usage.database <= 0 or (case.crosses and case.cluster.engine == "redis" and usage.redis <= 0):
            return f"{measurement.name}: the database or Redis has used no CPU time"
    return ""


def cases(scenario: Scenario, clusters: Sequence[Cluster]) -> list[Case]:
    """Return all cases of a scenario, the single server first."""
    found = [Case(scenario, SINGLE)]
    for cluster in clusters:
        placements = PLACEMENTS.get(scenario.kind, (LOCAL,)) if cluster.nodes > 1 else (LOCAL,)
        # (One pair cannot be here and there.)
        found += [
            Case(scenario, cluster, placement)
            for placement in placements
            if placement != MIXED or scenario.numbers[0] > cluster.nodes
        ]
    return found


@contextlib.contextmanager
def open_node_runner(runner: Runner, database: str, engines: Sequence[str]) -> Iterator[NodeRunner]:
    """Yield a NodeRunner, with a private Redis if it is wanted and installed."""
    with contextlib.ExitStack() as stack:
        redis: PrivateRedis | None = None
        if "redis" in engines:
            with contextlib.suppress(RedisMissing):
                redis = stack.enter_context(PrivateRedis())
        yield NodeRunner(runner, database, redis)


# --- the tables -----------------------------------------------------------------------------------


def tables(rounds: Sequence[dict[Case, Result]]) -> str:
    """Return the medians of all rounds as two tables: of messages, and of servers that are idle."""
    rows, idle = [], []
    for case in rounds[0]:
        results = [each[case] for each in rounds]
        if why := failure(results):
            rows.append((_title(case), str(case.cluster), *[NO_VALUE] * (len(HEAD) - 3), why))
        elif case.scenario.kind == "idle":
            idle.append(_idle_row(case, results))
        else:
            singles = [each.get(Case(case.scenario, SINGLE)) for each in rounds]
            rows += [_row(case, results, singles, place) for place in range(len(results[0].measurements))]
    text = markdown(HEAD, rows) if rows else ""
    if any("(!)" in cell for row in rows for cell in row):
        text += f"\n\n(!) The generator was busy for more than {BUSY:.0%} of the time: it may be the bottleneck."
    return "\n\n".join(part for part in (text, markdown(IDLE_HEAD, idle) if idle else "") if part)


def failure(results: Sequence[Result]) -> str:
    """Return why a row has no figures; empty if it has."""
    for result in results:
        if result.problems or result.not_run:
            return f"FAILED: {result.problems}" if result.problems else f"not run: {result.not_run}"
    return ""


def _title(case: Case, measurement: Measurement | None = None) -> str:
    name = measurement.name if measurement else case.scenario.name
    return f"{name}, {case.placement}" if case.cluster.nodes > 1 and case.scenario.kind == "pairs" else name


def _row(case: Case, results: Sequence[Result], singles: Sequence[Result | None], place: int) -> tuple[str, ...]:
    ours = [result.measurements[place] for result in results]
    pairs = [
        (here, single.measurements[place])
        for here, single in zip(ours, singles, strict=True)
        if single is not None and not failure([single])
    ]
    busy = statistics.median(_usage(each).generator / _usage(each).seconds for each in ours)
    return (
        _title(case, ours[0]),
        str(case.cluster),
        f"{statistics.median(each.count / _usage(each).seconds for each in ours):,.0f}",
        f"{statistics.median(each.p50 for each in ours) * 1e3:,.2f}",
        f"{statistics.median(each.p99 for each in ours) * 1e3:,.2f}",
        " + ".join(f"{cost:.0f}" for cost in _median_costs(ours)),
        f"{statistics.median(_usage(each).database / each.count for each in ours) * 1e6:.0f}",
        f"{statistics.median(_usage(each).redis / each.count for each in ours) * 1e6:.1f}"
        if case.cluster.engine == "redis"
        else NO_VALUE,
        f"{statistics.median(map(cost_of_all, ours)):.0f}",
        f"{statistics.median(cost_of_all(a) / cost_of_all(b) for a, b in pairs):.2f}" if pairs else NO_VALUE,
        f"{statistics.median(a.p50 - b.p50 for a, b in pairs) * 1e3:+.2f}" if pairs else NO_VALUE,
        f"{busy:.0%}{' (!)' if busy > BUSY else ''}",
        ours[0].note,
    )


def _idle_row(case: Case, results: Sequence[Result]) -> tuple[str, ...]:
    usages = [_usage(result.measurements[0]) for result in results]

    def percent(*seconds: float) -> str:
        return f"{statistics.median(part / each.seconds for part, each in zip(seconds, usages, strict=True)):.2%}"

    nodes = zip(*(each.servers for each in usages), strict=True)
    return (
        case.scenario.name,
        str(case.cluster),
        " + ".join(percent(*seconds) for seconds in nodes),
        percent(*(each.database for each in usages)),
        percent(*(each.redis for each in usages)) if case.cluster.engine == "redis" else NO_VALUE,
        percent(*map(_sum, usages)),
    )


def _median_costs(measurements: Sequence[Measurement]) -> Iterator[float]:
    """Yield what each server has used for a message, in microseconds."""
    for costs in zip(*([cpu / m.count for cpu in _usage(m).servers] for m in measurements), strict=True):
        yield statistics.median(costs) * 1e6


def cost_of_all(measurement: Measurement) -> float:
    """Return the CPU time of all processes for a message, in microseconds."""
    return _sum(_usage(measurement)) / measurement.count * 1e6


def _sum(usage: Usage) -> float:
    return sum(usage.servers) + usage.database + usage.redis


def _usage(measurement: Measurement) -> Usage:
    assert measurement.usage is not None
    return measurement.usage
