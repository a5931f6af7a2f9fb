"""The feature `roles`: who may do what in a group, who is told what, and groups that are passed on;
on every kind of database.
"""

import itertools
from typing import Any

import pytest
from harness import StartServer
from wire import (
    ADD_MEMBER,
    CREATE_GROUP,
    DISBAND_GROUP,
    GROUP_MESSAGE,
    HISTORY,
    OWN_GROUPS,
    REMOVE_MEMBER,
    SET_ROLE,
    SYSTEM,
    Wire,
    logged_in,
    register,
)

from jelly import group_service, lists

ROLES = ["roles"]
CLIENTS = [None, [], ["pages"], ["roles"], ["pages", "roles"]]
"""Those that differ in what they get: the first is classic."""


@pytest.fixture
def port(start_server: StartServer, database_url: str) -> int:
    """The port of a server with alice's group `team`, of which bob, carol and dave are members; and
    with eve, who is a stranger.
    """
    port = start_server(database=database_url, classic_gap=0).port
    register(port, "alice", "bob", "carol", "dave", "eve")
    with logged_in(port, "alice") as alice:
        alice.ok(CREATE_GROUP, groupName="team")
        for member in ("bob", "carol", "dave"):
            alice.ok(ADD_MEMBER, groupName="team", member=member)
    return port


def give(wire: Wire, member: str, role: str) -> None:
    wire.ok(SET_ROLE, groupName="team", member=member, role=role)


def appoint(port: int, *admins: str) -> None:
    """Have alice make some members admins."""
    with logged_in(port, "alice", features=ROLES) as alice:
        for admin in admins:
            give(alice, admin, "admin")


def pass_on(port: int, member: str) -> None:
    with logged_in(port, "alice", features=ROLES) as alice:
        give(alice, member, "owner")


def members(wire: Wire) -> list[str]:
    found: list[str] = wire.ok(OWN_GROUPS)["groups"]["team"]
    return found


def roles(wire: Wire) -> dict[str, str]:
    found: dict[str, str] = wire.ok(OWN_GROUPS)["roles"]["team"]
    return found


def change_told(wire: Wire) -> dict[str, Any]:
    """The next notice, which must be of a changed group."""
    notice = wire.receive_notice()
    assert notice.type == SYSTEM
    values: dict[str, Any] = notice.values
    assert values.pop("event") == "group_changed"
    assert values.pop("group") == "team"
    return values


# --- who may do what ------------------------------------------------------------------------------


@pytest.mark.parametrize("features", CLIENTS, ids=str)
def test_an_admin_adds_and_removes_members(port: int, features: list[str] | None) -> None:
    """With any client: the role is the user's."""
    appoint(port, "bob")
    with logged_in(port, "bob", features=features) as bob:
        bob.ok(ADD_MEMBER, groupName="team", member="eve")
        bob.ok(REMOVE_MEMBER, groupName="team", member="carol")
        assert members(bob) == ["alice", "bob", "dave", "eve"]


def test_an_admin_may_do_nothing_else(port: int) -> None:
    """Neither touch the owner nor another admin, nor give roles, nor disband the group."""
    appoint(port, "bob", "carol")
    with logged_in(port, "bob", features=ROLES) as bob:
        for member in ("alice", "carol"):
            assert bob.refused(REMOVE_MEMBER, groupName="team", member=member) == "not_group_creator"
        for member, role in itertools.product(("alice", "bob", "carol", "dave"), ("owner", "admin", "member")):
            if (member, role) != ("bob", "member"):
                assert bob.refused(SET_ROLE, groupName="team", member=member, role=role) == "not_group_creator"
        assert bob.refused(DISBAND_GROUP, groupName="team") == "not_group_creator"
        assert roles(bob) == {"alice": "owner", "bob": "admin", "carol": "admin"}


