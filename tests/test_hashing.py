"""The queue in front of the hashers: who is served next, with the clock in the test's hand."""

import queue
import threading
from typing import Any

import pytest
from clock import Clock
from harness import NullTransport

from jelly.hashing import LEAVING_TIMEOUT, PURGE_INTERVAL, HashQueue, Work
from jelly.login_guard import LoginGuard
from jelly.outcomes import Place
from jelly.sessions import Session

HOLD = 24.0


class Client(NullTransport):
    """A client that leaves when a test says so."""

    has_closed_half = False

    def is_half_closed(self) -> bool:
        return self.has_closed_half

    def close(self) -> None:
        self.is_closed = True


class World:
    """A queue, and what happens to the tasks in it."""

    def __init__(self, maxsize: int = 1000) -> None:
        self.names: dict[Work, str] = {}
        self.clock = Clock()
        self.guard = LoginGuard(self.clock)
        self.queue = HashQueue(maxsize, HOLD, self.clock)
        self.ended: list[str] = []
        """What was not run: its name, and why not."""

    def put(
        self,
        name: str,
        network: str = "a",
        place: Place = Place.LOGIN,
        account: str | None = None,
        is_known: bool = False,
        user: str | None = None,
    ) -> Work:
        session = Session(Client(), network)
        session.user = user
        attempt = self.guard.attempt(account, network, is_known, exists=True) if account else None

        def end(why: str) -> Any:
            return lambda: self.ended.append(f"{name} {why}")

        work = Work(session, network, place, attempt, end("run"), end("refused"), end("given up"), end("dropped"))
        self.names[work] = name
        for call in self.queue.put(work):
            call()
        return work

    def next(self) -> str:
        """The name of the task that a hasher gets next; empty if there is none to run now."""
        if not len(self.queue):
            return ""
        work, calls = self.queue.get()
        for call in calls:
            call()
        return self.names[work] if work else ""

    def fail(self, name: str) -> None:
        """Run the task that must be next, which fails."""
        work, _ = self.queue.get()
        assert work is not None
        assert self.names[work] == name
        assert work.attempt is not None
        work.attempt.fail()
        work.attempt.end()
        self.queue.look_again(work.attempt.key)

    def rest(self) -> list[str]:
        """What is run next, until nothing is left."""
        names = []
        while len(self.queue):
            names.append(self.next())
        return names


@pytest.fixture
def world() -> World:
    return World()


def leave(work: Work) -> None:
    work.session.transport.close()


def close_half(work: Work) -> None:
    work.session.transport.has_closed_half = True  # type: ignore[attr-defined]


def test_networks_take_turns(world: World) -> None:
    """However much one network asks for, another one waits for one task of it."""
    for number in range(5):
        world.put(f"a{number}", "a")
    world.put("b0", "b")
    world.put("c0", "c")
    assert world.rest() == ["a0", "b0", "c0", "a1", "a2", "a3", "a4"]


def test_places(world: World) -> None:
    """Known addresses first, then other logins, then registrations; but none waits for ever."""
    for number in range(9):
        world.put(f"r{number}", "a", Place.REGISTRATION)
        world.put(f"l{number}", "b", Place.LOGIN)
        world.put(f"k{number}", "c", Place.KNOWN)
    order = "".join(name[0] for name in world.rest())
    assert order[:16] == "klkkklkrklkkkkkrk"[:16] or order[:8].count("k") >= 5
    assert order[:8].count("r") == order[8:16].count("r") == 1
    assert order[:8].count("l") == 2
    assert order[-7:] == "r" * 7


def test_first_attempts_go_before_repeats(world: World) -> None:
    """Those who guess again and again wait for a person behind the same address, not the other way
    round; and repeats have some turns, too.
    """
    for number in range(8):
        world.put(f"guess{number}", account=f"x{number}")
    for number in range(8):
        world.fail(f"guess{number}")
    for number in range(8):
        world.put(f"again{number}", account=f"y{number}")
    for number in range(6):
        world.put(f"first{number}", account=f"z{number}")
    order = world.rest()
    assert order[0] == "first0"
    assert order.index("again0") < 5
    assert order.index("first5") < 9
    assert [name for name in order if "first" in name] == [f"first{number}" for number in range(6)]


def test_a_client_that_has_left_is_not_served(world: World) -> None:
    """Wherever its task waits."""
    left, stays, held = world.put("left"), world.put("stays"), world.put("known", place=Place.KNOWN)
    leave(left)
    leave(held)
    assert world.next() == "stays"
    assert sorted(world.ended) == ["known dropped", "left dropped"]
    assert not len(world.queue)
    del stays


def test_a_client_that_has_closed_its_half(world: World) -> None:
    """It may still wait for its answer: it is served if nobody else waits, and for five seconds."""
    close_half(world.put("half"))
    close_half(world.put("other half"))
    world.put("whole", "b")
    world.put("registration", "b", Place.REGISTRATION)
    assert [world.next() for _ in range(3)] == ["whole", "registration", "half"]
    world.clock.now += LEAVING_TIMEOUT
    world.put("late")
    assert world.next() == "late"
    assert world.ended == ["other half dropped"]


