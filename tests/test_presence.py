"""The register of presence by itself: in whatever order ends and logins are noticed, the last word
is true.
"""

import json
import random

import pytest
from clock import Clock
from harness import NullTransport

from jelly import notifier
from jelly.dao import StoredMessage
from jelly.notifier import Notifier
from jelly.presence import Presence
from jelly.sessions import Session, Sessions
from jelly.timers import TimerHeap


class RecordingTransport(NullTransport):
    """A transport that keeps what was told, as (friend, online)."""

    def __init__(self) -> None:
        self.told: list[tuple[str, bool]] = []

    def queue_notice(self, frame: bytes) -> None:
        values = json.loads(frame[9:])
        self.told.append((values["friend"], values["online"]))


class World:
    """Sessions and their presence, without a server."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.timers = TimerHeap()
        self.sessions = Sessions()
        notifier = Notifier(self.sessions, self.timers.call_at, self.clock)
        self.presence = Presence(self.sessions, notifier, self.timers.call_at, self.clock)

    def wait(self, seconds: float) -> None:
        """Time passes, and what is due is done."""
        self.clock.now += seconds
        for function in self.timers.pop_due(self.clock.now):
            function()

    def enter(self, user: str, *friends: str, modern: bool = True) -> tuple[Session, RecordingTransport]:
        """A login, as the store thread does it."""
        transport = RecordingTransport()
        session = Session(transport, "")
        session.user, session.is_modern = user, modern
        self.sessions.attach(session)
        self.presence.user_logged_in(user, friends if modern else None)
        return session, transport

    def leave(self, session: Session) -> None:
        """The end of a connection that was noticed and told at once."""
        assert session.user is not None
        if self.sessions.detach(session):
            self.presence.refresh(session.user)


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> World:
    """Each change is told at once."""
    monkeypatch.setattr(notifier, "TELL_INTERVAL", 0.0)
    return World()


@pytest.fixture
def patient() -> World:
    """Changes within a second are told together."""
    return World()


def test_who_was_there_before_is_not_told(world: World) -> None:
    """Only changes are: for what is already, there is the list of friends."""
    world.enter("bob")
    _, alice = world.enter("alice", "bob")
    assert alice.told == []


def test_coming_and_going(world: World) -> None:
    """Each change is told to everybody who has the friend, once."""
    _, alice = world.enter("alice", "bob", "carol")
    _, dave = world.enter("dave", "bob")
    bob, _ = world.enter("bob")
    world.enter("carol")
    world.leave(bob)
    world.leave(bob)
    assert alice.told == [("bob", True), ("carol", True), ("bob", False)]
    assert dave.told == [("bob", True), ("bob", False)]


def test_an_end_that_is_noticed_after_the_next_login(world: World) -> None:
    """Nobody was away for anybody, so nothing is told."""
    _, alice = world.enter("alice", "bob")
    first, _ = world.enter("bob")
    world.sessions.detach(first)  # on the reader's thread; before the store thread looks:
    second, _ = world.enter("bob")
    world.presence.refresh("bob")
    world.leave(first)
    assert alice.told == [("bob", True)]
    world.leave(second)
    assert alice.told == [("bob", True), ("bob", False)]


def test_a_list_ends_with_its_session(world: World) -> None:
    """Who has gone is told nothing, and who came back with a classic client neither."""
    session, alice = world.enter("alice", "bob")
    world.leave(session)
    _, again = world.enter("alice", modern=False)
    world.presence.add_friend("alice", "bob")
    world.enter("bob")
    assert alice.told == again.told == []
    assert world.presence._watchers == {}


def test_removing_one_of_two(world: World) -> None:
    """The other one who has this friend is told as before."""
    _, alice = world.enter("alice", "bob")
    _, dave = world.enter("dave", "bob")
    world.presence.remove_friend("alice", "bob")
    world.presence.remove_friend("alice", "nobody")
    world.enter("bob")
    assert (alice.told, dave.told) == ([], [("bob", True)])


@pytest.mark.parametrize("seed", range(20))
def test_any_order(world: World, seed: int) -> None:
    """Logins, ends and late looks in any order: what is told alternates, and the last word is the
    truth.
    """
    rng = random.Random(seed)
    _, alice = world.enter("alice", "bob")
    sessions: list[Session] = []
    late = 0
    for _ in range(200):
        act = rng.randrange(3)
        if act == 0:
            sessions.append(world.enter("bob")[0])
        elif act == 1 and sessions:
            late += world.sessions.detach(sessions.pop(rng.randrange(len(sessions))))
        elif late:
            world.presence.refresh("bob")
            late -= 1
    world.presence.refresh("bob")
    told = [online for _, online in alice.told]
    assert told == [number % 2 == 0 for number in range(len(told))]
    assert (
        bool(told and told[-1]) == (world.sessions.get("bob") is not None) == world.presence.is_announced_online("bob")
    )


# --- changes within a second ----------------------------------------------------------------------


def message(sender: str) -> StoredMessage:
    return StoredMessage(1, False, sender, "alice", "hello", 1)


def test_who_comes_and_goes(patient: World) -> None:
    """The first change is told at once; then once a second the last state, if it is another one."""
    _, alice = patient.enter("alice", "bob")
    for _ in range(20):
        bob, _ = patient.enter("bob")
        patient.leave(bob)
    assert alice.told == [("bob", True)]
    assert patient.presence.is_announced_online("bob")
    patient.wait(0.9)
    assert alice.told == [("bob", True)]
    patient.wait(0.1)
    assert alice.told == [("bob", True), ("bob", False)]
    bob, _ = patient.enter("bob")
    patient.leave(bob)
    patient.wait(1)
    assert alice.told == [("bob", True), ("bob", False)], "it is the state that is known"
    patient.wait(1)
    patient.enter("bob")
    assert alice.told[2:] == [("bob", True)], "after a quiet second it is told at once"
    assert not patient.presence.untold


def test_without_watchers_nothing_waits(patient: World) -> None:
    """There is nobody to spare, so what was announced is what is."""
    for _ in range(5):
        bob, _ = patient.enter("bob")
        assert patient.presence.is_announced_online("bob")
        patient.leave(bob)
        assert not patient.presence.is_announced_online("bob")
    assert not patient.presence.untold
    assert not len(patient.presence._recent)


def test_a_message_of_a_friend_whose_login_waits(patient: World) -> None:
    """Its receiver is told first that the friend is online; the others later."""
    _, alice = patient.enter("alice", "bob")
    _, carol = patient.enter("carol", "bob")
    bob, _ = patient.enter("bob")
    patient.wait(1)
    patient.leave(bob)
    patient.enter("bob")
    assert alice.told == carol.told == [("bob", True), ("bob", False)]
    for _ in range(2):
        patient.presence.tell_before(message("bob"), ["alice", "dave"])
    assert alice.told[2:] == [("bob", True)]
    assert patient.presence.is_announced_online("bob", "alice")
    assert not patient.presence.is_announced_online("bob", "carol")
    patient.wait(1)
    assert alice.told[2:] == carol.told[2:] == [("bob", True)]


def test_who_was_told_early_is_told_the_end(patient: World) -> None:
    """The friend has gone again when the second is over: the others know nothing else."""
    _, alice = patient.enter("alice", "bob")
    _, carol = patient.enter("carol", "bob")
    bob, _ = patient.enter("bob")
    patient.wait(1)
    patient.leave(bob)
    bob, _ = patient.enter("bob")
    patient.presence.tell_before(message("bob"), ["alice"])
    patient.leave(bob)
    patient.presence.tell_before(message("bob"), ["carol"])
    patient.wait(1)
    assert alice.told[2:] == [("bob", True), ("bob", False)]
    assert carol.told[2:] == []


@pytest.mark.parametrize("seed", range(20))
def test_any_order_and_time(patient: World, seed: int) -> None:
    """What each watcher is told alternates, agrees with the list at any time, and ends with the
    truth.
    """
    rng = random.Random(seed)
    watchers = {user: patient.enter(user, "bob")[1] for user in ("alice", "carol")}
    sessions: list[Session] = []
    for _ in range(300):
        act = rng.randrange(5)
        if act == 0:
            sessions.append(patient.enter("bob")[0])
        elif act == 1 and sessions:
            patient.leave(sessions.pop(rng.randrange(len(sessions))))
        elif act == 2:
            patient.presence.tell_before(message("bob"), [rng.choice(list(watchers))])
        else:
            patient.wait(rng.choice((0.0, 0.1, 0.7)))
        for user, transport in watchers.items():
            known = bool(transport.told and transport.told[-1][1])
            assert known == patient.presence.is_announced_online("bob", user)
    patient.wait(2)
    for transport in watchers.values():
        told = [online for _, online in transport.told]
        assert told == [number % 2 == 0 for number in range(len(told))]
        assert bool(told and told[-1]) == (patient.sessions.get("bob") is not None)
