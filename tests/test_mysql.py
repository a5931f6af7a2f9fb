"""The MySQL that `make test-mysql` fetches from Debian's unstable, for a machine that has none."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from bench.runs import open_runner
from faults.mariadb import MariaDBMissing
from faults.mysql import PROGRAM, private_server
from faults.process import ROOT


def fetch(cache: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run the command that fetches, with a cache of its own."""
    return subprocess.run(
        [sys.executable, "-m", "faults.mysql"], cwd=ROOT, capture_output=True, text=True,
        env={**os.environ, "XDG_CACHE_HOME": str(cache), **environment},
    )  # fmt: skip


def test_it_is_fetched_once(tmp_path: Path) -> None:
    """What is in the cache is used, without apt."""
    program = tmp_path / "jelly" / "mysql" / "bin" / "mysqld"
    program.parent.mkdir(parents=True)
    program.touch()
    assert fetch(tmp_path, PATH="/nowhere").stdout == f"{program}\n"


def test_a_machine_that_cannot_fetch_it(tmp_path: Path) -> None:
    """One sentence says why, and nothing is left that looks like a server."""
    (tmp_path / "file").touch()
    proxy = tmp_path / "apt.conf"
    broken = 'Acquire::Retries "0"; Acquire::http::Proxy "http://127.0.0.1:1"; '
    proxy.write_text(broken + 'Acquire::https::Proxy "http://127.0.0.1:1";')
    reasons = {
        "apt is not installed": fetch(tmp_path, PATH="/nowhere"),
        "cannot be written: Not a directory": fetch(tmp_path / "file"),
    }
    if shutil.which("apt-get"):
        reasons["apt"] = fetch(tmp_path, APT_CONFIG=str(proxy))  # no network, or no Debian
    for reason, done in reasons.items():
        assert done.returncode == 1
        [sentence] = done.stderr.splitlines()
        assert sentence.startswith("MySQL cannot be fetched from Debian's unstable: ")
        assert reason in sentence
        assert sentence.endswith(".")
        assert done.stdout == ""
    assert [path.name for path in (tmp_path / "jelly").iterdir()] == ["mysql.lock"]


def test_a_program_that_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """JELLY_MYSQLD names the server; if it is wrong, the sentence has the path."""
    monkeypatch.setenv(PROGRAM, str(tmp_path / "mysqld"))
    with pytest.raises(MariaDBMissing, match=r"/mysqld is not the program of a MySQL server"):
        private_server()


def test_the_benchmark_without_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It says how to get one."""
    monkeypatch.delenv(PROGRAM, raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with open_runner(["mysql"], 0.1) as runner:
        assert runner.missing["mysql"].startswith("MySQL is left out: fetch it with python -m faults.mysql, or ")