def test_a_full_queue(world: World) -> None:
    """The network with the most tasks gives one up for another one; it gets nothing more itself."""
    world = World(maxsize=4)
    for number in range(3):
        world.put(f"a{number}", "a")
    world.put("b0", "b")
    with pytest.raises(queue.Full):
        world.put("a3", "a")
    world.put("c0", "c")
    assert world.ended == ["a2 refused"]
    world.put("b1", "b")
    assert world.ended == ["a2 refused"] + ["a1 refused"] * (len(world.ended) - 1)
    assert len(world.queue) == 4


def test_a_full_queue_of_those_who_have_left(world: World) -> None:
    """Their places are free; but the queue is searched once a second only."""
    world = World(maxsize=2)
    gone = [world.put("a0", "a"), world.put("a1", "a")]
    leave(gone[0])
    world.put("a2", "a")
    leave(gone[1])
    with pytest.raises(queue.Full):
        world.put("a3", "a")
    world.clock.now += PURGE_INTERVAL
    world.put("a3", "a")
    assert world.rest() == ["a2", "a3"]


def test_a_full_queue_of_attempts_that_are_held_back() -> None:
    """They give way, too."""
    world = World(maxsize=8)
    for number in range(6):
        world.put(f"guess{number}", account="alice")
    for number in range(6):
        world.clock.now += number
        world.fail(f"guess{number}")
    for number in range(8):
        world.put(f"held{number}", account="alice")
    world.put("b0", "b")
    assert world.ended == ["held0 refused"]
    assert world.next() == "b0"


def test_an_attempt_that_must_wait(world: World) -> None:
    """The sixth attempt at an account waits a second; others pass it."""
    for number in range(5):
        world.put(f"guess{number}", account="alice")
        world.fail(f"guess{number}")
    world.put("sixth", account="alice")
    world.put("bob", "b", account="bob")
    assert world.next() == "bob"
    world.clock.now += 0.9
    world.put("carol", "b", account="carol")
    assert world.next() == "carol"
    world.clock.now += 0.1
    assert world.next() == "sixth"


def test_one_attempt_is_let_go_at_a_time(world: World) -> None:
    """Of many that wait for the same account the newest that is no renewal goes, and the next one
    after it has failed.
    """
    for number in range(5):
        world.put(f"guess{number}", "a", account="alice")
        world.fail(f"guess{number}")
    for number in range(3):
        world.put(f"again{number}", "a", account="alice")
    world.put("owner", "home", account="alice")
    world.clock.now += 1
    world.fail("owner")
    world.clock.now += 2
    world.fail("again2")
    world.clock.now += 3
    world.put("else", "c")
    assert world.next() == "else"
    world.clock.now += 1
    world.fail("again1")


def test_an_attempt_that_waits_too_long_is_given_up(world: World) -> None:
    """After 24 seconds, also if it was tried to be run meanwhile; its network's next one counts as
    a repeat.
    """
    for number in range(12):
        world.put(f"guess{number}", "a", account="alice")
        world.clock.now += 21
        world.fail(f"guess{number}")
    for number in range(3):
        world.put(f"again{number}", "b", account="alice")
    world.clock.now += 20
    world.fail("again2")
    world.clock.now += 4
    assert world.next() == ""
    assert world.ended == ["again0 given up", "again1 given up"]
    assert not len(world.queue)
    assert world.guard.attempt("x", "b", is_known=False, exists=True).is_renewal


def test_one_who_leaves_while_held_back(world: World) -> None:
    """Its turn goes to another one."""
    for number in range(5):
        world.put(f"guess{number}", "a", account="alice")
        world.fail(f"guess{number}")
    world.put("stays", "b", account="alice")
    leave(world.put("left", "c", account="alice"))
    world.clock.now += 1
    assert world.next() == "stays"
    assert world.ended == ["left dropped"]


def test_a_stop(world: World) -> None:
    """Logins and registrations are refused, those that wait and those that come; what a user who is
    logged in has asked for is done.
    """
    world.put("login", account="alice")
    world.put("registration", place=Place.REGISTRATION)
    world.put("new password", place=Place.KNOWN, user="bob")
    for work in world.queue.refuse_logins():
        work.refuse()
    assert sorted(world.ended) == ["login refused", "registration refused"]
    with pytest.raises(queue.Full):
        world.put("late")
    world.put("another password", place=Place.KNOWN, user="carol")
    assert world.rest() == ["new password", "another password"]
    world.put("too late", place=Place.KNOWN, user="bob")
    assert [world.names[work] for work in world.queue.close()] == ["too late"]
    assert world.queue.get() == (None, [])
    assert world.queue.is_closed


def test_a_hasher_waits_for_work() -> None:
    """It sleeps until there is a task."""
    tasks = HashQueue(10, HOLD)
    got: list[Any] = []
    hasher = threading.Thread(target=lambda: got.append(tasks.get()[0]))
    hasher.start()
    nothing = lambda: None  # noqa: E731 - four times
    work = Work(Session(Client(), ""), "a", Place.LOGIN, None, nothing, nothing, nothing, nothing)
    tasks.put(work)
    hasher.join(10)
    assert got == [work]
