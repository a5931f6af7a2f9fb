"""What `make coverage` ends with: fails if fewer lines or branches were run than the project wants
to keep.

coverage's own `fail_under` knows only the mean of both. Call it with the file that `coverage json`
wrote.
"""

import json
import sys
from pathlib import Path
from typing import Any

LINES, BRANCHES = 98.0, 95.0
"""At least so much of each is run, in percent."""
WORST = 5
"""At most this many files are named when something is missing."""


def shortfall(report: dict[str, Any]) -> list[str]:
    """What is below its threshold, as sentences; the files where most is missing are named with
    them.
    """
    totals = report["totals"]
    kept = (
        ("lines", totals["percent_statements_covered"], LINES, "missing_lines"),
        ("branches", totals["percent_branches_covered"], BRANCHES, "missing_branches"),
    )
    sentences = []
    for what, percent, wanted, missing in kept:
        if percent < wanted:
            files = sorted(report["files"], key=lambda file: -report["files"][file]["summary"][missing])[:WORST]
            named = ", ".join(f"{file} ({report['files'][file]['summary'][missing]})" for file in files)
            sentences.append(f"{percent:.2f} % of the {what} were run, not {wanted:g} %. Most is missing in {named}.")
    return sentences


def main(path: str) -> int:
    """Say how much was run; return the exit code."""
    report = json.loads(Path(path).read_text(encoding="utf-8"))
    totals = report["totals"]
    lines, branches = totals["percent_statements_covered"], totals["percent_branches_covered"]
    print(f"{lines:.2f} % of the lines and {branches:.2f} % of the branches were run.")
    sentences = shortfall(report)
    for sentence in sentences:
        print(sentence, file=sys.stderr)
    return 1 if sentences else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
