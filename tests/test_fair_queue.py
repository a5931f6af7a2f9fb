"""Who is next at the store: jobs that fit are taken at once; else users take turns, and a job is
cut into parts.
"""

import itertools
from typing import Any

import pytest
from harness import NullTransport

from jelly import fair_queue
from jelly.codec import Type
from jelly.fair_queue import BATCH_BYTES, BATCH_ROWS, KNOWN_USERS, SHARES, WRITE_ROWS, Entry, FairQueue, Job
from jelly.groups import Group
from jelly.outcomes import Answer, NewMessage, Write
from jelly.sessions import Session

LARGEST = Group(tuple(f"member{number}" for number in range(BATCH_ROWS)))
NUMBERS = itertools.count(1)


def message(group: Group | None = None, size: int = 1) -> NewMessage:
    """A message to a person, or to a group; its time is a number of its own."""
    type = Type.PERSON_MESSAGE if group is None else Type.GROUP_MESSAGE
    return NewMessage(type, "alice", "bob", "x" * size, next(NUMBERS), None, group)


class World:
    """A queue, and what was taken of it."""

    def __init__(self) -> None:
        self.queue = FairQueue()
        self.done: list[str] = []
        self.sessions: dict[str, Session] = {}

    def session(self, name: str) -> Session:
        session = self.sessions[name] = Session(NullTransport(), "")
        session.user = name
        return session

    def add(self, name: str, *entries: Entry, session: Session | None = None) -> Job:
        session = session or self.sessions.get(name) or self.session(name)
        size = sum(len(entry.content) for entry in entries if isinstance(entry, NewMessage))
        is_write = isinstance(entries[0], Write)
        times = [float(getattr(entry, "time", 0)) for entry in entries]
        job = Job(session, list(entries), times, size, lambda: self.done.append(name), is_write)
        self.queue.add([job])
        return job

    def take(self) -> list[tuple[str | None, int]]:
        """The users of the next turn, and how many entries of each."""
        jobs = self.queue.take()
        assert len({id(job.session) for job in jobs}) == len(jobs), "the answers of a session are sent together"
        for job in jobs:
            assert [getattr(entry, "time", 0) for entry in job.entries] == job.received_at
            job.done()
        return [(job.session.user, len(job.entries)) for job in jobs]


@pytest.fixture
def world() -> World:
    return World()


def test_what_fits_is_taken_at_once(world: World) -> None:
    """In the order in which it came, and as it came."""
    jobs = [world.add(name, message(), message()) for name in ("alice", "bob", "carol")]
    assert world.queue
    assert world.queue.take() == jobs
    assert not world.queue
    assert world.queue.take() == []


def test_a_job_is_cut(world: World) -> None:
    """Messages to the largest group are a transaction each; the job is done after the last."""
    entries = [message(LARGEST) for _ in range(5)]
    world.add("alice", *entries)
    taken: list[Entry] = []
    for number in range(5):
        assert world.done == []
        [part] = world.queue.take()
        taken += part.entries
        part.done()
        assert bool(world.queue) == (number < 4)
    assert taken == entries
    assert world.done == ["alice"]


def test_a_user_with_little_waits_for_one_message(world: World) -> None:
    """However many messages others have under way."""
    for name in ("alice", "bob", "carol"):
        world.add(name, *[message(LARGEST) for _ in range(64)])
    world.take()
    for number in range(20):
        world.add("dave", message())
        turns = [world.take(), world.take()]
        assert ("dave", 1) in itertools.chain(*turns), number


