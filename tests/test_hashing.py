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


class WouldWait(Exception):
    """A hasher would sleep: a test would do so for ever."""


def would_wait(_seconds: float | None = None) -> bool:
    raise WouldWait


class World:
    """A queue, and what happens to the tasks in it."""

    def __init__(self, maxsize: int = 1000) -> None:
        self.names: dict[Work, str] = {}
        self.clock = Clock()
        self.guard = LoginGuard(self.clock)
        self.queue = HashQueue(maxsize, HOLD, self.clock)
        self.queue._condition.wait = would_wait  # type: ignore[method-assign, assignment]
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
        if work is None:
            return ""
        self.queue.finished(work)
        return self.names[work]

    def begin(self, name: str) -> Work:
        """Begin the task that must be next."""
        work, _ = self.queue.get()
        assert work is not None
        assert self.names[work] == name
        return work

    def nothing_begins(self) -> bool:
        """Whether no task may be run beside those that run."""
        try:
            work, _ = self.queue.get()
        except WouldWait:
            return True
        self.queue.finished(work)  # type: ignore[arg-type]
        return False

    def fail(self, name: str) -> None:
        """Run the task that must be next, which fails."""
        work = self.begin(name)
        assert work.attempt is not None
        work.attempt.fail()
        work.attempt.end()
        self.queue.finished(work)

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
    assert order[:8].count("k") >= 5
    assert order[:8].count("r") == order[8:16].count("r") == 1
    assert order[:8].count("l") == 2
    assert order[-7:] == "r" * 7


def test_first_attempts_go_before_repeats(world: World) -> None:
    """Those who guess again and again wait for a person behind the same address, not the other way
    round; and repeats have some turns, too.
    """
    for number in range(8):
        world.put(f"guess{number}", account=f"x{number}")
    for number in (0, 1, 7, 2, 6, 3, 5, 4):
        world.fail(f"guess{number}")
    for number in range(8):
        world.put(f"again{number}", account=f"y{number}")
    for number in range(6):
        world.put(f"first{number}", account=f"z{number}")
    order = world.rest()
    assert order.index("again0") < 5
    assert {name for name in order[:8] if "first" in name} == {f"first{number}" for number in range(6)}


def test_one_who_comes_while_many_guess(world: World) -> None:
    """The many attempts with which guessing begins are all first ones. Somebody else who comes then
    does not wait for them, and the oldest of them does not wait for ever.
    """
    for number in range(200):
        world.put(f"guess{number}", account=f"x{number}")
    world.fail("guess0")
    world.put("guess0 again", account="x200")
    world.put("owner", account="alice")
    assert set(world.rest()[:2]) == {"owner", "guess1"}


def test_whose_turn_has_come_begins_next(world: World) -> None:
    """The guard has made the owner of an account wait that somebody guesses at from the same
    address: then no attempt that waits for a hasher comes first and makes the owner wait again.
    """
    for number in range(9):
        world.put(f"guess{number}", account="alice", is_known=True, place=Place.KNOWN)
    for number in (0, 1, 8, 2, 7):  # what is free
        world.fail(f"guess{number}")
    for number in (0, 1, 8, 2, 7):
        world.put(f"guess{number} again", account="alice", is_known=True, place=Place.KNOWN)
    world.put("owner", account="alice", is_known=True, place=Place.KNOWN)
    for number in range(20):
        world.put(f"other{number}", account=f"x{number}", is_known=True, place=Place.KNOWN)
    world.clock.now += LoginGuard.LONGEST_WAIT_OF_KNOWN
    assert world.next() == "owner"


def test_one_who_leaves_and_comes_again(world: World) -> None:
    """It does not go before the owner of the account, although nobody has noticed yet that its
    first connection is gone.
    """

    def attempt(name: str) -> Work:
        return world.put(name, account="alice", is_known=True, place=Place.KNOWN)

    for number in range(LoginGuard.FREE_FAILURES):
        attempt(f"wrong{number}")
        world.fail(f"wrong{number}")
    attempt("fifth again")
    guesses = [attempt(f"guess{number}") for number in range(4)]
    attempt("owner")
    for number, work in enumerate(guesses):
        leave(work)
        attempt(f"guess{number} again")
    assert world.ended == [f"guess{number} dropped" for number in range(4)]
    world.clock.now += LoginGuard.LONGEST_WAIT_OF_KNOWN
    assert world.next() == "owner"


