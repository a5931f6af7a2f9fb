"""Measure what a process uses, from /proc: CPU time, memory, context switches."""

import operator
import os
import time
from dataclasses import astuple, dataclass, field
from pathlib import Path

TICKS = os.sysconf("SC_CLK_TCK")
PAGE = os.sysconf("SC_PAGE_SIZE")


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
    system: float
    database: float
    memory: int
    threads: dict[int, Thread] = field(default_factory=dict)
    """The threads that existed at both points in time."""


class Meter:
    """Measures a server, its database process (if there is one), and the current process."""

    def __init__(self, server: int, database: int | None = None, by_thread: bool = False) -> None:
        self._server = server
        self._database = database
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
            now.system - before.system, now.database - before.database, now.memory, shared,
        )  # fmt: skip

    def memory(self) -> int:
        """Return the resident memory of the server, in bytes."""
        return memory(self._server)

    def _sample(self) -> Usage:
        user, system = _cpu(Path(f"/proc/{self._server}/stat"))
        database = sum(_cpu(Path(f"/proc/{self._database}/stat"))) if self._database else 0.0
        threads = _threads(self._server) if self._by_thread else {}
        return Usage(time.monotonic(), time.process_time(), user, system, database, self.memory(), threads)


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
