"""The kinds of database: one short class for each, with what differs between them.

An engine knows its driver: how to connect, how to run a statement, what the shared schema needs on
top, and how a commit gets onto the disk. It holds no connection. `database.py` keeps those, and
`raw` stands here for a connection of the driver.
"""

import contextlib
import functools
import hashlib
import logging
import math
import os
import re
import sqlite3
import tempfile
import time
import urllib.parse
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jelly.errors import ConfigError, StartError, StoreError
from jelly.file_claim import FileClaim, InUse

log = logging.getLogger("jelly.database")

QUERY_TIMEOUT = 4.0
"""Seconds to wait for a database that does not answer. A request may also wait for the batch before
its own, and must be answered within 10 seconds."""
CIRCUIT_OPEN_SECONDS = 1.0
"""Seconds until a database that did not answer is asked again (a *circuit breaker*)."""

NO_ANSWER = "the database does not answer"

WAL_BYTES = 32 * 1024 * 1024
"""Bytes by which the log beside a SQLite database (jelly.db-wal) grows until it is emptied. SQLite
usually starts again at the log's front long before. But for that it needs a moment without readers,
and there may be none for hours."""
CHECKPOINT_TIMEOUT = 0.25
"""Seconds that a transaction may wait for that: the time that the present readers need."""

CLOCK_ERROR = 3.0
"""Seconds by which what MySQL says of its start may differ from one time to the next."""
MAX_ROWS = 5000
"""At most this many rows are in one INSERT for MySQL."""
MAX_STATEMENT_LENGTH = 8_000_000
"""At most this many characters, values included, are in one INSERT for MySQL, even if the server
takes more."""
SMALLEST_PACKET = 64 * 1024
"""At least this many bytes of max_allowed_packet are needed for statements without a message."""
ROW_OVERHEAD = 2 * 1024
"""Bytes of a packet that are kept for the statement, and for all columns of a message but its
content."""
ROW_ERRORS = frozenset({1118, 1264, 1366, 1406})
"""The errors of MySQL that are about a value in a row, and leave the transaction open: the row is
too large, a number is out of range, text has a wrong character, text is too long."""
ROWS_PER_STATEMENT = (16, 4, 1)
"""How many rows one INSERT for SQLite has: few sizes, so that each statement stays in the cache."""

Row = tuple[Any, ...]
Insert = tuple[str, Sequence[Row]]
"""A statement `INSERT ... VALUES (?, ...)`, and the rows for it."""


class RowsRefused(StoreError):
    """The database would refuse these rows again, and takes the others.

    The connection and its transaction stay open, but of the INSERT anything may be done or not.
    """

    def __init__(self, rows: Sequence[Row], reason: str) -> None:
        super().__init__(reason)
        self.rows = rows


