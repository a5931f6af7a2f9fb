"""Run scenarios and print the table: `python -m bench --help`."""

import argparse
import os
import statistics
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from bench import nodes
from bench.compare import NoRevision, checkout, compare
from bench.profile import charts
from bench.runs import DATABASES, SERVERS, Result, Runner, open_runner
from bench.scenarios import GROWTH, PARAMETERS, PROFILED, QUICK, STANDARD, Scenario, parse
from bench.soak import is_flat
from bench.table import markdown, table
from faults import machine

DESCRIPTION = """Measure the server: start it on an empty database, load it with modern clients from
another process, check every message, and print a table in Markdown. The exit code is 1 if a message
was lost, duplicated, reordered, damaged or misrouted. docs/performance.md says how to read the
table."""
EPILOG = (
    "Scenarios: "
    + ", ".join("-".join([kind, *names]) for kind, names in PARAMETERS.items())
    + "; a kind without numbers stands for its default scenarios. Default: "
    + ", ".join(each.name for each in STANDARD)
    + "."
)
SETTINGS = (
    "default settings but --port 0 --password-cost 1, and no limits of a user; "
    "SQLite: WAL, synchronous=FULL; memory: synchronous=OFF"
)
SERVER_SETTINGS = ": innodb_flush_log_at_trx_commit=1, innodb_buffer_pool_size=32M"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what the command line asks for, and return the exit code."""
    options = _parse(arguments)
    with open_runner(options.databases, options.seconds) as runner:
        for sentence in dict.fromkeys(runner.missing.values()):
            _log(sentence)
        print(head(runner) + ("" if options.soak else f"; {options.seconds:g} s each") + "\n", flush=True)
        try:
            return _dispatch(runner, options)
        except (NoRevision, RuntimeError) as error:
            _log(str(error))
            return 1


def head(runner: Runner) -> str:
    """Return the date, the machine and the settings as one line."""
    names = dict.fromkeys(server.NAME for server in runner.servers.values())
    settings = SETTINGS + (f"; {' and '.join(names)}{SERVER_SETTINGS}" if names else "")
    return f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC; {machine.describe(*runner.servers.values())}; {settings}"


def _dispatch(runner: Runner, options: argparse.Namespace) -> int:
    if options.soak:
        return soak(runner, options.databases, options.soak)
    if options.profile:
        for text in charts(runner, options.scenarios, options.databases):
            print(text + "\n", flush=True)
        return 0
    if options.nodes:
        return measure_nodes(runner, options)
    if options.compare:
        with checkout(options.compare) as root:
            return compare_with(runner, root, options)
    results = [run(runner, scenario, database) for scenario in options.scenarios for database in options.databases]
    print(table(results))
    return exit_code(results)


def run(runner: Runner, scenario: Scenario, database: str) -> Result:
    """Run a scenario, and report its start on stderr."""
    _log(f"{scenario.name} on {database}")
    return runner.run(scenario, database)


def compare_with(runner: Runner, root: Path, options: argparse.Namespace) -> int:
    """Compare this version with the one in `root`, and print the table."""
    text, results = compare(runner, root, options.scenarios, options.databases, options.rounds)
    print(f"This version and {options.compare}, medians of {options.rounds} rounds; ratio: this / {options.compare}.\n")
    print(text)
    return exit_code(results)


def measure_nodes(runner: Runner, options: argparse.Namespace) -> int:
    """Measure clusters and a single server, and print the tables.

    Return 1 if anything is wrong, or was not measured, else 0.
    """
    [database] = options.databases
    if database in runner.missing:
        return 1
    clusters = [nodes.Cluster(count, engine) for engine in options.engine for count in options.nodes]
    cases = [case for scenario in options.scenarios for case in nodes.cases(scenario, clusters)]
    with nodes.open_node_runner(runner, database, options.engine) as node_runner:
        rounds, loads = [], []
        for number in range(options.rounds):
            results = {}
            for case in cases if number % 2 == 0 else cases[::-1]:
                _log(f"round {number + 1} of {options.rounds}: {case}")
                results[case] = node_runner.run(case)
                loads.append(os.getloadavg()[0])
            rounds.append(results)
    load = f"load average {statistics.median(loads):.1f}"
    print(f"Medians of {options.rounds} rounds; {load}. Ratio: to the single server of the same round.\n")
    print(nodes.tables(rounds))
    return 1 if any(nodes.failure([result]) for results in rounds for result in results.values()) else 0


def soak(runner: Runner, databases: Sequence[str], operations: int) -> int:
    """Print the server's memory after each tenth of the operations.

    Return 1 if it grows, else 0.
    """
    rows, growing = [], []
    for database in databases:
        if database in runner.missing:
            continue
        memory = []
        with runner.serve(database) as server:
            for piece in runner.generate([server], database, scenario="soak", operations=operations):
                if piece.get("problems"):
                    raise RuntimeError(f"soak on {database}: {piece['problems']}")
                if "operations" in piece:
                    memory.append(piece["memory"])
                    rows.append((database, f"{piece['operations']:,}", f"{piece['memory'] / (1 << 20):.1f}"))
                    _log(" | ".join(rows[-1]))
        if not is_flat(memory):
            growing.append(database)
    print(markdown(("database", "operations", "MiB"), rows))
    print(f"\nMemory grows on {', '.join(growing)}." if growing else "\nMemory stays the same.")
    return 1 if growing else 0


def exit_code(results: Sequence[Result]) -> int:
    return 1 if any(result.problems for result in results) else 0


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser("python -m bench", description=DESCRIPTION, epilog=EPILOG)
    parser.add_argument(
        "--scenarios", type=_scenarios, metavar="NAME,...", help="run only these, such as pairs-50-16,idle"
    )
    parser.add_argument(
        "--databases", type=_databases, metavar="NAME,...",
        help="any of sqlite, mariadb, memory, mysql, mysql-skip-log-bin (default: the first three; with --soak and "
        "--profile sqlite)",
    )  # fmt: skip
    parser.add_argument("--seconds", type=float, help="duration of each measurement (default: 5; with --quick 0.5)")
    parser.add_argument("--quick", action="store_true", help="run a few small scenarios, each for half a second")
    parser.add_argument("--rounds", type=int, help="number of rounds of --compare (default: 5) and --nodes (3)")
    parser.add_argument(
        "--engine", type=_engines, default=["redis"], metavar="NAME,...",
        help="with --nodes: redis or none or both (default: redis)",
    )  # fmt: skip
    what = parser.add_mutually_exclusive_group()
    what.add_argument(
        "--nodes", type=_counts, metavar="N,...", help="run clusters of so many nodes, and a single server beside them"
    )
    what.add_argument("--compare", metavar="REVISION", help="also run that version of the server, and print ratios")
    what.add_argument(
        "--growth", action="store_true", help="run with more and more connections, group members and waiting messages"
    )
    what.add_argument("--soak", type=int, nargs="?", const=1_000_000, metavar="N",
                      help="run N operations of every kind (default: a million): memory must not grow")  # fmt: skip
    what.add_argument("--profile", action="store_true", help="show what each kind of thread costs, as bars")
    options = parser.parse_args(arguments)
    if options.seconds is None:
        options.seconds = 0.5 if options.quick else 5.0
    if options.scenarios is None:
        chosen = (
            nodes.SCENARIOS
            if options.nodes
            else QUICK
            if options.quick
            else GROWTH
            if options.growth
            else PROFILED
            if options.profile
            else STANDARD
        )
        options.scenarios = list(chosen)
    if options.databases is None:
        options.databases = (
            ["mariadb"] if options.nodes else ["sqlite"] if options.soak or options.profile else list(DATABASES)
        )
    if options.rounds is None:
        options.rounds = 3 if options.nodes else 5
    if options.nodes and (len(options.databases) != 1 or options.databases[0] not in SERVERS):
        parser.error(f"with --nodes, --databases is one of {', '.join(SERVERS)}")
    if options.nodes and (other := [each.name for each in options.scenarios if each.kind not in nodes.KINDS]):
        parser.error(f"with --nodes there is no {other[0]}, only {', '.join(nodes.KINDS)}")
    return options


def _counts(text: str) -> list[int]:
    names = text.split(",")
    if not all(name.isdecimal() and int(name) for name in names):
        raise argparse.ArgumentTypeError("numbers of nodes above 0, such as 1,2,3")
    return list(map(int, names))


def _engines(text: str) -> list[str]:
    names = text.split(",")
    if unknown := [name for name in names if name not in nodes.ENGINES]:
        raise argparse.ArgumentTypeError(f"there is no {unknown[0]!r}, only {', '.join(nodes.ENGINES)}")
    return names


def _scenarios(text: str) -> list[Scenario]:
    chosen: list[Scenario] = []
    try:
        for name in text.split(","):
            usual = [scenario for scenario in STANDARD if scenario.kind == name]
            chosen += usual or [parse(name)]
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error
    return chosen


def _databases(text: str) -> list[str]:
    names, known = text.split(","), dict.fromkeys((*DATABASES, *SERVERS))
    if unknown := [name for name in names if name not in known]:
        raise argparse.ArgumentTypeError(f"there is no {unknown[0]!r}, only {', '.join(known)}")
    return names


def _log(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
