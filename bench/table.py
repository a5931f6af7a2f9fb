"""Print tables in Markdown."""

from collections.abc import Iterator, Sequence

from bench.runs import SERVERS, Result
from bench.scenarios import Measurement

HEAD = (
    "scenario", "database", "a second", "p50 ms", "p99 ms", "CPU µs each", "database µs each", "MiB", "generator busy",
    "note",
)  # fmt: skip
BUSY = 0.9
"""A generator that is busier than this may be the bottleneck itself."""
NO_VALUE = "–"


def markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table."""
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (head, ["--"] * len(head), *rows))


def table(results: Sequence[Result]) -> str:
    """Return the results of all scenarios as a table, with an explanation of its marks."""
    rows = [row for result in results for row in _rows(result)]
    text = markdown(HEAD, rows)
    if any("(!)" in cell for row in rows for cell in row):
        text += f"\n\n(!) The generator was busy for more than {BUSY:.0%} of the time: it may be the bottleneck."
    return text + not_run(results)


def not_run(results: Sequence[Result]) -> str:
    """Return which scenarios were not run: one line for each database and reason, or nothing."""
    scenarios: dict[tuple[str, str], list[str]] = {}
    for result in results:
        if result.not_run:
            names = scenarios.setdefault((result.database, result.not_run), [])
            if result.scenario not in names:  # a comparison has several rounds
                names.append(result.scenario)
    lines = [f"Not run on {database}: {', '.join(names)}. {why}" for (database, why), names in scenarios.items()]
    return "\n\n" + "\n".join(lines) if lines else ""


def _rows(result: Result) -> Iterator[tuple[str, ...]]:
    for measurement in result.measurements:
        yield _cells(measurement, result.database)
    if result.problems:
        yield result.scenario, result.database, *[NO_VALUE] * (len(HEAD) - 3), f"FAILED: {result.problems}"


def _cells(measurement: Measurement, database: str) -> tuple[str, ...]:
    values = numbers(measurement)
    busy = values["generator busy"]
    return (
        measurement.name,
        database,
        f"{values['a second']:,.0f}",
        f"{values['p50 ms']:,.2f}" if measurement.p50 else NO_VALUE,
        f"{values['p99 ms']:,.2f}" if measurement.p99 else NO_VALUE,
        f"{values['CPU µs each']:,.0f}",
        f"{values['database µs each']:,.0f}" if database in SERVERS else NO_VALUE,
        f"{values['MiB']:.0f}",
        f"{busy:.0%}{' (!)' if busy > BUSY else ''}",
        measurement.note,
    )


def numbers(measurement: Measurement) -> dict[str, float]:
    """Return the numbers of a row, by column."""
    usage, count = measurement.usage, max(measurement.count, 1)
    assert usage is not None
    return {
        "a second": measurement.count / usage.seconds,
        "p50 ms": measurement.p50 * 1e3,
        "p99 ms": measurement.p99 * 1e3,
        "CPU µs each": (usage.user + usage.system) / count * 1e6,
        "database µs each": usage.database / count * 1e6,
        "MiB": usage.memory / (1 << 20),
        "generator busy": usage.generator / usage.seconds,
    }
