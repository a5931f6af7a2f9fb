"""What is done with messages later: they are indexed in bulk, and dropped when nobody may want them any more."""

import itertools

import pytest
from clock import Clock
from harness import StartServer
from wire import HISTORY, SUCCESS, logged_in, register, wait_until

from jelly import indexing
from jelly.dao import Dao, StoredMessage
from jelly.indexing import DAY, IDEMPOTENCY_DAYS, INDEX_BATCH, INDEX_DELAY, SWEEP_BATCH, DeferredIndexing


class World:
    """Deferred indexing with clocks that stand still until a test moves them, both at once."""

    def __init__(self, dao: Dao, days: float) -> None:
        self.dao = dao
        self.clock = Clock()
        self.indexing = DeferredIndexing(days, self.clock, self.clock)

    def store(self, count: int, receivers: tuple[str, ...] = ()) -> list[int]:
        """Messages from ann to bob, each with a requestId; their ids."""
        messages = [
            StoredMessage(id, False, "ann", "bob", "x", 1, f"r{id}", id)
            for id in (self.dao.allocate_id() for _ in range(count))
        ]
        with self.dao.connection.transaction():
            self.dao.add_messages(messages, [(name, message.id) for name in receivers for message in messages])
        self.indexing.noted(messages)
        return [message.id for message in messages]

    def turn(self) -> None:
        """What the store thread does in each transaction."""
        with self.dao.connection.transaction():
            self.indexing.work(self.dao)

    def settle(self) -> int:
        """Do all that is due now and soon after; how many turns it took."""
        turns = 0
        end = self.clock.now + INDEX_DELAY + 1
        while self.indexing.due_at <= end:
            self.clock.now = max(self.clock.now, self.indexing.due_at)
            self.turn()
            turns += 1
            assert turns < 1000
        return turns

    def count(self, table: str) -> int:
        return int(self.dao.connection.query(f"SELECT COUNT(*) FROM {table}")[0][0])

    def counts(self) -> tuple[int, int, int]:
        return self.count("messages"), self.count("history"), self.count("requests")


@pytest.fixture
def world(dao: Dao) -> World:
    """One that keeps messages for 30 days, with its first sweep behind it."""
    world = World(dao, 30)
    world.settle()
    return world


def test_messages_are_filed_together_a_second_later(world: World) -> None:
    """Not with each commit; and what waits is known all the same."""
    ids = world.store(3)
    world.clock.now += INDEX_DELAY / 2
    world.turn()
    assert world.counts() == (3, 0, 0)
    assert world.indexing.digests(world.dao, [("ann", f"r{ids[0]}"), ("ann", "other")]) == {
        ("ann", f"r{ids[0]}"): ids[0]
    }
    assert world.indexing.due_at == world.clock.now + INDEX_DELAY / 2
    world.clock.now += INDEX_DELAY / 2
    world.turn()
    assert world.counts() == (3, 3, 3)
    assert world.dao.indexed_id() == ids[-1]
    assert world.indexing._unindexed == {}
    assert world.indexing.digests(world.dao, [("ann", f"r{ids[0]}"), ("bob", f"r{ids[0]}")]) == {
        ("ann", f"r{ids[0]}"): ids[0]
    }


def test_many_messages_are_filed_at_once_in_slices(world: World) -> None:
    """When there are enough of them nobody waits for a second, and none of them is left behind."""
    world.store(2 * INDEX_BATCH + 1)
    for indexed in (INDEX_BATCH, 2 * INDEX_BATCH, 2 * INDEX_BATCH + 1):
        assert world.indexing.due_at <= world.clock.now
        world.turn()
        assert world.counts() == (2 * INDEX_BATCH + 1, indexed, indexed)
    assert world.indexing.due_at > world.clock.now


def test_after_a_crash_the_rest_is_filed_first(world: World) -> None:
    """A new process knows what its predecessor had stored and not indexed."""
    ids = world.store(3)
    successor = World(world.dao, 30)
    assert successor.indexing.digests(world.dao, [("ann", f"r{ids[2]}")]) == {("ann", f"r{ids[2]}"): ids[2]}
    assert successor.indexing.due_at <= successor.clock.now
    successor.turn()
    assert successor.counts() == (3, 3, 3)


def test_a_transaction_that_failed_after_filing(world: World) -> None:
    """What was indexed in it is indexed again, once."""
    world.store(3)
    world.clock.now += INDEX_DELAY

    def fail() -> None:
        with world.dao.connection.transaction():
            world.indexing.work(world.dao)
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    world.indexing.forget()
    assert world.counts() == (3, 0, 0)
    assert world.indexing.due_at > world.clock.now  # not in a loop without a pause
    world.settle()
    assert world.counts() == (3, 3, 3)


