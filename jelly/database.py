"""A connection to the database: transactions, reconnecting, retrying, and one kind of error.

`dao.py` holds the queries and never asks which database it has; `engine.py` knows that. A
`DatabaseConnection` stands between them: when the driver fails, it drops the driver's connection,
raises StoreError, and connects again at its next use.
"""

import contextlib
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from types import TracebackType
from typing import Any, TypeVar

from jelly.engine import Engine, Insert, Row
from jelly.errors import StoreError
from jelly.file_claim import InUse

T = TypeVar("T")

log = logging.getLogger("jelly.database")

CLAIM_PAUSE = 0.05
"""Seconds until a shared database is claimed again that another node has claimed."""


class CommitInDoubt(StoreError):
    """A commit failed: it may have happened or not."""

    def __init__(self, reason: str, lost_syncs: int) -> None:
        super().__init__(reason)
        self.lost_syncs = lost_syncs
        """What `DatabaseConnection.lost_syncs` was before."""


class DatabaseConnection:
    """One connection, for one thread at a time; opened at its first use, and again after a failure.

    Every method raises StoreError when the database fails.
    """

    def __init__(self, engine: Engine, writes: bool = False) -> None:
        """`writes`: connecting claims the database for this process."""
        self._engine = engine
        self._writes = writes
        self._raw: Any = None  # the driver's connection
        self._in_transaction = False
        self._is_fresh = False  # the database has not been asked in this transaction

    def open(self) -> None:
        """Connect now, if this connection is not open."""
        if self._raw is None:
            try:
                self._connect()
            except self._engine.errors as error:
                raise self._failed(error) from error

    def close(self) -> None:
        """Close the connection; a later use opens a new one."""
        raw, self._raw = self._raw, None
        if raw is not None:
            with contextlib.suppress(Exception):  # it may be dead, which is as good as closed
                raw.close()

    # --- statements -------------------------------------------------------------------------------

    # Each method has its own `try`, which costs nothing until something is raised. A helper would
    # cost every message one call more.

    def query(self, sql: str, parameters: Sequence[Any] = ()) -> list[Row]:
        """The rows that a SELECT finds. `?` stands for a parameter.

        Outside of a transaction the SELECT is repeated if the connection was dead.
        """
        if not self._in_transaction:
            return self._with_retry(self._engine.query, sql, parameters)
        if self._is_fresh:
            return self._begin_with(self._engine.query, sql, parameters)
        try:
            return self._engine.query(self._raw, sql, parameters)
        except self._engine.errors as error:
            raise self._failed(error) from error

    def execute(self, sql: str, parameters: Sequence[Any] = ()) -> int:
        """Run an INSERT, UPDATE or DELETE; how many rows it changed. `?` stands for a parameter.

        Outside of a transaction it makes its own.
        """
        if not self._in_transaction:
            with self.transaction():
                return self.execute(sql, parameters)
        if self._is_fresh:
            return self._begin_with(self._engine.execute, sql, parameters)
        try:
            return self._engine.execute(self._raw, sql, parameters)
        except self._engine.errors as error:
            raise self._failed(error) from error

    def change(self, sql: str, parameters: Sequence[Any] = ()) -> None:
        """Run an INSERT, UPDATE or DELETE of which nobody needs to know how many rows it changes:
        then it may travel with a later one. `?` stands for a parameter.

        Outside of a transaction it makes its own. What the database says of it may be raised by a
        later statement, or by the commit.
        """
        if not self._in_transaction:
            with self.transaction():
                return self.change(sql, parameters)
        self._is_fresh = False
        try:
            self._engine.change(self._raw, sql, parameters)
        except self._engine.errors as error:
            raise self._failed(error) from error

    def insert(self, *inserts: Insert) -> None:
        """Insert rows into one table or several. Each `Insert` is a statement and its rows.

        Outside of a transaction it makes its own. What the database says of the rows may be raised
        by a later statement, or by the commit.
        """
        if not self._in_transaction:
            with self.transaction():
                return self.insert(*inserts)
        self._is_fresh = False
        try:
            self._engine.insert(self._raw, *inserts)
        except self._engine.errors as error:
            raise self._failed(error) from error

    def define(self, statement: str) -> None:
        """Run a statement of the schema or of a migration, within a transaction.

        If it fails because a column or an index exists already, that is no error.
        """
        if statement.startswith("CREATE TABLE"):
            statement = self._engine.adapt_table(statement, self._raw)
        self._is_fresh = False
        try:
            self._engine.execute(self._raw, statement, ())
        except self._engine.errors as error:
            if not self._engine.already_exists(error):
                raise self._failed(error) from error

    def query_if_exists(self, sql: str) -> list[Row]:
        """The rows that a SELECT finds; none if there is no such table. Call it outside of
        transactions.

        Every other failure is raised: it says nothing about the tables.
        """

        def query(raw: Any) -> list[Row]:
            try:
                return self._engine.query(raw, sql, ())
            except self._engine.errors as error:
                if self._engine.is_missing_table(error):
                    return []
                raise

        return self._with_retry(query)

    @property
    def for_update(self) -> str:
        """What makes a SELECT lock its rows until the end of the transaction."""
        return self._engine.for_update

    def use_index(self, name: str) -> str:
        """What makes a SELECT use this index of a table."""
        return self._engine.use_index.format(name)

    @property
    def use_primary_key(self) -> str:
        """What makes a SELECT use the primary key of a table."""
        return self._engine.use_primary_key

    @property
    def ordered_join(self) -> str:
        """A JOIN whose left side is read first."""
        return self._engine.ordered_join

    @property
    def utc_ms(self) -> str:
        """The time of the database in SQL, in milliseconds since 1970."""
        return self._engine.utc_ms

    @property
    def lower_case(self) -> str:
        """What makes a text lower case, with `{}` for the text; empty if LIKE ignores the case."""
        return self._engine.lower_case

    def words(self, *expressions: str) -> str:
        """What joins expressions to one text, with spaces between. (The driver for MySQL reads each
        column of each row with Python.)
        """
        before, between, after = self._engine.words
        return before + between.join(expressions) + after

    def describe(self) -> str:
        """The database's name, without a password."""
        return self._engine.describe()

    def disown(self) -> None:
        """Leave nothing beside a database that turns out to be another program's."""
        self._engine.disown()

    def tables(self) -> set[str]:
        """The names of all tables and views of the database. Call it outside of transactions."""
        return self._with_retry(self._engine.tables)

    def columns(self, table: str) -> set[str]:
        """The names of a table's columns; none if there is no such table. Call it outside of
        transactions.
        """
        return self._with_retry(self._engine.columns, table)

    def prepare(self) -> None:
        """Set up a database that is Jelly's, or empty. Call it outside of transactions."""
        self._with_retry(self._engine.prepare)

    @contextlib.contextmanager
    def claimed(self, seconds: float) -> Iterator[None]:
        """Claim a shared database for a moment; wait at most some seconds while another has it.

        Raises StoreError. Call it outside of transactions.
        """
        deadline = time.monotonic() + seconds
        is_told = False
        while True:
            try:
                self._with_retry(self._engine.take_claim)
            except InUse:
                if time.monotonic() >= deadline:
                    raise
                if not is_told:
                    log.info("another server is using the database, or other nodes begin: waiting up to %g s", seconds)
                is_told = True
                time.sleep(CLAIM_PAUSE)
            else:
                break
        raw = self._raw
        try:
            yield
        finally:
            if raw is not None and self._raw is raw:  # otherwise the claim has ended with the connection
                with contextlib.suppress(*self._engine.errors):
                    self._engine.give_claim_back(raw)

    # --- transactions -----------------------------------------------------------------------------

    def transaction(self) -> AbstractContextManager[None]:
        """For `with`: everything inside is committed together, and synced, or not at all.

        If the commit itself fails, it is in doubt, which raises CommitInDoubt.
        """
        return self

    def __enter__(self) -> None:
        self._with_retry(self._engine.begin)
        self._in_transaction = True
        self._is_fresh = self._engine.begins_with_next

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._in_transaction = self._is_fresh = False
        if error is not None:
            self._rollback()
            return
        try:
            self._raw.commit()
        except StoreError:  # of a statement before it: nothing is committed
            self._rollback()
            raise
        except Exception as failure:
            lost_syncs = self._engine.lost_syncs
            self._engine.on_commit_failure(failure)
            raise CommitInDoubt(str(self._failed(failure)), lost_syncs) from failure
        except BaseException:
            self._rollback()
            raise

    def _begin_with(self, action: Callable[..., T], *arguments: Any) -> T:
        """Have the engine run the first statement of a transaction, which begins it."""

        def begin_with(raw: Any) -> T:
            self._engine.begin(raw)  # again: the connection may be a new one
            return action(raw, *arguments)

        self._is_fresh = False
        return self._with_retry(begin_with)

    def _rollback(self) -> None:
        if self._raw is not None:
            try:
                self._raw.rollback()
            except self._engine.errors:
                self.close()

    def empty_wal(self) -> None:
        """Write into a SQLite file what is in the log beside it. Call it outside of
        transactions.
        """
        if self._raw is not None:
            self._engine.empty_wal(self._raw)

    @property
    def lost_syncs(self) -> int:
        """How often something has happened after which a commit that can be read need not be on
        the disk, also if a later one is.
        """
        return self._engine.lost_syncs

    # --- failures ---------------------------------------------------------------------------------

    def _with_retry(self, action: Callable[..., T], *arguments: Any) -> T:
        """Have the engine do something that may be repeated: a read, or the begin of a transaction.

        A connection that the database closed while it was idle fails at once. Then the action is
        repeated on a new one, so that no user sees the failure. If the database hangs, the action
        has cost its time already. Then it is not repeated, and for a moment (while the circuit is
        open) all connections fail at once. Otherwise the requests behind would wait too long.
        """
        started = time.monotonic()
        if started < self._engine.circuit_open_until:
            raise StoreError(self._engine.circuit_reason)
        try:
            return action(self._raw or self._connect(), *arguments)
        except self._engine.errors as error:
            failure = self._failed(error)
            if self._engine.hangs(time.monotonic() - started):
                raise failure from error
        try:
            return action(self._connect(), *arguments)
        except self._engine.errors as error:
            raise self._failed(error) from error

    def _connect(self) -> Any:
        if self._writes:
            self._engine.claim_file()
        raw = self._engine.connect()
        try:
            if self._writes:
                self._engine.claim(raw)
        except BaseException:
            raw.close()
            raise
        self._raw = raw
        return raw

    def _failed(self, error: Exception) -> StoreError:
        """Drop the connection, as the next one may work; what to raise for the driver's error."""
        self.close()
        reason = " ".join(str(error).split())  # in one line
        return StoreError(f"{type(error).__name__}: {reason}{self._engine.cure(error)}")
