"""The gate of `make coverage`: lines and branches each have to be kept."""

import json
from pathlib import Path
from typing import Any

import coverage_gate
import pytest
from coverage_gate import BRANCHES, LINES, main, shortfall


def report(lines: float, branches: float) -> dict[str, Any]:
    """What `coverage json` writes, as far as it is looked at."""
    return {
        "totals": {"percent_statements_covered": lines, "percent_branches_covered": branches},
        "files": {
            name: {"summary": {"missing_lines": count, "missing_branches": 10 - count}}
            for name, count in (("a.py", 1), ("b.py", 7))
        },
    }


def test_enough() -> None:
    """The thresholds themselves will do."""
    assert shortfall(report(LINES, BRANCHES)) == []


@pytest.mark.parametrize(
    ("lines", "branches", "said"),
    [
        (97.99, 100, ["97.99 % of the lines were run, not 98 %. Most is missing in b.py (7), a.py (1)."]),
        (100, 94.9, ["94.90 % of the branches were run, not 95 %. Most is missing in a.py (9), b.py (3)."]),
    ],
)
def test_too_little(lines: float, branches: float, said: list[str]) -> None:
    """More of the one does not make up for less of the other; the worst files come first."""
    assert shortfall(report(lines, branches)) == said


@pytest.mark.parametrize(("lines", "code"), [(99.0, 0), (50.0, 1)])
def test_the_exit_code(tmp_path: Path, capsys: pytest.CaptureFixture[str], lines: float, code: int) -> None:
    """`make` goes by it; both numbers are told in any case."""
    path = tmp_path / "coverage.json"
    path.write_text(json.dumps(report(lines, 96.0)))
    assert main(str(path)) == code
    told = capsys.readouterr()
    assert told.out == f"{lines:.2f} % of the lines and 96.00 % of the branches were run.\n"
    assert bool(told.err) == bool(code)


def test_one_file_of_many() -> None:
    """Only a few are named, so that somebody reads them."""
    many = report(0, 100)
    many["files"] = {f"{number}.py": {"summary": {"missing_lines": number}} for number in range(20)}
    assert shortfall(many)[0].count(".py") == coverage_gate.WORST
