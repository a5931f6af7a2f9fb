"""What is done with stored messages later, and for many at a time: they are indexed, and dropped when they are old.

To store a message is to append a row, which is the least that a commit can cost. To find it again by its conversation
(history) or by its requestId (is this a repeat?) needs indexes, and to keep these with each commit would double what it
costs, because every conversation has its own place in them. So the rows are indexed a second later, many together.
Until then the few that are not indexed are found by looking at all of them.

It also drops what is too old, expired tokens too, in slices, so that no message waits for it. Everything here is
called by the store thread, inside its transaction, but for `noted`, `forget` and `due_at`.
"""

import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence

from jelly.dao import Dao, StoredMessage

INDEX_DELAY = 1.0
"""Seconds for which a message may wait to be indexed."""
INDEX_BATCH = 500
"""So many messages are indexed at a time (or a quarter of those that wait, if these are very many); when so many wait,
without delay. It takes 3 ms, for which everybody waits; 2000 would take 9."""
IDEMPOTENCY_DAYS = 7.0
"""For so long a requestId is remembered: as long as a token lasts, with which a client comes back to repeat it."""
SWEEP_INTERVAL = 3600.0
"""Seconds between looking for what is too old."""
SWEEP_BATCH, SWEEP_PAUSE = 500, 0.02
"""So many messages, and so many tokens, are looked at a time, with so many seconds in between."""
RETRY_DELAY = 1.0
DAY = 86400.0

RequestKey = tuple[str, str]
"""Who sent a message, and its requestId."""


class DeferredIndexing:
    """Knows what is indexed, what is not, and what is to be done next."""

    def __init__(
        self, history_days: float, clock: Callable[[], float] = time.monotonic, wall: Callable[[], float] = time.time
    ) -> None:
        """`history_days`: for how long messages can be read back; 0 drops each as soon as it is delivered."""
        self._days = history_days
        self._clock, self._wall = clock, wall
        self._interval = min(SWEEP_INTERVAL, max(1.0, history_days * DAY / 24)) if history_days else SWEEP_INTERVAL
        self._indexed: int | None = None  # the last message that is indexed; None: look it up
        self._unindexed: OrderedDict[RequestKey, tuple[int, int]] = OrderedDict()  # id and digest, oldest first
        self._count = 0  # how many messages wait to be indexed, with or without a requestId
        self._index_at: float | None = clock()
        self._sweep_at = clock()
        self._swept: int | None = None  # while a sweep is under way: how far it has come, and where each part ends
        self._history_end = self._request_end = 0
        self._swept_token = ""  # and how far it has come in the tokens, by their hashes

    @property
    def keeps_history(self) -> bool:
        """Whether a message stays when it was delivered to all."""
        return self._days > 0

    @property
    def due_at(self) -> float:
        """The moment of the next work, by the clock."""
        return self._sweep_at if self._index_at is None else min(self._index_at, self._sweep_at)

    def digests(self, dao: Dao, wanted: Iterable[RequestKey]) -> dict[RequestKey, int]:
        """Those of some requests that are stored already, each with the digest of its message."""
        self._look_up(dao)
        keys = set(wanted)
        found = {key: self._unindexed[key][1] for key in keys if key in self._unindexed}
        return {**dao.indexed_requests(keys - found.keys()), **found}

    def noted(self, messages: Sequence[StoredMessage]) -> None:
        """Messages were committed."""
        self._count += len(messages)
        for message in messages:
            if message.request_id is not None and message.digest is not None:
                self._unindexed[message.sender, message.request_id] = message.id, message.digest
        if self._count >= INDEX_BATCH:
            self._index_at = self._clock()
        elif messages and self._index_at is None:
            self._index_at = self._clock() + INDEX_DELAY

    def forget(self) -> None:
        """A transaction has failed: only the database knows what is indexed."""
        self._indexed = self._swept = None
        self._index_at = self._sweep_at = self._clock() + RETRY_DELAY

    def work(self, dao: Dao) -> None:
        """Do what is due."""
        now = self._clock()
        if self._index_at is not None and now >= self._index_at:
            self._index_batch(dao)
        if now >= self._sweep_at:
            self._sweep(dao)

    def remove_delivered(self, dao: Dao, delivered: Iterable[tuple[str, int]]) -> None:
        """For each (receiver, id): empty the inbox up to that id. Without history the messages go, too."""
        while not self.keeps_history and self._index_at is not None:
            self._index_batch(dao)  # once they are gone it would be too late
        dao.remove_delivered(delivered, keep=self.keeps_history)

    def _look_up(self, dao: Dao) -> int:
        if self._indexed is None:
            self._indexed = dao.indexed_id()
            self._unindexed = OrderedDict(
                ((sender, request_id), (id, digest))
                for id, sender, request_id, digest in dao.unindexed_requests(self._indexed)
            )
        return self._indexed

    def _index_batch(self, dao: Dao) -> None:
        limit = max(INDEX_BATCH, self._count // 4)
        last, count = dao.index_messages(self._look_up(dao), limit, self.keeps_history)
        self._count -= count
        if last is not None:
            self._indexed = last
            while self._unindexed and next(iter(self._unindexed.values()))[0] <= last:
                self._unindexed.popitem(last=False)
        if count < limit:
            self._count, self._index_at = 0, None

    def _sweep(self, dao: Dao) -> None:
        """Drop the next few messages, requestIds and tokens that are too old."""
        if self._swept is None:
            now = int(self._wall() * 1000)
            dao.record_time(now)
            self._swept, self._swept_token = 0, ""
            self._request_end = dao.id_at(now - int(IDEMPOTENCY_DAYS * DAY * 1000))
            self._history_end = self._look_up(dao) + 1  # what is not indexed stays
            if self.keeps_history:
                old = dao.id_at(now - int(self._days * DAY * 1000))
                self._history_end = min(old, self._history_end)
        message = dao.remove_old_messages(self._swept, self._history_end, SWEEP_BATCH)
        has_requests = dao.remove_old_requests(self._request_end, SWEEP_BATCH)
        token = dao.remove_old_tokens(self._swept_token, int(self._wall() * 1000), SWEEP_BATCH)
        if message is not None or has_requests or token is not None:
            self._swept = self._swept if message is None else message
            self._swept_token = token or self._swept_token
            self._sweep_at = self._clock() + SWEEP_PAUSE
        else:
            dao.remove_times(min(self._request_end, self._history_end))
            self._swept = None
            self._sweep_at = self._clock() + self._interval
