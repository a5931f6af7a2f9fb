"""MySQL or MariaDB as the database: a server, through mysql-connector-python."""

import contextlib
import functools
import hashlib
import logging
import time
import urllib.parse
from collections.abc import Sequence
from typing import Any

from jelly.engine import Engine, Insert, Row, RowsRefused
from jelly.errors import ConfigError, StartError
from jelly.file_claim import InUse
from jelly.mysql_pipeline import ROW_ERRORS, MysqlPipeline, insert_statement, with_literals

log = logging.getLogger("jelly.database")

CLOCK_ERROR = 3.0
"""Seconds by which what MySQL says of its start may differ from one time to the next."""
MAX_ROWS = 5000
"""At most this many rows are in one INSERT for MySQL."""
MAX_STATEMENT_LENGTH = 8_000_000
"""At most this many characters, values included, are in one INSERT for MySQL, even if the server
takes more."""
LOCK_TIMEOUT = "innodb_lock_wait_timeout = 4"
"""Seconds that a node waits for the sequence lock: longer than a node that froze can keep it."""
SMALLEST_PACKET = 64 * 1024
"""At least this many bytes of max_allowed_packet are needed for statements without a message."""
PLAIN_TYPES = (int, str, type(None))
"""Parameters of these types become literals in a statement."""
ROW_OVERHEAD = 2 * 1024
"""Bytes of a packet that are kept for the statement, and for all columns of a message but its
content."""


class MysqlEngine(Engine):
    """A database on a MySQL or MariaDB server, through mysql-connector-python."""

    begins_with_next = True
    for_update = " FOR UPDATE"
    use_index = "FORCE INDEX ({})"
    use_primary_key = "FORCE INDEX (PRIMARY)"
    ordered_join = "STRAIGHT_JOIN"
    utc_ms = "TIMESTAMPDIFF(MICROSECOND, '1970-01-01', UTC_TIMESTAMP(3)) DIV 1000"
    words = "CONCAT_WS(' ', ", ", ", ")"
    lower_case = "LOWER({})"

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
            "connection_timeout": int(self.query_timeout),
            "read_timeout": int(self.query_timeout),
            "write_timeout": int(self.query_timeout),
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

    def connect(self) -> MysqlPipeline:
        raw = MysqlPipeline(self._open(), self._connector.Error)
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

    def begin(self, raw: MysqlPipeline) -> None:
        raw.begin()

    # These go around the driver's cursor where they can. It takes a fifth longer for a short query,
    # and what waits could not travel with it.

    def query(self, raw: MysqlPipeline, sql: str, parameters: Sequence[Any]) -> list[Row]:
        if raw.is_pure_python and _are_plain(parameters):
            return raw.query(self._fitting(raw, with_literals(sql, parameters)))
        raw.flush()
        raw.cursor.execute(_with_percent(sql), parameters)
        rows: list[Row] = raw.cursor.fetchall()
        return rows

    def execute(self, raw: MysqlPipeline, sql: str, parameters: Sequence[Any]) -> int:
        if raw.size and _are_plain(parameters):
            return raw.execute(self._fitting(raw, with_literals(sql, parameters)))
        raw.flush()
        raw.cursor.execute(_with_percent(sql), parameters)
        count: int = raw.cursor.rowcount
        return count

    def change(self, raw: MysqlPipeline, sql: str, parameters: Sequence[Any]) -> None:
        raw.change(self._fitting(raw, with_literals(sql, parameters)))

    def _fitting(self, raw: MysqlPipeline, statement: str) -> str:
        """Return a statement; send first what waits if both do not fit into a packet."""
        if raw.size + len(statement) > self._max_statement:
            raw.flush()
        return statement

    @property
    def _max_statement(self) -> int:
        """At most this many characters are in what is sent at once."""
        return min(MAX_STATEMENT_LENGTH, self._max_packet - ROW_OVERHEAD)

    def insert(self, raw: MysqlPipeline, *inserts: Insert) -> None:
        for sql, rows in inserts:
            for start in range(0, len(rows), MAX_ROWS):
                self._insert_some(raw, sql, rows[start : start + MAX_ROWS])

    def _insert_some(self, raw: MysqlPipeline, sql: str, rows: Sequence[Row]) -> None:
        """Insert rows in as few statements as the server takes.

        Raises RowsRefused with all rows that are refused.
        """
        statement = insert_statement(sql, rows)
        if len(statement) <= self._max_statement:
            raw.insert(self._fitting(raw, statement), sql, rows)
        elif len(rows) > 1:
            self._insert_halves(raw, sql, rows)
        else:
            raw.flush()
            self._insert_large(raw, sql, rows[0])

    def _insert_halves(self, raw: MysqlPipeline, sql: str, rows: Sequence[Row]) -> None:
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

    def _insert_large(self, raw: MysqlPipeline, sql: str, row: Row) -> None:
        """Insert a row with a text that does not fit into a statement as hexadecimal digits."""
        size = sum([len(value.encode()) for value in row if isinstance(value, str)])
        if size > self._max_packet - ROW_OVERHEAD:  # the server would close the connection
            raise RowsRefused([row], f"{size:,} bytes do not fit into max_allowed_packet, {self._max_packet:,}")
        try:
            with contextlib.closing(raw.driver.cursor(prepared=True)) as cursor:  # sends the bytes as they are
                cursor.execute(sql, row)
        except self._connector.Error as error:
            if error.errno not in ROW_ERRORS:
                raise
            raise RowsRefused([row], str(error)) from error

    def claim(self, raw: MysqlPipeline) -> None:
        if self.is_shared:
            self._set_timeouts(raw)
        else:
            self.take_claim(raw)
        self._look_at_server(raw)

    def _set_timeouts(self, raw: MysqlPipeline) -> None:
        """Have the server take the sequence lock away from a node that freezes while it has it: a
        transaction that has nothing to do for so long is rolled back.
        """
        is_mariadb = "MariaDB" in self._value(raw, "SELECT VERSION()")
        for setting in ("idle_transaction_timeout = 2" if is_mariadb else "wait_timeout = 3", LOCK_TIMEOUT):
            self.execute(raw, f"SET SESSION {setting}", ())

    def take_claim(self, raw: MysqlPipeline) -> None:
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

    def give_claim_back(self, raw: MysqlPipeline) -> None:
        self._value(raw, "SELECT RELEASE_LOCK(?)", self._lock_name(raw))
        self._claimed_by = None

    def _look_at_server(self, raw: MysqlPipeline) -> None:
        kind = "pure Python" if raw.is_pure_python else "C extension"
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


def _are_plain(parameters: Sequence[Any]) -> bool:
    """Whether all can be written as literals."""
    return all(type(value) in PLAIN_TYPES for value in parameters)


@functools.lru_cache(maxsize=1000)
def _with_percent(sql: str) -> str:
    """A statement with `?` for its parameters, as the driver for MySQL wants it written."""
    return sql.replace("?", "%s")
