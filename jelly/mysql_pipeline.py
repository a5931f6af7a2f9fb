"""A connection to MySQL on which statements wait for each other, to save round trips.

A transaction of one message has five statements: begin, the mark, two inserts, commit. Sent one by
one, each of them is a round trip in which the store does nothing. Most need no answer of their own:

- the begin goes with the first statement,
- inserts go with the next statement that needs an answer, or with the commit.

That makes two round trips. The server runs what comes together one by one, and stops at the first
that fails: so if an insert fails, the commit behind it does not happen.
"""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from jelly.engine import Row, RowsRefused
from jelly.errors import StoreError

ROW_ERRORS = frozenset({1118, 1264, 1366, 1406})
"""The errors of MySQL that are about a value in a row, and leave the transaction open: the row is
too large, a number is out of range, text has a wrong character, text is too long."""
BEGIN = "START TRANSACTION"


class Waiting(NamedTuple):
    """A statement that waits for the next one."""

    statement: str
    insert: str
    """The INSERT without its rows; empty for anything else."""
    rows: Sequence[Row]


class MysqlPipeline:
    """A connection of the driver, and the statements that wait. For one thread at a time.

    What the database says of a statement that waited is raised by the method that sends it.
    """

    def __init__(self, driver: Any, error: type[Exception]) -> None:
        """`error`: what the driver raises when the server refuses something."""
        self.driver = driver
        self._error = error
        self.is_pure_python = "CMySQL" not in type(driver).__name__
        """Whether the driver is not its C extension. Only then do statements wait: the extension
        has no public way to read the results of several.
        """
        self._cursor: Any = None
        self._waiting: list[Waiting] = []
        self.size = 0
        """How many characters wait."""

    @property
    def cursor(self) -> Any:
        """A cursor for statements with an answer, always the same: for a new one, the driver would
        ask the server whether it is still there, which is a round trip.
        """
        if self._cursor is None:
            self._cursor = self.driver.cursor()
        return self._cursor

    @property
    def connection_id(self) -> int:
        """The number by which the server knows the connection."""
        return int(self.driver.connection_id)

    def begin(self) -> None:
        """Begin a transaction, if it has not begun."""
        if self._waiting or self.driver.in_transaction:
            return
        self._add(Waiting(BEGIN, "", ()))

    def insert(self, statement: str, insert: str, rows: Sequence[Row]) -> None:
        """Insert rows with a statement, which is the beginning of an INSERT and the rows."""
        self._add(Waiting(statement, insert, rows))

    def change(self, statement: str) -> None:
        """Run a statement of which nobody needs to know what it has changed."""
        self._add(Waiting(statement, "", ()))

    def query(self, statement: str) -> list[Row]:
        """Run a SELECT; return its rows."""
        self._send(statement)
        rows: list[Row] = self.driver.get_rows()[0]
        return rows

    def execute(self, statement: str) -> int:
        """Run a statement; how many rows it changed."""
        return int(self._send(statement)["affected_rows"])

    def flush(self) -> None:
        """Send what waits."""
        if self._waiting:
            self._send()

    def commit(self) -> None:
        """Commit the transaction.

        Raises RowsRefused if the database refuses rows that waited, and StoreError if a statement
        that waited has failed: then nothing is committed. Any other error leaves that in doubt.
        """
        if [each.statement for each in self._waiting] == [BEGIN]:
            self._forget()
        elif self._waiting:
            self._send("COMMIT")
        else:
            self.driver.commit()

    def rollback(self) -> None:
        """Take the transaction back."""
        self._forget()
        self.driver.rollback()

    def close(self) -> None:
        """Close the connection."""
        self.driver.close()

    def _forget(self) -> None:
        self._waiting.clear()
        self.size = 0

    def _add(self, waiting: Waiting) -> None:
        self._waiting.append(waiting)
        self.size += len(waiting.statement) + 1
        if not self.is_pure_python:
            self.flush()

    def _send(self, *statement: str) -> dict[str, Any]:
        """Send what waits, and perhaps a statement; return the last result."""
        while True:
            waiting, self._waiting, self.size = self._waiting, [], 0
            results: list[dict[str, Any]] = []
            try:
                # (`extend` keeps the results that come before an error.)
                results.extend(self._results([*[each.statement for each in waiting], *statement]))
            except self._error as error:
                if len(results) == len(waiting) or not is_from_server(error):
                    raise  # what waited was run, or nobody knows
                failed = waiting[len(results)]
                if failed.statement == BEGIN:
                    raise  # MySQL says here that it has closed an idle connection
                self._look_for_refused(failed, error)
                self._waiting = waiting[len(results) + 1 :]  # the rows have been inserted after all
                if not self._waiting and not statement:
                    return {}
            else:
                return results[-1]

    def _results(self, statements: list[str]) -> Iterator[dict[str, Any]]:
        if len(statements) == 1:
            yield self.driver.cmd_query(statements[0])
        else:
            yield from self.driver.cmd_query_iter(";".join(statements))

    def _look_for_refused(self, failed: Waiting, error: Exception) -> None:
        """A statement that waited has failed. Raises RowsRefused with the rows to blame, or
        StoreError if it is none of them.
        """
        if getattr(error, "errno", None) not in ROW_ERRORS or not failed.rows:
            raise StoreError(f"{type(error).__name__}: {' '.join(str(error).split())}") from error
        if refused := self._refused_of(failed.insert, failed.rows):
            raise RowsRefused(refused, str(error)) from error

    def _refused_of(self, insert: str, rows: Sequence[Row]) -> list[Row]:
        """Insert rows that the database has refused together; return those that it refuses."""
        if len(rows) == 1:
            return list(rows)
        refused: list[Row] = []
        middle = len(rows) // 2
        for half in (rows[:middle], rows[middle:]):
            try:
                self.driver.cmd_query(insert_statement(insert, half))
            except self._error as error:
                if getattr(error, "errno", None) not in ROW_ERRORS:
                    raise
                refused += self._refused_of(insert, half)
        return refused


def is_from_server(error: Exception) -> bool:
    """Whether an error of the driver is the server's answer, and no connection that was lost or on
    which nothing came: only the server's errors have an SQLSTATE.
    """
    return getattr(error, "sqlstate", None) is not None


def insert_statement(insert: str, rows: Sequence[Row]) -> str:
    """`INSERT ... VALUES (?, ...)` with rows: the driver would take four times as long."""
    before, _, _ = insert.rpartition(" VALUES ")
    return f"{before} VALUES " + ",".join([f"({','.join(map(_literal, row))})" for row in rows])


def with_literals(sql: str, parameters: Sequence[str | int | None]) -> str:
    """A statement with its parameters, each for a `?`. (Text says its character set, or it would be
    compared byte by byte, and without an index.)
    """
    values = [f"_utf8mb4 {_literal(each)}" if isinstance(each, str) else _literal(each) for each in parameters]
    return sql.replace("?", "{}").format(*values)


def _literal(value: str | int | None) -> str:
    """A value in SQL. Text becomes hexadecimal digits, so there is nothing to escape."""
    if isinstance(value, str):
        return f"x'{value.encode().hex()}'"
    return "NULL" if value is None else str(int(value))