def test_those_who_leave_and_come_again_at_once(world: World) -> None:
    """They leave debts behind, so the owner of the account counts as one of them; but every other
    time the one goes first that has waited for longest.
    """

    def attempt(name: str) -> Work:
        return world.put(name, account="alice", is_known=True, place=Place.KNOWN)

    for number in range(LoginGuard.FREE_FAILURES):
        attempt(f"wrong{number}")
        world.fail(f"wrong{number}")
    for number in range(20):
        leave(attempt(f"leaver{number}"))
    owner = attempt("owner")
    assert owner.is_repeat
    late = [attempt(f"late{number}") for number in range(5)]
    tried = []
    for number in range(2):
        world.clock.now += LoginGuard.LONGEST_WAIT_OF_KNOWN
        work, _ = world.queue.get()
        assert work is not None
        tried.append(world.names[work])
        assert work.attempt is not None
        work.attempt.fail()
        work.attempt.end()
        world.queue.finished(work)
        leave(late[number])
        attempt(f"later{number}")
    assert "owner" in tried


def test_an_account_that_has_logged_in_from_there(world: World) -> None:
    """It does not pay for what others behind its address have tried."""
    world.put("guess", account="bob", is_known=True, place=Place.KNOWN)
    world.fail("guess")
    world.put("again", account="bob", is_known=True, place=Place.KNOWN)
    world.put("alice", account="alice", is_known=True, place=Place.KNOWN)
    assert world.rest() == ["alice", "again"]


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
    for seconds, number in enumerate((0, 1, 5, 2, 4, 3)):
        world.clock.now += seconds
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
    """Of many that wait for the same account the newest that is no renewal goes, and after it has
    failed the oldest, and so on in turn.
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
    world.fail("again0")
    world.clock.now += 3
    world.put("else", "c")
    assert world.next() == "else"
    world.clock.now += 1
    world.fail("again2")


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
    world.fail("again0")
    world.clock.now += 4
    assert world.next() == ""
    assert world.ended == ["again1 given up", "again2 given up"]
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


def test_a_core_stays_free(world: World) -> None:
    """What is not likely to be right runs beside nothing of its kind, on however many threads."""
    world.put("registration", place=Place.REGISTRATION)
    registration = world.begin("registration")
    world.put("a new password", place=Place.KNOWN, user="carol")
    world.put("another registration", place=Place.REGISTRATION)
    assert world.nothing_begins()
    world.queue.finished(registration)
    new_password = world.begin("a new password")
    assert world.nothing_begins()
    world.queue.finished(new_password)
    assert world.rest() == ["another registration"]


def test_no_place_waits_for_ever(world: World) -> None:
    """Turns are counted when a task is taken: not when a second hasher finds none to run beside the
    first.
    """
    for start in range(3):
        for number in range(100):
            world.put(f"guess{start}.{number}")
        world.put(f"registration{start}", "b", Place.REGISTRATION)
        for _ in range(start):
            world.next()
        order = []
        while len(world.queue):
            work, _ = world.queue.get()
            assert work is not None
            order.append(world.names[work])
            assert world.nothing_begins()
            world.queue.finished(work)
        assert order.index(f"registration{start}") <= 8


def test_likely_logins_run_beside_each_other(world: World) -> None:
    """A class that comes in has all hashers: not while the last password from there was wrong, if
    that was within the last minute.
    """
    for number in range(3):
        world.put(f"pupil {number}", account=f"pupil {number}")
    running = [world.begin(f"pupil {number}") for number in range(3)]
    attempts = [work.attempt for work in running]
    assert all(attempts)
    attempts[0].fail()  # type: ignore[union-attr]
    for work in running:
        world.queue.finished(work)
    world.put("the next attempt", account="pupil 0")
    repeat = world.begin("the next attempt")
    world.put("a known pupil", place=Place.KNOWN, account="pupil 3", is_known=True)
    assert world.nothing_begins()
    world.put("somebody elsewhere", "b", account="dora")
    world.begin("somebody elsewhere")
    assert world.nothing_begins()
    attempts[1].succeed()  # type: ignore[union-attr]
    world.begin("a known pupil")
    attempts[2].fail()  # type: ignore[union-attr]
    world.put("pupil 2 again", account="pupil 2")
    world.put("another pupil", account="pupil 4")
    assert world.nothing_begins()
    world.clock.now += LoginGuard.DEBT_SECONDS
    world.begin("another pupil")
    world.queue.finished(repeat)


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
