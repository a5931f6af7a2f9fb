"""The free-threaded Python that `make test-freethreaded` builds from Debian's source."""

import os
import subprocess
import sys
from pathlib import Path

from faults.process import ROOT


def build(cache: Path) -> subprocess.CompletedProcess[str]:
    """Run the command that builds it, with a cache of its own, where no other program is found."""
    return subprocess.run(
        [sys.executable, "-m", "faults.freethreaded"], cwd=ROOT, capture_output=True, text=True,
        env={**os.environ, "XDG_CACHE_HOME": str(cache), "PATH": "/nowhere"},
    )  # fmt: skip


def test_it_is_built_once(tmp_path: Path) -> None:
    """What is in the cache is used; but not what a build has left that was cut off."""
    folder = tmp_path / "jelly" / "python3.13-freethreaded"
    (folder / "bin").mkdir(parents=True)
    (folder / "bin" / "python3").touch()
    assert build(tmp_path).returncode == 1
    (folder / "is-whole").touch()
    assert build(tmp_path).stdout == f"{folder}/bin/python3\n"


def test_a_machine_that_cannot_build_it(tmp_path: Path) -> None:
    """One sentence says what is missing."""
    done = build(tmp_path)
    assert (done.returncode, done.stdout) == (1, "")
    [sentence] = done.stderr.splitlines()
    assert sentence.startswith("A free-threaded Python cannot be built from Debian's source: cc is not installed (")
    assert "apt-get install" in sentence
