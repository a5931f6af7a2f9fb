"""Run scenarios and print the table: `python -m bench --help`."""

import argparse
import sys
from collections.abc import Sequence
from datetime import UTC, datetime

from bench.runs import DATABASES, Bench, Result, opened
from bench.scenarios import PARAMETERS, QUICK, STANDARD, Scenario, parse
from bench.table import table
from faults import machine

DESCRIPTION = """Measure the server: start it on an empty database, load it from another process with modern clients,
check every message, and print a table in Markdown. Exit code 1 if a message was lost, doubled, swapped, damaged or
misrouted."""
EPILOG = (
    "Scenarios: "
    + ", ".join("-".join([kind, *names]) for kind, names in PARAMETERS.items())
    + ("; a kind alone stands for its usual ones. By default: " + ", ".join(each.name for each in STANDARD) + ".")
)
SETTINGS = (
    "server: default settings but --port 0 --password-cost 1; SQLite: WAL, synchronous=FULL; memory: keeps nothing"
)
MARIADB_SETTINGS = "; MariaDB: innodb_flush_log_at_trx_commit=1, innodb_buffer_pool_size=32M"


def main(arguments: Sequence[str] | None = None) -> int:
    """Do what the command line asks for; return the exit code."""
    options = _parse(arguments)
    databases = options.databases
    with opened(databases, options.seconds) as bench:
        if bench.no_mariadb:
            _say(bench.no_mariadb)
        results = [result for scenario in options.scenarios for result in _run(bench, scenario, databases)]
        about = head(bench, options.seconds)
    print(f"{about}\n\n{table(results)}")
    return 1 if any(result.problems for result in results) else 0


def head(bench: Bench, seconds: float) -> str:
    """On what the numbers were measured, in a line."""
    settings = SETTINGS + (MARIADB_SETTINGS if bench.mariadb else "")
    return f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC; {machine.describe(bench.mariadb)}; {settings}; {seconds:g} s each"


def _run(bench: Bench, scenario: Scenario, databases: Sequence[str]) -> list[Result]:
    results = []
    for database in databases:
        _say(f"{scenario.name} on {database}")
        results.append(bench.run(scenario, database))
    return results


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser("python -m bench", description=DESCRIPTION, epilog=EPILOG)
    parser.add_argument("--scenarios", type=_scenarios, metavar="NAME,...", help="only these, such as pairs-50-16,idle")
    parser.add_argument("--databases", type=_databases, default=list(DATABASES), metavar="NAME,...",
                        help="any of sqlite, mariadb, memory (default: all)")  # fmt: skip
    parser.add_argument("--seconds", type=float, help="how long each is measured (default: 5; with --quick 0.5)")
    parser.add_argument("--quick", action="store_true", help="a few small scenarios, each for half a second")
    options = parser.parse_args(arguments)
    if options.seconds is None:
        options.seconds = 0.5 if options.quick else 5.0
    if options.scenarios is None:
        options.scenarios = list(QUICK if options.quick else STANDARD)
    return options


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
    names = text.split(",")
    if unknown := [name for name in names if name not in DATABASES]:
        raise argparse.ArgumentTypeError(f"there is no {unknown[0]!r}, only {', '.join(DATABASES)}")
    return names


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
