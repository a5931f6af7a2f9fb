"""Compare the speed of two versions.

They run in turns, so that other load on the machine hits both.
"""

import contextlib
import dataclasses
import statistics
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from bench.runs import Result, Runner
from bench.scenarios import Scenario
from bench.table import NO_VALUE, markdown, not_run, numbers
from faults.process import ROOT

COLUMNS = ("a second", "p50 ms", "p99 ms", "CPU µs each", "database µs each", "MiB")
HEAD = ("scenario", "database", "a second, here", "there", *(f"{column}: ratio" for column in COLUMNS))


class NoRevision(Exception):
    """The revision to compare with is not available; the sentence says why."""


@contextlib.contextmanager
def checkout(revision: str) -> Iterator[Path]:
    """Check a revision of this project out into a temporary directory. Raises NoRevision."""
    if _git("rev-parse", "--git-dir").returncode:
        raise NoRevision("This is not a git checkout: --compare needs one to get the other revision.")
    with tempfile.TemporaryDirectory(prefix="jelly-compare-") as directory:
        path = Path(directory) / "other"
        added = _git("worktree", "add", "--detach", str(path), revision)
        if added.returncode:
            raise NoRevision(f"{revision} cannot be checked out: {' '.join(added.stderr.split())}")
        try:
            yield path
        finally:
            _git("worktree", "remove", "--force", str(path))


def _git(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True)


def compare(
    runner: Runner, root: Path, scenarios: Sequence[Scenario], databases: Sequence[str], rounds: int
) -> tuple[str, list[Result]]:
    """Run all scenarios `rounds` times with this server and with the one in `root`.

    Return a table of ratios, and all results.
    """
    other = dataclasses.replace(runner, root=root)
    rows: list[tuple[str, ...]] = []
    everything: list[Result] = []
    for scenario in scenarios:
        for database in databases:
            here: list[Result] = []
            there: list[Result] = []
            for number in range(rounds):
                turns = [(runner, here), (other, there)]
                for version, results in turns if number % 2 == 0 else turns[::-1]:
                    results.append(version.run(scenario, database))
            rows += _rows(here, there)
            everything += here + there
    return markdown(HEAD, rows) + not_run(everything), everything


def _rows(here: Sequence[Result], there: Sequence[Result]) -> Iterator[tuple[str, ...]]:
    scenario, database = here[0].scenario, here[0].database
    failed = [result.problems for result in (*here, *there) if result.problems]
    if failed:
        yield scenario, database, *[NO_VALUE] * (len(HEAD) - 3), f"FAILED: {failed[0]}"
    if failed or any(result.not_run for result in (*here, *there)):
        return
    for place, measurement in enumerate(here[0].measurements):
        ours, theirs = _medians(here, place), _medians(there, place)
        ratios = (f"{ours[column] / theirs[column]:.2f}" if theirs[column] else NO_VALUE for column in COLUMNS)
        yield measurement.name, database, f"{ours['a second']:,.0f}", f"{theirs['a second']:,.0f}", *ratios


def _medians(results: Sequence[Result], place: int) -> dict[str, float]:
    """Return the median of each number over all rounds."""
    rounds = [numbers(result.measurements[place]) for result in results]
    return {column: statistics.median(each[column] for each in rounds) for column in COLUMNS}
