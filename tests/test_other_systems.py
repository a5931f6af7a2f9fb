"""The library and the chat on systems that are not Linux, as far as Linux can tell."""

import os
import subprocess
import sys

import pytest

from faults.process import ROOT

WORKS = "The library and the chat work here;"


@pytest.mark.parametrize(
    ("option", "said"),
    [("--without-posix", "the server says why not."), ("", "the server, too.")],
    ids=["without-posix", "here"],
)
def test_the_program_that_other_systems_run(option: str, said: str) -> None:
    """It passes here, and without what only POSIX systems have."""
    program = [sys.executable, str(ROOT / "tests" / "other_systems.py"), *([option] if option else [])]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(program, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert (done.returncode, done.stdout) == (0, f"{WORKS} {said}\n"), done.stderr


def test_the_workflow_runs_it() -> None:
    """On Windows and macOS, with the Jelly that pip installs."""
    workflow = (ROOT / ".github" / "workflows" / "test.yml").read_text(encoding="utf-8")
    job = workflow.partition("  other-systems:\n")[2]
    assert "os: [windows-latest, macos-latest]" in job
    assert "- run: python -m pip install .\n" in job
    assert "- run: python tests/other_systems.py\n" in job
