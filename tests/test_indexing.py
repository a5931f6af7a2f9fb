"""Deferred indexing: messages can be found at once, and are indexed in bulk a second later."""

import pytest
from upkeep import Upkeep

from jelly.dao import Dao
from jelly.indexing import INDEX_BATCH, INDEX_DELAY
from jelly.retention import DAY, IDEMPOTENCY_DAYS


@pytest.fixture
def upkeep(dao: Dao) -> Upkeep:
    """One that keeps messages for 30 days, with its first sweep behind it."""
    upkeep = Upkeep(dao, 30)
    upkeep.run_all()
    return upkeep


def test_messages_are_indexed_together_a_second_later(upkeep: Upkeep) -> None:
    """Not with each commit; and messages that wait are known, too."""
    ids = upkeep.store(3)
    upkeep.clock.now += INDEX_DELAY / 2
    upkeep.run_due()
    assert upkeep.counts() == (3, 0, 0)
    assert upkeep.indexing.stored_requests(upkeep.dao, [("ann", f"r{ids[0]}"), ("ann", "other")]) == {
        ("ann", f"r{ids[0]}"): (ids[0], ids[0])
    }
    assert upkeep.indexing.due_at == upkeep.clock.now + INDEX_DELAY / 2
    upkeep.clock.now += INDEX_DELAY / 2
    upkeep.run_due()
    assert upkeep.counts() == (3, 3, 3)
    assert upkeep.dao.indexed_id() == ids[-1]
    assert upkeep.indexing._unindexed == {}
    assert upkeep.indexing.stored_requests(upkeep.dao, [("ann", f"r{ids[0]}"), ("bob", f"r{ids[0]}")]) == {
        ("ann", f"r{ids[0]}"): (ids[0], ids[0])
    }


def test_many_messages_are_indexed_at_once_in_slices(upkeep: Upkeep) -> None:
    """When there are enough of them, they are indexed without delay, and none is left behind."""
    upkeep.store(2 * INDEX_BATCH + 1)
    for indexed in (INDEX_BATCH, 2 * INDEX_BATCH, 2 * INDEX_BATCH + 1):
        assert upkeep.indexing.due_at <= upkeep.clock.now
        upkeep.run_due()
        assert upkeep.counts() == (2 * INDEX_BATCH + 1, indexed, indexed)
    assert upkeep.indexing.due_at > upkeep.clock.now


def test_after_a_crash_the_rest_is_indexed_first(upkeep: Upkeep) -> None:
    """A new process knows what its predecessor had stored and not indexed."""
    ids = upkeep.store(3)
    successor = Upkeep(upkeep.dao, 30)
    assert successor.indexing.stored_requests(upkeep.dao, [("ann", f"r{ids[2]}")]) == {
        ("ann", f"r{ids[2]}"): (ids[2], ids[2])
    }
    assert successor.indexing.due_at <= successor.clock.now
    successor.run_due()
    assert successor.counts() == (3, 3, 3)


def test_a_transaction_that_failed_after_indexing(upkeep: Upkeep) -> None:
    """What was indexed in it is indexed again, once."""
    upkeep.store(3)
    upkeep.clock.now += INDEX_DELAY

    def fail() -> None:
        with upkeep.dao.connection.transaction():
            upkeep.indexing.run_due(upkeep.dao)
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    upkeep.indexing.on_failure()
    assert upkeep.counts() == (3, 0, 0)
    assert upkeep.indexing.due_at > upkeep.clock.now  # not in a loop without a pause
    upkeep.run_all()
    assert upkeep.counts() == (3, 3, 3)


def test_without_history(dao: Dao) -> None:
    """A message goes when the last receiver has it; its requestId stays for a week."""
    upkeep = Upkeep(dao, 0)
    upkeep.run_all()
    [id] = upkeep.store(1, receivers=("bob", "cid"))
    for user, left in (("bob", 1), ("cid", 0)):
        with dao.connection.transaction():
            upkeep.indexing.remove_delivered(dao, [(user, id)])
        assert upkeep.counts() == (left, 0, 1)
    upkeep.store(1)  # to nobody: a group of one
    upkeep.clock.now += DAY
    upkeep.run_all()
    assert upkeep.counts() == (0, 0, 2)
    assert upkeep.indexing.stored_requests(dao, [("ann", f"r{id}")]) == {("ann", f"r{id}"): (id, id)}
    upkeep.clock.now += (IDEMPOTENCY_DAYS + 1) * DAY
    upkeep.run_all()
    upkeep.clock.now += DAY
    upkeep.run_all()
    assert upkeep.counts() == (0, 0, 0)