@pytest.mark.parametrize("user", ["dave", "eve"])
def test_a_member_or_a_stranger_may_do_nothing(port: int, user: str) -> None:
    """And learns nothing: neither who is in the group nor who has which role in it."""
    appoint(port, "bob")
    with logged_in(port, user, features=ROLES) as wire:
        for member, role in itertools.product(("alice", "bob", "carol", "eve", "nobody"), ("owner", "admin")):
            assert wire.refused(SET_ROLE, groupName="team", member=member, role=role) == "not_group_creator"
        for member in ("alice", "bob", "nobody"):
            assert wire.refused(SET_ROLE, groupName="team", member=member, role="member") == "not_group_creator"
            assert wire.refused(ADD_MEMBER, groupName="team", member=member) == "not_group_creator"
            assert wire.refused(REMOVE_MEMBER, groupName="team", member=member) == "not_group_creator"
        assert wire.refused(DISBAND_GROUP, groupName="team") == "not_group_creator"
        assert wire.ok(OWN_GROUPS).get("roles") == (
            {"team": {"alice": "owner", "bob": "admin"}} if user == "dave" else {}
        )


def test_an_admin_steps_down_or_leaves(port: int) -> None:
    """And is then a plain member, also after coming back."""
    appoint(port, "bob", "carol")
    with logged_in(port, "bob", features=ROLES) as bob, logged_in(port, "carol", features=ROLES) as carol:
        give(bob, "bob", "member")
        give(bob, "bob", "member")  # a repeat is no error
        assert bob.refused(ADD_MEMBER, groupName="team", member="eve") == "not_group_creator"
        carol.ok(REMOVE_MEMBER, groupName="team", member="carol")
        assert roles(bob) == {"alice": "owner"}
        with logged_in(port, "alice", features=ROLES) as alice:
            alice.ok(ADD_MEMBER, groupName="team", member="carol")
            assert roles(alice) == {"alice": "owner"}
        assert carol.refused(ADD_MEMBER, groupName="team", member="eve") == "not_group_creator"


def test_the_owner_takes_a_role_back_and_removes_an_admin(port: int) -> None:
    """Whoever owns the group may do everything in it, but not leave it."""
    appoint(port, "bob", "carol")
    with logged_in(port, "alice", features=ROLES) as alice:
        give(alice, "bob", "member")
        alice.ok(REMOVE_MEMBER, groupName="team", member="carol")
        assert roles(alice) == {"alice": "owner"}
        for role in ("admin", "member"):
            assert alice.refused(SET_ROLE, groupName="team", member="alice", role=role) == "creator_cannot_leave"
        give(alice, "alice", "owner")
        assert alice.refused(REMOVE_MEMBER, groupName="team", member="alice") == "creator_cannot_leave"


def test_a_creator_leaves(port: int) -> None:
    """After the group was passed on. The new owner stands first, and may do everything; the old one
    is an admin until leaving.
    """
    with logged_in(port, "alice", features=ROLES) as alice, logged_in(port, "carol", features=ROLES) as carol:
        give(alice, "carol", "owner")
        assert members(alice) == ["carol", "bob", "alice", "dave"]
        assert roles(alice) == {"carol": "owner", "alice": "admin"}
        assert alice.refused(SET_ROLE, groupName="team", member="alice", role="owner") == "not_group_creator"
        alice.ok(REMOVE_MEMBER, groupName="team", member="dave")
        alice.ok(REMOVE_MEMBER, groupName="team", member="alice")
        assert alice.ok(OWN_GROUPS)["groups"] == {}
        assert carol.refused(REMOVE_MEMBER, groupName="team", member="carol") == "creator_cannot_leave"
        carol.ok(ADD_MEMBER, groupName="team", member="eve")
        assert members(carol) == ["carol", "bob", "eve"]
        give(carol, "eve", "owner")
        assert members(carol) == ["eve", "bob", "carol"]
        assert carol.refused(DISBAND_GROUP, groupName="team") == "not_group_creator"
        with logged_in(port, "eve") as eve:
            eve.ok(DISBAND_GROUP, groupName="team")
        assert carol.ok(OWN_GROUPS)["groups"] == {}


