"""Print tables in Markdown."""

from collections.abc import Iterator, Sequence

from bench.runs import Result
from bench.scenarios import Figure

HEAD = (
    "scenario", "database", "a second", "p50 ms", "p99 ms", "CPU µs each", "database µs each", "MiB", "generator busy",
    "note",
)  # fmt: skip
BUSY = 0.9
"""A generator that is busier than this may be the bottleneck itself."""
NOTHING = "–"


def markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table."""
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (head, ["--"] * len(head), *rows))


def table(results: Sequence[Result]) -> str:
    """Return the results of all scenarios as a table, with an explanation of its marks."""
    rows = [row for result in results for row in _rows(result)]
    text = markdown(HEAD, rows)
    if any("(!)" in cell for row in rows for cell in row):
        text += f"\n\n(!) The generator was busy for more than {BUSY:.0%} of the time: it may be the bottleneck."
    return text


def _rows(result: Result) -> Iterator[tuple[str, ...]]:
    for figure in result.figures:
        yield _cells(figure, result.database)
    if result.not_run or result.problems:
        empty = [NOTHING] * (len(HEAD) - 3)
        yield (
            result.scenario,
            result.database,
            *empty,
            f"FAILED: {result.problems}" if result.problems else (f"not run: {result.not_run}"),
        )


def _cells(figure: Figure, database: str) -> tuple[str, ...]:
    values = numbers(figure)
    busy = values["generator busy"]
    return (
        figure.name,
        database,
        f"{values['a second']:,.0f}",
        f"{values['p50 ms']:,.2f}" if figure.p50 else NOTHING,
        f"{values['p99 ms']:,.2f}" if figure.p99 else NOTHING,
        f"{values['CPU µs each']:,.0f}",
        f"{values['database µs each']:,.0f}" if database == "mariadb" else NOTHING,
        f"{values['MiB']:.0f}",
        f"{busy:.0%}{' (!)' if busy > BUSY else ''}",
        figure.note,
    )


def numbers(figure: Figure) -> dict[str, float]:
    """Return the numbers of a row, by column."""
    usage, count = figure.usage, max(figure.count, 1)
    assert usage is not None
    return {
        "a second": figure.count / usage.seconds,
        "p50 ms": figure.p50 * 1e3,
        "p99 ms": figure.p99 * 1e3,
        "CPU µs each": (usage.user + usage.system) / count * 1e6,
        "database µs each": usage.database / count * 1e6,
        "MiB": usage.memory / (1 << 20),
        "generator busy": usage.generator / usage.seconds,
    }
