"""Changes of groups: the first is told at once, those that follow within a second together."""

import json
from typing import Any

import pytest
from clock import Clock
from harness import NullTransport

from jelly.dao import StoredMessage
from jelly.group_notices import MAX_CHANGES, Change, GroupNotices, RoleChange
from jelly.notifier import Notifier
from jelly.roles import GroupRoles, Role
from jelly.sessions import Session, Sessions
from jelly.timers import TimerHeap


class RecordingTransport(NullTransport):
    """A transport that keeps what was told."""

    def __init__(self) -> None:
        self.told: list[dict[str, Any]] = []

    def queue_notice(self, frame: bytes) -> None:
        self.told.append(json.loads(frame[9:]))


class World:
    """A group of alice, bob and carol, who are online, as is dave."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.timers = TimerHeap()
        self.sessions = Sessions()
        notifier = Notifier(self.sessions, self.timers.call_at, self.clock)
        self.notices = GroupNotices(notifier, self.timers.call_at, self.clock)
        self.members = ["alice", "bob", "carol"]
        self.admins: list[str] = []
        self.told = {user: self.enter(user) for user in ("alice", "bob", "carol", "dave")}

    def enter(self, user: str, *features: str) -> list[dict[str, Any]]:
        transport = RecordingTransport()
        session = Session(transport, "")
        session.user, session.is_modern, session.features = user, True, features
        self.sessions.attach(session)
        return transport.told

    def change(self, member: str, user: str = "alice") -> None:
        """A member is removed, or somebody else is added."""
        is_added = member not in self.members
        (self.members.append if is_added else self.members.remove)(member)
        self.notices.changed("team", GroupRoles(tuple(self.members), self.admins), Change(user, member, is_added))

    def give(self, member: str, role: Role, user: str = "alice") -> None:
        """A member gets a role. (The first member is the owner.)"""
        if role is Role.OWNER:
            self.members.remove(member)
            self.members.insert(0, member)
        self.admins = {Role.OWNER: ["alice"], Role.ADMIN: [member], Role.MEMBER: []}[role]
        self.notices.changed("team", GroupRoles(tuple(self.members), self.admins), RoleChange(user, member, role))

    def wait(self, seconds: float) -> None:
        self.clock.now += seconds
        for function in self.timers.pop_due(self.clock.now):
            function()

    def message(self, receiver: str, is_group: bool = True) -> None:
        self.notices.tell_before(StoredMessage(1, is_group, "alice", receiver, "hello", 1), self.members)


@pytest.fixture
def world() -> World:
    return World()


def test_changes_are_told_together(world: World) -> None:
    """The first at once; the others at the end of the second, with who changed what. Who is removed
    meanwhile is told nothing of what came later.
    """
    world.change("bob", "bob")
    first = {
        "event": "group_changed",
        "group": "team",
        "members": ["alice", "carol"],
        "changes": [{"user": "bob", "removed": "bob"}],
    }
    assert world.told == {"alice": [first], "bob": [first], "carol": [first], "dave": []}
    world.change("dave")
    world.change("carol")
    world.change("bob")
    world.wait(0.9)
    assert world.told["alice"] == [first]
    world.wait(0.1)
    second = {
        "event": "group_changed",
        "group": "team",
        "members": ["alice", "dave", "bob"],
        "changes": [
            {"user": "alice", "added": "dave"},
            {"user": "alice", "removed": "carol"},
            {"user": "alice", "added": "bob"},
        ],
    }
    last = {**second, "members": ["alice", "dave"], "changes": second["changes"][:2]}
    assert world.told == {"alice": [first, second], "bob": [first, second], "carol": [first, last], "dave": [second]}
    assert not world.notices.untold
    world.wait(1)
    world.change("bob")
    assert len(world.told["bob"]) == 3


def test_a_storm(world: World) -> None:
    """A member who is added and removed without pause: a notice a second, and 100 changes in it."""
    for _ in range(10):
        for _ in range(2 * MAX_CHANGES + 2):
            world.change("dave")
        world.wait(1)
    told = world.told["alice"]
    assert len(told) == 11
    assert [len(notice["changes"]) for notice in told] == [1] + 10 * [MAX_CHANGES]
    assert ["more" in notice for notice in told] == [False] + 10 * [True]
    assert told[-1]["more"] is True
    assert {tuple(notice["members"]) for notice in told[1:]} == {("alice", "bob", "carol")}
    assert told[1]["changes"][0] == {"user": "alice", "removed": "dave"}


def test_a_message_to_the_group(world: World) -> None:
    """It does not come before the changes before it; other messages change nothing."""
    world.change("bob")
    world.change("dave")
    world.message("other")
    world.message("team", is_group=False)
    assert world.told["dave"] == []
    world.message("team")
    assert world.told["dave"][0]["members"] == ["alice", "carol", "dave"]
    world.change("carol")
    world.wait(0.5)
    assert len(world.told["dave"]) == 1
    world.wait(0.5)
    assert len(world.told["dave"]) == 2


def test_a_group_that_ends(world: World) -> None:
    """Its members are told, and those whose removal waits; and then nothing more of it."""
    world.change("dave")
    world.change("bob")
    world.notices.disbanded("team", world.members)
    end = {"event": "group_disbanded", "group": "team"}
    assert [told[-1] for told in world.told.values()] == [end] * 4
    world.wait(1)
    assert [told[-1] for told in world.told.values()] == [end] * 4
    assert not world.notices.untold


def test_a_new_group_of_the_same_name(world: World) -> None:
    """The time of the old one's changes tells nothing."""
    world.change("bob")
    world.change("bob")
    world.notices.disbanded("team", world.members)
    world.members = ["alice"]
    world.change("dave")
    world.change("bob")
    world.wait(1)
    assert world.told["dave"][-1]["members"] == ["alice", "dave", "bob"]
    assert len(world.told["dave"]) == 1


