"""Deferred indexing: messages enter the secondary indexes a second later, many at a time.

To store a message is to append a row, which is the least that a commit can cost. Finding the
message by its conversation (history) or by its idempotency key (is this a repeat?) needs indexes.
Updating these in each commit would double its cost, because every conversation has its own place in
them. So the store thread indexes the messages of a whole second together, in the tables `history`
and `requests`. Until then, queries look at all messages that are not indexed yet, which are few.

The store thread calls everything here; what takes a `Dao` runs inside its transaction.
"""

import math
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence

from jelly import conversations_dao
from jelly.dao import Dao, StoredMessage

INDEX_DELAY = 1.0
"""Seconds until a stored message is indexed."""
INDEX_BATCH = 500
"""At most this many messages are indexed in one transaction, or a quarter of those that wait, if
that is more. When this many wait, they are indexed without delay. All requests wait 3 ms for that;
with 2000 they would wait 9 ms."""
RETRY_DELAY = 1.0
"""Seconds until messages are indexed again after a transaction failed."""

RequestKey = tuple[str, str]
"""An idempotency key: the sender of a message, and its requestId. A repeat has the same key."""


class DeferredIndexing:
    """Knows which messages are indexed, and indexes the next ones when they are due."""

    def __init__(self, keeps_history: bool, clock: Callable[[], float] = time.monotonic) -> None:
        """`keeps_history`: messages stay when they are delivered, so that they can be read back."""
        self._keeps_history = keeps_history
        self._clock = clock
        self._indexed_id: int | None = None  # messages up to this id are indexed; None: ask the database
        self._unindexed: OrderedDict[RequestKey, tuple[int, int]] = OrderedDict()  # id and digest, oldest first
        self._unindexed_count = 0  # with and without a requestId
        self.has_others = False
        """Whether other nodes store messages, too."""
        self.due_at = clock()
        """When to index the next messages, by the clock; infinity if none wait."""

    def stored_requests(self, dao: Dao, keys: Iterable[RequestKey]) -> dict[RequestKey, tuple[int, int]]:
        """Return id and digest of the messages that are stored under these keys."""
        self._load(dao)
        wanted = set(keys)
        found = {key: self._unindexed[key] for key in wanted if key in self._unindexed}
        return {**dao.indexed_requests(wanted - found.keys()), **found}

    def on_commit(self, messages: Sequence[StoredMessage]) -> None:
        """Take note of messages that were committed."""
        self._unindexed_count += len(messages)
        for message in messages:
            if message.request_id is not None and message.digest is not None:
                self._unindexed[message.sender, message.request_id] = message.id, message.digest
        if self._unindexed_count >= INDEX_BATCH:
            self.due_at = self._clock()
        elif messages and self.due_at == math.inf:
            self.due_at = self._clock() + INDEX_DELAY

    def note_indexed(self, id: int) -> None:
        """Another node may have indexed messages up to an id."""
        if self._indexed_id is not None and id > self._indexed_id:
            self._indexed_id = id
            self._forget_indexed()

    def note_request(self, key: RequestKey, id: int, digest: int) -> None:
        """Take note of a message that another node has stored, and that is not indexed yet."""
        self._unindexed[key] = id, digest

    def on_failure(self) -> None:
        """A transaction has failed: only the database knows what is indexed."""
        self._indexed_id = None
        self.due_at = self._clock() + RETRY_DELAY

    def run_due(self, dao: Dao) -> None:
        """Index the next messages, if they are due."""
        if self._clock() >= self.due_at:
            self._index_batch(dao)

    def remove_delivered(self, dao: Dao, delivered: Iterable[tuple[str, int]], alone: bool = False) -> None:
        """For each (receiver, id): empty the inbox up to that id, or take out that id `alone`.

        Without history, also drop the messages that are in no inbox any more.
        """
        if self.has_others and not self._keeps_history:
            self.due_at = self._clock()  # some of theirs may not be indexed yet
        while not self._keeps_history and self.due_at != math.inf:
            self._index_batch(dao)  # the idempotency keys of dropped messages must stay
        dao.remove_delivered(delivered, self._keeps_history, alone)

    def _load(self, dao: Dao) -> int:
        if self._indexed_id is None:
            self._indexed_id = dao.indexed_id()
            self._unindexed = OrderedDict(
                ((sender, request_id), (id, digest))
                for id, sender, request_id, digest in dao.unindexed_requests(self._indexed_id)
            )
        return self._indexed_id

    def _forget_indexed(self) -> None:
        assert self._indexed_id is not None
        while self._unindexed and next(iter(self._unindexed.values()))[0] <= self._indexed_id:
            self._unindexed.popitem(last=False)

    def _index_batch(self, dao: Dao) -> None:
        limit = max(INDEX_BATCH, self._unindexed_count // 4)
        before = self._load(dao)
        last, count = dao.index_messages(before, limit, self._keeps_history)
        self._unindexed_count -= count
        if last is not None and self._keeps_history:
            conversations_dao.add_conversations(dao, before, last)
        if last is not None:
            self._indexed_id = last
            self._forget_indexed()
        if count < limit:
            self._unindexed_count, self.due_at = 0, math.inf