def test_users_with_much_share(world: World) -> None:
    """Each gets as many rows as the others, whatever the size of its messages."""
    small = Group(LARGEST.members[: BATCH_ROWS // 10])
    world.add("alice", *[message(LARGEST) for _ in range(64)])
    world.add("bob", *[message(small) for _ in range(640)])
    rows = {"alice": 0, "bob": 0}
    for _ in range(40):
        turn = world.take()
        for name, count in turn:
            rows[str(name)] += count * (BATCH_ROWS if name == "alice" else BATCH_ROWS // 10)
    assert 40 * BATCH_ROWS * 0.9 <= sum(rows.values()) <= 40 * BATCH_ROWS
    assert abs(rows["alice"] - rows["bob"]) <= 2 * BATCH_ROWS


def test_who_comes_back_at_once_gains_nothing(world: World) -> None:
    """A user who has one message at a time under way has no more than one with many."""
    world.add("alice", *[message(LARGEST) for _ in range(64)])
    world.add("bob", message(LARGEST))
    taken: list[str | None] = []
    for _ in range(20):
        [(name, _)] = world.take()
        taken.append(name)
        if name == "bob":
            world.add("bob", message(LARGEST))
    assert taken.count("bob") == 10


def test_shares_of_a_transaction(world: World) -> None:
    """Those with much fill it together, and each has its answers in one piece."""
    for name in ("alice", "bob"):
        world.add(name, *[message() for _ in range(BATCH_ROWS)])
    share = BATCH_ROWS // SHARES
    assert world.take() == [("alice", 2 * share), ("bob", 2 * share)]
    assert world.take() == [("alice", 2 * share), ("bob", 2 * share)]
    assert world.done == ["alice", "bob"]


def test_two_sessions_of_a_user(world: World) -> None:
    """What the old one has under way is written before what the new one sends. The login in between
    waits for neither.
    """
    first = world.session("alice")
    world.add("alice", *[message(LARGEST) for _ in range(3)], session=first)
    assert world.take() == [("alice", 1)]
    newcomer = Session(NullTransport(), "")
    world.add("login", Write(Type.LOGIN, lambda _: None, lambda _: Answer(None)), session=newcomer)
    assert world.take() == [(None, 1)]
    newcomer.user = "alice"
    last = world.add("alice", message(), session=newcomer)
    assert [world.queue.take()[0].session for _ in range(2)] == [first, first]
    assert world.queue.take() == [last]


def test_a_session_that_was_taken_over(world: World) -> None:
    """Its messages that wait are dropped without an answer, its other requests are carried out."""
    job = world.add("alice", *[message(LARGEST) for _ in range(3)])
    world.take()
    job.session.closing = True
    [rest] = world.queue.take()
    assert rest.entries == [Answer(None), Answer(None)]
    rest.done()
    assert world.done == ["alice"]
    world.add("bob", *[message(LARGEST) for _ in range(3)])
    write = Write(Type.LOGOUT, lambda _: None, lambda _: Answer(None))
    world.add("alice", write, session=job.session)
    assert world.queue.take()[0].entries == [write]


def test_a_session_that_ends_before_its_messages_are_taken(world: World) -> None:
    """They are dropped, too, when all that waits fits into one transaction."""
    job = world.add("alice", message(), Answer(b"answer"), message())
    other = world.add("bob", message())
    job.session.closing = True
    assert world.queue.take() == [job, other]
    assert job.entries == [Answer(None)] * 3
    assert isinstance(other.entries[0], NewMessage)


def test_writes_keep_their_order(world: World) -> None:
    """Many at once take several transactions, and none overtakes another."""
    count = 3 * BATCH_ROWS // WRITE_ROWS
    names = [f"user{number}" for number in range(count)]
    for name in names:
        world.add(name, Write(Type.ADD_FRIEND, lambda _: None, lambda _: Answer(None)))
    turns = [world.take(), world.take(), world.take()]
    assert [name for turn in turns for name, _ in turn] == names
    assert {len(turn) for turn in turns} == {BATCH_ROWS // WRITE_ROWS}


def test_large_messages(world: World) -> None:
    """A transaction has so many bytes; one message is always taken, however large."""
    world.add("alice", *[message(size=BATCH_BYTES // 10) for _ in range(30)])
    world.add("bob", message(size=2 * BATCH_BYTES), message())
    sizes: list[int] = []
    while world.queue:
        entries: Any = [entry for job in world.queue.take() for entry in job.entries]
        sizes.append(sum(len(entry.content) for entry in entries))
    assert sum(sizes) == 30 * (BATCH_BYTES // 10) + 2 * BATCH_BYTES + 1
    assert max(sizes) <= 2 * BATCH_BYTES + 1
    assert sorted(sizes)[-2] <= BATCH_BYTES


def test_a_hurry(world: World) -> None:
    """When the server stops, a transaction writes more."""
    world.add("alice", *[message(LARGEST) for _ in range(20)])
    world.queue.is_in_hurry = True
    assert world.take() == [("alice", fair_queue.HURRY)]


def test_everything_is_taken(world: World) -> None:
    """By `clear`: also what a part was taken of."""
    alice = world.add("alice", *[message(LARGEST) for _ in range(3)])
    world.take()
    bob = world.add("bob", message())
    assert list(world.queue) == world.queue.clear() == [alice, bob]
    assert len(alice.entries) == 2
    assert not world.queue
    assert not world.queue._users


def test_who_is_remembered(world: World) -> None:
    """While much waits, those who have had more than others; nobody after that."""
    world.add("alice", *[message(LARGEST) for _ in range(50)])
    for number in range(3 * KNOWN_USERS):
        world.add(f"user{number}", message())
    world.take()
    assert len(world.queue._users) > KNOWN_USERS
    for _ in range(20):
        world.take()
    assert len(world.queue._users) <= KNOWN_USERS + 1
    while world.queue:
        world.take()
    assert not world.queue._users


def test_the_rest_is_set_aside(world: World) -> None:
    """It does not come next while it is not known what became of the first part."""
    job = world.add("alice", *[message(LARGEST) for _ in range(3)])
    [part] = world.queue.take()
    last = world.add("bob", message())
    assert world.queue.set_aside_rest(part) is job
    assert world.queue.set_aside_rest(part) is None
    assert world.queue.take() == [last]
    assert not world.queue
    world.queue.add([job])
    assert world.take() == [("alice", 1)]
