"""Deferred indexing and retention over one database, with clocks that only the tests move."""

from clock import Clock
from harness import allocate_ids

from jelly.dao import Dao, StoredMessage
from jelly.indexing import INDEX_DELAY, DeferredIndexing
from jelly.retention import Retention
from jelly.trusted_clock import TrustedClock

EPOCH = 1_800_000_000.0


class Upkeep:
    """What the store thread does with messages later. The two clocks are one, and move together."""

    def __init__(self, dao: Dao, days: float) -> None:
        """`days`: how long messages can be read back."""
        self.clock = Clock()
        self.offset = EPOCH
        self.dao = Dao(dao.connection, TrustedClock(wall=self.wall, monotonic=self.clock))
        self.retention = Retention(days, self.clock, self.wall)
        self.indexing = DeferredIndexing(self.retention.keeps_history, self.clock)

    def wall(self) -> float:
        """The time of day, in seconds since 1970."""
        return self.clock.now + self.offset

    def store(self, count: int, receivers: tuple[str, ...] = ()) -> list[int]:
        """Store messages from ann to bob, each with a requestId; their ids."""
        ids = allocate_ids(self.dao, count)
        messages = [StoredMessage(id, False, "ann", "bob", "x", 1, f"r{id}", id) for id in ids]
        with self.dao.connection.transaction():
            self.dao.add_messages(messages, [(name, id) for name in receivers for id in ids])
        self.indexing.on_commit(messages)
        return ids

    @property
    def due_at(self) -> float:
        return min(self.indexing.due_at, self.retention.due_at)

    def run_due(self) -> None:
        """Do what the store thread does in each transaction."""
        with self.dao.connection.transaction():
            self.indexing.run_due(self.dao)
            self.retention.run_due(self.dao)

    def run_all(self) -> None:
        """Do all that is due now and soon after."""
        end = self.clock.now + INDEX_DELAY + 1
        for _ in range(1000):
            if self.due_at > end:
                return
            self.clock.now = max(self.clock.now, self.due_at)
            self.run_due()
        raise AssertionError("there is always more to do")

    def count(self, table: str) -> int:
        """How many rows a table has."""
        return int(self.dao.connection.query(f"SELECT COUNT(*) FROM {table}")[0][0])

    def counts(self) -> tuple[int, int, int]:
        """How many messages are stored, are in the history, and have an indexed requestId."""
        return self.count("messages"), self.count("history"), self.count("requests")