def test_a_group_that_was_passed_on_is_another_users(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """It counts for the new owner, not for the old one; and only to half of what one may own, as
    nobody is asked.
    """
    monkeypatch.setattr(group_service, "MAX_OWN_GROUPS", 2)
    monkeypatch.setattr(group_service, "MAX_GIVEN_GROUPS", 1)
    pass_on(port, "bob")
    with logged_in(port, "alice", features=ROLES) as alice, logged_in(port, "bob", features=ROLES) as bob:
        for group in ("one", "two"):
            alice.ok(CREATE_GROUP, groupName=group)
            alice.ok(ADD_MEMBER, groupName=group, member="bob")
            assert alice.refused(SET_ROLE, groupName=group, member="bob", role="owner") == "limit_reached"
        bob.ok(CREATE_GROUP, groupName="three")
        assert bob.refused(CREATE_GROUP, groupName="four") == "limit_reached"


def test_messages_and_history_stay(port: int) -> None:
    """A role changes nothing else: who was a member goes on writing, and reads what they could
    read.
    """
    with logged_in(port, "alice", features=["ack", "roles"]) as alice, logged_in(port, "bob") as bob:
        bob.message("team", "before", type=GROUP_MESSAGE)
        give(alice, "bob", "owner")
        give_back = alice.refused(SET_ROLE, groupName="team", member="alice", role="owner")
        assert give_back == "not_group_creator"
        bob.message("team", "after", type=GROUP_MESSAGE)
        for _ in range(2):
            while (notice := alice.receive_notice()).type == SYSTEM:
                pass
            alice.ack(notice.values["id"])
        found = alice.ok(HISTORY, groupName="team")["messages"]
        assert [message["content"] for message in found] == ["before", "after"]


# --- requests that are wrong ----------------------------------------------------------------------


def test_wrong_requests(port: int) -> None:
    """Each has its code, and changes nothing."""
    with logged_in(port, "alice", features=ROLES) as alice:
        for role in ("", "king", "Owner", "admin "):
            assert alice.refused(SET_ROLE, groupName="team", member="bob", role=role) == "malformed_body"
        assert alice.refused(SET_ROLE, groupName="team", member="bob") == "malformed_body"
        assert alice.refused(SET_ROLE, groupName="team", member="bob", role=1) == "malformed_body"
        for role in ("owner", "admin", "member"):
            assert alice.refused(SET_ROLE, groupName="team", member="eve", role=role) == "not_a_member"
            assert alice.refused(SET_ROLE, groupName="none", member="bob", role=role) == "no_such_group"
            assert alice.refused(SET_ROLE, groupName="a b", member="bob", role=role) == "no_such_group"
        assert alice.refused(SET_ROLE, username="bob", groupName="team", member="bob", role="admin") == "not_yourself"
        assert roles(alice) == {"alice": "owner"}


def test_changes_of_roles_count_as_changes(start_server: StartServer) -> None:
    """Many others are told of them, so `--change-rate` limits them, too."""
    server = start_server(change_rate=1, classic_gap=0)
    register(server.port, "alice")
    with logged_in(server.port, "alice", features=ROLES) as alice:
        alice.ok(CREATE_GROUP, groupName="team")
        answers = {alice.call(SET_ROLE, groupName="team", member="alice", role="owner").error for _ in range(1100)}
        assert answers == {"", "rate_limited"}


# --- granted or not -------------------------------------------------------------------------------


@pytest.mark.parametrize("features", [each for each in CLIENTS if "roles" not in (each or ())], ids=str)
def test_without_the_feature_there_are_no_roles(port: int, features: list[str] | None) -> None:
    """The request does not exist, the list has no key of it, and no notice tells of a role; but the
    owner stands first, as the creator did.
    """
    with (
        logged_in(port, "alice", features=ROLES) as alice,
        logged_in(port, "bob", features=features) as bob,
    ):
        assert bob.refused(SET_ROLE, groupName="team", member="bob", role="member") == "unknown_type"
        give(alice, "bob", "admin")
        give(alice, "carol", "admin")
        assert list(bob.ok(OWN_GROUPS)) == ["username", "groups", *(["more"] if features else [])]
        assert not bob.notices
        give(alice, "bob", "owner")
        assert members(bob) == ["bob", "alice", "carol", "dave"]
        if features is None:
            assert not bob.notices
        else:
            assert change_told(bob) == {"members": ["bob", "alice", "carol", "dave"], "changes": []}
        bob.ok(REMOVE_MEMBER, groupName="team", member="alice")
        if features is None:
            assert not bob.notices
        else:
            changes = [{"user": "bob", "removed": "alice"}]
            assert change_told(bob) == {"members": ["bob", "carol", "dave"], "changes": changes}


def test_events_say_who_did_what_to_whom(port: int) -> None:
    """To all members, those who are removed and those who did it included."""
    with (
        logged_in(port, "alice", features=ROLES) as alice,
        logged_in(port, "bob", features=ROLES) as bob,
        logged_in(port, "dave", features=ROLES) as dave,
    ):
        steps: list[tuple[Wire, int, dict[str, str], list[str], dict[str, str], dict[str, str]]] = [
            (
                alice, SET_ROLE, {"member": "bob", "role": "admin"}, ["alice", "bob", "carol", "dave"],
                {"member": "bob", "role": "admin"}, {"alice": "owner", "bob": "admin"},
            ),
            (
                bob, ADD_MEMBER, {"member": "eve"}, ["alice", "bob", "carol", "dave", "eve"],
                {"added": "eve"}, {"alice": "owner", "bob": "admin"},
            ),
            (
                alice, SET_ROLE, {"member": "bob", "role": "owner"}, ["bob", "alice", "carol", "dave", "eve"],
                {"member": "bob", "role": "owner"}, {"bob": "owner", "alice": "admin"},
            ),
            (
                alice, REMOVE_MEMBER, {"member": "dave"}, ["bob", "alice", "carol", "eve"],
                {"removed": "dave"}, {"bob": "owner", "alice": "admin"},
            ),
            (
                alice, SET_ROLE, {"member": "alice", "role": "member"}, ["bob", "alice", "carol", "eve"],
                {"member": "alice", "role": "member"}, {"bob": "owner"},
            ),
        ]  # fmt: skip
        for who, type, values, now, change, now_roles in steps:
            who.ok(type, groupName="team", **values)
            told = {"members": now, "changes": [{"user": who.user, **change}], "roles": now_roles}
            listeners = [alice, bob] + ([dave] if "dave" in now or change == {"removed": "dave"} else [])
            for wire in listeners:
                assert change_told(wire) == told
        give(bob, "bob", "owner")  # the role that he has: nobody is told
        for wire in (alice, bob, dave):
            wire.ok(OWN_GROUPS)
            assert not wire.notices


# --- lists ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("rows", [1, 2, 3, 7, 1000])
def test_roles_in_pages(port: int, rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each page has the roles of the members that it has; together they are those of one frame."""
    appoint(port, "bob", "dave")
    with logged_in(port, "bob") as bob:
        for group in ("own", "zoo"):
            bob.ok(CREATE_GROUP, groupName=group)
    monkeypatch.setattr(lists, "PIECE_ROWS", rows)
    expected = {"own": {"bob": "owner"}, "team": {"alice": "owner", "bob": "admin", "dave": "admin"}}
    with logged_in(port, "bob", features=ROLES) as bob:
        body = bob.call(OWN_GROUPS).body
        assert body == (
            b'{"username":"bob","groups":{"own":["bob"],"team":["alice","bob","carol","dave"],"zoo":["bob"]},'
            b'"roles":{"own":{"bob":"owner"},"team":{"alice":"owner","bob":"admin","dave":"admin"},'
            b'"zoo":{"bob":"owner"}}}'
        )
    with logged_in(port, "bob", features=["pages", "roles"]) as bob:
        found: dict[str, dict[str, str]] = {}
        after: dict[str, str] = {}
        while True:
            page = bob.ok(OWN_GROUPS, **after)
            assert list(page)[:4] == ["username", "groups", "roles", "more"]
            for group, its_roles in page["roles"].items():
                assert set(its_roles) <= set(page["groups"][group])
                found.setdefault(group, {}).update(its_roles)
            if not page["more"]:
                break
            after = {"after": page["after"]}
        assert found == {**expected, "zoo": {"bob": "owner"}}


def test_a_list_that_is_cut(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """In one frame a group comes with its members and its roles, or not at all."""
    with logged_in(port, "bob", features=ROLES) as bob:
        for group in ("one", "two"):
            bob.ok(CREATE_GROUP, groupName=group)
        whole = bob.call(OWN_GROUPS).body
        for size in range(70, len(whole) + 20):
            monkeypatch.setattr(lists, "MAX_LIST", size)
            reply = bob.call(OWN_GROUPS)
            assert len(reply.body) + 9 <= max(size, 70)
            assert list(reply.values["groups"]) == list(reply.values["roles"])
        assert reply.body == whole