class Engine(ABC):
    """How to use one database, which a URL names.

    The methods raise `errors` unless they say otherwise.
    """

    errors: tuple[type[Exception], ...]
    """What the driver raises when the database fails."""
    driver: str
    """The driver's name and version, for the log."""
    circuit_open_until = 0.0
    """Until this monotonic time no connection asks the database: it has just not answered, or its
    file is not in its place.

    Any thread sets it, in one step. If two do so at once, either may win.
    """
    circuit_reason = NO_ANSWER
    """What a connection says meanwhile."""
    claim_timeout = 2
    """Seconds to wait until the database is free: its last server may be about to end."""
    lost_syncs = 0
    """How often something has happened after which a commit that can be read need not be on the
    disk, also if a later one is. The connection that writes counts it."""

    @abstractmethod
    def connect(self) -> Any:
        """Open a DB-API connection. Outside of `begin` and commit() it commits each statement."""

    @abstractmethod
    def describe(self) -> str:
        """The database's name for the log: without a password."""

    @property
    @abstractmethod
    def advice(self) -> str:
        """What the operator can do when the server starts and the database cannot be opened."""

    @abstractmethod
    def begin(self, raw: Any) -> None:
        """Start a transaction that is going to write."""

    @abstractmethod
    def query(self, raw: Any, sql: str, parameters: Sequence[Any]) -> list[Row]:
        """The rows that a SELECT finds. `?` stands for a parameter."""

    @abstractmethod
    def execute(self, raw: Any, sql: str, parameters: Sequence[Any]) -> int:
        """Run a statement; how many rows it changed. `?` stands for a parameter."""

    @abstractmethod
    def insert(self, raw: Any, *inserts: Insert) -> None:
        """Insert rows, into one table after the other. May raise RowsRefused."""

    def claim_file(self) -> None:  # noqa: B027 - only for a database that is a file
        """Make this process the database's only server, before its first connection.

        Raises StoreError if there is another.
        """

    def claim(self, raw: Any) -> None:  # noqa: B027 - only for a database behind a connection
        """Make this process the database's only server. Raises StoreError if there is another."""

    def check_file(self) -> str:
        """Why the file of the database is not in its place; empty if it is, or if there is none.

        While it is not, the circuit is open: all connections fail at once.
        """
        return ""

    def empty_wal(self, raw: Any) -> None:  # noqa: B027 - only for SQLite
        """Have what is in the log beside the file written into the file."""

    def release(self) -> None:  # noqa: B027 - not every engine has something to give up
        """Give up what `claim_file` took, after the last connection is closed."""

    def check_max_body(self, max_body: int) -> None:  # noqa: B027 - not every engine has a limit
        """Raise StartError if a message of so many bytes cannot be stored.

        The connection that writes must be open.
        """

    def on_commit_failure(self, error: Exception) -> None:  # noqa: B027 - only for SQLite
        """Note that a commit has failed."""

    @abstractmethod
    def tables(self, raw: Any) -> set[str]:
        """The names of all tables and views of the database, whoever made them."""

    @abstractmethod
    def columns(self, raw: Any, table: str) -> set[str]:
        """The names of a table's columns; none if there is no such table."""

    def prepare(self, raw: Any) -> None:  # noqa: B027 - only for SQLite
        """Set up a database that is Jelly's, or empty, before its tables are made or migrated."""

    def disown(self) -> None:  # noqa: B027 - only for SQLite
        """Leave nothing beside a database that turns out to be another program's."""

    @abstractmethod
    def adapt_table(self, statement: str, raw: Any) -> str:
        """A CREATE TABLE of the shared schema, with what only this engine needs."""

    @abstractmethod
    def is_missing_table(self, error: Exception) -> bool:
        """Whether an error says that there is no such table, and nothing else."""

    def already_exists(self, error: Exception) -> bool:  # noqa: ARG002 - for other engines
        """Whether an error only says that a column or an index was made before."""
        return False

    def hangs(self, seconds: float) -> bool:
        """Whether a failure after this many seconds means that the database hangs.

        If it does, the circuit opens.
        """
        is_long = seconds > QUERY_TIMEOUT / 2
        if is_long:
            self.circuit_open_until = time.monotonic() + CIRCUIT_OPEN_SECONDS
        return is_long


class SqliteEngine(Engine):
    """A file of the embedded SQLite. A commit returns when it is synced to the disk (WAL, FULL)."""

    errors = (sqlite3.Error,)
    driver = f"sqlite3 (SQLite {sqlite3.sqlite_version})"

    def __init__(self, path: str) -> None:
        self.path = Path(path)
        self._claim = FileClaim(self.path)
        self._wal = f"{self.path.resolve()}-wal"  # SQLite puts it beside the file that a symlink leads to
        self._wal_limit = WAL_BYTES

    def connect(self) -> sqlite3.Connection:
        if problem := self._claim.problem():  # SQLite would use the other file, or make one
            raise sqlite3.OperationalError(problem)
        raw = sqlite3.connect(self.path, timeout=QUERY_TIMEOUT, isolation_level=None, check_same_thread=False)
        try:
            raw.execute("PRAGMA synchronous = FULL")
        except sqlite3.Error as error:
            raw.close()
            if getattr(error, "sqlite_errorcode", 0) == sqlite3.SQLITE_NOTADB:
                self.disown()
            raise
        return raw

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
        if not path.parent.is_dir():
            return f"There is no directory {path.parent}: create it first."
        if path.is_dir():
            return f"{path} is a directory: name a file in it."
        for needed in (path.parent, path):
            if needed.exists() and not os.access(needed, os.W_OK):
                return f"This user may not write to {needed}: change its permissions."
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
        raw.execute(f"PRAGMA busy_timeout = {int(QUERY_TIMEOUT * 1000)}")
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
            statement = f"{before} VALUES {', '.join([row] * count)}"
            while len(rows) - start >= count:
                cursor.execute(statement, [value for row in rows[start : start + count] for value in row])
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


