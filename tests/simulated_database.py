"""The database of a simulated world, and what goes wrong in it."""

import random
import sqlite3
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from overseer import Overseer
from overseer_database import TRIGGERS

from jelly.migrations import ROWS_OF_META, SCHEMA_VERSION, schema, split_statements
from jelly.sqlite_engine import SqliteEngine
from jelly.trusted_clock import Times


class Crash(BaseException):
    """The server's process dies here. Not an Exception: nothing in the server can do anything about
    it.
    """


@dataclass
class Faults:
    """How often things go wrong, as probabilities; `on` turns all of it on and off."""

    rng: random.Random
    statement_fails: float = 0.0
    commit_fails: float = 0.0
    commit_is_doubted: float = 0.0
    """A commit happens, or does not, and the connection breaks."""
    sync_fails: float = 0.0
    """Of the commits that are doubted: what can be read afterwards need not be on the disk."""
    crashes: float = 0.0
    """At each of the points between two effects that can be seen from outside."""
    happens_meanwhile: float = 0.0
    """At such a point, something that another thread does."""
    database_is_down: bool = False
    is_dead: bool = False
    """The server has crashed: what Python still runs of it, to clean up, has no effect any more."""
    on: bool = True

    def strikes(self, probability: float) -> bool:
        return self.on and probability > 0 and self.rng.random() < probability

    def may_crash(self) -> None:
        if self.strikes(self.crashes):
            self.is_dead = True
            raise Crash

    def may_fail(self, probability: float) -> None:
        if self.on and (self.database_is_down or self.strikes(probability)):
            raise sqlite3.OperationalError("simulated")


class Disk:
    """An SQLite database in memory, with triggers that tell the overseer. One for all seeds:
    emptied for each.
    """

    TABLES: tuple[str, ...] = (
        "devices",
        "meta", "users", "tokens", "friends", "blocks", "invitations", "chat_groups", "members",
        "messages", "inbox", "missed", "history", "requests", "read_pointers",
    )  # fmt: skip

    def __init__(self) -> None:
        self.raw = sqlite3.connect(":memory:", isolation_level=None, check_same_thread=False)
        self.overseer: Overseer | None = None
        engine = SqliteEngine("")
        for statement in split_statements(schema()):
            if statement.startswith("CREATE TABLE"):
                statement = engine.adapt_table(statement, self.raw)
            self.raw.execute(statement)
        self.raw.create_function("saw", 5, self._saw)
        self.raw.executescript(TRIGGERS)

    def empty(self) -> None:
        if self.raw.in_transaction:
            self.raw.rollback()
        self.overseer = None
        self.raw.execute("BEGIN")
        for table in self.TABLES:
            self.raw.execute(f"DELETE FROM {table}")
        rows = {**ROWS_OF_META, "schema_version": SCHEMA_VERSION}
        self.raw.executemany("INSERT INTO meta VALUES (?, ?)", rows.items())
        self.raw.execute("COMMIT")

    def mark(self) -> int:
        return int(self.raw.execute("SELECT value FROM meta WHERE name = 'next_id'").fetchone()[0])

    def times(self) -> Times:
        """What the database remembers of the clock."""
        rows = dict(self.raw.execute("SELECT name, value FROM meta"))
        return Times(*(rows[name] for name in Times._fields))

    def count(self, table: str) -> int:
        return int(self.raw.execute(f"SELECT COUNT(*) FROM {table}").fetchone()[0])

    def _saw(self, what: str, id: int, one: str, two: str, three: str) -> None:
        if self.overseer is not None:
            self.overseer.saw(what, id, one, two, three)


class FaultyEngine(SqliteEngine):
    """The way to a disk, which can fail at each step. `meanwhile` is called where other threads may
    act.
    """

    def __init__(self, disk: Disk, faults: Faults, overseer: Overseer, meanwhile: Callable[[], None]) -> None:
        super().__init__("")
        self.disk, self.faults, self.overseer, self.meanwhile = disk, faults, overseer, meanwhile

    def connect(self) -> Any:
        self.faults.may_fail(self.faults.statement_fails)
        return FaultyConnection(self)

    def on_commit_failure(self, error: Exception) -> None:
        if "sync" in str(error):
            self.lost_syncs += 1


class FaultyConnection:
    """What `DatabaseConnection` needs of a DB-API connection."""

    def __init__(self, engine: FaultyEngine) -> None:
        self._engine = engine
        self._raw, self._faults = engine.disk.raw, engine.faults

    def cursor(self) -> sqlite3.Cursor:
        if self._raw.in_transaction:
            self._faults.may_crash()
        self._faults.may_fail(self._faults.statement_fails)
        return self._raw.cursor()

    def execute(self, sql: str, parameters: Sequence[Any] = ()) -> sqlite3.Cursor:
        if sql.startswith("BEGIN"):
            self._engine.meanwhile()
        return self.cursor().execute(sql, parameters)

    def commit(self) -> None:
        faults = self._faults
        faults.may_crash()
        faults.may_fail(faults.commit_fails)
        self._raw.commit()
        self._engine.overseer.committed()
        faults.may_crash()
        is_doubted = faults.strikes(faults.commit_is_doubted)
        sync_fails = is_doubted and faults.strikes(faults.sync_fails)
        if is_doubted:
            self._engine.overseer.commit_is_doubted(sync_fails)
        self._engine.meanwhile()
        if is_doubted:
            raise sqlite3.OperationalError(f"simulated, {'at the sync' if sync_fails else 'after the commit'}")

    def rollback(self) -> None:
        if self._raw.in_transaction:
            self._raw.rollback()
        self._engine.overseer.rolled_back()

    close = rollback
