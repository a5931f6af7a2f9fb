"""The register of presence by itself: in whatever order ends and logins are noticed, the last word
is true.
"""

import json
import random

import pytest
from harness import NullTransport

from jelly.presence import Presence
from jelly.sessions import Session, Sessions


class RecordingTransport(NullTransport):
    """A transport that keeps what was told, as (friend, online)."""

    def __init__(self) -> None:
        self.told: list[tuple[str, bool]] = []

    def send(self, responses: object = (), notices: object = ()) -> None:
        assert isinstance(notices, list)
        for id, frame in notices:
            assert id == 0
            values = json.loads(frame[9:])
            self.told.append((values["friend"], values["online"]))


class World:
    """Sessions and their presence, without a server."""

    def __init__(self) -> None:
        self.sessions = Sessions()
        self.presence = Presence(self.sessions)

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
def world() -> World:
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
