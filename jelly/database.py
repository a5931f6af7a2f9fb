"""Connections to a database, and one short class for each kind of database with what differs.

`dao.py` holds the queries and never asks which database it has. Here is how to connect, what to add to the
shared schema, how to see to it that a commit is on the disk, and what to do when the database goes away: a
`DatabaseConnection` drops its connection after any failure, raises StoreError, and opens a new one at its next use.
"""

import contextlib
import functools
import logging
import os
import re
import sqlite3
import tempfile
import time
import urllib.parse
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import IO, Any

from jelly.errors import ConfigError, StartError, StoreError

log = logging.getLogger("jelly.database")

SCHEMA_VERSION = 2
# From an older version to the next one: MIGRATIONS[1] leads from 1 to 2. MySQL commits each definition by itself, so
# each statement must be one that may be repeated after a crash (a column or an index may be there already).
MIGRATIONS: dict[int, tuple[str, ...]] = {
    1: (
        "ALTER TABLE members ADD COLUMN since BIGINT NOT NULL DEFAULT 0",
        "ALTER TABLE messages ADD COLUMN request_id VARCHAR(36)",
        "ALTER TABLE messages ADD COLUMN digest BIGINT",
        "CREATE TABLE IF NOT EXISTS history (message_id BIGINT NOT NULL PRIMARY KEY, is_group SMALLINT NOT NULL, "
        "one_side VARCHAR(32) NOT NULL, other_side VARCHAR(32) NOT NULL)",
        "CREATE INDEX conversations ON history (is_group, one_side, other_side, message_id)",
        "CREATE TABLE IF NOT EXISTS requests (message_id BIGINT NOT NULL PRIMARY KEY, sender VARCHAR(32) NOT NULL, "
        "request_id VARCHAR(36) NOT NULL, digest BIGINT NOT NULL)",
        "CREATE INDEX requests_of_sender ON requests (sender, request_id)",
        "CREATE TABLE IF NOT EXISTS calendar (first_id BIGINT NOT NULL PRIMARY KEY, time BIGINT NOT NULL)",
        "DELETE FROM meta WHERE name = 'filed'",
        "INSERT INTO meta (name, value) VALUES ('filed', 0)",
    ),
}

QUERY_TIMEOUT = 4.0
"""Seconds to wait for a database that does not answer. A request may wait for the batch before its own too,
and is to be answered within 10 seconds."""

CIRCUIT_OPEN_SECONDS = 1.0
"""Seconds for which a database that did not answer is not asked again."""

WAL_BYTES = 32 * 1024 * 1024
"""When the log beside a SQLite database (jelly.db-wal) has grown by so much, it is emptied. As a rule it begins anew
at its front long before; but for that SQLite needs a moment in which nobody reads, and there may be none for hours."""
CHECKPOINT_TIMEOUT = 0.25
"""Seconds that a transaction may wait for that: as long as the readers need who are reading just now."""

Row = tuple[Any, ...]

MAX_ROWS = 5000
MAX_STATEMENT_LENGTH = 8_000_000
"""Rows, and characters, of a statement with its values: MariaDB takes 16 MiB at a time unless it is told otherwise."""
ROWS_PER_STATEMENT = (16, 4, 1)
"""In such portions many rows are inserted: few, so that each stays in SQLite's cache of prepared statements."""


class Engine(ABC):
    """A place to keep everything, named by its URL."""

    errors: tuple[type[Exception], ...]
    """What the driver raises when something is wrong with the database."""
    driver: str
    """The driver's name and version, for the log."""
    circuit_open_until = 0.0
    """Until this monotonic time nobody asks it: it has just not answered."""

    @abstractmethod
    def connect(self) -> Any:
        """Open a new DB-API connection that commits by itself outside of `begin`. Raises `errors`."""

    @abstractmethod
    def describe(self) -> str:
        """The database's name for the log: without a password."""

    @abstractmethod
    def begin(self, connection: Any) -> None:
        """Start a transaction that is going to write. Raises `errors`."""

    @abstractmethod
    def claim(self, connection: Any) -> None:
        """Make this process the only server on the database. Raises StoreError if there is another."""

    @abstractmethod
    def adapt_table(self, statement: str, connection: Any) -> str:
        """A statement of the shared schema with what only this database needs."""

    def sql(self, statement: str) -> str:
        """A statement with `?` for its parameters, as this driver wants it written."""
        return statement

    @abstractmethod
    def insert(self, connection: Any, sql: str, rows: Sequence[Row]) -> None:
        """Run `INSERT ... VALUES (?, ...)` for many rows. Raises `errors`."""

    def already_exists(self, error: Exception) -> bool:
        """Whether an error only says that a column or an index was made before."""
        return False

    def release(self) -> None:  # noqa: B027 - not every database has something to give up
        """Give up what `claim` took."""


