"""A commit in doubt: the connection to the database broke while it was committing.

Nobody can say whether the commit happened until the database answers again. Then the mark
(`Dao.move_mark`) tells. It is looked at in a transaction that writes, too. That has two reasons:
the old transaction may still hold the row of the mark, and then the look waits for its end. And
what can be read need not be on the disk; but when the later transaction is synced, so is everything
before it.

Until then nothing else is written, and no page is read. So what the commit has changed becomes
known in the same order as always: after it is certain, and before anything later.
"""

from collections.abc import Callable
from enum import Enum

from jelly.dao import Dao


class Found(Enum):
    """What a look at the mark tells."""

    COMMITTED = "the transaction in doubt was committed, and is on the disk"
    UNSYNCED = "it was committed, but after an error of the disk nobody knows where it is"
    NOT_COMMITTED = "it was not committed, and never will be"
    WENT_BACK = "the database holds neither it nor what was before it"


class Doubt:
    """What is known of a commit in doubt, or of a database that has gone back.

    It belongs to the thread that has the store's turn.
    """

    def __init__(self, dao: Dao, lost_syncs: int, clock: Callable[[], float]) -> None:
        """The last transaction over `dao` is the one in doubt."""
        self._is_committed = {dao.mark: False, dao.new_mark: True}
        self._lost_syncs = lost_syncs
        self._clock = clock
        self.look_at = clock()
        """When to look next, by the clock."""
        self.is_lost = False
        """Whether the transaction is known not to be committed, although no look has succeeded."""

    def look(self, dao: Dao) -> Found:
        """See whether the transaction was committed. Raises StoreError if the database fails."""
        with dao.connection.transaction():
            dao.mark = dao.read_mark()
            is_committed = self._is_committed.get(dao.mark)
            dao.move_mark(0)
            self.is_lost = is_committed is False  # the old transaction has ended, or this would still wait for it
            if is_committed is not None:  # this look may be in doubt, too: then the next one finds its mark
                self._is_committed[dao.new_mark] = is_committed
        dao.mark = dao.new_mark
        if is_committed is None:
            return Found.WENT_BACK
        if not is_committed:
            return Found.NOT_COMMITTED
        return Found.COMMITTED if dao.connection.lost_syncs == self._lost_syncs else Found.UNSYNCED
