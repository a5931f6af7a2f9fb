"""Where the time goes: the CPU time and context switches of each kind of thread, per message."""

import json
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

from bench import thread_names
from bench.meter import Thread
from bench.runs import Runner, measurement_of
from bench.scenarios import Measurement, Scenario
from bench.table import NO_VALUE

WIDTH = 40
"""How many characters the longest bar has."""
BAR = "█"


def profile(runner: Runner, scenario: Scenario, database: str) -> str:
    """Run a scenario on a server that names its threads; return a text chart for each figure.

    Raises RuntimeError.
    """
    with tempfile.TemporaryDirectory(prefix="jelly-profile-") as directory:
        path = Path(directory) / "threads"
        with runner.serve(
            database, *scenario.server_arguments, launch=("-m", "bench.thread_names"), **{thread_names.FILE: str(path)}
        ) as server:
            pieces = list(runner.generate([server], database, scenario=scenario.name, by_thread=True))
            names = {int(number): name for number, name in json.loads(path.read_text()).items()}
    for piece in pieces:
        if wrong := piece.get("problems") or piece.get("not_run"):
            raise RuntimeError(f"{scenario.name} on {database}: {wrong}")
    return "\n\n".join(chart(measurement_of(piece), database, names) for piece in pieces if "name" in piece)


def chart(measurement: Measurement, database: str, names: Mapping[int, str]) -> str:
    """Return a bar chart: the cost of each kind of thread per message, most expensive first."""
    usage = measurement.usage
    assert usage is not None
    roles = sum_by_role(usage.threads, names)
    cpu = usage.user + usage.system
    count, most = max(measurement.count, 1), max(thread.cpu for thread in roles.values())
    lines = [
        f"{measurement.name}, {database}: {measurement.count / usage.seconds:,.0f} a second, "
        f"{cpu / count * 1e6:.1f} µs of CPU each, "
        f"{usage.system / max(cpu, 1e-9):.0%} of it in the kernel; {cpu / usage.seconds:.0%} of a core",
        f"{'thread':10} {'µs each':>8} {'in kernel':>10} {'waits each':>11} {'forced each':>12}",
    ]
    for role, thread in sorted(roles.items(), key=lambda item: -item[1].cpu):
        bar = BAR * round(thread.cpu / max(most, 1e-9) * WIDTH)
        lines.append(
            f"{role:10} {thread.cpu / count * 1e6:8.1f} {_in_kernel(thread):>10} {thread.voluntary / count:11.2f} "
            f"{thread.involuntary / count:12.2f}  {bar}"
        )
    return "\n".join(line.rstrip() for line in lines)


def _in_kernel(thread: Thread) -> str:
    """Return the share of system time. Ticks are too coarse for threads that ran only briefly."""
    ticks = thread.user + thread.system
    return f"{thread.system / ticks:.0%}" if ticks > thread.cpu / 2 and ticks > 0 else NO_VALUE


def sum_by_role(threads: Mapping[int, Thread], names: Mapping[int, str]) -> dict[str, Thread]:
    """Add up the costs of all threads of a kind: `jelly-worker_2` is a worker."""
    roles: dict[str, Thread] = {}
    for number, thread in threads.items():
        role = role_of(names.get(number, "(not named)"))
        roles[role] = roles[role] + thread if role in roles else thread
    return roles


def role_of(name: str) -> str:
    """Return the kind of a thread from its name."""
    if not name.startswith("jelly-"):
        return "others"
    return name.removeprefix("jelly-").partition("_")[0].split("-")[0]


def charts(runner: Runner, scenarios: list[Scenario], databases: list[str]) -> Iterator[str]:
    """Yield a chart for each scenario on each database. Raises RuntimeError."""
    for scenario in scenarios:
        for database in databases:
            yield profile(runner, scenario, database)
