"""Run the faults and print the table: `python -m faults --help`."""

import argparse
import contextlib
import dataclasses
import random
import sys
import tempfile
import time
import traceback
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from faults import machine
from faults.context import Control, Finding, Row, Run, RunContext
from faults.mariadb import MariaDBMissing
from faults.mysql import private_server
from faults.report import RowResult, table
from faults.rows import ROWS

CONTROL_RUNS = 3
"""At most this many runs until a control must have been caught."""
DESCRIPTION = """Cause faults under load, on SQLite and on a private MariaDB server (or MySQL: name
its mysqld in JELLY_MYSQLD), and check that no acknowledged message is lost, repeated or reordered.
For each fault, also run controls: a server (or a client) with a real defect, which the check must
find. Print a table in Markdown. The exit code is 1 if a row fails or a control is not caught."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the faults that the command line asks for, and return the exit code."""
    options = _parse(arguments)
    if options.list:
        for row in ROWS:
            controls = ", ".join(control.variant for control in row.controls)
            print(f"{row.number:3} {row.fault} ({', '.join(row.databases)}; controls: {controls})")
        return 0
    wanted = [row for row in ROWS if options.rows is None or row.number in options.rows]
    databases = ["sqlite", "mariadb"] if options.database == "both" else [options.database]
    results = []
    with contextlib.ExitStack() as stack:
        mariadb, no_mariadb = None, ""
        if "mariadb" in databases and any("mariadb" in row.databases for row in wanted):
            try:
                mariadb = stack.enter_context(private_server())
            except MariaDBMissing as error:
                no_mariadb = str(error)
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="jelly-faults-")))
        _log(f"seed {options.seed}")
        for row in wanted:
            for database in databases:
                if database not in row.databases:
                    continue
                context = RunContext(
                    database, directory, mariadb, random.Random(options.seed), options.kills, options.short
                )
                missing = row.missing() or (no_mariadb if database == "mariadb" else "")
                results.append(RowResult(row, database, not_run=missing) if missing else run(row, context))
                _log(f"| {' | '.join(results[-1].cells())} | {results[-1].seconds:.1f} s")
        about = machine.describe(*([mariadb] if mariadb else []))
    command = " ".join(sys.argv[1:] if arguments is None else arguments)
    print(f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC; {about}; `python -m faults {command}` (seed {options.seed})\n")
    print(table(results))
    not_run = sum(bool(result.not_run) for result in results)
    if not_run:
        print(f"\n{not_run} of {len(results)} did not run.")
    return 0 if all(result.is_good for result in results) else 1


def run(row: Row, context: RunContext) -> RowResult:
    """Run a row and its controls on one database."""
    started = time.monotonic()
    result = RowResult(row, context.database)
    _attempt(row.run, context, result.finding)
    # A control only has to find its defect, so it always runs in the short form.
    short = dataclasses.replace(context, is_short=True)
    for control in row.controls:
        result.caught[control.variant] = is_caught(row, control, short)
    result.seconds = time.monotonic() - started
    return result


def is_caught(row: Row, control: Control, context: RunContext) -> bool:
    """Return whether a run finds the defect of a control, as the expected kind of problem.

    A defect need not show each time: what a kill hits is chance.
    """
    if control.run is None:
        context = dataclasses.replace(context, variants=[*context.variants, control.variant])
    for _ in range(CONTROL_RUNS):
        finding = Finding()
        _attempt(control.run or row.run, context, finding)
        _log(f"  control {control.variant}: {'; '.join(finding.problems.values()) or 'nothing found'}")
        if control.kind in finding.problems:
            return True
    return False


def _attempt(run: Run, context: RunContext, finding: Finding) -> None:
    """Run a fault. An exception becomes a problem of a kind that no control expects."""
    try:
        run(context, finding)
    except Exception as error:  # noqa: BLE001 - the other rows run, whatever it is
        where = traceback.extract_tb(error.__traceback__)[-1]
        finding.problems["broken"] = f"{type(error).__name__}: {error} ({where.filename}:{where.lineno})"


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser("python -m faults", description=DESCRIPTION)
    parser.add_argument("--database", choices=["sqlite", "mariadb", "both"], default="both")
    parser.add_argument("--rows", type=_numbers, help="run only these rows, such as 1,2,8")
    parser.add_argument("--list", action="store_true", help="list the rows and exit")
    parser.add_argument(
        "--kills", type=int, default=200, help="how often row 1 kills the server, on each database (default: 200)"
    )
    parser.add_argument("--short", action="store_true", help="only a few trials of each row, as in the tests")
    parser.add_argument("--seed", type=int, default=random.randrange(1_000_000), help="seed of the random numbers")
    return parser.parse_args(arguments)


def _numbers(text: str) -> set[int]:
    numbers = {int(number) for number in text.split(",")}
    unknown = numbers - {row.number for row in ROWS}
    if unknown:
        raise argparse.ArgumentTypeError(f"there is no row {', '.join(map(str, sorted(unknown)))}: see --list")
    return numbers


def _log(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