class MysqlEngine(Engine):
    """A database on a MySQL or MariaDB server, through mysql-connector-python."""

    def __init__(self, url: str) -> None:
        try:
            import mysql.connector
        except ImportError as error:
            raise ConfigError(
                "A mysql:// database needs the package mysql-connector-python: "
                "pip install 'mysql-connector-python>=9.2'."
            ) from error
        parts = urllib.parse.urlsplit(url)
        self.name = urllib.parse.unquote(parts.path.lstrip("/"))
        self._arguments: dict[str, Any] = {
            "host": parts.hostname or "127.0.0.1",
            "port": parts.port or 3306,
            "user": urllib.parse.unquote(parts.username or ""),
            "password": urllib.parse.unquote(parts.password or ""),
            "database": self.name,
            "charset": "utf8mb4",
            "connection_timeout": int(QUERY_TIMEOUT),
            "read_timeout": int(QUERY_TIMEOUT),
            "write_timeout": int(QUERY_TIMEOUT),
            "autocommit": True,
        }
        self._connector = mysql.connector
        self._use_pure = False
        self._claimed_by: int | None = None
        # The server's max_allowed_packet, as the connection that writes has found it.
        self._max_packet = 1024 * 1024
        self._max_body = 0
        self._started_at: float | None = None  # the server, by our monotonic clock
        # When a connection breaks within an answer, the driver's pure Python part raises the last
        # three.
        self.errors = (mysql.connector.Error, OSError, AttributeError, IndexError)
        self.driver = f"mysql-connector-python {mysql.connector.__version__}"

    def connect(self) -> Any:
        raw = self._open()
        try:
            # Readers see what was committed last. A value that is too long is an error; without the
            # mode it would be cut.
            self.execute(raw, "SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED", ())
            self.execute(raw, "SET SESSION sql_mode = 'STRICT_ALL_TABLES,NO_ENGINE_SUBSTITUTION'", ())
        except self._connector.Error:
            raw.close()
            raise
        return raw

    def _open(self) -> Any:
        """A connection through the C extension if it loads, else in pure Python.

        (On Debian 12 the extension does not load once `ssl` was imported, and connect() then raises
        instead of doing without it.)
        """
        if not self._use_pure:
            try:
                return self._connector.connect(use_pure=False, **self._arguments)
            except (ImportError, AttributeError):
                self._use_pure = True
            except self._connector.Error:
                if self._connector.HAVE_CEXT:
                    raise
                self._use_pure = True
        return self._connector.connect(use_pure=True, **self._arguments)

    def describe(self) -> str:
        return f"mysql://{self._arguments['host']}:{self._arguments['port']}/{self.name}"

    @property
    def advice(self) -> str:
        return "Check that it runs, the user, the password and the name in its URL, and what this user may do."

    def begin(self, raw: Any) -> None:
        raw.start_transaction()

    def query(self, raw: Any, sql: str, parameters: Sequence[Any]) -> list[Row]:
        cursor = raw.cursor()
        cursor.execute(_with_percent(sql), parameters)
        rows: list[Row] = cursor.fetchall()
        cursor.close()
        return rows

    def execute(self, raw: Any, sql: str, parameters: Sequence[Any]) -> int:
        cursor = raw.cursor()
        cursor.execute(_with_percent(sql), parameters)
        count: int = cursor.rowcount
        cursor.close()
        return count

    def insert(self, raw: Any, *inserts: Insert) -> None:
        for sql, rows in inserts:
            for start in range(0, len(rows), MAX_ROWS):
                self._insert_some(raw, sql, rows[start : start + MAX_ROWS])

    def _insert_some(self, raw: Any, sql: str, rows: Sequence[Row]) -> None:
        # Each statement is a round trip, so one statement takes all rows, or as many as fit. It is
        # put together here, because the driver would take four times as long.
        before, _, _ = sql.rpartition(" VALUES ")
        statement = f"{before} VALUES " + ",".join([f"({','.join(map(_sql_literal, row))})" for row in rows])
        try:
            if len(statement) <= min(MAX_STATEMENT_LENGTH, self._max_packet - ROW_OVERHEAD):
                raw.cmd_query(statement)
            elif len(rows) > 1:
                self._insert_halves(raw, sql, rows)
            else:
                self._insert_large(raw, sql, rows[0])
        except self._connector.Error as error:
            if error.errno not in ROW_ERRORS:
                raise
            if len(rows) == 1:
                raise RowsRefused(rows, str(error)) from error
            self._insert_halves(raw, sql, rows)

    def _insert_halves(self, raw: Any, sql: str, rows: Sequence[Row]) -> None:
        """Insert rows in two statements or more.

        Raises RowsRefused with all rows that are refused.
        """
        middle = len(rows) // 2
        refused: list[Row] = []
        reason = ""
        for half in (rows[:middle], rows[middle:]):
            try:
                self._insert_some(raw, sql, half)
            except RowsRefused as error:
                refused += error.rows
                reason = str(error)
        if refused:
            raise RowsRefused(refused, reason)

    def _insert_large(self, raw: Any, sql: str, row: Row) -> None:
        """Insert a row with a text that does not fit into a statement as hexadecimal digits."""
        size = sum([len(value.encode()) for value in row if isinstance(value, str)])
        if size > self._max_packet - ROW_OVERHEAD:  # the server would close the connection
            raise RowsRefused([row], f"{size:,} bytes do not fit into max_allowed_packet, {self._max_packet:,}")
        with contextlib.closing(raw.cursor(prepared=True)) as cursor:  # sends the bytes as they are
            cursor.execute(sql, row)

    def claim(self, raw: Any) -> None:
        # The server gives the lock back by itself when the connection ends, however it ends.
        name = self._lock_name(raw)
        taken = self._value(raw, "SELECT GET_LOCK(?, ?)", name, self.claim_timeout)
        holder = self._value(raw, "SELECT IS_USED_LOCK(?)", name)
        if taken != 1 and holder == self._claimed_by and holder is not None:
            # The holder is our own last connection: it broke, and the database does not know yet.
            self.execute(raw, f"KILL {int(holder)}", ())
            taken = self._value(raw, "SELECT GET_LOCK(?, ?)", name, self.claim_timeout)
        if taken != 1:
            raise InUse
        self._claimed_by = self._value(raw, "SELECT CONNECTION_ID()")
        kind = "C extension" if "CMySQL" in type(raw).__name__ else "pure Python"
        version = self._value(raw, "SELECT VERSION()")
        self.driver = f"mysql-connector-python {self._connector.__version__}, {kind} (server {version})"
        self._note_restart(raw)
        self._max_packet = self._value(raw, "SELECT @@max_allowed_packet")
        if self._packet_problem():  # it was larger when the server started
            log.warning("larger messages are answered with SERVER_ERROR: %s", self._packet_problem())
        if self._value(raw, "SELECT @@innodb_flush_log_at_trx_commit") != 1:
            log.warning(
                "innodb_flush_log_at_trx_commit is not 1: a power cut may lose messages that were answered with SUCCESS"
            )
        # After a crash, InnoDB takes back a transaction that it prepared and the binary log lacks.
        if self._value(raw, "SELECT @@log_bin = 1 AND @@sync_binlog <> 1"):
            log.warning(
                "the binary log is on and sync_binlog is not 1: a power cut may lose messages that were answered "
                "with SUCCESS. Set it to 1, or turn the binary log off"
            )

    def _note_restart(self, raw: Any) -> None:
        """Count a restart of the server: InnoDB ends the server when a sync fails."""
        [(_, uptime)] = self.query(raw, "SHOW GLOBAL STATUS LIKE 'Uptime'", ())
        started_at = time.monotonic() - int(uptime)
        if self._started_at is not None and abs(started_at - self._started_at) > CLOCK_ERROR:
            self.lost_syncs += 1
        self._started_at = started_at

    def _lock_name(self, raw: Any) -> str:
        """The name of the lock that says whose database this is.

        It is a digest, because the name of a lock has at most 64 characters and is compared without
        regard to case. A database's name can be as long, and case counts in it on most systems.
        """
        name = self.name
        if self._value(raw, "SELECT @@lower_case_table_names") != 0:  # for this server `A` and `a` are one database
            name = name.lower()
        return f"jelly.{hashlib.blake2b(name.encode(), digest_size=16).hexdigest()}"

    def check_max_body(self, max_body: int) -> None:
        self._max_body = max_body
        if problem := self._packet_problem():
            raise StartError(f"Messages cannot be stored: {problem}.")

    def _packet_problem(self) -> str:
        """What is wrong with max_allowed_packet, and what to do; empty if nothing is."""
        needed = max(self._max_body + ROW_OVERHEAD, SMALLEST_PACKET) if self._max_body else 0
        if self._max_packet >= needed:
            return ""
        room = self._max_packet - ROW_OVERHEAD
        other = f", or start with --max-body {room}" if self._max_packet >= SMALLEST_PACKET else ""
        return (
            f"with --max-body {self._max_body}, max_allowed_packet of {self.describe()} must be at least {needed}, "
            f"and it is {self._max_packet}: raise it{other}"
        )

    def tables(self, raw: Any) -> set[str]:
        sql = "SELECT table_name FROM information_schema.tables WHERE table_schema = DATABASE()"
        return {name for (name,) in self.query(raw, sql, ())}

    def columns(self, raw: Any, table: str) -> set[str]:
        sql = "SELECT column_name FROM information_schema.columns WHERE table_schema = DATABASE() AND table_name = ?"
        return {name for (name,) in self.query(raw, sql, (table,))}

    def adapt_table(self, statement: str, raw: Any) -> str:
        return f"{statement} ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE={self._exact_collation(raw)}"

    def _exact_collation(self, raw: Any) -> str:
        """The collation that compares character by character, spaces at the end included.

        If the server has none, spaces at the end are ignored. (The program refuses names with
        spaces.)
        """
        for name in ("utf8mb4_nopad_bin", "utf8mb4_0900_bin"):
            if self._value(raw, "SELECT COUNT(*) FROM information_schema.COLLATIONS WHERE COLLATION_NAME = ?", name):
                return name
        return "utf8mb4_bin"

    def is_missing_table(self, error: Exception) -> bool:
        return getattr(error, "errno", None) == 1146  # ER_NO_SUCH_TABLE

    def already_exists(self, error: Exception) -> bool:
        return getattr(error, "errno", None) in (1060, 1061)  # ER_DUP_FIELDNAME, ER_DUP_KEYNAME

    def _value(self, raw: Any, sql: str, *parameters: Any) -> Any:
        [(value,)] = self.query(raw, sql, parameters)
        return value