class SqliteEngine(Engine):
    """A file of the embedded SQLite. Each commit is synced to the disk before it returns (WAL, FULL)."""

    errors = (sqlite3.Error,)
    driver = f"sqlite3 (SQLite {sqlite3.sqlite_version})"

    def __init__(self, path: str) -> None:
        self.path = Path(path)
        self._claim: IO[bytes] | None = None
        self._wal = f"{self.path.resolve()}-wal"  # beside the file that a link leads to, as SQLite has it
        self._wal_limit = WAL_BYTES

    def connect(self) -> sqlite3.Connection:
        with contextlib.suppress(OSError):  # exists already; or cannot be made, as SQLite is going to say
            os.close(os.open(self.path, os.O_CREAT | os.O_EXCL, 0o600))  # for its owner only
        connection = sqlite3.connect(self.path, timeout=QUERY_TIMEOUT, isolation_level=None, check_same_thread=False)
        try:
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = FULL")
        except sqlite3.Error:
            connection.close()
            raise
        return connection

    def describe(self) -> str:
        return f"sqlite:///{self.path}"

    def begin(self, connection: sqlite3.Connection) -> None:
        if self._wal_size() > self._wal_limit:
            connection.execute(f"PRAGMA busy_timeout = {int(CHECKPOINT_TIMEOUT * 1000)}")
            with contextlib.suppress(sqlite3.Error):  # the disk is full, say: the next one may succeed
                connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")  # if a reader takes longer, nothing happens
            connection.execute(f"PRAGMA busy_timeout = {int(QUERY_TIMEOUT * 1000)}")
            self._wal_limit = self._wal_size() + WAL_BYTES
        connection.execute("BEGIN IMMEDIATE")

    def _wal_size(self) -> int:
        try:
            return os.stat(self._wal).st_size
        except OSError:  # there is none
            return 0

    def claim(self, connection: sqlite3.Connection) -> None:
        # In a file of its own: closing any descriptor of the database's file would drop SQLite's own locks.
        if self._claim is not None:
            return
        import fcntl

        file = open(f"{self.path.resolve()}.lock", "wb", opener=_private_opener)  # noqa: SIM115 - open while the claim holds
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            file.close()
            raise StoreError("another server is using this database") from error
        self._claim = file

    def release(self) -> None:
        if self._claim is not None:
            self._claim.close()
            self._claim = None

    def insert(self, connection: sqlite3.Connection, sql: str, rows: Sequence[Row]) -> None:
        # The driver lets go of the interpreter for each row that it steps over, so it steps over many at a time.
        before, _, row = sql.rpartition(" VALUES ")
        cursor = connection.cursor()
        done = 0
        for count in ROWS_PER_STATEMENT:
            many = f"{before} VALUES {', '.join([row] * count)}"
            while len(rows) - done >= count:
                cursor.execute(many, [value for each in rows[done : done + count] for value in each])
                done += count

    def adapt_table(self, statement: str, connection: sqlite3.Connection) -> str:
        # Only INTEGER PRIMARY KEY makes the id the row's own number; the other tables live in the tree of
        # their primary key, which saves a second tree for each.
        if "BIGINT NOT NULL PRIMARY KEY" in statement:
            return statement.replace("BIGINT NOT NULL PRIMARY KEY", "INTEGER PRIMARY KEY")
        return f"{statement} WITHOUT ROWID"


