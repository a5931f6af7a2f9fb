"""The table in Markdown: one line for each row on each database."""

from dataclasses import dataclass, field

from faults.context import Finding, Row

HEAD = (
    "row", "fault", "database", "trials", "acknowledged", "lost", "twice", "out of order", "never sent",
    "refused but arrived", "unknown", "slowest restart", "controls caught", "verdict",
)  # fmt: skip


@dataclass
class RowResult:
    """The result of a row on one database. `not_run` says why the row did not run."""

    row: Row
    database: str
    finding: Finding = field(default_factory=Finding)
    caught: dict[str, bool] = field(default_factory=dict)
    """For each control whether its defect was found."""
    not_run: str = ""
    seconds: float = 0.0

    @property
    def is_good(self) -> bool:
        """Whether nothing failed.

        (A row that did not run has not failed, but not passed either.)
        """
        return not self.finding.problems and all(self.caught.values())

    def cells(self) -> tuple[str, ...]:
        start = (str(self.row.number), self.row.fault, self.database)
        if self.not_run:
            return (*start, *["–"] * 10, f"not run: {self.not_run}")
        finding, verdict = self.finding, self.finding.verdict
        caught = f"yes, {len(self.caught)}" if len(self.caught) > 1 else "yes"
        missed = ", ".join(name for name, was_caught in self.caught.items() if not was_caught)
        return (
            *start,
            str(finding.trials),
            f"{verdict.acknowledged:,}",
            str(verdict.lost),
            str(verdict.twice),
            str(verdict.out_of_order),
            str(verdict.never_sent),
            str(verdict.refused_but_arrived),
            f"{verdict.unknown:,}",
            f"{max(finding.restarts):.2f} s" if finding.restarts else "–",
            f"NO: {missed}" if missed else caught if self.caught else "not run",
            self._outcome(),
        )

    def _outcome(self) -> str:
        if self.finding.problems:
            return f"FAILED: {'; '.join(self.finding.problems.values())}"
        recovered = [f"recovered within {max(self.finding.recoveries):.2f} s"] if self.finding.recoveries else []
        return "; ".join(["passed", *self.finding.notes, *recovered])


def table(lines: list[RowResult]) -> str:
    """Return the table with its head."""
    rows = [HEAD, ("--",) * len(HEAD), *(line.cells() for line in lines)]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in rows)
