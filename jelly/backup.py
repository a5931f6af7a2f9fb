"""The command `jelly backup FILE`: a copy of the database, also while a server writes to it.

SQLite copies what is committed at one moment (`VACUUM INTO`), and commits go on meanwhile.
(SQLite's other way, `.backup`, begins anew after each commit of another process. While people write
it may never end.)
"""

import contextlib
import os
import shlex
import sqlite3
import tempfile
import urllib.parse
from pathlib import Path

from jelly.errors import StartError

TIMEOUT = 10.0
"""Seconds to wait for another process that has locked the database."""


def back_up(url: str, target: Path) -> int:
    """Copy the database that a URL names into a new file, for its owner only; return its size in
    bytes.

    When the file is there, it is complete and synced. Raises StartError.
    """
    if url.startswith("mysql:"):
        raise StartError(
            "A MySQL or MariaDB database is copied by its own program, which asks for the password "
            f"(MariaDB also calls it mariadb-dump): {dump_command(url, target)}"
        )
    if url == "memory:":
        raise StartError("The database memory: is in no file, and nobody but its server can read it.")
    if os.path.lexists(target):
        raise StartError(f"The file {target} exists already: name a new file.")
    try:
        descriptor, name = tempfile.mkstemp(".partial", f"{target.name}.", target.absolute().parent)
    except OSError as error:
        raise StartError(f"Cannot write {target}: {error.strerror}. Name a file elsewhere.") from error
    partial = Path(name)
    try:
        _copy(Path(urllib.parse.unquote(url.removeprefix("sqlite:///"))), partial)
        os.fsync(descriptor)  # SQLite does not do it for this copy
        partial.rename(target)
        _sync_directory(target.absolute().parent)
        return target.stat().st_size
    except sqlite3.Error as error:
        raise StartError(
            f"The database {url} cannot be backed up: {error}. Check --database, and the room on the disk."
        ) from error
    except OSError as error:
        raise StartError(f"Cannot write {target}: {error.strerror}. Name a file elsewhere.") from error
    finally:
        os.close(descriptor)
        partial.unlink(missing_ok=True)


def dump_command(url: str, target: Path) -> str:
    """The command that copies a MySQL or MariaDB database while a server uses it."""
    parts = urllib.parse.urlsplit(url)
    return shlex.join(
        [
            "mysqldump",
            "--single-transaction",  # all of it as of one moment, and nobody waits for it
            "--no-tablespaces",  # which would take a right that the account does not need otherwise
            # Otherwise MySQL's own program writes the ids of transactions into the dump, and the
            # server that has them refuses it. MariaDB's program does not know this ("loose").
            "--loose-set-gtid-purged=OFF",
            "--default-character-set=utf8mb4",
            f"--host={parts.hostname or '127.0.0.1'}",
            f"--port={parts.port or 3306}",
            f"--user={urllib.parse.unquote(parts.username or '')}",
            "--password",
            f"--result-file={target}",
            urllib.parse.unquote(parts.path.lstrip("/")),
        ]
    )


def _copy(source: Path, target: Path) -> None:
    """Copy a database of Jelly into an empty file. Raises sqlite3.Error."""
    uri = f"{source.absolute().as_uri()}?mode=rw"  # does not make a file where there is none
    with contextlib.closing(sqlite3.connect(uri, timeout=TIMEOUT, isolation_level=None, uri=True)) as raw:
        if not raw.execute("SELECT value FROM meta WHERE name = 'schema_version'").fetchall():
            raise sqlite3.DatabaseError("it was not made by Jelly")
        raw.execute("VACUUM INTO ?", (str(target),))


def _sync_directory(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