def test_old_messages_go(world: World) -> None:
    """After 30 days a message goes, at the latest an hour later; requestIds after a week. What waits stays."""
    world.store(3)
    waiting = world.store(2, receivers=("bob",))
    world.settle()
    days = {0: world.counts()}
    start = world.clock.now
    for day in range(1, 40):
        is_near_an_end = abs(day - IDEMPOTENCY_DAYS) <= 1 or abs(day - 30) <= 1
        for hour in range(1, 25) if is_near_an_end else (24,):
            world.clock.now = start + (day - 1) * DAY + hour * 3600
            world.settle()
        days[day] = world.counts()
    assert days[0] == (5, 5, 5)
    assert days[int(IDEMPOTENCY_DAYS) - 1] == (5, 5, 5)
    assert days[int(IDEMPOTENCY_DAYS) + 1] == (5, 5, 0)
    assert days[29] == (5, 5, 0)
    assert days[31] == (2, 0, 0)
    assert [message.id for message in world.dao.waiting("bob", 0, 10)] == waiting
    world.dao.remove_delivered([("bob", waiting[-1])], keep=True)
    world.clock.now += DAY
    world.settle()
    assert world.counts() == (0, 0, 0)
    assert world.count("calendar") == 1


def test_young_messages_stay_while_old_ones_go(world: World) -> None:
    """Each goes in its own time, though ids are all there is to tell their age."""
    for _ in range(40):
        world.store(10)
        world.settle()
        world.clock.now += DAY
        world.settle()
    messages, history, requests = world.counts()
    assert 300 <= messages <= 310
    assert history == messages
    assert 70 <= requests <= 80
    assert world.count("calendar") <= 40


def test_a_sweep_goes_in_slices(world: World) -> None:
    """However much is old, no turn deletes more than a few hundred."""
    world.store(5 * SWEEP_BATCH)
    world.settle()
    world.clock.now += 31 * DAY
    world.turn()  # the first sweep after such a long time learns how old the ids are
    world.settle()
    world.clock.now += 29 * DAY
    world.settle()
    before = world.count("messages")
    assert before == 5 * SWEEP_BATCH
    while before:
        world.clock.now = world.indexing.due_at
        world.turn()
        after = world.count("messages")
        assert before - after <= SWEEP_BATCH
        before = after


def test_without_history(dao: Dao) -> None:
    """A message goes when the last one has it; its requestId stays for a week."""
    world = World(dao, 0)
    world.settle()
    [id] = world.store(1, receivers=("bob", "cid"))
    for user, left in (("bob", 1), ("cid", 0)):
        with dao.connection.transaction():
            world.indexing.remove_delivered(dao, [(user, id)])
        assert world.counts() == (left, 0, 1)
    world.store(1)  # to nobody: a group of one
    world.clock.now += DAY
    world.settle()
    assert world.counts() == (0, 0, 2)
    assert world.indexing.digests(dao, [("ann", f"r{id}")]) == {("ann", f"r{id}"): id}
    world.clock.now += (IDEMPOTENCY_DAYS + 1) * DAY
    world.settle()
    world.clock.now += DAY
    world.settle()
    assert world.counts() == (0, 0, 0)


def test_a_clock_that_goes_back(world: World) -> None:
    """Nothing young is dropped for it, and what is old goes when its time has come."""
    world.store(3)
    world.settle()
    world.indexing._wall = lambda: 0.0
    world.clock.now += 3600
    world.settle()
    assert world.counts() == (3, 3, 3)


def test_a_server_that_sweeps(start_server: StartServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """--history-days is kept by the running server: what is older goes, also while nothing else happens."""
    monkeypatch.setattr(indexing, "INDEX_DELAY", 0.0)
    server = start_server(classic_gap=0, history_days=1 / DAY)
    register(server.port, "alice", "bob")
    with (
        logged_in(server.port, "alice", features=["ack"]) as alice,
        logged_in(server.port, "bob", features=["ack"]) as bob,
    ):
        for number in range(10):
            alice.send_message("bob", str(number))
        assert {alice.receive().status for _ in range(10)} == {SUCCESS}
        ids = [bob.receive_notice().values["id"] for _ in range(10)]
        assert alice.ok(HISTORY, person="bob")["messages"]
        bob.ack(ids[-1])
        with server._reading() as dao:
            wait_until(lambda: dao.connection.query("SELECT COUNT(*) FROM messages") == [(0,)])
        assert alice.ok(HISTORY, person="bob") == {"username": "alice", "messages": [], "more": False}


def test_a_start_with_a_clock_that_is_behind(world: World) -> None:
    """A machine that starts in 1970 and is told the time later keeps what it stored before."""
    world.clock.now += 50 * DAY
    world.settle()
    world.store(3)
    world.settle()
    stored = world.counts()
    restarted = DeferredIndexing(30, world.clock, lambda: 0.0)
    world.indexing = restarted
    world.settle()
    restarted._wall = world.clock
    world.clock.now += 3600
    world.settle()
    assert world.counts() == stored


def test_expired_tokens_go(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of users who never come back, too: in slices, and none that is still good."""
    monkeypatch.setattr(indexing, "SWEEP_BATCH", 3)
    now = int(world.clock.now * 1000)
    for number in range(20):
        expires = now + (1 if number % 4 else 10**9)
        world.dao.add_token(f"{number:064}", f"user{number}", expires, now, keep=32)
    world.clock.now += indexing.SWEEP_INTERVAL
    left = [world.count("tokens")]
    while world.indexing.due_at <= world.clock.now + 1:
        world.clock.now = max(world.clock.now, world.indexing.due_at)
        world.turn()
        left.append(world.count("tokens"))
    assert left[-1] == 5
    assert max(before - after for before, after in itertools.pairwise(left)) <= 3
    assert world.dao.token_owner(f"{4:064}", int(world.clock.now * 1000)) == "user4"