def test_roles_are_told_to_those_who_know_them(world: World) -> None:
    """In the order of all changes. Others hear of members only, and of their new order if the group
    was passed on.
    """
    world.told["bob"] = world.enter("bob", "roles")
    world.give("bob", Role.ADMIN)
    first = {
        "event": "group_changed",
        "group": "team",
        "members": ["alice", "bob", "carol"],
        "changes": [{"user": "alice", "member": "bob", "role": "admin"}],
        "roles": {"alice": "owner", "bob": "admin"},
    }
    assert world.told == {"alice": [], "bob": [first], "carol": [], "dave": []}
    world.change("dave", "bob")
    world.give("carol", Role.OWNER)
    world.wait(1)
    plain = {
        "event": "group_changed",
        "group": "team",
        "members": ["carol", "alice", "bob", "dave"],
        "changes": [{"user": "bob", "added": "dave"}],
    }
    assert world.told["alice"] == world.told["carol"] == world.told["dave"] == [plain]
    changes = [{"user": "bob", "added": "dave"}, {"user": "alice", "member": "carol", "role": "owner"}]
    second = {**plain, "changes": changes, "roles": {"carol": "owner", "alice": "admin"}}
    assert world.told["bob"] == [first, second]
    assert list(second) == list(world.told["bob"][1])


def test_a_group_that_is_only_passed_on(world: World) -> None:
    """Who knows no roles hears the members in their new order, and of no change."""
    world.give("bob", Role.OWNER)
    told = {"event": "group_changed", "group": "team", "members": ["bob", "alice", "carol"], "changes": []}
    assert world.told["alice"] == [told]


def test_a_storm_of_roles(world: World) -> None:
    """It takes no place from the changes of members, for those who know no roles."""
    world.told["bob"] = world.enter("bob", "roles")
    world.change("dave")
    for _ in range(MAX_CHANGES + 1):
        world.give("carol", Role.ADMIN)
    world.change("carol")
    world.wait(1)
    assert world.told["alice"][-1]["changes"] == [{"user": "alice", "removed": "carol"}]
    assert "more" not in world.told["alice"][-1]
    assert world.told["bob"][-1]["more"] is True
    assert len(world.told["bob"][-1]["changes"]) == MAX_CHANGES