class MemoryEngine(SqliteEngine):
    """For measuring and for trying out: a new, empty database, of which nothing is kept.

    It is a file in a temporary directory, never synced, which `release` removes. (SQLite's `memdb` needs no file, but
    has no WAL: its readers wait for its writer, which under load lets them starve until they give up.)
    """

    def __init__(self) -> None:
        try:
            self._directory = tempfile.TemporaryDirectory(prefix="jelly-memory-")
        except OSError as error:
            raise StartError(f"There is no temporary directory for the database: {error.strerror}.") from error
        super().__init__(f"{self._directory.name}/jelly.db")
        log.warning("the database memory: keeps nothing; all that is in it is gone when the server stops")

    def connect(self) -> sqlite3.Connection:
        connection = super().connect()
        connection.execute("PRAGMA synchronous = OFF")
        return connection

    def describe(self) -> str:
        return "memory:"

    def release(self) -> None:
        super().release()
        self._directory.cleanup()


def _private_opener(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


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
        # Its pure Python part lets the last three through when a connection breaks in the middle of an answer.
        self.errors = (mysql.connector.Error, OSError, AttributeError, IndexError)
        self.driver = f"mysql-connector-python {mysql.connector.__version__}"

    def connect(self) -> Any:
        connection = self._open()
        try:
            cursor = connection.cursor()
            # Readers see what was committed last; a value that is too long is an error, not a shorter value.
            cursor.execute("SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED")
            cursor.execute("SET SESSION sql_mode = 'STRICT_ALL_TABLES,NO_ENGINE_SUBSTITUTION'")
            cursor.close()
        except self._connector.Error:
            connection.close()
            raise
        return connection

    def _open(self) -> Any:
        """A connection through the C extension if it loads, else in pure Python (on Debian 12 it does not load
        once `ssl` was imported, and connect() then raises instead of doing without it)."""
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

    def begin(self, connection: Any) -> None:
        connection.start_transaction()

    def insert(self, connection: Any, sql: str, rows: Sequence[Row]) -> None:
        # Each statement is a round trip, so they are few; and they are put together here, for which the driver would
        # take four times as long.
        before, _, _ = sql.rpartition(" VALUES ")
        for start in range(0, len(rows), MAX_ROWS):
            some = rows[start : start + MAX_ROWS]
            statement = f"{before} VALUES " + ",".join([f"({','.join(map(_sql_literal, row))})" for row in some])
            if len(statement) <= MAX_STATEMENT_LENGTH:
                connection.cmd_query(statement)
            else:  # there is a very large text in it, and this way its size would double
                cursor = connection.cursor()
                cursor.executemany(self.sql(sql), some)
                cursor.close()

    def claim(self, connection: Any) -> None:
        # The server gives the lock back by itself when the connection ends, however it ends.
        name = f"jelly.{self.name}"[:64]
        taken = _fetch_value(connection, "SELECT GET_LOCK(%s, 2)", (name,))
        holder = _fetch_value(connection, "SELECT IS_USED_LOCK(%s)", (name,))
        if taken != 1 and holder == self._claimed_by and holder is not None:
            # Our own last connection, of whose end the database does not know: a line can break silently.
            cursor = connection.cursor()
            cursor.execute(f"KILL {int(holder)}")
            cursor.close()
            taken = _fetch_value(connection, "SELECT GET_LOCK(%s, 2)", (name,))
        if taken != 1:
            raise StoreError("another server is using this database")
        self._claimed_by = _fetch_value(connection, "SELECT CONNECTION_ID()")
        kind = "C extension" if "CMySQL" in type(connection).__name__ else "pure Python"
        version = _fetch_value(connection, "SELECT VERSION()")
        self.driver = f"mysql-connector-python {self._connector.__version__}, {kind} (server {version})"
        if _fetch_value(connection, "SELECT @@innodb_flush_log_at_trx_commit") != 1:
            log.warning(
                "innodb_flush_log_at_trx_commit is not 1: a power cut may lose messages that were answered with SUCCESS"
            )

    def adapt_table(self, statement: str, connection: Any) -> str:
        return f"{statement} ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE={self._exact_collation(connection)}"

    def _exact_collation(self, connection: Any) -> str:
        """The collation that compares character by character and does not ignore spaces at the end, as far as
        the server has one. (Names with spaces are refused before they come here, too.)"""
        for name in ("utf8mb4_nopad_bin", "utf8mb4_0900_bin"):
            if _fetch_value(
                connection, "SELECT COUNT(*) FROM information_schema.COLLATIONS WHERE COLLATION_NAME = %s", (name,)
            ):
                return name
        return "utf8mb4_bin"

    @functools.lru_cache(maxsize=1000)  # noqa: B019 - one database a process
    def sql(self, statement: str) -> str:
        return statement.replace("?", "%s")

    def already_exists(self, error: Exception) -> bool:
        return getattr(error, "errno", None) in (1060, 1061)  # ER_DUP_FIELDNAME, ER_DUP_KEYNAME


def _sql_literal(value: str | int | None) -> str:
    """A value in SQL. Text stands there as its bytes in hexadecimal digits, so there is nothing to escape."""
    if isinstance(value, str):
        return f"x'{value.encode().hex()}'"
    return "NULL" if value is None else str(int(value))


def _fetch_value(connection: Any, sql: str, parameters: Sequence[Any] = ()) -> Any:
    cursor = connection.cursor()
    try:
        cursor.execute(sql, parameters)
        row = cursor.fetchone()
        return row[0] if row else None
    finally:
        cursor.close()


def check_url(url: str) -> str:
    """The URL itself, if it is one that `open_engine` knows. Raises ConfigError, which never shows a password."""
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
            "mysql://user:password@host:3306/database, or memory: if nothing is to be kept."
        )
    return url


