"""SQLite as the database: a file, or a new one that is gone at the end."""

import contextlib
import itertools
import logging
import math
import os
import sqlite3
import stat
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jelly.engine import NO_ANSWER, Engine, Insert, Row
from jelly.errors import StartError
from jelly.file_claim import FileClaim, mode_of

log = logging.getLogger("jelly.database")

WAL_BYTES = 32 * 1024 * 1024
"""Bytes by which the log beside a SQLite database (jelly.db-wal) grows until it is emptied. SQLite
usually starts again at the log's front long before. But for that it needs a moment without readers,
and there may be none for hours."""
CHECKPOINT_TIMEOUT = 0.25
"""Seconds that a transaction may wait for that: the time that the present readers need."""
ROWS_PER_STATEMENT = (16, 4, 2, 1)
"""How many rows one INSERT for SQLite has: few sizes, so that each statement stays in the cache."""


class SqliteEngine(Engine):
    """A file of the embedded SQLite. A commit returns when it is synced to the disk (WAL, FULL)."""

    errors = (sqlite3.Error,)
    driver = f"sqlite3 (SQLite {sqlite3.sqlite_version})"
    use_index = "INDEXED BY {}"
    use_primary_key = ""
    ordered_join = "CROSS JOIN"
    utc_ms = "CAST((julianday('now') - 2440587.5) * 86400000 AS INTEGER)"
    words = "", " || ' ' || ", ""

    def __init__(self, path: str) -> None:
        self.path = Path(path)
        self._claim = FileClaim(self.path)
        self._wal = f"{self.path.resolve()}-wal"  # SQLite puts it beside the file that a symlink leads to
        self._wal_limit = WAL_BYTES

    def connect(self) -> sqlite3.Connection:
        if problem := self._claim.problem():  # SQLite would use the other file, or make one
            raise sqlite3.OperationalError(problem)
        raw = sqlite3.connect(self.path, timeout=self.query_timeout, isolation_level=None, check_same_thread=False)
        try:
            raw.execute("PRAGMA synchronous = FULL")
            # What is deleted, or recalled, is overwritten in the file. (Not every SQLite does so.)
            raw.execute("PRAGMA secure_delete = ON")
        except sqlite3.Error as error:
            raw.close()
            if getattr(error, "sqlite_errorcode", 0) == sqlite3.SQLITE_NOTADB:
                self.disown()
            raise
        return raw

    def cure(self, error: Exception) -> str:
        damaged = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)
        if getattr(error, "sqlite_errorcode", 0) & 0xFF in damaged:
            return " (the file is damaged: stop the server and restore a backup with `jelly restore FILE`)"
        return ""

    def tables(self, raw: sqlite3.Connection) -> set[str]:
        names = raw.execute("SELECT name FROM sqlite_master WHERE type IN ('table', 'view')")
        return {name for (name,) in names if not name.startswith("sqlite_")}

    def columns(self, raw: sqlite3.Connection, table: str) -> set[str]:
        return {name for (name,) in raw.execute("SELECT name FROM pragma_table_info(?)", (table,))}

    def disown(self) -> None:
        self._claim.remove_lock_file()

    def prepare(self, raw: sqlite3.Connection) -> None:
        raw.execute("PRAGMA journal_mode = WAL")  # the file keeps it for all later connections

    def describe(self) -> str:
        return f"sqlite:///{self.path}"

    @property
    def advice(self) -> str:
        path = self.path.resolve()
        try:
            if not stat.S_ISDIR(mode_of(path.parent)):
                return f"There is no directory {path.parent}: create it first."
            if stat.S_ISDIR(mode_of(path)):
                return f"{path} is a directory: name a file in it."
            for needed in (path.parent, path):
                if mode_of(needed) and not os.access(needed, os.W_OK):
                    return f"This user may not write to {needed}: change its permissions."
        except OSError as error:
            return f"This user cannot look into the directory of {path} ({error.strerror}): change its permissions."
        return "Check the file, and the room on its disk, or name another file with --database."

    def begin(self, raw: sqlite3.Connection) -> None:
        try:
            # (Path.stat would be one more call in each transaction.)
            is_long = os.stat(self._wal).st_size > self._wal_limit  # noqa: PTH116
        except OSError:  # there is no log
            is_long = False
        if is_long:
            self.empty_wal(raw)
        raw.execute("BEGIN IMMEDIATE")

    def empty_wal(self, raw: sqlite3.Connection) -> None:
        raw.execute(f"PRAGMA busy_timeout = {int(CHECKPOINT_TIMEOUT * 1000)}")
        with contextlib.suppress(sqlite3.Error):  # the disk may be full: the next one may succeed
            raw.execute("PRAGMA wal_checkpoint(TRUNCATE)")  # if a reader takes longer, nothing happens
        raw.execute(f"PRAGMA busy_timeout = {int(self.query_timeout * 1000)}")
        with contextlib.suppress(OSError):
            self._wal_limit = os.stat(self._wal).st_size + WAL_BYTES  # noqa: PTH116

    def query(self, raw: sqlite3.Connection, sql: str, parameters: Sequence[Any]) -> list[Row]:
        return raw.execute(sql, parameters).fetchall()

    def execute(self, raw: sqlite3.Connection, sql: str, parameters: Sequence[Any]) -> int:
        return raw.execute(sql, parameters).rowcount

    def insert(self, raw: sqlite3.Connection, *inserts: Insert) -> None:
        for sql, rows in inserts:
            if len(rows) == 1:
                raw.execute(sql, rows[0])
            elif rows:
                self._insert_many(raw, sql, rows)

    def _insert_many(self, raw: sqlite3.Connection, sql: str, rows: Sequence[Row]) -> None:
        # The driver gives the interpreter to other threads at each step, so a step takes many rows.
        before, _, row = sql.rpartition(" VALUES ")
        cursor = raw.cursor()
        start = 0
        for count in ROWS_PER_STATEMENT:
            if len(rows) - start < count:
                continue
            statement = f"{before} VALUES {', '.join([row] * count)}"
            while len(rows) - start >= count:
                cursor.execute(statement, [*itertools.chain.from_iterable(rows[start : start + count])])
                start += count

    def claim_file(self) -> None:
        self._claim.take()

    def on_commit_failure(self, error: Exception) -> None:
        # After a sync that failed, the kernel may show data that it has given up to write. A later
        # sync does not report it again.
        if getattr(error, "sqlite_errorcode", 0) & 0xFF == sqlite3.SQLITE_IOERR:
            self.lost_syncs += 1

    def check_file(self) -> str:
        problem = self._claim.problem()
        if problem:
            self.circuit_open_until, self.circuit_reason = math.inf, problem
        elif self.circuit_open_until == math.inf:
            self.circuit_open_until, self.circuit_reason = 0.0, NO_ANSWER
        return problem

    def release(self) -> None:
        self._claim.release()

    def adapt_table(self, statement: str, raw: sqlite3.Connection) -> str:  # noqa: ARG002 - for other engines
        # Only INTEGER PRIMARY KEY makes the id the row's own number. WITHOUT ROWID keeps the other
        # tables in the tree of their primary key, which saves a second tree for each.
        if "BIGINT NOT NULL PRIMARY KEY" in statement:
            return statement.replace("BIGINT NOT NULL PRIMARY KEY", "INTEGER PRIMARY KEY")
        return f"{statement} WITHOUT ROWID"

    def is_missing_table(self, error: Exception) -> bool:
        return str(error).startswith("no such table: ")  # SQLite has no code of its own for it


class MemoryEngine(SqliteEngine):
    """A new, empty database that is gone when the server stops: for measuring and for trying out.

    It is a file in a temporary directory, never synced; `release` removes it. (SQLite's `memdb`
    needs no file, but has no WAL: its readers wait for its writer, and under load until they give
    up.)
    """

    def __init__(self) -> None:
        try:
            self._directory = tempfile.TemporaryDirectory(prefix="jelly-memory-")
        except OSError as error:
            raise StartError(
                f"There is no temporary directory for the database: {error.strerror}. Set TMPDIR to another one."
            ) from error
        super().__init__(f"{self._directory.name}/jelly.db")
        log.warning("the database memory: keeps nothing; all that is in it is gone when the server stops")

    def connect(self) -> sqlite3.Connection:
        raw = super().connect()
        raw.execute("PRAGMA synchronous = OFF")
        return raw

    def describe(self) -> str:
        return "memory:"

    def release(self) -> None:
        super().release()
        self._directory.cleanup()
