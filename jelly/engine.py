"""What all kinds of database have in common: the `Engine`, which knows one of them.

An engine knows its driver: how to connect, how to run a statement, what the shared schema needs on
top, and how a commit gets onto the disk. It holds no connection. `database.py` keeps those, and
`raw` stands here for a connection of the driver.
"""

import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

from jelly.errors import StoreError

CIRCUIT_OPEN_SECONDS = 1.0
"""Seconds until a database that did not answer is asked again (a *circuit breaker*)."""

NO_ANSWER = "the database does not answer"

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
    query_timeout = 4.0
    """Seconds to wait for a database that does not answer. A request may also wait for the batch
    before its own, and must be answered within 10 seconds."""
    circuit_open_until = 0.0
    """Until this monotonic time no connection asks the database: it has just not answered, or its
    file is not in its place.

    Any thread sets it, in one step. If two do so at once, either may win.
    """
    circuit_reason = NO_ANSWER
    """What a connection says meanwhile."""
    begins_with_next = False
    """Whether `begin` sends nothing: the next statement does. So that one finds out if the
    connection was closed while it was idle."""
    for_update = ""
    """What makes a SELECT lock its rows until the end of the transaction; empty if the begin of a
    transaction that writes has locked everything."""
    use_index: str
    """What makes a SELECT use an index of a table, with `{}` for the index."""
    use_primary_key: str
    """What makes a SELECT use the primary key of a table."""
    ordered_join: str
    """A JOIN whose left side is read first, whatever the statistics say."""
    utc_ms: str
    """The time of the database in SQL, in milliseconds since 1970."""
    words: tuple[str, str, str]
    """What joins expressions to one text, with spaces between: before, between and after them."""
    lower_case = ""
    """What makes a text lower case in SQL, with `{}` for the text: then it is found in either
    case. Empty if LIKE itself does that for the letters a to z, and nothing does for others."""
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

    def change(self, raw: Any, sql: str, parameters: Sequence[Any]) -> None:
        """Run a statement of which nobody needs to know how many rows it changed."""
        self.execute(raw, sql, parameters)

    @abstractmethod
    def insert(self, raw: Any, *inserts: Insert) -> None:
        """Insert rows, into one table after the other. May raise RowsRefused."""

    def claim_file(self) -> None:  # noqa: B027 - only for a database that is a file
        """Make this process the database's only server, before its first connection.

        Raises StoreError if there is another.
        """

    is_shared = False
    """Whether other nodes use the database, too. Then `claim` claims nothing, and a node has the
    claim only while it registers."""

    def claim(self, raw: Any) -> None:  # noqa: B027 - only for a database behind a connection
        """Make this process the database's only server. Raises StoreError if there is another."""

    def take_claim(self, raw: Any) -> None:  # noqa: B027 - only for a database that can be shared
        """Claim a shared database for a moment. Raises StoreError if somebody else has it."""

    def give_claim_back(self, raw: Any) -> None:  # noqa: B027 - only for a database that can be shared
        """Give back what `take_claim` took."""

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

    def cure(self, error: Exception) -> str:  # noqa: ARG002 - for other engines
        """What the operator can do about a failure; empty if it may pass by itself."""
        return ""

    def hangs(self, seconds: float) -> bool:
        """Whether a failure after this many seconds means that the database hangs.

        If it does, the circuit opens.
        """
        is_long = seconds > self.query_timeout / 2
        if is_long:
            self.circuit_open_until = time.monotonic() + CIRCUIT_OPEN_SECONDS
        return is_long
