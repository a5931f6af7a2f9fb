"""Measure what processes use: CPU time, memory, context switches."""

import operator
import os
import time
from collections.abc import Sequence
from dataclasses import astuple, dataclass, field
from pathlib import Path

TICKS = os.sysconf("SC_CLK_TCK")
PAGE = os.sysconf("SC_PAGE_SIZE")
SCHEDULED = 2
"""The kind of a process's clock that counts the time on a core (CPUCLOCK_SCHED of Linux)."""


@dataclass
class Thread:
    """The usage of a thread:

    CPU seconds, user and system time (in ticks of 10 ms), context switches.
    """

    cpu: float
    user: float
    system: float
    voluntary: int
    involuntary: int

    def __add__(self, other: "Thread") -> "Thread":
        return Thread(*map(operator.add, astuple(self), astuple(other)))

    def __sub__(self, other: "Thread") -> "Thread":
        return Thread(*map(operator.sub, astuple(self), astuple(other)))


@dataclass
class Usage:
    """The usage between two points in time: seconds, CPU seconds, and final memory in bytes."""

    seconds: float
    generator: float
    user: float
    """Of all servers together (in ticks of 10 ms), as is `system`."""
    system: float
    database: float
    memory: int
    """Of all servers together."""
    servers: list[float] = field(default_factory=list)
    """CPU seconds of each server, to the microsecond."""
    redis: float = 0.0
    threads: dict[int, Thread] = field(default_factory=dict)
    """The threads that existed at both points in time."""


class Meter:
    """Measures servers, their database process and their Redis (if there is one), and the current
    process.
    """

    def __init__(
        self, servers: Sequence[int], database: int | None = None, redis: int | None = None, by_thread: bool = False
    ) -> None:
        """The numbers are process ids. `by_thread`: also measure the first server by thread."""
        self._servers = servers
        self._database = database
        self._redis = redis
        self._by_thread = by_thread
        self._before = self._sample()

    def start(self) -> None:
        """Start to measure."""
        self._before = self._sample()

    def stop(self) -> Usage:
        """Return the usage since `start`."""
        now, before = self._sample(), self._before
        shared = {number: thread - before.threads[number] for number, thread in now.threads.items()
                  if number in before.threads}  # fmt: skip
        return Usage(
            now.seconds - before.seconds, now.generator - before.generator, now.user - before.user,
            now.system - before.system, now.database - before.database, now.memory,
            [after - earlier for after, earlier in zip(now.servers, before.servers, strict=True)],
            now.redis - before.redis, shared,
        )  # fmt: skip

    def memory(self) -> int:
        """Return the resident memory of the servers, in bytes."""
        return sum(map(memory, self._servers))

    def _sample(self) -> Usage:
        stats = [_cpu(Path(f"/proc/{server}/stat")) for server in self._servers]
        user, system = (sum(parts) for parts in zip(*stats, strict=True))
        threads = _threads(self._servers[0]) if self._by_thread else {}
        exact = [cpu_clock(server) for server in self._servers]
        database, redis = (cpu_clock(pid) if pid else 0.0 for pid in (self._database, self._redis))
        return Usage(
            time.monotonic(), time.process_time(), user, system, database, self.memory(), exact, redis, threads
        )


def cpu_clock(pid: int) -> float:
    """Return the CPU seconds that a process has used, all its threads together.

    (The kernel has a clock for each process, which is finer than the ticks in /proc.)
    """
    return time.clock_gettime(~pid << 3 | SCHEDULED)


def memory(pid: int) -> int:
    """Return the resident memory of a process, in bytes."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * PAGE


def _cpu(stat: Path) -> tuple[float, float]:
    """Return the user and system time of a thread or a process (with ended threads), in seconds."""
    values = stat.read_text().rpartition(")")[2].split()
    return int(values[11]) / TICKS, int(values[12]) / TICKS


def _threads(pid: int) -> dict[int, Thread]:
    found = {}
    for task in Path(f"/proc/{pid}/task").iterdir():
        try:
            lines = (task / "status").read_text().splitlines()
            switches = [int(line.partition(":")[2]) for line in lines if "ctxt_switches" in line]
            cpu = int((task / "schedstat").read_text().split()[0]) / 1e9  # finer than ticks: some threads use less
            found[int(task.name)] = Thread(cpu, *_cpu(task / "stat"), *switches)
        except (FileNotFoundError, ProcessLookupError):  # the thread has just ended
            continue
    return found