def open_engine(url: str) -> Engine:
    """The database that a URL names. Raises ConfigError or StartError; does not connect yet."""
    check_url(url)
    if url == "memory:":
        return MemoryEngine()
    if url.startswith("mysql:"):
        return MysqlEngine(url)
    return SqliteEngine(urllib.parse.unquote(url.removeprefix("sqlite:///")))


class DatabaseConnection:
    """One connection, for one thread at a time; opened at its first use, and again after a failure.

    Every method raises StoreError when the database fails.
    """

    def __init__(self, engine: Engine, writes: bool = False) -> None:
        self._engine = engine
        self._writes = writes
        self._raw: Any = None
        self._in_transaction = False

    def query(self, sql: str, parameters: Sequence[Any] = ()) -> list[Row]:
        """The rows that a SELECT finds."""
        rows: list[Row] = self._run(sql, parameters, lambda cursor: cursor.fetchall())
        return rows

    def execute(self, sql: str, parameters: Sequence[Any] = ()) -> int:
        """Run an INSERT, UPDATE or DELETE; how many rows it touched."""
        count: int = self._run(sql, parameters, lambda cursor: cursor.rowcount)
        return count

    def insert(self, sql: str, rows: Sequence[Row]) -> None:
        """Run an INSERT for many rows: on MySQL in one round trip."""
        with self._guarded():
            self._engine.insert(self._open(), sql, rows)

    @contextlib.contextmanager
    def transaction(self) -> Iterator[None]:
        """Everything inside is committed together, and synced, or not at all."""
        self._begin()
        self._in_transaction = True
        try:
            yield
            with self._guarded():
                self._raw.commit()
        except BaseException:
            self._rollback()
            raise
        finally:
            self._in_transaction = False

    def create_tables(self) -> None:
        """Make or migrate the tables, and claim the database for this process. Raises StoreError, StartError."""
        with self._guarded():
            self._open()
        version = self._version()
        if version > SCHEMA_VERSION:
            raise StartError(
                f"The database has schema version {version}, this program knows {SCHEMA_VERSION}: use a newer Jelly."
            )
        with self.transaction():
            if version == 0:
                for statement in _statements(_schema()):
                    self._execute_ddl(statement)
                self.execute("DELETE FROM meta")  # what a first start left that was cut off here
                for name, value in (("next_id", 1), ("filed", 0), ("schema_version", SCHEMA_VERSION)):
                    self.execute("INSERT INTO meta (name, value) VALUES (?, ?)", (name, value))
            for older in range(version or SCHEMA_VERSION, SCHEMA_VERSION):
                log.info("migrating the database from schema version %d to %d", older, older + 1)
                for statement in MIGRATIONS[older]:
                    self._execute_ddl(statement)
                self.execute("UPDATE meta SET value = ? WHERE name = 'schema_version'", (older + 1,))

    def close(self) -> None:
        """Close the connection; a later use opens a new one."""
        raw, self._raw = self._raw, None
        if raw is not None:
            with contextlib.suppress(Exception):  # it may be dead, which is as good as closed
                raw.close()

    def _run(self, sql: str, parameters: Sequence[Any], result: Callable[[Any], Any]) -> Any:
        def run() -> Any:
            cursor = self._open().cursor()
            cursor.execute(self._engine.sql(sql), parameters)
            answer = result(cursor)
            cursor.close()
            return answer

        if not self._in_transaction:
            return self._retry_once(run)
        with self._guarded():
            return run()

    def _begin(self) -> None:
        self._retry_once(lambda: self._engine.begin(self._open()))

    def _retry_once(self, action: Callable[[], Any]) -> Any:
        """Do something that may be repeated.

        A connection that the database closed while it was idle fails at once: nobody is to notice, so it is
        tried again on a new one. A database that hangs has cost its time already; for a moment all others
        are spared that, or those who wait behind them would wait for too long.
        """
        if time.monotonic() < self._engine.circuit_open_until:
            raise StoreError("the database does not answer")
        started = time.monotonic()
        try:
            with self._guarded():
                return action()
        except StoreError:
            if time.monotonic() - started > QUERY_TIMEOUT / 2:
                self._engine.circuit_open_until = time.monotonic() + CIRCUIT_OPEN_SECONDS
                raise
        with self._guarded():
            return action()

    def _rollback(self) -> None:
        if self._raw is not None:
            try:
                self._raw.rollback()
            except self._engine.errors:
                self.close()

    def _open(self) -> Any:
        if self._raw is None:
            connection = self._engine.connect()
            try:
                if self._writes:
                    self._engine.claim(connection)
            except BaseException:
                connection.close()
                raise
            self._raw = connection
        return self._raw

    @contextlib.contextmanager
    def _guarded(self) -> Iterator[None]:
        """Turn what the driver raises into StoreError, and drop the connection: the next one may be sound."""
        try:
            yield
        except self._engine.errors as error:
            self.close()
            raise StoreError(f"{type(error).__name__}: {' '.join(str(error).split())}") from error  # in one line

    def _version(self) -> int:
        """The schema version of the database, 0 if it has no tables of ours."""
        try:
            rows = self.query("SELECT value FROM meta WHERE name = 'schema_version'")
        except StoreError:
            rows = []  # no such table; if it was anything worse, making the tables is going to say so
        return int(rows[0][0]) if rows else 0

    def _execute_ddl(self, statement: str) -> None:
        """Run one statement of the schema or of a migration.

        On MySQL a part of it may be there from a start that was cut off between two statements.
        """
        if statement.startswith("CREATE TABLE"):
            statement = self._engine.adapt_table(statement, self._raw)
        try:
            self._raw.cursor().execute(statement)
        except self._engine.errors as error:
            if not self._engine.already_exists(error):
                raise StoreError(str(error)) from error


def _schema() -> str:
    """The text of schema.sql: inside the package when installed, beside it in a checkout."""
    here = Path(__file__).parent
    for path in (here / "schema.sql", here.parent / "schema.sql"):
        if path.exists():
            return path.read_text(encoding="utf-8")
    raise StartError("The file schema.sql is missing: it belongs beside the package jelly.")


def _statements(script: str) -> list[str]:
    """The statements of an SQL script without its comments. (executescript() would commit first.)"""
    lines = [line for line in script.splitlines() if not line.lstrip().startswith("--")]
    return [statement.strip() for statement in "\n".join(lines).split(";") if statement.strip()]