@functools.lru_cache(maxsize=1000)
def _with_percent(sql: str) -> str:
    """A statement with `?` for its parameters, as the driver for MySQL wants it written."""
    return sql.replace("?", "%s")


def _sql_literal(value: str | int | None) -> str:
    """A value in SQL. Text becomes hexadecimal digits, so there is nothing to escape."""
    if isinstance(value, str):
        return f"x'{value.encode().hex()}'"
    return "NULL" if value is None else str(int(value))


def check_url(url: str) -> str:
    """The URL itself, if `open_engine` knows its kind.

    Raises ConfigError, which never shows a password.
    """
    if re.fullmatch(r"mysql://[^/]+/[^/]+", url):
        try:
            _ = urllib.parse.urlsplit(url).port
        except ValueError:
            raise ConfigError(
                "The port in the database's URL is wrong: it must be a number from 0 to 65535. "
                "(In a password, characters like / # : @ are written as %2F %23 %3A %40.)"
            ) from None
    elif not re.fullmatch(r"memory:|sqlite:///.+", url) or "\0" in urllib.parse.unquote(url):
        raise ConfigError(
            "A database is named as sqlite:///relative/file.db, sqlite:////absolute/file.db, "
            "mysql://user:password@host:3306/database, or memory: to keep nothing."
        )
    return url


def open_engine(url: str) -> Engine:
    """The engine for the database that a URL names; it does not connect yet.

    Raises ConfigError or StartError.
    """
    check_url(url)
    if url == "memory:":
        return MemoryEngine()
    if url.startswith("mysql:"):
        return MysqlEngine(url)
    return SqliteEngine(urllib.parse.unquote(url.removeprefix("sqlite:///")))
