"""Describe the machine on which a table was measured."""

import os
import platform
import sqlite3
import subprocess
from pathlib import Path

from faults.mariadb import PrivateMariaDB


def describe(*databases: PrivateMariaDB) -> str:
    """Return CPU, cores, kernel and versions as one line."""
    parts = [
        f"{_cpu()}, {os.cpu_count()} cores",
        f"{platform.system()} {platform.release()}",
        f"Python {platform.python_version()}",
        f"SQLite {sqlite3.sqlite_version}",
    ]
    for database in databases:
        [[version]] = database.sql("SELECT VERSION()")
        if (part := f"{database.NAME} {version.partition('-')[0]}") not in parts:
            parts.append(part)
    revision = subprocess.run(["git", "describe", "--always", "--dirty"], capture_output=True, text=True)
    if revision.returncode == 0:
        parts.append(f"revision {revision.stdout.strip()}")
    return "; ".join(parts)


def _cpu() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()
